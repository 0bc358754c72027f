/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CACHE_TOKENS (GPU_RIG_CHUNKS * GPU_RIG_CHUNK_TOKENS)
#define PLANE_BYTES ((uint64_t)CACHE_TOKENS * GPU_RIG_TOKEN_BYTES) /* of one layer */
#define SERIES_WORDS (GPU_RIG_CHUNK_TOKENS * GPU_RIG_TOKEN_BYTES / sizeof(uint64_t))

void gpu_rig_die(const char *what, int r)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what,
            r == 0 ? "failed" : strerror(-r));
    exit(1);
}

void gpu_rig_check(const struct gpu_rig *rig, const char *call, cuda_result code)
{
    char text[CUDA_IPC_TEXT_MAX];

    if (code != CUDA_OK) {
        fprintf(stderr, "%s: %s\n", program_invocation_short_name,
                cuda_ipc_api_explain(&rig->api, call, code, text, sizeof(text)));
        exit(1);
    }
}

void gpu_rig_open(struct gpu_rig *rig, uint32_t layers)
{
    struct kvl_err err = {.size = sizeof(err)};
    const struct cuda_ipc_api *api = &rig->api;
    void *stage = NULL;

    *rig = (struct gpu_rig){.driver = getenv(GPU_RIG_DRIVER_ENV), .layers = layers};
    if (cuda_ipc_api_open(rig->driver, &rig->api, &err) < 0) {
        printf("skipped, there is no GPU: %s\n", err.text);
        exit(GPU_RIG_SKIP);
    }
    rig->place.api = api;
    gpu_rig_check(rig, "cuDeviceGet", api->device_get(&rig->place.device, 0));
    gpu_rig_check(rig, "cuDeviceGetName",
                  api->device_get_name(rig->name, (int)sizeof(rig->name), rig->place.device));
    gpu_rig_check(rig, "cuDeviceGetUuid",
                  api->device_get_uuid(&rig->place.uuid, rig->place.device));
    gpu_rig_check(rig, "cuDevicePrimaryCtxRetain",
                  api->device_primary_ctx_retain(&rig->place.context, rig->place.device));
    gpu_rig_check(rig, "cuCtxSetCurrent", api->ctx_set_current(rig->place.context));
    gpu_rig_check(rig, "cuStreamCreate",
                  api->stream_create_with_priority(&rig->stream, CUDA_STREAM_NON_BLOCKING, 0));
    gpu_rig_check(rig, "cuMemHostAlloc",
                  api->mem_host_alloc(&stage, gpu_rig_chunk_bytes(rig), CUDA_HOST_PORTABLE));
    rig->stage = stage;
}

void gpu_rig_close(struct gpu_rig *rig)
{
    gpu_rig_check(rig, "cuMemFreeHost", rig->api.mem_free_host(rig->stage));
    gpu_rig_check(rig, "cuStreamDestroy", rig->api.stream_destroy(rig->stream));
    gpu_rig_check(rig, "cuDevicePrimaryCtxRelease",
                  rig->api.device_primary_ctx_release(rig->place.device));
}

uint64_t gpu_rig_chunk_bytes(const struct gpu_rig *rig)
{
    return (uint64_t)GPU_RIG_PLANES * rig->layers * GPU_RIG_CHUNK_TOKENS * GPU_RIG_TOKEN_BYTES;
}

cuda_ptr gpu_rig_alloc(struct gpu_rig *rig, uint64_t bytes)
{
    cuda_ptr memory = 0;

    gpu_rig_check(rig, "cuMemAlloc", rig->api.mem_alloc(&memory, bytes));
    return memory;
}

void gpu_rig_free(struct gpu_rig *rig, cuda_ptr memory)
{
    gpu_rig_check(rig, "cuMemFree", rig->api.mem_free(memory));
}

void gpu_rig_wait(struct gpu_rig *rig)
{
    gpu_rig_check(rig, "cuStreamSynchronize", rig->api.stream_synchronize(rig->stream));
}

/* ---- paged KV caches ---- */

void gpu_pages_init(struct gpu_rig *rig, struct gpu_pages *pages)
{
    for (uint32_t i = 0; i < rig->layers; i++) {
        pages->layers[i] = gpu_rig_alloc(rig, GPU_RIG_PLANES * PLANE_BYTES);
    }
}

void gpu_pages_fini(struct gpu_rig *rig, struct gpu_pages *pages)
{
    for (uint32_t i = 0; i < rig->layers; i++) {
        gpu_rig_free(rig, pages->layers[i]);
    }
}

/* The same order in every run: figures of two runs are of the same work. */
static void blocks_shuffle(uint32_t *blocks, uint32_t count)
{
    uint64_t draw = 0x6b766c616e65u;

    for (uint32_t i = 0; i < count; i++) {
        blocks[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        uint32_t other;
        uint32_t block = blocks[i];

        draw = draw * 6364136223846793005u + 1442695040888963407u;
        other = (uint32_t)((draw >> 33) % (i + 1));
        blocks[i] = blocks[other];
        blocks[other] = block;
    }
}

void gpu_view_init(const struct gpu_rig *rig, const struct gpu_pages *pages, uint32_t page,
                   struct gpu_view *view)
{
    view->pages = pages;
    view->page = page;
    view->kv = (struct kvl_kv){
        .size = sizeof(view->kv),
        .mem = KVL_MEM_CUDA,
        .device = rig->place.ordinal,
        .layers = rig->layers,
        .planes = GPU_RIG_PLANES,
        .block_tokens = page,
        .block_count = CACHE_TOKENS / page,
        .token_bytes = GPU_RIG_TOKEN_BYTES,
        .token_stride = GPU_RIG_TOKEN_BYTES,
        .block_stride = (uint64_t)page * GPU_RIG_TOKEN_BYTES,
        .bases = view->bases,
    };
    for (uint32_t i = 0; i < GPU_RIG_PLANES * rig->layers; i++) {
        view->bases[i] = pages->layers[i % rig->layers] + i / rig->layers * PLANE_BYTES;
    }
    blocks_shuffle(view->blocks, CACHE_TOKENS / page);
    for (uint32_t i = 0; i <= GPU_RIG_CHUNKS; i++) {
        view->block_first[i] = i * (GPU_RIG_CHUNK_TOKENS / page);
    }
}

/* What a word of a chunk is: the words go through all tokens of one plane of one layer after the
 * other. */
static uint64_t word_of(uint32_t chunk, uint64_t i, uint64_t salt)
{
    return salt + ((uint64_t)chunk << 48 | i / SERIES_WORDS << 32 | i % SERIES_WORDS);
}

/* Copies a chunk's words of one plane of one layer between `stage` and its blocks. */
static void series_move(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk,
                        uint32_t series, int is_put)
{
    const uint64_t bytes = view->kv.block_stride;
    uint8_t *host = (uint8_t *)(rig->stage + series * SERIES_WORDS);

    for (uint32_t i = view->block_first[chunk]; i < view->block_first[chunk + 1]; i++) {
        const cuda_ptr at = view->bases[series] + view->blocks[i] * bytes;

        if (is_put) {
            gpu_rig_check(rig, "cuMemcpyHtoDAsync",
                          rig->api.memcpy_htod_async(at, host, bytes, rig->stream));
        } else {
            gpu_rig_check(rig, "cuMemcpyDtoHAsync",
                          rig->api.memcpy_dtoh_async(host, at, bytes, rig->stream));
        }
        host += bytes;
    }
}

static uint64_t series_differs(const struct gpu_rig *rig, uint32_t chunk, uint32_t series,
                               uint64_t salt)
{
    uint64_t differ = 0;

    for (uint64_t i = series * SERIES_WORDS; i < (series + 1) * SERIES_WORDS; i++) {
        differ += rig->stage[i] != word_of(chunk, i, salt);
    }
    return differ;
}

void gpu_view_fill(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk, uint64_t salt)
{
    for (uint64_t i = 0; i < gpu_rig_chunk_bytes(rig) / sizeof(*rig->stage); i++) {
        rig->stage[i] = word_of(chunk, i, salt);
    }
    for (uint32_t series = 0; series < GPU_RIG_PLANES * rig->layers; series++) {
        series_move(rig, view, chunk, series, 1);
    }
    gpu_rig_wait(rig);
}

uint64_t gpu_view_layer_differs(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk,
                                uint32_t layer, uint64_t salt)
{
    uint64_t differ = 0;

    memset(rig->stage, 0, gpu_rig_chunk_bytes(rig));
    for (uint32_t plane = 0; plane < GPU_RIG_PLANES; plane++) {
        series_move(rig, view, chunk, plane * rig->layers + layer, 0);
    }
    gpu_rig_wait(rig);
    for (uint32_t plane = 0; plane < GPU_RIG_PLANES; plane++) {
        differ += series_differs(rig, chunk, plane * rig->layers + layer, salt);
    }
    return differ;
}

uint64_t gpu_view_differs(struct gpu_rig *rig, const struct gpu_view *view, uint32_t chunk,
                          uint64_t salt)
{
    uint64_t differ = 0;

    for (uint32_t layer = 0; layer < rig->layers; layer++) {
        differ += gpu_view_layer_differs(rig, view, chunk, layer, salt);
    }
    return differ;
}

/* ---- other processes ---- */

pid_t gpu_rig_spawn(const char *word, int *fd_out)
{
    const pid_t parent = getpid();
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        gpu_rig_die("socketpair", -errno);
    }
    (void)fflush(NULL);
    pid = fork();
    if (pid == 0) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || dup2(pair[1], 3) < 0 ||
            fcntl(3, F_SETFD, 0) < 0) {
            _exit(127);
        }
        (void)execl("/proc/self/exe", program_invocation_short_name, "--peer", word, (char *)NULL);
        _exit(127);
    }
    close(pair[1]);
    if (pid < 0) {
        gpu_rig_die("fork", -errno);
    }
    *fd_out = pair[0];
    return pid;
}

void gpu_rig_reap(pid_t pid, int fd)
{
    int status = 0;

    close(fd);
    if (waitpid(pid, &status, 0) != pid || status != 0) {
        gpu_rig_die("another process did not end well", 0);
    }
}

void gpu_rig_send(int fd, const void *data, size_t size)
{
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) {
        gpu_rig_die("cannot reach another process", 0);
    }
}

void gpu_rig_receive(int fd, void *data, size_t size)
{
    if (recv(fd, data, size, MSG_WAITALL) != (ssize_t)size) {
        gpu_rig_die("another process is gone", 0);
    }
}
