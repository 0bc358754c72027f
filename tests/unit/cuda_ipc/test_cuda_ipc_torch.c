/* SPDX-License-Identifier: Apache-2.0 */
/* KV caches of a process that shares them as torch does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_ipc_segment.h"
#include "cuda_ipc_torch.h"
#include "ipc.h"
#include "torch_rig.h"

#define LAYERS 4u
#define LONG_MS 20000u
#define PAGE 4096u

struct fixture {
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    struct cuda_ipc_map *map;
    struct cuda_ipc_torch_env env;
    struct cuda_ipc_torch *torch;
    struct torch_peer peer;
    struct kvl_log log;
    atomic_int warnings;
    struct kvl_err err;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void count_warnings(void *ctx, int32_t level, const char *component, const char *file,
                           int32_t line, const char *text)
{
    struct fixture *f = ctx;

    (void)component;
    (void)file;
    (void)line;
    (void)text;
    f->warnings += level <= KVL_LOG_WARN;
}

static int set_up(void **state)
{
    static struct fixture f;

    memset(&f, 0, sizeof(f));
    cuda_rig_open(&f.rig);
    share_place_init(&f.rig, 0, &f.place);
    assert_int_equal(cuda_ipc_map_open(&f.rig.api, 0, 0, &f.map, NULL), 0);
    f.log = (struct kvl_log){
        .write = count_warnings, .ctx = &f, .component = "cuda_ipc", .level = KVL_LOG_TRACE};
    f.env = (struct cuda_ipc_torch_env){
        .map = f.map,
        .places = &f.place,
        .place_count = 1,
        .ipc = &kvl_ipc_table,
        .log = &f.log,
        .deadline_ms = now_ms() + LONG_MS,
    };
    f.err = (struct kvl_err){.size = sizeof(f.err)};
    *state = &f;
    return 0;
}

/* cuda_rig_close() checks that nothing stayed open. */
static int tear_down(void **state)
{
    struct fixture *f = *state;

    f->rig.control->fail_calls(NULL);
    cuda_ipc_map_close(f->map);
    share_place_fini(&f->place);
    cuda_rig_close(&f->rig);
    return 0;
}

static void start(struct fixture *f, enum torch_kind kind, enum torch_fault fault)
{
    const struct torch_order order = {.kind = kind, .fault = fault, .layers = LAYERS};

    torch_peer_start(&f->peer, &order);
}

static int open_it(struct fixture *f)
{
    return cuda_ipc_torch_open(&f->env, f->peer.message, f->peer.length, &f->torch, &f->err);
}

static uint32_t imports(const struct fixture *f)
{
    struct fake_cuda_live live;

    f->rig.control->live(&live);
    return live.imports + live.vmm_reservations;
}

static void expect_counters(const struct fixture *f, int64_t value)
{
    for (uint32_t i = 0; i < LAYERS; i++) {
        assert_int_equal(torch_peer_counter(&f->peer, i), value);
    }
}

/* Each plane of each layer, page by page: segments lie one behind the other here too. */
static void expect_layers(const struct fixture *f)
{
    const struct kvl_kv *kv = cuda_ipc_torch_kv(f->torch);

    for (uint32_t p = 0; p < kv->planes; p++) {
        for (uint32_t l = 0; l < kv->layers; l++) {
            assert_true(
                share_is_filled(&f->rig, kv->bases[p * kv->layers + l], PAGE, torch_peer_fill(l)));
        }
    }
}

/* ---- what goes well ---- */

static void test_layers_of_one_allocation(void **state)
{
    static const enum torch_kind kinds[] = {TORCH_MALLOC, TORCH_RAW};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const struct kvl_kv *kv;

        start(f, kinds[i], TORCH_SOUND);
        assert_int_equal(open_it(f), 0);
        kv = cuda_ipc_torch_kv(f->torch);
        assert_int_equal(kv->size, sizeof(*kv));
        assert_int_equal(kv->mem, KVL_MEM_CUDA);
        assert_int_equal(kv->device, 0);
        assert_int_equal(kv->layers, LAYERS);
        assert_int_equal(kv->planes, 2);
        assert_int_equal(kv->block_tokens, 16);
        assert_int_equal(kv->block_count, 4);
        assert_int_equal(kv->token_bytes, 64);
        assert_int_equal(kv->token_stride, 64);
        assert_int_equal(kv->block_stride, 1024);
        assert_true(kv->bases[LAYERS] - kv->bases[0] == 4096); /* values of layer 0 */
        assert_int_equal(cuda_ipc_torch_who(f->torch)->pid, f->peer.peer.pid);
        assert_int_equal(imports(f), 1);
        expect_layers(f);

        /* its counters fall when it is closed, each once */
        expect_counters(f, 1);
        cuda_ipc_torch_close(f->torch);
        expect_counters(f, 0);
        assert_int_equal(imports(f), 0);
        assert_int_equal(f->warnings, 0);
        torch_peer_end(&f->peer);
    }
}

static void test_expandable_segments(void **state)
{
    struct fixture *f = *state;
    int r;

    start(f, TORCH_EXPANDABLE, TORCH_SOUND);
    r = open_it(f);
    if (r == -EACCES || r == -ENOTSUP) {
        print_message("%s\n", f->err.text);
        torch_peer_end(&f->peer);
        skip();
    }
    assert_int_equal(r, 0);
    assert_int_equal(imports(f), 1); /* the padding in the handles is no difference */
    expect_layers(f);
    expect_counters(f, 1);
    cuda_ipc_torch_close(f->torch);
    expect_counters(f, 0);
    assert_int_equal(imports(f), 0);
    torch_peer_end(&f->peer);
}

static void test_waits_for_the_writes(void **state)
{
    const struct torch_order order = {.layers = LAYERS, .is_held = 1};
    struct fixture *f = *state;

    torch_peer_start(&f->peer, &order);
    f->env.deadline_ms = now_ms() + 20;
    assert_int_equal(open_it(f), -ETIMEDOUT);
    expect_counters(f, 1); /* nothing was opened */
    torch_peer_go(&f->peer);
    f->env.deadline_ms = now_ms() + LONG_MS;
    assert_int_equal(open_it(f), 0);
    expect_layers(f);
    cuda_ipc_torch_close(f->torch);
    expect_counters(f, 0);
    torch_peer_end(&f->peer);
}

static void test_producer_killed_while_in_use(void **state)
{
    struct fixture *f = *state;

    start(f, TORCH_MALLOC, TORCH_SOUND);
    assert_int_equal(open_it(f), 0);
    cuda_rig_kill(&f->peer.peer);
    cuda_ipc_map_drop(cuda_ipc_torch_who(f->torch));
    expect_layers(f);
    cuda_ipc_torch_close(f->torch);
    assert_int_equal(imports(f), 0);
    expect_counters(f, 0);
    assert_true(open_it(f) < 0);
    torch_peer_unlink(&f->peer);
}

static void test_child_of_a_fork_gives_nothing_back(void **state)
{
    struct fixture *f = *state;
    int status = -1;
    pid_t pid;

    start(f, TORCH_MALLOC, TORCH_SOUND);
    assert_int_equal(open_it(f), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        cuda_ipc_torch_close(f->torch);
        _exit(0);
    }
    assert_true(waitpid(pid, &status, 0) == pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    expect_counters(f, 1);
    expect_layers(f);
    cuda_ipc_torch_close(f->torch);
    expect_counters(f, 0);
    torch_peer_end(&f->peer);
}

/* ---- counters that are not there ---- */

static void test_missing_counters_are_told_once(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 2; i++) {
        start(f, TORCH_MALLOC, TORCH_NO_COUNTERS);
        assert_int_equal(open_it(f), 0);
        expect_layers(f);
        cuda_ipc_torch_close(f->torch);
        assert_int_equal(torch_peer_counter(&f->peer, 0), INT64_MIN);
        torch_peer_end(&f->peer);
    }
    assert_int_equal(f->warnings, 1);
}

static void test_each_wrapper_counts_once(void **state)
{
    struct fixture *f = *state;

    start(f, TORCH_MALLOC, TORCH_TWO_USERS);
    assert_int_equal(open_it(f), 0);
    expect_counters(f, 2);
    cuda_ipc_torch_close(f->torch);
    expect_counters(f, 1);
    torch_peer_end(&f->peer);
}

static void test_counters_never_fall_below_zero(void **state)
{
    struct fixture *f = *state;

    start(f, TORCH_MALLOC, TORCH_COUNTED);
    assert_int_equal(open_it(f), 0);
    assert_int_equal(f->warnings, 1);
    cuda_ipc_torch_close(f->torch);
    expect_counters(f, 0);
    torch_peer_end(&f->peer);
}

/* ---- what is refused ---- */

static void test_faults(void **state)
{
    static const struct {
        enum torch_kind kind;
        enum torch_fault fault;
        int error;
        const char *says;
        uint32_t opened; /* layers, and so counters that fall */
    } cases[] = {
        {TORCH_MALLOC, TORCH_OTHER_UUID, -ENODEV, "GPU-", 0},
        {TORCH_MALLOC, TORCH_ODD_UUID, -ENODEV, "device", 0},
        {TORCH_MALLOC, TORCH_OTHER_LAYOUT, -ENOTSUP, "layer 3 has another layout", 0},
        {TORCH_MALLOC, TORCH_OTHER_PROCESS, -ENOTSUP, "another process", 0},
        {TORCH_MALLOC, TORCH_TOO_LONG, -EBADMSG, "layer 3 ends", 4},
        {TORCH_MALLOC, TORCH_BAD_EVENT, -EINVAL, "cuIpcOpenEventHandle", 3},
        {TORCH_EXPANDABLE, TORCH_OTHER_PID, -EBADMSG, "different processes", 3},
        {TORCH_EXPANDABLE, TORCH_BAD_FD, -ESTALE, "closed", 3},
        {TORCH_EXPANDABLE, TORCH_FABRIC, -ENOTSUP, "expandable_segments:False", 3},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int r;

        f->torch = NULL;
        start(f, cases[i].kind, cases[i].fault);
        r = open_it(f);
        if (cases[i].kind == TORCH_EXPANDABLE && r == -EACCES) {
            print_message("%s\n", f->err.text);
            torch_peer_end(&f->peer);
            continue;
        }
        assert_int_equal(r, cases[i].error);
        assert_null(f->torch);
        assert_non_null(strstr(f->err.text, cases[i].says));
        assert_int_equal(imports(f), 0);
        for (uint32_t l = 0; l < LAYERS; l++) {
            assert_int_equal(torch_peer_counter(&f->peer, l), l < cases[i].opened ? 0 : 1);
        }
        torch_peer_end(&f->peer);
    }
}

static void test_calls_may_fail(void **state)
{
    static const struct {
        enum torch_kind kind;
        const char *rule;
        int error;
    } cases[] = {
        {TORCH_MALLOC, "cuIpcOpenMemHandle=201:1", -EACCES},
        {TORCH_MALLOC, "cuIpcOpenEventHandle=205:3", -EIO},
        {TORCH_MALLOC, "cuEventQuery=700:2", -EIO},
        {TORCH_EXPANDABLE, "cuMemImportFromShareableHandle=1:2", -EINVAL},
        {TORCH_EXPANDABLE, "cuMemSetAccess=999:2", -EIO},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int r;

        start(f, cases[i].kind, TORCH_SOUND);
        f->rig.control->fail_calls(cases[i].rule);
        r = open_it(f);
        assert_true(r == cases[i].error || (cases[i].kind == TORCH_EXPANDABLE && r == -EACCES));
        assert_int_equal(imports(f), 0);
        f->rig.control->fail_calls(NULL);
        torch_peer_end(&f->peer);
    }
}

static void test_bytes_that_are_no_message(void **state)
{
    struct fixture *f = *state;
    uint8_t none[] = {0x90};

    start(f, TORCH_MALLOC, TORCH_SOUND);
    for (uint64_t length = 0; length < f->peer.length; length++) {
        uint8_t *cut = malloc(length + 1); /* so that a byte too many is noticed */

        assert_non_null(cut);
        memcpy(cut, f->peer.message, length);
        assert_true(cuda_ipc_torch_open(&f->env, cut, length, &f->torch, &f->err) < 0);
        free(cut);
    }
    assert_int_equal(cuda_ipc_torch_open(&f->env, none, sizeof(none), &f->torch, &f->err),
                     -EBADMSG);
    assert_int_equal(imports(f), 0);
    expect_counters(f, 1);
    torch_peer_end(&f->peer);
}

/* ---- descriptors that may not be taken over ---- */

/* As containers do it. For the child only. */
static int forbid(uint32_t call, uint32_t error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {.len = sizeof(filter) / sizeof(filter[0]), .filter = filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int fetch_forbidden(const struct kvl_ipc_handle *handle, uint32_t call, uint32_t error,
                           int wanted, const char *says)
{
    struct cuda_ipc_segment_source source = {.ipc = &kvl_ipc_table, .handle = handle, .pidfd = -1};
    struct kvl_err err = {.size = sizeof(err)};
    int fd = -1;
    int r;

    cuda_ipc_who_self(&source.who);
    if (!forbid(call, error)) {
        return 77;
    }
    r = cuda_ipc_segment_fetch(&source, 0, &fd, &err);
    cuda_ipc_segment_done(&source);
    return r == wanted && strstr(err.text, says) != NULL && fd == -1 ? 0 : 1;
}

static void test_no_right_to_descriptors(void **state)
{
    static const struct {
        uint32_t call;
        uint32_t error;
        int wanted;
        const char *says;
    } cases[] = {
        {SYS_pidfd_getfd, EPERM, -EACCES, "expandable_segments:False"},
        {SYS_pidfd_getfd, ENOSYS, -ENOTSUP, "expandable_segments:False"},
        {SYS_pidfd_open, EPERM, -EACCES, "ptrace"},
        {SYS_pidfd_open, ESRCH, -ESRCH, "PID namespace"},
    };
    const int32_t zero = 0;
    const struct kvl_ipc_handle handle = {
        .kind = KVL_IPC_HANDLE_FDS,
        .item_bytes = sizeof(zero),
        .count = 1,
        .segment_bytes = TORCH_SEGMENT,
        .items = {&zero, sizeof(zero)},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status = -1;
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
            _exit(fetch_forbidden(&handle, cases[i].call, cases[i].error, cases[i].wanted,
                                  cases[i].says));
        }
        assert_true(waitpid(pid, &status, 0) == pid);
        assert_true(WIFEXITED(status));
        assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77);
    }
}

/* The pid was given again since the handle was made. */
static void test_another_process_of_that_pid(void **state)
{
    const int32_t zero = 0;
    const struct kvl_ipc_handle handle = {
        .kind = KVL_IPC_HANDLE_FDS,
        .item_bytes = sizeof(zero),
        .count = 1,
        .segment_bytes = TORCH_SEGMENT,
        .items = {&zero, sizeof(zero)},
    };
    struct cuda_ipc_segment_source source = {.ipc = &kvl_ipc_table, .handle = &handle, .pidfd = -1};
    struct kvl_err err = {.size = sizeof(err)};
    int fd = -1;

    (void)state;
    cuda_ipc_who_self(&source.who);
    source.who.start_time--;
    assert_int_equal(cuda_ipc_segment_fetch(&source, 0, &fd, &err), -ESRCH);
    cuda_ipc_segment_done(&source);
    assert_int_equal(fd, -1);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {{TORCH_PEER, torch_peer_run}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_layers_of_one_allocation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_expandable_segments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_waits_for_the_writes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_producer_killed_while_in_use, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_child_of_a_fork_gives_nothing_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_missing_counters_are_told_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_each_wrapper_counts_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_counters_never_fall_below_zero, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_faults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_calls_may_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bytes_that_are_no_message, set_up, tear_down),
        cmocka_unit_test(test_no_right_to_descriptors),
        cmocka_unit_test(test_another_process_of_that_pid),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
