/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_op.h
 * What is kept of a batch from submit to completion. Its items are worked on one by one, by several
 * threads at once where they only read.
 */
#ifndef KVL_DISK_OP_H
#define KVL_DISK_OP_H

#include <stdatomic.h>
#include <stdbool.h>

#include <kvlane/host.h>

enum disk_op_kind { DISK_LOOKUP, DISK_READ, DISK_LIST, DISK_WRITE, DISK_REMOVE };

struct disk_item {
    struct kvl_key key; /* in the op's own memory */
    struct kvl_attrs attrs;
    uint64_t bytes; /* to write, or expected */
    uint64_t checksum;
    uint32_t flags; /* KVL_CHUNK_ */
    uint32_t sg_count;
    const struct kvl_sg *sg; /* in the op's own memory */
};

struct disk_op {
    struct disk_op *next; /* in the lane, guarded by the queue's lock, as are */
    struct disk_op *prev;
    struct disk_op *known_next; /* all that are accepted */
    struct disk_op *known_prev;
    uint32_t taken; /* items given to threads */
    bool waiting; /* in the lane */

    enum disk_op_kind kind;
    uint32_t count;
    uint64_t cookie;
    uint64_t deadline_ms;
    const struct kvl_host *host; /* borrowed */
    bool has_sg;
    atomic_bool cancel;
    atomic_uint open; /* items without a status */
    _Atomic uint64_t bytes; /* payload moved */
    int32_t *status;
    struct disk_item *items;
};

/**
 * Checks a batch and copies what is needed of it.
 * @return 0; -EINVAL, -EMSGSIZE, -ENOTSUP, -ENOMEM as in backend.h.
 */
int disk_op_create(enum disk_op_kind kind, const struct kvl_host *host,
                   const struct kvl_batch *batch, uint64_t max_bytes, struct disk_op **op_out);

/** A list operation. @return 0; -ENOMEM. */
int disk_op_create_list(const struct kvl_host *host, uint64_t cookie, uint64_t deadline_ms,
                        struct disk_op **op_out);

/** Frees. Takes NULL. */
void disk_op_destroy(struct disk_op *op);

/** @return 0 while the op should go on; -ECANCELED; -ETIMEDOUT. Cheap. */
int disk_op_code(const struct disk_op *op);

/** Reports the end to the core. */
void disk_op_complete(struct disk_op *op);

#endif /* KVL_DISK_OP_H */
