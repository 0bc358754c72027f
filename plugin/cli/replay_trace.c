/* SPDX-License-Identifier: Apache-2.0 */
#include "replay_trace.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <kvlane/abi.h>

#define DEPTH_MAX 16 /* nesting inside fields we skip */
#define WHY_MAX 200

struct trace {
    FILE *file;
    char *path;
    char *line; /* TRACE_LINE_MAX + 1 bytes, touched only as far as lines are long */
    uint64_t line_number;
    uint64_t position;
    uint64_t size;
    char error[512];
};

/* ---- one line ---- */

/** A reader over one line. The first error sticks. */
struct scan {
    const char *at;
    const char *end;
    const char *begin;
    char *why;
    size_t why_size;
};

static int scan_fail(const struct scan *scan, const char *fmt, ...) KVL_PRINTF(2, 3);

static int scan_fail(const struct scan *scan, const char *fmt, ...)
{
    char what[WHY_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(what, sizeof(what), fmt, args);
    va_end(args);
    (void)snprintf(scan->why, scan->why_size, "column %zu: %s",
                   (size_t)(scan->at - scan->begin) + 1, what);
    return -EBADMSG;
}

static void scan_space(struct scan *scan)
{
    while (scan->at < scan->end && (*scan->at == ' ' || *scan->at == '\t' || *scan->at == '\r')) {
        scan->at++;
    }
}

/* Steps over one character when it is the next one. */
static bool scan_take(struct scan *scan, char c)
{
    scan_space(scan);
    if (scan->at < scan->end && *scan->at == c) {
        scan->at++;
        return true;
    }
    return false;
}

static int scan_expect(struct scan *scan, char c, const char *where)
{
    if (scan_take(scan, c)) {
        return 0;
    }
    if (scan->at >= scan->end) {
        return scan_fail(scan, "the line ends, expected '%c' %s", c, where);
    }
    return scan_fail(scan, "expected '%c' %s", c, where);
}

/* A whole number, or one with a fraction of zeros where a writer used floats. */
static int scan_number(struct scan *scan, const char *field, uint64_t *out)
{
    const char *first;
    uint64_t value = 0;

    scan_space(scan);
    first = scan->at;
    for (; scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9'; scan->at++) {
        uint64_t digit = (uint64_t)(*scan->at - '0');

        if (value > (UINT64_MAX - digit) / 10) {
            return scan_fail(scan, "'%s' is over 64 bits", field);
        }
        value = value * 10 + digit;
    }
    if (scan->at == first) {
        return scan_fail(scan, "'%s' expected a whole number of 0 or more", field);
    }
    if (scan->at - first > 1 && *first == '0') {
        return scan_fail(scan, "'%s' has a leading zero", field);
    }
    if (scan->at < scan->end && *scan->at == '.') {
        scan->at++;
        while (scan->at < scan->end && *scan->at == '0') {
            scan->at++;
        }
    }
    if (scan->at < scan->end && strchr(".eE0123456789", *scan->at) != NULL) {
        return scan_fail(scan, "'%s' expected a whole number", field);
    }
    *out = value;
    return 0;
}

/* The text between quotes as it stands; escapes stay escapes, our field names have none. */
static int scan_string(struct scan *scan, const char **text_out, size_t *length_out)
{
    const char *first;

    if (!scan_take(scan, '"')) {
        return scan_fail(scan, "expected a name in quotes");
    }
    first = scan->at;
    for (; scan->at < scan->end && *scan->at != '"'; scan->at++) {
        if (*scan->at == '\\') {
            scan->at++;
        }
    }
    if (scan->at >= scan->end) {
        scan->at = scan->end;
        return scan_fail(scan, "the line ends inside a text");
    }
    *text_out = first;
    *length_out = (size_t)(scan->at - first);
    scan->at++;
    return 0;
}

static int scan_word(struct scan *scan)
{
    const char *first = scan->at;

    while (scan->at < scan->end &&
           strchr("+-.0123456789abcdefghijklmnopqrstuvwxyzENI", *scan->at) != NULL &&
           *scan->at != '\0') {
        scan->at++;
    }
    return scan->at == first ? scan_fail(scan, "expected a value") : 0;
}

/* Any value of a field we do not know. Brackets are counted, not matched by kind. */
static int scan_skip(struct scan *scan)
{
    const char *text;
    size_t length;
    int depth = 0;
    int r;

    do {
        scan_space(scan);
        if (scan->at >= scan->end) {
            return scan_fail(scan, "the line ends inside a value");
        }
        if (*scan->at == '"') {
            r = scan_string(scan, &text, &length);
        } else if (*scan->at == '{' || *scan->at == '[') {
            scan->at++;
            depth++;
            r = depth > DEPTH_MAX ? scan_fail(scan, "nested over %d deep", DEPTH_MAX) : 0;
        } else if (depth > 0 && strchr("}],:", *scan->at) != NULL) {
            depth -= *scan->at == '}' || *scan->at == ']';
            scan->at++;
            r = 0;
        } else {
            r = scan_word(scan);
        }
    } while (r == 0 && depth > 0);
    return r;
}

static int scan_ids(struct scan *scan, struct trace_request *request)
{
    uint32_t count = 0;
    int r = scan_expect(scan, '[', "before the list of 'hash_ids'");

    if (r < 0 || scan_take(scan, ']')) {
        request->id_count = 0;
        return r;
    }
    do {
        if (count == TRACE_IDS_MAX) {
            return scan_fail(scan, "over %u 'hash_ids'", TRACE_IDS_MAX);
        }
        r = scan_number(scan, "hash_ids", &request->ids[count]);
        if (r < 0) {
            return r;
        }
        count++;
    } while (scan_take(scan, ','));
    request->id_count = count;
    return scan_expect(scan, ']', "or ',' in the list of 'hash_ids'");
}

#define FIELD_COUNT 4

static const char *const field_names[FIELD_COUNT] = {"timestamp", "input_length", "output_length",
                                                     "hash_ids"};

static int scan_field(struct scan *scan, struct trace_request *request, uint32_t *seen)
{
    uint64_t *const numbers[] = {&request->timestamp, &request->input_length,
                                 &request->output_length};
    const char *name = "";
    size_t length = 0;
    uint32_t field = 0;
    int r = scan_string(scan, &name, &length);

    if (r == 0) {
        r = scan_expect(scan, ':', "after a field's name");
    }
    if (r < 0) {
        return r;
    }
    while (field < FIELD_COUNT && (strlen(field_names[field]) != length ||
                                   memcmp(field_names[field], name, length) != 0)) {
        field++;
    }
    if (field == FIELD_COUNT) {
        return scan_skip(scan);
    }
    if ((*seen & (1u << field)) != 0) {
        return scan_fail(scan, "'%s' stands twice", field_names[field]);
    }
    *seen |= 1u << field;
    return field == FIELD_COUNT - 1 ? scan_ids(scan, request)
                                    : scan_number(scan, field_names[field], numbers[field]);
}

/* The ids must cover the prompt; a list that was cut short would count as fewer blocks. */
static int request_check(struct scan *scan, const struct trace_request *request, uint32_t seen)
{
    uint64_t blocks = request->input_length / TRACE_BLOCK_TOKENS +
                      (request->input_length % TRACE_BLOCK_TOKENS != 0);

    for (uint32_t i = 0; i < FIELD_COUNT; i++) {
        if ((seen & (1u << i)) == 0) {
            return scan_fail(scan, "'%s' is missing", field_names[i]);
        }
    }
    if (request->id_count != blocks) {
        return scan_fail(scan, "%u 'hash_ids', expected %llu for an 'input_length' of %llu",
                         request->id_count, (unsigned long long)blocks,
                         (unsigned long long)request->input_length);
    }
    return 0;
}

int trace_parse_line(const char *line, size_t length, struct trace_request *request, char *why_out,
                     size_t why_size)
{
    struct scan scan = {
        .at = line, .end = line + length, .begin = line, .why = why_out, .why_size = why_size};
    uint32_t seen = 0;
    int r = scan_expect(&scan, '{', "at the beginning");

    if (r == 0 && !scan_take(&scan, '}')) {
        do {
            r = scan_field(&scan, request, &seen);
        } while (r == 0 && scan_take(&scan, ','));
        if (r == 0) {
            r = scan_expect(&scan, '}', "or ',' after a field");
        }
    }
    if (r < 0) {
        return r;
    }
    scan_space(&scan);
    if (scan.at != scan.end) {
        return scan_fail(&scan, "text after the object");
    }
    return request_check(&scan, request, seen);
}

/* ---- the file ---- */

int trace_open(const char *path, struct trace **trace_out)
{
    struct trace *trace = calloc(1, sizeof(*trace));
    struct stat st = {0};
    int r = -ENOMEM;

    if (trace == NULL) {
        return -ENOMEM;
    }
    trace->path = strdup(path);
    trace->line = malloc(TRACE_LINE_MAX + 1);
    if (trace->path == NULL || trace->line == NULL) {
        goto err_close;
    }
    trace->file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (trace->file == NULL) {
        r = -errno;
        goto err_close;
    }
    if (fstat(fileno(trace->file), &st) == 0 && S_ISDIR(st.st_mode)) {
        r = -EISDIR;
        goto err_close;
    }
    trace->size = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0;
    *trace_out = trace;
    return 0;

err_close:
    trace_close(trace);
    return r;
}

void trace_close(struct trace *trace)
{
    if (trace == NULL) {
        return;
    }
    if (trace->file != NULL && trace->file != stdin) {
        (void)fclose(trace->file);
    }
    free(trace->line);
    free(trace->path);
    free(trace);
}

static int trace_bad(struct trace *trace, const char *why)
{
    (void)snprintf(trace->error, sizeof(trace->error), "%.200s:%llu: %s", trace->path,
                   (unsigned long long)trace->line_number, why);
    return -EBADMSG;
}

/* One line without its end. @return 1; 0 at the end; -EBADMSG; -EIO. */
static int trace_read_line(struct trace *trace, size_t *length_out)
{
    size_t length = 0;
    bool over = false;
    int c;

    while ((c = getc_unlocked(trace->file)) != EOF && c != '\n') {
        if (length == TRACE_LINE_MAX) {
            over = true;
        } else {
            trace->line[length++] = (char)c;
        }
        trace->position++;
    }
    if (c == EOF && ferror(trace->file)) {
        return -EIO;
    }
    if (c == EOF && length == 0) {
        return 0;
    }
    trace->position += c == '\n';
    trace->line_number++;
    if (over) {
        return trace_bad(trace, "line over 4 MiB, expected one request");
    }
    *length_out = length;
    return 1;
}

int trace_next(struct trace *trace, struct trace_request *request)
{
    char why[WHY_MAX + 32];
    size_t length = 0;
    int r;

    do {
        r = trace_read_line(trace, &length);
        if (r <= 0) {
            return r;
        }
    } while (length == 0); /* an empty line is no request and no error */
    if (trace_parse_line(trace->line, length, request, why, sizeof(why)) < 0) {
        return trace_bad(trace, why);
    }
    return 1;
}

const char *trace_error(const struct trace *trace)
{
    return trace->error;
}

uint64_t trace_size(const struct trace *trace)
{
    return trace->size;
}

uint64_t trace_position(const struct trace *trace)
{
    return trace->position;
}
