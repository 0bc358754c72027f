/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_index.h"

static uint64_t seed = 1;

static uint64_t rnd(uint64_t below)
{
    uint64_t x = seed += 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (x ^ x >> 31) % below;
}

static struct kvl_index *create(uint64_t max_bytes)
{
    struct kvl_index *index;

    assert_int_equal(kvl_index_create(max_bytes, &index), 0);
    return index;
}

static uint32_t open_holder(struct kvl_index *index)
{
    uint32_t holder;

    assert_int_equal(kvl_index_holder_open(index, &holder), 0);
    return holder;
}

static struct kvl_index_stats stats_of(const struct kvl_index *index)
{
    struct kvl_index_stats stats;

    kvl_index_get_stats(index, &stats);
    return stats;
}

static int accept_all(void *ctx, uint32_t holder)
{
    (void)ctx;
    (void)holder;
    return 1;
}

static void test_sign_is_part_of_the_id(void **state)
{
    const struct kvl_chunk_id ids[] = {
        {.bits = 0}, {.bits = UINT64_MAX}, {.bits = UINT64_MAX, .negative = 1}};
    struct kvl_index *index = create(0);
    uint32_t holder = open_holder(index);

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(kvl_index_has(index, &ids[i]), 0);
        assert_int_equal(kvl_index_add(index, holder, &ids[i], 1), 0);
        for (int k = 0; k < 3; k++) {
            assert_int_equal(kvl_index_has(index, &ids[k]), k <= i);
        }
    }
    kvl_index_remove(index, holder, &ids[1], 1);
    assert_int_equal(kvl_index_has(index, &ids[0]), 1);
    assert_int_equal(kvl_index_has(index, &ids[1]), 0);
    assert_int_equal(kvl_index_has(index, &ids[2]), 1);
    assert_int_equal(kvl_index_holder_keys(index, holder), 2);
    kvl_index_destroy(index);
}

static void test_empty(void **state)
{
    struct kvl_index *index = create(0);
    struct kvl_chunk_id id = {.bits = 7};
    struct kvl_index_run *runs;
    uint32_t *holders;
    uint32_t number;

    (void)state;
    assert_int_equal(kvl_index_has(index, &id), 0);
    assert_int_equal(kvl_index_runs(index, &id, 1, accept_all, NULL, &runs), 0);
    assert_null(runs);
    assert_int_equal(kvl_index_runs(index, &id, 0, accept_all, NULL, &runs), 0);
    assert_int_equal(kvl_index_holders(index, &id, &holders), 0);
    assert_null(holders);
    number = open_holder(index);
    kvl_index_remove(index, number, &id, 1);
    kvl_index_holder_retire(index, number);
    assert_int_equal(kvl_index_tidy(index, 0), 0);
    assert_int_equal(open_holder(index), number); /* nothing was left, so it is free at once */
    kvl_index_destroy(index);
}

static void test_apply_stops_behind_the_last_key(void **state)
{
    struct kvl_index *index = create(0);
    uint32_t holder = open_holder(index);
    uint64_t dropped = 0;
    struct kvl_key_op ops[] = {
        {.id.bits = 1, .kind = KVL_KEY_ADMIT}, {.id.bits = 2, .kind = KVL_KEY_EVICT},
        {.id.bits = 1, .kind = KVL_KEY_ADMIT}, {.id.bits = 1, .kind = KVL_KEY_EVICT},
        {.id.bits = 3, .kind = KVL_KEY_ADMIT}, {.id.bits = 4, .kind = KVL_KEY_ADMIT},
        {.id.bits = 3, .kind = KVL_KEY_EVICT},
    };

    (void)state;
    assert_int_equal(kvl_index_apply(index, holder, ops, 7, &dropped), 4);
    assert_int_equal(kvl_index_holder_keys(index, holder), 0);
    assert_int_equal(kvl_index_apply(index, holder, ops + 4, 3, &dropped), 3);
    assert_int_equal(kvl_index_holder_keys(index, holder), 1);
    assert_int_equal(kvl_index_has(index, &ops[5].id), 1);
    assert_int_equal(dropped, 0);
    kvl_index_destroy(index);
}

/* ---- against a model ---- */

#define IDS 400u
#define HOLDERS 90u
#define NUMBERS 4096u

struct model {
    struct kvl_index *index;
    struct kvl_chunk_id ids[IDS];
    uint8_t has[HOLDERS][IDS];
    uint32_t numbers[HOLDERS];
    uint8_t holder_of[NUMBERS]; /* the last one that had the number */
    uint32_t keys[HOLDERS];
};

/* Who has this number now; -1. */
static int model_find(const struct model *model, uint32_t number)
{
    int holder = number < NUMBERS ? model->holder_of[number] : 0;

    return holder < (int)HOLDERS && model->numbers[holder] == number ? holder : -1;
}

static void model_open(struct model *model, uint32_t holder)
{
    uint32_t number = open_holder(model->index);

    assert_in_range(number, 0, NUMBERS - 1);
    model->numbers[holder] = number;
    model->holder_of[number] = (uint8_t)holder;
}

static void model_init(struct model *model)
{
    memset(model, 0, sizeof(*model));
    model->index = create(0);
    for (uint32_t i = 0; i < IDS; i++) {
        /* small ones, their negatives, and the ends of the range */
        uint64_t value = i < 100 ? i : rnd(UINT64_MAX);

        model->ids[i] = (struct kvl_chunk_id){.bits = i % 2 == 0 ? value / 2 : 0 - (value / 2 + 1),
                                              .negative = i % 2};
    }
    model->ids[IDS - 1] = (struct kvl_chunk_id){.bits = UINT64_MAX};
    for (uint32_t h = 0; h < HOLDERS; h++) {
        model_open(model, h);
    }
}

static uint32_t model_count(const struct model *model, uint32_t id)
{
    uint32_t count = 0;

    for (uint32_t h = 0; h < HOLDERS; h++) {
        count += model->has[h][id];
    }
    return count;
}

static void model_set(struct model *model, uint32_t holder, uint32_t id, uint8_t has)
{
    model->keys[holder] += has;
    model->keys[holder] -= model->has[holder][id];
    model->has[holder][id] = has;
}

static void model_change(struct model *model)
{
    uint32_t holder = (uint32_t)rnd(HOLDERS);
    uint32_t count = (uint32_t)rnd(20) + 1;
    uint64_t dropped = 0;
    struct kvl_key_op ops[20];
    struct kvl_chunk_id ids[20];
    uint32_t at[20];
    uint32_t way = (uint32_t)rnd(3);
    uint32_t used;

    for (uint32_t i = 0; i < count; i++) {
        /* some ids are rare, some are everybody's */
        at[i] = (uint32_t)rnd(rnd(IDS) + 1);
        ids[i] = model->ids[at[i]];
        ops[i] =
            (struct kvl_key_op){.id = ids[i], .kind = rnd(2) == 0 ? KVL_KEY_ADMIT : KVL_KEY_EVICT};
    }
    if (way == 0) {
        for (uint32_t from = 0; from < count; from += used) {
            used = kvl_index_apply(model->index, model->numbers[holder], ops + from, count - from,
                                   &dropped);
            assert_in_range(used, 1, count - from);
        }
    } else if (way == 1) {
        assert_int_equal(kvl_index_add(model->index, model->numbers[holder], ids, count), 0);
    } else {
        kvl_index_remove(model->index, model->numbers[holder], ids, count);
    }
    assert_int_equal(dropped, 0);
    for (uint32_t i = 0; i < count; i++) {
        model_set(model, holder, at[i],
                  way == 1 || (way == 0 && ops[i].kind == KVL_KEY_ADMIT) ? 1 : 0);
    }
    assert_int_equal(kvl_index_holder_keys(model->index, model->numbers[holder]),
                     model->keys[holder]);
}

static void model_retire(struct model *model)
{
    uint32_t holder = (uint32_t)rnd(HOLDERS);

    kvl_index_holder_retire(model->index, model->numbers[holder]);
    model_open(model, holder);
    memset(model->has[holder], 0, IDS);
    model->keys[holder] = 0;
    assert_int_equal(kvl_index_holder_keys(model->index, model->numbers[holder]), 0);
}

static void check_holders(const struct model *model, uint32_t id)
{
    uint32_t *holders;
    int r = kvl_index_holders(model->index, &model->ids[id], &holders);

    assert_int_equal(r, model_count(model, id));
    for (int i = 0; i < r; i++) {
        int holder = model_find(model, holders[i]);

        assert_true(holder >= 0 && model->has[holder][id]);
        for (int k = 0; k < i; k++) {
            assert_int_not_equal(holders[i], holders[k]);
        }
    }
    free(holders);
    assert_int_equal(kvl_index_has(model->index, &model->ids[id]), r > 0);
}

static int accept_even(void *ctx, uint32_t holder)
{
    (void)ctx;
    return holder % 2 == 0;
}

static uint32_t model_run(const struct model *model, uint32_t holder, const uint32_t *at,
                          uint32_t count)
{
    uint32_t length = 0;

    while (length < count && model->has[holder][at[length]]) {
        length++;
    }
    return length;
}

static void pick(const struct model *model, struct kvl_chunk_id *ids, uint32_t *at, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        at[i] = (uint32_t)rnd(rnd(rnd(IDS) + 1) + 1);
        ids[i] = model->ids[at[i]];
    }
}

static void check_runs(const struct model *model)
{
    struct kvl_chunk_id ids[50];
    uint32_t at[50];
    uint32_t count = (uint32_t)rnd(50) + 1;
    kvl_index_accept_fn accept = rnd(2) == 0 ? accept_all : accept_even;
    struct kvl_index_run *runs;
    uint32_t expected = 0;
    int r;

    pick(model, ids, at, count);
    for (uint32_t h = 0; h < HOLDERS; h++) {
        expected += model->has[h][at[0]] && accept(NULL, model->numbers[h]);
    }
    r = kvl_index_runs(model->index, ids, count, accept, NULL, &runs);
    assert_int_equal(r, expected);
    for (int i = 0; i < r; i++) {
        int holder = model_find(model, runs[i].holder);

        assert_true(holder >= 0 && accept(NULL, runs[i].holder));
        assert_int_equal(runs[i].length, model_run(model, (uint32_t)holder, at, count));
        for (int k = 0; k < i; k++) {
            assert_int_not_equal(runs[i].holder, runs[k].holder);
        }
    }
    free(runs);
}

/* Groups of the model: by its own number, so that they live on when holders get new ones. */
static uint32_t group_of(void *ctx, uint32_t number)
{
    int holder = model_find(ctx, number);

    assert_true(holder >= 0);
    return holder % 7 == 0 ? KVL_INDEX_NONE : 1000u * ((uint32_t)holder % 7);
}

static int before(void *ctx, uint32_t a, uint32_t b)
{
    return model_find(ctx, a) < model_find(ctx, b);
}

/* First of a group that has an id; -1. */
static int model_first(const struct model *model, uint32_t group, uint32_t id)
{
    for (uint32_t h = group; h < HOLDERS; h += 7) {
        if (model->has[h][id]) {
            return (int)h;
        }
    }
    return -1;
}

static void check_prefixes(struct model *model)
{
    const struct kvl_index_grouping grouping = {.ctx = model, .group = group_of, .before = before};
    struct kvl_chunk_id ids[50];
    uint32_t at[50];
    uint32_t count = (uint32_t)rnd(50) + 1;
    struct kvl_index_prefix *prefixes;
    uint32_t expected = 0;
    int r;

    pick(model, ids, at, count);
    r = kvl_index_prefixes(model->index, ids, count, &grouping, &prefixes);
    for (uint32_t group = 1; group < 7; group++) {
        uint32_t length = 0;
        int i;

        while (length < count && model_first(model, group, at[length]) >= 0) {
            length++;
        }
        expected += length != 0;
        for (i = 0; i < r && prefixes[i].group != 1000 * group; i++) {
        }
        if (length != 0) {
            assert_true(i < r);
            assert_int_equal(prefixes[i].length, length);
            assert_int_equal(prefixes[i].holder,
                             model->numbers[model_first(model, group, at[length - 1])]);
        }
    }
    assert_int_equal(r, expected);
    free(prefixes);
}

struct walked {
    const struct model *model;
    uint8_t seen[HOLDERS][IDS];
    uint32_t count;
};

static uint32_t model_id(const struct model *model, const struct kvl_chunk_id *id)
{
    uint32_t i = 0;

    while (memcmp(id, &model->ids[i], sizeof(*id)) != 0) {
        i++;
        assert_in_range(i, 0, IDS - 1);
    }
    return i;
}

static int walk_entry(void *ctx, const struct kvl_chunk_id *id, uint32_t number)
{
    struct walked *walked = ctx;
    int holder = model_find(walked->model, number);
    uint32_t i;

    assert_true(holder >= 0);
    i = model_id(walked->model, id);
    assert_true(walked->model->has[holder][i]);
    assert_false(walked->seen[holder][i]);
    walked->seen[holder][i] = 1;
    walked->count++;
    return 0;
}

static void check_all(struct model *model)
{
    static struct walked walked;
    uint32_t entries = 0;
    uint32_t ids = 0;

    for (uint32_t id = 0; id < IDS; id++) {
        check_holders(model, id);
        entries += model_count(model, id);
        ids += model_count(model, id) != 0;
    }
    assert_int_equal(stats_of(model->index).entries, entries);
    assert_true(stats_of(model->index).ids >= ids);
    memset(&walked, 0, sizeof(walked));
    walked.model = model;
    assert_int_equal(kvl_index_walk(model->index, walk_entry, &walked), 0);
    assert_int_equal(walked.count, entries);
    if (rnd(2) == 0) {
        while (kvl_index_tidy(model->index, 1000) == 1) {
        }
        assert_int_equal(stats_of(model->index).retired, 0);
        assert_int_equal(stats_of(model->index).ids, ids);
    }
}

static void test_random_changes_against_a_model(void **state)
{
    static struct model model;

    (void)state;
    model_init(&model);
    for (uint32_t i = 0; i < 120000; i++) { /* of about ten keys each */
        model_change(&model);
        if (rnd(500) == 0) {
            model_retire(&model);
        }
        if (rnd(16) == 0) {
            check_runs(&model);
            check_prefixes(&model);
            check_holders(&model, (uint32_t)rnd(IDS));
        }
        if (i % 10000 == 0) {
            check_all(&model);
        }
    }
    for (uint32_t h = 0; h < HOLDERS; h++) {
        kvl_index_remove(model.index, model.numbers[h], model.ids, IDS);
        memset(model.has[h], 0, IDS);
    }
    check_all(&model);
    assert_int_equal(stats_of(model.index).entries, 0);
    kvl_index_destroy(model.index);
}

/* ---- many holders of one id ---- */

#define CROWD 5000u
#define HOT 60u

static void test_ids_that_everybody_has(void **state)
{
    struct kvl_index *index = create(0);
    static uint32_t numbers[CROWD];
    static uint32_t depth[CROWD]; /* by holder number */
    struct kvl_chunk_id ids[HOT];
    struct kvl_index_run *runs;
    uint64_t entries = 0;
    int r;

    (void)state;
    for (uint32_t i = 0; i < HOT; i++) {
        ids[i] = (struct kvl_chunk_id){.bits = 1000 + i};
    }
    for (uint32_t h = 0; h < CROWD; h++) {
        numbers[h] = open_holder(index);
        depth[numbers[h]] = 1 + (uint32_t)rnd(HOT);
        entries += depth[numbers[h]];
        assert_int_equal(kvl_index_add(index, numbers[h], ids, depth[numbers[h]]), 0);
    }
    r = kvl_index_runs(index, ids, HOT, accept_all, NULL, &runs);
    assert_int_equal(r, CROWD);
    for (int i = 0; i < r; i++) {
        assert_int_equal(runs[i].length, depth[runs[i].holder]);
    }
    free(runs);
    assert_int_equal(stats_of(index).entries, entries);
    assert_int_equal(stats_of(index).ids, HOT);
    assert_true(stats_of(index).bytes < 3000000); /* a bit per holder and id, and the rest */

    for (uint32_t h = 0; h < CROWD; h++) { /* all but each hundredth go, in two ways */
        if (h % 100 == 0) {
            continue;
        }
        if (h % 2 == 0) {
            kvl_index_holder_retire(index, numbers[h]);
        } else {
            kvl_index_remove(index, numbers[h], ids, HOT);
        }
    }
    assert_int_equal(kvl_index_runs(index, ids, HOT, accept_all, NULL, &runs), CROWD / 100);
    for (uint32_t i = 0; i < CROWD / 100; i++) {
        assert_int_equal(runs[i].length, depth[runs[i].holder]);
    }
    free(runs);
    while (kvl_index_tidy(index, 1000) == 1) {
    }
    assert_int_equal(kvl_index_runs(index, ids, HOT, accept_all, NULL, &runs), CROWD / 100);
    free(runs);
    for (uint32_t h = 0; h < CROWD; h += 100) {
        kvl_index_remove(index, numbers[h], ids, HOT);
    }
    assert_int_equal(stats_of(index).entries, 0);
    assert_int_equal(stats_of(index).ids, 0);
    kvl_index_destroy(index);
}

/* ---- growing ---- */

#define MANY 240000u

static struct kvl_chunk_id nth(uint64_t i)
{
    return (struct kvl_chunk_id){.bits = i * 0x9e3779b97f4a7c15u, .negative = 0};
}

static void add_range(struct kvl_index *index, uint32_t holder, uint64_t from, uint64_t to)
{
    struct kvl_chunk_id ids[100];

    for (uint64_t i = from; i < to; i += 100) {
        for (uint64_t k = 0; k < 100; k++) {
            ids[k] = nth(i + k);
        }
        assert_int_equal(kvl_index_add(index, holder, ids, 100), 0);
    }
}

static uint32_t count_found(const struct kvl_index *index, uint64_t from, uint64_t to)
{
    uint32_t found = 0;

    for (uint64_t i = from; i < to; i++) {
        struct kvl_chunk_id id = nth(i);

        found += (uint32_t)kvl_index_has(index, &id);
    }
    return found;
}

static void test_memory_at_every_size(void **state)
{
    struct kvl_index *index = create(0);
    uint32_t holder = open_holder(index);

    (void)state;
    for (uint64_t size = 0; size < MANY; size += 10000) {
        add_range(index, holder, size, size + 10000);
        if (size >= 210000) {
            assert_in_range(stats_of(index).bytes / (size + 10000), 8, 24);
        }
    }
    assert_int_equal(count_found(index, 0, MANY), MANY);
    assert_int_equal(count_found(index, MANY, 2ull * MANY), 0);
    assert_int_equal(stats_of(index).ids, MANY);
    kvl_index_destroy(index);
}

struct copy {
    struct kvl_index *to;
    uint32_t holder;
    uint32_t stop_at;
    uint32_t count;
};

static int copy_entry(void *ctx, const struct kvl_chunk_id *id, uint32_t holder)
{
    struct copy *copy = ctx;

    (void)holder;
    assert_int_equal(kvl_index_add(copy->to, copy->holder, id, 1), 0);
    return ++copy->count == copy->stop_at ? -ECANCELED : 0;
}

static void test_walk_fills_another_index(void **state)
{
    struct kvl_index *index = create(0);
    struct copy copy = {.to = create(0)};
    uint32_t holder = open_holder(index);

    (void)state;
    copy.holder = open_holder(copy.to);
    add_range(index, holder, 0, MANY);
    assert_int_equal(kvl_index_walk(index, copy_entry, &copy), 0);
    assert_int_equal(copy.count, MANY);
    assert_int_equal(stats_of(copy.to).ids, MANY);
    assert_int_equal(count_found(copy.to, 0, MANY), MANY);
    assert_in_range(stats_of(copy.to).bytes / MANY, 8, 24);
    copy.count = 0;
    copy.stop_at = 17;
    assert_int_equal(kvl_index_walk(index, copy_entry, &copy), -ECANCELED);
    assert_int_equal(copy.count, 17);
    kvl_index_destroy(copy.to);
    kvl_index_destroy(index);
}

/* Segments are full one by one, so not all of the room is where the next keys want it. */
#define REUSED 60000u

static void test_bound_on_memory(void **state)
{
    const uint64_t bound = 4u << 20;
    struct kvl_index *index = create(bound);
    uint32_t holder = open_holder(index);
    struct kvl_chunk_id ids[100];
    uint64_t dropped = 0;

    (void)state;
    for (uint64_t i = 0; i < MANY; i += 100) {
        for (uint64_t k = 0; k < 100; k++) {
            ids[k] = nth(i + k);
        }
        dropped += kvl_index_add(index, holder, ids, 100);
    }
    assert_true(dropped > 0);
    assert_int_equal(kvl_index_holder_keys(index, holder), MANY - dropped);
    assert_int_equal(count_found(index, 0, MANY), MANY - dropped);
    assert_in_range(MANY - dropped, bound / 24, bound / 8);
    assert_in_range(stats_of(index).bytes, bound / 2, bound + 100000);

    /* what a retired holder had is room for the next one, without any tidying */
    kvl_index_holder_retire(index, holder);
    assert_int_equal(count_found(index, 0, MANY), 0);
    holder = open_holder(index);
    add_range(index, holder, 2ull * MANY, 2ull * MANY + REUSED);
    assert_int_equal(kvl_index_holder_keys(index, holder), REUSED);
    kvl_index_destroy(index);
}

static void test_retired_numbers_come_back_when_nothing_is_left(void **state)
{
    struct kvl_index *index = create(0);
    uint32_t first = open_holder(index);
    uint32_t second = open_holder(index);
    uint32_t rounds = 0;

    (void)state;
    add_range(index, first, 0, 100000);
    add_range(index, second, 50000, 150000);
    kvl_index_holder_retire(index, first);
    assert_int_equal(stats_of(index).retired, 100000);
    assert_int_equal(stats_of(index).entries, 100000);
    assert_int_equal(count_found(index, 0, 200000), 100000);
    assert_int_not_equal(open_holder(index), first);
    while (kvl_index_tidy(index, 500) == 1) {
        rounds++;
    }
    assert_true(rounds > 0);
    assert_int_equal(stats_of(index).retired, 0);
    assert_int_equal(stats_of(index).ids, 100000);
    assert_int_equal(count_found(index, 0, 200000), 100000);
    assert_int_equal(open_holder(index), first);

    /* updates alone get there too */
    kvl_index_holder_retire(index, second);
    first = open_holder(index);
    add_range(index, first, 300000, 500000);
    assert_int_equal(stats_of(index).retired, 0);
    assert_int_equal(open_holder(index), second);
    kvl_index_destroy(index);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sign_is_part_of_the_id),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_apply_stops_behind_the_last_key),
        cmocka_unit_test(test_random_changes_against_a_model),
        cmocka_unit_test(test_ids_that_everybody_has),
        cmocka_unit_test(test_memory_at_every_size),
        cmocka_unit_test(test_walk_fills_another_index),
        cmocka_unit_test(test_bound_on_memory),
        cmocka_unit_test(test_retired_numbers_come_back_when_nothing_is_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
