/* SPDX-License-Identifier: Apache-2.0 */
/* Events of the store, as the store tells them. */
#include "cm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "chunk_id.h"
#include "feed.h"
#include "hash.h"
#include "store.h"

#define MIB (1u << 20)

static const int reader_a;
static const int reader_b;

static struct kvl_store *make(uint64_t bytes, uint64_t chunks)
{
    const struct kvl_store_params params = {
        .max_bytes = bytes, .max_chunks = chunks, .checksum = 1};
    struct kvl_store *store = NULL;

    assert_int_equal(kvl_store_create(&params, &store), 0);
    return store;
}

static void put(struct kvl_store *store, const char *key, uint64_t bytes)
{
    const struct kvl_chunk chunk = {.key = kvl_key_from_text(key), .bytes = bytes};
    uint64_t slot;
    void *at;

    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memset(at, 'x', bytes);
    assert_int_equal(kvl_store_commit(store, slot, NULL), 0);
}

static int take(struct kvl_store *store, struct kvl_store_event *events, uint32_t room)
{
    return kvl_store_read_events(store, &reader_a, events, room, 0);
}

static void assert_event(const struct kvl_store_event *event, uint32_t kind, const char *key,
                         uint64_t bytes)
{
    const struct kvl_key of = kvl_key_from_text(key);
    struct kvl_chunk_id id;

    assert_int_equal(kvl_chunk_id_of(&of, &id), 0);
    assert_int_equal(event->kind, kind);
    assert_int_equal(event->id.bits, id.bits);
    assert_int_equal(event->id.negative, id.negative);
    assert_int_equal(event->bytes, bytes);
}

static void test_changes_come_in_order(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_store_event events[8];
    struct kvl_key key = kvl_key_from_text("m@1@0@-1f@half");

    (void)state;
    put(store, "before", 10);
    assert_int_equal(take(store, events, 8), 0); /* from here on */
    put(store, key.text, 100);
    put(store, "b", 200);
    assert_int_equal(kvl_store_remove(store, &key), 0);
    assert_int_equal(kvl_store_remove(store, &key), -ENOENT);
    put(store, key.text, 300);
    assert_int_equal(take(store, events, 3), 3);
    assert_event(&events[0], KVL_KEY_ADMIT, key.text, 100);
    assert_int_equal(events[0].id.bits, (uint64_t)-0x1f);
    assert_int_equal(events[0].id.negative, 1);
    assert_event(&events[1], KVL_KEY_ADMIT, "b", 200);
    assert_event(&events[2], KVL_KEY_EVICT, key.text, 0);
    assert_int_equal(take(store, events, 8), 1);
    assert_event(&events[0], KVL_KEY_ADMIT, key.text, 300);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_a_new_value_of_a_key_is_no_change(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_store_event events[8];

    (void)state;
    assert_int_equal(take(store, events, 8), 0);
    put(store, "a", 100);
    put(store, "a", 50);
    put(store, "a", 70);
    assert_int_equal(take(store, events, 8), 1);
    assert_event(&events[0], KVL_KEY_ADMIT, "a", 100);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_eviction_and_damage_are_told(void **state)
{
    struct kvl_store *store = make(MIB, 2);
    struct kvl_store_event events[8];
    struct kvl_view view;
    struct kvl_key key = kvl_key_from_text("c");

    (void)state;
    assert_int_equal(take(store, events, 8), 0);
    put(store, "a", 100);
    put(store, "b", 100);
    put(store, "c", 100);
    kvl_store_trim(store);
    assert_int_equal(kvl_store_get(store, &key, &view), 0);
    ((char *)(uintptr_t)view.data)[7] = 'y';
    assert_int_equal(kvl_store_verify(store, &view), -EBADMSG);
    assert_int_equal(kvl_store_release(store, view.lease), 0);
    assert_int_equal(take(store, events, 8), 5);
    assert_event(&events[3], KVL_KEY_EVICT, "a", 0);
    assert_event(&events[4], KVL_KEY_EVICT, "c", 0);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_what_is_aborted_or_stale_is_not_told(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    const struct kvl_chunk chunk = {.key = kvl_key_from_text("a"), .bytes = 10};
    const uint64_t hash = kvl_hash_key(&chunk.key);
    struct kvl_store_event events[8];
    uint64_t slot;
    void *at;
    uint32_t epoch = kvl_store_epoch(store, hash);

    (void)state;
    assert_int_equal(take(store, events, 8), 0);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    assert_int_equal(kvl_store_abort(store, slot), 0);
    assert_int_equal(kvl_store_remove(store, &chunk.key), -ENOENT);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memset(at, 0, 10);
    assert_int_equal(kvl_store_commit_read(store, slot, epoch, NULL), -ESTALE);
    assert_int_equal(take(store, events, 8), 0);
    epoch = kvl_store_epoch(store, hash);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memset(at, 0, 10);
    assert_int_equal(kvl_store_commit_read(store, slot, epoch, NULL), 0);
    assert_int_equal(take(store, events, 8), 1);
    assert_event(&events[0], KVL_KEY_ADMIT, "a", 10);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_there_is_one_reader(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_store_event events[2];

    (void)state;
    assert_int_equal(take(store, events, 2), 0);
    assert_int_equal(kvl_store_read_events(store, &reader_b, events, 2, 0), -EBUSY);
    put(store, "a", 1);
    assert_int_equal(kvl_store_read_events(store, &reader_b, events, 2, 0), -EBUSY);
    assert_int_equal(take(store, events, 2), 1);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_overflow_is_told_once_and_then_it_goes_on(void **state)
{
    struct kvl_store *store = make(64 * MIB, 0);
    struct kvl_store_event events[2];
    struct kvl_key key = kvl_key_from_text("a");

    (void)state;
    assert_int_equal(take(store, events, 2), 0);
    for (uint32_t i = 0; i < KVL_FEED_ROOM / 2; i++) {
        put(store, "a", 1);
        assert_int_equal(kvl_store_remove(store, &key), 0);
    }
    assert_int_equal(take(store, events, 2), 2); /* just full: nothing is lost */
    put(store, "a", 1);
    put(store, "b", 1);
    put(store, "c", 1); /* one too many */
    put(store, "d", 1);
    assert_int_equal(take(store, events, 2), -EOVERFLOW);
    assert_int_equal(take(store, events, 2), 0);
    put(store, "e", 5);
    assert_int_equal(take(store, events, 2), 1);
    assert_event(&events[0], KVL_KEY_ADMIT, "e", 5);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_chunks_elsewhere_are_told_with_their_place(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    const struct kvl_key key = kvl_key_from_text("a");
    const struct kvl_key none = {.text = "", .length = 0};
    struct kvl_store_event events[8];

    (void)state;
    /* nobody listens: nothing is kept */
    assert_int_equal(kvl_store_tell(store, KVL_WHERE_GPU, &key, 9, KVL_KEY_ADMIT), 0);
    assert_int_equal(take(store, events, 8), 0);
    put(store, "a", 100);
    assert_int_equal(kvl_store_tell(store, KVL_WHERE_GPU, &none, 9, KVL_KEY_ADMIT), -EINVAL);
    assert_int_equal(kvl_store_tell(store, KVL_WHERE_GPU, &key, 100, KVL_KEY_ADMIT), 0);
    assert_int_equal(kvl_store_tell(store, KVL_WHERE_GPU, &key, 100, KVL_KEY_EVICT), 0);
    assert_int_equal(take(store, events, 8), 3);
    assert_event(&events[0], KVL_KEY_ADMIT, "a", 100);
    assert_int_equal(events[0].where, KVL_WHERE_HOST);
    assert_event(&events[1], KVL_KEY_ADMIT, "a", 100);
    assert_int_equal(events[1].where, KVL_WHERE_GPU);
    assert_event(&events[2], KVL_KEY_EVICT, "a", 0);
    assert_int_equal(events[2].where, KVL_WHERE_GPU);
    assert_int_equal(kvl_store_destroy(store), 0);
}

/* ---- waiting ---- */

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct waiter {
    struct kvl_store *store;
    uint64_t deadline_ms;
    int result;
};

static void *wait_for_one(void *arg)
{
    struct waiter *waiter = arg;
    struct kvl_store_event event;

    waiter->result =
        kvl_store_read_events(waiter->store, &reader_a, &event, 1, waiter->deadline_ms);
    return NULL;
}

static void test_waiting_ends(void **state)
{
    struct waiter waiter = {.store = make(MIB, 0), .deadline_ms = UINT64_MAX};
    struct kvl_store_event event;
    uint64_t begin = now_ms();
    pthread_t thread;

    (void)state;
    /* at the deadline */
    assert_int_equal(kvl_store_read_events(waiter.store, &reader_a, &event, 1, begin + 20), 0);
    assert_true(now_ms() >= begin + 20);
    /* by a change */
    assert_int_equal(pthread_create(&thread, NULL, wait_for_one, &waiter), 0);
    put(waiter.store, "a", 1);
    pthread_join(thread, NULL);
    assert_int_equal(waiter.result, 1);
    /* woken, whoever comes first */
    assert_int_equal(pthread_create(&thread, NULL, wait_for_one, &waiter), 0);
    kvl_store_wake_reader(waiter.store, &reader_a);
    pthread_join(thread, NULL);
    assert_int_equal(waiter.result, 0);
    kvl_store_wake_reader(waiter.store, &reader_a);
    assert_int_equal(kvl_store_read_events(waiter.store, &reader_a, &event, 1, UINT64_MAX), 0);
    /* not by somebody else */
    begin = now_ms();
    kvl_store_wake_reader(waiter.store, &reader_b);
    assert_int_equal(kvl_store_read_events(waiter.store, &reader_a, &event, 1, begin + 20), 0);
    assert_true(now_ms() >= begin + 20);
    assert_int_equal(kvl_store_destroy(waiter.store), 0);
}

/* ---- with threads: replaying the events gives what is in the store ---- */

#define KEYS 64
#define ROUNDS 4000

struct changers {
    struct kvl_store *store;
    atomic_int running;
    uint32_t seed;
};

static void name_key(char *out, size_t size, uint32_t i)
{
    snprintf(out, size, "m@1@0@%x@half", i + 1);
}

static void *change(void *arg)
{
    struct changers *changers = arg;
    uint64_t x = __atomic_add_fetch(&changers->seed, 77, __ATOMIC_RELAXED);
    char text[40];

    for (int i = 0; i < ROUNDS; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        name_key(text, sizeof(text), (uint32_t)(x >> 33) % KEYS);
        if ((x >> 60) % 2 == 0) {
            put(changers->store, text, 64);
        } else {
            const struct kvl_key key = kvl_key_from_text(text);

            kvl_store_remove(changers->store, &key);
        }
    }
    atomic_fetch_sub(&changers->running, 1);
    return NULL;
}

static int mark(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct kvl_chunk_id id;

    (void)bytes;
    assert_int_equal(kvl_chunk_id_of(key, &id), 0);
    ((uint8_t *)ctx)[id.bits] ^= 1;
    return 0;
}

static void test_events_replay_to_the_store(void **state)
{
    struct changers changers = {.store = make(MIB, 0), .running = 3};
    struct kvl_store_event events[100];
    uint8_t present[KEYS + 1] = {0};
    pthread_t threads[3];
    int last = 0;
    int n;

    (void)state;
    assert_int_equal(take(changers.store, events, 1), 0);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, change, &changers), 0);
    }
    do {
        last = atomic_load(&changers.running) == 0;
        while ((n = kvl_store_read_events(changers.store, &reader_a, events, 100,
                                          now_ms() + (last ? 0 : 2))) > 0) {
            for (int i = 0; i < n; i++) {
                /* no admit of what is there, no evict of what is not */
                assert_int_equal(present[events[i].id.bits], events[i].kind == KVL_KEY_EVICT);
                present[events[i].id.bits] = events[i].kind == KVL_KEY_ADMIT;
            }
        }
        assert_int_equal(n, 0);
    } while (!last);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(kvl_store_list(changers.store, mark, present), 0);
    for (uint32_t i = 0; i <= KEYS; i++) {
        assert_int_equal(present[i], 0);
    }
    assert_int_equal(kvl_store_destroy(changers.store), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_changes_come_in_order),
        cmocka_unit_test(test_a_new_value_of_a_key_is_no_change),
        cmocka_unit_test(test_eviction_and_damage_are_told),
        cmocka_unit_test(test_what_is_aborted_or_stale_is_not_told),
        cmocka_unit_test(test_there_is_one_reader),
        cmocka_unit_test(test_overflow_is_told_once_and_then_it_goes_on),
        cmocka_unit_test(test_chunks_elsewhere_are_told_with_their_place),
        cmocka_unit_test(test_waiting_ends),
        cmocka_unit_test(test_events_replay_to_the_store),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
