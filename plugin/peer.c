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

void kvl_peer_offers(void *ctx, kvl_offer_fn fn, void *fn_ctx)
{
    struct kvl_instance *instance = ctx;
    uint8_t bytes[KVL_OFFER_MAX];

    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];
        const char *name = backend->module.desc.name;
        const struct kvl_offer offer = {
            .size = sizeof(offer),
            .is_same_host = 1,
            .backend = {.text = name, .length = (uint32_t)strlen(name)},
            .peer = {.text = "", .length = 0},
            .bytes = bytes,
            .length =
                kvl_backend_is_running(backend) ? kvl_offer_box_get(&backend->offer, bytes) : 0,
        };

        if (offer.length > 0) {
            fn(fn_ctx, &offer);
        }
    }
}

void kvl_peer_offered(void *ctx, const struct kvl_offer *offer)
{
    struct kvl_instance *instance = ctx;
    const struct kvl_text *name = &offer->backend;
    uint32_t told = 0;

    if (offer->size < sizeof(*offer) || offer->length > KVL_OFFER_MAX) {
        return;
    }
    for (uint32_t i = 0; i < instance->route.count; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        if (kvl_drive_can(backend, KVL_CAP_CONNECT) &&
            strlen(backend->module.desc.name) == name->length &&
            memcmp(backend->module.desc.name, name->text, name->length) == 0) {
            backend->module.ops.connect(backend->self, offer);
            told++;
        }
    }
    if (told == 0) {
        kvl_debug(&instance->log,
                  "core: peer '%.*s' offers something to backend '%.*s', which is "
                  "not here",
                  (int)offer->peer.length, offer->peer.text, (int)name->length, name->text);
    }
}

int kvl_peer_held(void *ctx, uint32_t where, kvl_key_fn fn, void *fn_ctx)
{
    struct kvl_instance *instance = ctx;
    int r = 0;

    if (where == KVL_WHERE_HOST) {
        return kvl_store_list(instance->store, fn, fn_ctx);
    }
    for (uint32_t i = 0; i < instance->route.count && r == 0; i++) {
        struct kvl_backend *backend = instance->route.backends[i];

        if (kvl_drive_can(backend, KVL_CAP_HELD) && backend->limits.where == where) {
            r = backend->module.ops.held(backend->self, fn, fn_ctx);
        }
    }
    return r;
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
