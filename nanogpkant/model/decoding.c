/* New tokens of a few texts through the whole GPT, with a cache: model/gpt.py is the
   specification. One token is one pass over the weights, without an allocation.

   decoding.py packs the weights and mirrors the structs. It defines beside BASE of numbers.h, the
   activation: GATED, 1 where it multiplies the second half of its inputs.
*/
#include "numbers.h"

#define PANEL 64        /* outputs whose weights are packed together */
#define ROWS 16         /* tokens computed together, at most; a power of 2 */
#define CHUNK 512       /* rows of weights */
#define AHEAD 16        /* rows to prefetch */
#define FEW 4           /* tokens that have zero features in common */
#define LARGE (1 << 19) /* products that are worth a second thread; of attention, an eighth */

/* LANES numbers are a register of this CPU, and SUMS of them, of up to TOKENS tokens, are sums: gcc
   keeps vectors of any other size in memory. */
#ifdef __AVX512F__
enum { LANES = 16, SUMS = 16, TOKENS = 16 };
#elif defined __AVX__
enum { LANES = 8, SUMS = 8, TOKENS = 4 };
#else
enum { LANES = 4, SUMS = 8, TOKENS = 4 };
#endif
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

struct norm {
    long is_layer; /* subtract the mean */
    float epsilon; /* 0: no norm */
    const float *weight, *bias;
};

struct product {
    long n, size, out; /* inputs, features of an input, outputs */
    const float *weight; /* (panels, n, size, PANEL) */
    const float *bias;
    struct norm norm;
    void (*expand)(const float *, const float *, float *, long, long, long); /* or none */
    const float *numbers;
    long count;
};

struct block {
    struct norm norm_1, norm_2, q_norm, k_norm;
    struct product qkv, attention_out, mlp_in, mlp_out;
    const float *bias; /* (heads, room) by distance */
};

struct model {
    long layers, width, heads, room; /* room: tokens that tables have numbers for */
    const float *tokens, *positions; /* (vocabulary, width), (room, width) */
    const float *cosine, *sine; /* (room, width / heads / 2) */
    const struct block *blocks;
    struct norm norm;
    struct product head;
    float *scratch; /* decoding.py counts what ``step`` and ``multiply`` take of it */
    int *index;
};

/* Normalise n numbers; to may be from. */
static void normalise(const struct norm *norm, const float *from, float *to, long n) {
    float mean = 0, square = 0;
    if (norm->is_layer) {
        #pragma omp simd reduction(+ : mean)
        for (long i = 0; i < n; i++) mean += from[i];
        mean /= n;
    }
    #pragma omp simd reduction(+ : square)
    for (long i = 0; i < n; i++) square += (from[i] - mean) * (from[i] - mean);
    float factor = norm->epsilon ? 1 / __builtin_sqrtf(square / n + norm->epsilon) : 1;
    for (long i = 0; i < n; i++) {
        float weight = norm->weight ? norm->weight[i] : 1;
        to[i] = (from[i] - mean) * factor * weight + (norm->bias ? norm->bias[i] : 0);
    }
}

/* A feature of tokens that are ``stride`` apart -> to (room), zero for tokens that are not there.
   Is any not zero? */
INLINE int take(const float *from, long stride, long count, long room, float *to) {
    int any = 0;
    for (long t = 0; t < count; t++) any |= (to[t] = from[t * stride]) != 0;
    for (long t = count; t < room; t++) to[t] = 0;
    return any;
}

/* List the features of a few tokens that are not zero in all of them: of a spline's, few are. Their
   values are (found, room). A plain layer's inputs seldom are zero: one token's are all listed. */
static long gather(const struct product *p, const float *features, long count, long room,
                   int *index, float *values) {
    long found = 0, n = p->n, size = p->size;
    if (room == 1 && size == 1) {
        for (long i = 0; i < n; i++) {
            index[i] = i;
            values[i] = features[i];
        }
        return n;
    }
    for (long i = 0; i < n; i++)
        for (long m = 0; m < size; m++) {
            index[found] = i * size + m;
            found += take(features + m * n + i, n * size, count, room, values + found * room);
        }
    return found;
}

/* Registers of outputs whose sums, of ``count`` tokens or TOKENS of them, are SUMS. */
INLINE int together(const int count) {
    int most = SUMS / (count < TOKENS ? count : TOKENS);
    return most < PANEL / LANES ? most : PANEL / LANES;
}

/* The first ``together(count)`` registers of outputs of a panel, (count, together). SUMS sums at a
   time are in registers, which takes a count that the compiler knows; the weights of a chunk stay
   in the L2 cache for the next tokens. */
INLINE void add_up(const float *weight, const int *index, const float *values, long found,
                   const int count, float *sums) {
    const int tokens = count < TOKENS ? count : TOKENS, wide = together(count);
    for (int i = 0; i < count * wide * LANES; i++) sums[i] = 0;
    for (long start = 0; start < found; start += CHUNK) {
        long end = found - start < CHUNK ? found : start + CHUNK;
        for (int token = 0; token < count; token += tokens) {
            lanes sum[TOKENS][SUMS], *of = (lanes *)sums + token * wide;
            for (int t = 0; t < tokens; t++)
                for (int j = 0; j < wide; j++) sum[t][j] = of[t * wide + j];
            for (long k = start; k < end; k++) {
                if (token == 0) { /* which the hardware does too late: 2 times slower */
                    long ahead = index[k + AHEAD < end ? k + AHEAD : k];
                    const char *soon = (const char *)(weight + ahead * PANEL);
                    for (int byte = 0; byte < 4 * wide * LANES; byte += 64)
                        __builtin_prefetch(soon + byte);
                }
                const lanes *row = (const lanes *)(weight + (long)index[k] * PANEL);
                for (int t = 0; t < tokens; t++)
                    for (int j = 0; j < wide; j++)
                        sum[t][j] += values[k * count + token + t] * row[j];
            }
            for (int t = 0; t < tokens; t++)
                for (int j = 0; j < wide; j++) of[t * wide + j] = sum[t][j];
        }
    }
}

/* ``together(room)`` registers of outputs of y (count, out), from the first on. */
static void some_outputs(const struct product *p, long first, const int *index, const float *values,
                         long found, long room, float *y, long count, int adds) {
    long wide = together(room) * LANES;
    const float *weight = p->weight + first / PANEL * PANEL * p->n * p->size + first % PANEL;
    float sums[ROWS * SUMS / TOKENS * LANES];
    if (room == 1) add_up(weight, index, values, found, 1, sums);
    else if (room == 2) add_up(weight, index, values, found, 2, sums);
    else if (room == 4) add_up(weight, index, values, found, 4, sums);
    else if (room == 8) add_up(weight, index, values, found, 8, sums);
    else add_up(weight, index, values, found, 16, sums);
    long own = p->out - first < wide ? p->out - first : wide;
    for (long t = 0; t < count; t++) {
        float *to = y + t * p->out + first;
        for (long j = 0; j < own; j++) {
            float sum = sums[t * wide + j] + (p->bias ? p->bias[first + j] : 0);
            to[j] = adds ? to[j] + sum : sum;
        }
    }
}

/* x (count, n), at most ROWS of them -> y (count, out), or added to y. */
static void multiply_some(const struct product *p, const float *x, float *y, long count, int adds,
                          float *scratch, int *index) {
    long n = p->n, depth = n * p->size, out = p->out, room = 1;
    float *normed = scratch, *features = normed + count * n, *values = features + count * depth;
    if (p->norm.epsilon) {
        for (long t = 0; t < count; t++) normalise(&p->norm, x + t * n, normed + t * n, n);
        x = normed;
    }
    if (p->expand) {
        p->expand(x, p->numbers, features, count, n, p->count);
        x = features;
    }
    while (room < count) room *= 2;
    long wide = together(room) * LANES, found = depth;
    if (room <= FEW) found = gather(p, x, count, room, index, values);
    #pragma omp parallel if (depth * out * room >= LARGE)
    {
        if (room > FEW)
            #pragma omp for
            for (long k = 0; k < depth; k++) {
                const float *from = x + k % p->size * n + k / p->size;
                take(from, depth, count, room, values + k * room);
                index[k] = k;
            }
        #pragma omp for
        for (long first = 0; first < out; first += wide)
            some_outputs(p, first, index, values, found, room, y, count, adds);
    }
}

static void multiply(const struct product *p, const float *x, float *y, long count, int adds,
                     float *scratch, int *index) {
    for (long t = 0; t < count; t += ROWS) {
        long some = count - t < ROWS ? count - t : ROWS;
        multiply_some(p, x + t * p->n, y + t * p->out, some, adds, scratch, index);
    }
}

/* Rotate a query or key of a head: see positions.rotate. */
static void rotate(float *x, const float *cosine, const float *sine, long half) {
    for (long i = 0; i < half; i++) {
        float a = x[i], b = x[half + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[half + i] = b * cosine[i] + a * sine[i];
    }
}

/* y (D) = the values (length, D) weighted by softmax(q . keys + bias). */
INLINE void attend(const float *q, const float *keys, const float *values, const float *bias,
                   long length, const long D, const int in_lanes, float *scores, float *y) {
    float scale = 1 / __builtin_sqrtf(D), most = -__builtin_inff(), total = 0;
    for (long s = 0; s < length; s++) {
        float score = 0;
        #pragma omp simd reduction(+ : score) safelen(4) /* gcc adds its lanes one by one */
        for (long i = 0; i < D; i++) score += q[i] * keys[s * D + i];
        scores[s] = score * scale + (bias ? bias[length - 1 - s] : 0);
        most = scores[s] > most ? scores[s] : most;
    }
    #pragma omp simd reduction(+ : total)
    for (long s = 0; s < length; s++) total += scores[s] = exponential(scores[s] - most);
    lanes sum[64 / LANES] = {0};
    for (long i = 0; i < D; i++) y[i] = 0;
    for (long s = 0; s < length; s++) {
        float share = scores[s] / total;
        if (in_lanes)
            for (long j = 0; j < D / LANES; j++)
                sum[j] += share * ((const lanes *)(values + s * D))[j];
        else
            for (long i = 0; i < D; i++) y[i] += share * values[s * D + i];
    }
    if (in_lanes)
        for (long j = 0; j < D / LANES; j++) ((lanes *)y)[j] = sum[j];
}

/* The attention of one head for ``count`` tokens behind ``start`` others of a text: row t of q, k
   and v is 3 * heads * D numbers behind the last. */
static void attend_head(const struct model *m, const struct block *block, long head, float *qkv,
                        float *keys, float *values, long start, long count, float *scores,
                        float *mixed) {
    long C = m->width, D = C / m->heads;
    const float *bias = block->bias ? block->bias + head * m->room : 0;
    for (long t = 0; t < count; t++) {
        long at = start + t, length = at + 1;
        float *q = qkv + t * 3 * C + head * D, *k = q + C, *v = k + C;
        float *y = mixed + t * C + head * D;
        normalise(&block->q_norm, q, q, D);
        normalise(&block->k_norm, k, k, D);
        if (m->cosine) {
            rotate(q, m->cosine + at * D / 2, m->sine + at * D / 2, D / 2);
            rotate(k, m->cosine + at * D / 2, m->sine + at * D / 2, D / 2);
        }
        for (long i = 0; i < D; i++) {
            keys[at * D + i] = k[i];
            values[at * D + i] = v[i];
        }
        if (D == 32) attend(q, keys, values, bias, length, 32, 1, scores, y);
        else if (D == 64) attend(q, keys, values, bias, length, 64, 1, scores, y);
        else attend(q, keys, values, bias, length, D, 0, scores, y);
    }
}

/* ``count`` tokens of every text behind ``start`` cached ones: ids (texts, count), cache (layers,
   2, texts, heads, cache_room, D) -> logits (texts, vocabulary) behind the last, or none. */
void step(const struct model *m, const int64_t *ids, float *cache, long cache_room, long texts,
          long start, long count, float *logits) {
    long C = m->width, H = m->heads, D = C / H, rows = texts * count, length = start + count;
    float *x = m->scratch, *normed = x + rows * C, *mixed = normed + rows * C;
    float *qkv = mixed + rows * C, *hidden = qkv + rows * 3 * C;
    float *scores = hidden + rows * m->blocks->mlp_in.out, *rest = scores + texts * H * length;
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < C; i++)
            x[r * C + i] = m->tokens[ids[r] * C + i]
                         + (m->positions ? m->positions[(start + r % count) * C + i] : 0);
    for (long layer = 0; layer < m->layers; layer++) {
        const struct block *block = m->blocks + layer;
        for (long r = 0; r < rows; r++)
            normalise(&block->norm_1, x + r * C, normed + r * C, C);
        multiply(&block->qkv, normed, qkv, rows, 0, rest, m->index);
        float *keys = cache + layer * 2 * texts * H * cache_room * D;
        float *values = keys + texts * H * cache_room * D;
        #pragma omp parallel for if (rows * H * length * D >= LARGE / 8)
        for (long part = 0; part < texts * H; part++) {
            long text = part / H, own = part * cache_room * D;
            attend_head(m, block, part % H, qkv + text * count * 3 * C, keys + own, values + own,
                        start, count, scores + part * length, mixed + text * count * C);
        }
        multiply(&block->attention_out, mixed, x, rows, 1, rest, m->index);
        for (long r = 0; r < rows; r++)
            normalise(&block->norm_2, x + r * C, normed + r * C, C);
        long outputs = block->mlp_in.out, half = block->mlp_out.n;
        multiply(&block->mlp_in, normed, hidden, rows, 0, rest, m->index);
        if (BASE != IDENTITY || GATED)
            for (long r = 0; r < rows; r++)
                #pragma omp simd
                for (long i = 0; i < half; i++) {
                    float value = base(hidden[r * outputs + i]);
                    hidden[r * half + i] = GATED ? value * hidden[r * outputs + half + i] : value;
                }
        multiply(&block->mlp_out, hidden, x, rows, 1, rest, m->index);
    }
    if (!logits) return;
    for (long text = 0; text < texts; text++)
        normalise(&m->norm, x + ((text + 1) * count - 1) * C, normed + text * C, C);
    multiply(&m->head, normed, logits, texts, 0, rest, m->index);
}
