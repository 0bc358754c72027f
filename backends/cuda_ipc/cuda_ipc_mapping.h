/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_mapping.h
 * One mapping of the cache, and how the driver opens and closes it. Nothing here takes a lock: open
 * and close are called by the one thread that brings a mapping in or takes it out.
 */
#ifndef KVL_CUDA_IPC_MAPPING_H
#define KVL_CUDA_IPC_MAPPING_H

#include "cuda_ipc_map.h"

/* What a mapping is found by. */
#define CUDA_IPC_MAPPING_SHARE 1u /* who, uuid and base; handle, length and id must fit */
#define CUDA_IPC_MAPPING_BARE 2u /* the handle alone */
#define CUDA_IPC_MAPPING_SEGMENTS 3u /* who, and the names of the segments */

/** Compared and hashed as bytes: no padding, unused fields are 0. */
struct cuda_ipc_mapping_name {
    uint64_t kind; /* CUDA_IPC_MAPPING_ */
    uint64_t context; /* that maps it */
    struct cuda_ipc_who who;
    struct cuda_uuid uuid;
    uint64_t base; /* SEGMENTS: bytes of one */
    uint64_t count; /* SEGMENTS: bytes of the names */
    uint8_t handle[64]; /* BARE */
};
KVL_STATIC_ASSERT(sizeof(struct cuda_ipc_mapping_name) == 136, "the name has no padding");

/** What somebody wants mapped. Borrows. */
struct cuda_ipc_wish {
    struct cuda_ipc_mapping_name name;
    const struct cuda_ipc_place *place;
    const struct cuda_ipc_share *share; /* SHARE */
    int fd; /* SHARE of type FD */
    const struct cuda_ipc_who *exporter; /* BARE: as far as known */
    const struct cuda_ipc_segments *segments; /* SEGMENTS */
    cuda_ipc_segment_fn fetch;
    void *ctx;
};

enum cuda_ipc_mapping_state {
    CUDA_IPC_MAPPING_OPENING, /* one thread is in the driver */
    CUDA_IPC_MAPPING_OPEN,
};

struct cuda_ipc_mapping {
    struct cuda_ipc_mapping_name name;
    uint32_t type; /* CUDA_IPC_SHARE_; of BARE it is LEGACY, of SEGMENTS FD */
    uint32_t segments;
    uint64_t segment_bytes; /* of each of them */
    uint64_t length; /* as told */
    uint64_t buffer_id;
    uint8_t handle[64];
    uint8_t *names; /* SEGMENTS: name.count bytes */
    struct cuda_ipc_who exporter; /* for drop */
    struct cuda_ipc_place place; /* its table is the map's copy */

    /* The cache's, under its lock. */
    struct cuda_ipc_map *map; /* whose miss it was */
    struct cuda_ipc_mapping *next; /* in the bucket, or in a list of those to close */
    struct cuda_ipc_mapping *newer; /* unused ones by age */
    struct cuda_ipc_mapping *older;
    uint32_t refs;
    enum cuda_ipc_mapping_state state;
    uint32_t is_dead; /* not in a bucket any more: closes when unused */
    uint64_t charged; /* bytes it counts for */

    /* Set by open. */
    cuda_ptr base;
    uint64_t bytes; /* that can be used; 0 = not known */
};

/** Makes a closed mapping for a wish. @return NULL when out of memory. */
struct cuda_ipc_mapping *cuda_ipc_mapping_create(const struct cuda_ipc_api *api,
                                                 const struct cuda_ipc_wish *wish);
/** Frees a closed one. Takes NULL. */
void cuda_ipc_mapping_destroy(struct cuda_ipc_mapping *mapping);

/** 1 when a mapping of the wish's name is what is wished for, 0 when it is stale. */
int cuda_ipc_mapping_fits(const struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish);
/** 1 when it has the wish's name. */
int cuda_ipc_mapping_is(const struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish);
/** 1 when both may be mappings of the same memory by the same context. */
int cuda_ipc_mapping_overlaps(const struct cuda_ipc_mapping *mapping,
                              const struct cuda_ipc_mapping *other);

/**
 * Opens it by the driver, whose context it keeps alive until closed.
 * @return 0; -EBUSY an overlapping mapping is still open; as cuda_ipc_map_acquire.
 */
int cuda_ipc_mapping_open(struct cuda_ipc_mapping *mapping, const struct cuda_ipc_wish *wish,
                          struct kvl_err *err);
void cuda_ipc_mapping_close(struct cuda_ipc_mapping *mapping);

#endif /* KVL_CUDA_IPC_MAPPING_H */
