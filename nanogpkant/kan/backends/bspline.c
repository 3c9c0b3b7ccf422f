/* Base function and B-splines of a chunk of rows, and their gradient, in vectorised loops.

   The specification is kan/features.py and kan/bases/bspline.py: the base function, then splines
   B_k(x) = sum_j FACTOR[j] * max(REACH[j] - r, 0)^ORDER, r the distance of x from the centre of the
   spline in intervals. native.py defines, beside the macros of numbers.h:

   ORDER    degree of the polynomial pieces, 1 to 5
   TERMS    number of terms of the sum; REACH and FACTOR are arrays of its constants
   LINEAR   1 if splines continue linearly outside the grid, 0 if they decay to zero

   grid[0] is the first knot, grid[1] the number of intervals per unit of x.
*/
#include "numbers.h"

static const float reach[TERMS] = REACH, factor[TERMS] = FACTOR;

static inline float power(float x, int exponent) {
    float result = 1;
    for (int i = 0; i < exponent; i++) result *= x;
    return result;
}

/* A spline at the signed distance d from its centre; zero as of ``hidden_zero``. */
static inline float value(float d, float zero) {
    float r = __builtin_fabsf(d), total = 0;
    for (int j = 0; j < TERMS; j++) total += factor[j] * power(at_least(zero, reach[j] - r), ORDER);
    return total;
}

/* Its derivative there, per interval; for order 1, from the right at a knot. */
static inline float slope(float d, float zero) {
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

#define FIRST (BASE != NONE) /* index of the first spline among the features */

static inline void expand_base(const INPUT *x, FEATURE *to, float *buffer, int count) {
    float *values = in_place(to, buffer);
    for (int i = 0; i < count; i++) values[i] = base(load(x + i));
    store(to, values, count);
}

/* x (rows, n) -> features (rows, FIRST + intervals + ORDER, n). */
void expand(const INPUT *x, const float *grid, FEATURE *features, long rows, long n,
            long intervals) {
    float start = grid[0], per_unit = grid[1];
    float zero = hidden_zero();
    int splines = intervals + ORDER;
    #pragma omp parallel for if (rows * n >= WORTH_A_THREAD)
    for (long row = 0; row < rows; row++) {
        struct where at;
        float buffer[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const INPUT *from = x + row * n + first;
            FEATURE *to = features + row * (FIRST + splines) * n + first;
            if (BASE != NONE) {
                expand_base(from, to, buffer, count);
                to += n;
            }
            locate(&at, from, count, intervals, start, per_unit);
            for (int k = 0; k < splines; k++, to += n) {
                float centre = k + (ORDER + 1) / 2.0f, *values = in_place(to, buffer);
                for (int i = 0; i < count; i++) {
                    float b = value(at.value[i] - centre, zero);
                    if (LINEAR) b += slope(slope_at(at)[i] - centre, zero) * at.beyond[i];
                    values[i] = b;
                }
                store(to, values, count);
            }
        }
    }
}

/* ``pull_back`` of a row; ``expands`` is a constant where it is inlined. */
INLINE void pull_back_row(const INPUT *x, const float *grid, FEATURE *grad, INPUT *grad_x, long n,
                          long intervals, const int expands) {
    float start = grid[0], per_unit = grid[1], zero = hidden_zero(), total[BLOCK], buffer[BLOCK];
    int splines = intervals + ORDER;
    struct where at;
    for (long first = 0; first < n; first += BLOCK) {
        int count = n - first < BLOCK ? n - first : BLOCK;
        const INPUT *inputs = x + first;
        FEATURE *base_grad = grad + first, *from = base_grad + FIRST * n;
        locate(&at, inputs, count, intervals, start, per_unit);
        for (int i = 0; i < count; i++) total[i] = 0;
        for (int k = 0; k < splines; k++, from += n) {
            float centre = k + (ORDER + 1) / 2.0f, *values = in_place(from, buffer);
            for (int i = 0; i < count; i++) {
                float rise = slope(slope_at(at)[i] - centre, zero);
                total[i] += rise * load(from + i);
                if (!expands) continue;
                float b = value(at.value[i] - centre, zero);
                values[i] = LINEAR ? b + rise * at.beyond[i] : b;
            }
            if (expands) store(from, values, count);
        }
        #pragma omp simd /* gcc does not vectorise GELU's branches without it */
        for (int i = 0; i < count; i++) {
            total[i] *= per_unit;
            if (BASE != NONE)
                total[i] += base_slope(load(inputs + i)) * load(base_grad + i);
        }
        if (BASE != NONE && expands) expand_base(inputs, base_grad, buffer, count);
        store(grad_x + first, total, count);
    }
}

/* x and the gradient of its features, in the shapes of ``expand`` -> the gradient of x; then, with
   ``expands``, the features in the place of their gradient: both take the same powers. */
void pull_back(const INPUT *x, const float *grid, FEATURE *grad, INPUT *grad_x, long rows, long n,
               long intervals, long expands) {
    long size = FIRST + intervals + ORDER;
    #pragma omp parallel for if (rows * n >= WORTH_A_THREAD)
    for (long row = 0; row < rows; row++) {
        const INPUT *from = x + row * n;
        FEATURE *own = grad + row * size * n;
        if (expands) pull_back_row(from, grid, own, grad_x + row * n, n, intervals, 1);
        else pull_back_row(from, grid, own, grad_x + row * n, n, intervals, 0);
    }
}
