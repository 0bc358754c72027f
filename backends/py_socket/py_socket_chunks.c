/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_chunks.h"

#include "keepers.h"

static int chunks_lookup(void *ctx, const struct kvl_key *key)
{
    const struct kvl_host *host = ctx;

    return host->store_exists(host, key);
}

static int chunks_lease(void *ctx, const struct kvl_key *key, struct kvl_view *view_out)
{
    const struct kvl_host *host = ctx;

    return host->store_get(host, key, view_out);
}

/* Only from this process: a peer's question must not go on to its peers, and so in circles. */
static int chunks_bring(void *ctx, const struct kvl_key *key, int only_look, kvl_fetch_fn fn,
                        void *fn_ctx)
{
    const struct kvl_host *host = ctx;

    return host->store_fetch(host, key, KVL_FETCH_HELD | (only_look ? KVL_FETCH_LOOKUP : 0), fn,
                             fn_ctx);
}

static void chunks_release(void *ctx, uint64_t lease)
{
    const struct kvl_host *host = ctx;

    (void)host->store_release(host, lease);
}

void py_socket_chunks_serve(const struct kvl_host *host, struct py_socket_serve_ops *ops_out)
{
    struct kvl_store_export store = {.size = sizeof(store), .fd = -1};

    if (host->store_export(host, &store) < 0) {
        store = (struct kvl_store_export){.size = sizeof(store), .fd = -1};
    }
    *ops_out = (struct py_socket_serve_ops){
        .ctx = (void *)(uintptr_t)host,
        .lookup = chunks_lookup,
        .lease = chunks_lease,
        .bring = kvl_has_keepers(host) ? chunks_bring : NULL,
        .release = chunks_release,
        .store = store,
    };
}
