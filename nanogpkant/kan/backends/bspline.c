/* Base function and B-splines of a chunk of rows, and their gradient, in vectorised loops.

   The specification is kan/features.py and kan/bases/bspline.py: the base function, then splines.
   grid[0] is the first knot, grid[1] the number of intervals per unit of x.
*/
#include "numbers.h"
#include "splines.h"

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
                float centre = centre_of(k), *values = in_place(to, buffer);
                for (int i = 0; i < count; i++)
                    values[i] = value_of(&at, i, centre, zero, slope_of(&at, i, centre, zero));
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
            float centre = centre_of(k), *values = in_place(from, buffer);
            for (int i = 0; i < count; i++) {
                float slope = slope_of(&at, i, centre, zero);
                total[i] += slope * load(from + i);
                if (expands) values[i] = value_of(&at, i, centre, zero, slope);
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
