/* SPDX-License-Identifier: Apache-2.0 */
/* Chunks of a peer by key: looked up, received into runs of memory, or copied out of its store. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "peer_rig.h"
#include "py_socket_core.h"
#include "py_socket_lease.h"

#define CHUNK (1024u * 1024 + 40)
#define CHUNKS 8u

/* ---- a store: chunks c0 .. c7, c5 is empty, c6 is held back; d0 .. d7 once brought ---- */

struct search {
    kvl_fetch_fn fn;
    void *ctx;
    int chunk;
    int only_look;
};

static struct {
    struct py_socket_memfd memory;
    int fd;
    _Atomic int leases;
    _Atomic int overwrite; /* the bytes change as soon as they are leased, as if the lease ended */
    _Atomic uint32_t brought; /* bit per chunk */
    struct search searches[CHUNKS]; /* begun, and ended by the test */
    _Atomic uint32_t search_count;
} store = {.fd = -1};

static const struct kvl_attrs attrs = {KVL_FMT_KV_2LTD, KVL_DTYPE_BFLOAT16, {2, 3, 4, 5}};

static int store_number(const struct kvl_key *key, char letter)
{
    return key->length == 2 && key->text[0] == letter && key->text[1] >= '0' &&
                   key->text[1] < (char)('0' + CHUNKS)
               ? key->text[1] - '0'
               : -1;
}

static int store_find(const struct kvl_key *key)
{
    int i = store_number(key, 'd');

    return i >= 0 && (store.brought >> i & 1) != 0 ? i : store_number(key, 'c');
}

static int store_bring(void *ctx, const struct kvl_key *key, int only_look, kvl_fetch_fn fn,
                       void *fn_ctx)
{
    int i = store_number(key, 'd');

    (void)ctx;
    if (i < 0) {
        return -ENOENT;
    }
    store.searches[store.search_count] =
        (struct search){.fn = fn, .ctx = fn_ctx, .chunk = i, .only_look = only_look};
    store.search_count++;
    return 0;
}

static void store_await_searches(uint32_t count)
{
    uint64_t until = rig_soon();

    while (store.search_count < count) {
        assert_true(rig_in(0) < until);
        sched_yield();
    }
}

static void store_end_search(uint32_t index, int32_t status)
{
    const struct search *search = &store.searches[index];

    if (status == 0 && !search->only_look) {
        store.brought |= 1u << search->chunk;
    }
    search->fn(search->ctx, status);
}

static uint8_t *store_chunk(int i)
{
    return (uint8_t *)store.memory.base + (size_t)i * 2 * CHUNK;
}

static int store_lookup(void *ctx, const struct kvl_key *key)
{
    (void)ctx;
    return store_find(key) < 0 ? -ENOENT : 0;
}

static int store_lease(void *ctx, const struct kvl_key *key, struct kvl_view *view_out)
{
    int i = store_find(key);

    (void)ctx;
    if (i < 0) {
        return -ENOENT;
    }
    if (i == 6) {
        return -EAGAIN;
    }
    store.leases++;
    *view_out = (struct kvl_view){.data = store_chunk(i),
                                  .length = i == 5 ? 0 : CHUNK,
                                  .attrs = attrs,
                                  .checksum = 1000 + (uint64_t)i,
                                  .lease = 1 + (uint64_t)i};
    return 0;
}

static void store_release(void *ctx, uint64_t lease)
{
    (void)ctx;
    (void)lease;
    store.leases--;
}

static struct py_socket_serve_ops serve = {
    .lookup = store_lookup,
    .lease = store_lease,
    .bring = store_bring,
    .release = store_release,
    .store = {.fd = -1},
};

/* ---- the asking side ---- */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct kvl_sg sg[CHUNKS][2];
    uint8_t *memory; /* CHUNKS * 3 * CHUNK */
    int refuse; /* this item; -1 */
    int there[CHUNKS];
    int32_t items[CHUNKS];
    uint64_t checksums[CHUNKS];
    uint32_t told;
    int ends;
    int32_t status;
};

static void answer_looked_up(void *ctx, uint32_t item, int is_there)
{
    struct answer *answer = ctx;

    answer->there[item] = is_there;
}

/* Into two places: the first 100 bytes, and 1 KiB runs with a hole behind each. */
static int answer_found(void *ctx, uint32_t item, const struct py_socket_found *found,
                        const struct kvl_sg **sg_out, uint32_t *count_out)
{
    struct answer *answer = ctx;
    uint8_t *at = answer->memory + (size_t)item * 3 * CHUNK;
    struct kvl_sg *sg = answer->sg[item];
    uint32_t rest = (uint32_t)(found->bytes - 100) % 1024;

    answer->checksums[item] = found->checksum;
    if ((int)item == answer->refuse) {
        return -ENOMEM;
    }
    if (found->bytes == 0) {
        return 0;
    }
    assert_memory_equal(&found->attrs, &attrs, sizeof(attrs));
    sg[0] = (struct kvl_sg){
        .addr = (uint64_t)(uintptr_t)at, .length = 100 + rest, .count = 1, .device = -1};
    sg[1] = (struct kvl_sg){.addr = (uint64_t)(uintptr_t)(at + 4096),
                            .length = 1024,
                            .stride = 2048,
                            .count = (uint32_t)(found->bytes - 100 - rest) / 1024,
                            .device = -1};
    *sg_out = sg;
    *count_out = 2;
    return 0;
}

static void answer_item(void *ctx, uint32_t item, int32_t status)
{
    struct answer *answer = ctx;

    assert_int_equal(answer->items[item], 1);
    answer->items[item] = status;
    answer->told++;
}

static void answer_end(void *ctx, int32_t status)
{
    struct answer *answer = ctx;

    pthread_mutex_lock(&answer->lock);
    answer->ends++;
    answer->status = status;
    pthread_cond_broadcast(&answer->changed);
    pthread_mutex_unlock(&answer->lock);
}

static const struct py_socket_fetch_ops answer_ops = {
    .looked_up = answer_looked_up,
    .found = answer_found,
    .item = answer_item,
    .end = answer_end,
};

static void answer_begin(struct answer *answer)
{
    uint8_t *memory = answer->memory;

    *answer = (struct answer){.memory = memory, .refuse = -1, .ends = 0};
    pthread_mutex_init(&answer->lock, NULL);
    pthread_cond_init(&answer->changed, NULL);
    for (uint32_t i = 0; i < CHUNKS; i++) {
        answer->items[i] = 1;
        answer->there[i] = -1;
    }
    memset(memory, 0xee, (size_t)CHUNKS * 3 * CHUNK);
}

static int32_t answer_wait(struct answer *answer)
{
    struct timespec until;
    int32_t status;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    pthread_mutex_lock(&answer->lock);
    while (answer->ends == 0) {
        assert_int_equal(pthread_cond_timedwait(&answer->changed, &answer->lock, &until), 0);
    }
    status = answer->status;
    pthread_mutex_unlock(&answer->lock);
    return status;
}

/* The runs of an item hold the chunk, and the holes between them nothing. */
static int answer_is(const struct answer *answer, uint32_t item, int chunk)
{
    const uint8_t *want = store_chunk(chunk);

    for (int i = 0; i < 2; i++) {
        const struct kvl_sg *sg = &answer->sg[item][i];

        for (uint32_t run = 0; run < sg->count; run++) {
            const uint8_t *at = (const uint8_t *)(uintptr_t)(sg->addr + run * sg->stride);

            if (memcmp(at, want, sg->length) != 0 || at[sg->length] != 0xee) {
                return 0;
            }
            want += sg->length;
        }
    }
    return want == store_chunk(chunk) + CHUNK;
}

/* ---- worlds ---- */

struct world {
    struct rig_peer a; /* asks */
    struct rig_peer b; /* has */
    struct answer answer;
    int maps;
};

static int setup_world(void **state, const char *const *pairs, int maps)
{
    struct world *world = calloc(1, sizeof(*world));
    const struct rig_setup asks = {.pairs = pairs, .bytes = RIG_PAGE};
    const struct rig_setup has = {.pairs = pairs, .bytes = RIG_PAGE, .serve = &serve};

    assert_int_equal(py_socket_memfd_create("store", (size_t)CHUNKS * 2 * CHUNK, 1, &store.memory),
                     0);
    store.fd = py_socket_memfd_lend(store.memory.fd, store.memory.bytes, 0);
    serve.store = (struct kvl_store_export){.size = sizeof(serve.store),
                                            .fd = maps ? store.fd : -1,
                                            .base = store.memory.base,
                                            .bytes = store.memory.bytes};
    for (int i = 0; i < (int)CHUNKS; i++) {
        rig_fill(store_chunk(i), CHUNK, 40 + (uint32_t)i);
    }
    store.leases = 0;
    store.brought = 0;
    store.search_count = 0;
    world->maps = maps;
    world->answer.memory = malloc((size_t)CHUNKS * 3 * CHUNK);
    rig_start(&world->a, &asks);
    rig_start(&world->b, &has);
    rig_join(&world->a, &world->b);
    answer_begin(&world->answer);
    *state = world;
    return 0;
}

static int setup_shm(void **state)
{
    return setup_world(state, NULL, 1);
}

static int setup_unix(void **state)
{
    return setup_world(state, NULL, 0);
}

static int setup_tcp(void **state)
{
    return setup_world(state, rig_tcp, 1);
}

static void until_no_lease(void)
{
    uint64_t until = rig_soon();

    while (store.leases != 0) {
        assert_true(rig_in(0) < until);
        sched_yield();
    }
}

static int teardown(void **state)
{
    struct world *world = *state;

    rig_stop(&world->a);
    rig_stop(&world->b);
    assert_int_equal(store.leases, 0);
    close(store.fd);
    py_socket_memfd_destroy(&store.memory);
    free(world->answer.memory);
    free(world);
    return 0;
}

static struct py_socket_wish wish(const char *key)
{
    return (struct py_socket_wish){.key = kvl_key_from_text(key)};
}

static void get(struct world *world, const struct py_socket_wish *wishes, uint32_t count)
{
    assert_int_equal(py_socket_fetch_get(world->a.channel, world->b.url, wishes, count, rig_soon(),
                                         &answer_ops, &world->answer, NULL),
                     0);
    assert_int_equal(answer_wait(&world->answer), 0);
    until_no_lease();
}

/* ---- tests ---- */

static void test_lookup(void **state)
{
    struct world *world = *state;
    const struct kvl_key keys[4] = {kvl_key_from_text("c0"), kvl_key_from_text("nothing"),
                                    kvl_key_from_text("c7"), kvl_key_from_text("c8")};

    assert_int_equal(py_socket_fetch_lookup(world->a.channel, world->b.url, keys, 4, rig_soon(),
                                            &answer_ops, &world->answer, NULL),
                     0);
    assert_int_equal(answer_wait(&world->answer), 0);
    assert_int_equal(world->answer.there[0], 1);
    assert_int_equal(world->answer.there[1], 0);
    assert_int_equal(world->answer.there[2], 1);
    assert_int_equal(world->answer.there[3], 0);
    assert_int_equal(world->answer.ends, 1);
}

static void test_get(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[6] = {wish("c3"), wish("gone"), wish("c5"),
                                             wish("c0"), wish("c6"),   wish("c7")};
    static const int32_t expected[6] = {0, -ENOENT, 0, 0, -EAGAIN, 0};

    get(world, wishes, 6);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(world->answer.items[i], expected[i]);
    }
    assert_int_equal(answer_is(&world->answer, 0, 3), 1);
    assert_int_equal(answer_is(&world->answer, 3, 0), 1);
    assert_int_equal(answer_is(&world->answer, 5, 7), 1);
    assert_int_equal(world->answer.checksums[3], 1000);
    assert_int_equal(world->answer.told, 6);
}

static void test_expectations(void **state)
{
    struct world *world = *state;
    struct py_socket_wish wishes[4] = {wish("c1"), wish("c1"), wish("c1"), wish("c1")};

    wishes[0].bytes = CHUNK - 1;
    wishes[1].checksum = 7;
    wishes[1].flags = KVL_CHUNK_HAS_CHECKSUM;
    wishes[2].flags = KVL_CHUNK_EXPECT_ATTRS;
    wishes[3].bytes = CHUNK;
    wishes[3].checksum = 1001;
    wishes[3].attrs = attrs;
    wishes[3].flags = KVL_CHUNK_EXPECT_ATTRS | KVL_CHUNK_HAS_CHECKSUM;
    get(world, wishes, 4);
    assert_int_equal(world->answer.items[0], -EBADMSG);
    assert_int_equal(world->answer.items[1], -EBADMSG);
    assert_int_equal(world->answer.items[2], -EBADMSG);
    assert_int_equal(world->answer.items[3], 0);
    assert_int_equal(answer_is(&world->answer, 3, 1), 1);
}

/* What nobody takes is read past, and the items behind it are whole. */
static void test_refused_item(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[3] = {wish("c1"), wish("c2"), wish("c3")};

    world->answer.refuse = 1;
    get(world, wishes, 3);
    assert_int_equal(world->answer.items[0], 0);
    assert_int_equal(world->answer.items[1], -ENOMEM);
    assert_int_equal(world->answer.items[2], 0);
    assert_int_equal(answer_is(&world->answer, 2, 3), 1);
}

static void test_many_at_once(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[3] = {wish("c1"), wish("c2"), wish("c3")};

    for (int round = 0; round < 100; round++) {
        answer_begin(&world->answer);
        get(world, wishes, 3);
        assert_int_equal(answer_is(&world->answer, 1, 2), 1);
    }
}

static void test_cancelled(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[3] = {wish("c1"), wish("c2"), wish("c3")};
    uint64_t op;

    for (int round = 0; round < 20; round++) {
        answer_begin(&world->answer);
        assert_int_equal(py_socket_fetch_get(world->a.channel, world->b.url, wishes, 3, rig_soon(),
                                             &answer_ops, &world->answer, &op),
                         0);
        kvlane_backend_v1()->ops->channels->cancel(world->a.channel, op);
        memset(world->answer.memory, 0xdd, (size_t)CHUNKS * 3 * CHUNK);
        (void)answer_wait(&world->answer);
        assert_int_equal(world->answer.ends, 1);
        until_no_lease();
        for (size_t i = 0; i < (size_t)CHUNKS * 3 * CHUNK; i += 64) {
            assert_int_equal(world->answer.memory[i], 0xdd);
        }
    }
}

static void test_not_served(void **state)
{
    struct world *world = *state;
    const struct kvl_key key = kvl_key_from_text("c1");

    assert_int_equal(py_socket_fetch_lookup(world->b.channel, world->a.url, &key, 1, rig_soon(),
                                            &answer_ops, &world->answer, NULL),
                     -ENOTSUP);
    assert_int_equal(py_socket_fetch_lookup(world->a.channel, "127.0.0.1:1", &key, 1, rig_soon(),
                                            &answer_ops, &world->answer, NULL),
                     -ENOTCONN);
    assert_int_equal(world->answer.ends, 0);
}

/* A closed channel ends what is asked, exactly once. */
static void test_closed(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[3] = {wish("c1"), wish("c2"), wish("c3")};
    int r = py_socket_fetch_get(world->a.channel, world->b.url, wishes, 3, rig_soon(), &answer_ops,
                                &world->answer, NULL);

    assert_int_equal(r, 0);
    rig_stop(&world->b);
    (void)answer_wait(&world->answer);
    assert_int_equal(world->answer.ends, 1);
}

/* ---- chunks that are not in the store, but beside it ---- */

static void test_looked_for_beside_the_store(void **state)
{
    struct world *world = *state;
    const struct kvl_key keys[4] = {kvl_key_from_text("d0"), kvl_key_from_text("nothing"),
                                    kvl_key_from_text("c7"), kvl_key_from_text("d1")};
    const struct py_socket_wish ahead = wish("c3");
    struct answer *answer = &world->answer;
    struct answer other = {.memory = malloc((size_t)CHUNKS * 3 * CHUNK)};

    assert_int_equal(py_socket_fetch_lookup(world->a.channel, world->b.url, keys, 4, rig_soon(),
                                            &answer_ops, answer, NULL),
                     0);
    store_await_searches(2);
    /* what needs no search is answered meanwhile */
    answer_begin(&other);
    assert_int_equal(py_socket_fetch_get(world->a.channel, world->b.url, &ahead, 1, rig_soon(),
                                         &answer_ops, &other, NULL),
                     0);
    assert_int_equal(answer_wait(&other), 0);
    assert_true(answer_is(&other, 0, 3));
    free(other.memory);
    assert_int_equal(answer->ends, 0);
    store_end_search(1, -ENOENT);
    store_end_search(0, 0);
    assert_int_equal(answer_wait(answer), 0);
    assert_int_equal(answer->there[0], 1);
    assert_int_equal(answer->there[1], 0);
    assert_int_equal(answer->there[2], 1);
    assert_int_equal(answer->there[3], 0);
    assert_int_equal(store.brought, 0);
}

static void test_brought_from_beside_the_store(void **state)
{
    struct world *world = *state;
    const struct py_socket_wish wishes[4] = {wish("d4"), wish("c0"), wish("gone"), wish("d2")};

    assert_int_equal(py_socket_fetch_get(world->a.channel, world->b.url, wishes, 4, rig_soon(),
                                         &answer_ops, &world->answer, NULL),
                     0);
    store_await_searches(2);
    store_end_search(0, 0);
    store_end_search(1, -ECANCELED);
    assert_int_equal(answer_wait(&world->answer), 0);
    assert_int_equal(world->answer.items[0], 0);
    assert_int_equal(world->answer.items[1], 0);
    assert_int_equal(world->answer.items[2], -ENOENT);
    assert_int_equal(world->answer.items[3], -ENOENT);
    assert_true(answer_is(&world->answer, 0, 4));
    assert_true(answer_is(&world->answer, 1, 0));
    until_no_lease();
}

/* Whoever asked, or was asked, is gone when the search ends. */
static void search_ends_late(struct world *world, struct rig_peer *closes)
{
    const struct py_socket_wish wishes[2] = {wish("d4"), wish("c0")};

    assert_int_equal(py_socket_fetch_get(world->a.channel, world->b.url, wishes, 2, rig_soon(),
                                         &answer_ops, &world->answer, NULL),
                     0);
    store_await_searches(1);
    kvlane_backend_v1()->ops->channels->close(closes->channel);
    closes->channel = NULL;
    (void)answer_wait(&world->answer);
    assert_int_equal(world->answer.ends, 1);
    store_end_search(0, 0);
    until_no_lease();
}

static void test_search_ends_after_the_asked_one(void **state)
{
    struct world *world = *state;

    search_ends_late(world, &world->b);
}

static void test_search_ends_after_the_asking_one(void **state)
{
    struct world *world = *state;

    search_ends_late(world, &world->a);
}

/* ---- leases ---- */

static void test_leases(void **state)
{
    struct py_socket_leases *leases;
    struct py_socket_memfd memory;
    struct py_socket_control *control;
    struct py_socket_slot slots[3];
    int owners[2];

    (void)state;
    assert_int_equal(py_socket_memfd_create("control", sizeof(*control), 0, &memory), 0);
    control = memory.base;
    assert_int_equal(py_socket_leases_create(control, &serve, &leases), 0);
    store.leases = 3;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(py_socket_lease_take(leases, &owners[i / 2], 1, 1000u * (uint64_t)i,
                                              &slots[i].slot, &slots[i].generation),
                         0);
        assert_int_equal(control->generations[slots[i].slot], slots[i].generation);
    }
    /* only its owner, only this generation, only once */
    py_socket_lease_give(leases, &owners[1], &slots[0]);
    slots[0].generation++;
    py_socket_lease_give(leases, &owners[0], &slots[0]);
    slots[0].generation--;
    assert_int_equal(store.leases, 3);
    py_socket_lease_give(leases, &owners[0], &slots[0]);
    py_socket_lease_give(leases, &owners[0], &slots[0]);
    assert_int_equal(store.leases, 2);
    assert_int_not_equal(control->generations[slots[0].slot], slots[0].generation);
    /* in time */
    assert_int_equal(py_socket_leases_expire(leases, 1000 + PY_SOCKET_LEASE_MS),
                     2000 + PY_SOCKET_LEASE_MS);
    assert_int_equal(store.leases, 1);
    assert_int_not_equal(control->generations[slots[1].slot], slots[1].generation);
    py_socket_lease_give_all(leases, &owners[0]);
    assert_int_equal(store.leases, 1);
    py_socket_lease_give_all(leases, &owners[1]);
    assert_int_equal(store.leases, 0);
    for (uint32_t i = 0; i < PY_SOCKET_LEASES; i++) {
        store.leases++;
        assert_int_equal(
            py_socket_lease_take(leases, owners, 1, 0, &slots[0].slot, &slots[0].generation), 0);
    }
    assert_int_equal(
        py_socket_lease_take(leases, owners, 1, 0, &slots[0].slot, &slots[0].generation), -EAGAIN);
    py_socket_leases_destroy(leases);
    assert_int_equal(store.leases, 0);
    py_socket_memfd_destroy(&memory);
}

#define CASES(setup)                                                                               \
    cmocka_unit_test_setup_teardown(test_lookup, setup, teardown),                                 \
        cmocka_unit_test_setup_teardown(test_get, setup, teardown),                                \
        cmocka_unit_test_setup_teardown(test_expectations, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_refused_item, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_many_at_once, setup, teardown),                       \
        cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),                          \
        cmocka_unit_test_setup_teardown(test_not_served, setup, teardown),                         \
        cmocka_unit_test_setup_teardown(test_closed, setup, teardown),                             \
        cmocka_unit_test_setup_teardown(test_looked_for_beside_the_store, setup, teardown),        \
        cmocka_unit_test_setup_teardown(test_brought_from_beside_the_store, setup, teardown),      \
        cmocka_unit_test_setup_teardown(test_search_ends_after_the_asked_one, setup, teardown),    \
        cmocka_unit_test_setup_teardown(test_search_ends_after_the_asking_one, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASES(setup_shm),
        CASES(setup_unix),
        CASES(setup_tcp),
        cmocka_unit_test(test_leases),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
