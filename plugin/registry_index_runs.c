/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_index_impl.h"

#define FIXED 32u

/* Holders that have had every id so far. */
struct race {
    const struct kvl_index *index;
    struct index_word *words; /* ascending, none empty */
    uint64_t *bits;
    uint32_t count; /* of words */
    struct kvl_index_run *runs;
    uint32_t ended;
    struct index_word fixed_words[FIXED];
    uint64_t fixed_bits[FIXED];
};

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Out of a bitmap they come in order. */
static void list_sort(struct index_list *list)
{
    uint32_t i = 1;

    while (i < list->count && list->items[i - 1] < list->items[i]) {
        i++;
    }
    if (i < list->count) {
        qsort(list->items, list->count, sizeof(list->items[0]), by_number);
    }
}

static void race_end(struct race *race, uint32_t word, uint64_t bits, uint32_t length)
{
    for (; bits != 0; bits &= bits - 1) {
        race->runs[race->ended++] = (struct kvl_index_run){
            .holder = word * 64 + (uint32_t)__builtin_ctzll(bits), .length = length};
    }
}

/* Who does not have the id ends with the length so far. */
static void race_step(struct race *race, uint64_t hash, const struct kvl_chunk_id *id,
                      uint32_t length)
{
    uint32_t kept = 0;

    kvl_index_among(race->index, hash, id, race->words, race->count, race->bits);
    for (uint32_t i = 0; i < race->count; i++) {
        struct index_word word = race->words[i];
        uint64_t stay = word.bits & race->bits[i];

        if (stay != word.bits) {
            race_end(race, word.word, word.bits & ~stay, length);
        }
        if (stay != 0) {
            race->words[kept++] = (struct index_word){.word = word.word, .bits = stay};
        }
    }
    race->count = kept;
}

static int race_init(struct race *race, const struct index_list *list)
{
    uint32_t words = 0;

    for (uint32_t i = 0; i < list->count; i++) {
        words += i == 0 || list->items[i] / 64 != list->items[i - 1] / 64;
    }
    race->runs = malloc(list->count * sizeof(*race->runs));
    if (words > FIXED) {
        race->words = malloc(words * sizeof(*race->words));
        race->bits = malloc(words * sizeof(*race->bits));
    }
    if (race->runs == NULL || race->words == NULL || race->bits == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < list->count; i++) {
        uint32_t word = list->items[i] / 64;

        if (race->count == 0 || race->words[race->count - 1].word != word) {
            race->words[race->count++] = (struct index_word){.word = word};
        }
        race->words[race->count - 1].bits |= 1ull << (list->items[i] % 64);
    }
    return 0;
}

static void race_fini(struct race *race)
{
    if (race->words != race->fixed_words) {
        free(race->words);
    }
    if (race->bits != race->fixed_bits) {
        free(race->bits);
    }
}

/* A number that went to another holder meanwhile may have joined two half runs. */
static void drop_reborn(struct race *race, uint64_t opens)
{
    uint32_t kept = 0;

    if (atomic_load_explicit(&race->index->holders.opens, memory_order_acquire) == opens) {
        return;
    }
    for (uint32_t i = 0; i < race->ended; i++) {
        const struct index_holder *holder = index_holder(race->index, race->runs[i].holder);

        if (atomic_load_explicit(&holder->opened, memory_order_acquire) <= opens) {
            race->runs[kept++] = race->runs[i];
        }
    }
    race->ended = kept;
}

static int race_run(struct race *race, struct index_stream *stream, const struct index_list *list,
                    uint64_t opens)
{
    uint32_t i;

    if (race_init(race, list) < 0) {
        free(race->runs);
        race_fini(race);
        return -ENOMEM;
    }
    for (i = 1; i < stream->count && race->count != 0; i++) {
        race_step(race, index_stream_next(stream, i), index_stream_id(stream, i), i);
    }
    for (uint32_t k = 0; k < race->count; k++) {
        race_end(race, race->words[k].word, race->words[k].bits, stream->count);
    }
    race_fini(race);
    drop_reborn(race, opens);
    return (int)race->ended;
}

static void accept_some(struct index_list *list, kvl_index_accept_fn accept, void *ctx)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < list->count; i++) {
        if (accept(ctx, list->items[i])) {
            list->items[kept++] = list->items[i];
        }
    }
    list->count = kept;
}

int kvl_index_runs(const struct kvl_index *index, const struct kvl_chunk_id *ids, uint32_t count,
                   kvl_index_accept_fn accept, void *ctx, struct kvl_index_run **runs_out)
{
    uint64_t opens = atomic_load_explicit(&index->holders.opens, memory_order_acquire);
    struct index_stream stream;
    struct index_list list;
    struct race race;
    int r = 0;

    if (count == 0) {
        *runs_out = NULL;
        return 0;
    }
    kvl_index_stream_init(&stream, index, ids, sizeof(*ids), count, 0);
    kvl_index_list_init(&list);
    r = kvl_index_collect(index, index_stream_next(&stream, 0), &ids[0], &list);
    race.index = index;
    race.runs = NULL;
    if (r == 0) {
        accept_some(&list, accept, ctx);
        list_sort(&list);
    }
    if (r == 0 && list.count != 0) {
        race.words = race.fixed_words;
        race.bits = race.fixed_bits;
        race.count = 0;
        race.ended = 0;
        r = race_run(&race, &stream, &list, opens);
    }
    kvl_index_list_fini(&list);
    if (r == 0) {
        free(race.runs);
        race.runs = NULL;
    }
    if (r >= 0) {
        *runs_out = race.runs;
    }
    return r;
}
