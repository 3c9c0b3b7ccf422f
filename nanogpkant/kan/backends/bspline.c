/* The features of a chunk of rows, and their gradient, as two loops that a compiler vectorises.

   The specification is kan/features.py and kan/bases/bspline.py: the base function, then the splines
   B_k(x) = sum_j FACTOR[j] * max(REACH[j] - r, 0)^ORDER, r the distance, in intervals, of x from the
   middle of the function. native.py defines, beside the macros of numbers.h:

   ORDER    degree of the splines' pieces, 1 to 5
   TERMS    how many terms the sum has, and REACH and FACTOR, their numbers
   LINEAR   1 where splines go on in straight lines outside the grid, 0 where they run out
*/
#include "numbers.h"

static const float reach[TERMS] = REACH, factor[TERMS] = FACTOR;

static inline float power(float x, int exponent) {
    float result = 1;
    for (int i = 0; i < exponent; i++) result *= x;
    return result;
}

/* A function at the distance d right of its middle. */
static inline float value(float d) {
    float r = d < 0 ? -d : d, total = 0;
    for (int j = 0; j < TERMS; j++) total += factor[j] * power(at_least_0(reach[j] - r), ORDER);
    return total;
}

/* Its derivative there, per interval; of order 1 from the right. */
static inline float slope(float d) {
    if (ORDER == 1) return (d >= -1 && d < 1 ? (d < 0 ? 1 : -1) : 0) + 0 * d;
    float r = d < 0 ? -d : d, total = 0;
    for (int j = 0; j < TERMS; j++)
        total += factor[j] * power(at_least_0(reach[j] - r), ORDER - 1);
    return (d < 0 ? ORDER : -ORDER) * total;
}

/* Where inputs lie, in intervals from the first knot: where values and slopes are to be taken, and
   how far beyond the grid x itself is. */
struct where { float value[BLOCK], slope[BLOCK], beyond[BLOCK]; };

static inline void locate(struct where *at, const INPUT *x, int count, int intervals,
                          float start, float per_unit) {
    for (int i = 0; i < count; i++) {
        float position = (LOAD_INPUT(x + i) - start) * per_unit;
        if (LINEAR) {
            float last = ORDER + intervals;
            at->value[i] = clamp(position, ORDER, last);
            at->slope[i] = clamp(position, ORDER, ORDER == 1 ? last - 0.5f : last);
            at->beyond[i] = position - at->value[i];
        } else {
            at->value[i] = clamp(position, -1, intervals + 2 * ORDER + 1);
            at->slope[i] = at->value[i];
        }
    }
}

#define FIRST (BASE != NONE) /* which feature is the first spline */

/* x (rows, n) -> features (rows, FIRST + intervals + ORDER, n). */
void expand(const INPUT *x, FEATURE *features, long rows, long n, int intervals, float start,
            float per_unit) {
    int splines = intervals + ORDER;
    #pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        struct where at;
        float values[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const INPUT *from = x + row * n + first;
            FEATURE *to = features + row * (FIRST + splines) * n + first;
            if (BASE != NONE) {
                for (int i = 0; i < count; i++) values[i] = base(LOAD_INPUT(from + i));
                STORE_FEATURES(to, values, count);
                to += n;
            }
            locate(&at, from, count, intervals, start, per_unit);
            for (int k = 0; k < splines; k++, to += n) {
                float middle = k + (ORDER + 1) / 2.0f;
                for (int i = 0; i < count; i++) {
                    float b = value(at.value[i] - middle);
                    if (LINEAR) b += slope(at.slope[i] - middle) * at.beyond[i];
                    values[i] = b;
                }
                STORE_FEATURES(to, values, count);
            }
        }
    }
}

/* x and the gradient of its features, shaped as above -> the gradient of x (rows, n). */
void pull_back(const INPUT *x, const FEATURE *grad, INPUT *grad_x, long rows, long n,
               int intervals, float start, float per_unit) {
    int splines = intervals + ORDER;
    #pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        struct where at;
        float total[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const INPUT *inputs = x + row * n + first;
            const FEATURE *base_grad = grad + row * (FIRST + splines) * n + first;
            const FEATURE *from = base_grad + FIRST * n;
            locate(&at, inputs, count, intervals, start, per_unit);
            for (int i = 0; i < count; i++) total[i] = 0;
            for (int k = 0; k < splines; k++, from += n) {
                float middle = k + (ORDER + 1) / 2.0f;
                for (int i = 0; i < count; i++)
                    total[i] += slope(at.slope[i] - middle) * LOAD_FEATURE(from + i);
            }
            #pragma omp simd /* without, gcc balks at the branches of GELU's slope */
            for (int i = 0; i < count; i++) {
                total[i] *= per_unit;
                if (BASE != NONE)
                    total[i] += base_slope(LOAD_INPUT(inputs + i)) * LOAD_FEATURE(base_grad + i);
            }
            STORE_INPUTS(grad_x + row * n + first, total, count);
        }
    }
}
