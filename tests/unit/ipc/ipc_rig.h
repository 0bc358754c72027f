/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_rig.h
 * What the tests of the IPC types share. Everything here asserts.
 */
#ifndef KVL_IPC_RIG_H
#define KVL_IPC_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <kvlane/ipc.h>

/** A wrapper of form A that passes the checks: fp16 [2, 3, 4], 'c' handle. Static memory. */
struct kvl_ipc_wrapper ipc_rig_wrapper(void);

/** A key of generation A: model "m", world 2, worker 1, a hash of four bytes. Static memory. */
struct kvl_ipc_key ipc_rig_key(void);

/** An error record that is ready to be filled. */
struct kvl_err ipc_rig_err(void);

/** decode with as much room as it asks for. ipc_rig_free() takes the arrays back. */
int ipc_rig_decode(const struct kvl_ipc_options *options, uint32_t kind, const void *bytes,
                   size_t length, struct kvl_ipc_value *value_out, struct kvl_err *err);
void ipc_rig_free(struct kvl_ipc_value *value);

/** encode into memory of just the size; yours to free. */
uint8_t *ipc_rig_encode(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                        size_t *length_out);

/** The line of ipc_text.h; yours to free. */
char *ipc_rig_text(const struct kvl_ipc_value *value);
char *ipc_rig_wrapper_text(const struct kvl_ipc_wrapper *wrapper);

/** Every view lies in the bytes, or is empty. */
void ipc_rig_inside(const struct kvl_ipc_value *value, const void *bytes, size_t length);
void ipc_rig_wrapper_inside(const struct kvl_ipc_wrapper *wrapper, const void *bytes,
                            size_t length);

/** A refusal has a code, and one sentence that says where in the input. */
void ipc_rig_told(int r, const struct kvl_err *err);

/** Numbers that are the same in every run. */
uint64_t ipc_rig_random(uint64_t *state);

#endif /* KVL_IPC_RIG_H */
