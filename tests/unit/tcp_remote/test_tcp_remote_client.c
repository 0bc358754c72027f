/* SPDX-License-Identifier: Apache-2.0 */
/* Our client against our server. */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SMALL 300u

struct pair {
    struct rig server;
    struct rig client;
    char url[240]; /* outlives a server that is replaced */
    const char *server_pairs[16];
    const char *client_pairs[16];
};

static void pair_start(struct pair *pair, const char *const *more)
{
    size_t n = 0;

    memset(pair, 0, sizeof(*pair));
    pair->server_pairs[0] = "role";
    pair->server_pairs[1] = "server";
    pair->server_pairs[2] = "listen";
    pair->server_pairs[3] = "127.0.0.1:0";
    rig_start(&pair->server, pair->server_pairs);
    pair->client_pairs[n++] = "url";
    memcpy(pair->url, pair->server.url, sizeof(pair->url));
    pair->client_pairs[n++] = pair->url;
    while (more != NULL && *more != NULL) {
        pair->client_pairs[n++] = *more++;
    }
    rig_start(&pair->client, pair->client_pairs);
}

static void pair_stop(struct pair *pair)
{
    rig_stop(&pair->client);
    rig_stop(&pair->server);
}

static struct kvl_sg host_sg(void *at, uint64_t length)
{
    return (struct kvl_sg){
        .addr = (uint64_t)(uintptr_t)at, .length = length, .count = 1, .device = KVL_DEVICE_HOST};
}

static struct kvl_batch batch_of(uint64_t cookie, const struct kvl_chunk *chunks, uint32_t count,
                                 const struct kvl_sg *sg, const uint32_t *sg_first)
{
    return (struct kvl_batch){.size = sizeof(struct kvl_batch),
                              .count = count,
                              .cookie = cookie,
                              .chunks = chunks,
                              .sg = sg,
                              .sg_first = sg_first};
}

static struct kvl_chunk chunk_of(const char *key, uint64_t bytes)
{
    return (struct kvl_chunk){
        .key = kvl_key_from_text(key),
        .attrs = {.fmt = KVL_FMT_KV_2LTD, .dtype = KVL_DTYPE_BFLOAT16, .shape = {2, 3, 5, 7}},
        .bytes = bytes};
}

typedef int (*submit_fn)(void *self, const struct kvl_batch *batch);

/* Submits and waits; what -EAGAIN or a peer still connecting means is not the caller's concern. */
static void run_batch(struct rig *rig, submit_fn submit, const struct kvl_batch *batch,
                      struct fake_result *result)
{
    assert_int_equal(submit(rig->self, batch), 0);
    assert_int_equal(fake_host_wait(rig->fake, batch->cookie, result), 0);
    assert_int_equal(fake_host_completions(rig->fake, batch->cookie), 1);
}

static void write_one(struct rig *rig, uint64_t cookie, const char *key, void *bytes,
                      uint64_t length, struct fake_result *result)
{
    const struct kvl_chunk chunk = chunk_of(key, length);
    const struct kvl_sg sg = host_sg(bytes, length);
    const uint32_t first[2] = {0, 1};
    const struct kvl_batch batch = batch_of(cookie, &chunk, 1, &sg, first);

    run_batch(rig, rig->ops->write, &batch, result);
}

static void fill(uint8_t *bytes, size_t length, unsigned seed)
{
    for (size_t i = 0; i < length; i++) {
        seed = seed * 1103515245u + 12345u;
        bytes[i] = (uint8_t)(seed >> 16 & 0xff);
    }
}

static void check_round_trip(const char *const *options, size_t length)
{
    uint8_t *sent = malloc(length + 1);
    uint8_t *got = calloc(1, length + 1);
    struct kvl_chunk chunk = chunk_of("k@1@0@ab@bfloat16", length);
    const struct kvl_sg sg = host_sg(got, length);
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = batch_of(2, &chunk, 1, &sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    fill(sent, length, 7);
    pair_start(&pair, options);
    write_one(&pair.client, 1, "k@1@0@ab@bfloat16", sent, length, result);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, length);
    chunk.flags = KVL_CHUNK_EXPECT_ATTRS;
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, 0);
    assert_int_equal(result->bytes, length);
    assert_memory_equal(got, sent, length);
    pair_stop(&pair);
    free(result);
    free(sent);
    free(got);
}

static const char *const plain[] = {NULL};
static const char *const sealed[] = {"checksum", "yes", NULL};
static const char *const unconfirmed[] = {"confirm", "no", "connections", "1", NULL};

static void test_round_trip(void **state)
{
    (void)state;
    check_round_trip(plain, SMALL);
    check_round_trip(plain, 0);
    check_round_trip(plain, 9000001);
}

static void test_round_trip_sealed(void **state)
{
    (void)state;
    check_round_trip(sealed, SMALL);
    check_round_trip(sealed, 0);
    check_round_trip(sealed, 9000001);
}

static void test_round_trip_unconfirmed(void **state)
{
    (void)state;
    check_round_trip(unconfirmed, SMALL);
    check_round_trip(unconfirmed, 9000001);
}

static void test_read_asks_the_host_for_the_target(void **state)
{
    struct kvl_chunk chunk = chunk_of("k", 0);
    struct kvl_batch batch = batch_of(1, &chunk, 1, NULL, NULL);
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk found;
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    fake_host_put(pair.server.fake, "k", "payload", 7, &chunk.attrs);
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, 0);
    assert_memory_equal(fake_host_target(pair.client.fake, 1, 0, &found), "payload", 7);
    assert_int_equal(found.bytes, 7);
    assert_memory_equal(&found.attrs, &chunk.attrs, sizeof(found.attrs));
    pair_stop(&pair);
    free(result);
}

static void test_refused_target_is_drained(void **state)
{
    struct kvl_chunk chunks[2] = {chunk_of("k", 0), chunk_of("k", 0)};
    struct kvl_batch batch = batch_of(1, chunks, 2, NULL, NULL);
    struct fake_result *result = malloc(sizeof(*result));
    uint8_t *value = calloc(1, 1000000);
    struct pair pair;

    (void)state;
    pair_start(&pair, unconfirmed);
    fake_host_put(pair.server.fake, "k", value, 1000000, &chunks[0].attrs);
    fake_host_set_target_code(pair.client.fake, -ENOMEM);
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->items[0], -ENOMEM);
    assert_int_equal(result->items[1], -ENOMEM);
    assert_int_equal(rig_stat(&pair.client, "connections_lost"), 0);
    pair_stop(&pair);
    free(value);
    free(result);
}

static void test_strided_runs_on_both_sides(void **state)
{
    enum { RUN = 100, RUNS = 5000, STRIDE = 128 };
    uint8_t *from = malloc((size_t)RUNS * STRIDE);
    uint8_t *to = calloc(RUNS, STRIDE);
    struct kvl_chunk chunk = chunk_of("k", (uint64_t)RUN * RUNS);
    struct kvl_sg sg = {.length = RUN, .stride = STRIDE, .count = RUNS, .device = -1};
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = batch_of(1, &chunk, 1, &sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    fill(from, (size_t)RUNS * STRIDE, 3);
    pair_start(&pair, sealed);
    sg.addr = (uint64_t)(uintptr_t)from;
    run_batch(&pair.client, pair.client.ops->write, &batch, result);
    assert_int_equal(result->status, 0);
    sg.addr = (uint64_t)(uintptr_t)to;
    batch.cookie = 2;
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, 0);
    for (size_t i = 0; i < RUNS; i++) {
        assert_memory_equal(to + i * STRIDE, from + i * STRIDE, RUN);
        assert_int_equal(to[i * STRIDE + RUN], 0); /* the gaps are not ours */
    }
    pair_stop(&pair);
    free(result);
    free(from);
    free(to);
}

static void test_many_chunks_keep_their_places(void **state)
{
    enum { COUNT = 500 };
    struct kvl_chunk chunks[COUNT];
    struct kvl_sg sg[COUNT];
    uint32_t first[COUNT + 1];
    char keys[COUNT][32];
    uint8_t *from = malloc((size_t)COUNT * SMALL);
    uint8_t *to = calloc(COUNT, SMALL);
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_batch batch = batch_of(1, chunks, COUNT, sg, first);
    struct pair pair;

    (void)state;
    fill(from, (size_t)COUNT * SMALL, 9);
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(keys[i], sizeof(keys[i]), "m@1@0@%x@half", (unsigned)i);
        chunks[i] = chunk_of(keys[i], SMALL);
        sg[i] = host_sg(from + (size_t)i * SMALL, SMALL);
        first[i] = i;
    }
    first[COUNT] = COUNT;
    pair_start(&pair, plain);
    run_batch(&pair.client, pair.client.ops->write, &batch, result);
    assert_int_equal(result->status, 0);
    for (uint32_t i = 0; i < COUNT; i++) {
        sg[i] = host_sg(to + (size_t)i * SMALL, SMALL);
    }
    batch.cookie = 2;
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, 0);
    assert_memory_equal(to, from, (size_t)COUNT * SMALL);
    pair_stop(&pair);
    free(result);
    free(from);
    free(to);
}

static void test_lookup_answers_in_order(void **state)
{
    enum { COUNT = 1000 };
    struct kvl_chunk *chunks = calloc(COUNT, sizeof(*chunks));
    char(*keys)[32] = calloc(COUNT, sizeof(*keys));
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_batch batch = batch_of(1, chunks, COUNT, NULL, NULL);
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(keys[i], sizeof(keys[i]), "m@1@0@%x@half", (unsigned)i);
        chunks[i] = chunk_of(keys[i], 0);
        if (i % 3 == 0) {
            fake_host_put(pair.server.fake, keys[i], "x", 1, &tcp_remote_no_attrs);
        }
    }
    run_batch(&pair.client, pair.client.ops->lookup, &batch, result);
    assert_int_equal(result->item_count, COUNT);
    assert_int_equal(result->status, -ENOENT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(result->items[i], i % 3 == 0 ? 0 : -ENOENT);
    }
    pair_stop(&pair);
    free(result);
    free(keys);
    free(chunks);
}

static void test_miss_and_wrong_shapes(void **state)
{
    struct kvl_chunk chunks[4] = {chunk_of("absent", 8), chunk_of("k", 7), chunk_of("k", 9),
                                  chunk_of("k", 8)};
    uint8_t to[32];
    const struct kvl_sg sg[4] = {host_sg(to, 8), host_sg(to, 7), host_sg(to, 9), host_sg(to, 8)};
    const uint32_t first[5] = {0, 1, 2, 3, 4};
    struct kvl_batch batch = batch_of(1, chunks, 4, sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    chunks[3].flags = KVL_CHUNK_EXPECT_ATTRS;
    pair_start(&pair, plain);
    fake_host_put(pair.server.fake, "k", "12345678", 8, &tcp_remote_no_attrs);
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->items[0], -ENOENT);
    assert_int_equal(result->items[1], -EMSGSIZE);
    assert_int_equal(result->items[2], -EBADMSG);
    assert_int_equal(result->items[3], -EBADMSG);
    pair_stop(&pair);
    free(result);
}

static void test_flipped_bit_is_noticed(void **state)
{
    uint8_t bytes[SMALL];
    struct kvl_chunk chunk = chunk_of("k", SMALL);
    const struct kvl_sg sg = host_sg(bytes, SMALL);
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = batch_of(2, &chunk, 1, &sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    fill(bytes, sizeof(bytes), 1);
    pair_start(&pair, sealed);
    write_one(&pair.client, 1, "k", bytes, SMALL, result);
    assert_int_equal(result->status, 0);
    assert_false(fake_host_has(pair.server.fake, "k", 1)); /* LMCache never meets a sealed one */
    fake_host_flip(pair.server.fake, "k@kvl%1", 17);
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, -EBADMSG);
    assert_int_equal(rig_stat(&pair.client, "bad_checksums"), 1);
    pair_stop(&pair);
    free(result);
}

static void test_given_checksum_is_not_computed_again(void **state)
{
    uint8_t bytes[SMALL];
    struct kvl_chunk chunk = chunk_of("k", SMALL);
    const struct kvl_sg sg = host_sg(bytes, SMALL);
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = batch_of(1, &chunk, 1, &sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    fill(bytes, sizeof(bytes), 1);
    chunk.flags = KVL_CHUNK_HAS_CHECKSUM;
    chunk.checksum = 42; /* wrong on purpose: it must be what is sent */
    pair_start(&pair, sealed);
    run_batch(&pair.client, pair.client.ops->write, &batch, result);
    assert_int_equal(result->status, 0);
    batch.cookie = 2;
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->status, -EBADMSG);
    pair_stop(&pair);
    free(result);
}

static void test_read_checks_what_the_reader_expects(void **state)
{
    uint8_t bytes[SMALL];
    uint8_t got[SMALL];
    struct kvl_chunk chunks[2] = {chunk_of("k", SMALL), chunk_of("k", SMALL)};
    const struct kvl_sg sg[2] = {host_sg(got, SMALL), host_sg(got, SMALL)};
    const uint32_t first[3] = {0, 1, 2};
    struct kvl_batch batch = batch_of(1, chunks, 2, sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    fill(bytes, sizeof(bytes), 1);
    chunks[0].flags = KVL_CHUNK_HAS_CHECKSUM;
    chunks[0].checksum = XXH3_64bits(bytes, sizeof(bytes));
    chunks[1].flags = KVL_CHUNK_HAS_CHECKSUM;
    chunks[1].checksum = chunks[0].checksum + 1;
    pair_start(&pair, plain);
    fake_host_put(pair.server.fake, "k", bytes, SMALL, &tcp_remote_no_attrs);
    run_batch(&pair.client, pair.client.ops->read, &batch, result);
    assert_int_equal(result->items[0], 0);
    assert_int_equal(result->items[1], -EBADMSG);
    pair_stop(&pair);
    free(result);
}

static void test_sealed_key_over_150_bytes(void **state)
{
    char key[KVL_KEY_MAX + 1];
    struct kvl_chunk chunks[2];
    struct kvl_batch batch = batch_of(1, chunks, 2, NULL, NULL);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    memset(key, 'k', sizeof(key));
    key[145] = '\0';
    chunks[0] = chunk_of(key, 0);
    chunks[1] = chunk_of("k", 0);
    pair_start(&pair, sealed);
    run_batch(&pair.client, pair.client.ops->lookup, &batch, result);
    assert_int_equal(result->items[0], -EMSGSIZE);
    assert_int_equal(result->items[1], -ENOENT);
    batch.count = 1;
    batch.cookie = 2;
    run_batch(&pair.client, pair.client.ops->lookup, &batch, result);
    assert_int_equal(result->status, -EMSGSIZE);
    pair_stop(&pair);
    free(result);
}

static void test_bad_batches_are_refused(void **state)
{
    char key[KVL_KEY_MAX + 2];
    struct kvl_chunk chunk;
    struct kvl_sg sg = host_sg(key, 5);
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = batch_of(1, &chunk, 1, &sg, first);
    struct pair pair;

    (void)state;
    memset(key, 'k', sizeof(key));
    key[KVL_KEY_MAX + 1] = '\0';
    pair_start(&pair, plain);
    chunk = chunk_of(key, 5);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -EINVAL);
    chunk = chunk_of("", 5);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -EINVAL);
    chunk = chunk_of("blank ", 5);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -EINVAL);
    chunk = chunk_of("k", 6);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -EINVAL);
    chunk = chunk_of("k", 1ull << 31);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -EMSGSIZE);
    chunk = chunk_of("k", 5);
    sg.mem = 3;
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -ENOTSUP);
    assert_int_equal(fake_host_completions_all(pair.client.fake), 0);
    pair_stop(&pair);
}

static void test_refused_put_is_not_confirmed(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    char bytes[] = "hello";
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    fake_host_set_reserve_code(pair.server.fake, -ENOMEM);
    write_one(&pair.client, 1, "k", bytes, 5, result);
    assert_int_equal(result->status, -EIO);
    pair_stop(&pair);
    free(result);
}

static void test_list_brings_every_key(void **state)
{
    enum { COUNT = 3000 };
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;
    char key[40];

    (void)state;
    pair_start(&pair, plain);
    for (unsigned i = 0; i < COUNT; i++) {
        snprintf(key, sizeof(key), "listed-model@1@0@%x@half", i);
        fake_host_put(pair.server.fake, key, "", 0, &tcp_remote_no_attrs);
    }
    assert_int_equal(pair.client.ops->list(pair.client.self, 1, 0), 0);
    assert_int_equal(fake_host_wait(pair.client.fake, 1, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(fake_host_listed_count(pair.client.fake), COUNT);
    assert_true(fake_host_listed(pair.client.fake, "listed-model@1@0@0@half"));
    assert_true(fake_host_listed(pair.client.fake, key));
    pair_stop(&pair);
    free(result);
}

static void test_sealed_list_shows_sealed_keys_only(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    char bytes[] = "hello";
    struct pair pair;

    (void)state;
    pair_start(&pair, sealed);
    fake_host_put(pair.server.fake, "other", "x", 1, &tcp_remote_no_attrs);
    write_one(&pair.client, 1, "mine", bytes, 5, result);
    assert_int_equal(pair.client.ops->list(pair.client.self, 2, 0), 0);
    assert_int_equal(fake_host_wait(pair.client.fake, 2, result), 0);
    assert_int_equal(fake_host_listed_count(pair.client.fake), 1);
    assert_true(fake_host_listed(pair.client.fake, "mine"));
    pair_stop(&pair);
    free(result);
}

static void test_probe(void **state)
{
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    assert_int_equal(pair.client.ops->probe(pair.client.self, 1, 0), 0);
    assert_int_equal(fake_host_wait(pair.client.fake, 1, result), 0);
    assert_int_equal(result->status, 0);
    assert_int_equal(rig_stat(&pair.server, "requests_health"), 1);
    pair_stop(&pair);
    free(result);
}

static void test_roles_say_what_they_can(void **state)
{
    struct kvl_limits limits = {.size = sizeof(limits)};
    struct kvl_chunk chunk = chunk_of("k", 0);
    struct kvl_batch batch = batch_of(1, &chunk, 1, NULL, NULL);
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    pair.server.ops->get_limits(pair.server.self, &limits);
    assert_true(limits.caps == KVL_CAP_SERVE);
    assert_int_equal(pair.server.ops->lookup(pair.server.self, &batch), -ENOTSUP);
    pair.client.ops->get_limits(pair.client.self, &limits);
    assert_true((limits.caps & KVL_CAP_SERVE) == 0);
    assert_true((limits.caps & KVL_CAP_CANCEL) != 0);
    pair_stop(&pair);
}

static void test_unix_path_end_to_end(void **state)
{
    char listen[128];
    const char *const server_pairs[] = {"role", "server", "listen", listen, NULL};
    const char *const client_pairs[] = {"url", listen, NULL};
    struct fake_result *result = malloc(sizeof(*result));
    char bytes[] = "over a path";
    struct rig server;
    struct rig client;

    (void)state;
    snprintf(listen, sizeof(listen), "unix:/tmp/kvl-test-client-%ld.sock", (long)getpid());
    rig_start(&server, server_pairs);
    rig_start(&client, client_pairs);
    write_one(&client, 1, "k", bytes, sizeof(bytes), result);
    assert_int_equal(result->status, 0);
    rig_stop(&client);
    rig_stop(&server);
    free(result);
}

static void test_peer_comes_back(void **state)
{
    const char *const more[] = {"backoff_min", "1", "backoff_max", "5", NULL};
    char listen[64];
    const char *const again[] = {"role", "server", "listen", listen, NULL};
    struct fake_result *result = malloc(sizeof(*result));
    struct kvl_chunk chunk = chunk_of("k", 0);
    struct kvl_batch batch = batch_of(2, &chunk, 1, NULL, NULL);
    char bytes[] = "hello";
    struct pair pair;
    int r;

    (void)state;
    pair_start(&pair, more);
    write_one(&pair.client, 1, "k", bytes, 5, result);
    assert_int_equal(result->status, 0);
    snprintf(listen, sizeof(listen), "127.0.0.1:%u", (unsigned)pair.server.port);
    rig_stop(&pair.server);
    do { /* until the client knows */
        r = pair.client.ops->lookup(pair.client.self, &batch);
        if (r == 0) {
            assert_int_equal(fake_host_wait(pair.client.fake, batch.cookie, result), 0);
            assert_true(result->status < 0 && result->status != -ENOENT);
        }
        batch.cookie++;
    } while (r != -ENOTCONN);
    rig_start(&pair.server, again);
    do {
        r = pair.client.ops->lookup(pair.client.self, &batch);
        if (r == 0) {
            assert_int_equal(fake_host_wait(pair.client.fake, batch.cookie, result), 0);
        }
        batch.cookie++;
    } while (r != 0 || result->status != -ENOENT);
    pair_stop(&pair);
    free(result);
}

static void test_stop_completes_what_is_under_way(void **state)
{
    enum { BATCHES = 200 };
    uint8_t *bytes = calloc(1, 1 << 20);
    struct kvl_chunk chunk = chunk_of("k", 1 << 20);
    const struct kvl_sg sg = host_sg(bytes, 1 << 20);
    const uint32_t first[2] = {0, 1};
    uint32_t accepted = 0;
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    for (uint64_t i = 0; i < BATCHES; i++) {
        const struct kvl_batch batch = batch_of(i + 1, &chunk, 1, &sg, first);

        accepted += pair.client.ops->write(pair.client.self, &batch) == 0;
    }
    pair.client.ops->stop(pair.client.self);
    assert_int_equal(fake_host_completions_all(pair.client.fake), accepted);
    assert_int_equal(accepted, BATCHES);
    pair_stop(&pair);
    free(bytes);
}

static void test_drain_waits_for_work(void **state)
{
    uint8_t *bytes = calloc(1, 8 << 20);
    struct kvl_chunk chunk = chunk_of("k", 8 << 20);
    const struct kvl_sg sg = host_sg(bytes, 8 << 20);
    const uint32_t first[2] = {0, 1};
    const struct kvl_batch batch = batch_of(1, &chunk, 1, &sg, first);
    struct fake_result *result = malloc(sizeof(*result));
    struct pair pair;

    (void)state;
    pair_start(&pair, plain);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), 0);
    pair.client.ops->quiesce(pair.client.self);
    assert_int_equal(pair.client.ops->write(pair.client.self, &batch), -ECANCELED);
    assert_int_equal(pair.client.ops->drain(pair.client.self, KVL_NEVER), 0);
    assert_int_equal(fake_host_completions(pair.client.fake, 1), 1);
    assert_int_equal(fake_host_wait(pair.client.fake, 1, result), 0);
    assert_int_equal(result->status, 0);
    pair_stop(&pair);
    free(result);
    free(bytes);
}

#define THREADS 4
#define PER_THREAD 300

struct submitter {
    struct rig *rig;
    uint8_t *bytes;
    uint64_t first_cookie;
    uint32_t accepted;
};

/* Every kind of batch, some of them cancelled at once. */
static void *submit_many(void *arg)
{
    struct submitter *self = arg;
    const struct kvl_backend_ops *ops = self->rig->ops;
    const struct kvl_sg sg = host_sg(self->bytes, 20000);
    const uint32_t first[2] = {0, 1};
    char key[32];

    for (uint32_t i = 0; i < PER_THREAD; i++) {
        uint64_t cookie = self->first_cookie + i;
        struct kvl_chunk chunk;
        struct kvl_batch batch;
        int r;

        snprintf(key, sizeof(key), "m@1@0@%x@half", (unsigned)(i % 7));
        chunk = chunk_of(key, i % 3 == 0 ? 0 : 20000);
        /* reads ask for their target: several may be under way at once */
        batch = i % 3 == 1 ? batch_of(cookie, &chunk, 1, &sg, first)
                           : batch_of(cookie, &chunk, 1, NULL, NULL);
        r = i % 3 == 0   ? ops->lookup(self->rig->self, &batch)
            : i % 3 == 1 ? ops->write(self->rig->self, &batch)
                         : ops->read(self->rig->self, &batch);
        self->accepted += r == 0;
        if (i % 5 == 0) {
            ops->cancel(self->rig->self, cookie);
        }
    }
    return NULL;
}

static void check_each_completes_once(const char *const *more, uint32_t streams)
{
    struct kvl_limits limits = {.size = sizeof(limits)};
    struct submitter submitters[THREADS];
    pthread_t threads[THREADS];
    uint32_t accepted = 0;
    struct pair pair;

    pair_start(&pair, more);
    pair.client.ops->get_limits(pair.client.self, &limits);
    assert_int_equal(limits.streams, streams);
    assert_true(limits.max_in_flight >= 65536);
    for (uint32_t i = 0; i < THREADS; i++) {
        submitters[i] = (struct submitter){.rig = &pair.client,
                                           .bytes = calloc(1, 20000),
                                           .first_cookie = 1 + (uint64_t)i * PER_THREAD};
        assert_int_equal(pthread_create(&threads[i], NULL, submit_many, &submitters[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        accepted += submitters[i].accepted;
    }
    pair.client.ops->quiesce(pair.client.self);
    assert_int_equal(pair.client.ops->drain(pair.client.self, KVL_NEVER), 0);
    assert_int_equal(accepted, THREADS * PER_THREAD);
    assert_int_equal(fake_host_completions_all(pair.client.fake), accepted);
    for (uint64_t cookie = 1; cookie <= accepted; cookie++) {
        assert_int_equal(fake_host_completions(pair.client.fake, cookie), 1);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        free(submitters[i].bytes);
    }
    assert_true(rig_stat(&pair.client, "connected") >= streams); /* each lane has its own */
    pair_stop(&pair);
}

static void test_each_batch_completes_once(void **state)
{
    const char *const more[] = {"connections", "3", "max_in_flight", "65536", NULL};

    (void)state;
    check_each_completes_once(more, 1);
}

static void test_each_batch_completes_once_on_several_threads(void **state)
{
    const char *const more[] = {"connections", "5", "client_threads", "3", "max_in_flight",
                                "65536",       NULL};
    const char *const few[] = {"connections", "2", "client_threads", "4", "max_in_flight",
                               "65536",       NULL};

    (void)state;
    check_each_completes_once(more, 3);
    check_each_completes_once(few, 2); /* a thread without a connection has nothing to do */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_round_trip_sealed),
        cmocka_unit_test(test_round_trip_unconfirmed),
        cmocka_unit_test(test_read_asks_the_host_for_the_target),
        cmocka_unit_test(test_refused_target_is_drained),
        cmocka_unit_test(test_strided_runs_on_both_sides),
        cmocka_unit_test(test_many_chunks_keep_their_places),
        cmocka_unit_test(test_lookup_answers_in_order),
        cmocka_unit_test(test_miss_and_wrong_shapes),
        cmocka_unit_test(test_flipped_bit_is_noticed),
        cmocka_unit_test(test_given_checksum_is_not_computed_again),
        cmocka_unit_test(test_read_checks_what_the_reader_expects),
        cmocka_unit_test(test_sealed_key_over_150_bytes),
        cmocka_unit_test(test_bad_batches_are_refused),
        cmocka_unit_test(test_refused_put_is_not_confirmed),
        cmocka_unit_test(test_list_brings_every_key),
        cmocka_unit_test(test_sealed_list_shows_sealed_keys_only),
        cmocka_unit_test(test_probe),
        cmocka_unit_test(test_roles_say_what_they_can),
        cmocka_unit_test(test_unix_path_end_to_end),
        cmocka_unit_test(test_peer_comes_back),
        cmocka_unit_test(test_stop_completes_what_is_under_way),
        cmocka_unit_test(test_drain_waits_for_work),
        cmocka_unit_test(test_each_batch_completes_once),
        cmocka_unit_test(test_each_batch_completes_once_on_several_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
