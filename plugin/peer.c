/* SPDX-License-Identifier: Apache-2.0 */
#include "peer.h"

#include <errno.h>

#include "drive.h"

void kvl_peer_share_store(struct kvl_instance *instance, int fd)
{
    for (uint32_t i = 0; i < instance->route.count; i++) {
        const struct kvl_backend *backend = instance->route.backends[i];
        int r;

        if ((backend->module.desc.needs & KVL_NEED_EXPORT) == 0) {
            continue;
        }
        r = kvl_store_share(instance->store, fd);
        if (r < 0) {
            kvl_warn(&instance->log,
                     "core: the store's memory cannot be shared with other processes (%s); '%s' "
                     "sends it through sockets instead",
                     r == -ENOTSUP ? "it is the engine's and has no memfd, or the system has none"
                                   : strerror(-r),
                     backend->name);
        }
        return;
    }
}

int kvl_peer_locate(void *ctx, const struct kvl_chunk_id *ids, uint32_t count, uint64_t deadline_ms,
                    kvl_locate_fn fn, void *fn_ctx)
{
    struct kvl_instance *instance = ctx;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        if (kvl_drive_can(backend, KVL_CAP_LOCATE)) {
            return backend->module.ops.locate(backend->self, ids, count, deadline_ms, fn, fn_ctx);
        }
    }
    return -ENOTSUP;
}

int kvl_peer_push(void *ctx, const char *peer_url, const struct kvl_key *keys, uint32_t count,
                  uint64_t deadline_ms, uint32_t *pushed_out)
{
    struct kvl_instance *instance = ctx;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        if (kvl_drive_can(backend, KVL_CAP_PUSH)) {
            return backend->module.ops.push(backend->self, peer_url, keys, count, deadline_ms,
                                            pushed_out);
        }
    }
    return -ENOTSUP;
}

int kvl_peer_channels(struct kvl_instance *instance, const char *section,
                      const struct kvl_channel_ops **ops_out, void **self_out)
{
    int r = section != NULL ? -ENOENT : -ENOTSUP;

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        if (section != NULL && strcmp(section, backend->name) != 0) {
            continue;
        }
        if (kvl_drive_can(backend, KVL_CAP_CHANNEL)) {
            *ops_out = backend->module.ops.channels;
            *self_out = backend->self;
            return 0;
        }
        r = -ENOTSUP;
    }
    return r;
}
