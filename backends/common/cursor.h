/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cursor.h
 * Bounded little-endian reader and writer. An access beyond the end sets an error that stays, so
 * one check at the end covers every access before it. No I/O, no allocation.
 */
#ifndef KVL_CURSOR_H
#define KVL_CURSOR_H

#include <kvlane/abi.h>

/** Reads a borrowed buffer. Fields are private. */
struct kvl_cursor {
    const uint8_t *at;
    size_t left;
    int failed;
};

/** Writes into a borrowed buffer. Fields are private. */
struct kvl_writer {
    uint8_t *at;
    size_t left;
    size_t written;
    int failed;
};

void kvl_cursor_init(struct kvl_cursor *in, const void *bytes, size_t length);

/** The getters return 0, or NULL, when too few bytes are left, and from then on. */
uint8_t kvl_cursor_get_u8(struct kvl_cursor *in);
uint32_t kvl_cursor_get_u32le(struct kvl_cursor *in);
int32_t kvl_cursor_get_i32le(struct kvl_cursor *in);
uint64_t kvl_cursor_get_u64le(struct kvl_cursor *in);

/** Points at the next `length` bytes of the buffer itself and steps over them. */
const uint8_t *kvl_cursor_get_bytes(struct kvl_cursor *in, size_t length);

/** Bytes not yet read; 0 after an error. */
size_t kvl_cursor_left(const struct kvl_cursor *in);

/** 1 when any getter ran out of bytes. */
int kvl_cursor_failed(const struct kvl_cursor *in);

void kvl_writer_init(struct kvl_writer *out, void *bytes, size_t capacity);

/** The putters write nothing when too little room is left, and from then on. */
void kvl_writer_put_u8(struct kvl_writer *out, uint8_t value);
void kvl_writer_put_u32le(struct kvl_writer *out, uint32_t value);
void kvl_writer_put_i32le(struct kvl_writer *out, int32_t value);
void kvl_writer_put_u64le(struct kvl_writer *out, uint64_t value);
void kvl_writer_put_bytes(struct kvl_writer *out, const void *bytes, size_t length);
void kvl_writer_put_fill(struct kvl_writer *out, uint8_t value, size_t count);

/** Bytes written so far. */
size_t kvl_writer_written(const struct kvl_writer *out);

/** 1 when any putter ran out of room. */
int kvl_writer_failed(const struct kvl_writer *out);

#endif /* KVL_CURSOR_H */
