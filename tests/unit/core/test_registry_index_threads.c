/* SPDX-License-Identifier: Apache-2.0 */
/* Lookups while everything changes under them. Meant for the thread sanitizer, too. */
#include "cm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "registry_index.h"

#define KEPT 4000u /* ids that one holder has all the time */
#define HOT 40u /* the first of them: others come and go on these */
#define WRITERS 2u
#define READERS 2u
#define LIVES 120u /* of the holders of one writer */
#define PER_LIFE 4000u /* keys of each, besides */
#define CROWD 40u /* holders that a writer has at a time */

#define NUMBERS 4096u

/* Of a holder number: counts up, and is one of these modulo 3. */
#define DEAD 0u
#define LIVING 1u
/* 2: about to be retired */
static _Atomic uint64_t lives[NUMBERS];

struct shared {
    struct kvl_index *index;
    uint32_t keeper;
    _Atomic uint32_t writing;
    struct kvl_chunk_id ids[KEPT];
};

struct writer {
    struct shared *shared;
    uint32_t number;
    pthread_t thread;
};

static struct kvl_chunk_id id_of(uint64_t i)
{
    return (struct kvl_chunk_id){.bits = i * 0x9e3779b97f4a7c15u, .negative = i % 2};
}

static void open_life(struct shared *shared, uint32_t *holder_out)
{
    uint64_t life;

    if (kvl_index_holder_open(shared->index, holder_out) != 0 || *holder_out >= NUMBERS) {
        abort();
    }
    life = atomic_load(&lives[*holder_out]);
    if (life % 3 == LIVING) {
        abort(); /* the number was in use */
    }
    atomic_store(&lives[*holder_out], life + (life % 3 == DEAD ? 1 : 2));
}

static void close_life(struct shared *shared, uint32_t holder)
{
    uint64_t life = atomic_fetch_add(&lives[holder], 1) + 1;

    kvl_index_holder_retire(shared->index, holder);
    /* unless the number is in use again already */
    (void)atomic_compare_exchange_strong(&lives[holder], &life, life + 1);
}

static void *write_much(void *arg)
{
    struct writer *writer = arg;
    struct shared *shared = writer->shared;
    static struct kvl_chunk_id own[WRITERS][PER_LIFE];
    struct kvl_chunk_id *ids = own[writer->number];
    uint32_t crowd[CROWD];

    for (uint32_t i = 0; i < CROWD; i++) {
        open_life(shared, &crowd[i]);
        (void)kvl_index_add(shared->index, crowd[i], shared->ids, 1 + i % HOT);
    }
    for (uint32_t life = 0; life < LIVES; life++) {
        uint32_t at = life % CROWD;

        for (uint32_t i = 0; i < PER_LIFE; i++) {
            ids[i] = id_of(((uint64_t)(writer->number + 1) << 40) + (life % 3) * PER_LIFE + i);
        }
        if (kvl_index_add(shared->index, crowd[at], ids, PER_LIFE) != 0) {
            abort();
        }
        kvl_index_remove(shared->index, crowd[(at + 1) % CROWD], ids, PER_LIFE / 2);
        kvl_index_remove(shared->index, crowd[(at + 2) % CROWD], shared->ids, HOT);
        (void)kvl_index_add(shared->index, crowd[(at + 2) % CROWD], shared->ids, HOT);
        close_life(shared, crowd[at]);
        open_life(shared, &crowd[at]);
        (void)kvl_index_add(shared->index, crowd[at], shared->ids, 1 + life % HOT);
        (void)kvl_index_tidy(shared->index, 300);
    }
    atomic_fetch_sub(&shared->writing, 1);
    return NULL;
}

/* A holder that a lookup gave out lived at some time during it. */
static void check_life(const uint64_t *before, uint32_t holder)
{
    if (before[holder] % 3 == DEAD && atomic_load(&lives[holder]) == before[holder]) {
        abort();
    }
}

static void note_lives(uint64_t *before)
{
    for (uint32_t i = 0; i < NUMBERS; i++) {
        before[i] = atomic_load(&lives[i]);
    }
}

static int accept_all(void *ctx, uint32_t holder)
{
    (void)ctx;
    (void)holder;
    return 1;
}

static void check_runs(struct shared *shared, const uint64_t *before)
{
    struct kvl_index_run *runs;
    int found = 0;
    int r = kvl_index_runs(shared->index, shared->ids, HOT + 1, accept_all, NULL, &runs);

    for (int i = 0; i < r; i++) {
        if (runs[i].holder == shared->keeper) {
            found += runs[i].length == HOT + 1;
        } else if (runs[i].length > HOT) {
            abort(); /* nobody else ever had the last one */
        }
        check_life(before, runs[i].holder);
    }
    if (found != 1) {
        abort();
    }
    free(runs);
}

static uint32_t one_group(void *ctx, uint32_t holder)
{
    (void)holder;
    (void)ctx;
    return 7;
}

static int before_by_number(void *ctx, uint32_t a, uint32_t b)
{
    (void)ctx;
    return a < b;
}

static void check_prefixes(struct shared *shared)
{
    const struct kvl_index_grouping grouping = {.group = one_group, .before = before_by_number};
    struct kvl_index_prefix *prefixes;
    int r = kvl_index_prefixes(shared->index, shared->ids, 2 * HOT, &grouping, &prefixes);

    if (r != 1 || prefixes[0].length != 2 * HOT || prefixes[0].holder != shared->keeper) {
        abort();
    }
    free(prefixes);
}

static int count_kept(void *ctx, const struct kvl_chunk_id *id, uint32_t holder)
{
    uint64_t *count = ctx;

    (void)id;
    count[1] += holder == count[0];
    return 0;
}

/* Every kept chunk has a holder at all times, the cold ones always the same. */
static void check_holders(struct shared *shared, const uint64_t *before)
{
    for (uint32_t i = 0; i < KEPT; i++) {
        uint32_t *holders;
        int r = kvl_index_holders(shared->index, &shared->ids[i], &holders);

        if (r < 1 || kvl_index_has(shared->index, &shared->ids[i]) != 1 ||
            (i > HOT && (r != 1 || holders[0] != shared->keeper))) {
            abort();
        }
        for (int k = 0; k < r; k++) {
            check_life(before, holders[k]);
        }
        free(holders);
    }
}

static void *read_much(void *arg)
{
    struct shared *shared = arg;
    static _Thread_local uint64_t before[NUMBERS];
    uint32_t round = 0;

    do {
        note_lives(before);
        check_holders(shared, before);
        for (uint32_t i = 0; i < 5; i++) {
            note_lives(before);
            check_runs(shared, before);
            check_prefixes(shared);
        }
        if (round++ % 4 == 0) {
            uint64_t count[2] = {shared->keeper, 0};

            if (kvl_index_walk(shared->index, count_kept, count) != 0 || count[1] != KEPT) {
                abort();
            }
        }
    } while (atomic_load(&shared->writing) != 0);
    return NULL;
}

static void test_lookups_while_all_changes(void **state)
{
    static struct shared shared;
    struct writer writers[WRITERS];
    pthread_t readers[READERS];
    struct kvl_index_stats stats;

    (void)state;
    assert_int_equal(kvl_index_create(0, &shared.index), 0);
    open_life(&shared, &shared.keeper);
    for (uint32_t i = 0; i < KEPT; i++) {
        shared.ids[i] = id_of(i);
    }
    assert_int_equal(kvl_index_add(shared.index, shared.keeper, shared.ids, KEPT), 0);
    shared.writing = WRITERS;
    for (uint32_t i = 0; i < WRITERS; i++) {
        writers[i] = (struct writer){.shared = &shared, .number = i};
        assert_int_equal(pthread_create(&writers[i].thread, NULL, write_much, &writers[i]), 0);
    }
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_create(&readers[i], NULL, read_much, &shared), 0);
    }
    for (uint32_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_join(writers[i].thread, NULL), 0);
    }
    for (uint32_t i = 0; i < READERS; i++) {
        assert_int_equal(pthread_join(readers[i], NULL), 0);
    }
    while (kvl_index_tidy(shared.index, 1000) == 1) {
    }
    kvl_index_get_stats(shared.index, &stats);
    assert_int_equal(stats.retired, 0);
    assert_true(stats.entries >= KEPT);
    kvl_index_holder_retire(shared.index, shared.keeper);
    kvl_index_destroy(shared.index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookups_while_all_changes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
