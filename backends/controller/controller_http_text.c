/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_http_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "utf8.h"

static bool text_grow(struct controller_text *text, size_t more)
{
    size_t size = text->size == 0 ? 1024 : text->size;
    char *at;

    if (text->failed || more >= CONTROLLER_TEXT_MAX - text->used) {
        text->failed = true;
        return false;
    }
    while (size - text->used <= more) {
        size *= 2;
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

void controller_text_bytes(struct controller_text *text, const char *bytes, size_t length)
{
    if (!text_grow(text, length)) {
        return;
    }
    if (length > 0) {
        memcpy(text->at + text->used, bytes, length);
    }
    text->used += length;
    text->at[text->used] = '\0';
}

void controller_text_put(struct controller_text *text, const char *terminated)
{
    controller_text_bytes(text, terminated, strlen(terminated));
}

void controller_text_add(struct controller_text *text, const char *fmt, ...)
{
    va_list args;
    int n;

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

void controller_text_unsigned(struct controller_text *text, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    controller_text_bytes(text, digits + at, sizeof(digits) - at);
}

void controller_text_signed(struct controller_text *text, int64_t number)
{
    if (number < 0) {
        controller_text_put(text, "-");
        controller_text_unsigned(text, 0 - (uint64_t)number);
    } else {
        controller_text_unsigned(text, (uint64_t)number);
    }
}

void controller_text_id(struct controller_text *text, const struct kvl_chunk_id *id)
{
    if (id->negative) {
        controller_text_signed(text, (int64_t)id->bits);
    } else {
        controller_text_unsigned(text, id->bits);
    }
}

void controller_text_real(struct controller_text *text, double number)
{
    char digits[8];
    uint64_t whole;
    uint64_t parts;
    int used;

    if (!(fabs(number) < 1e15)) {
        number = 0;
    }
    if (number < 0) {
        controller_text_put(text, "-");
        number = -number;
    }
    whole = (uint64_t)number;
    parts = (uint64_t)((number - (double)whole) * 1e6 + 0.5);
    if (parts == 1000000) {
        whole++;
        parts = 0;
    }
    controller_text_unsigned(text, whole);
    used = snprintf(digits, sizeof(digits), ".%06u", (unsigned)parts);
    while (used > 2 && digits[used - 1] == '0') {
        used--;
    }
    controller_text_bytes(text, digits, (size_t)used);
}

void controller_text_json(struct controller_text *text, const char *value, size_t length)
{
    size_t i = 0;

    controller_text_put(text, "\"");
    while (i < length) {
        size_t step = kvl_utf8_sequence(value + i, length - i);
        unsigned char c = (unsigned char)value[i];

        if (step == 0) {
            controller_text_put(text, "?");
            step = 1;
        } else if (c < 0x20 || c == 0x7f) {
            controller_text_add(text, "\\u%04x", c);
        } else {
            if (c == '"' || c == '\\') {
                controller_text_put(text, "\\");
            }
            controller_text_bytes(text, value + i, step);
        }
        i += step;
    }
    controller_text_put(text, "\"");
}

void controller_text_json0(struct controller_text *text, const char *terminated)
{
    controller_text_json(text, terminated, strlen(terminated));
}

void controller_text_name(struct controller_text *text, const char *name)
{
    controller_text_put(text, "\"");
    controller_text_put(text, name);
    controller_text_put(text, "\":");
}

void controller_text_label(struct controller_text *text, const char *terminated)
{
    size_t length = strlen(terminated);

    for (size_t i = 0; i < length;) {
        size_t step = kvl_utf8_sequence(terminated + i, length - i);
        unsigned char c = (unsigned char)terminated[i];

        if (c == '\n') {
            controller_text_put(text, "\\n");
        } else if (step == 0 || c < 0x20 || c == 0x7f) {
            controller_text_put(text, "?");
        } else {
            if (c == '"' || c == '\\') {
                controller_text_put(text, "\\");
            }
            controller_text_bytes(text, terminated + i, step);
        }
        i += step == 0 ? 1 : step;
    }
}

void controller_text_fini(struct controller_text *text)
{
    free(text->at);
    *text = (struct controller_text){0};
}
