/* Functions that groups of inputs share, and their gradients, in vectorised loops.

   The specification is kan/shared.py: P(x) / (1 + |b_1 x + b_2 x^2 + ...|), or a line, alone or
   plus Chebyshev polynomials of tanh(x), cosines and sines of multiples of x, or splines; the base
   function is added to the first function. Here the coefficients are repeated for every input of a
   group, so that loops need not stop where a group ends. native.py defines, beside the macros of
   numbers.h and, for splines, of splines.h:

   FAMILY   RATIONAL, CHEBYSHEV, FOURIER or LINE
   SPLINES  number of splines beside a line; their grid, as in bspline.c, is before the coefficients
   DEGREE   of the polynomials, or the largest multiple of x
   LIMIT    bound on |x| in rational functions and waves
*/
#include "numbers.h"
#if SPLINES
#include "splines.h"
#endif

enum { RATIONAL, CHEBYSHEV, FOURIER, LINE };
#define COEFFICIENTS \
    (FAMILY == LINE        ? 1 + SPLINES \
     : FAMILY == CHEBYSHEV ? DEGREE + 1  \
                           : 2 * DEGREE + (FAMILY == FOURIER))

/* Argument of the polynomials, or angle of the waves. */
static inline float inner(float x) {
    if (FAMILY != CHEBYSHEV) return clamp(x, -LIMIT, LIMIT);
    float e = exponential(-2 * (x < 0 ? -x : x)), tanh = (1 - e) / (1 + e);
    return x < 0 ? -tanh : tanh;
}
static inline float inner_slope(float x, float u) {
    if (FAMILY != CHEBYSHEV) return x < -LIMIT || x > LIMIT ? 0 : 1;
    return 1 - u * u;
}

/* A function at x, with u = inner(x); the stride of its coefficients c is n. */
static inline float value(float x, float u, const float *c, long n) {
    if (FAMILY == LINE) return c[0] * x;
    if (FAMILY == FOURIER) {
        struct wave first = wave(u), now = first;
        float total = c[0] * x;
        for (int k = 1; k <= DEGREE; k++) {
            total += c[k * n] * now.cosine + c[(DEGREE + k) * n] * now.sine;
            now = turned(now, first);
        }
        return total;
    }
    if (FAMILY == CHEBYSHEV) {
        float before = 1, term = u, total = c[0] * x + c[n] * u;
        for (int k = 2; k <= DEGREE; k++) {
            float next = 2 * u * term - before;
            before = term, term = next;
            total += c[k * n] * term;
        }
        return total;
    }
    float above = 0, below = 0;
    for (int k = DEGREE; k >= 0; k--) above = above * u + c[k * n];
    for (int k = 2 * DEGREE - 1; k > DEGREE; k--) below = (below + c[k * n]) * u;
    return above / (1 + (below < 0 ? -below : below));
}

/* Its derivative; adds grad times the derivatives by the coefficients to sums, of stride n too. */
static inline float slope(float x, float u, const float *c, long n, float grad, float *sums) {
    if (FAMILY == LINE) {
        sums[0] += grad * x;
        return c[0];
    }
    if (FAMILY == FOURIER) {
        struct wave first = wave(u), now = first;
        float total = 0;
        sums[0] += grad * x;
        for (int k = 1; k <= DEGREE; k++) {
            sums[k * n] += grad * now.cosine;
            sums[(DEGREE + k) * n] += grad * now.sine;
            total += k * (c[(DEGREE + k) * n] * now.cosine - c[k * n] * now.sine);
            now = turned(now, first);
        }
        return c[0] + total * inner_slope(x, u);
    }
    if (FAMILY == CHEBYSHEV) {
        /* T_k' = k U_k-1, U the polynomials of the second kind. */
        float before = 1, term = u, second_before = 0, second = 1, total = c[n];
        sums[0] += grad * x;
        sums[n] += grad * u;
        for (int k = 2; k <= DEGREE; k++) {
            float next = 2 * u * term - before, second_next = 2 * u * second - second_before;
            before = term, term = next;
            second_before = second, second = second_next;
            sums[k * n] += grad * term;
            total += k * second * c[k * n];
        }
        return c[0] + total * inner_slope(x, u);
    }
    float above = 0, above_slope = 0, below = 0, below_slope = 0;
    for (int k = DEGREE; k >= 0; k--) {
        above_slope = above_slope * u + above;
        above = above * u + c[k * n];
    }
    for (int k = 2 * DEGREE - 1; k > DEGREE; k--) {
        below_slope = below_slope * u + below + c[k * n];
        below = (below + c[k * n]) * u;
    }
    float sign = below < 0 ? -1 : 1, share = 1 / (1 + sign * below);
    float by_above = grad * share, by_below = -by_above * above * share * sign;
    for (int k = 0; k <= DEGREE; k++, by_above *= u) sums[k * n] += by_above;
    for (int k = DEGREE + 1; k < 2 * DEGREE; k++) sums[k * n] += by_below *= u;
    return (above_slope - above * share * sign * below_slope) * share * inner_slope(x, u);
}

#if SPLINES
#define GRID 2 /* numbers before the coefficients */
/* Add splines with coefficients c of stride n to values. */
static inline void add_splines(float *values, const struct where *at, const float *c, long n,
                               int count, float zero) {
    for (int k = 0; k < SPLINES; k++, c += n) {
        float centre = centre_of(k);
        for (int i = 0; i < count; i++)
            values[i] += c[i] * value_of(at, i, centre, zero, slope_of(at, i, centre, zero));
    }
}
/* Add their gradients to total and sums and, with ``expands``, the splines to values. */
INLINE void pull_splines(const float *grad, const struct where *at, const float *c, long n,
                         int count, float zero, float per_unit, float *total, float *sums,
                         float *values, const int expands) {
    for (int k = 0; k < SPLINES; k++, c += n, sums += n) {
        float centre = centre_of(k);
        #pragma omp simd
        for (int i = 0; i < count; i++) {
            float rise = slope_of(at, i, centre, zero);
            float b = value_of(at, i, centre, zero, rise);
            total[i] += grad[i] * c[i] * rise * per_unit;
            sums[i] += grad[i] * b;
            if (expands) values[i] += c[i] * b;
        }
    }
}
#else
#define GRID 0
struct where { char nothing; };
#define locate(...)
#define add_splines(...)
#define pull_splines(...)
#endif

/* x (rows, n), coefficients (functions, COEFFICIENTS, n) -> features (rows, functions, n). */
void expand(const INPUT *restrict x, const float *restrict grid, FEATURE *restrict features,
            long rows, long n, long functions) {
    const float *coefficients = grid + GRID, zero = hidden_zero();
    #pragma omp parallel for if (rows * n >= WORTH_A_THREAD)
    for (long row = 0; row < rows; row++) {
        struct where at;
        float u[BLOCK], buffer[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const INPUT *from = x + row * n + first;
            for (int i = 0; i < count; i++) u[i] = inner(load(from + i));
            locate(&at, from, count, SPLINES - ORDER, grid[0], grid[1]);
            for (long m = 0; m < functions; m++) {
                const float *c = coefficients + m * COEFFICIENTS * n + first;
                FEATURE *to = features + (row * functions + m) * n + first;
                float *values = in_place(to, buffer);
                for (int i = 0; i < count; i++) {
                    float input = load(from + i);
                    values[i] = value(input, u[i], c + i, n);
                    if (BASE != NONE && m == 0) values[i] += base(input);
                }
                add_splines(values, &at, c + n, n, count, zero);
                store(to, values, count);
            }
        }
    }
}

/* ``pull_back`` of a row; ``expands`` is a constant where it is inlined. */
INLINE void pull_back_row(const INPUT *x, const float *restrict grid, FEATURE *restrict grad,
                          INPUT *restrict grad_x, long n, long functions, float *restrict sums,
                          const int expands) {
    const float *coefficients = grid + GRID, zero = hidden_zero();
    struct where at;
    float u[BLOCK], total[BLOCK], buffer[BLOCK], given[BLOCK];
    for (long first = 0; first < n; first += BLOCK) {
        int count = n - first < BLOCK ? n - first : BLOCK;
        const INPUT *from = x + first;
        FEATURE *g = grad + first;
        locate(&at, from, count, SPLINES - ORDER, grid[0], grid[1]);
        #pragma omp simd
        for (int i = 0; i < count; i++) {
            float input = load(from + i);
            u[i] = inner(input);
            total[i] = BASE == NONE ? 0 : base_slope(input) * load(g + i);
        }
        for (long m = 0; m < functions; m++, g += n) {
            const float *c = coefficients + m * COEFFICIENTS * n + first;
            float *own = sums + m * COEFFICIENTS * n + first, *values = in_place(g, buffer);
            #pragma omp simd
            for (int i = 0; i < count; i++) {
                float input = load(from + i), grad_i = load(g + i);
                if (SPLINES) given[i] = grad_i; /* values may take its place */
                total[i] += grad_i * slope(input, u[i], c + i, n, grad_i, own + i);
                if (!expands) continue;
                values[i] = value(input, u[i], c + i, n);
                if (BASE != NONE && m == 0) values[i] += base(input);
            }
            pull_splines(given, &at, c + n, n, count, zero, grid[1], total, own + n, values,
                         expands);
            if (expands) store(g, values, count);
        }
        store(grad_x + first, total, count);
    }
}

/* The gradient of the features -> the gradient of x, and partial sums of that of the coefficients
   (parts, functions, COEFFICIENTS, n), each over a share of the rows; then, with ``expands``, the
   features in the place of their gradient. */
void pull_back(const INPUT *x, const float *grid, FEATURE *grad, INPUT *grad_x, long rows,
               long n, long functions, long expands, float *sums, long parts) {
    long count = functions * COEFFICIENTS * n;
    #pragma omp parallel for
    for (long part = 0; part < parts; part++) {
        float *own = sums + part * count;
        for (long i = 0; i < count; i++) own[i] = 0;
        for (long row = rows * part / parts; row < rows * (part + 1) / parts; row++) {
            const INPUT *from = x + row * n;
            FEATURE *g = grad + row * functions * n;
            INPUT *to = grad_x + row * n;
            if (expands) pull_back_row(from, grid, g, to, n, functions, own, 1);
            else pull_back_row(from, grid, g, to, n, functions, own, 0);
        }
    }
}
