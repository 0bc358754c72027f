/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file metrics_text.h
 * A text that grows, up to a bound, and the escapes of the two formats it is written in.
 */
#ifndef KVL_METRICS_TEXT_H
#define KVL_METRICS_TEXT_H

#include <stdbool.h>

#include <kvlane/abi.h>

/** More than any instance has to say; a page that gets there is answered with 500. */
#define METRICS_TEXT_MAX ((size_t)4 * 1024 * 1024)

struct metrics_text {
    char *at; /* owned, with a terminator; NULL while empty */
    size_t used;
    size_t size;
    bool failed; /* sticky: no memory, or over the bound */
};

/** Appends. After a failure it does nothing. */
void metrics_text_add(struct metrics_text *text, const char *fmt, ...) KVL_PRINTF(2, 3);

/** Appends the inside of a label value: \ " and newline escaped, other control bytes as dots. */
void metrics_text_add_label(struct metrics_text *text, const char *value);

/** Appends a JSON string with its quotes. Bytes that are no UTF-8 become '?'. */
void metrics_text_add_json(struct metrics_text *text, const char *value);

/** Frees. Takes a zeroed text. */
void metrics_text_fini(struct metrics_text *text);

#endif /* KVL_METRICS_TEXT_H */
