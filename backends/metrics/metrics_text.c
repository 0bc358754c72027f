/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "utf8.h"

static bool text_grow(struct metrics_text *text, size_t more)
{
    size_t size = text->size == 0 ? 4096 : text->size;
    char *at;

    while (size - text->used <= more) {
        size *= 2;
    }
    if (size > METRICS_TEXT_MAX) {
        text->failed = true;
        return false;
    }
    if (size == text->size) {
        return true;
    }
    at = realloc(text->at, size);
    if (at == NULL) {
        text->failed = true;
        return false;
    }
    text->at = at;
    text->size = size;
    return true;
}

void metrics_text_add(struct metrics_text *text, const char *fmt, ...)
{
    va_list args;
    int n;

    if (text->failed) {
        return;
    }
    va_start(args, fmt);
    n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !text_grow(text, (size_t)n)) {
        text->failed = true;
        return;
    }
    va_start(args, fmt);
    (void)vsnprintf(text->at + text->used, text->size - text->used, fmt, args);
    va_end(args);
    text->used += (size_t)n;
}

static void text_add_utf8(struct metrics_text *text, const char *value,
                          void (*add_control)(struct metrics_text *text, unsigned char c))
{
    const unsigned char *at = (const unsigned char *)value;

    while (*at != '\0') {
        size_t length = kvl_utf8_sequence(at, 4);

        if (length == 0) {
            metrics_text_add(text, "?");
            at++;
        } else if (length == 1 && (*at < 0x20 || *at == 0x7f)) {
            add_control(text, *at++);
        } else {
            const char *slash = *at == '"' || *at == '\\' ? "\\" : "";

            metrics_text_add(text, "%s%.*s", slash, (int)length, (const char *)at);
            at += length;
        }
    }
}

static void text_label_control(struct metrics_text *text, unsigned char c)
{
    metrics_text_add(text, "%s", c == '\n' ? "\\n" : ".");
}

static void text_json_control(struct metrics_text *text, unsigned char c)
{
    metrics_text_add(text, "\\u%04x", c);
}

void metrics_text_add_label(struct metrics_text *text, const char *value)
{
    text_add_utf8(text, value, text_label_control);
}

void metrics_text_add_json(struct metrics_text *text, const char *value)
{
    metrics_text_add(text, "\"");
    text_add_utf8(text, value, text_json_control);
    metrics_text_add(text, "\"");
}

void metrics_text_fini(struct metrics_text *text)
{
    free(text->at);
    *text = (struct metrics_text){0};
}
