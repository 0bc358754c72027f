/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engines with the whole plugin: they find each other through py_socket, read each other's devices,
 * and fall over to host memory where that does not work.
 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_rig.h"
#include "engine.h"
#include "torch_rig.h"

#define LAYERS 2u
#define PLANES 2u
#define BLOCK_TOKENS 4u
#define TOKEN_BYTES 64u
#define BLOCKS 64u
#define CHUNK_BLOCKS 2u
#define BLOCK_BYTES (BLOCK_TOKENS * TOKEN_BYTES)
#define ROW_BYTES (BLOCKS * BLOCK_BYTES)
#define CHUNK_BYTES (PLANES * LAYERS * CHUNK_BLOCKS * BLOCK_BYTES)
#define COUNT 8u
#define WITHIN_MS 30000u

/** An engine with a paged cache on a device. */
struct side {
    struct cuda_rig cuda;
    struct engine engine;
    cuda_ptr cache;
    uint64_t kv;
};

struct order {
    char ini[2048];
    char prefix[16];
    char then[16]; /* saved after it; "" = nothing */
};

struct address {
    char text[200];
};

static uint8_t byte_of(uint32_t chunk, uint64_t at)
{
    return (uint8_t)((chunk * 7919u + at * 104729u + (at >> 8)) >> 3);
}

/* Puts the content of a chunk into its blocks, or compares. @return wrong bytes. */
static uint32_t touch(struct side *side, uint32_t first_block, uint32_t chunk, int is_write)
{
    uint32_t wrong = 0;

    for (uint32_t row = 0; row < PLANES * LAYERS; row++) {
        const cuda_ptr at = side->cache + row * ROW_BYTES + first_block * BLOCK_BYTES;
        uint8_t bytes[CHUNK_BLOCKS * BLOCK_BYTES];

        for (uint32_t i = 0; i < sizeof(bytes); i++) {
            bytes[i] = byte_of(chunk, row * sizeof(bytes) + i);
        }
        if (is_write) {
            CUDA_RIG_CHECK(side->cuda.control->poke(at, bytes, sizeof(bytes)) == 0);
            continue;
        }
        CUDA_RIG_CHECK(side->cuda.control->peek(bytes, at, sizeof(bytes)) == 0);
        for (uint32_t i = 0; i < sizeof(bytes); i++) {
            wrong += bytes[i] != byte_of(chunk, row * sizeof(bytes) + i);
        }
    }
    return wrong;
}

static void side_register(struct side *side)
{
    uint64_t bases[PLANES * LAYERS];
    const struct kvl_kv kv = {
        .size = sizeof(kv),
        .mem = KVL_MEM_CUDA,
        .layers = LAYERS,
        .planes = PLANES,
        .block_tokens = BLOCK_TOKENS,
        .block_count = BLOCKS,
        .token_bytes = TOKEN_BYTES,
        .token_stride = TOKEN_BYTES,
        .block_stride = BLOCK_BYTES,
        .bases = bases,
    };

    CUDA_RIG_CHECK(side->cuda.api.mem_alloc(&side->cache, PLANES * LAYERS * ROW_BYTES) == CUDA_OK);
    for (uint32_t i = 0; i < PLANES * LAYERS; i++) {
        bases[i] = side->cache + i * ROW_BYTES;
    }
    if (side->engine.plugin->register_kv(side->engine.instance, &kv, &side->kv, &side->engine.err) <
        0) {
        cuda_rig_die(__FILE__, __LINE__, side->engine.err.text);
    }
}

static void side_open(struct side *side, const char *ini)
{
    memset(side, 0, sizeof(*side));
    cuda_rig_open(&side->cuda);
    if (engine_open(&side->engine, ini) < 0) {
        cuda_rig_die(__FILE__, __LINE__, side->engine.err.text);
    }
    side_register(side);
}

static void side_close(struct side *side)
{
    const struct kvl_plugin *plugin = side->engine.plugin;

    CUDA_RIG_CHECK(plugin->unregister_kv(side->engine.instance, side->kv) == 0);
    CUDA_RIG_CHECK(engine_close(&side->engine, 10000) == 0);
    CUDA_RIG_CHECK(side->cuda.api.mem_free(side->cache) == CUDA_OK);
    cuda_rig_close(&side->cuda);
}

/* Saves or loads COUNT chunks, in their order or the other way round. */
static int side_move(struct side *side, const char *prefix, int is_save, struct engine_batch *batch)
{
    const struct kvl_plugin *plugin = side->engine.plugin;
    static uint32_t blocks[COUNT * CHUNK_BLOCKS];
    static uint32_t first[COUNT + 1];
    static char keys[COUNT][32];

    engine_batch_init(batch, WITHIN_MS);
    for (uint32_t i = 0; i < COUNT; i++) {
        (void)snprintf(keys[i], sizeof(keys[i]), "%s%u", prefix, i);
        engine_batch_add(batch, keys[i], NULL, 0)->bytes = CHUNK_BYTES;
        batch->chunks[i].attrs.fmt = KVL_FMT_KV_2LTD;
        for (uint32_t b = 0; b < CHUNK_BLOCKS; b++) {
            const uint32_t block = i * CHUNK_BLOCKS + b;

            blocks[block] = is_save ? block : BLOCKS - (i + 1) * CHUNK_BLOCKS + b;
        }
        first[i + 1] = first[i] + CHUNK_BLOCKS;
    }
    batch->batch.kv = side->kv;
    batch->batch.blocks = blocks;
    batch->batch.block_first = first;
    return is_save ? plugin->save(side->engine.instance, &batch->batch, &batch->result, NULL)
                   : plugin->load(side->engine.instance, &batch->batch, &batch->result, NULL);
}

static void side_save(struct side *side, const char *prefix)
{
    struct engine_batch *batch = malloc(sizeof(*batch));

    for (uint32_t i = 0; i < COUNT; i++) {
        (void)touch(side, i * CHUNK_BLOCKS, i, 1);
    }
    CUDA_RIG_CHECK(batch != NULL && side_move(side, prefix, 1, batch) == 0);
    free(batch);
}

/* @return leading chunks that came; all of these have the right bytes. */
static uint32_t side_load(struct side *side, const char *prefix, uint8_t location_out[COUNT])
{
    struct engine_batch *batch = malloc(sizeof(*batch));
    uint32_t matched;

    for (uint32_t i = 0; i < COUNT; i++) {
        (void)touch(side, BLOCKS - (i + 1) * CHUNK_BLOCKS, 99, 1);
    }
    CUDA_RIG_CHECK(batch != NULL);
    (void)side_move(side, prefix, 0, batch);
    matched = batch->result.matched;
    for (uint32_t i = 0; i < COUNT; i++) {
        location_out[i] = batch->location[i];
        CUDA_RIG_CHECK(batch->status[i] != 0 ||
                       touch(side, BLOCKS - (i + 1) * CHUNK_BLOCKS, i, 0) == 0);
    }
    free(batch);
    return matched;
}

static struct kvl_health health_of(struct side *side, uint32_t location)
{
    struct kvl_health health = {.size = sizeof(health)};

    CUDA_RIG_CHECK(side->engine.plugin->health(side->engine.instance, location, &health) == 0);
    return health;
}

/* ---- the other engine: saves what it is told and serves it until the test lets it go ---- */

static int run_exporter(int fd)
{
    struct side *side = malloc(sizeof(*side));
    struct address address;
    struct order order;

    CUDA_RIG_CHECK(side != NULL);
    cuda_rig_recv(fd, &order, sizeof(order));
    side_open(side, order.ini);
    side_save(side, order.prefix);
    if (order.then[0] != '\0') {
        side_save(side, order.then);
    }
    (void)snprintf(address.text, sizeof(address.text), "%s",
                   health_of(side, KVL_LOCATION_BACKEND + 1).address);
    cuda_rig_send(fd, &address, sizeof(address));
    cuda_rig_await(fd);
    side_close(side);
    free(side);
    return 0;
}

#define EXPORTER                                                                                   \
    "[cuda_ipc]\ndriver = %s\nput_to = yes\npool = 4MiB\nsegment = 2MiB\nstage = 64KiB\ntimeout "  \
    "= 20s\n"                                                                                      \
    "[py_socket]\nbind = 127.0.0.1:0\n"

static void start_exporter(struct cuda_rig_peer *peer, const char *store, const char *then,
                           struct address *address)
{
    struct order order = {.prefix = "k"};

    (void)snprintf(order.then, sizeof(order.then), "%s", then);
    (void)snprintf(order.ini, sizeof(order.ini), "[store]\n%s\n" EXPORTER, store, cuda_rig_path());
    cuda_rig_start(peer, "exporter");
    cuda_rig_send(peer->fd, &order, sizeof(order));
    cuda_rig_recv(peer->fd, address, sizeof(*address));
}

static void end_exporter(struct cuda_rig_peer *peer)
{
    cuda_rig_step(peer->fd);
    cuda_rig_end(peer);
}

static void open_importer(struct side *side, const struct address *address)
{
    const char *url = address->text;
    char ini[1024];

    url = strstr(url, "://") != NULL ? strstr(url, "://") + 3 : url;
    (void)snprintf(ini, sizeof(ini),
                   "[store]\nmax_bytes = 16MiB\n[cuda_ipc]\ndriver = %s\npool = 2MiB\n"
                   "segment = 2MiB\nstage = 64KiB\ntimeout = 20s\n[py_socket]\nbind = "
                   "127.0.0.1:0\npeers = %s\n",
                   cuda_rig_path(), url);
    side_open(side, ini);
}

static void test_device_to_device_without_being_told(void **state)
{
    struct side *side = malloc(sizeof(*side));
    struct cuda_rig_peer peer;
    struct address address;
    uint8_t location[COUNT];

    (void)state;
    start_exporter(&peer, "max_bytes = 16MiB", "", &address);
    open_importer(side, &address);
    assert_true(engine_await_stat(&side->engine, "cuda_ipc_peer_links", 1));
    assert_int_equal(side_load(side, "k", location), COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(location[i], KVL_LOCATION_BACKEND); /* the device's */
    }
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_read_peer"), COUNT);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_scatters"), 0);
    assert_int_equal(engine_stat(&side->engine, "store_chunks"), 0); /* nothing in host memory */
    assert_int_equal(side_load(side, "n", location), 0);
    side_close(side);
    end_exporter(&peer);
    free(side);
}

static void check_fall_over(const char *store, const char *then)
{
    struct side *side = malloc(sizeof(*side));
    struct cuda_rig_peer peer;
    struct address address;
    uint8_t location[COUNT];

    start_exporter(&peer, store, then, &address);
    open_importer(side, &address);
    assert_true(engine_await_stat(&side->engine, "cuda_ipc_peer_links", 1));
    assert_int_equal(side->cuda.control->fail_calls("cuIpcOpenMemHandle=201"), 0);
    assert_int_equal(side_load(side, "k", location), COUNT);
    assert_int_equal(side->cuda.control->fail_calls(NULL), 0);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_read_peer"), 0);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_import_failures"), 1);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_scatters"), COUNT);
    assert_int_equal(engine_lines(&side->engine, KVL_LOG_ERROR), 1);
    assert_true(engine_logged(&side->engine, "cannot be used from here"));
    assert_int_equal(health_of(side, KVL_LOCATION_BACKEND).state, KVL_HEALTH_DEGRADED);
    side_close(side);
    end_exporter(&peer);
    free(side);
}

static void test_falls_over_to_host_memory(void **state)
{
    (void)state;
    check_fall_over("max_bytes = 16MiB", "");
}

/* What was saved later has pushed them out of the exporter's own store: it brings them from its
 * device. */
static void test_falls_over_to_what_only_the_device_has(void **state)
{
    (void)state;
    check_fall_over("max_bytes = 16MiB\nmax_chunks = 8", "o");
}

static void test_the_own_pool_comes_before_the_store(void **state)
{
    struct side *side = malloc(sizeof(*side));
    uint8_t location[COUNT];
    char ini[1024];

    (void)state;
    (void)snprintf(ini, sizeof(ini), "[store]\nmax_bytes = 16MiB\n" EXPORTER, cuda_rig_path());
    side_open(side, ini);
    side_save(side, "k");
    assert_int_equal(side_load(side, "k", location), COUNT);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_read_own"), COUNT);
    assert_int_equal(engine_stat(&side->engine, "cuda_ipc_scatters"), 0);
    assert_int_equal(engine_stat(&side->engine, "store_chunks"), COUNT);
    side_close(side);
    free(side);
}

/* ---- without a driver ---- */

static int open_with(struct engine *engine, const char *required, const char *driver)
{
    char ini[512];
    int r;

    (void)snprintf(ini, sizeof(ini), "log_level = info\n[cuda_ipc]\nrequired = %s\ndriver = %s\n",
                   required, driver);
    r = engine_open(engine, ini);
    return r < 0 ? r : engine->plugin->start(engine->instance, &engine->err);
}

static void check_without(const char *driver, const char *cause)
{
    static struct engine engine;
    const struct kvl_kv kv = {.size = sizeof(kv), .mem = KVL_MEM_CUDA, .layers = 1, .planes = 1};
    const struct kvl_ipc_ops *ipc = NULL;
    uint64_t number = 0;

    assert_int_equal(open_with(&engine, "auto", driver), 0);
    assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 0);
    assert_int_equal(engine_lines(&engine, KVL_LOG_WARN), 0);
    assert_int_equal(engine.plugin->ipc(engine.instance, NULL, &ipc), 0); /* the codecs are there */
    assert_non_null(ipc);
    assert_true(engine.plugin->register_kv(engine.instance, &kv, &number, &engine.err) < 0);
    assert_int_equal(engine_close(&engine, 5000), 0);

    assert_int_equal(open_with(&engine, "yes", driver), -ENODEV);
    assert_non_null(strstr(engine.err.text, cause));
    assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 1);
    assert_int_equal(engine_close(&engine, 5000), 0);
}

static void test_no_driver(void **state)
{
    (void)state;
    check_without("libnowhere.so.1", "no CUDA driver");
}

static void test_a_stub_driver(void **state)
{
    (void)state;
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_STUB", "1", 1), 0);
    check_without(cuda_rig_path(), "stub");
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_STUB"), 0);
}

/* The child of a fork is told so, and harms nobody. */
static void test_fork(void **state)
{
    struct side *side = malloc(sizeof(*side));
    uint8_t location[COUNT];
    char ini[1024];
    pid_t pid;
    int how;

    (void)state;
    (void)snprintf(ini, sizeof(ini), "[store]\nmax_bytes = 16MiB\n" EXPORTER, cuda_rig_path());
    side_open(side, ini);
    side_save(side, "k");
    pid = fork();
    if (pid == 0) {
        const struct kvl_plugin *plugin = side->engine.plugin;
        struct engine_batch *batch = malloc(sizeof(*batch));
        uint64_t kv = 0;
        struct kvl_kv none = {.size = sizeof(none), .mem = KVL_MEM_CUDA};

        _exit(batch != NULL && side_move(side, "k", 0, batch) == -ECHILD &&
                      plugin->register_kv(side->engine.instance, &none, &kv, NULL) == -ECHILD &&
                      plugin->unregister_kv(side->engine.instance, side->kv) == -ECHILD
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_int_equal(side_load(side, "k", location), COUNT);
    side_close(side);
    free(side);
}

/* One chunk of the blocks 2 and 3 of a cache that came by its message. */
static int move_block(struct side *side, uint64_t kv, const char *key, int is_save)
{
    static const uint32_t blocks[2] = {2, 3};
    static const uint32_t first[2] = {0, 2};
    const struct kvl_plugin *plugin = side->engine.plugin;
    struct engine_batch *batch = malloc(sizeof(*batch));
    int r;

    CUDA_RIG_CHECK(batch != NULL);
    engine_batch_init(batch, WITHIN_MS);
    engine_batch_add(batch, key, NULL, 0)->bytes = TORCH_LAYERS_MAX / 4 * 2 * 2 * 1024;
    batch->chunks[0].attrs.fmt = KVL_FMT_KV_2LTD;
    batch->batch.kv = kv;
    batch->batch.blocks = blocks;
    batch->batch.block_first = first;
    r = is_save ? plugin->save(side->engine.instance, &batch->batch, &batch->result, NULL)
                : plugin->load(side->engine.instance, &batch->batch, &batch->result, NULL);
    r = r == 0 ? batch->status[0] : r;
    free(batch);
    return r;
}

/* Of a chunk that was saved before, the other caches of the instance still have the use. */
static void test_the_engine_behind_a_cache_dies(void **state)
{
    const struct torch_order order = {.kind = TORCH_MALLOC, .layers = TORCH_LAYERS_MAX / 4};
    struct torch_peer *torch = malloc(sizeof(*torch));
    struct side *side = malloc(sizeof(*side));
    struct kvl_kv kv = {.size = sizeof(kv), .mem = KVL_MEM_CUDA};
    uint8_t location[COUNT];
    uint64_t number = 0;
    char ini[1024];

    (void)state;
    (void)snprintf(ini, sizeof(ini), "[store]\nmax_bytes = 16MiB\n" EXPORTER, cuda_rig_path());
    side_open(side, ini);
    side_save(side, "k");
    torch_peer_start(torch, &order);
    kv.kvcache = torch->message;
    kv.kvcache_bytes = torch->length;
    assert_int_equal(
        side->engine.plugin->register_kv(side->engine.instance, &kv, &number, &side->engine.err),
        0);
    assert_int_equal(move_block(side, number, "torch", 1), 0);
    assert_int_equal(move_block(side, number, "torch", 0), 0);
    cuda_rig_kill(&torch->peer);
    torch_peer_unlink(torch);
    assert_true(engine_await_stat(&side->engine, "cuda_ipc_kv_producers_lost", 1));
    assert_int_equal(move_block(side, number, "torch", 0), -ENODEV);
    assert_int_equal(move_block(side, number, "new", 1), -ENODEV);
    assert_int_equal(health_of(side, KVL_LOCATION_BACKEND).state, KVL_HEALTH_DEGRADED);
    assert_int_equal(side_load(side, "k", location), COUNT);
    assert_int_equal(side->engine.plugin->unregister_kv(side->engine.instance, number), 0);
    side_close(side);
    free(torch);
    free(side);
}

int main(int argc, char **argv)
{
    const struct cuda_rig_role roles[] = {{"exporter", run_exporter}, {TORCH_PEER, torch_peer_run}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_to_device_without_being_told),
        cmocka_unit_test(test_falls_over_to_host_memory),
        cmocka_unit_test(test_falls_over_to_what_only_the_device_has),
        cmocka_unit_test(test_the_own_pool_comes_before_the_store),
        cmocka_unit_test(test_no_driver),
        cmocka_unit_test(test_a_stub_driver),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_the_engine_behind_a_cache_dies),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
