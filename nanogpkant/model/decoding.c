/* One new token of every text through the whole GPT, with a cache: model/gpt.py is the
   specification. One pass over the weights, without an allocation.

   decoding.py packs the weights and mirrors the structs. It defines beside BASE of numbers.h, the
   activation: GATED, 1 where it multiplies the second half of its inputs.
*/
#include "numbers.h"

#define PANEL 64        /* outputs computed together */
#define TEXTS 4         /* texts computed together, at most */
#define LARGE (1 << 20) /* numbers to read that are worth a second thread */

typedef float lanes __attribute__((vector_size(64), aligned(4)));
enum { LANES = PANEL / 16 };

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

/* List the features of a few texts that are not zero in all of them: of a spline's, few are. */
static long gather(const struct product *p, const float *features, long texts, int *index,
                   float *values) {
    long found = 0, n = p->n, size = p->size;
    for (long i = 0; i < n; i++)
        for (long m = 0; m < size; m++) {
            int any = 0;
            for (long t = 0; t < texts; t++) {
                float value = features[(t * size + m) * n + i];
                values[found * texts + t] = value;
                any |= value != 0;
            }
            index[found] = i * size + m;
            found += any;
        }
    return found;
}

/* A panel of outputs of a few texts; ``texts`` is a constant, so that sums stay in registers. */
static inline __attribute__((always_inline)) void add_up(
    const float *weight, const int *index, const float *values, long found, const int texts,
    float *sums) {
    lanes sum[TEXTS][LANES] = {0};
    for (long k = 0; k < found; k++) {
        const lanes *row = (const lanes *)(weight + (long)index[k] * PANEL);
        for (int t = 0; t < texts; t++)
            for (int j = 0; j < LANES; j++) sum[t][j] += values[k * texts + t] * row[j];
    }
    for (int t = 0; t < texts; t++)
        for (int j = 0; j < LANES; j++) ((lanes *)sums)[t * LANES + j] = sum[t][j];
}

/* x (texts, n) -> y (texts, out), or added to y. */
static void multiply(const struct product *p, const float *x, float *y, long texts, int adds,
                     float *scratch, int *list) {
    long n = p->n, rows = n * p->size, out = p->out, found[(texts + TEXTS - 1) / TEXTS];
    float *normed = scratch, *features = normed + texts * n, *values = features + texts * rows;
    if (p->norm.epsilon) {
        for (long t = 0; t < texts; t++) normalise(&p->norm, x + t * n, normed + t * n, n);
        x = normed;
    }
    if (p->expand) {
        p->expand(x, p->numbers, features, texts, n, p->count);
        x = features;
    }
    for (long t = 0; t < texts; t += TEXTS) {
        long some = texts - t < TEXTS ? texts - t : TEXTS;
        found[t / TEXTS] = gather(p, x + t * rows, some, list + t / TEXTS * rows,
                                  values + t * rows);
    }
    #pragma omp parallel for if (rows * out >= LARGE)
    for (long first = 0; first < out; first += PANEL) {
        const float *weight = p->weight + first * rows;
        long count = out - first < PANEL ? out - first : PANEL;
        for (long t = 0; t < texts; t += TEXTS) {
            long some = texts - t < TEXTS ? texts - t : TEXTS, many = found[t / TEXTS];
            const int *index = list + t / TEXTS * rows;
            const float *of = values + t * rows;
            float sums[TEXTS * PANEL];
            if (some == 1) add_up(weight, index, of, many, 1, sums);
            else if (some == 2) add_up(weight, index, of, many, 2, sums);
            else if (some == 3) add_up(weight, index, of, many, 3, sums);
            else add_up(weight, index, of, many, 4, sums);
            for (long s = 0; s < some; s++) {
                float *to = y + (t + s) * out + first;
                for (long j = 0; j < count; j++) {
                    float sum = sums[s * PANEL + j] + (p->bias ? p->bias[first + j] : 0);
                    to[j] = adds ? to[j] + sum : sum;
                }
            }
        }
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
static void attend(const float *q, const float *keys, const float *values, const float *bias,
                   long length, long D, float *scores, float *y) {
    float scale = 1 / __builtin_sqrtf(D), most = -__builtin_inff(), total = 0;
    for (long s = 0; s < length; s++) {
        float score = 0;
        #pragma omp simd reduction(+ : score)
        for (long i = 0; i < D; i++) score += q[i] * keys[s * D + i];
        scores[s] = score * scale + (bias ? bias[length - 1 - s] : 0);
        most = scores[s] > most ? scores[s] : most;
    }
    #pragma omp simd reduction(+ : total)
    for (long s = 0; s < length; s++) total += scores[s] = exponential(scores[s] - most);
    for (long i = 0; i < D; i++) y[i] = 0;
    for (long s = 0; s < length; s++) {
        float share = scores[s] / total;
        for (long i = 0; i < D; i++) y[i] += share * values[s * D + i];
    }
}

/* The first token after ``length - 1`` cached ones: ids (texts), cache (layers, 2, texts, heads,
   cache_room, D) -> logits (texts, vocabulary). */
void step(const struct model *m, const int64_t *ids, float *cache, long cache_room, long texts,
          long length, float *logits) {
    long C = m->width, H = m->heads, D = C / H;
    float *x = m->scratch, *normed = x + texts * C, *mixed = normed + texts * C;
    float *qkv = mixed + texts * C, *hidden = qkv + texts * 3 * C;
    float *scores = hidden + texts * m->blocks->mlp_in.out, *rest = scores + texts * H * length;
    for (long t = 0; t < texts; t++)
        for (long i = 0; i < C; i++)
            x[t * C + i] = m->tokens[ids[t] * C + i]
                         + (m->positions ? m->positions[(length - 1) * C + i] : 0);
    for (long layer = 0; layer < m->layers; layer++) {
        const struct block *block = m->blocks + layer;
        for (long t = 0; t < texts; t++)
            normalise(&block->norm_1, x + t * C, normed + t * C, C);
        multiply(&block->qkv, normed, qkv, texts, 0, rest, m->index);
        float *keys = cache + layer * 2 * texts * H * cache_room * D;
        float *values = keys + texts * H * cache_room * D;
        #pragma omp parallel for if (texts * H * length * D >= LARGE)
        for (long head = 0; head < texts * H; head++) {
            long t = head / H, h = head % H, start = head * cache_room * D, last = length - 1;
            float *q = qkv + t * 3 * C + h * D, *k = q + C, *v = k + C;
            normalise(&block->q_norm, q, q, D);
            normalise(&block->k_norm, k, k, D);
            if (m->cosine) {
                rotate(q, m->cosine + last * D / 2, m->sine + last * D / 2, D / 2);
                rotate(k, m->cosine + last * D / 2, m->sine + last * D / 2, D / 2);
            }
            for (long i = 0; i < D; i++) {
                keys[start + last * D + i] = k[i];
                values[start + last * D + i] = v[i];
            }
            const float *bias = block->bias ? block->bias + h * m->room : 0;
            attend(q, keys + start, values + start, bias, length, D, scores + head * length,
                   mixed + t * C + h * D);
        }
        multiply(&block->attention_out, mixed, x, texts, 1, rest, m->index);
        for (long t = 0; t < texts; t++)
            normalise(&block->norm_2, x + t * C, normed + t * C, C);
        long outputs = block->mlp_in.out, half = block->mlp_out.n;
        multiply(&block->mlp_in, normed, hidden, texts, 0, rest, m->index);
        if (BASE != IDENTITY || GATED)
            for (long t = 0; t < texts; t++)
                #pragma omp simd
                for (long i = 0; i < half; i++) {
                    float value = base(hidden[t * outputs + i]);
                    hidden[t * half + i] = GATED ? value * hidden[t * outputs + half + i] : value;
                }
        multiply(&block->mlp_out, hidden, x, texts, 1, rest, m->index);
    }
    for (long t = 0; t < texts; t++) normalise(&m->norm, x + t * C, normed + t * C, C);
    multiply(&m->head, normed, logits, texts, 0, rest, m->index);
}
