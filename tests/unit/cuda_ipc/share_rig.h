/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file share_rig.h
 * What tests of shared memory have in common: places, and a peer that exports what it is told to.
 */
#ifndef KVL_SHARE_RIG_H
#define KVL_SHARE_RIG_H

#include "cuda_ipc_export.h"
#include "cuda_ipc_map.h"
#include "cuda_rig.h"

/** A peer that exports. */
struct share_peer {
    struct cuda_rig_peer peer;
    uint32_t made;
};

/** Role of a peer that obeys orders until the other end of its socket closes. */
#define SHARE_EXPORTER "exporter"
int share_exporter_run(int fd);

/** A device as the backend has it; its context is retained until share_place_fini(). */
void share_place_init(const struct cuda_rig *rig, int ordinal, struct cuda_ipc_place *place_out);
void share_place_fini(const struct cuda_ipc_place *place);

void share_start(struct share_peer *peer);

/** What the exporter made. */
struct share_made {
    struct cuda_ipc_share share;
    int fd; /* -1 for legacy */
    uint32_t index; /* of it at the exporter */
};

/** Has the exporter allocate `bytes` bytes on a device and fill them. */
void share_make(struct share_peer *peer, uint32_t way, int ordinal, uint64_t bytes, uint8_t fill,
                struct share_made *made_out);
/** Has it free one again. */
void share_unmake(struct share_peer *peer, struct share_made *made);
/** Ends it; it checks that it leaked nothing. */
void share_end(struct share_peer *peer);

void share_send(int fd, const struct cuda_ipc_share *share, int passed);
void share_recv(int fd, struct share_made *made_out);

/** 1 when `bytes` bytes at `at` all are `fill`. */
int share_is_filled(const struct cuda_rig *rig, cuda_ptr at, uint64_t bytes, uint8_t fill);

#endif /* KVL_SHARE_RIG_H */
