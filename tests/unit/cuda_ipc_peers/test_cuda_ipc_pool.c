/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/registry.h>

#include "cuda_ipc_pool.h"

#define UNIT ((uint64_t)CUDA_IPC_POOL_ALIGN)
#define KEYS 200

struct seen {
    int there[KEYS]; /* by the events alone */
    int events;
};

static void on_change(void *ctx, const struct kvl_key *key, uint64_t bytes, uint32_t kind)
{
    struct seen *seen = ctx;
    char text[16] = "";
    int number;

    assert_true(key->length < sizeof(text));
    memcpy(text, key->text, key->length);
    number = (int)strtol(text + 1, NULL, 10);

    assert_true(number < KEYS);
    assert_true((kind == KVL_KEY_ADMIT) == (bytes > 0));
    assert_true(kind == KVL_KEY_ADMIT || seen->there[number]);
    seen->there[number] = kind == KVL_KEY_ADMIT;
    seen->events++;
}

static struct kvl_key key_of(int number, char text[16])
{
    (void)snprintf(text, 16, "k%d", number);
    return kvl_key_from_text(text);
}

static struct cuda_ipc_pool *pool_of(struct seen *seen, uint64_t bytes, uint32_t segments)
{
    struct cuda_ipc_pool *pool;
    uint32_t segment;

    if (seen != NULL) {
        memset(seen, 0, sizeof(*seen));
    }
    assert_int_equal(cuda_ipc_pool_create(seen != NULL ? on_change : NULL, seen, &pool), 0);
    for (uint32_t i = 0; i < segments; i++) {
        assert_int_equal(cuda_ipc_pool_add_segment(pool, 0, bytes, &segment), 0);
        assert_int_equal(segment, i);
    }
    return pool;
}

static int reserve(struct cuda_ipc_pool *pool, int number, uint64_t bytes,
                   struct cuda_ipc_chunk **chunk_out)
{
    char text[16];
    const struct kvl_chunk chunk = {.key = key_of(number, text), .bytes = bytes};

    return cuda_ipc_pool_reserve(pool, 0, &chunk, chunk_out);
}

static int store(struct cuda_ipc_pool *pool, int number, uint64_t bytes)
{
    struct cuda_ipc_chunk *chunk;
    const int r = reserve(pool, number, bytes, &chunk);

    if (r == 0) {
        cuda_ipc_pool_commit(pool, chunk);
    }
    return r;
}

static int has(struct cuda_ipc_pool *pool, int number)
{
    char text[16];
    const struct kvl_key key = key_of(number, text);

    return cuda_ipc_pool_has(pool, &key);
}

static struct cuda_ipc_chunk *get(struct cuda_ipc_pool *pool, int number)
{
    char text[16];
    const struct kvl_key key = key_of(number, text);
    struct cuda_ipc_chunk *chunk = NULL;

    return cuda_ipc_pool_get(pool, &key, &chunk) == 0 ? chunk : NULL;
}

static int take_out(struct cuda_ipc_pool *pool, int number)
{
    char text[16];
    const struct kvl_key key = key_of(number, text);

    return cuda_ipc_pool_remove(pool, &key);
}

static struct cuda_ipc_pool_stats stats(struct cuda_ipc_pool *pool)
{
    struct cuda_ipc_pool_stats stats;

    cuda_ipc_pool_get_stats(pool, &stats);
    return stats;
}

static void test_a_chunk_is_there_from_its_commit_on(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, 8 * UNIT, 1);
    const struct kvl_chunk from = {
        .key = kvl_key_from_text("k7"),
        .bytes = 1000,
        .attrs = {KVL_FMT_KV_MLA, KVL_DTYPE_HALF, {1, 2, 3, 4}},
        .flags = KVL_CHUNK_HAS_CHECKSUM | KVL_CHUNK_EXPECT_ATTRS,
        .checksum = 99,
    };
    struct cuda_ipc_chunk *chunk;

    (void)state;
    assert_int_equal(cuda_ipc_pool_reserve(pool, 0, &from, &chunk), 0);
    assert_int_equal(has(pool, 7), 0);
    assert_null(get(pool, 7));
    cuda_ipc_pool_commit(pool, chunk);
    assert_int_equal(has(pool, 7), 1);
    assert_int_equal(seen.there[7], 1);
    chunk = get(pool, 7);
    assert_int_equal(chunk->bytes, 1000);
    assert_int_equal(chunk->flags, KVL_CHUNK_HAS_CHECKSUM);
    assert_int_equal(chunk->checksum, 99);
    assert_memory_equal(&chunk->attrs, &from.attrs, sizeof(from.attrs));
    assert_int_equal(chunk->offset % UNIT, 0);
    cuda_ipc_pool_put(pool, chunk);
    assert_int_equal(stats(pool).bytes, 2 * UNIT);
    cuda_ipc_pool_destroy(pool);
}

static void test_an_abort_leaves_nothing(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, 4 * UNIT, 1);
    struct cuda_ipc_chunk *chunk;

    (void)state;
    assert_int_equal(reserve(pool, 1, 4 * UNIT, &chunk), 0);
    cuda_ipc_pool_abort(pool, chunk);
    assert_int_equal(stats(pool).bytes, 0);
    assert_int_equal(seen.events, 0);
    assert_int_equal(store(pool, 2, 4 * UNIT), 0);
    cuda_ipc_pool_destroy(pool);
}

static void test_the_least_recently_used_goes(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, 4 * UNIT, 2);

    (void)state;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(store(pool, i, UNIT), 0);
    }
    cuda_ipc_pool_put(pool, get(pool, 0));
    assert_int_equal(has(pool, 1), 1); /* looking is no use */
    assert_int_equal(store(pool, 8, UNIT), 0);
    assert_int_equal(has(pool, 0), 1);
    assert_int_equal(has(pool, 1), 0);
    assert_int_equal(seen.there[1], 0);
    assert_int_equal(stats(pool).evicted, 1);
    assert_int_equal(stats(pool).chunks, 8);
    cuda_ipc_pool_destroy(pool);
}

/* A large one takes the oldest and its neighbours, not the oldest of all wherever they lie. */
static void test_room_is_made_in_one_place(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 8 * UNIT, 1);

    (void)state;
    for (int i = 0; i < 8; i++) {
        assert_int_equal(store(pool, i, UNIT), 0);
    }
    for (int i = 0; i < 8; i += 2) { /* the odd ones are older */
        cuda_ipc_pool_put(pool, get(pool, i));
    }
    assert_int_equal(store(pool, 9, 3 * UNIT), 0);
    assert_int_equal(stats(pool).evicted, 3);
    assert_int_equal(has(pool, 1), 0);
    assert_int_equal(stats(pool).chunks, 6);
    cuda_ipc_pool_destroy(pool);
}

static void test_a_reference_holds_the_place(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 2 * UNIT, 1);
    struct cuda_ipc_chunk *first;
    struct cuda_ipc_chunk *second;
    struct cuda_ipc_chunk *again;

    (void)state;
    assert_int_equal(store(pool, 0, UNIT), 0);
    assert_int_equal(store(pool, 1, UNIT), 0);
    first = get(pool, 0);
    second = get(pool, 1);
    again = get(pool, 1);
    assert_ptr_equal(second, again);
    assert_int_equal(store(pool, 2, UNIT), -ENOMEM);
    assert_int_equal(stats(pool).full, 1);
    cuda_ipc_pool_put(pool, second);
    assert_int_equal(store(pool, 2, UNIT), -ENOMEM);
    cuda_ipc_pool_put(pool, again);
    assert_int_equal(store(pool, 3, 2 * UNIT), -ENOMEM); /* not without the first */
    assert_int_equal(has(pool, 1), 1); /* and nothing went in vain */
    assert_int_equal(store(pool, 2, UNIT), 0);
    assert_int_equal(has(pool, 1), 0);
    cuda_ipc_pool_put(pool, first);
    cuda_ipc_pool_destroy(pool);
}

static void test_removed_while_referenced(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, UNIT, 1);
    struct cuda_ipc_chunk *chunk;

    (void)state;
    assert_int_equal(store(pool, 0, UNIT), 0);
    chunk = get(pool, 0);
    assert_int_equal(take_out(pool, 0), 0);
    assert_int_equal(take_out(pool, 0), -ENOENT);
    assert_int_equal(has(pool, 0), 0);
    assert_int_equal(seen.there[0], 0);
    assert_int_equal(store(pool, 1, UNIT), -ENOMEM);
    cuda_ipc_pool_put(pool, chunk);
    assert_int_equal(store(pool, 1, UNIT), 0);
    cuda_ipc_pool_destroy(pool);
}

static void test_a_newer_one_takes_the_place_of_an_older(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, 8 * UNIT, 1);
    struct cuda_ipc_chunk *older;
    struct cuda_ipc_chunk *newer;

    (void)state;
    assert_int_equal(store(pool, 0, UNIT), 0);
    older = get(pool, 0);
    assert_int_equal(store(pool, 0, 2 * UNIT), 0);
    newer = get(pool, 0);
    assert_ptr_not_equal(older, newer);
    assert_int_equal(newer->bytes, 2 * UNIT);
    assert_int_equal(older->bytes, UNIT);
    assert_int_equal(stats(pool).chunks, 1);
    assert_int_equal(stats(pool).bytes, 3 * UNIT);
    cuda_ipc_pool_put(pool, older);
    assert_int_equal(stats(pool).bytes, 2 * UNIT);
    cuda_ipc_pool_put(pool, newer);
    assert_int_equal(seen.there[0], 1);
    cuda_ipc_pool_destroy(pool);
}

static void test_two_writers_of_one_key(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 8 * UNIT, 1);
    struct cuda_ipc_chunk *one;
    struct cuda_ipc_chunk *two;

    (void)state;
    assert_int_equal(reserve(pool, 0, UNIT, &one), 0);
    assert_int_equal(reserve(pool, 0, 3 * UNIT, &two), 0);
    cuda_ipc_pool_commit(pool, two);
    cuda_ipc_pool_commit(pool, one);
    assert_int_equal(stats(pool).chunks, 1);
    assert_int_equal(stats(pool).bytes, UNIT);
    cuda_ipc_pool_destroy(pool);
}

static void test_bad_sizes_and_keys(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 4 * UNIT, 2);
    const struct kvl_chunk no_key = {.key = {.text = "", .length = 0}, .bytes = 1};
    const struct kvl_chunk elsewhere = {.key = kvl_key_from_text("k1"), .bytes = 1};
    struct cuda_ipc_chunk *chunk = NULL;
    uint32_t segment;

    (void)state;
    assert_int_equal(store(pool, 0, 0), -EMSGSIZE);
    assert_int_equal(store(pool, 0, 4 * UNIT + 1), -EMSGSIZE);
    assert_int_equal(store(pool, 0, UINT64_MAX), -EMSGSIZE);
    assert_int_equal(cuda_ipc_pool_reserve(pool, 0, &no_key, &chunk), -EINVAL);
    assert_int_equal(cuda_ipc_pool_reserve(pool, 1, &elsewhere, &chunk), -EMSGSIZE);
    assert_null(chunk);
    assert_int_equal(cuda_ipc_pool_has(pool, &no_key.key), 0);
    assert_int_equal(cuda_ipc_pool_remove(pool, &no_key.key), -ENOENT);
    assert_int_equal(cuda_ipc_pool_add_segment(pool, 0, UNIT + 1, &segment), -EINVAL);
    assert_int_equal(cuda_ipc_pool_add_segment(pool, 0, 0, &segment), -EINVAL);
    cuda_ipc_pool_destroy(pool);
}

static void test_devices_have_room_of_their_own(void **state)
{
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, UNIT, 1);
    const struct kvl_chunk from = {.key = kvl_key_from_text("k1"), .bytes = UNIT};
    struct cuda_ipc_chunk *writing;
    struct cuda_ipc_chunk *held;
    struct cuda_ipc_chunk *chunk;
    uint32_t segment;

    (void)state;
    assert_int_equal(cuda_ipc_pool_add_segment(pool, 5, 3 * UNIT, &segment), 0);
    assert_int_equal(cuda_ipc_pool_room(pool, 5), 3 * UNIT);
    assert_int_equal(cuda_ipc_pool_room(pool, 6), 0);
    assert_int_equal(store(pool, 0, UNIT), 0);
    assert_int_equal(cuda_ipc_pool_reserve(pool, 5, &from, &chunk), 0);
    assert_int_equal(chunk->segment, segment);
    assert_int_equal(chunk->device, 5);
    cuda_ipc_pool_commit(pool, chunk);
    assert_int_equal(has(pool, 0), 1);
    held = get(pool, 1);
    assert_int_equal(cuda_ipc_pool_reserve(pool, 5, &from, &writing), 0);
    cuda_ipc_pool_drop_device(pool, 5);
    assert_int_equal(has(pool, 1), 0);
    assert_int_equal(has(pool, 0), 1);
    assert_int_equal(seen.there[1], 0);
    assert_int_equal(cuda_ipc_pool_room(pool, 5), 0);
    cuda_ipc_pool_put(pool, held);
    cuda_ipc_pool_commit(pool, writing); /* too late: it is not there */
    assert_int_equal(has(pool, 1), 0);
    assert_int_equal(cuda_ipc_pool_reserve(pool, 5, &from, &chunk), -EMSGSIZE);
    assert_int_equal(stats(pool).bytes, UNIT);
    cuda_ipc_pool_destroy(pool);
}

struct listed {
    int count;
    int stop_at;
    uint64_t bytes;
};

static int on_key(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct listed *listed = ctx;

    assert_int_equal(key->text[0], 'k');
    listed->bytes += bytes;
    return ++listed->count == listed->stop_at ? 5 : 0;
}

static void test_list(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 4096 * UNIT, 1);
    struct listed all = {0};
    struct listed some = {.stop_at = 3};

    (void)state;
    for (int i = 0; i < 3000; i++) {
        assert_int_equal(store(pool, i, (uint64_t)(i % 512 + 1)), 0);
    }
    assert_int_equal(cuda_ipc_pool_list(pool, on_key, &all), 0);
    assert_int_equal(all.count, 3000);
    assert_true(all.bytes > 3000);
    assert_int_equal(cuda_ipc_pool_list(pool, on_key, &some), 5);
    assert_int_equal(some.count, 3);
    cuda_ipc_pool_destroy(pool);
}

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* What is held or being written at a time. */
struct held {
    struct cuda_ipc_chunk *chunk;
    int writing;
};

static int overlaps(const struct cuda_ipc_chunk *a, const struct cuda_ipc_chunk *b)
{
    return a->segment == b->segment &&
           a->offset < b->offset + (b->bytes + UNIT - 1) / UNIT * UNIT &&
           b->offset < a->offset + (a->bytes + UNIT - 1) / UNIT * UNIT;
}

static void check_places(const struct held *held, size_t count, uint64_t segment_bytes)
{
    for (size_t i = 0; i < count; i++) {
        if (held[i].chunk == NULL) {
            continue;
        }
        assert_true(held[i].chunk->offset + held[i].chunk->bytes <= segment_bytes);
        for (size_t k = 0; k < i; k++) {
            if (held[k].chunk != NULL && held[k].chunk != held[i].chunk) {
                assert_false(overlaps(held[i].chunk, held[k].chunk));
            }
        }
    }
}

static void random_step(struct cuda_ipc_pool *pool, struct held *slot, uint32_t *seed)
{
    const int number = (int)(next_random(seed) % KEYS);

    if (slot->chunk != NULL && slot->writing) {
        if (next_random(seed) % 4 == 0) {
            cuda_ipc_pool_abort(pool, slot->chunk);
        } else {
            cuda_ipc_pool_commit(pool, slot->chunk);
        }
        slot->chunk = NULL;
    } else if (slot->chunk != NULL) {
        cuda_ipc_pool_put(pool, slot->chunk);
        slot->chunk = NULL;
    } else if (next_random(seed) % 2 == 0) {
        slot->writing = 1;
        (void)reserve(pool, number, 1 + next_random(seed) % (9 * UNIT), &slot->chunk);
    } else if (next_random(seed) % 8 == 0) {
        (void)take_out(pool, number);
    } else {
        slot->writing = 0;
        slot->chunk = get(pool, number);
    }
}

/* No two that are held ever lie on one another; in the end all room is one free run again. */
static void test_random_steps(void **state)
{
    struct held held[24];
    struct seen seen;
    struct cuda_ipc_pool *pool = pool_of(&seen, 32 * UNIT, 3);
    uint32_t seed = 12345;

    (void)state;
    memset(held, 0, sizeof(held));
    for (int i = 0; i < 60000; i++) {
        random_step(pool, &held[next_random(&seed) % 24], &seed);
        if (i % 16 == 0) {
            check_places(held, 24, 32 * UNIT);
        }
        if (i % 512 == 0) {
            for (int k = 0; k < KEYS; k++) {
                assert_int_equal(has(pool, k), seen.there[k]);
            }
        }
    }
    for (size_t i = 0; i < 24; i++) {
        if (held[i].chunk != NULL) {
            random_step(pool, &held[i], &seed);
        }
    }
    assert_true(stats(pool).evicted > 100);
    for (int k = 0; k < KEYS; k++) {
        (void)take_out(pool, k);
    }
    assert_int_equal(stats(pool).bytes, 0);
    assert_int_equal(stats(pool).chunks, 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store(pool, i, 32 * UNIT), 0);
    }
    assert_int_equal(stats(pool).chunks, 3);
    cuda_ipc_pool_destroy(pool);
}

struct worker {
    pthread_t thread;
    struct cuda_ipc_pool *pool;
    uint32_t seed;
};

static void *thread_main(void *arg)
{
    const struct worker *worker = arg;
    struct cuda_ipc_pool *pool = worker->pool;
    struct held held = {0};
    uint32_t seed = worker->seed;

    for (int i = 0; i < 20000; i++) {
        random_step(pool, &held, &seed);
    }
    if (held.chunk != NULL) {
        random_step(pool, &held, &seed);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct cuda_ipc_pool *pool = pool_of(NULL, 32 * UNIT, 2);
    struct worker workers[4];

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        workers[i] = (struct worker){.pool = pool, .seed = i + 1};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, thread_main, &workers[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(workers[i].thread, NULL);
    }
    for (int k = 0; k < KEYS; k++) {
        (void)take_out(pool, k);
    }
    assert_int_equal(stats(pool).bytes, 0);
    cuda_ipc_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chunk_is_there_from_its_commit_on),
        cmocka_unit_test(test_an_abort_leaves_nothing),
        cmocka_unit_test(test_the_least_recently_used_goes),
        cmocka_unit_test(test_room_is_made_in_one_place),
        cmocka_unit_test(test_a_reference_holds_the_place),
        cmocka_unit_test(test_removed_while_referenced),
        cmocka_unit_test(test_a_newer_one_takes_the_place_of_an_older),
        cmocka_unit_test(test_two_writers_of_one_key),
        cmocka_unit_test(test_bad_sizes_and_keys),
        cmocka_unit_test(test_devices_have_room_of_their_own),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_random_steps),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
