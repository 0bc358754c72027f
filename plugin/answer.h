/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file answer.h
 * What an engine is told: status and location of every chunk of a batch, gathered first from this
 * process and then, through an op, from the backends.
 */
#ifndef KVL_PLUGIN_ANSWER_H
#define KVL_PLUGIN_ANSWER_H

#include "core.h"

/* Batches up to this size are answered from the own store without an allocation. */
#define SMALL 512

/* Status and location of every chunk of a batch, in the caller's arrays where there are any. */
struct kvl_answer {
    int32_t *status;
    uint8_t *location;
    uint32_t count;
    uint64_t bytes;
    void *heap;
    int32_t small_status[SMALL];
    uint8_t small_location[SMALL];
};

/** Finds what may be wrong with a batch, but for memory (place.h). @return 0; -EINVAL. */
int kvl_answer_check(const struct kvl_batch *batch, const struct kvl_result *result);

/** Arrays for `count` chunks. @return 0; -ENOMEM. */
int kvl_answer_init(struct kvl_answer *answer, uint32_t count, const struct kvl_result *result);
void kvl_answer_fini(struct kvl_answer *answer);

/** How many items are 0. */
uint32_t kvl_answer_good(const int32_t *status, uint32_t count);

/** Ends a call that needed no backend. @return `overall`. */
int kvl_answer_done(const struct kvl_answer *answer, enum kvl_op_kind kind,
                    struct kvl_result *result, uint64_t *op_out);

/** An op with the batch's deadline; NULL without memory. @param place  see kvl_op_create */
struct kvl_op *kvl_answer_op(struct kvl_instance *instance, enum kvl_op_kind kind,
                             const struct kvl_batch *batch, const struct kvl_place *place);

/** The same, with what is known so far and an item for each chunk that is still open. */
struct kvl_op *kvl_answer_op_for_rest(struct kvl_instance *instance, enum kvl_op_kind kind,
                                      const struct kvl_batch *batch, const struct kvl_place *place,
                                      const struct kvl_answer *answer);

/** Copies what is known so far into an op. */
void kvl_answer_give(struct kvl_op *op, const struct kvl_answer *answer);

/** Runs an op: to its end, or, with op_out, until it would have to wait. */
int kvl_answer_start(struct kvl_instance *instance, struct kvl_op *op, struct kvl_result *result,
                     uint64_t *op_out);

/** Waits for an op as long as it may; the engine is told at the end and the op is gone. */
int kvl_answer_finish(struct kvl_instance *instance, struct kvl_op *op, uint64_t deadline_ms,
                      struct kvl_result *result);

#endif /* KVL_PLUGIN_ANSWER_H */
