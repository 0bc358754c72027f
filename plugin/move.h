/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file move.h
 * Policy: whom a lookup and a load ask, and in which order; what an engine is told.
 */
#ifndef KVL_PLUGIN_MOVE_H
#define KVL_PLUGIN_MOVE_H

#include "core.h"

/** The functions of plugin.h; the instance is open and running, the pointers are not NULL. */
int kvl_move_lookup(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out);
int kvl_move_load(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out);
int kvl_move_save(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out);
int kvl_move_remove(struct kvl_instance *instance, const struct kvl_batch *batch,
                    struct kvl_result *result, uint64_t *op_out);
/** Removes chunks from the backends with `put_to = evicted` only, and waits. */
int kvl_move_remove_below(struct kvl_instance *instance, const struct kvl_batch *batch);
int kvl_move_wait(struct kvl_instance *instance, uint64_t op, uint64_t deadline_ms,
                  struct kvl_result *result);
int kvl_move_list(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms,
                  kvl_key_fn fn, void *ctx);
int kvl_move_probe(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms);

#endif /* KVL_PLUGIN_MOVE_H */
