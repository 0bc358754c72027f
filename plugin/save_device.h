/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file save_device.h
 * Saves from the memory of a device. The backend that moves that memory brings the chunks into room
 * made for them in the own store (gather); those with `put_to` that work on that memory themselves
 * are given it at once; the others get what the store has.
 */
#ifndef KVL_PLUGIN_SAVE_DEVICE_H
#define KVL_PLUGIN_SAVE_DEVICE_H

#include "answer.h"

/** As kvl_plugin.save, for a place with a mover. Goes on in kvl_save_device_advance. */
int kvl_save_device(struct kvl_instance *instance, const struct kvl_batch *batch,
                    const struct kvl_place *place, struct kvl_answer *answer,
                    struct kvl_result *result, uint64_t *op_out);

/** Starts what can be started now. Never waits. @return flights under way; 0 = the op is done. */
uint32_t kvl_save_device_advance(struct kvl_instance *instance, struct kvl_op *op);

#endif /* KVL_PLUGIN_SAVE_DEVICE_H */
