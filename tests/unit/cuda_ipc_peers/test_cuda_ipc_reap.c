/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KV caches whose memory belongs to another process, and the end of that process. The same is done
 * once more in a process for which the kernel has no descriptors of processes.
 */
#include "cm.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_engine_rig.h"
#include "cuda_ipc_vigil.h"
#include "torch_rig.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

#define CHECK CUDA_RIG_CHECK
#define LAYERS 3u
#define BLOCK_BYTES 1024u /* 16 tokens of [2, 16] float16 */

static struct cuda_rig cuda;

struct scene {
    struct cuda_engine_rig rig;
    struct torch_peer torch; /* the producer */
    uint8_t bytes[2 * LAYERS * BLOCK_BYTES];
    uint64_t wanted; /* what is waited for */
};

static struct scene *scene_open(uint32_t fault)
{
    const struct torch_order order = {.kind = TORCH_MALLOC, .fault = fault, .layers = LAYERS};
    struct scene *scene = calloc(1, sizeof(*scene));
    struct kvl_err err = {.size = sizeof(err)};

    CHECK(scene != NULL);
    torch_peer_start(&scene->torch, &order);
    cuda_engine_init(&scene->rig, &cuda, NULL);
    CHECK(cuda_engine_try_start(&scene->rig, &err) == 0);
    return scene;
}

static void scene_close(struct scene *scene)
{
    cuda_engine_fini(&scene->rig);
    free(scene);
}

static void scene_kill(struct scene *scene)
{
    cuda_rig_kill(&scene->torch.peer);
    torch_peer_unlink(&scene->torch);
}

static uint64_t register_from(struct scene *scene, const struct torch_peer *torch)
{
    const struct kvl_kv kv = {.size = sizeof(kv),
                              .mem = KVL_MEM_CUDA,
                              .kvcache = torch->message,
                              .kvcache_bytes = torch->length};
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t number = 0;

    if (scene->rig.ops->kv_register(scene->rig.self, &kv, &number, &err) < 0) {
        cuda_rig_die(__FILE__, __LINE__, err.text);
    }
    return number;
}

static int unregister(struct scene *scene, uint64_t number)
{
    return scene->rig.ops->kv_unregister(scene->rig.self, number);
}

/* Begins to copy a chunk of one block. @return what submit said */
static int begin_gather(struct scene *scene, uint64_t number)
{
    const struct kvl_chunk chunk = {.key = kvl_key_from_text("t"), .bytes = sizeof(scene->bytes)};
    const uint32_t block = 3;
    const uint32_t first[2] = {0, 1};
    const struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = 1,
        .cookie = ++scene->rig.cookie,
        .deadline_ms = KVL_NEVER,
        .chunks = &chunk,
        .kv = number,
        .blocks = &block,
        .block_first = first,
    };
    void *to[1] = {scene->bytes};

    memset(scene->bytes, 0, sizeof(scene->bytes));
    return scene->rig.ops->gather(scene->rig.self, &batch, to);
}

static void end_gather(struct scene *scene)
{
    struct fake_result *result = malloc(sizeof(*result));

    CHECK(fake_host_wait(scene->rig.fake, scene->rig.cookie, result) == 0);
    CHECK(result->status == 0);
    free(result);
    for (uint32_t i = 0; i < sizeof(scene->bytes); i++) {
        CHECK(scene->bytes[i] == torch_peer_fill(i / BLOCK_BYTES % LAYERS));
    }
}

static void check_gather(struct scene *scene, uint64_t number)
{
    CHECK(begin_gather(scene, number) == 0);
    end_gather(scene);
}

static uint32_t imports(void)
{
    struct fake_cuda_live live;

    cuda.control->live(&live);
    return live.imports;
}

static int has_lost(void *ctx)
{
    struct scene *scene = ctx;

    return cuda_engine_stat(&scene->rig, "kv_producers_lost") == scene->wanted;
}

static void await_lost(struct scene *scene, uint64_t producers)
{
    scene->wanted = producers;
    cuda_rig_until(has_lost, scene);
}

static int has_imports(void *ctx)
{
    return imports() == *(const uint32_t *)ctx;
}

static void await_imports(uint32_t wanted)
{
    cuda_rig_until(has_imports, &wanted);
}

static int is_pending(void *ctx)
{
    (void)ctx;
    return cuda.control->pending(NULL) > 0;
}

static int has_nothing_to_look_at(void *ctx)
{
    const struct scene *scene = ctx;
    struct pollfd poll_fd = {.fd = cuda_ipc_reap_fd(scene->rig.self->reap), .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 0;
}

/* ---- a producer dies ---- */

static void idle(void)
{
    struct scene *scene = scene_open(TORCH_SOUND);
    const uint64_t number = register_from(scene, &scene->torch);
    const pid_t pid = scene->torch.peer.pid;
    struct kvl_health health;
    char text[32];

    check_gather(scene, number);
    CHECK(imports() > 0);
    scene_kill(scene);
    await_imports(0); /* before it is unregistered */
    CHECK(cuda_engine_stat(&scene->rig, "kv_producers_lost") == 1);
    CHECK(cuda_engine_stat(&scene->rig, "map_entries") == 0);
    CHECK(begin_gather(scene, number) == -ENODEV);
    health = cuda_engine_health(&scene->rig);
    CHECK(health.state == KVL_HEALTH_DEGRADED && strstr(health.text, "have ended") != NULL);
    (void)snprintf(text, sizeof(text), "process %d ", pid);
    CHECK(strstr(scene->rig.warnings, text) != NULL);
    CHECK(strchr(scene->rig.warnings, '\n')[1] == '\0'); /* said once */
    CHECK(torch_peer_counter(&scene->torch, 0) == INT64_MIN); /* the file was not made anew */
    CHECK(unregister(scene, number) == 0);
    CHECK(unregister(scene, number) == -ENOENT);
    CHECK(begin_gather(scene, number) == -EINVAL);
    CHECK(cuda_engine_health(&scene->rig).state == KVL_HEALTH_OK);
    cuda_rig_until(has_nothing_to_look_at, scene);
    scene_close(scene);
}

static void held(void)
{
    struct scene *scene = scene_open(TORCH_SOUND);
    const uint64_t number = register_from(scene, &scene->torch);

    check_gather(scene, number); /* what is made at a first copy is there */
    cuda.control->hold(NULL);
    CHECK(begin_gather(scene, number) == 0);
    cuda_rig_until(is_pending, NULL);
    cuda_rig_kill(&scene->torch.peer); /* its counters stay behind */
    await_lost(scene, 1);
    CHECK(imports() > 0);
    CHECK(unregister(scene, number) == -EBUSY);
    cuda.control->release(NULL);
    end_gather(scene);
    await_imports(0);
    CHECK(begin_gather(scene, number) == -ENODEV);
    CHECK(torch_peer_counter(&scene->torch, 0) == 0);
    CHECK(unregister(scene, number) == 0);
    torch_peer_unlink(&scene->torch);
    scene_close(scene);
}

static void two_caches(void)
{
    const struct torch_order order = {.kind = TORCH_MALLOC, .layers = LAYERS};
    struct scene *scene = scene_open(TORCH_TWO_USERS);
    struct torch_peer *other = malloc(sizeof(*other));
    const uint64_t first = register_from(scene, &scene->torch);
    const uint64_t second = register_from(scene, &scene->torch);
    uint64_t third;

    torch_peer_start(other, &order);
    third = register_from(scene, other);
    check_gather(scene, second);
    scene_kill(scene);
    await_lost(scene, 1);
    await_imports(1); /* of the third: one allocation */
    CHECK(strchr(scene->rig.warnings, '\n')[1] == '\0'); /* one line for both */
    CHECK(begin_gather(scene, first) == -ENODEV);
    CHECK(begin_gather(scene, second) == -ENODEV);
    check_gather(scene, third);
    CHECK(unregister(scene, second) == 0);
    CHECK(cuda_engine_health(&scene->rig).state == KVL_HEALTH_DEGRADED);
    CHECK(unregister(scene, first) == 0);
    CHECK(cuda_engine_health(&scene->rig).state == KVL_HEALTH_OK);
    CHECK(unregister(scene, third) == 0);
    CHECK(cuda_engine_stat(&scene->rig, "kv_producers_lost") == 1);
    torch_peer_end(other);
    free(other);
    scene_close(scene);
}

/* In half of the rounds the loss has been noticed when the cache is given up. */
static void unregistered_meanwhile(uint32_t rounds)
{
    struct scene *scene = scene_open(TORCH_SOUND);

    for (uint32_t round = 0; round < rounds; round++) {
        const uint64_t number = register_from(scene, &scene->torch);
        const uint64_t lost = cuda_engine_stat(&scene->rig, "kv_producers_lost");
        const struct torch_order order = {.kind = TORCH_MALLOC, .layers = LAYERS};

        CHECK(kill(scene->torch.peer.pid, SIGKILL) == 0);
        if (round % 2 == 1) {
            await_lost(scene, lost + 1); /* nobody has waited for it: it is a zombie */
        }
        CHECK(unregister(scene, number) == 0);
        CHECK(waitpid(scene->torch.peer.pid, NULL, 0) == scene->torch.peer.pid);
        close(scene->torch.peer.fd);
        torch_peer_unlink(&scene->torch);
        await_imports(0);
        if (round + 1 < rounds) {
            torch_peer_start(&scene->torch, &order);
        }
    }
    CHECK(cuda_engine_stat(&scene->rig, "map_entries") == 0);
    cuda_rig_until(has_nothing_to_look_at, scene);
    scene_close(scene);
}

static void stopped_with_caches(void)
{
    const struct torch_order order = {.kind = TORCH_MALLOC, .layers = LAYERS};
    struct scene *scene = scene_open(TORCH_SOUND);
    struct torch_peer *other = malloc(sizeof(*other));

    torch_peer_start(other, &order);
    (void)register_from(scene, other);
    (void)register_from(scene, &scene->torch);
    scene_kill(scene);
    await_lost(scene, 1);
    scene_close(scene); /* one lost, one not */
    CHECK(imports() == 0);
    torch_peer_end(other);
    free(other);
}

static void all_of_them(void)
{
    idle();
    held();
    two_caches();
    unregistered_meanwhile(4); /* a second for each that is noticed */
    stopped_with_caches();
}

static void test_idle(void **state)
{
    (void)state;
    idle();
}

static void test_under_a_copy(void **state)
{
    (void)state;
    held();
}

static void test_several_caches(void **state)
{
    (void)state;
    two_caches();
}

static void test_unregistered_meanwhile(void **state)
{
    (void)state;
    unregistered_meanwhile(20);
}

static void test_stopped_with_caches(void **state)
{
    (void)state;
    stopped_with_caches();
}

/* The child has all descriptors of its parent, and keeps what they stand for. */
static void test_fork(void **state)
{
    struct scene *scene = scene_open(TORCH_TWO_USERS);
    const uint64_t first = register_from(scene, &scene->torch);
    uint64_t second;
    int fds[2];
    pid_t child;
    int how;
    char byte;

    (void)state;
    assert_int_equal(pipe(fds), 0);
    child = fork();
    if (child == 0) {
        close(fds[1]);
        _exit((int)read(fds[0], &byte, 1));
    }
    assert_true(child > 0);
    close(fds[0]);
    assert_int_equal(unregister(scene, first), 0); /* its descriptor is still open there */
    second = register_from(scene, &scene->torch);
    scene_kill(scene);
    await_lost(scene, 1);
    await_imports(0);
    cuda_rig_until(has_nothing_to_look_at, scene);
    assert_int_equal(unregister(scene, second), 0);
    close(fds[1]);
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    scene_close(scene);
}

static void test_the_producer_is_gone_already(void **state)
{
    struct scene *scene = scene_open(TORCH_SOUND);
    const struct kvl_kv kv = {.size = sizeof(kv),
                              .mem = KVL_MEM_CUDA,
                              .kvcache = scene->torch.message,
                              .kvcache_bytes = scene->torch.length};
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t number = 77;

    (void)state;
    scene_kill(scene);
    assert_true(scene->rig.ops->kv_register(scene->rig.self, &kv, &number, &err) < 0);
    assert_int_equal(number, 77);
    assert_true(err.text[0] != '\0');
    assert_int_equal(imports(), 0);
    scene_close(scene);
}

/* ---- a life ---- */

static pid_t start_child(void)
{
    const pid_t child = fork();

    if (child == 0) {
        for (;;) {
            (void)pause();
        }
    }
    CHECK(child > 0);
    return child;
}

static struct cuda_ipc_who who_of(pid_t pid)
{
    struct cuda_ipc_who who;

    cuda_ipc_who_self(&who);
    who.pid = (uint64_t)pid;
    CHECK(cuda_ipc_who_start_time(who.pid, &who.start_time) == 0);
    return who;
}

static int is_over(void *ctx)
{
    return cuda_ipc_vigil_is_over(ctx);
}

static int is_readable(void *ctx)
{
    const struct cuda_ipc_vigil *vigil = ctx;
    struct pollfd poll_fd = {.fd = vigil->epoll_fd, .events = POLLIN};

    return poll(&poll_fd, 1, 0) == 1;
}

/* Until the end of a child, which nobody has waited for then. */
static void watch_a_child(int is_polled)
{
    const pid_t child = start_child();
    const struct cuda_ipc_who who = who_of(child);
    struct cuda_ipc_vigil vigil;
    struct cuda_ipc_life life;

    CHECK(cuda_ipc_vigil_init(&vigil) == 0);
    CHECK(cuda_ipc_vigil_begin(&vigil, &who, &life) == 0);
    CHECK(life.is_polled == is_polled && (life.pidfd < 0) == is_polled);
    CHECK(!cuda_ipc_vigil_is_over(&life));
    CHECK(cuda_ipc_who_lives(&who) == 1);
    CHECK(kill(child, SIGKILL) == 0);
    cuda_rig_until(is_readable, &vigil);
    cuda_rig_until(is_over, &life);
    CHECK(cuda_ipc_who_lives(&who) == 0);
    cuda_ipc_vigil_end(&vigil, &life);
    cuda_ipc_vigil_clear(&vigil);
    CHECK(!is_readable(&vigil));
    CHECK(cuda_ipc_vigil_begin(&vigil, &who, &life) == -ESRCH); /* a zombie has ended */
    CHECK(cuda_ipc_vigil_is_over(&life));
    cuda_ipc_vigil_end(&vigil, &life);
    CHECK(waitpid(child, NULL, 0) == child);
    CHECK(cuda_ipc_vigil_begin(&vigil, &who, &life) == -ESRCH);
    cuda_ipc_vigil_end(&vigil, &life);
    cuda_ipc_vigil_wake(&vigil);
    CHECK(is_readable(&vigil));
    cuda_ipc_vigil_fini(&vigil);
}

static void test_a_life(void **state)
{
    (void)state;
    watch_a_child(0);
}

/* The pid of one that has ended, now that of another. */
static void test_a_pid_that_was_given_again(void **state)
{
    const pid_t child = start_child();
    struct cuda_ipc_who who = who_of(child);
    struct cuda_ipc_vigil vigil;
    struct cuda_ipc_life life;

    (void)state;
    who.start_time--;
    assert_int_equal(cuda_ipc_vigil_init(&vigil), 0);
    assert_int_equal(cuda_ipc_vigil_begin(&vigil, &who, &life), -ESRCH);
    assert_true(cuda_ipc_vigil_is_over(&life));
    cuda_ipc_vigil_end(&vigil, &life);
    cuda_ipc_vigil_fini(&vigil);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
}

static void test_lives_that_cannot_be_watched(void **state)
{
    const pid_t child = start_child();
    struct cuda_ipc_who elsewhere = who_of(child);
    struct cuda_ipc_who unknown = elsewhere;
    struct cuda_ipc_vigil vigil;
    struct cuda_ipc_life life;

    (void)state;
    elsewhere.pid_namespace++;
    unknown.start_time = 0;
    assert_int_equal(cuda_ipc_vigil_init(&vigil), 0);
    assert_int_equal(cuda_ipc_vigil_begin(&vigil, &elsewhere, &life), -ENOTSUP);
    assert_false(cuda_ipc_vigil_is_over(&life));
    cuda_ipc_vigil_end(&vigil, &life);
    assert_int_equal(cuda_ipc_vigil_begin(&vigil, &unknown, &life), -ENOTSUP);
    assert_false(cuda_ipc_vigil_is_over(&life));
    cuda_ipc_vigil_end(&vigil, &life);
    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_false(cuda_ipc_vigil_is_over(&life));
    cuda_ipc_vigil_fini(&vigil);
}

/* ---- without descriptors of processes ---- */

#define NO_FILTER 99

/* pidfd_open is ENOSYS from now on, as on Linux before 5.3. */
static int forbid_pidfd(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return -errno;
    }
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 ? -errno : 0;
}

static int run_without_pidfd(int fd)
{
    (void)fd;
    if (forbid_pidfd() < 0) {
        return NO_FILTER;
    }
    CHECK(syscall(SYS_pidfd_open, getpid(), 0u) == -1 && errno == ENOSYS);
    watch_a_child(1);
    cuda_rig_open(&cuda);
    all_of_them();
    cuda_rig_close(&cuda);
    return 0;
}

static void test_without_descriptors_of_processes(void **state)
{
    struct cuda_rig_peer peer;
    int how;

    (void)state;
    cuda_rig_start(&peer, "no pidfd");
    assert_int_equal(waitpid(peer.pid, &how, 0), peer.pid);
    close(peer.fd);
    assert_true(WIFEXITED(how));
    if (WEXITSTATUS(how) == NO_FILTER) {
        print_message("no seccomp filters here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(how), 0);
}

int main(int argc, char **argv)
{
    const struct cuda_rig_role roles[] = {{TORCH_PEER, torch_peer_run},
                                          {"no pidfd", run_without_pidfd}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_life),
        cmocka_unit_test(test_a_pid_that_was_given_again),
        cmocka_unit_test(test_lives_that_cannot_be_watched),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_under_a_copy),
        cmocka_unit_test(test_several_caches),
        cmocka_unit_test(test_unregistered_meanwhile),
        cmocka_unit_test(test_stopped_with_caches),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_the_producer_is_gone_already),
        cmocka_unit_test(test_without_descriptors_of_processes),
    };
    int failures;

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    cuda_rig_open(&cuda);
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    if (failures == 0) {
        cuda_rig_close(&cuda); /* nothing is left of the driver's */
    }
    return failures;
}
