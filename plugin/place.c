/* SPDX-License-Identifier: Apache-2.0 */
#include "place.h"

#include <errno.h>

#include "core.h"
#include "scatter.h"

/* Runs of all chunks: as many bytes as the chunk, one kind of memory and one device for all. */
static int check_runs(struct kvl_place *place, const struct kvl_batch *batch)
{
    const struct kvl_sg *like = NULL;

    for (uint32_t i = 0; i < batch->count; i++) {
        const uint32_t first = batch->sg_first[i];
        const struct kvl_sg *sg = &batch->sg[first];
        uint64_t bytes;
        int r;

        if (first > batch->sg_first[i + 1]) {
            return -EINVAL;
        }
        r = kvl_sg_check(sg, batch->sg_first[i + 1] - first, &bytes);
        if (r < 0) {
            return r;
        }
        if (batch->chunks[i].bytes != bytes) {
            return -EINVAL;
        }
        if (bytes == 0) {
            continue;
        }
        if (like == NULL) {
            like = sg;
            place->mem = sg->mem;
        } else if (sg->mem != like->mem || sg->device != like->device) {
            return -EINVAL;
        }
    }
    return 0;
}

static int check_blocks(struct kvl_place *place, struct kvl_instance *instance,
                        const struct kvl_batch *batch, int is_save)
{
    int r = 0;

    if (batch->sg != NULL || batch->sg_first != NULL || batch->blocks == NULL ||
        batch->block_first == NULL) {
        return -EINVAL;
    }
    place->cache = kvl_kv_get(&instance->flights->kvs, batch->kv);
    if (place->cache == NULL) {
        return -EINVAL;
    }
    place->mem = place->cache->layout.mem;
    place->mover = place->cache->backend;
    for (uint32_t i = 0; r == 0 && i < batch->count; i++) {
        const uint32_t first = batch->block_first[i];

        r = first <= batch->block_first[i + 1]
                ? kvl_kv_check(place->cache, &batch->blocks[first],
                               batch->block_first[i + 1] - first, batch->chunks[i].bytes, !is_save)
                : -EINVAL;
    }
    if (r < 0) {
        kvl_place_fini(place, instance);
    }
    return r;
}

int kvl_place_init(struct kvl_place *place, struct kvl_instance *instance,
                   const struct kvl_batch *batch, int is_save)
{
    int r;

    *place = (struct kvl_place){.mem = KVL_MEM_HOST};
    if (batch->kv != 0) {
        return check_blocks(place, instance, batch, is_save);
    }
    if (batch->blocks != NULL || batch->block_first != NULL) {
        return -EINVAL;
    }
    if (batch->sg_first != NULL) {
        r = check_runs(place, batch);
        if (r == 0 && place->mem != KVL_MEM_HOST) {
            place->mover = kvl_kv_mover(&instance->route, place->mem);
            r = place->mover != NULL ? 0 : -ENOTSUP;
        }
        return r;
    }
    for (uint32_t i = 0; is_save && i < batch->count; i++) {
        if (batch->chunks[i].bytes != 0) {
            return -EINVAL;
        }
    }
    return 0;
}

void kvl_place_fini(struct kvl_place *place, struct kvl_instance *instance)
{
    if (place->cache != NULL) {
        kvl_kv_put(&instance->flights->kvs, place->cache);
        place->cache = NULL;
    }
}

void kvl_place_gather(const struct kvl_place *place, const struct kvl_batch *batch, uint32_t i,
                      void *to)
{
    if (place->cache != NULL) {
        const uint32_t first = batch->block_first[i];

        kvl_kv_gather(place->cache, &batch->blocks[first], batch->block_first[i + 1] - first,
                      batch->chunks[i].bytes, to);
    } else {
        kvl_sg_gather(&batch->sg[batch->sg_first[i]], batch->sg_first[i + 1] - batch->sg_first[i],
                      to);
    }
}

void kvl_place_scatter(const struct kvl_place *place, const struct kvl_batch *batch, uint32_t i,
                       const struct kvl_view *view)
{
    if (place->cache != NULL) {
        const uint32_t first = batch->block_first[i];

        kvl_kv_scatter(place->cache, &batch->blocks[first], batch->block_first[i + 1] - first,
                       view->length, view->data);
    } else {
        kvl_sg_scatter(&batch->sg[batch->sg_first[i]], batch->sg_first[i + 1] - batch->sg_first[i],
                       view->data);
    }
}
