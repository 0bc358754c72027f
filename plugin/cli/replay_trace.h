/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file replay_trace.h
 * Reads a Mooncake-format request trace, one JSON object a line, in bounded memory.
 */
#ifndef KVL_REPLAY_TRACE_H
#define KVL_REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Tokens that one hash id stands for. */
#define TRACE_BLOCK_TOKENS 512u

#define TRACE_LINE_MAX (4u << 20)
#define TRACE_IDS_MAX 65536u /* a batch of the host ABI takes no more */

struct trace_request {
    uint64_t timestamp;
    uint64_t input_length;
    uint64_t output_length;
    uint64_t *ids; /* TRACE_IDS_MAX of room, kept from line to line */
    uint32_t id_count;
};

struct trace;

/** Opens a trace ("-" is stdin). @return 0; negative errno. */
int trace_open(const char *path, struct trace **trace_out);
void trace_close(struct trace *trace);

/**
 * Reads the next request. @return 1; 0 at the end; -EBADMSG for a line that is not one, with
 * trace_error(); another negative errno when reading failed. After -EBADMSG the next call goes on
 * with the line after it.
 */
int trace_next(struct trace *trace, struct trace_request *request);

/** "FILE:LINE: what is wrong, what was expected" of the last -EBADMSG. */
const char *trace_error(const struct trace *trace);

/** Size of the file (0 = not known), and how much of it was read. */
uint64_t trace_size(const struct trace *trace);
uint64_t trace_position(const struct trace *trace);

/** Parses one line without its end. @return 0; -EBADMSG and a sentence. For tests as well. */
int trace_parse_line(const char *line, size_t length, struct trace_request *request, char *why_out,
                     size_t why_size);

#endif /* KVL_REPLAY_TRACE_H */
