/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks of engines that are there: what comes, where it lands, and how a batch ends early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chunks_rig.h"

#define MIB ((size_t)1 << 20)
#define HEAD "log_level = warn\n[store]\nmax_bytes = 160MiB\n"

/* ---- sizes and ways ---- */

static const size_t sizes[] = {1, 63, 64, 4096, 65537, MIB, 16 * MIB};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

static void all_sizes(const char *shm, const char *keep)
{
    const int keeps = strcmp(keep, "yes") == 0;
    struct rig_node a;
    struct rig_node b;
    char key[32];

    rig_open(&a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\nkeep = %s\npeers = %s\n", shm, keep, a.url);
    for (size_t i = 0; i < SIZES; i++) {
        snprintf(key, sizeof(key), "size-%zu", sizes[i]);
        rig_save(&a, key, sizes[i]);
        assert_int_equal(rig_lookup(&b, key, 5000, NULL), 0);
        assert_int_equal(rig_expect(&b, key, sizes[i]), RIG_PEER);
        assert_int_equal(rig_expect(&b, key, sizes[i]), keeps ? KVL_LOCATION_LOCAL : RIG_PEER);
    }
    assert_int_equal(engine_stat(&b.engine, "store_chunks"), keeps ? SIZES : 0);
    assert_int_equal(engine_stat(&b.engine, strcmp(shm, "yes") == 0 ? "py_socket_data_peers_shm"
                                                                    : "py_socket_data_peers_tcp"),
                     1);
    assert_int_equal(rig_lookup(&b, "nobody has this", 5000, NULL), -ENOENT);
    rig_close(&b);
    rig_close(&a);
}

static void test_shared_memory(void **state)
{
    (void)state;
    all_sizes("yes", "no");
}

static void test_sockets(void **state)
{
    (void)state;
    all_sizes("no", "no");
}

static void test_shared_memory_into_the_store(void **state)
{
    (void)state;
    all_sizes("yes", "yes");
}

static void test_sockets_into_the_store(void **state)
{
    (void)state;
    all_sizes("no", "yes");
}

/* Rows of a table that lie apart, and a rest; what is between them stays. */
static void scattered(const char *shm)
{
    static uint8_t target[64 * 1024];
    uint8_t flat[16 * 1000 + 777];
    struct kvl_sg sg[2] = {{.length = 1000, .stride = 2048, .count = 16, .device = KVL_DEVICE_HOST},
                           {.length = 777, .count = 1, .device = KVL_DEVICE_HOST}};
    const uint32_t first[2] = {0, 2};
    struct engine_batch batch;
    struct rig_node a;
    struct rig_node b;

    rig_open(&a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\npeers = %s\n", shm, a.url);
    rig_save(&a, "rows", sizeof(flat));
    memset(target, 0x5a, sizeof(target));
    sg[0].addr = (uint64_t)(uintptr_t)target;
    sg[1].addr = (uint64_t)(uintptr_t)target + 40000;
    engine_batch_init(&batch, 5000);
    (void)engine_batch_add(&batch, "rows", flat, sizeof(flat));
    batch.batch.sg = sg;
    batch.batch.sg_first = first;
    assert_int_equal(b.engine.plugin->load(b.engine.instance, &batch.batch, &batch.result, NULL),
                     0);
    assert_int_equal(batch.status[0], 0);
    for (size_t row = 0; row < 16; row++) {
        memcpy(flat + row * 1000, target + row * 2048, 1000);
        assert_int_equal(target[row * 2048 + 1000], 0x5a);
    }
    memcpy(flat + 16 * 1000, target + 40000, 777);
    assert_int_equal(rig_differs("rows", flat, sizeof(flat)), 0);
    assert_int_equal(target[40777], 0x5a);
    rig_close(&b);
    rig_close(&a);
}

static void test_scattered_memory(void **state)
{
    (void)state;
    scattered("yes");
    scattered("no");
}

/* More items than one answer may have slots for, some of them missing. */
static void test_a_batch_with_holes(void **state)
{
    struct engine_batch batch;
    static uint8_t bytes[ENGINE_BATCH_MAX][512];
    char keys[ENGINE_BATCH_MAX][16];
    struct rig_node a;
    struct rig_node b;

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\npeers = %s\n", a.url);
    engine_batch_init(&batch, 5000);
    for (uint32_t i = 0; i < ENGINE_BATCH_MAX; i++) {
        snprintf(keys[i], sizeof(keys[i]), "hole-%u", i);
        if (i % 3 != 1) {
            rig_save(&a, keys[i], sizeof(bytes[i]));
        }
        (void)engine_batch_add(&batch, keys[i], bytes[i], sizeof(bytes[i]));
    }
    assert_int_equal(b.engine.plugin->load(b.engine.instance, &batch.batch, &batch.result, NULL),
                     0);
    for (uint32_t i = 0; i < ENGINE_BATCH_MAX; i++) {
        assert_int_equal(batch.status[i], i % 3 != 1 ? 0 : -ENOENT);
        assert_int_equal(i % 3 != 1 ? rig_differs(keys[i], bytes[i], sizeof(bytes[i])) : 0, 0);
    }
    rig_close(&b);
    rig_close(&a);
}

/* ---- another chunk under the same name ---- */

static struct kvl_attrs attrs_of(int32_t rows)
{
    struct kvl_attrs attrs;

    memset(&attrs, 0, sizeof(attrs));
    attrs.shape[0] = rows;
    return attrs;
}

static int load_expecting(struct rig_node *node, const char *key, size_t length,
                          const struct kvl_attrs *attrs, uint64_t checksum, void *bytes)
{
    struct engine_batch batch;
    struct kvl_chunk *chunk;

    engine_batch_init(&batch, 5000);
    chunk = engine_batch_add(&batch, key, bytes, length);
    if (attrs != NULL) {
        chunk->attrs = *attrs;
        chunk->flags |= KVL_CHUNK_EXPECT_ATTRS;
    }
    if (checksum != 0) {
        chunk->checksum = checksum;
        chunk->flags |= KVL_CHUNK_HAS_CHECKSUM;
    }
    (void)node->engine.plugin->load(node->engine.instance, &batch.batch, &batch.result, NULL);
    return batch.status[0];
}

static void other_chunk(const char *shm, const char *keep)
{
    const struct kvl_attrs mine = attrs_of(7);
    const struct kvl_attrs other = attrs_of(8);
    uint8_t bytes[1000];
    struct rig_node a;
    struct rig_node b;

    rig_open(&a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&b, HEAD "[py_socket]\nshm = %s\nkeep = %s\npeers = %s\n", shm, keep, a.url);
    rig_save_as(&a, "k", "k", sizeof(bytes), &mine);
    assert_int_equal(load_expecting(&b, "k", 999, NULL, 0, bytes), -EBADMSG);
    assert_int_equal(load_expecting(&b, "k", sizeof(bytes), &other, 0, bytes), -EBADMSG);
    assert_int_equal(load_expecting(&b, "k", sizeof(bytes), NULL, 12345, bytes), -EBADMSG);
    assert_int_equal(load_expecting(&b, "k", sizeof(bytes), &mine, 0, bytes), 0);
    assert_int_equal(rig_differs("k", bytes, sizeof(bytes)), 0);
    rig_close(&b);
    rig_close(&a);
}

static void test_another_chunk_under_the_name(void **state)
{
    (void)state;
    other_chunk("yes", "no");
    other_chunk("no", "no");
    other_chunk("yes", "yes");
    other_chunk("no", "yes");
}

/* The first peer has another chunk, the second the right one. */
static void next_peer(const char *keep)
{
    uint8_t bytes[1000];
    struct rig_node a;
    struct rig_node b;
    struct rig_node c;

    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\nshm = no\n");
    rig_open(&c, HEAD "[py_socket]\nkeep = %s\npeers = %s, %s\n", keep, a.url, b.url);
    rig_save(&a, "k", 500);
    rig_save(&b, "k", sizeof(bytes));
    assert_int_equal(rig_load(&c, "k", bytes, sizeof(bytes), 5000), 0);
    assert_int_equal(rig_differs("k", bytes, sizeof(bytes)), 0);
    rig_close(&c);
    rig_close(&b);
    rig_close(&a);
}

static void test_the_next_peer_is_asked(void **state)
{
    (void)state;
    next_peer("no");
    next_peer("yes");
}

static void test_the_next_backend_is_asked(void **state)
{
    const unsigned port = rig_port();
    uint8_t bytes[1000];
    struct rig_node a;
    struct rig_node b;
    struct rig_node c;

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[tcp_remote:serve]\nrole = server\nlisten = 127.0.0.1:%u\n", port);
    rig_open(&c, HEAD "[py_socket]\npeers = %s\n[tcp_remote:peer]\nurl = lm://127.0.0.1:%u\n",
             a.url, port);
    rig_save(&a, "k", 500);
    rig_save(&b, "k", sizeof(bytes));
    assert_int_equal(rig_load(&c, "k", bytes, sizeof(bytes), 5000), 0);
    assert_int_equal(rig_differs("k", bytes, sizeof(bytes)), 0);
    assert_true(engine_stat(&c.engine, "py_socket_seek_queries") > 0);
    rig_close(&c);
    rig_close(&b);
    rig_close(&a);
}

/* ---- early ends ---- */

#define BIG (16 * MIB)
#define MANY 8u

struct big {
    struct rig_node a;
    struct rig_node b;
    uint8_t *bytes;
    uint8_t *seen;
    struct engine_batch batch;
    char keys[MANY][16];
};

static void big_open(struct big *big, const char *shm)
{
    rig_open(&big->a, HEAD "[py_socket]\nshm = %s\n", shm);
    rig_open(&big->b, HEAD "[py_socket]\nshm = %s\npeers = %s\n", shm, big->a.url);
    big->bytes = calloc(MANY, BIG);
    big->seen = malloc(MANY * BIG);
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(big->keys[i], sizeof(big->keys[i]), "big-%u", i);
        rig_save(&big->a, big->keys[i], BIG);
    }
    rig_await(&big->b, "big-0", 0);
}

static void big_batch(struct big *big, uint64_t within_ms)
{
    memset(big->bytes, 0, MANY * BIG);
    engine_batch_init(&big->batch, within_ms);
    for (uint32_t i = 0; i < MANY; i++) {
        (void)engine_batch_add(&big->batch, big->keys[i], big->bytes + i * BIG, BIG);
    }
}

/* Nobody writes there any more: two looks with a while between them. */
static void big_rests(struct big *big)
{
    memcpy(big->seen, big->bytes, MANY * BIG);
    (void)poll(NULL, 0, 100); /* what is looked for is that nothing happens */
    assert_memory_equal(big->seen, big->bytes, MANY * BIG);
}

static void big_close(struct big *big)
{
    for (uint32_t i = 0; i < MANY; i++) {
        assert_int_equal(rig_expect(&big->b, big->keys[i], BIG), RIG_PEER);
    }
    rig_close(&big->b);
    rig_close(&big->a);
    free(big->bytes);
    free(big->seen);
}

/* Looks at what somebody else writes just now. */
#if defined(__SANITIZE_THREAD__) || defined(__clang__)
__attribute__((no_sanitize("thread")))
#endif
static int
has_begun(const volatile uint8_t *at)
{
    return at[64] != 0 || at[65] != 0;
}

static void cancel_in_the_middle(const char *shm)
{
    const volatile uint8_t *look;
    static struct big big;
    uint32_t cut = 0;
    uint64_t op;

    big_open(&big, shm);
    for (uint32_t round = 0; round < 4; round++) {
        uint64_t until = engine_now_ms() + 10000;

        big_batch(&big, 10000);
        look = big.bytes + round * BIG / 2;
        assert_int_equal(big.b.engine.plugin->load(big.b.engine.instance, &big.batch.batch,
                                                   &big.batch.result, &op),
                         -EINPROGRESS);
        while (!has_begun(look) && engine_now_ms() < until) {
        }
        (void)big.b.engine.plugin->cancel(big.b.engine.instance, op);
        (void)big.b.engine.plugin->wait(big.b.engine.instance, op, engine_now_ms() + 10000,
                                        &big.batch.result);
        big_rests(&big);
        for (uint32_t i = 0; i < MANY; i++) {
            assert_true(big.batch.status[i] == 0 || big.batch.status[i] == -ECANCELED);
            cut += big.batch.status[i] != 0;
            if (big.batch.status[i] == 0) {
                assert_int_equal(rig_differs(big.keys[i], big.bytes + i * BIG, BIG), 0);
            }
        }
    }
    assert_true(cut > 0);
    big_close(&big);
}

static void test_cancel_in_the_middle(void **state)
{
    (void)state;
    cancel_in_the_middle("yes");
    cancel_in_the_middle("no");
}

static void short_deadline(const char *shm)
{
    static struct big big;
    uint32_t late = 0;

    big_open(&big, shm);
    for (uint64_t within = 1; within < 6; within++) {
        const uint64_t start = engine_now_ms();

        big_batch(&big, within);
        (void)big.b.engine.plugin->load(big.b.engine.instance, &big.batch.batch, &big.batch.result,
                                        NULL);
        assert_true(engine_now_ms() - start < 5000);
        big_rests(&big);
        for (uint32_t i = 0; i < MANY; i++) {
            late += big.batch.status[i] != 0;
        }
    }
    assert_true(late > 0);
    assert_int_equal(rig_lookup(&big.b, "big-0", 5000, NULL), 0); /* nobody is blamed for it */
    big_close(&big);
}

static void test_deadline_of_a_millisecond(void **state)
{
    (void)state;
    short_deadline("yes");
    short_deadline("no");
}

static void test_evicted_between_lookup_and_load(void **state)
{
    struct engine_batch batch;
    uint8_t bytes[100];
    struct rig_node a;
    struct rig_node b;

    (void)state;
    rig_open(&a, HEAD "[py_socket]\n");
    rig_open(&b, HEAD "[py_socket]\npeers = %s\n", a.url);
    rig_save(&a, "k", sizeof(bytes));
    assert_int_equal(rig_lookup(&b, "k", 5000, NULL), 0);
    engine_batch_init(&batch, 5000);
    (void)engine_batch_add(&batch, "k", NULL, 0);
    assert_int_equal(a.engine.plugin->remove(a.engine.instance, &batch.batch, &batch.result, NULL),
                     0);
    assert_int_equal(rig_load(&b, "k", bytes, sizeof(bytes), 5000), -ENOENT);
    assert_int_equal(rig_lookup(&b, "k", 5000, NULL), -ENOENT);
    rig_close(&b);
    rig_close(&a);
}

/* ---- many at once ---- */

#define THREADS 8u
#define LOADS 60u
#define KEYS 40u

struct loader {
    struct rig_node *node;
    pthread_t thread;
    uint32_t seed;
};

static void *loader_run(void *arg)
{
    struct loader *loader = arg;
    uint8_t *bytes = malloc(4 * 60000);
    char keys[4][16];

    for (uint32_t round = 0; round < LOADS; round++) {
        struct engine_batch batch;

        engine_batch_init(&batch, 20000);
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t number = (loader->seed + round * 7 + i * 11) % KEYS;

            snprintf(keys[i], sizeof(keys[i]), "many-%u", number);
            (void)engine_batch_add(&batch, keys[i], bytes + (size_t)i * 60000,
                                   1000 + number * 1400);
        }
        (void)loader->node->engine.plugin->load(loader->node->engine.instance, &batch.batch,
                                                &batch.result, NULL);
        for (uint32_t i = 0; i < 4; i++) {
            if (batch.status[i] != 0 ||
                rig_differs(keys[i], bytes + (size_t)i * 60000, batch.chunks[i].bytes) != 0) {
                fprintf(stderr, "%s: %d\n", keys[i], batch.status[i]);
                abort();
            }
        }
    }
    free(bytes);
    return NULL;
}

static void test_eight_threads(void **state)
{
    struct loader loaders[THREADS];
    struct rig_node a;
    struct rig_node b;
    struct rig_node c;
    char key[16];

    (void)state;
    rig_open(&a, HEAD "[py_socket]\nshm = no\n");
    rig_open(&b, HEAD "[py_socket]\n");
    rig_open(&c, HEAD "[py_socket]\npeers = %s, %s\n", a.url, b.url);
    for (uint32_t i = 0; i < KEYS; i++) {
        snprintf(key, sizeof(key), "many-%u", i);
        rig_save(i % 2 == 0 ? &a : &b, key, 1000 + i * 1400);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        loaders[i] = (struct loader){.node = &c, .seed = i * 5};
        assert_int_equal(pthread_create(&loaders[i].thread, NULL, loader_run, &loaders[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        (void)pthread_join(loaders[i].thread, NULL);
    }
    assert_int_equal(engine_stat(&c.engine, "store_chunks"), 0);
    rig_close(&c);
    rig_close(&b);
    rig_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared_memory),
        cmocka_unit_test(test_sockets),
        cmocka_unit_test(test_shared_memory_into_the_store),
        cmocka_unit_test(test_sockets_into_the_store),
        cmocka_unit_test(test_scattered_memory),
        cmocka_unit_test(test_a_batch_with_holes),
        cmocka_unit_test(test_another_chunk_under_the_name),
        cmocka_unit_test(test_the_next_peer_is_asked),
        cmocka_unit_test(test_the_next_backend_is_asked),
        cmocka_unit_test(test_cancel_in_the_middle),
        cmocka_unit_test(test_deadline_of_a_millisecond),
        cmocka_unit_test(test_evicted_between_lookup_and_load),
        cmocka_unit_test(test_eight_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
