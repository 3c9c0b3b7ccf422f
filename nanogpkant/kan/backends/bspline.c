/* The features of a chunk of rows, and their gradient, as two loops that a compiler vectorises.

   The specification is kan/features.py and kan/bspline.py: the base function, then the splines
   B_k(x) = sum_j FACTOR[j] * max(REACH[j] - r, 0)^ORDER, r the distance, in intervals, of x from the
   middle of the function. native.py defines the macros:

   BASE     NONE, SILU, GELU or IDENTITY
   ORDER    degree of the splines' pieces, 1 to 5
   TERMS    how many terms the sum has, and REACH and FACTOR, their numbers
   LINEAR   1 where splines go on in straight lines outside the grid, 0 where they run out
   NUMBER   the type of features in memory: float, or bf16
*/
#include <stdint.h>
#ifdef __AVX512BF16__ /* rounds 16 numbers at once */
#include <immintrin.h>
#endif

typedef uint16_t bf16;

/* Rounded to nearest, ties to even; a NaN stays one. */
static inline void store_bf16(bf16 *to, const float *from, int count) {
    int i = 0;
#ifdef __AVX512BF16__
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(to + i),
                            (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i)));
#endif
    for (; i < count; i++) {
        union { float f; uint32_t u; } bits = {from[i]};
        uint32_t rounded = (bits.u + 0x7fff + ((bits.u >> 16) & 1)) >> 16;
        to[i] = from[i] != from[i] ? 0x7fc0 : rounded;
    }
}
static inline void store_float(float *to, const float *from, int count) {
    for (int i = 0; i < count; i++) to[i] = from[i];
}
static inline float load_bf16(const bf16 *from) {
    union { uint32_t u; float f; } bits = {(uint32_t)*from << 16};
    return bits.f;
}
static inline float load_float(const float *from) { return *from; }

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define STORE JOIN(store_, NUMBER)
#define LOAD JOIN(load_, NUMBER)

/* Written so that a NaN passes: every comparison with it is false. */
static inline float at_least_0(float x) { return x < 0 ? 0 : x; }
static inline float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

static inline float power(float x, int exponent) {
    float result = 1;
    for (int i = 0; i < exponent; i++) result *= x;
    return result;
}

/* e^x to two units in the last place: 2^whole * e^rest. (The library's own is not vectorised.) */
static inline float exponential(float x) {
    x = clamp(x, -87, 88);
    float whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* 1.5 * 2^23: rounds */
    float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float sum = 1.98756915e-4f;
    sum = sum * rest + 1.39819995e-3f;
    sum = sum * rest + 8.33345205e-3f;
    sum = sum * rest + 4.16657962e-2f;
    sum = sum * rest + 1.66666657e-1f;
    sum = sum * rest + 0.5f;
    sum = sum * rest * rest + rest + 1;
    union { int32_t i; float f; } power_of_2 = {((int32_t)whole + 127) << 23};
    return sum * power_of_2.f;
}

/* The normal distribution below x, to 1e-7: Abramowitz and Stegun, 7.1.26. */
static inline float normal_below(float x) {
    float a = (x < 0 ? -x : x) * 0.70710678f, t = 1 / (1 + 0.3275911f * a);
    float sum = 1.061405429f;
    sum = sum * t - 1.453152027f;
    sum = sum * t + 1.421413741f;
    sum = sum * t - 0.284496736f;
    sum = sum * t + 0.254829592f;
    float beyond = 0.5f * sum * t * exponential(-a * a);
    return x < 0 ? beyond : 1 - beyond;
}

enum { NONE, SILU, GELU, IDENTITY };

static inline float base(float x) {
    if (BASE == SILU) return x / (1 + exponential(-x));
    if (BASE == GELU) return x * normal_below(x);
    return x;
}
static inline float base_slope(float x) {
    if (BASE == SILU) {
        float gate = 1 / (1 + exponential(-x));
        return gate * (1 + x * (1 - gate));
    }
    if (BASE == GELU)
        return normal_below(x) + x * 0.39894228f * exponential(-0.5f * clamp(x * x, 0, 200));
    return 1;
}

static const float reach[TERMS] = REACH, factor[TERMS] = FACTOR;

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

#define BLOCK 256 /* inputs at a time: their positions stay in the first cache */

/* Where inputs lie, in intervals from the first knot: where values and slopes are to be taken, and
   how far beyond the grid x itself is. */
struct where { float value[BLOCK], slope[BLOCK], beyond[BLOCK]; };

static inline void locate(struct where *at, const float *x, int count, int intervals, float start,
                          float per_unit) {
    for (int i = 0; i < count; i++) {
        float position = (x[i] - start) * per_unit;
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
void expand(const float *x, NUMBER *features, long rows, long n, int intervals, float start,
            float per_unit) {
    int splines = intervals + ORDER;
    #pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        struct where at;
        float values[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const float *from = x + row * n + first;
            NUMBER *to = features + row * (FIRST + splines) * n + first;
            if (BASE != NONE) {
                for (int i = 0; i < count; i++) values[i] = base(from[i]);
                STORE(to, values, count);
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
                STORE(to, values, count);
            }
        }
    }
}

/* x and the gradient of its features, shaped as above -> the gradient of x (rows, n). */
void pull_back(const float *x, const NUMBER *grad, float *grad_x, long rows, long n, int intervals,
               float start, float per_unit) {
    int splines = intervals + ORDER;
    #pragma omp parallel for
    for (long row = 0; row < rows; row++) {
        struct where at;
        float total[BLOCK];
        for (long first = 0; first < n; first += BLOCK) {
            int count = n - first < BLOCK ? n - first : BLOCK;
            const float *inputs = x + row * n + first;
            const NUMBER *base_grad = grad + row * (FIRST + splines) * n + first;
            const NUMBER *from = base_grad + FIRST * n;
            float *to = grad_x + row * n + first;
            locate(&at, inputs, count, intervals, start, per_unit);
            for (int i = 0; i < count; i++) total[i] = 0;
            for (int k = 0; k < splines; k++, from += n) {
                float middle = k + (ORDER + 1) / 2.0f;
                for (int i = 0; i < count; i++)
                    total[i] += slope(at.slope[i] - middle) * LOAD(from + i);
            }
            for (int i = 0; i < count; i++) to[i] = total[i] * per_unit;
            if (BASE != NONE)
                for (int i = 0; i < count; i++) to[i] += base_slope(inputs[i]) * LOAD(base_grad + i);
        }
    }
}
