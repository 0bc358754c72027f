/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_text.h
 * Values of ipc.h as one line of text, which tests in C and in Python make alike. Texts and bytes
 * are hex.
 */
#ifndef KVL_IPC_TEXT_H
#define KVL_IPC_TEXT_H

#include <stdio.h>

#include <kvlane/ipc.h>

void ipc_text_key(FILE *out, const struct kvl_ipc_key *key);
void ipc_text_wrapper(FILE *out, const struct kvl_ipc_wrapper *wrapper);
void ipc_text_value(FILE *out, const struct kvl_ipc_value *value);

/** Bytes of just their length, so that a sanitizer sees the byte beyond. Yours to free. */
uint8_t *ipc_text_bytes(const char *hex, size_t *length_out);

#endif /* KVL_IPC_TEXT_H */
