/* What the C files share: numbers in memory, and the base functions of kan/features.py.

   native.py defines the macros:

   BASE     NONE, SILU, GELU, GELU_TANH or IDENTITY
   INPUT    the type of inputs and of their gradient in memory: float, or bf16
   FEATURE  that of features and of theirs
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
#define STORE_FEATURES JOIN(store_, FEATURE)
#define LOAD_FEATURE JOIN(load_, FEATURE)
#define STORE_INPUTS JOIN(store_, INPUT)
#define LOAD_INPUT JOIN(load_, INPUT)

/* Written so that a NaN passes: every comparison with it is false. */
static inline float at_least_0(float x) { return x < 0 ? 0 : x; }
static inline float clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
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

/* sigmoid(2u), u = sqrt(2 / pi) * (x + 0.044715 x^3): what GELU's tanh form multiplies x by. */
static inline float tanh_gate(float x) {
    return 1 / (1 + exponential(-1.59576912f * x * (1 + 0.044715f * x * x)));
}

enum { NONE, SILU, GELU, GELU_TANH, IDENTITY };

static inline float base(float x) {
    if (BASE == SILU) return x / (1 + exponential(-x));
    if (BASE == GELU) return x * normal_below(x);
    if (BASE == GELU_TANH) return x * tanh_gate(x);
    return x;
}
static inline float base_slope(float x) {
    if (BASE == SILU) {
        float gate = 1 / (1 + exponential(-x));
        return gate * (1 + x * (1 - gate));
    }
    if (BASE == GELU)
        return normal_below(x) + x * 0.39894228f * exponential(-0.5f * clamp(x * x, 0, 200));
    if (BASE == GELU_TANH) {
        float near = clamp(x, -30, 30), gate = tanh_gate(near);
        return gate * (1 + near * (1 - gate) * 1.59576912f * (1 + 0.134145f * near * near));
    }
    return 1;
}

#define BLOCK 256 /* inputs at a time: what is known of them stays in the first cache */
