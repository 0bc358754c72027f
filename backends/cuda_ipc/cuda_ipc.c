/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Chunks in the memory of CUDA devices: to and from the engine's paged cache, in a pool of our own,
 * and from the pools of other processes on this host.
 */
#include <string.h>

#include <kvlane/backend.h>

#include "cuda_ipc_op.h"
#include "cuda_ipc_report.h"
#include "ipc.h"
#include "setting.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

static const struct kvl_backend_desc cuda_ipc_desc;

static int cuda_ipc_check(const struct kvl_host *host, struct kvl_err *err)
{
    struct cuda_ipc_options options;

    return cuda_ipc_options_read(host, &options, err);
}

/* The driver is left alone until start: a process that has begun with it cannot fork any more. */
static int cuda_ipc_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct cuda_ipc_options options;
    struct cuda_ipc *self;
    int r = cuda_ipc_options_read(host, &options, err);

    if (r < 0) {
        return r;
    }
    r = cuda_ipc_life_create(host, &options, &self);
    if (r < 0) {
        return kvl_fail(err, r, "cuda_ipc: no memory");
    }
    *self_out = self;
    return 0;
}

static int cuda_ipc_start(void *self, struct kvl_err *err)
{
    return cuda_ipc_life_start(self, err);
}

static void cuda_ipc_quiesce(void *self)
{
    cuda_ipc_life_quiesce(self);
}

static int cuda_ipc_drain(void *self, uint64_t deadline_ms)
{
    return cuda_ipc_life_drain(self, deadline_ms);
}

static void cuda_ipc_stop(void *self)
{
    cuda_ipc_life_stop(self);
}

static void cuda_ipc_destroy(void *self)
{
    cuda_ipc_life_destroy(self);
}

static int cuda_ipc_lookup(void *self, const struct kvl_batch *batch)
{
    return cuda_ipc_move_lookup(self, batch);
}

static int cuda_ipc_read(void *self, const struct kvl_batch *batch)
{
    return cuda_ipc_move_read(self, batch);
}

static int cuda_ipc_write(void *self, const struct kvl_batch *batch)
{
    return cuda_ipc_move_write(self, batch);
}

static int cuda_ipc_remove(void *self, const struct kvl_batch *batch)
{
    return cuda_ipc_move_remove(self, batch);
}

/* Takes no time that a deadline could cut. */
static int cuda_ipc_list(void *self, uint64_t cookie, uint64_t deadline_ms)
{
    (void)deadline_ms;
    return cuda_ipc_move_list(self, cookie);
}

static void cuda_ipc_cancel(void *self, uint64_t cookie)
{
    cuda_ipc_op_cancel(self, cookie);
}

static void cuda_ipc_get_limits(void *ctx, struct kvl_limits *limits_out)
{
    const struct cuda_ipc *self = ctx;

    limits_out->max_items = 4096;
    limits_out->max_in_flight = self->options.max_in_flight;
    limits_out->latency_us = 50;
    limits_out->where = KVL_WHERE_GPU;
    limits_out->caps = cuda_ipc_desc.caps;
    if (self->options.pool == 0) {
        limits_out->caps &= ~(KVL_CAP_WRITE | KVL_CAP_HELD);
    }
    limits_out->memory = 1ull << KVL_MEM_CUDA;
}

static void cuda_ipc_get_health(void *self, struct kvl_health *health_out)
{
    cuda_ipc_report_health(self, health_out);
}

static void cuda_ipc_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    cuda_ipc_report_stats(self, fn, ctx);
}

static int cuda_ipc_kv_register(void *self, const struct kvl_kv *kv, uint64_t *kv_out,
                                struct kvl_err *err)
{
    return cuda_ipc_gpu_register(self, kv, kv_out, err);
}

static int cuda_ipc_kv_unregister(void *self, uint64_t kv)
{
    return cuda_ipc_gpu_unregister(self, kv);
}

static int cuda_ipc_gather(void *self, const struct kvl_batch *batch, void *const *to)
{
    return cuda_ipc_move_gather(self, batch, to);
}

static int cuda_ipc_scatter(void *self, const struct kvl_batch *batch, const void *const *from)
{
    return cuda_ipc_move_scatter(self, batch, from);
}

/* A peer on another machine has another boot id, and ours among them is ourselves. */
static void cuda_ipc_connect(void *ctx, const struct kvl_offer *offer)
{
    struct cuda_ipc *self = ctx;
    struct cuda_ipc_address address;
    struct cuda_ipc_wire_offer found;

    if (atomic_load(&self->state) != CUDA_IPC_RUNNING ||
        cuda_ipc_wire_get_offer(offer->bytes, offer->length, &found) < 0 ||
        memcmp(found.boot, self->self.boot, sizeof(found.boot)) != 0 ||
        memcmp(found.peer.instance, self->self.hello.peer.instance, sizeof(found.peer.instance)) ==
            0 ||
        cuda_ipc_address_from_bytes(found.address, found.address_length, &address) < 0) {
        return;
    }
    (void)cuda_ipc_net_connect(self->net, &address, &found.peer);
}

static int cuda_ipc_held(void *ctx, kvl_key_fn fn, void *fn_ctx)
{
    struct cuda_ipc *self = ctx;

    return cuda_ipc_pool_list(self->pool, fn, fn_ctx);
}

static const struct kvl_backend_ops cuda_ipc_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .check = cuda_ipc_check,
    .create = cuda_ipc_create,
    .start = cuda_ipc_start,
    .quiesce = cuda_ipc_quiesce,
    .drain = cuda_ipc_drain,
    .stop = cuda_ipc_stop,
    .destroy = cuda_ipc_destroy,
    .lookup = cuda_ipc_lookup,
    .read = cuda_ipc_read,
    .write = cuda_ipc_write,
    .remove = cuda_ipc_remove,
    .list = cuda_ipc_list,
    /* .probe absent: get_health knows without asking */
    .cancel = cuda_ipc_cancel,
    .get_limits = cuda_ipc_get_limits,
    .get_health = cuda_ipc_get_health,
    .get_stats = cuda_ipc_get_stats,
    .kv_register = cuda_ipc_kv_register,
    .kv_unregister = cuda_ipc_kv_unregister,
    .gather = cuda_ipc_gather,
    .scatter = cuda_ipc_scatter,
    .connect = cuda_ipc_connect,
    .held = cuda_ipc_held,
    .ipc = &kvl_ipc_table,
};

static const struct kvl_backend_desc cuda_ipc_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_REMOVE | KVL_CAP_LIST |
            KVL_CAP_CANCEL | KVL_CAP_DIRECT | KVL_CAP_MEMORY | KVL_CAP_CONNECT | KVL_CAP_HELD |
            KVL_CAP_IPC,
    .name = "cuda_ipc",
    .version = "0.1.0",
    .build_id = KVL_BUILD_ID,
    .options = cuda_ipc_option_table,
    .option_count = CUDA_IPC_OPTION_COUNT,
    .option_size = sizeof(struct kvl_option),
    .ops = &cuda_ipc_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &cuda_ipc_desc;
}
