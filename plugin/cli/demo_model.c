/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_model.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define TILE 64u /* tokens computed together */
#define PANEL 8u /* outputs computed together */
#define ROWS 4u /* tokens that share one read of a panel */
#define ROPE_BASE 10000.0f
#define NORM_EPSILON 1e-5f

/* Lanes are outputs, or parts of one head: sums never cross them except in one fixed order. */
typedef float lanes __attribute__((vector_size(16)));

/** A matrix in panels of PANEL outputs: [out / PANEL][in][PANEL]. */
struct matrix {
    uint32_t in;
    uint32_t out;
    float *weight;
};

struct layer {
    struct matrix q, k, v, o;
    struct matrix gate, up, down;
};

struct model {
    struct layer layers[MODEL_LAYERS];
    struct matrix head;
    float *embedding; /* [MODEL_VOCAB][MODEL_HIDDEN] */
    float *cosine; /* [MODEL_MAX_TOKENS][MODEL_HEAD / 2] */
    float *sine;
    float *cache;
    float *score; /* [MODEL_MAX_TOKENS] */
    float *x; /* scratch, [TILE][MODEL_HIDDEN] each down to `mix` */
    float *norm;
    float *query;
    float *mix;
    float *gate; /* [TILE][MODEL_FFN] */
    float *up;
    uint64_t seed; /* of the next weight */
};

/* ---- making it ---- */

static float *floats(size_t count)
{
    void *at = NULL;

    return posix_memalign(&at, 64, count * sizeof(float)) == 0 ? at : NULL;
}

/* Uniform with standard deviation `gain` / sqrt(in): values keep their size from layer to layer. */
static void weights_fill(struct model *model, float *to, size_t count, float gain, uint32_t in)
{
    float scale = gain * sqrtf(3.0f / (float)in);

    for (size_t i = 0; i < count; i++) {
        int32_t draw = (int32_t)(util_mix(model->seed++) >> 40) - (1 << 23);

        to[i] = (float)draw / (float)(1 << 23) * scale;
    }
}

static int matrix_init(struct model *model, struct matrix *matrix, uint32_t in, uint32_t out,
                       float gain)
{
    size_t count = (size_t)in * out;

    *matrix = (struct matrix){.in = in, .out = out, .weight = floats(count)};
    if (matrix->weight == NULL) {
        return -ENOMEM;
    }
    weights_fill(model, matrix->weight, count, gain, in);
    return 0;
}

static int layer_init(struct model *model, struct layer *layer)
{
    int bad = 0;

    /* Sharp attention: with small gains every token would look at all others alike. */
    bad |= matrix_init(model, &layer->q, MODEL_HIDDEN, MODEL_HIDDEN, 1.6f);
    bad |= matrix_init(model, &layer->k, MODEL_HIDDEN, MODEL_HIDDEN, 1.6f);
    bad |= matrix_init(model, &layer->v, MODEL_HIDDEN, MODEL_HIDDEN, 1.0f);
    bad |= matrix_init(model, &layer->o, MODEL_HIDDEN, MODEL_HIDDEN, 1.0f);
    bad |= matrix_init(model, &layer->gate, MODEL_HIDDEN, MODEL_FFN, 1.4f);
    bad |= matrix_init(model, &layer->up, MODEL_HIDDEN, MODEL_FFN, 1.4f);
    bad |= matrix_init(model, &layer->down, MODEL_FFN, MODEL_HIDDEN, 1.0f);
    return bad != 0 ? -ENOMEM : 0;
}

static void rope_init(struct model *model)
{
    for (uint32_t at = 0; at < MODEL_MAX_TOKENS; at++) {
        for (uint32_t i = 0; i < MODEL_HEAD / 2; i++) {
            float turn = powf(ROPE_BASE, -2.0f * (float)i / (float)MODEL_HEAD);

            model->cosine[at * (MODEL_HEAD / 2) + i] = cosf((float)at * turn);
            model->sine[at * (MODEL_HEAD / 2) + i] = sinf((float)at * turn);
        }
    }
}

static size_t cache_floats(void)
{
    return (size_t)MODEL_LAYERS * 2 * MODEL_MAX_TOKENS * MODEL_HIDDEN;
}

static int scratch_init(struct model *model)
{
    model->embedding = floats(MODEL_VOCAB * MODEL_HIDDEN);
    model->cosine = floats(MODEL_MAX_TOKENS * (MODEL_HEAD / 2));
    model->sine = floats(MODEL_MAX_TOKENS * (MODEL_HEAD / 2));
    model->cache = floats(cache_floats());
    model->score = floats(MODEL_MAX_TOKENS);
    model->x = floats(TILE * MODEL_HIDDEN);
    model->norm = floats(TILE * MODEL_HIDDEN);
    model->query = floats(TILE * MODEL_HIDDEN);
    model->mix = floats(TILE * MODEL_HIDDEN);
    model->gate = floats(TILE * MODEL_FFN);
    model->up = floats(TILE * MODEL_FFN);
    return model->embedding == NULL || model->cosine == NULL || model->sine == NULL ||
                   model->cache == NULL || model->score == NULL || model->x == NULL ||
                   model->norm == NULL || model->query == NULL || model->mix == NULL ||
                   model->gate == NULL || model->up == NULL
               ? -ENOMEM
               : 0;
}

int model_create(struct model **model_out)
{
    struct model *model = calloc(1, sizeof(*model));
    int r;

    if (model == NULL) {
        return -ENOMEM;
    }
    model->seed = 0x6b766c616e65ull;
    r = scratch_init(model);
    for (uint32_t i = 0; r == 0 && i < MODEL_LAYERS; i++) {
        r = layer_init(model, &model->layers[i]);
    }
    if (r == 0) {
        r = matrix_init(model, &model->head, MODEL_HIDDEN, MODEL_VOCAB, 2.0f);
    }
    if (r < 0) {
        model_destroy(model);
        return r;
    }
    weights_fill(model, model->embedding, MODEL_VOCAB * MODEL_HIDDEN, 1.0f, 1);
    rope_init(model);
    *model_out = model;
    return 0;
}

void model_destroy(struct model *model)
{
    if (model == NULL) {
        return;
    }
    for (uint32_t i = 0; i < MODEL_LAYERS; i++) {
        struct layer *layer = &model->layers[i];

        free(layer->q.weight);
        free(layer->k.weight);
        free(layer->v.weight);
        free(layer->o.weight);
        free(layer->gate.weight);
        free(layer->up.weight);
        free(layer->down.weight);
    }
    free(model->head.weight);
    free(model->embedding);
    free(model->cosine);
    free(model->sine);
    free(model->cache);
    free(model->score);
    free(model->x);
    free(model->norm);
    free(model->query);
    free(model->mix);
    free(model->gate);
    free(model->up);
    free(model);
}

float *model_cache(struct model *model)
{
    return model->cache;
}

void model_forget(struct model *model)
{
    memset(model->cache, 0xff, cache_floats() * sizeof(float)); /* all NaN */
}

/* ---- arithmetic ---- */

static lanes lanes_at(const float *from)
{
    lanes value;

    memcpy(&value, from, sizeof(value));
    return value;
}

/*
 * `rows` rows times one panel. An output is one sum over `in` in rising order, whatever `rows` is:
 * that is what makes a row's bits independent of its neighbours.
 */
static inline __attribute__((always_inline)) void panel_rows(const float *restrict panel,
                                                             uint32_t in, const float *restrict x,
                                                             float *restrict y, uint32_t out,
                                                             uint32_t rows)
{
    lanes low[ROWS] = {{0}};
    lanes high[ROWS] = {{0}};

    for (uint32_t i = 0; i < in; i++) {
        lanes a = lanes_at(panel + i * PANEL);
        lanes b = lanes_at(panel + i * PANEL + 4);

        for (uint32_t r = 0; r < rows; r++) {
            float one = x[r * in + i];
            lanes all = {one, one, one, one};

            low[r] += all * a;
            high[r] += all * b;
        }
    }
    for (uint32_t r = 0; r < rows; r++) {
        memcpy(y + r * out, &low[r], sizeof(lanes));
        memcpy(y + r * out + 4, &high[r], sizeof(lanes));
    }
}

/* y[rows][out] = x[rows][in] * matrix. */
static void multiply(const struct matrix *matrix, const float *x, float *y, uint32_t rows)
{
    uint32_t in = matrix->in;
    uint32_t out = matrix->out;

    for (uint32_t o = 0; o < out; o += PANEL) {
        const float *panel = matrix->weight + (size_t)o * in;
        uint32_t r = 0;

        for (; r + ROWS <= rows; r += ROWS) {
            panel_rows(panel, in, x + r * in, y + r * out + o, out, ROWS);
        }
        for (; r < rows; r++) {
            panel_rows(panel, in, x + r * in, y + r * out + o, out, 1);
        }
    }
}

static void rms_norm(const float *x, float *y, uint32_t rows)
{
    for (uint32_t r = 0; r < rows; r++) {
        const float *from = x + r * MODEL_HIDDEN;
        float *to = y + r * MODEL_HIDDEN;
        float sum = 0;
        float scale;

        for (uint32_t i = 0; i < MODEL_HIDDEN; i++) {
            sum += from[i] * from[i];
        }
        scale = 1.0f / sqrtf(sum / (float)MODEL_HIDDEN + NORM_EPSILON);
        for (uint32_t i = 0; i < MODEL_HIDDEN; i++) {
            to[i] = from[i] * scale;
        }
    }
}

static void rotate(const struct model *model, float *x, uint32_t from, uint32_t rows)
{
    for (uint32_t r = 0; r < rows; r++) {
        const float *cosine = model->cosine + (from + r) * (MODEL_HEAD / 2);
        const float *sine = model->sine + (from + r) * (MODEL_HEAD / 2);

        for (uint32_t h = 0; h < MODEL_HEADS; h++) {
            float *head = x + r * MODEL_HIDDEN + h * MODEL_HEAD;

            for (uint32_t i = 0; i < MODEL_HEAD / 2; i++) {
                float a = head[i];
                float b = head[i + MODEL_HEAD / 2];

                head[i] = a * cosine[i] - b * sine[i];
                head[i + MODEL_HEAD / 2] = a * sine[i] + b * cosine[i];
            }
        }
    }
}

static float dot_head(const float *a, const float *b)
{
    lanes sum = {0};

    for (uint32_t i = 0; i < MODEL_HEAD; i += 4) {
        sum += lanes_at(a + i) * lanes_at(b + i);
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* One head of one token over the `count` tokens up to and with itself. */
static void attend_head(float *score, const float *query, const float *keys, const float *values,
                        uint32_t count, float *out)
{
    const float scale = 1.0f / sqrtf((float)MODEL_HEAD);
    lanes sum[MODEL_HEAD / 4] = {{0}};
    float most = -INFINITY;
    float total = 0;

    for (uint32_t t = 0; t < count; t++) {
        score[t] = dot_head(query, keys + (size_t)t * MODEL_HIDDEN) * scale;
        most = score[t] > most ? score[t] : most;
    }
    for (uint32_t t = 0; t < count; t++) {
        score[t] = expf(score[t] - most);
        total += score[t];
    }
    for (uint32_t t = 0; t < count; t++) {
        lanes part = {score[t], score[t], score[t], score[t]};

        for (uint32_t i = 0; i < MODEL_HEAD / 4; i++) {
            sum[i] += part * lanes_at(values + (size_t)t * MODEL_HIDDEN + i * 4);
        }
    }
    for (uint32_t i = 0; i < MODEL_HEAD / 4; i++) {
        lanes part = sum[i] / total;

        memcpy(out + i * 4, &part, sizeof(part));
    }
}

static void add(float *to, const float *from, uint32_t rows)
{
    for (uint32_t i = 0; i < rows * MODEL_HIDDEN; i++) {
        to[i] += from[i];
    }
}

static void attention(struct model *model, uint32_t at, uint32_t from, uint32_t rows)
{
    const struct layer *layer = &model->layers[at];
    float *keys = model->cache + (size_t)at * 2 * MODEL_MAX_TOKENS * MODEL_HIDDEN;
    float *values = keys + (size_t)MODEL_MAX_TOKENS * MODEL_HIDDEN;

    rms_norm(model->x, model->norm, rows);
    multiply(&layer->q, model->norm, model->query, rows);
    multiply(&layer->k, model->norm, keys + (size_t)from * MODEL_HIDDEN, rows);
    multiply(&layer->v, model->norm, values + (size_t)from * MODEL_HIDDEN, rows);
    rotate(model, model->query, from, rows);
    rotate(model, keys + (size_t)from * MODEL_HIDDEN, from, rows);
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t h = 0; h < MODEL_HEADS; h++) {
            uint32_t column = h * MODEL_HEAD;

            attend_head(model->score, model->query + r * MODEL_HIDDEN + column, keys + column,
                        values + column, from + r + 1, model->mix + r * MODEL_HIDDEN + column);
        }
    }
    multiply(&layer->o, model->mix, model->norm, rows);
    add(model->x, model->norm, rows);
}

static void feed_forward(struct model *model, uint32_t at, uint32_t rows)
{
    const struct layer *layer = &model->layers[at];

    rms_norm(model->x, model->norm, rows);
    multiply(&layer->gate, model->norm, model->gate, rows);
    multiply(&layer->up, model->norm, model->up, rows);
    for (uint32_t i = 0; i < rows * MODEL_FFN; i++) {
        float gate = model->gate[i];

        model->gate[i] = gate / (1.0f + expf(-gate)) * model->up[i];
    }
    multiply(&layer->down, model->gate, model->norm, rows);
    add(model->x, model->norm, rows);
}

void model_forward(struct model *model, const uint8_t *tokens, uint32_t from, uint32_t to,
                   float logits_out[MODEL_VOCAB])
{
    uint32_t rows = 0;

    for (; from < to; from += rows) {
        rows = to - from < TILE ? to - from : TILE;
        for (uint32_t r = 0; r < rows; r++) {
            memcpy(model->x + r * MODEL_HIDDEN, model->embedding + tokens[from + r] * MODEL_HIDDEN,
                   MODEL_HIDDEN * sizeof(float));
        }
        for (uint32_t at = 0; at < MODEL_LAYERS; at++) {
            attention(model, at, from, rows);
            feed_forward(model, at, rows);
        }
    }
    rms_norm(model->x + (rows - 1) * MODEL_HIDDEN, model->norm, 1);
    multiply(&model->head, model->norm, logits_out, 1);
}

uint8_t model_pick(const float logits[MODEL_VOCAB])
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < MODEL_VOCAB; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return (uint8_t)best;
}
