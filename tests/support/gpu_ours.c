/* SPDX-License-Identifier: Apache-2.0 */
#include "gpu_ours.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <kvlane/host.h>

#include "fake_host.h"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t under_way;
    int status;
    uint64_t next_id;
    struct fake_host *host;
} jobs = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

/* The copy engine asks its host for a log and for threads only. */
static const struct kvl_backend_desc host_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .name = "bench",
};

static void open_failed(const char *what, int r, const struct kvl_err *err)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, err->text);
    gpu_rig_die(what, r);
}

void gpu_ours_open(struct gpu_ours *ours, struct gpu_rig *rig)
{
    static const char *const none[] = {NULL};
    struct kvl_err err = {.size = sizeof(err)};
    const struct kvl_host *host;
    int r;

    jobs.host = fake_host_create(&host_desc, none);
    host = fake_host_table(jobs.host);
    *ours = (struct gpu_ours){.rig = rig};
    cuda_ipc_kvs_init(&ours->kvs);
    r = cuda_ipc_devices_init(&ours->devices, &rig->api, host->log, &err);
    for (int i = 0; r == 0 && i < CUDA_IPC_METHODS; i++) {
        const struct cuda_ipc_copy_options options = {.method = (enum cuda_ipc_method)i,
                                                      .calibrate = i == CUDA_IPC_AUTO};

        r = cuda_ipc_copy_create(host, &ours->devices, &options, &ours->copies[i]);
        if (r == 0) {
            r = cuda_ipc_copy_open(ours->copies[i], rig->place.ordinal, &err);
        }
    }
    if (r < 0) {
        open_failed("the copy engine does not open", r, &err);
    }
}

void gpu_ours_close(struct gpu_ours *ours)
{
    for (int i = 0; i < CUDA_IPC_METHODS; i++) {
        cuda_ipc_copy_stop(ours->copies[i]);
        cuda_ipc_copy_destroy(ours->copies[i]);
    }
    cuda_ipc_kvs_fini(&ours->kvs);
    cuda_ipc_devices_fini(&ours->devices);
    fake_host_destroy(jobs.host);
}

struct cuda_ipc_kv *gpu_ours_kv(struct gpu_ours *ours, const struct gpu_view *view)
{
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t number = 0;
    int r = cuda_ipc_kvs_add(&ours->kvs, &ours->devices, &view->kv, &number, &err);

    if (r < 0) {
        open_failed("a KV cache is refused", r, &err);
    }
    return cuda_ipc_kv_get(&ours->kvs, number);
}

void gpu_ours_pin(struct gpu_ours *ours, void *memory, uint64_t bytes)
{
    struct kvl_err err = {.size = sizeof(err)};

    /* The first one pins it; the others find it so, and take note. */
    for (int i = 0; i < CUDA_IPC_METHODS; i++) {
        int r = cuda_ipc_copy_pin(ours->copies[i], memory, bytes, &err);

        if (r < 0 && r != -EEXIST) {
            open_failed("memory cannot be pinned", r, &err);
        }
    }
}

static void job_done(void *ctx, const struct cuda_ipc_copy_end *end)
{
    (void)ctx;
    pthread_mutex_lock(&jobs.lock);
    if (end->status != 0 && jobs.status == 0) {
        jobs.status = end->status;
    }
    jobs.under_way--;
    pthread_cond_signal(&jobs.changed);
    pthread_mutex_unlock(&jobs.lock);
}

/* Waits until at most `left` jobs are under way. */
static void jobs_wait(uint32_t left)
{
    pthread_mutex_lock(&jobs.lock);
    while (jobs.under_way > left) {
        pthread_cond_wait(&jobs.changed, &jobs.lock);
    }
    pthread_mutex_unlock(&jobs.lock);
    if (jobs.status != 0) {
        gpu_rig_die("a copy failed", jobs.status);
    }
}

static void job_submit(struct cuda_ipc_copy *copy, const struct cuda_ipc_job *job)
{
    int r;

    pthread_mutex_lock(&jobs.lock);
    jobs.under_way++;
    pthread_mutex_unlock(&jobs.lock);
    while ((r = cuda_ipc_copy_submit(copy, job)) == -EAGAIN) {
        pthread_mutex_lock(&jobs.lock);
        if (jobs.under_way > 1) {
            pthread_cond_wait(&jobs.changed, &jobs.lock);
        }
        pthread_mutex_unlock(&jobs.lock);
    }
    if (r < 0) {
        gpu_rig_die("a copy is refused", r);
    }
}

void gpu_ours_move(struct gpu_ours *ours, enum cuda_ipc_method method, const struct gpu_view *view,
                   struct cuda_ipc_kv *kv, const struct gpu_flat *flat, int is_gather, uint64_t n)
{
    const void *hosts[GPU_RIG_CHUNKS] = {NULL};
    uint64_t bytes[GPU_RIG_CHUNKS];
    struct cuda_ipc_job_side pages = {.kind = CUDA_IPC_SIDE_PAGED,
                                      .device = ours->rig->place.ordinal,
                                      .kv = kv,
                                      .blocks = view->blocks,
                                      .block_first = view->block_first};
    struct cuda_ipc_job_side whole = {.kind = flat->hosts != NULL ? CUDA_IPC_SIDE_HOST
                                                                  : CUDA_IPC_SIDE_DEVICE,
                                      .device = ours->rig->place.ordinal,
                                      .addrs = flat->addrs,
                                      .hosts = flat->hosts != NULL ? hosts : NULL};
    struct cuda_ipc_job job = {.bytes = bytes, .done = job_done};

    for (uint32_t i = 0; i < GPU_RIG_CHUNKS && i < n; i++) {
        bytes[i] = gpu_rig_chunk_bytes(ours->rig);
        hosts[i] = flat->hosts != NULL ? flat->hosts[i] : NULL;
    }
    job.src = is_gather ? pages : whole;
    job.dst = is_gather ? whole : pages;
    while (n > 0) {
        job.id = ++jobs.next_id;
        job.count = n < GPU_RIG_CHUNKS ? (uint32_t)n : GPU_RIG_CHUNKS;
        job_submit(ours->copies[method], &job);
        n -= job.count;
    }
    jobs_wait(0);
}

void gpu_ours_describe(struct gpu_ours *ours, char *text_out, size_t size)
{
    cuda_ipc_copy_describe(ours->copies[CUDA_IPC_AUTO], text_out, size);
}
