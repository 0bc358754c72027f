/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file peer.h
 * What the core does for engines and backends that reach other engines: memory they can map, whom
 * to ask in the fleet, channels.
 */
#ifndef KVL_PLUGIN_PEER_H
#define KVL_PLUGIN_PEER_H

#include "core.h"

/**
 * Makes the store's memory mappable when a backend wants that. Before anything is stored.
 * @param fd  of the engine's memory, -1 = none
 */
void kvl_peer_share_store(struct kvl_instance *instance, int fd);

/** host->locate, given on to the first backend that can. @param ctx  the instance */
int kvl_peer_locate(void *ctx, const struct kvl_chunk_id *ids, uint32_t count, uint64_t deadline_ms,
                    kvl_locate_fn fn, void *fn_ctx);

/** host->push, given on to the first backend that can. @param ctx  the instance */
int kvl_peer_push(void *ctx, const char *peer_url, const struct kvl_key *keys, uint32_t count,
                  uint64_t deadline_ms, uint32_t *pushed_out);

/** host->offers: one call per backend that runs and offers something. @param ctx  the instance */
void kvl_peer_offers(void *ctx, kvl_offer_fn fn, void *fn_ctx);

/** host->offered, given on to the backends of that name that run. @param ctx  the instance */
void kvl_peer_offered(void *ctx, const struct kvl_offer *offer);

/** host->held. @param ctx  the instance */
int kvl_peer_held(void *ctx, uint32_t where, kvl_key_fn fn, void *fn_ctx);

/** kvl_plugin.channels; the instance runs, the pointers are not NULL. */
int kvl_peer_channels(struct kvl_instance *instance, const char *section,
                      const struct kvl_channel_ops **ops_out, void **self_out);

#endif /* KVL_PLUGIN_PEER_H */
