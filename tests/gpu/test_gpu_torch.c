/* SPDX-License-Identifier: Apache-2.0 */
/*
 * torch's memory as an engine's KV cache: a process of Python has tensors on a GPU and tells of
 * them by a KVCache. An engine here registers it and saves; another process loads the chunks,
 * changes and saves them, and they come back into the tensors.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "gpu_engine.h"

#define LAYERS 3u
#define PAGE 16u
#define BLOCKS (GPU_RIG_CHUNKS * GPU_RIG_CHUNK_TOKENS / PAGE)
#define COUNT 5u
#define ALL ((1u << COUNT) - 1)
#define SALT 0x1000000000000000u
#define OTHER 0x2000000000000000u
#define KVCACHE_MAX (1u << 20)

struct torch {
    pid_t pid;
    FILE *in;
    FILE *out;
    uint8_t *kvcache;
    size_t kvcache_bytes;
};

static struct gpu_rig rig;
static struct torch torch;

static const char *torch_python(void)
{
    const char *python = getenv("KVLANE_TORCH_PYTHON");

    if (python != NULL) {
        return python;
    }
    return access(KVL_VENV_PYTHON, X_OK) == 0 ? KVL_VENV_PYTHON : "python3";
}

static void torch_exec(int fd, pid_t parent)
{
    char numbers[4][16];
    const uint32_t values[4] = {LAYERS, BLOCKS, PAGE, GPU_RIG_CHUNK_TOKENS};

    for (int i = 0; i < 4; i++) {
        (void)snprintf(numbers[i], sizeof(numbers[i]), "%u", values[i]);
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent && dup2(fd, 0) == 0 &&
        dup2(fd, 1) == 1) {
        (void)execlp(torch_python(), torch_python(), KVL_TORCH_ENGINE, numbers[0], numbers[1],
                     numbers[2], numbers[3], (char *)NULL);
    }
    _exit(127);
}

/* @return 0; -ENOENT and a line that says why there is no torch. */
static int torch_start(void)
{
    const pid_t parent = getpid();
    char line[256];
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        gpu_rig_die("socketpair", -errno);
    }
    (void)fflush(NULL);
    torch.pid = fork();
    if (torch.pid == 0) {
        torch_exec(pair[1], parent);
    }
    close(pair[1]);
    torch.in = fdopen(pair[0], "r");
    torch.out = fdopen(fcntl(pair[0], F_DUPFD_CLOEXEC, 3), "w");
    torch.kvcache = malloc(KVCACHE_MAX);
    if (torch.in == NULL || torch.out == NULL || torch.kvcache == NULL) {
        gpu_rig_die("no memory", -ENOMEM);
    }
    if (fgets(line, sizeof(line), torch.in) == NULL) {
        printf("skipped: '%s' does not run\n", torch_python());
        return -ENOENT;
    }
    if (sscanf(line, "kvcache %zu", &torch.kvcache_bytes) != 1) {
        printf("skipped: %s", strncmp(line, "skip ", 5) == 0 ? line + 5 : line);
        return -ENOENT;
    }
    if (torch.kvcache_bytes > KVCACHE_MAX ||
        fread(torch.kvcache, 1, torch.kvcache_bytes, torch.in) != torch.kvcache_bytes) {
        gpu_rig_die("torch_engine.py ended too early", 0);
    }
    return 0;
}

/* @return words that are wrong. */
static uint64_t torch_ask(const char *word, uint64_t salt, const struct gpu_view *view)
{
    unsigned long long wrong;

    (void)fprintf(torch.out, "%s %llu", word, (unsigned long long)salt);
    for (uint32_t i = 0; i < view->block_first[COUNT]; i++) {
        (void)fprintf(torch.out, " %u", view->blocks[i]);
    }
    (void)fprintf(torch.out, "\n");
    assert_int_equal(fflush(torch.out), 0);
    assert_int_equal(fscanf(torch.in, "ok %llu\n", &wrong), 1);
    return wrong;
}

static void torch_end(void)
{
    (void)fclose(torch.out);
    (void)fclose(torch.in);
    (void)waitpid(torch.pid, NULL, 0);
    free(torch.kvcache);
}

static struct gpu_answer order(const struct gpu_remote *remote, enum gpu_order_op op, uint64_t salt)
{
    struct gpu_order order = {.op = op,
                              .count = COUNT,
                              .chunks = ALL,
                              .salt = salt,
                              .value = 1,
                              .name = "cuda_ipc_peer_links"};
    struct gpu_answer answer = {0};

    assert_int_equal(gpu_remote_order(remote, &order, &answer), 0);
    return answer;
}

static void test_tensors_are_saved_and_loaded(void **state)
{
    static struct gpu_engine engine;
    const struct kvl_kv kv = {.size = sizeof(kv),
                              .mem = KVL_MEM_CUDA,
                              .kvcache = torch.kvcache,
                              .kvcache_bytes = torch.kvcache_bytes};
    struct gpu_engine_setup ours = {.layers = LAYERS, .page = PAGE, .pool_chunks = COUNT + 1};
    struct gpu_engine_setup theirs = ours;
    char folder[] = "/tmp/kvl-gpu-XXXXXX";
    struct gpu_remote remote;
    struct gpu_answer answer;

    (void)state;
    assert_non_null(mkdtemp(folder));
    (void)snprintf(ours.listen, sizeof(ours.listen), "%s/a.sock", folder);
    (void)snprintf(ours.peers, sizeof(ours.peers), "%s/b.sock", folder);
    memcpy(theirs.listen, ours.peers, sizeof(theirs.listen));
    memcpy(theirs.peers, ours.listen, sizeof(theirs.peers));
    gpu_engine_open(&engine, &rig, &ours, &kv);
    gpu_remote_start(&remote, &theirs, &answer);
    assert_int_equal(order(&remote, GPU_ORDER_AWAIT, 0).r, 0);
    assert_int_equal(gpu_engine_await(&engine, "cuda_ipc_peer_links", 1), 0);

    assert_int_equal(torch_ask("fill", SALT, &engine.view), 0);
    assert_int_equal(gpu_engine_save(&engine, COUNT), COUNT);
    assert_int_equal(order(&remote, GPU_ORDER_LOAD, 0).r, COUNT);
    assert_int_equal(order(&remote, GPU_ORDER_DIFFERS, SALT).value, 0);

    assert_int_equal(gpu_engine_remove(&engine, COUNT), 0);
    (void)order(&remote, GPU_ORDER_FILL, OTHER);
    assert_int_equal(order(&remote, GPU_ORDER_SAVE, 0).r, COUNT);
    assert_int_equal(gpu_engine_load(&engine, COUNT), COUNT);
    assert_int_equal(torch_ask("check", OTHER, &engine.view), 0);

    gpu_remote_end(&remote);
    gpu_engine_close(&engine);
    (void)unlink(ours.listen);
    (void)unlink(theirs.listen);
    assert_int_equal(rmdir(folder), 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors_are_saved_and_loaded),
    };
    int failed;

    if (argc == 3 && strcmp(argv[1], "--peer") == 0) {
        return gpu_engine_serve();
    }
    gpu_rig_open(&rig, LAYERS);
    if (torch_start() < 0) {
        torch_end();
        return GPU_RIG_SKIP;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_rig_close(&rig);
    torch_end();
    return failed;
}
