/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cond.h"
#include "cuda_ipc_op.h"
#include "setting.h"

/* Longest pause between two tries to reach a peer. */
#define RETRY_MS 5000u
/* How long stop() waits for peers to give back what they have mapped. */
#define LEAVE_MS 2000u

void cuda_ipc_count(struct cuda_ipc *self, enum cuda_ipc_counter counter, uint64_t by)
{
    if (by > 0) {
        atomic_fetch_add_explicit(&self->counters[counter], by, memory_order_relaxed);
    }
}

/* The worker of a fleet controller announces it. */
static void life_on_change(void *ctx, const struct kvl_key *key, uint64_t bytes, uint32_t kind)
{
    const struct cuda_ipc *self = ctx;

    if (KVL_HAS_OP(self->host, held_event)) {
        self->host->held_event(self->host, key, bytes, kind);
    }
}

int cuda_ipc_life_create(const struct kvl_host *host, const struct cuda_ipc_options *options,
                         struct cuda_ipc **self_out)
{
    struct cuda_ipc *self = calloc(1, sizeof(*self));

    if (self == NULL) {
        return -ENOMEM;
    }
    self->host = host;
    self->options = *options;
    pthread_mutex_init(&self->gpu_lock, NULL);
    pthread_mutex_init(&self->ops_lock, NULL);
    (void)kvl_monotonic_cond_init(&self->ended);
    if (cuda_ipc_pool_create(life_on_change, self, &self->pool) < 0) {
        cuda_ipc_life_destroy(self);
        return -ENOMEM;
    }
    *self_out = self;
    return 0;
}

/* ---- start ---- */

static int life_open_driver(struct cuda_ipc *self, struct kvl_err *err)
{
    int r = cuda_ipc_api_open(self->options.driver, &self->api, err);

    if (r == 0) {
        r = cuda_ipc_devices_init(&self->devices, &self->api, self->host->log, err);
    }
    if (r < 0) {
        return r;
    }
    cuda_ipc_kvs_init(&self->kvs);
    self->has_devices = true;
    self->has_memory = true;
    r = cuda_ipc_options_devices(&self->options, &self->devices, &self->allowed, err);
    if (r == 0) {
        r = cuda_ipc_map_open(&self->api, self->options.max_mappings, self->options.max_mapped,
                              &self->map, err);
    }
    return r;
}

/* In the net's thread. */
static void life_watched(void *ctx)
{
    const struct cuda_ipc *self = ctx;

    cuda_ipc_reap_turn(self->reap);
}

static int life_make(struct cuda_ipc *self, struct kvl_err *err)
{
    struct cuda_ipc_wire_hello *hello = &self->self.hello;
    struct cuda_ipc_net_env env = {
        .host = self->host,
        .pool = self->pool,
        .self = &self->self,
        .max_peers = self->options.max_peers,
        .timeout_ms = self->options.timeout_ms,
        .retry_ms = RETRY_MS,
        .segment = cuda_ipc_gpu_segment,
        .link_changed = cuda_ipc_search_link,
        .watched = life_watched,
        .ctx = self,
    };
    int r = cuda_ipc_self_init(&self->self);

    for (uint32_t i = 0; i < self->devices.count; i++) {
        hello->uuids[hello->device_count++] = self->devices.all[i].uuid;
    }
    if (r == 0) {
        r = cuda_ipc_copy_create(self->host, &self->devices, &self->options.copy, &self->copy);
    }
    if (r == 0) {
        r = cuda_ipc_reap_create(self->host, &self->kvs,
                                 &self->counters[CUDA_IPC_COUNT_PRODUCERS_LOST], &self->reap);
    }
    if (r == 0) {
        env.watched_fd = cuda_ipc_reap_fd(self->reap);
        r = cuda_ipc_net_create(&env, &self->net);
    }
    return r < 0 ? kvl_fail(err, r, "cuda_ipc: cannot start: %s", strerror(-r)) : 0;
}

static void life_offer(struct cuda_ipc *self, const struct cuda_ipc_address *address)
{
    uint8_t bytes[KVL_OFFER_MAX];
    const size_t length = cuda_ipc_self_offer(&self->self, address, bytes);
    int r = KVL_HAS_OP(self->host, offer) ? self->host->offer(self->host, bytes, (uint32_t)length)
                                          : -ENOTSUP;

    if (r < 0) {
        kvl_warn(self->host->log,
                 "cuda_ipc: peers are not told where we listen, only those with our address in "
                 "their option peers come: %s",
                 strerror(-r));
    }
}

static int life_listen(struct cuda_ipc *self, struct kvl_err *err)
{
    struct cuda_ipc_address address = self->options.address;
    int r;

    if (self->options.listen == CUDA_IPC_LISTEN_NO) {
        return cuda_ipc_net_start(self->net, NULL, err);
    }
    if (self->options.listen == CUDA_IPC_LISTEN_AUTO) {
        cuda_ipc_address_own(&self->self, &address);
    }
    r = cuda_ipc_net_start(self->net, &address, err);
    if (r == 0) {
        cuda_ipc_address_print(&address, self->address_text, sizeof(self->address_text));
        life_offer(self, &address);
    }
    return r;
}

int cuda_ipc_life_start(struct cuda_ipc *self, struct kvl_err *err)
{
    int r = life_open_driver(self, err);

    if (r == 0) {
        r = life_make(self, err);
    }
    if (r == 0) {
        r = life_listen(self, err);
    }
    if (r < 0) {
        return r;
    }
    for (uint32_t i = 0; i < self->options.peer_count; i++) {
        (void)cuda_ipc_net_connect(self->net, &self->options.peers[i], NULL);
    }
    atomic_store(&self->state, CUDA_IPC_RUNNING);
    return 0;
}

/* ---- the end ---- */

void cuda_ipc_life_quiesce(struct cuda_ipc *self)
{
    int running = CUDA_IPC_RUNNING;

    if (atomic_compare_exchange_strong(&self->state, &running, CUDA_IPC_LEAVING)) {
        if (KVL_HAS_OP(self->host, offer)) {
            (void)self->host->offer(self->host, NULL, 0);
        }
        cuda_ipc_net_quiesce(self->net);
    }
}

int cuda_ipc_life_drain(struct cuda_ipc *self, uint64_t deadline_ms)
{
    return self->net == NULL ? 0 : cuda_ipc_op_drain(self, deadline_ms);
}

void cuda_ipc_life_stop(struct cuda_ipc *self)
{
    const struct kvl_host *host = self->host;
    bool keep = false;

    if (atomic_load(&self->state) == CUDA_IPC_RUNNING) {
        cuda_ipc_life_quiesce(self);
    }
    if (atomic_load(&self->state) == CUDA_IPC_LEAVING) {
        cuda_ipc_op_cancel_all(self);
        keep = cuda_ipc_net_drain(self->net, host->now_ms(host) + LEAVE_MS) < 0;
    }
    if (keep) {
        kvl_warn(host->log, "cuda_ipc: peers still read the pool, its memory stays until this "
                            "process ends");
    }
    if (self->copy != NULL) {
        cuda_ipc_copy_stop(self->copy);
    }
    if (self->net != NULL) {
        cuda_ipc_net_stop(self->net);
    }
    atomic_store(&self->state, CUDA_IPC_STOPPED);
    self->keeps_memory = keep;
    cuda_ipc_gpu_free(self);
}

void cuda_ipc_life_destroy(struct cuda_ipc *self)
{
    if (self == NULL) {
        return;
    }
    cuda_ipc_gpu_free(self); /* when start failed half way */
    cuda_ipc_copy_destroy(self->copy);
    if (self->has_devices && !self->keeps_memory) {
        cuda_ipc_devices_fini(&self->devices);
    }
    cuda_ipc_net_destroy(self->net);
    cuda_ipc_reap_destroy(self->reap);
    cuda_ipc_pool_destroy(self->pool);
    pthread_cond_destroy(&self->ended);
    pthread_mutex_destroy(&self->ops_lock);
    pthread_mutex_destroy(&self->gpu_lock);
    free(self);
}
