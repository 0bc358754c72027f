/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct kvl_backend_desc copy_rig_desc = {.name = "cuda_ipc"};

const void *copy_rig_image(void)
{
    static const uint32_t image[] = {0xba55ed50u, 0};

    return image;
}

struct copy_rig *copy_rig_open(const char *version, const struct cuda_ipc_copy_options *options,
                               int pinned)
{
    struct copy_rig *rig = calloc(1, sizeof(*rig));
    struct kvl_err err = {.size = sizeof(err)};
    const char *const none[] = {NULL};
    const struct kvl_host *host;

    assert_non_null(rig);
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_VERSION", version, 1), 0);
    cuda_rig_open(&rig->cuda);
    rig->fake = fake_host_create(&copy_rig_desc, none);
    host = fake_host_table(rig->fake);
    assert_int_equal(cuda_ipc_devices_init(&rig->devices, &rig->cuda.api, host->log, &err), 0);
    cuda_ipc_kvs_init(&rig->kvs);
    assert_int_equal(cuda_ipc_copy_create(host, &rig->devices, options, &rig->copy), 0);
    assert_int_equal(cuda_ipc_copy_open(rig->copy, 0, &err), 0);
    assert_int_equal(cuda_ipc_devices_open(&rig->devices, 0, &rig->device, &err), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(rig->cuda.api.mem_alloc(&rig->device_memory[i], COPY_ARENA), CUDA_OK);
        rig->host_memory[i] = aligned_alloc(4096, COPY_ARENA);
        assert_non_null(rig->host_memory[i]);
        if (pinned) {
            assert_int_equal(cuda_ipc_copy_pin(rig->copy, rig->host_memory[i], COPY_ARENA, &err),
                             0);
        }
    }
    return rig;
}

static void rig_free(struct copy_rig *rig)
{
    for (int i = 0; i < 2; i++) {
        (void)rig->cuda.api.mem_free(rig->device_memory[i]);
    }
    cuda_ipc_kvs_fini(&rig->kvs);
    cuda_ipc_copy_stop(rig->copy);
    cuda_ipc_copy_destroy(rig->copy);
    cuda_ipc_devices_fini(&rig->devices);
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    fake_host_destroy(rig->fake);
    for (int i = 0; i < 2; i++) {
        free(rig->host_memory[i]);
    }
}

void copy_rig_close(struct copy_rig *rig)
{
    rig_free(rig);
    cuda_rig_close(&rig->cuda);
    free(rig);
}

void copy_rig_close_lost(struct copy_rig *rig)
{
    cuda_device device;

    rig_free(rig);
    (void)rig->cuda.api.ctx_set_current(NULL);
    assert_int_equal(rig->cuda.api.device_get(&device, 0), CUDA_OK);
    (void)rig->cuda.api.device_primary_ctx_release(device);
    free(rig);
}

static void stat_find(void *ctx, const char *name, uint64_t value)
{
    struct {
        const char *name;
        uint64_t value;
    } *wanted = ctx;

    if (strcmp(name, wanted->name) == 0) {
        wanted->value = value;
    }
}

uint64_t copy_rig_stat(struct copy_rig *rig, const char *name)
{
    struct {
        const char *name;
        uint64_t value;
    } wanted = {name, UINT64_MAX};

    cuda_ipc_copy_stats(rig->copy, stat_find, &wanted);
    assert_true(wanted.value != UINT64_MAX);
    return wanted.value;
}

/* ---- one job ---- */

static void case_progress(void *ctx, uint32_t layers)
{
    struct copy_case *c = ctx;

    (void)pthread_mutex_lock(&c->end.lock);
    if (c->end.told < COPY_LAYERS_MAX) {
        c->end.layers[c->end.told++] = layers;
    }
    (void)pthread_mutex_unlock(&c->end.lock);
}

static void case_done(void *ctx, const struct cuda_ipc_copy_end *end)
{
    struct copy_case *c = ctx;

    (void)pthread_mutex_lock(&c->end.lock);
    c->end.ends++;
    c->end.status = end->status;
    c->end.bytes = end->bytes;
    for (uint32_t i = 0; i < end->count && i < SIDES_CHUNKS; i++) {
        c->end.items[i] = end->item_status[i];
    }
    (void)pthread_cond_broadcast(&c->end.more);
    (void)pthread_mutex_unlock(&c->end.lock);
}

static uint64_t case_side(struct copy_rig *rig, struct copy_case *c, int which,
                          enum cuda_ipc_side_kind kind, int skips, uint64_t *seed)
{
    struct sides *sides = which == 0 ? &c->to : &c->from;
    struct cuda_ipc_job_side *side = which == 0 ? &c->job.dst : &c->job.src;
    struct sides_arena arena = {.base = kind == CUDA_IPC_SIDE_HOST
                                            ? (uint64_t)(uintptr_t)rig->host_memory[which]
                                            : rig->device_memory[which],
                                .size = COPY_ARENA};
    struct kvl_err err = {.size = sizeof(err)};

    sides_make(sides, kind, &c->shape, &arena, skips, seed);
    side->kind = kind;
    if (kind == CUDA_IPC_SIDE_PAGED) {
        const struct kvl_kv kv = {
            .size = sizeof(kv),
            .mem = KVL_MEM_CUDA,
            .layers = sides->layout.layers,
            .planes = sides->layout.planes,
            .block_tokens = sides->layout.block_tokens,
            .block_count = sides->layout.block_count,
            .token_bytes = sides->layout.token_bytes,
            .token_stride = sides->layout.token_stride,
            .block_stride = sides->layout.block_stride,
            .bases = sides->bases,
        };

        assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &kv, &c->numbers[which], &err),
                         0);
        side->kv = cuda_ipc_kv_get(&rig->kvs, c->numbers[which]);
        assert_non_null(side->kv);
    }
    side->blocks = sides->blocks;
    side->block_first = sides->block_first;
    side->sg = sides->sg;
    side->sg_first = sides->sg_first;
    side->addrs = (const cuda_ptr *)sides->addrs;
    for (uint32_t i = 0; kind == CUDA_IPC_SIDE_HOST && i < c->shape.count; i++) {
        c->hosts[i] = (const void *)(uintptr_t)sides->addrs[i];
    }
    side->hosts = c->hosts;
    return arena.base;
}

static void case_fill(struct copy_rig *rig, struct copy_case *c, uint64_t *seed)
{
    static const uint8_t blank[COPY_ARENA];

    sides_fill(seed, rig->src, COPY_ARENA);
    memset(rig->expected, 0, COPY_ARENA);
    memcpy(rig->host_memory[1], rig->src, COPY_ARENA);
    memset(rig->host_memory[0], 0, COPY_ARENA);
    assert_int_equal(rig->cuda.control->poke(rig->device_memory[1], rig->src, COPY_ARENA), 0);
    assert_int_equal(rig->cuda.control->poke(rig->device_memory[0], blank, COPY_ARENA), 0);
    sides_copy(&c->shape, &c->to, rig->expected, c->dst_base, &c->from, rig->src, c->src_base);
}

void copy_case_make(struct copy_rig *rig, struct copy_case *c, enum cuda_ipc_side_kind to,
                    enum cuda_ipc_side_kind from, uint32_t align, int skips, uint64_t *seed)
{
    pthread_condattr_t attr;

    memset(c, 0, sizeof(*c));
    (void)pthread_mutex_init(&c->end.lock, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&c->end.more, &attr);
    (void)pthread_condattr_destroy(&attr);
    sides_shape_make(&c->shape, align, seed);
    c->dst_base = case_side(rig, c, 0, to, skips, seed);
    c->src_base = case_side(rig, c, 1, from, skips, seed);
    case_fill(rig, c, seed);
    c->job.id = 1;
    c->job.count = c->shape.count;
    c->job.bytes = c->shape.bytes;
    c->job.progress = case_progress;
    c->job.done = case_done;
    c->job.ctx = c;
}

int copy_case_submit(struct copy_rig *rig, struct copy_case *c)
{
    return cuda_ipc_copy_submit(rig->copy, &c->job);
}

int copy_case_wait(struct copy_case *c)
{
    struct timespec until;
    int status;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 60;
    (void)pthread_mutex_lock(&c->end.lock);
    while (c->end.ends == 0) {
        assert_int_equal(pthread_cond_timedwait(&c->end.more, &c->end.lock, &until), 0);
    }
    assert_int_equal(c->end.ends, 1);
    status = c->end.status;
    (void)pthread_mutex_unlock(&c->end.lock);
    return status;
}

const uint8_t *copy_case_see(struct copy_rig *rig, const struct copy_case *c)
{
    if (c->job.dst.kind == CUDA_IPC_SIDE_HOST) {
        memcpy(rig->seen, rig->host_memory[0], COPY_ARENA);
    } else {
        assert_int_equal(rig->cuda.control->peek(rig->seen, rig->device_memory[0], COPY_ARENA), 0);
    }
    return rig->seen;
}

void copy_case_free(struct copy_rig *rig, struct copy_case *c)
{
    struct cuda_ipc_kv *held[] = {c->job.dst.kv, c->job.src.kv};

    for (int i = 0; i < 2; i++) {
        if (held[i] != NULL) {
            assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, c->numbers[i]), -EBUSY);
            cuda_ipc_kv_put(&rig->kvs, held[i]);
            assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, c->numbers[i]), 0);
            assert_null(cuda_ipc_kv_get(&rig->kvs, c->numbers[i]));
        }
    }
    (void)pthread_cond_destroy(&c->end.more);
    (void)pthread_mutex_destroy(&c->end.lock);
}

void copy_case_run(struct copy_rig *rig, enum cuda_ipc_side_kind to, enum cuda_ipc_side_kind from,
                   uint32_t align, int skips, uint64_t *seed)
{
    static struct copy_case c;
    uint64_t sum = 0;

    copy_case_make(rig, &c, to, from, align, skips, seed);
    assert_int_equal(copy_case_submit(rig, &c), 0);
    assert_int_equal(copy_case_wait(&c), 0);
    for (uint32_t i = 0; i < c.shape.count; i++) {
        assert_int_equal(c.end.items[i], 0);
        sum += c.shape.bytes[i];
    }
    assert_true(c.end.bytes == sum);
    assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
    copy_case_free(rig, &c);
}
