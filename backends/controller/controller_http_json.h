/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_http_json.h
 * Reads JSON in two steps: the whole text is checked once, then values are walked in place. Pure
 * functions, no memory of their own.
 */
#ifndef KVL_CONTROLLER_HTTP_JSON_H
#define KVL_CONTROLLER_HTTP_JSON_H

#include "controller_http_text.h"

/** Lists and objects inside each other. */
#define CONTROLLER_JSON_DEPTH 64u

enum controller_json_kind {
    CONTROLLER_JSON_NULL,
    CONTROLLER_JSON_FALSE,
    CONTROLLER_JSON_TRUE,
    CONTROLLER_JSON_NUMBER,
    CONTROLLER_JSON_STRING,
    CONTROLLER_JSON_LIST,
    CONTROLLER_JSON_OBJECT,
};

/** A value within a checked text. */
struct controller_json {
    const char *at;
    size_t length;
    enum controller_json_kind kind;
};

/** Members of a list or an object. */
struct controller_json_walk {
    const char *at;
    const char *end;
    bool is_object;
};

struct controller_json_error {
    size_t at; /* in characters, as Python counts them */
    const char *text; /* in the words of Python's json */
};

/**
 * Checks a text that holds one value.
 * @return 0 and the value; -EPROTO and where and why not; -EILSEQ it is not UTF-8.
 */
int controller_json_check(const char *text, size_t length, struct controller_json *value_out,
                          struct controller_json_error *error_out);

/** Starts with the first member of a checked list or object. */
struct controller_json_walk controller_json_members(const struct controller_json *value);

/** @param key_out  the name, a string; for objects only, else NULL. @return false at the end. */
bool controller_json_next(struct controller_json_walk *walk, struct controller_json *key_out,
                          struct controller_json *value_out);

/**
 * The text of a checked string. Points into it when it has no escapes, else into `room`.
 * @param room  value->length bytes
 */
struct kvl_text controller_json_string(const struct controller_json *value, char *room);

enum controller_json_int {
    CONTROLLER_INT_OK,
    CONTROLLER_INT_TYPE, /* a value that is no number */
    CONTROLLER_INT_PARSING, /* a string that is no number */
    CONTROLLER_INT_FRACTION,
    CONTROLLER_INT_SIZE, /* outside -2^63 .. 2^64-1 */
};

/** An integer as lenient readers take it: also 1.0, true, "1". */
enum controller_json_int controller_json_number(const struct controller_json *value,
                                                struct kvl_chunk_id *number_out);

/** The same for text that came without JSON: `12`, ` -5 `, `1_000`, `7.0`. */
enum controller_json_int controller_json_digits(const char *text, size_t length,
                                                struct kvl_chunk_id *number_out);

/** Appends a checked value without the blanks between its parts. */
void controller_json_copy(struct controller_text *text, const struct controller_json *value);

#endif /* KVL_CONTROLLER_HTTP_JSON_H */
