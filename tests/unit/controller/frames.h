/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file frames.h
 * Frames for the tests of the codec, written so that one can read them.
 */
#ifndef KVL_FRAMES_H
#define KVL_FRAMES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

struct frame {
    uint8_t *bytes; /* free(); of just this length, so that a sanitizer sees the byte beyond */
    size_t length;
};

/**
 * msgpack from words: `{3` and `[3` heads, `'text'`, `7` and `-7`, `nil`, `true`, `false`, `f1.5`,
 * and `xc1ff` for bytes as they are.
 */
struct frame frame_of(const char *words);
struct frame frame_of_hex(const char *hex);

#endif /* KVL_FRAMES_H */
