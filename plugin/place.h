/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file place.h
 * Where the bytes of a batch lie in the engine's memory: runs or blocks, host memory or that of a
 * device, and who moves it.
 */
#ifndef KVL_PLUGIN_PLACE_H
#define KVL_PLUGIN_PLACE_H

#include <kvlane/io.h>

#include "kv.h"

struct kvl_instance;

struct kvl_place {
    struct kvl_kv_cache *cache; /* in use until kvl_place_fini; NULL = runs, or no memory named */
    struct kvl_backend *mover; /* borrowed; NULL = host memory: we copy ourselves */
    uint64_t mem; /* KVL_MEM_ */
};

/**
 * Checks every run or block table of a load (`is_save` 0) or a save before anything is done.
 * @return 0; -EINVAL; -ENOTSUP nobody serves that kind of memory.
 */
int kvl_place_init(struct kvl_place *place, struct kvl_instance *instance,
                   const struct kvl_batch *batch, int is_save);
void kvl_place_fini(struct kvl_place *place, struct kvl_instance *instance);

/** True when the batch says where chunk `i` lies. */
static inline int kvl_place_has(const struct kvl_batch *batch, uint32_t i)
{
    return batch->kv != 0 ||
           (batch->sg_first != NULL && batch->sg_first[i + 1] > batch->sg_first[i]);
}

/** Chunk `i` in host memory -> contiguous bytes. */
void kvl_place_gather(const struct kvl_place *place, const struct kvl_batch *batch, uint32_t i,
                      void *to);

/** Contiguous bytes -> chunk `i` in host memory. */
void kvl_place_scatter(const struct kvl_place *place, const struct kvl_batch *batch, uint32_t i,
                       const struct kvl_view *view);

#endif /* KVL_PLUGIN_PLACE_H */
