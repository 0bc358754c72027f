/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What cuda_ipc makes of a GPU: chunks of an 8B model (256 tokens, [2][32 layers][256][2 KiB],
 * 32 MiB) between pages of 16, 64 and 256 tokens and contiguous memory, on the device and to the
 * host, beside one plain copy of the driver with the same bytes; what it costs to map the memory of
 * another process; and a load out of another engine's memory through the plugin, beside torch's own
 * CUDA IPC. Everything is measured in turns in one run, and the bytes are checked.
 *
 * The last line holds for method auto and the page size that comes off worst. Without a GPU the
 * program says so and exits with 77. KVL_TEST_CUDA_DRIVER names another driver, such as the fake
 * of tests/support: then everything runs once, and the figures say nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "cuda_ipc_export.h"
#include "cuda_ipc_map.h"
#include "cuda_torch.h"
#include "gpu_engine.h"
#include "gpu_ours.h"

#define VIEWS 3u
#define DEVICE_CHUNKS 64u /* of a round */
#define HOST_CHUNKS 16u
#define LOADS 64u
#define CHECKED_CHUNKS 2u
#define IMPORT_HITS 200000u
#define IMPORT_MISSES 20u
#define SHARED_BYTES (64u << 20) /* of the allocation that is mapped */
#define SALT 0x5eed000000000000u
#define CASES (1 + VIEWS * CUDA_IPC_METHODS)

static const uint32_t page_sizes[VIEWS] = {16, 64, 256};
static const char *const method_names[CUDA_IPC_METHODS] = {"auto", "kernel", "batch", "loop"};

static struct {
    struct gpu_rig rig;
    struct gpu_ours ours;
    struct gpu_pages pages;
    struct gpu_view views[VIEWS];
    struct cuda_ipc_kv *kvs[VIEWS];
    cuda_ptr flat[GPU_RIG_CHUNKS]; /* chunks in one piece each */
    cuda_ptr other[GPU_RIG_CHUNKS]; /* where the plain copy puts them */
    void *host[GPU_RIG_CHUNKS];
    uint64_t wrong; /* words that came out different */
} all;

/* ---- copies ---- */

struct move {
    uint32_t view;
    enum cuda_ipc_method method;
    int is_gather;
    int is_host;
    char text[64];
};

static struct gpu_flat flat_of(const struct move *move)
{
    struct gpu_flat flat = {.addrs = all.flat};

    if (move->is_host) {
        flat = (struct gpu_flat){.hosts = all.host};
    }
    return flat;
}

static void run_move(void *ctx, uint64_t n)
{
    const struct move *move = ctx;
    const struct gpu_flat flat = flat_of(move);

    gpu_ours_move(&all.ours, move->method, &all.views[move->view], all.kvs[move->view], &flat,
                  move->is_gather, n);
}

/* One plain copy per chunk, all queued and then waited for. */
static void run_plain(void *ctx, uint64_t n)
{
    const struct move *move = ctx;
    const uint64_t bytes = gpu_rig_chunk_bytes(&all.rig);
    const struct cuda_ipc_api *api = &all.rig.api;

    for (uint64_t i = 0; i < n; i++) {
        const uint32_t at = i % GPU_RIG_CHUNKS;
        cuda_result code;

        if (!move->is_host) {
            code = api->memcpy_dtod_async(all.other[at], all.flat[at], bytes, all.rig.stream);
        } else if (move->is_gather) {
            code = api->memcpy_dtoh_async(all.host[at], all.flat[at], bytes, all.rig.stream);
        } else {
            code = api->memcpy_htod_async(all.flat[at], all.host[at], bytes, all.rig.stream);
        }
        gpu_rig_check(&all.rig, "cuMemcpyAsync", code);
    }
    gpu_rig_wait(&all.rig);
}

/* There and back by one method must give what was there before. */
static void check_move(const struct move *move)
{
    const struct gpu_view *view = &all.views[move->view];
    struct move there = *move;
    struct move back = *move;

    if (!move->is_gather) {
        return;
    }
    back.is_gather = 0;
    for (uint32_t i = 0; i < CHECKED_CHUNKS; i++) {
        gpu_view_fill(&all.rig, view, i, SALT + move->method);
    }
    run_move(&there, CHECKED_CHUNKS);
    for (uint32_t i = 0; i < CHECKED_CHUNKS; i++) {
        gpu_view_fill(&all.rig, view, i, 0);
    }
    run_move(&back, CHECKED_CHUNKS);
    for (uint32_t i = 0; i < CHECKED_CHUNKS; i++) {
        all.wrong += gpu_view_differs(&all.rig, view, i, SALT + move->method);
    }
}

/* Measures one direction. @return the worst of the page sizes with method auto, plain = 1. */
static double measure(const struct bench *bench, int is_gather, int is_host, const char *name)
{
    static struct move moves[CASES];
    static struct bench_case cases[CASES];
    const uint64_t bytes = gpu_rig_chunk_bytes(&all.rig);
    double worst = -1;

    for (uint32_t i = 0; i < CASES; i++) {
        struct move *move = &moves[i];

        *move = (struct move){.is_gather = is_gather, .is_host = is_host};
        if (i == 0) {
            (void)snprintf(move->text, sizeof(move->text), "%s, plain copy", name);
        } else {
            move->view = (i - 1) / CUDA_IPC_METHODS;
            move->method = (enum cuda_ipc_method)((i - 1) % CUDA_IPC_METHODS);
            (void)snprintf(move->text, sizeof(move->text), "%s, pages of %u tokens, %s", name,
                           page_sizes[move->view], method_names[move->method]);
            check_move(move);
        }
        cases[i] = (struct bench_case){.text = move->text,
                                       .fn = i == 0 ? run_plain : run_move,
                                       .ctx = move,
                                       .n = is_host ? HOST_CHUNKS : DEVICE_CHUNKS};
    }
    bench_run(bench, cases, CASES, 0);
    for (uint32_t i = 0; i < CASES; i++) {
        const double ratio = cases[0].ns / cases[i].ns;

        printf("%-52s %8.2f GB/s %8.2f of the plain copy\n", cases[i].text,
               (double)bytes / cases[i].ns, ratio);
        if (i > 0 && moves[i].method == CUDA_IPC_AUTO && (worst < 0 || ratio < worst)) {
            worst = ratio;
        }
    }
    printf("\n");
    return worst;
}

static void copies_init(void)
{
    const uint64_t bytes = gpu_rig_chunk_bytes(&all.rig);
    cuda_ptr flat = gpu_rig_alloc(&all.rig, GPU_RIG_CHUNKS * bytes);
    cuda_ptr other = gpu_rig_alloc(&all.rig, GPU_RIG_CHUNKS * bytes);
    uint8_t *host = aligned_alloc(4096, GPU_RIG_CHUNKS * bytes);

    if (host == NULL) {
        gpu_rig_die("no memory", -ENOMEM);
    }
    memset(host, 1, GPU_RIG_CHUNKS * bytes);
    gpu_ours_open(&all.ours, &all.rig);
    gpu_ours_pin(&all.ours, host, GPU_RIG_CHUNKS * bytes);
    gpu_pages_init(&all.rig, &all.pages);
    for (uint32_t i = 0; i < GPU_RIG_CHUNKS; i++) {
        all.flat[i] = flat + i * bytes;
        all.other[i] = other + i * bytes;
        all.host[i] = host + i * bytes;
    }
    for (uint32_t i = 0; i < VIEWS; i++) {
        gpu_view_init(&all.rig, &all.pages, page_sizes[i], &all.views[i]);
        all.kvs[i] = gpu_ours_kv(&all.ours, &all.views[i]);
    }
}

static void copies_fini(void)
{
    for (uint32_t i = 0; i < VIEWS; i++) {
        cuda_ipc_kv_put(&all.ours.kvs, all.kvs[i]);
    }
    gpu_ours_close(&all.ours);
    gpu_pages_fini(&all.rig, &all.pages);
    gpu_rig_free(&all.rig, all.flat[0]);
    gpu_rig_free(&all.rig, all.other[0]);
    free(all.host[0]);
}

/* ---- the memory of another process ---- */

struct import {
    struct cuda_ipc_map *map;
    struct cuda_ipc_share share;
};

static void import_once(struct import *import)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_ref ref;
    int r = cuda_ipc_map_acquire(import->map, &all.rig.place, &import->share, -1, &ref, &err);

    if (r < 0) {
        fprintf(stderr, "bench_cuda_ipc: %s\n", err.text);
        gpu_rig_die("import", r);
    }
    cuda_ipc_map_release(&ref);
}

static void import_open(struct import *import)
{
    struct kvl_err err = {.size = sizeof(err)};
    int r = cuda_ipc_map_open(&all.rig.api, 0, 0, &import->map, &err);

    if (r < 0) {
        fprintf(stderr, "bench_cuda_ipc: %s\n", err.text);
        gpu_rig_die("import", r);
    }
}

static void run_hit(void *ctx, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        import_once(ctx);
    }
}

/* The last one who takes part closes every mapping, so that the next import opens anew. */
static void run_miss(void *ctx, uint64_t n)
{
    struct import *import = ctx;

    for (uint64_t i = 0; i < n; i++) {
        import_open(import);
        import_once(import);
        cuda_ipc_map_close(import->map);
    }
}

static void run_raw_open(void *ctx, uint64_t n)
{
    const struct import *import = ctx;
    struct cuda_ipc_mem_handle handle;

    memcpy(handle.bytes, import->share.handle, sizeof(handle.bytes));
    for (uint64_t i = 0; i < n; i++) {
        cuda_ptr base = 0;

        gpu_rig_check(&all.rig, "cuIpcOpenMemHandle",
                      all.rig.api.ipc_open_mem_handle(&base, handle, CUDA_IPC_LAZY_PEER_ACCESS));
        gpu_rig_check(&all.rig, "cuIpcCloseMemHandle", all.rig.api.ipc_close_mem_handle(base));
    }
}

static void measure_imports(struct bench *bench)
{
    struct import import = {0};
    struct bench_case misses[] = {
        {.text = "open and close by the driver",
         .fn = run_raw_open,
         .ctx = &import,
         .n = IMPORT_MISSES},
        {.text = "import, not mapped", .fn = run_miss, .ctx = &import, .n = IMPORT_MISSES},
    };
    struct bench_case hit = {
        .text = "import, mapped already", .fn = run_hit, .ctx = &import, .n = IMPORT_HITS};
    int fd;
    const pid_t pid = gpu_rig_spawn("export", &fd);

    gpu_rig_receive(fd, &import.share, sizeof(import.share));
    if (import.share.type != CUDA_IPC_SHARE_LEGACY) {
        printf("imports: legacy IPC does not work here, not measured\n\n");
        bench_add(bench, "import_hit_us", -1);
        bench_add(bench, "import_miss_us", -1);
    } else {
        bench_run(bench, misses, 2, 0);
        import_open(&import);
        bench_run(bench, &hit, 1, 0);
        cuda_ipc_map_close(import.map);
        bench_add(bench, "import_hit_us", hit.ns / 1e3);
        bench_add(bench, "import_miss_us", misses[1].ns / 1e3);
    }
    gpu_rig_reap(pid, fd);
}

/* The process whose memory is mapped. */
static int peer_export(void)
{
    static struct gpu_rig rig;
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_export *export = NULL;
    struct cuda_ipc_share share = {0};
    char end;

    gpu_rig_open(&rig, 1);
    if (cuda_ipc_export_create(&rig.place, SHARED_BYTES, CUDA_IPC_EXPORT_LEGACY, &export, &err) <
        0) {
        fprintf(stderr, "bench_cuda_ipc: %s\n", err.text);
    } else {
        share = *cuda_ipc_export_share(export);
    }
    gpu_rig_send(3, &share, sizeof(share));
    (void)read(3, &end, 1); /* until the other one is done with it */
    cuda_ipc_export_destroy(export);
    gpu_rig_close(&rig);
    return 0;
}

/* ---- a load out of another engine's memory ---- */

static void run_load(void *ctx, uint64_t n)
{
    struct gpu_engine *engine = ctx;

    while (n > 0) {
        const uint32_t count = n < GPU_RIG_CHUNKS ? (uint32_t)n : GPU_RIG_CHUNKS;
        const int r = gpu_engine_load(engine, count);

        if (r != (int)count || engine->location[0] < KVL_LOCATION_BACKEND) {
            gpu_rig_die("a load does not come out of the other engine's memory", r < 0 ? r : 0);
        }
        n -= count;
    }
}

/* The other engine saves; this one finds it. */
static void engines_start(struct gpu_engine *engine, struct gpu_remote *remote)
{
    struct gpu_engine_setup setup = {
        .layers = all.rig.layers, .page = page_sizes[0], .pool_chunks = 2 * GPU_RIG_CHUNKS};
    const struct gpu_order fill = {.op = GPU_ORDER_FILL, .count = GPU_RIG_CHUNKS, .salt = SALT};
    const struct gpu_order save = {.op = GPU_ORDER_SAVE, .count = GPU_RIG_CHUNKS};
    struct gpu_answer answer;

    gpu_remote_start(remote, &setup, &answer);
    setup.pool_chunks = 0;
    (void)snprintf(setup.peers, sizeof(setup.peers), "%s", answer.address);
    if (gpu_remote_order(remote, &fill, &answer) < 0 ||
        gpu_remote_order(remote, &save, &answer) < 0 || answer.r != (int)GPU_RIG_CHUNKS) {
        gpu_rig_die("the other engine cannot save", 0);
    }
    gpu_engine_open(engine, &all.rig, &setup, NULL);
    if (gpu_engine_await(engine, "cuda_ipc_peer_links", 1) < 0) {
        gpu_rig_die("the engines do not find each other", 0);
    }
}

static uint64_t loaded_differ(struct gpu_engine *engine)
{
    uint64_t wrong = 0;

    for (uint32_t i = 0; i < GPU_RIG_CHUNKS; i++) {
        gpu_view_fill(&all.rig, &engine->view, i, 0);
    }
    run_load(engine, GPU_RIG_CHUNKS);
    for (uint32_t i = 0; i < GPU_RIG_CHUNKS; i++) {
        wrong += gpu_view_differs(&all.rig, &engine->view, i, SALT);
    }
    return wrong;
}

static void run_torch(void *ctx, uint64_t n)
{
    if (cuda_torch_move(ctx, n) < 0) {
        gpu_rig_die("torch is gone", 0);
    }
}

static void measure_loads(struct bench *bench)
{
    static struct gpu_engine engine;
    struct cuda_torch torch;
    struct bench_case cases[3];
    uint32_t count = 2;
    struct move plain = {0};
    struct gpu_remote remote;

    engines_start(&engine, &remote);
    all.wrong += loaded_differ(&engine);
    cases[0] = (struct bench_case){
        .text = "plain copy on the device", .fn = run_plain, .ctx = &plain, .n = LOADS};
    cases[1] = (struct bench_case){.text = "load by the plugin out of another process, pages of 16",
                                   .fn = run_load,
                                   .ctx = &engine,
                                   .n = LOADS};
    if (cuda_torch_start(&torch, gpu_rig_chunk_bytes(&all.rig), GPU_RIG_CHUNKS) == 0) {
        cases[count++] = (struct bench_case){
            .text = "torch: share and copy, one piece", .fn = run_torch, .ctx = &torch, .n = LOADS};
    } else {
        printf("torch: not there (%s)\n\n", torch.text);
    }
    bench_run(bench, cases, count, 0);
    for (uint32_t i = 0; i < count; i++) {
        printf("%-52s %8.2f GB/s\n", cases[i].text,
               (double)gpu_rig_chunk_bytes(&all.rig) / cases[i].ns);
    }
    printf("\n");
    gpu_engine_close(&engine);
    gpu_remote_end(&remote);
    if (count > 2) {
        run_torch(&torch, GPU_RIG_CHUNKS);
        if (cuda_torch_check(&torch) < 0) {
            gpu_rig_die("what torch brought over is wrong", 0);
        }
    }
    cuda_torch_stop(&torch);
    bench_add(bench, "torch_ratio", count > 2 ? cases[2].ns / cases[1].ns : -1);
}

/* ---- */

int main(int argc, char **argv)
{
    struct bench bench;
    char text[512];
    double d2h;
    double h2d;

    if (argc == 3 && strcmp(argv[1], "--peer") == 0) {
        return strcmp(argv[2], "export") == 0 ? peer_export() : gpu_engine_serve();
    }
    bench_init(&bench, "cuda_ipc", argc, argv);
    gpu_rig_open(&all.rig, bench.quick ? GPU_RIG_LAYERS_QUICK : GPU_RIG_LAYERS_MAX);
    copies_init();
    printf("device: %s, driver %d.%d%s%s\n", all.rig.name, all.rig.api.version / 1000,
           all.rig.api.version % 1000 / 10, all.rig.driver != NULL ? ", of " : "",
           all.rig.driver != NULL ? all.rig.driver : "");
    gpu_ours_describe(&all.ours, text, sizeof(text));
    printf("copies: %s\n\n", text);
    if (all.rig.driver != NULL) {
        printf("another driver than the system's: the figures say nothing\n\n");
    }
    bench_add(&bench, "gather_vs_d2d", measure(&bench, 1, 0, "gather"));
    bench_add(&bench, "scatter_vs_d2d", measure(&bench, 0, 0, "scatter"));
    d2h = measure(&bench, 1, 1, "device to host");
    h2d = measure(&bench, 0, 1, "host to device");
    printf("host to device against one pinned copy, worst page size: %.2f\n\n", h2d);
    bench_add(&bench, "d2h_vs_pinned", d2h);
    measure_imports(&bench);
    measure_loads(&bench);
    copies_fini();
    gpu_rig_close(&all.rig);
    if (all.wrong != 0) {
        fprintf(stderr, "bench_cuda_ipc: %llu words are wrong\n", (unsigned long long)all.wrong);
    }
    return bench_end(&bench) | (all.wrong != 0);
}
