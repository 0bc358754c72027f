/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file torch_rig.h
 * A peer that shares a KV cache the way torch does: wrappers, an event per layer, and a file of
 * counters. Its layers are [2, 4, 16, 2, 16] of float16, each filled with a byte of its own.
 */
#ifndef KVL_TORCH_RIG_H
#define KVL_TORCH_RIG_H

#include "share_rig.h"

#define TORCH_PEER "torch"
#define TORCH_LAYERS_MAX 16u
#define TORCH_LAYER_BYTES 8192u
#define TORCH_MESSAGE_MAX 65536u
#define TORCH_SEGMENT (2u << 20) /* granularity of the fake */
#define TORCH_SEGMENTS 2u

enum torch_kind { TORCH_MALLOC, TORCH_RAW, TORCH_EXPANDABLE };

/** What is wrong, of the last layer unless it says otherwise. */
enum torch_fault {
    TORCH_SOUND,
    TORCH_NO_COUNTERS, /* there is no such file */
    TORCH_COUNTED, /* all counters are 0 already */
    TORCH_TWO_USERS, /* no fault: all counters are 2 */
    TORCH_OTHER_UUID, /* all layers are on a device that nobody has */
    TORCH_ODD_UUID, /* all layers have "GPU-" before the UUID */
    TORCH_OTHER_LAYOUT,
    TORCH_OTHER_PROCESS, /* its counter is of another pid */
    TORCH_TOO_LONG, /* ends behind its allocation */
    TORCH_BAD_EVENT,
    TORCH_OTHER_PID, /* expandable: of another process than the counter */
    TORCH_BAD_FD, /* expandable: a descriptor that is not open */
    TORCH_FABRIC, /* expandable: fabric handles */
};

struct torch_order {
    uint32_t kind;
    uint32_t fault;
    uint32_t layers;
    uint32_t is_held; /* its writes wait, and so do the events behind them, until told */
};

struct torch_peer {
    struct cuda_rig_peer peer;
    uint64_t length;
    uint8_t message[TORCH_MESSAGE_MAX];
    char counters[64]; /* name of the file */
};

int torch_peer_run(int fd);

/** Starts a peer, and takes its message. */
void torch_peer_start(struct torch_peer *peer, const struct torch_order *order);
/** Lets held writes go on. */
void torch_peer_go(struct torch_peer *peer);
/** Ends it; it checks that it leaked nothing. */
void torch_peer_end(struct torch_peer *peer);

/** Removes the counters of a peer that was killed. */
void torch_peer_unlink(const struct torch_peer *peer);

/** Value of a layer's counter; INT64_MIN when there is no file. */
int64_t torch_peer_counter(const struct torch_peer *peer, uint32_t layer);

/** The byte that a layer is full of. */
uint8_t torch_peer_fill(uint32_t layer);

#endif /* KVL_TORCH_RIG_H */
