/* B-splines on a uniform grid, and where inputs lie on it.

   The specification is kan/bases/bspline.py: B_k(x) = sum_j FACTOR[j] * max(REACH[j] - r, 0)^ORDER,
   r the distance of x from the centre of the spline in intervals. native.py defines:

   ORDER    degree of the polynomial pieces, 1 to 5
   TERMS    number of terms of the sum; REACH and FACTOR are arrays of its constants
   LINEAR   1 if splines continue linearly outside the grid, 0 if they decay to zero
*/
static const float reach[TERMS] = REACH, factor[TERMS] = FACTOR;

static inline float power(float x, int exponent) {
    float result = 1;
    for (int i = 0; i < exponent; i++) result *= x;
    return result;
}

/* A spline at the signed distance d from its centre; zero as of ``hidden_zero``. */
static inline float spline(float d, float zero) {
    float r = __builtin_fabsf(d), total = 0;
    for (int j = 0; j < TERMS; j++) total += factor[j] * power(at_least(zero, reach[j] - r), ORDER);
    return total;
}

/* Its derivative there, per interval; for order 1, from the right at a knot. */
static inline float spline_slope(float d, float zero) {
    if (ORDER == 1) return (d >= -1 && d < 1 ? (d < 0 ? 1 : -1) : 0) + 0 * d;
    float r = __builtin_fabsf(d), total = 0;
    for (int j = 0; j < TERMS; j++)
        total += factor[j] * power(at_least(zero, reach[j] - r), ORDER - 1);
    return (d < 0 ? ORDER : -ORDER) * total;
}

/* Inputs in intervals from the first knot: the points to take values and, where splines are LINEAR
   outside, slopes at, and the distance of the input beyond the grid. */
struct where { float value[BLOCK], slope[BLOCK], beyond[BLOCK]; };
#define slope_at(where) (LINEAR ? (where).slope : (where).value)

static inline void locate(struct where *at, const INPUT *x, int count, int intervals,
                          float start, float per_unit) {
    for (int i = 0; i < count; i++) {
        float position = (load(x + i) - start) * per_unit;
        if (LINEAR) {
            float last = ORDER + intervals;
            at->value[i] = clamp(position, ORDER, last);
            at->slope[i] = clamp(position, ORDER, ORDER == 1 ? last - 0.5f : last);
            at->beyond[i] = position - at->value[i];
        } else {
            at->value[i] = clamp(position, -1, intervals + 2 * ORDER + 1);
        }
    }
}

/* The centre of spline k, in intervals from the first knot. */
#define centre_of(k) ((k) + (ORDER + 1) / 2.0f)

/* The slope of a spline at input i, per interval, and its value, which takes the slope. */
static inline float slope_of(const struct where *at, int i, float centre, float zero) {
    return spline_slope(slope_at(*at)[i] - centre, zero);
}
static inline float value_of(const struct where *at, int i, float centre, float zero, float slope) {
    float b = spline(at->value[i] - centre, zero);
    return LINEAR ? b + slope * at->beyond[i] : b;
}
