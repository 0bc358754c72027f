/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_UTF8_H
#define KVL_UTF8_H

#include <kvlane/abi.h>

/**
 * Bytes of the UTF-8 sequence at `text`; 0 when it is none, or longer than `left`, which is at
 * least 1. Surrogates and overlong forms are none. Reads no byte behind the first that does not
 * fit, so for terminated text `left` may be 4.
 */
size_t kvl_utf8_sequence(const void *text, size_t left);

#endif /* KVL_UTF8_H */
