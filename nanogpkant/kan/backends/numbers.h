/* Loads and stores, elementary functions, and the base functions of kan/features.py.

   native.py defines the macros:

   BASE     a name of the enum below
   INPUT    type of the inputs and their gradient in memory: float or bf16
   FEATURE  type of the features and their gradient in memory: float or bf16
*/
#include <stdint.h>
#ifdef __AVX512BF16__ /* converts 16 numbers at once */
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
    if (to == from) return;
    for (int i = 0; i < count; i++) to[i] = from[i];
}
static inline float load_bf16(const bf16 *from) {
    union { uint32_t u; float f; } bits = {(uint32_t)*from << 16};
    return bits.f;
}
static inline float load_float(const float *from) { return *from; }

#define load(from) _Generic(*(from), float: load_float, bf16: load_bf16)(from)
#define store(to, from, count) \
    _Generic(*(to), float: store_float, bf16: store_bf16)(to, from, count)
/* Where values are computed before they are stored: in place, or in a buffer to be narrowed. */
#define in_place(to, buffer) _Generic(*(to), float: (float *)(to), bf16: (buffer))

/* A NaN passes through all: every comparison with it is false. With a ``low`` that it cannot know,
   gcc makes one instruction of ``at_least``, otherwise a comparison and a mask. */
static inline float at_least(float low, float x) { return low > x ? low : x; }
static inline float at_least_0(float x) { return at_least(0, x); }
static inline float hidden_zero(void) {
    volatile float zero = 0;
    return zero;
}
static inline float clamp(float x, float low, float high) {
    x = low > x ? low : x; /* in one expression, gcc makes three cases of all that follows */
    return high < x ? high : x;
}

/* e^x = 2^whole * e^rest to two units in the last place; libm's expf does not vectorise. */
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

/* Sine and cosine of an angle of at most 1e5, to 1e-7: reduced by quarter turns, then by the
   polynomials of the Cephes library (netlib.org/cephes, sinf and cosf). */
struct wave { float sine, cosine; };
static inline struct wave wave(float angle) {
    float quarters = (angle * 0.636619772f + 12582912.0f) - 12582912.0f; /* rounds */
    float r = angle - quarters * 1.5703125f; /* pi / 2 in three parts */
    r = (r - quarters * 4.83751297e-4f) - quarters * 7.54978995e-8f;
    float square = r * r;
    float sine = -1.9515295891e-4f * square + 8.3321608736e-3f;
    sine = r + r * square * (sine * square - 1.6666654611e-1f);
    float cosine = 2.4433157118e-5f * square - 1.3887316255e-3f;
    cosine = 1 - 0.5f * square + square * square * (cosine * square + 4.1666645683e-2f);
    int32_t quarter = quarters;
    float up = quarter & 1 ? cosine : sine, right = quarter & 1 ? sine : cosine;
    return (struct wave){quarter & 2 ? -up : up, (quarter + 1) & 2 ? -right : right};
}
/* The same of any angle: larger ones, which have lost their phase, count as the largest. */
static inline struct wave held_wave(float angle) { return wave(clamp(angle, -1e5f, 1e5f)); }
/* Sine and cosine of the sum of two angles. */
static inline struct wave turned(struct wave a, struct wave b) {
    return (struct wave){a.sine * b.cosine + a.cosine * b.sine,
                         a.cosine * b.cosine - a.sine * b.sine};
}

/* e^(-x^2 / 2), and from it the normal distribution to 1e-7 (Abramowitz and Stegun 7.1.26). */
static inline float bell(float x) { return exponential(-0.5f * x * x); }
static inline float normal_below(float x, float bell) {
    float t = 1 / (1 + 0.23164189f * (x < 0 ? -x : x));
    float sum = 0.5307027145f;
    sum = sum * t - 0.726576014f;
    sum = sum * t + 0.710706871f;
    sum = sum * t - 0.142248368f;
    sum = sum * t + 0.127414796f;
    float beyond = sum * t * bell;
    return x < 0 ? beyond : 1 - beyond;
}

/* GELU's tanh form is x times this: sigmoid(2u) with u = sqrt(2 / pi) * (x + 0.044715 x^3). */
static inline float tanh_gate(float x) {
    return 1 / (1 + exponential(-1.59576912f * x * (1 + 0.044715f * x * x)));
}

enum { NONE, SILU, GELU, GELU_TANH, EVEN, EVEN_COSINE, RELU, RELU2, LEAKY_RELU2, IDENTITY };

static inline float base(float x) {
    if (BASE == SILU) return x / (1 + exponential(-x));
    if (BASE == GELU) return x * normal_below(x, bell(x));
    if (BASE == GELU_TANH) return x * tanh_gate(x);
    if (BASE == EVEN || BASE == EVEN_COSINE) { /* the second is an activation alone */
        float even = x * (normal_below(x, bell(x)) - 0.5f), cosine = held_wave(x).cosine;
        return BASE == EVEN ? even : even - cosine * (0.8f + 1.4f * cosine) + 0.7f;
    }
    if (BASE == RELU) return at_least_0(x);
    if (BASE == RELU2) return x > 0 ? x * x : 0 * x;
    if (BASE == LEAKY_RELU2) return x > 0 ? x * x : 0.25f * x * x;
    return x;
}
static inline float base_slope(float x) {
    if (BASE == SILU) {
        float gate = 1 / (1 + exponential(-x));
        return gate * (1 + x * (1 - gate));
    }
    if (BASE == GELU || BASE == EVEN || BASE == EVEN_COSINE) {
        float density = bell(x), below = normal_below(x, density);
        float slope = (BASE == GELU ? below : below - 0.5f) + x * 0.39894228f * density;
        struct wave at = held_wave(x);
        return BASE == EVEN_COSINE ? slope + at.sine * (0.8f + 2.8f * at.cosine) : slope;
    }
    if (BASE == RELU) return x > 0 ? 1 : x == x ? 0 : x;
    if (BASE == RELU2) return x > 0 ? 2 * x : 0 * x;
    if (BASE == LEAKY_RELU2) return x > 0 ? 2 * x : 0.5f * x;
    if (BASE == GELU_TANH) {
        float near = clamp(x, -30, 30), gate = tanh_gate(near);
        return gate * (1 + near * (1 - gate) * 1.59576912f * (1 + 0.134145f * near * near));
    }
    return 1;
}

#define WORTH_A_THREAD 4096 /* inputs; for fewer, waiting for threads takes longer */
#define INLINE static inline __attribute__((always_inline))
#define BLOCK 256 /* inputs at a time; their intermediate values stay in the L1 cache */
