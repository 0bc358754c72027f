/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hash.h"
#include "store.h"

#define MIB (1u << 20)

static struct kvl_store *make(uint64_t bytes, uint64_t chunks)
{
    const struct kvl_store_params params = {
        .max_bytes = bytes, .max_chunks = chunks, .checksum = 1};
    struct kvl_store *store = NULL;

    assert_int_equal(kvl_store_create(&params, &store), 0);
    return store;
}

static struct kvl_chunk chunk_of(const char *key, uint64_t bytes)
{
    return (struct kvl_chunk){.key = kvl_key_from_text(key), .bytes = bytes};
}

static int put(struct kvl_store *store, const char *key, int fill, uint64_t bytes)
{
    struct kvl_chunk chunk = chunk_of(key, bytes);
    uint64_t slot;
    void *at;
    int r = kvl_store_reserve(store, &chunk, &slot, &at);

    if (r < 0) {
        return r;
    }
    if (bytes > 0) {
        memset(at, fill, bytes);
    }
    return kvl_store_commit(store, slot, NULL);
}

static int has(struct kvl_store *store, const char *key)
{
    struct kvl_chunk chunk = chunk_of(key, 0);
    int32_t status;

    return kvl_store_lookup(store, &chunk, 1, &status) == 1;
}

static void test_bytes_and_attributes_come_back(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_chunk chunk = chunk_of("k", 5);
    struct kvl_view view;
    uint64_t slot;
    void *at;

    (void)state;
    chunk.attrs = (struct kvl_attrs){.fmt = 1, .dtype = 3, .shape = {2, -1, 0, 7}};
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memcpy(at, "hello", 5);
    assert_false(has(store, "k")); /* not before its bytes are safe */
    assert_int_equal(kvl_store_commit(store, slot, NULL), 0);
    assert_int_equal(kvl_store_get(store, &chunk.key, &view), 0);
    assert_int_equal(view.length, 5);
    assert_memory_equal(view.data, "hello", 5);
    assert_memory_equal(&view.attrs, &chunk.attrs, sizeof(view.attrs));
    assert_int_equal(view.checksum, kvl_hash_bytes("hello", 5));
    assert_int_equal(kvl_store_release(store, view.lease), 0);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_empty_chunks_are_chunks(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_view view;
    struct kvl_key key = kvl_key_from_text("empty");

    (void)state;
    assert_int_equal(put(store, "empty", 0, 0), 0);
    assert_int_equal(kvl_store_get(store, &key, &view), 0);
    assert_int_equal(view.length, 0);
    assert_int_equal(kvl_store_verify(store, &view), 0);
    kvl_store_release(store, view.lease);
    kvl_store_destroy(store);
}

static void test_keys_of_every_length(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    char key[KVL_KEY_MAX + 2];

    (void)state;
    memset(key, 'x', sizeof(key));
    key[KVL_KEY_MAX] = '\0';
    assert_int_equal(put(store, key, 1, 10), 0);
    assert_true(has(store, key));
    key[KVL_KEY_MAX - 1] = '\0';
    assert_false(has(store, key)); /* a prefix is another key */
    key[KVL_KEY_MAX - 1] = 'x';
    key[KVL_KEY_MAX] = 'x';
    key[KVL_KEY_MAX + 1] = '\0';
    assert_int_equal(put(store, key, 1, 10), -EINVAL);
    assert_int_equal(put(store, "", 1, 10), -EINVAL);
    kvl_store_destroy(store);
}

static void test_overwrite_leaves_leases_alone(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_key key = kvl_key_from_text("k");
    struct kvl_view old;
    struct kvl_view now;

    (void)state;
    put(store, "k", 'a', 1000);
    assert_int_equal(kvl_store_get(store, &key, &old), 0);
    put(store, "k", 'b', 500);
    assert_int_equal(kvl_store_get(store, &key, &now), 0);
    assert_int_equal(now.length, 500);
    assert_int_equal(((const char *)now.data)[499], 'b');
    assert_int_equal(((const char *)old.data)[999], 'a');
    assert_int_equal(kvl_store_release(store, old.lease), 0);
    assert_int_equal(kvl_store_release(store, old.lease), -EINVAL); /* once */
    assert_int_equal(kvl_store_release(store, now.lease), 0);
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_least_recently_used_goes_first(void **state)
{
    struct kvl_store *store = make(65536, 0);
    struct kvl_key a = kvl_key_from_text("a");

    (void)state;
    put(store, "a", 1, 20000);
    put(store, "b", 2, 20000);
    put(store, "c", 3, 20000);
    assert_int_equal(kvl_store_exists(store, &a), 0); /* counts as use */
    put(store, "d", 4, 20000);
    assert_true(has(store, "a"));
    assert_false(has(store, "b"));
    assert_true(has(store, "c"));
    assert_true(has(store, "d"));
    kvl_store_destroy(store);
}

static void test_lookup_is_no_use(void **state)
{
    struct kvl_store *store = make(MIB, 2);

    (void)state;
    put(store, "a", 1, 10);
    put(store, "b", 2, 10);
    assert_true(has(store, "a"));
    put(store, "c", 3, 10);
    kvl_store_trim(store);
    assert_false(has(store, "a"));
    kvl_store_destroy(store);
}

static void test_leased_chunks_are_not_evicted(void **state)
{
    struct kvl_store *store = make(65536, 0);
    struct kvl_key a = kvl_key_from_text("a");
    struct kvl_view view;

    (void)state;
    put(store, "a", 'a', 40000);
    assert_int_equal(kvl_store_get(store, &a, &view), 0);
    assert_int_equal(put(store, "b", 'b', 40000), -ENOMEM);
    assert_int_equal(((const char *)view.data)[39999], 'a');
    kvl_store_release(store, view.lease);
    assert_int_equal(put(store, "b", 'b', 40000), 0);
    kvl_store_destroy(store);
}

static void test_budget_counts_keys_and_records(void **state)
{
    struct kvl_store *store = make(65536, 0);
    struct kvl_store_stats stats;
    char key[32];

    (void)state;
    for (int i = 0; i < 5000; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        assert_int_equal(put(store, key, 0, 1), 0);
    }
    kvl_store_get_stats(store, &stats);
    assert_true(stats.used_bytes <= 65536);
    assert_true(stats.chunks < 300);
    assert_true(stats.evictions > 4700);
    kvl_store_destroy(store);
}

static void test_too_large_is_refused_and_the_largest_is_taken(void **state)
{
    struct kvl_store *store = make(MIB, 0);

    (void)state;
    put(store, "small", 1, 100);
    assert_int_equal(put(store, "huge", 1, MIB), -EMSGSIZE);
    assert_true(has(store, "small"));
    assert_int_equal(put(store, "big", 1, kvl_store_max_bytes(store)), 0);
    assert_true(has(store, "big"));
    kvl_store_destroy(store);
}

static void test_a_flipped_bit_is_seen_and_the_chunk_dropped(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_key key = kvl_key_from_text("k");
    struct kvl_store_stats stats;
    struct kvl_view view;

    (void)state;
    put(store, "k", 1, 4096);
    assert_int_equal(kvl_store_get(store, &key, &view), 0);
    assert_int_equal(kvl_store_verify(store, &view), 0);
    ((unsigned char *)(uintptr_t)view.data)[4000] ^= 0x10;
    assert_int_equal(kvl_store_verify(store, &view), -EBADMSG);
    kvl_store_release(store, view.lease);
    assert_false(has(store, "k"));
    kvl_store_get_stats(store, &stats);
    assert_int_equal(stats.corrupt, 1);
    kvl_store_destroy(store);
}

static void test_commit_checks_the_checksum_it_was_given(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_chunk chunk = chunk_of("k", 3);
    uint64_t slot;
    void *at;

    (void)state;
    put(store, "k", 'o', 3);
    chunk.flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk.checksum = kvl_hash_bytes("abc", 3);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memcpy(at, "abd", 3);
    assert_int_equal(kvl_store_commit(store, slot, NULL), -EBADMSG);
    assert_int_equal(kvl_store_commit(store, slot, NULL), -EINVAL); /* the slot has ended */
    assert_true(has(store, "k")); /* the older value stays */
    kvl_store_destroy(store);
}

static void test_bytes_read_earlier_do_not_replace_newer_ones(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_chunk chunk = chunk_of("k", 3);
    const uint64_t hash = kvl_hash_key(&chunk.key);
    uint32_t epoch = kvl_store_epoch(store, hash);
    struct kvl_view view;
    uint64_t slot;
    void *at;

    (void)state;
    /* asked for below; a new value comes, and even goes, before the old bytes land */
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memcpy(at, "old", 3);
    put(store, "k", 'n', 3);
    assert_int_equal(kvl_store_commit_read(store, slot, epoch, &view), -ESTALE);
    assert_int_equal(kvl_store_get(store, &chunk.key, &view), 0);
    assert_memory_equal(view.data, "nnn", 3);
    kvl_store_release(store, view.lease);

    epoch = kvl_store_epoch(store, hash);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memcpy(at, "old", 3);
    assert_int_equal(kvl_store_remove(store, &chunk.key), 0);
    assert_int_equal(kvl_store_commit_read(store, slot, epoch, &view), -ESTALE);
    assert_false(has(store, "k"));

    epoch = kvl_store_epoch(store, hash);
    assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
    memcpy(at, "yes", 3);
    assert_int_equal(kvl_store_commit_read(store, slot, epoch, NULL), 0);
    assert_true(has(store, "k"));
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_abort_gives_the_room_back(void **state)
{
    struct kvl_store *store = make(65536, 0);
    struct kvl_chunk chunk = chunk_of("k", 60000);
    uint64_t slot;
    void *at;

    (void)state;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
        assert_int_equal(kvl_store_reserve(store, &chunk, &(uint64_t){0}, &at), -ENOMEM);
        assert_int_equal(kvl_store_abort(store, slot), 0);
        assert_int_equal(kvl_store_abort(store, slot), -EINVAL);
    }
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_destroy_tells_what_is_out(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    struct kvl_key key = kvl_key_from_text("k");
    struct kvl_view view;

    (void)state;
    put(store, "k", 9, 100);
    assert_int_equal(kvl_store_get(store, &key, &view), 0);
    assert_int_equal(kvl_store_destroy(store), 1);
    assert_int_equal(((const char *)view.data)[99], 9); /* never given back */
}

static int collect(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    (void)key;
    *(uint64_t *)ctx += bytes;
    return bytes == 3 ? 77 : 0;
}

static void test_list_sees_all_and_stops_when_told(void **state)
{
    struct kvl_store *store = make(MIB, 0);
    uint64_t sum = 0;

    (void)state;
    put(store, "a", 0, 1);
    put(store, "b", 0, 2);
    assert_int_equal(kvl_store_list(store, collect, &sum), 0);
    assert_int_equal(sum, 3);
    put(store, "c", 0, 3);
    assert_int_equal(kvl_store_list(store, collect, &sum), 77);
    kvl_store_destroy(store);
}

/* The order of the trace's rule: per request the ids in reverse, then down to the limit. */
static void test_chunk_limit_is_kept_only_at_trim(void **state)
{
    struct kvl_store *store = make(MIB, 3);

    (void)state;
    for (int i = 5; i-- > 0;) {
        char key[8];

        snprintf(key, sizeof(key), "%d", i);
        put(store, key, 0, 0);
    }
    assert_true(has(store, "4"));
    kvl_store_trim(store);
    assert_true(has(store, "0") && has(store, "1") && has(store, "2"));
    assert_false(has(store, "3") || has(store, "4"));
    kvl_store_destroy(store);
}

static struct kvl_store *make_with_quotas(uint64_t each, const char *list)
{
    const struct kvl_store_params params = {
        .max_bytes = MIB,
        .checksum = 1,
        .quota = each,
        .quotas = list,
    };
    struct kvl_store *store = NULL;

    assert_int_equal(kvl_store_create(&params, &store), 0);
    return store;
}

static void test_a_namespace_over_its_quota_pays_itself(void **state)
{
    struct kvl_store *store = make_with_quotas(100000, "big=400000, tiny = 1000");

    (void)state;
    put(store, "other@1", 1, 50000);
    for (int i = 0; i < 20; i++) {
        char key[16];

        snprintf(key, sizeof(key), "a@%d", i);
        assert_int_equal(put(store, key, 1, 30000), 0);
    }
    assert_true(has(store, "other@1"));
    assert_true(has(store, "a@19") && has(store, "a@18") && has(store, "a@17"));
    assert_false(has(store, "a@16"));
    assert_int_equal(put(store, "a@x", 1, 100001), -EMSGSIZE);
    assert_int_equal(put(store, "tiny@1", 1, 900), -EMSGSIZE); /* keys and records count */
    assert_int_equal(put(store, "big@1", 1, 390000), 0);
    assert_true(has(store, "a@19"));
    assert_int_equal(kvl_store_destroy(store), 0);
}

static void test_quotas_count_what_is_still_leased(void **state)
{
    struct kvl_store *store = make_with_quotas(0, "a=50000");
    struct kvl_key key = kvl_key_from_text("a@1");
    struct kvl_view view;

    (void)state;
    put(store, "a@1", 1, 40000);
    assert_int_equal(kvl_store_get(store, &key, &view), 0);
    assert_int_equal(put(store, "a@2", 1, 40000), -ENOMEM);
    assert_int_equal(put(store, "b@2", 1, 40000), 0); /* no limit for the others */
    kvl_store_release(store, view.lease);
    assert_int_equal(put(store, "a@2", 1, 40000), 0);
    assert_false(has(store, "a@1"));
    for (int i = 0; i < 2000; i++) { /* more namespaces than are told apart */
        char text[16];

        snprintf(text, sizeof(text), "n%d@", i);
        assert_int_equal(put(store, text, 0, 10), 0);
    }
    kvl_store_destroy(store);
}

/* Sizes from 1 KiB to 1 MiB, most of them small, each of the doublings as often as the others. */
static void test_mixed_sizes_lose_less_than_a_tenth(void **state)
{
    struct kvl_store *store = make(16 * MIB, 0);
    struct kvl_store_stats stats;
    double filled = 0;
    unsigned seed = 7;
    int looks = 0;

    (void)state;
    for (int i = 0; i < 6000; i++) {
        struct kvl_chunk chunk;
        char key[16];
        uint64_t slot;
        void *at;

        snprintf(key, sizeof(key), "k%d", i);
        chunk =
            chunk_of(key, (1024u << (unsigned)rand_r(&seed) % 10) + (unsigned)rand_r(&seed) % 999);
        assert_int_equal(kvl_store_reserve(store, &chunk, &slot, &at), 0);
        memset(at, 1, 64);
        assert_int_equal(kvl_store_commit(store, slot, NULL), 0);
        if (i >= 3000 && i % 50 == 0) {
            kvl_store_get_stats(store, &stats);
            filled += (double)stats.bytes / (16 * MIB);
            looks++;
        }
    }
    assert_true(filled / looks > 0.9);
    assert_int_equal(kvl_store_destroy(store), 0);
}

struct worker {
    struct kvl_store *store;
    unsigned seed;
    int bad;
};

/* Bytes tell which key they belong to: a wrong one is a mix-up of spans. */
static void *work(void *arg)
{
    struct worker *worker = arg;

    for (int i = 0; i < 8000; i++) {
        unsigned n = (unsigned)rand_r(&worker->seed) % 64;
        char text[16];
        struct kvl_key key;
        struct kvl_view view;

        snprintf(text, sizeof(text), "key%u", n);
        key = kvl_key_from_text(text);
        if (i % 3 == 0) {
            (void)put(worker->store, text, (int)n, 1000 + n * 37);
        } else if (i % 50 == 1) {
            (void)kvl_store_remove(worker->store, &key);
        } else if (kvl_store_get(worker->store, &key, &view) == 0) {
            worker->bad += view.length != 1000 + n * 37 || kvl_store_verify(worker->store, &view) ||
                           ((const unsigned char *)view.data)[view.length - 1] != n;
            worker->bad += kvl_store_release(worker->store, view.lease) != 0;
        }
    }
    return NULL;
}

static void test_many_threads_see_whole_values(void **state)
{
    struct kvl_store *store = make(96 * 1024, 0); /* some of 64 keys: eviction all the time */
    struct worker workers[4];
    pthread_t threads[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        workers[i] = (struct worker){.store = store, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].bad, 0);
    }
    assert_int_equal(kvl_store_destroy(store), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_and_attributes_come_back),
        cmocka_unit_test(test_empty_chunks_are_chunks),
        cmocka_unit_test(test_keys_of_every_length),
        cmocka_unit_test(test_overwrite_leaves_leases_alone),
        cmocka_unit_test(test_least_recently_used_goes_first),
        cmocka_unit_test(test_lookup_is_no_use),
        cmocka_unit_test(test_leased_chunks_are_not_evicted),
        cmocka_unit_test(test_budget_counts_keys_and_records),
        cmocka_unit_test(test_too_large_is_refused_and_the_largest_is_taken),
        cmocka_unit_test(test_a_flipped_bit_is_seen_and_the_chunk_dropped),
        cmocka_unit_test(test_commit_checks_the_checksum_it_was_given),
        cmocka_unit_test(test_bytes_read_earlier_do_not_replace_newer_ones),
        cmocka_unit_test(test_abort_gives_the_room_back),
        cmocka_unit_test(test_destroy_tells_what_is_out),
        cmocka_unit_test(test_list_sees_all_and_stops_when_told),
        cmocka_unit_test(test_chunk_limit_is_kept_only_at_trim),
        cmocka_unit_test(test_mixed_sizes_lose_less_than_a_tenth),
        cmocka_unit_test(test_a_namespace_over_its_quota_pays_itself),
        cmocka_unit_test(test_quotas_count_what_is_still_leased),
        cmocka_unit_test(test_many_threads_see_whole_values),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
