/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_op.h
 * What is kept of a batch from submit to completion, and its copies under way.
 */
#ifndef KVL_CUDA_IPC_OP_H
#define KVL_CUDA_IPC_OP_H

#include "cuda_ipc_core.h"

enum cuda_ipc_kind {
    CUDA_IPC_OP_LOOKUP,
    CUDA_IPC_OP_READ,
    CUDA_IPC_OP_WRITE,
    CUDA_IPC_OP_REMOVE,
    CUDA_IPC_OP_GATHER,
    CUDA_IPC_OP_SCATTER,
};

/** The engine's side of a batch. */
enum cuda_ipc_engine_kind {
    CUDA_IPC_ENGINE_NONE, /* read: the host says where, chunk by chunk */
    CUDA_IPC_ENGINE_KV, /* blocks of a registered cache */
    CUDA_IPC_ENGINE_RUNS, /* runs in device memory */
    CUDA_IPC_ENGINE_HOST_RUNS,
};

struct cuda_ipc_engine {
    enum cuda_ipc_engine_kind kind;
    int device; /* KV, RUNS */
    cuda_stream stream;
    struct cuda_ipc_kv *kv; /* held */
    const uint32_t *blocks;
    const uint32_t *block_first;
    const struct kvl_sg *sg;
    const uint32_t *sg_first;
};

/** One chunk of an op that reads or writes chunks. */
struct cuda_ipc_item {
    struct kvl_chunk want; /* key text in the op's memory */
    uint64_t bytes; /* to be moved, once known */
    struct cuda_ipc_chunk *chunk; /* own pool: a reference; write: a reservation */
    void *target; /* ENGINE_NONE: host memory for it */

    /* the search: the net's thread alone */
    uint64_t candidates; /* bit per link that may have it */
    struct cuda_ipc_link *link; /* that gave a lease */
    uint64_t epoch;
    uint64_t lease;
    uint64_t offset;
    uint32_t segment;
    bool is_open; /* looked for */
    bool was_looked_up; /* at all peers */
    bool is_copied; /* a part has it */
};

/** Bytes of some chunks of an op, on their way. */
struct cuda_ipc_haul {
    struct cuda_ipc_haul *next; /* of the same op, under ops_lock */
    struct cuda_ipc_op *op;
    struct cuda_ipc_work work; /* back to the net's thread */
    uint64_t id; /* of the job */
    uint32_t layers; /* that have arrived; under ops_lock */
    int device; /* that works on it */
    bool is_over; /* under ops_lock */
    void (*over)(struct cuda_ipc_haul *part);
    struct cuda_ipc_ref *refs; /* owned; memory of a peer that is read */
    uint32_t ref_count;
    uint32_t count; /* chunks */
    uint32_t job_count; /* pieces that the copy engine knows as chunks */
    uint32_t *map; /* of each piece the chunk; owned; NULL = items[piece] */
    uint32_t items[]; /* chunks, as indices of the op */
};

/** A request to a peer on behalf of an op. */
struct cuda_ipc_query {
    struct cuda_ipc_ask ask;
    struct cuda_ipc_query *next;
    struct cuda_ipc_op *op;
    uint32_t items[CUDA_IPC_WIRE_KEYS_MAX];
};

struct cuda_ipc_op {
    struct cuda_ipc_op *next; /* of the instance, under ops_lock, as is */
    struct cuda_ipc_op *prev;
    struct cuda_ipc_haul *parts; /* all of them */
    uint32_t layers; /* told to the host */
    bool is_spread; /* no further parts will come */
    uint32_t covered; /* chunks that a part has, or had */
    bool has_failed; /* a chunk of a part did not arrive */
    bool is_searching; /* the net's thread looks for its chunks */

    struct cuda_ipc *self;
    struct cuda_ipc_work work; /* to the net's thread */
    enum cuda_ipc_kind kind;
    uint32_t count;
    uint64_t cookie;
    uint64_t deadline_ms; /* KVL_NEVER = none */
    struct cuda_ipc_engine engine;
    _Atomic int cancel; /* 0, or the code it ends with */
    atomic_uint open; /* parts, and 1 for who still adds some */
    _Atomic uint64_t bytes; /* GATHER, SCATTER: moved */
    int driver_code; /* of the first failure, under ops_lock */

    /* the search: the net's thread alone */
    struct cuda_ipc_query *queries; /* without answer */
    bool is_asking; /* queries are being sent: their answers wait for the last */

    void *kept; /* owned: copy of the engine's side */
    int32_t *status;
    struct cuda_ipc_item *items; /* NULL for GATHER and SCATTER */
};

/**
 * Checks a batch and copies what is needed of it; holds its KV cache. The engine's side still
 * points into the batch: see cuda_ipc_op_keep().
 * @return 0; -EINVAL, -EAGAIN, -ECANCELED, -ENODEV, also of a KV cache that is lost; -ENOMEM.
 */
int cuda_ipc_op_create(struct cuda_ipc *self, enum cuda_ipc_kind kind,
                       const struct kvl_batch *batch, struct cuda_ipc_op **op_out);

/** Forgets an op that no one knows of yet: the batch is refused. */
void cuda_ipc_op_refuse(struct cuda_ipc_op *op);

/** Copies the engine's side, so that it outlives the submit call. @return 0; -ENOMEM. */
int cuda_ipc_op_keep(struct cuda_ipc_op *op);

/** 0 while it should go on; -ECANCELED, -ETIMEDOUT. */
int cuda_ipc_op_code(const struct cuda_ipc_op *op);

/** Whoever holds it open lets go; the last one completes it. Not from inside submit. */
void cuda_ipc_op_close(struct cuda_ipc_op *op);

/** The same from inside submit: the completion comes from the net's thread. */
void cuda_ipc_op_close_later(struct cuda_ipc_op *op);

/** No further parts: progress can be told. */
void cuda_ipc_op_spread(struct cuda_ipc_op *op);

/** Cancels the op of that cookie and waits until none of its bytes is written any more. */
void cuda_ipc_op_cancel(struct cuda_ipc *self, uint64_t cookie);
void cuda_ipc_op_cancel_all(struct cuda_ipc *self);

/** Waits until there are no ops. @return 0; -ETIMEDOUT. */
int cuda_ipc_op_drain(struct cuda_ipc *self, uint64_t deadline_ms);

/* ---- parts: cuda_ipc_haul.c ---- */

/** Where the other side of a part lies: addresses by position in the part. */
struct cuda_ipc_far {
    int device; /* KVL_DEVICE_HOST: hosts */
    const cuda_ptr *addrs;
    const void *const *hosts;
};

/** A part for `count` chunks. @return NULL without memory. */
struct cuda_ipc_haul *cuda_ipc_haul_create(struct cuda_ipc_op *op, const uint32_t *items,
                                           uint32_t count);

/**
 * Gives a part to the copy engine, which copies between the engine's side of the op and `far`. The
 * caller holds the op open.
 * @param bytes   of each chunk of the part; borrowed for the call, as is `far`
 * @param is_out  1 from the engine to `far`
 * @param over    its end: the status of its chunks is set; from a thread of the device. The part is
 *                the callee's to destroy, and the op its to close
 * @return 0 and the op is open once more; -EAGAIN, -EINVAL, .. of cuda_ipc_copy_submit(); -EMSGSIZE
 *         too many runs; -ECANCELED; -ENOMEM. The part is still the caller's then.
 */
int cuda_ipc_haul_submit(struct cuda_ipc_haul *part, const uint64_t *bytes,
                         const struct cuda_ipc_far *far, int is_out,
                         void (*over)(struct cuda_ipc_haul *part));

/** Frees. What it holds was given back. */
void cuda_ipc_haul_destroy(struct cuda_ipc_haul *part);

/* ---- data operations: cuda_ipc_move.c, cuda_ipc_search.c ---- */

int cuda_ipc_move_lookup(struct cuda_ipc *self, const struct kvl_batch *batch);
int cuda_ipc_move_read(struct cuda_ipc *self, const struct kvl_batch *batch);
int cuda_ipc_move_write(struct cuda_ipc *self, const struct kvl_batch *batch);
int cuda_ipc_move_remove(struct cuda_ipc *self, const struct kvl_batch *batch);
int cuda_ipc_move_list(struct cuda_ipc *self, uint64_t cookie);
int cuda_ipc_move_gather(struct cuda_ipc *self, const struct kvl_batch *batch, void *const *to);
int cuda_ipc_move_scatter(struct cuda_ipc *self, const struct kvl_batch *batch,
                          const void *const *from);

/**
 * Whether what was found is what the item wants; where the host says where, asks it.
 * @return 0 and item->bytes, item->target; -EBADMSG; what the host said.
 */
int cuda_ipc_move_fits(struct cuda_ipc_op *op, uint32_t index, uint64_t bytes,
                       const struct kvl_attrs *attrs, uint32_t flags, uint64_t checksum);

/** Looks for the items that are open at peers. In the net's thread; closes the op. */
void cuda_ipc_search_begin(struct cuda_ipc_op *op);

/** Ends the search of an op that was cancelled. In the net's thread. */
void cuda_ipc_search_stop(struct cuda_ipc_op *op);

/** A peer came or went: see struct cuda_ipc_net_env. */
void cuda_ipc_search_link(void *ctx, struct cuda_ipc_link *link, int is_up);

#endif /* KVL_CUDA_IPC_OP_H */
