/* SPDX-License-Identifier: Apache-2.0 */
/* Two and three engines in processes of their own on one machine: right bytes or a clear error. */
#include "cm.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "remote_engine.h"
#include "torch_rig.h"

static int64_t load(struct remote_engine *remote, const char *prefix, uint32_t count, uint32_t seed)
{
    return remote_ask(remote, REMOTE_LOAD, prefix, count, seed).value;
}

static void save(struct remote_engine *remote, const char *prefix, uint32_t count, uint32_t seed)
{
    (void)remote_ask(remote, REMOTE_SAVE, prefix, count, seed);
}

static int64_t calls(struct remote_engine *remote, const char *name)
{
    return remote_ask(remote, REMOTE_CALLS, name, 0, 0).value;
}

static int is_pending(void *ctx)
{
    return remote_ask(ctx, REMOTE_PENDING, "", 0, 0).value > 0;
}

/* A load whose copies are queued on the device, and stay there. */
static void begin_held_load(struct remote_engine *remote, const char *prefix, uint32_t count,
                            uint32_t seed)
{
    (void)remote_ask(remote, REMOTE_HOLD, "", 0, 0);
    assert_int_equal(remote_ask(remote, REMOTE_BEGIN_LOAD, prefix, count, seed).value, 0);
    cuda_rig_until(is_pending, remote);
}

static int64_t end_held_load(struct remote_engine *remote)
{
    (void)remote_ask(remote, REMOTE_RELEASE, "", 0, 0);
    return remote_ask(remote, REMOTE_END_LOAD, "", 0, 0).value;
}

static void test_three_engines(void **state)
{
    struct remote_engine a;
    struct remote_engine b;
    struct remote_engine c;
    int64_t copies;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_start(&c, "");
    remote_meet(&b, &a);
    remote_meet(&c, &a);
    remote_meet(&c, &b);
    save(&a, "a", 8, 100);
    save(&b, "b", 4, 200);
    assert_int_equal(remote_ask(&b, REMOTE_HAS, "a3", 0, 0).value, 1);
    assert_int_equal(remote_ask(&a, REMOTE_HAS, "b3", 0, 0).value, 0); /* nobody told it */
    copies = calls(&b, "cuMemcpyDtoHAsync");
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(load(&c, "a", 8, 100), 0);
    assert_int_equal(load(&c, "b", 4, 200), 0);
    /* device to device, and the handle was opened once */
    assert_int_equal(calls(&b, "cuMemcpyDtoHAsync"), copies);
    assert_int_equal(remote_stat(&b, "gathers") + remote_stat(&b, "scatters"), 0);
    assert_int_equal(remote_stat(&b, "read_peer"), 8);
    assert_int_equal(remote_stat(&b, "map_misses"), 1);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(remote_stat(&b, "map_misses"), 1);
    assert_true(remote_stat(&b, "map_hits") >= 1);
    assert_int_equal(calls(&b, "cuIpcOpenMemHandle"), 1);
    remote_await(&a, "peer_leases", 0);
    assert_int_equal(remote_ask(&a, REMOTE_ERRORS, "", 0, 0).value, 0);
    assert_int_equal(remote_ask(&c, REMOTE_ERRORS, "", 0, 0).value, 0);
    remote_stop(&c);
    remote_stop(&b);
    remote_stop(&a);
}

/* In the other order: who is read leaves first. Its peers close what they have mapped at once. */
static void test_the_exporter_leaves_first(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    assert_int_equal(load(&b, "a", 4, 100), 0);
    assert_int_equal(remote_stat(&b, "map_entries"), 1);
    remote_stop(&a);
    remote_await(&b, "peer_links", 0);
    assert_int_equal(remote_stat(&b, "map_entries"), 0);
    assert_int_equal(load(&b, "a", 4, 100), -ENOENT);
    remote_stop(&b);
}

static void test_the_exporter_is_killed_under_a_read(void **state)
{
    struct remote_engine a;
    struct remote_engine b;
    struct remote_engine again;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    begin_held_load(&b, "a", 4, 100);
    remote_kill(&a);
    remote_await(&b, "peer_links", 0);
    assert_int_equal(end_held_load(&b), -ENOTCONN);
    assert_int_equal(remote_stat(&b, "read_stale"), 4);
    assert_int_equal(remote_stat(&b, "map_in_use"), 0);
    assert_int_equal(remote_stat(&b, "map_entries"), 0);
    assert_int_equal(load(&b, "a", 4, 100), -ENOENT);

    /* it comes back with other bytes under the same keys */
    remote_start(&again, "");
    remote_meet(&b, &again);
    save(&again, "a", 4, 300);
    assert_int_equal(load(&b, "a", 4, 300), 0);
    remote_stop(&b);
    remote_stop(&again);
}

static void test_the_importer_is_killed_with_leases(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    begin_held_load(&b, "a", 4, 100);
    assert_int_equal(remote_stat(&a, "peer_leases"), 4);
    remote_kill(&b);
    remote_await(&a, "peer_leases", 0);
    assert_int_equal(remote_stat(&a, "peer_conns"), 0);
    save(&a, "b", 4, 200);
    assert_int_equal(load(&a, "b", 4, 200), 0);
    remote_stop(&a);
}

static void test_a_lease_holds_the_bytes(void **state)
{
    struct remote_engine a;
    struct remote_engine b;
    uint32_t round = 0;

    (void)state;
    remote_start(&a, "pool=2097152");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    begin_held_load(&b, "a", 4, 100);
    while (remote_stat(&a, "pool_evicted") < 100) { /* the pool turns over */
        char prefix[16];

        (void)snprintf(prefix, sizeof(prefix), "r%u-", round);
        save(&a, prefix, 15, 1000 + round * 15);
        round++;
    }
    assert_int_equal(remote_ask(&a, REMOTE_HAS, "a0", 0, 0).value, 1);
    assert_int_equal(end_held_load(&b), 0);
    remote_await(&a, "peer_leases", 0);
    remote_stop(&b);
    remote_stop(&a);
}

/* It waits for a while, then leaves its memory to whom still reads it. */
static void test_the_exporter_leaves_under_a_read(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    begin_held_load(&b, "a", 4, 100);
    (void)remote_ask(&a, REMOTE_STOP_READ, "", 0, 0);
    cuda_rig_end(&a.peer);
    remote_await(&b, "peer_links", 0);
    assert_int_equal(end_held_load(&b), -ENOTCONN);
    assert_int_equal(remote_stat(&b, "map_entries"), 0);
    remote_stop(&b);
}

static void test_a_load_is_cancelled(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    assert_int_equal(remote_ask(&b, REMOTE_BEGIN_LOAD, "a", 4, 100).value, 0);
    (void)remote_ask(&b, REMOTE_CANCEL, "", 0, 0); /* wherever it is */
    {
        const int64_t status = remote_ask(&b, REMOTE_END_LOAD, "", 0, 0).value;

        assert_true(status == 0 || status == -ECANCELED);
    }
    remote_await(&a, "peer_leases", 0);
    assert_int_equal(load(&b, "a", 4, 100), 0);
    remote_stop(&b);
    remote_stop(&a);
}

/* One mapping, and a load that needs two. */
static void test_the_cache_is_full(void **state)
{
    struct remote_engine a;
    struct remote_engine b;
    uint32_t rounds = 0;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "max_mappings=1");
    remote_meet(&b, &a);
    save(&a, "first", 1, 1);
    while (remote_stat(&a, "pool_used_bytes") <= 2097152 + 15 * 9216) {
        char prefix[16];

        (void)snprintf(prefix, sizeof(prefix), "r%u-", rounds);
        save(&a, prefix, 15, 1000 + rounds * 15);
        rounds++;
    }
    /* one after the other: the unused one goes */
    assert_int_equal(load(&b, "first", 1, 1), 0);
    {
        char prefix[16];

        (void)snprintf(prefix, sizeof(prefix), "r%u-", rounds - 1);
        assert_int_equal(load(&b, prefix, 15, 1000 + (rounds - 1) * 15), 0);
        assert_int_equal(remote_stat(&b, "map_entries"), 1);
        assert_int_equal(remote_stat(&b, "map_evicted"), 1);

        /* both at a time: no growth, an error, and the other chunks come */
        begin_held_load(&b, "first", 1, 1);
        assert_int_equal(load(&a, "first", 1, 1), 0);
    }
    assert_int_equal(remote_stat(&b, "map_in_use"), 1);
    assert_int_equal(remote_stat(&b, "map_entries"), 1);
    assert_int_equal(end_held_load(&b), 0);
    remote_stop(&b);
    remote_stop(&a);
}

static void check_useless(struct remote_engine *a, struct remote_engine *b, int64_t first,
                          const char *cause)
{
    struct remote_answer answer;

    remote_meet(b, a);
    save(a, "a", 4, 100);
    assert_int_equal(load(b, "a", 4, 100), first);
    assert_int_equal(load(b, "a", 4, 100), -ENOENT); /* it is not asked any more */
    assert_int_equal(remote_ask(b, REMOTE_HAS, "a0", 0, 0).value, 0);
    assert_int_equal(remote_stat(b, "import_failures"), 1);
    answer = remote_ask(b, REMOTE_ERRORS, "", 0, 0);
    assert_int_equal(answer.value, 1); /* loud, and once */
    if (strstr(answer.text, cause) == NULL) {
        print_message("%s\n", answer.text);
    }
    assert_non_null(strstr(answer.text, cause));
    answer = remote_ask(b, REMOTE_HEALTH, "", 0, 0);
    assert_int_equal(answer.value, KVL_HEALTH_DEGRADED);
    assert_non_null(strstr(answer.text, "cannot be used"));
    remote_await(a, "peer_leases", 0);
    remote_stop(a);
    remote_await(b, "peer_links", 0);
    assert_int_equal(remote_ask(b, REMOTE_HEALTH, "", 0, 0).value, KVL_HEALTH_OK);
    remote_stop(b);
}

static void test_a_handle_that_does_not_open(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "");
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_FAIL", "cuIpcOpenMemHandle=201", 1), 0);
    remote_start(&b, "");
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_FAIL"), 0);
    check_useless(&a, &b, -ENOTCONN, "PID namespace");
}

static void test_a_device_that_is_not_visible(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_DEVICES", "2", 1), 0);
    remote_start(&a, "");
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", "1", 1), 0);
    remote_start(&b, "");
    assert_int_equal(unsetenv("CUDA_VISIBLE_DEVICES"), 0);
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_DEVICES"), 0);
    check_useless(&a, &b, -ENOTCONN, "visible");
}

/* Not one of the exporter's devices is: that is known before anything is asked. */
static void test_devices_that_have_nothing_in_common(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_DEVICES", "2", 1), 0);
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", "0", 1), 0);
    remote_start(&a, "");
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", "1", 1), 0);
    remote_start(&b, "");
    assert_int_equal(unsetenv("CUDA_VISIBLE_DEVICES"), 0);
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_DEVICES"), 0);
    check_useless(&a, &b, -ENOENT, "CUDA_VISIBLE_DEVICES");
}

/* The reader's blocks are on another device than the pool that it reads. */
static void start_on_two_devices(struct remote_engine *a, struct remote_engine *b)
{
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_DEVICES", "2", 1), 0);
    remote_start(a, "");
    assert_int_equal(setenv("CUDA_VISIBLE_DEVICES", "1,0", 1), 0);
    remote_start(b, "");
    assert_int_equal(unsetenv("CUDA_VISIBLE_DEVICES"), 0);
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_DEVICES"), 0);
}

static void test_between_devices(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    start_on_two_devices(&a, &b);
    remote_meet(&b, &a);
    remote_meet(&a, &b);
    save(&a, "a", 8, 100);
    save(&b, "b", 8, 200);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(load(&a, "b", 8, 200), 0);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    remote_stop(&b);
    remote_stop(&a);
}

static void test_devices_that_cannot_reach_each_other(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_PEERS", "0", 1), 0);
    start_on_two_devices(&a, &b);
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_PEERS"), 0);
    check_useless(&a, &b, -ENOTCONN, "reach");
}

static void test_descriptors(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "share=fd");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 8, 100);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(calls(&b, "cuIpcOpenMemHandle"), 0);
    assert_int_equal(calls(&b, "cuMemImportFromShareableHandle"), 1);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(calls(&b, "cuMemImportFromShareableHandle"), 1);
    remote_stop(&a);
    remote_await(&b, "map_entries", 0);
    remote_stop(&b);
}

/* Legacy handles cannot be had: said, and descriptors are taken. */
static void test_descriptors_where_handles_cannot_be_had(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_FAIL", "cuIpcGetMemHandle=801", 1), 0);
    remote_start(&a, "");
    assert_int_equal(unsetenv("KVLANE_FAKE_CUDA_FAIL"), 0);
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 8, 100);
    assert_int_equal(load(&b, "a", 8, 100), 0);
    assert_int_equal(calls(&b, "cuMemImportFromShareableHandle"), 1);
    remote_stop(&b);
    remote_stop(&a);
}

static void test_a_pool_of_ones_own(void **state)
{
    struct remote_engine a;
    struct remote_engine b;

    (void)state;
    remote_start(&a, "share=no");
    remote_start(&b, "");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    assert_int_equal(load(&a, "a", 4, 100), 0);
    assert_int_equal(load(&b, "a", 4, 100), -ENOENT);
    assert_int_equal(remote_ask(&b, REMOTE_ERRORS, "", 0, 0).value, 0);
    remote_stop(&b);
    remote_stop(&a);
}

/* A process that was stopped answers nobody: those who ask it go on without it. */
static void test_an_exporter_that_hangs(void **state)
{
    struct remote_engine a;
    struct remote_engine b;
    int how;

    (void)state;
    remote_start(&a, "");
    remote_start(&b, "timeout=1000");
    remote_meet(&b, &a);
    save(&a, "a", 4, 100);
    assert_int_equal(kill(a.peer.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(a.peer.pid, &how, WUNTRACED), a.peer.pid);
    assert_true(WIFSTOPPED(how));
    assert_int_equal(load(&b, "a", 4, 100), -ENOENT);
    remote_await(&b, "peer_links", 0);
    assert_true(remote_stat(&b, "peer_timeouts") >= 1); /* it is tried again */
    assert_int_equal(kill(a.peer.pid, SIGCONT), 0);
    remote_await(&b, "peer_links", 1);
    assert_int_equal(load(&b, "a", 4, 100), 0);
    remote_stop(&b);
    remote_stop(&a);
}

/* ---- caches of engines that run on torch, in processes of their own ---- */

#define TORCH_LAYERS 3u
#define TORCH_BLOCK_BYTES 1024u /* 16 tokens of [2, 16] float16 */

static void check_gathered(struct cuda_engine_rig *rig, uint64_t kv)
{
    static uint8_t bytes[2 * TORCH_LAYERS * TORCH_BLOCK_BYTES];
    const struct kvl_chunk chunk = {.key = kvl_key_from_text("t"), .bytes = sizeof(bytes)};
    const uint32_t block = 3;
    const uint32_t first[2] = {0, 1};
    const struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = 1,
        .cookie = ++rig->cookie,
        .deadline_ms = KVL_NEVER,
        .chunks = &chunk,
        .kv = kv,
        .blocks = &block,
        .block_first = first,
    };
    struct fake_result *result = malloc(sizeof(*result));
    void *to[1] = {bytes};

    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(rig->ops->gather(rig->self, &batch, to), 0);
    assert_int_equal(fake_host_wait(rig->fake, batch.cookie, result), 0);
    assert_int_equal(result->status, 0);
    for (uint32_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(bytes[i], torch_peer_fill(i / TORCH_BLOCK_BYTES % TORCH_LAYERS));
    }
    free(result);
}

static int run_torch_engine(int fd)
{
    const struct kvl_kv none = {.size = sizeof(none), .mem = KVL_MEM_CUDA};
    struct torch_peer *peer = malloc(sizeof(*peer));
    struct cuda_engine_rig rig;
    struct cuda_rig cuda;
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_kv kv = none;
    uint64_t number = 0;
    int r;

    CUDA_RIG_CHECK(peer != NULL);
    cuda_rig_recv(fd, peer, sizeof(*peer));
    cuda_rig_open(&cuda);
    cuda_engine_init(&rig, &cuda, NULL);
    CUDA_RIG_CHECK(cuda_engine_try_start(&rig, &err) == 0);
    kv.kvcache = peer->message;
    kv.kvcache_bytes = peer->length - 1;
    CUDA_RIG_CHECK(rig.ops->kv_register(rig.self, &kv, &number, &err) == -EPROTO);
    kv.kvcache_bytes = peer->length;
    r = rig.ops->kv_register(rig.self, &kv, &number, &err);
    if (r == 0) {
        check_gathered(&rig, number);
        CUDA_RIG_CHECK(rig.ops->kv_unregister(rig.self, number) == 0);
    }
    CUDA_RIG_CHECK(rig.ops->kv_unregister(rig.self, number) == -ENOENT);
    memset(&err, 0, sizeof(err));
    err.size = sizeof(err);
    CUDA_RIG_CHECK(rig.ops->kv_register(rig.self, &none, &number, &err) < 0);
    CUDA_RIG_CHECK(err.text[0] != '\0');
    cuda_engine_fini(&rig);
    cuda_rig_close(&cuda);
    free(peer);
    cuda_rig_send(fd, &r, sizeof(r));
    return 0;
}

/* @return what registering said. */
static int check_torch(enum torch_kind kind)
{
    const struct torch_order order = {.kind = kind, .layers = TORCH_LAYERS};
    struct torch_peer *torch = malloc(sizeof(*torch));
    struct cuda_rig_peer engine;
    int r;

    torch_peer_start(torch, &order);
    assert_int_equal(torch_peer_counter(torch, 0), 1);
    cuda_rig_start(&engine, "torch engine");
    cuda_rig_send(engine.fd, torch, sizeof(*torch));
    cuda_rig_recv(engine.fd, &r, sizeof(r));
    cuda_rig_end(&engine);
    for (uint32_t i = 0; i < TORCH_LAYERS; i++) { /* torch may use its memory again */
        assert_int_equal(torch_peer_counter(torch, i), 0);
    }
    torch_peer_end(torch);
    free(torch);
    return r;
}

static void test_a_cache_of_torch(void **state)
{
    (void)state;
    assert_int_equal(check_torch(TORCH_MALLOC), 0);
}

static void test_a_cache_in_expandable_segments(void **state)
{
    int r;

    (void)state;
    r = check_torch(TORCH_EXPANDABLE);
    if (r == -EACCES || r == -ENOTSUP) { /* descriptors of others may not be taken over here */
        skip();
    }
    assert_int_equal(r, 0);
}

int main(int argc, char **argv)
{
    const struct cuda_rig_role roles[] = {{REMOTE_ENGINE_ROLE, remote_engine_run},
                                          {"torch engine", run_torch_engine},
                                          {TORCH_PEER, torch_peer_run}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_engines),
        cmocka_unit_test(test_the_exporter_leaves_first),
        cmocka_unit_test(test_the_exporter_is_killed_under_a_read),
        cmocka_unit_test(test_the_importer_is_killed_with_leases),
        cmocka_unit_test(test_a_lease_holds_the_bytes),
        cmocka_unit_test(test_the_exporter_leaves_under_a_read),
        cmocka_unit_test(test_a_load_is_cancelled),
        cmocka_unit_test(test_the_cache_is_full),
        cmocka_unit_test(test_a_handle_that_does_not_open),
        cmocka_unit_test(test_a_device_that_is_not_visible),
        cmocka_unit_test(test_devices_that_have_nothing_in_common),
        cmocka_unit_test(test_between_devices),
        cmocka_unit_test(test_devices_that_cannot_reach_each_other),
        cmocka_unit_test(test_descriptors),
        cmocka_unit_test(test_descriptors_where_handles_cannot_be_had),
        cmocka_unit_test(test_a_pool_of_ones_own),
        cmocka_unit_test(test_an_exporter_that_hangs),
        cmocka_unit_test(test_a_cache_of_torch),
        cmocka_unit_test(test_a_cache_in_expandable_segments),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
