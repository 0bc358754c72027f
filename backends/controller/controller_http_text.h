/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_http_text.h
 * A text that grows, up to a bound, and the pieces that answers over HTTP are made of. Numbers come
 * out the same in every locale: an engine may have set one.
 */
#ifndef KVL_CONTROLLER_HTTP_TEXT_H
#define KVL_CONTROLLER_HTTP_TEXT_H

#include <stdbool.h>

#include <kvlane/registry.h>

/** A fleet of 100,000 workers fits; an answer that gets there is a 500. */
#define CONTROLLER_TEXT_MAX ((size_t)64 * 1024 * 1024)

struct controller_text {
    char *at; /* owned, with a terminator; NULL while empty */
    size_t used;
    size_t size;
    bool failed; /* sticky: no memory, or over the bound */
};

/** Appends. After a failure all of these do nothing. */
void controller_text_add(struct controller_text *text, const char *fmt, ...) KVL_PRINTF(2, 3);
void controller_text_bytes(struct controller_text *text, const char *bytes, size_t length);
void controller_text_put(struct controller_text *text, const char *terminated);
void controller_text_unsigned(struct controller_text *text, uint64_t number);
void controller_text_signed(struct controller_text *text, int64_t number);
void controller_text_id(struct controller_text *text, const struct kvl_chunk_id *id);

/** A number with up to six digits behind the point and at least one; 0 when it is not finite. */
void controller_text_real(struct controller_text *text, double number);

/** A JSON string with its quotes. Bytes that are no UTF-8 become '?'. */
void controller_text_json(struct controller_text *text, const char *value, size_t length);
void controller_text_json0(struct controller_text *text, const char *terminated);

/** `"name":` of a JSON object, for a name that needs no escape. */
void controller_text_name(struct controller_text *text, const char *name);

/** The inside of a label value of Prometheus. */
void controller_text_label(struct controller_text *text, const char *terminated);

/** Frees. Takes a zeroed text. */
void controller_text_fini(struct controller_text *text);

#endif /* KVL_CONTROLLER_HTTP_TEXT_H */
