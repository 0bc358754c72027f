/* SPDX-License-Identifier: Apache-2.0 */
/* The one exported symbol. Checks arguments, instance and process, and calls core and move. */
#include <kvlane/plugin.h>

#include <errno.h>

#include "config.h"
#include "core.h"
#include "layers.h"
#include "move.h"
#include "peer.h"

#ifndef KVL_BUILD_ID
#define KVL_BUILD_ID "dev"
#endif

/* Read as much of the engine's record as both know; the rest is zero. */
static int take_params(const struct kvl_open_params *from, struct kvl_open_params *to,
                       struct kvl_err *err)
{
    *to = (struct kvl_open_params){0};
    if (from == NULL || from->size < offsetof(struct kvl_open_params, config_text)) {
        return kvl_err_set(err, -EINVAL, 0, "plugin: parameters are missing or of no known size");
    }
    memcpy(to, from, from->size < sizeof(*to) ? from->size : sizeof(*to));
    if ((to->flags & ~KVL_OPEN_ARENA_FD) != 0 ||
        (to->override_count > 0 && to->overrides == NULL)) {
        return kvl_err_set(err, -EINVAL, 0, "plugin: flags 0x%x or overrides are not valid",
                           to->flags);
    }
    return 0;
}

static int plugin_check(const struct kvl_open_params *params, struct kvl_err *err)
{
    struct kvl_open_params own;
    int r = take_params(params, &own, err);

    return r < 0 ? r : kvl_core_check(&own, err);
}

static int plugin_open(const struct kvl_open_params *params, struct kvl_instance **instance_out,
                       struct kvl_err *err)
{
    struct kvl_open_params own;
    int r = take_params(params, &own, err);

    if (r == 0 && instance_out == NULL) {
        r = kvl_err_set(err, -EINVAL, 0, "plugin: nowhere to put the instance");
    }
    return r < 0 ? r : kvl_core_open(&own, instance_out, err);
}

/* In a forked child nothing of the instance may be touched, not even a lock. */
static int enter(const struct kvl_instance *instance)
{
    if (instance == NULL) {
        return -EINVAL;
    }
    if (instance->fork_generation != kvl_core_fork_generation()) {
        return -ECHILD;
    }
    return atomic_load_explicit(&((struct kvl_instance *)(uintptr_t)instance)->closing,
                                memory_order_relaxed)
               ? -ECANCELED
               : 0;
}

/* As enter, for calls that need running backends. */
static int enter_running(struct kvl_instance *instance)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_core_start(instance, NULL);
}

static int plugin_start(struct kvl_instance *instance, struct kvl_err *err)
{
    int r = enter(instance);

    return r < 0 ? kvl_err_set(err, r, 0, "plugin: %s", strerror(-r))
                 : kvl_core_start(instance, err);
}

static int plugin_close(struct kvl_instance *instance, uint64_t deadline_ms)
{
    int r;

    if (instance == NULL) {
        return 0;
    }
    r = enter(instance);
    return r < 0 ? r : kvl_core_close(instance, deadline_ms);
}

/* A record of before 1.2 ends early; the rest is zero. @return the record to read, NULL = bad. */
static const struct kvl_batch *take_batch(const struct kvl_batch *batch, struct kvl_batch *own)
{
    if (batch == NULL || batch->size < KVL_BATCH_SIZE_1_0) {
        return NULL;
    }
    if (batch->size >= sizeof(*batch)) {
        return batch;
    }
    *own = (struct kvl_batch){0};
    memcpy(own, batch, batch->size);
    own->size = sizeof(*own);
    return own;
}

static int plugin_lookup(struct kvl_instance *instance, const struct kvl_batch *batch,
                         struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_batch own;
    int r;

    batch = take_batch(batch, &own);
    r = batch != NULL ? enter_running(instance) : -EINVAL;
    return r < 0 ? r : kvl_move_lookup(instance, batch, result, op_out);
}

static int plugin_load(struct kvl_instance *instance, const struct kvl_batch *batch,
                       struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_batch own;
    int r;

    batch = take_batch(batch, &own);
    r = batch != NULL ? enter_running(instance) : -EINVAL;
    return r < 0 ? r : kvl_move_load(instance, batch, result, op_out);
}

static int plugin_save(struct kvl_instance *instance, const struct kvl_batch *batch,
                       struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_batch own;
    int r;

    batch = take_batch(batch, &own);
    r = batch != NULL ? enter_running(instance) : -EINVAL;
    return r < 0 ? r : kvl_move_save(instance, batch, result, op_out);
}

static int plugin_remove(struct kvl_instance *instance, const struct kvl_batch *batch,
                         struct kvl_result *result, uint64_t *op_out)
{
    struct kvl_batch own;
    int r;

    batch = take_batch(batch, &own);
    r = batch != NULL ? enter_running(instance) : -EINVAL;
    return r < 0 ? r : kvl_move_remove(instance, batch, result, op_out);
}

static int plugin_wait(struct kvl_instance *instance, uint64_t op, uint64_t deadline_ms,
                       struct kvl_result *result)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_move_wait(instance, op, deadline_ms, result);
}

static int plugin_cancel(struct kvl_instance *instance, uint64_t op)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_flights_cancel(instance->flights, op);
}

static int plugin_get(struct kvl_instance *instance, const struct kvl_key *key,
                      struct kvl_view *view_out)
{
    struct kvl_view view;
    int r = enter(instance);

    if (r < 0) {
        return r;
    }
    if (key == NULL || view_out == NULL || key->text == NULL || key->length == 0 ||
        key->length > KVL_KEY_MAX) {
        return -EINVAL;
    }
    r = kvl_store_get(instance->store, key, &view);
    if (r < 0) {
        return r;
    }
    r = kvl_store_verify(instance->store, &view);
    if (r < 0) {
        kvl_store_release(instance->store, view.lease);
        return r;
    }
    *view_out = view;
    return 0;
}

static int plugin_release(struct kvl_instance *instance, uint64_t lease)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_store_release(instance->store, lease);
}

static int plugin_list(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms,
                       kvl_key_fn fn, void *ctx)
{
    int r = fn != NULL ? enter_running(instance) : -EINVAL;

    return r < 0 ? r : kvl_move_list(instance, location, deadline_ms, fn, ctx);
}

static int plugin_probe(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms)
{
    int r = enter_running(instance);

    return r < 0 ? r : kvl_move_probe(instance, location, deadline_ms);
}

static int plugin_health(struct kvl_instance *instance, uint32_t location,
                         struct kvl_health *health_out)
{
    int r = health_out != NULL && health_out->size >= sizeof(uint32_t) ? enter(instance) : -EINVAL;

    return r < 0 ? r : kvl_core_health(instance, location, health_out);
}

static int plugin_stats(struct kvl_instance *instance, kvl_stat_fn fn, void *ctx)
{
    int r = fn != NULL ? enter(instance) : -EINVAL;

    if (r == 0) {
        kvl_core_stats(instance, fn, ctx);
    }
    return r;
}

static int plugin_reload(struct kvl_instance *instance, const struct kvl_open_params *params,
                         uint32_t *restart_out, struct kvl_err *err)
{
    struct kvl_open_params own;
    int r = enter(instance);

    if (r == 0) {
        r = take_params(params, &own, err);
    }
    return r < 0 ? r : kvl_core_reload(instance, &own, restart_out, err);
}

static int plugin_channels(struct kvl_instance *instance, const char *section,
                           const struct kvl_channel_ops **ops_out, void **self_out)
{
    int r = ops_out != NULL && self_out != NULL ? enter_running(instance) : -EINVAL;

    return r < 0 ? r : kvl_peer_channels(instance, section, ops_out, self_out);
}

static int plugin_register_kv(struct kvl_instance *instance, const struct kvl_kv *kv,
                              uint64_t *kv_out, struct kvl_err *err)
{
    int r = kv != NULL && kv_out != NULL ? enter(instance) : -EINVAL;

    if (r < 0) {
        return kvl_err_set(err, r, 0, "register_kv: %s",
                           r == -EINVAL ? "instance, record or output is missing" : strerror(-r));
    }
    r = kvl_core_start(instance, err);
    return r < 0 ? r : kvl_kv_register(&instance->flights->kvs, &instance->route, kv, kv_out, err);
}

static int plugin_unregister_kv(struct kvl_instance *instance, uint64_t kv)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_kv_unregister(&instance->flights->kvs, kv);
}

static int plugin_wait_layers(struct kvl_instance *instance, uint64_t op, uint32_t layers,
                              uint64_t deadline_ms)
{
    int r = enter(instance);

    return r < 0 ? r : kvl_layers_wait(instance, op, layers, deadline_ms);
}

static int plugin_ipc(struct kvl_instance *instance, const char *section,
                      const struct kvl_ipc_ops **ops_out)
{
    int r = ops_out != NULL ? enter(instance) : -EINVAL;

    return r < 0 ? r : kvl_codecs_find(&instance->codecs, section, ops_out);
}

static const struct kvl_plugin plugin = {
    .magic = KVL_PLUGIN_MAGIC,
    .size = sizeof(struct kvl_plugin),
    .abi_major = KVL_PLUGIN_ABI_MAJOR,
    .abi_minor = KVL_PLUGIN_ABI_MINOR,
    .version = KVL_VERSION,
    .build_id = KVL_BUILD_ID,
    .check = plugin_check,
    .open = plugin_open,
    .start = plugin_start,
    .close = plugin_close,
    .lookup = plugin_lookup,
    .load = plugin_load,
    .save = plugin_save,
    .remove = plugin_remove,
    .wait = plugin_wait,
    .cancel = plugin_cancel,
    .get = plugin_get,
    .release = plugin_release,
    .list = plugin_list,
    .probe = plugin_probe,
    .health = plugin_health,
    .stats = plugin_stats,
    .reload = plugin_reload,
    .channels = plugin_channels,
    .register_kv = plugin_register_kv,
    .unregister_kv = plugin_unregister_kv,
    .wait_layers = plugin_wait_layers,
    .ipc = plugin_ipc,
};

KVL_EXPORT const struct kvl_plugin *kvlane_plugin_v1(void)
{
    return &plugin;
}
