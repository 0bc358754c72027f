/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_map.h
 * Memory of other processes, mapped here: the cache of imported handles. There is one cache per
 * process, shared by all instances, because the driver counts and limits such mappings by process.
 *
 * A mapping is found by who exported it, the memory's device, its base, and the context that maps
 * it; and taken only when handle, length and buffer id are equal too. Else it is stale: it closes
 * as soon as nobody uses it, and the new one is opened. Unused mappings are kept for the next time
 * and go, least recently used first, when the cache is full. Those in use never go.
 *
 * Functions may be called from any thread, whose current context stays as it was. No lock is held
 * while the driver works. In a child of fork() the cache is inert: acquire gives -ECHILD, the rest
 * does nothing.
 */
#ifndef KVL_CUDA_IPC_MAP_H
#define KVL_CUDA_IPC_MAP_H

#include <kvlane/watch.h>

#include "cuda_ipc_place.h"
#include "cuda_ipc_share.h"

#define CUDA_IPC_MAP_ENTRIES 1024u /* default, and the most that can be asked for is 64 times it */
/** Most descriptors in one mapping of segments. */
#define CUDA_IPC_SEGMENTS_MAX 4096u

struct cuda_ipc_map; /* an instance's share in the cache */
struct cuda_ipc_mapping;

/** One use of a mapping; a plain value, released once. */
struct cuda_ipc_ref {
    cuda_ptr base; /* valid in the context that acquired it */
    uint64_t bytes; /* 0 = the driver does not tell (only of bare handles) */
    struct cuda_ipc_mapping *mapping; /* one of these two holds the memory */
    struct cuda_ipc_export *own; /* memory of this process */
};

/** Counts since the process began using the cache. */
struct cuda_ipc_map_stats {
    uint64_t hits;
    uint64_t misses; /* opened, or tried to */
    uint64_t stale; /* found under their name, but with another handle */
    uint64_t evicted; /* unused ones closed for room */
    uint64_t dropped; /* closed because their exporter is gone */
    uint64_t refused; /* full and all in use */
    uint64_t failures; /* the driver would not open */
    uint64_t own; /* memory of this process */
    uint64_t entries; /* now */
    uint64_t in_use; /* now: entries with a user */
    uint64_t bytes; /* now */
};

/**
 * Takes part in the cache. Limits in force are the largest that anybody taking part asks for.
 * @param api      copied; its library stays loaded
 * @param entries  mappings; 0 = CUDA_IPC_MAP_ENTRIES
 * @param bytes    mapped memory; 0 = no limit
 * @return 0; -ENOMEM; -EINVAL too many entries; -ECHILD this is a fork of a process that uses it.
 */
int cuda_ipc_map_open(const struct cuda_ipc_api *api, uint32_t entries, uint64_t bytes,
                      struct cuda_ipc_map **map_out, struct kvl_err *err);

/**
 * Takes part no more. All that was acquired through it has been released. The last one closes all
 * mappings. Takes NULL.
 */
void cuda_ipc_map_close(struct cuda_ipc_map *map);

/**
 * Maps an allocation of another process, or finds it mapped. A hit is one lock and no system call;
 * a miss blocks while the driver opens, for about a millisecond. Memory that this very process
 * exports is found in its list of exports and used as it is; an address from outside never is.
 * @param place  device to use it on: its context must be one of this map's driver
 * @param fd     descriptor of a CUDA_IPC_SHARE_FD; borrowed; -1 when there is none
 * @return 0; -EBADF not mapped yet, and `fd` is -1: ask the exporter for it; -ENOMEM the cache is
 *         full of mappings in use; -ENODEV the memory's device is not visible here; -ENOTSUP the
 *         two devices cannot reach each other, or the driver cannot share; -EBADMSG the allocation
 *         is shorter than told; -ESTALE freed, or our own but not exported any more; -EACCES, -EIO,
 *         -EINVAL of the driver; -ECHILD; -ETIMEDOUT. One sentence in err.
 */
int cuda_ipc_map_acquire(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                         const struct cuda_ipc_share *share, int fd, struct cuda_ipc_ref *ref_out,
                         struct kvl_err *err);

/**
 * Maps what torch names by 64 handle bytes alone. Users of the same handle at the same time share
 * the mapping; it closes with the last of them, as its exporter waits for that.
 * @param who  the exporter as far as known, for cuda_ipc_map_drop
 * @return as cuda_ipc_map_acquire.
 */
int cuda_ipc_map_acquire_bare(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                              const struct cuda_ipc_who *who, const uint8_t *handle,
                              struct cuda_ipc_ref *ref_out, struct kvl_err *err);

/** Segments of another process's virtual memory, to be mapped one behind the other. */
struct cuda_ipc_segments {
    struct cuda_ipc_who who; /* the exporter */
    uint64_t segment_bytes; /* of each; a multiple of the device's granularity */
    uint32_t count; /* 1 .. CUDA_IPC_SEGMENTS_MAX */
    uint32_t name_bytes; /* of each entry of `names` */
    const uint8_t *names; /* what the exporter calls them; how they are found again */
};

/**
 * Gives a descriptor of ours for segment `index`, which the caller closes. @return 0 or a negative
 * errno, and err.
 */
typedef int (*cuda_ipc_segment_fn)(void *ctx, uint32_t index, int *fd_out, struct kvl_err *err);

/**
 * Maps segments. Shared and closed as those of acquire_bare. `fetch` is called on a miss only, once
 * per segment in order, with no lock held.
 */
int cuda_ipc_map_acquire_segments(struct cuda_ipc_map *map, const struct cuda_ipc_place *place,
                                  const struct cuda_ipc_segments *segments,
                                  cuda_ipc_segment_fn fetch, void *ctx,
                                  struct cuda_ipc_ref *ref_out, struct kvl_err *err);

/** Gives a use back. Copies from and to it have ended. An all-zero one is left alone. */
void cuda_ipc_map_release(struct cuda_ipc_ref *ref);

/** A process is gone: its unused mappings close now, the others when released; none is found. */
void cuda_ipc_map_drop(const struct cuda_ipc_who *who);

void cuda_ipc_map_get_stats(struct cuda_ipc_map_stats *stats_out);

#endif /* KVL_CUDA_IPC_MAP_H */
