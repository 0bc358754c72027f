/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_resp.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* No command has a longer name; a longer one is unknown anyway. */
#define NAME_MAX_BYTES 32u

bool tcp_remote_resp_is_inside(const struct tcp_remote_resp *resp)
{
    return resp->state != TCP_REMOTE_RESP_START;
}

bool tcp_remote_resp_is(const struct tcp_remote_resp *resp, uint32_t index, const char *text)
{
    const struct tcp_remote_resp_arg *arg = &resp->args[index];

    return index < resp->count && index < TCP_REMOTE_RESP_ARGS_KEPT && arg->kept &&
           arg->length == strlen(text) && strncasecmp(resp->text + arg->at, text, arg->length) == 0;
}

size_t tcp_remote_resp_bulk_head(uint64_t length, void *bytes_out)
{
    int n = snprintf(bytes_out, TCP_REMOTE_RESP_HEAD_MAX, "$%" PRIu64 "\r\n", length);

    return n < 0 ? 0 : (size_t)n;
}

/* Digits alone, no leading zero: what another server would refuse must not pass here. */
static int resp_number(const struct tcp_remote_resp *resp, uint64_t max, uint64_t *value_out)
{
    uint64_t value = 0;

    if (resp->line_length == 0 || (resp->line[0] == '0' && resp->line_length > 1)) {
        return -EPROTO;
    }
    for (uint32_t i = 0; i < resp->line_length; i++) {
        if (resp->line[i] < '0' || resp->line[i] > '9') {
            return -EPROTO;
        }
        value = value * 10 + (uint64_t)(resp->line[i] - '0'); /* 15 digits at most: no overflow */
    }
    if (value > max) {
        return -EPROTO;
    }
    *value_out = value;
    return 0;
}

/* Collects a line. @return 1 when it is complete; 0; -EPROTO. */
static int resp_line(struct tcp_remote_resp *resp, char byte)
{
    bool has_cr = resp->line_length > 0 && resp->line[resp->line_length - 1] == '\r';

    if (has_cr) {
        resp->line_length--;
        return byte == '\n' ? 1 : -EPROTO;
    }
    if (resp->line_length == sizeof(resp->line)) {
        return -EPROTO;
    }
    resp->line[resp->line_length++] = byte;
    return 0;
}

static int resp_begin(struct tcp_remote_resp *resp, char byte)
{
    memset(resp->args, 0, sizeof(resp->args));
    resp->count = 0;
    resp->at = 0;
    resp->value = 0;
    resp->text_used = 0;
    resp->line_length = 0;
    if (byte == '*') {
        resp->state = TCP_REMOTE_RESP_COUNT;
        return TCP_REMOTE_RESP_MORE;
    }
    if (byte == 'P' || byte == 'p') {
        resp->state = TCP_REMOTE_RESP_INLINE;
        resp->line[resp->line_length++] = byte;
        return TCP_REMOTE_RESP_MORE;
    }
    return -EPROTO;
}

static int resp_count(struct tcp_remote_resp *resp, char byte)
{
    uint64_t count = 0;
    int r = resp_line(resp, byte);

    if (r <= 0) {
        return r < 0 ? r : TCP_REMOTE_RESP_MORE;
    }
    r = resp_number(resp, TCP_REMOTE_RESP_ARGS_MAX, &count);
    if (r < 0) {
        return r;
    }
    resp->count = (uint32_t)count;
    /* an empty array asks for nothing and is not answered */
    resp->state = count == 0 ? TCP_REMOTE_RESP_START : TCP_REMOTE_RESP_DOLLAR;
    return TCP_REMOTE_RESP_MORE;
}

/* Whether the argument fits what is kept of a command. */
static void resp_place(struct tcp_remote_resp *resp)
{
    uint64_t most = resp->at == 0 ? NAME_MAX_BYTES : TCP_REMOTE_RESP_ARG_MAX;
    struct tcp_remote_resp_arg *arg;

    if (resp->at >= TCP_REMOTE_RESP_ARGS_KEPT) {
        return;
    }
    arg = &resp->args[resp->at];
    arg->length = (uint32_t)resp->left;
    if (resp->left <= most && resp->left <= sizeof(resp->text) - resp->text_used) {
        arg->kept = true;
        arg->at = resp->text_used;
        resp->text_used += arg->length;
    }
}

static int resp_length(struct tcp_remote_resp *resp, char byte)
{
    int r = resp_line(resp, byte);

    if (r <= 0) {
        return r < 0 ? r : TCP_REMOTE_RESP_MORE;
    }
    r = resp_number(resp, TCP_REMOTE_RESP_BULK_MAX, &resp->left);
    if (r < 0) {
        return r;
    }
    if (resp->at == 2 && resp->count == 3 && tcp_remote_resp_is(resp, 0, "SET")) {
        resp->value = resp->left;
        resp->left = 0;
        resp->state = TCP_REMOTE_RESP_CR;
        return TCP_REMOTE_RESP_VALUE;
    }
    resp_place(resp);
    resp->state = resp->left > 0 ? TCP_REMOTE_RESP_BULK : TCP_REMOTE_RESP_CR;
    return TCP_REMOTE_RESP_MORE;
}

static int resp_lf(struct tcp_remote_resp *resp, char byte)
{
    if (byte != '\n') {
        return -EPROTO;
    }
    resp->at++;
    resp->line_length = 0;
    if (resp->at < resp->count) {
        resp->state = TCP_REMOTE_RESP_DOLLAR;
        return TCP_REMOTE_RESP_MORE;
    }
    resp->state = TCP_REMOTE_RESP_START;
    return TCP_REMOTE_RESP_COMMAND;
}

static int resp_inline(struct tcp_remote_resp *resp, char byte)
{
    static const char ping[] = "PING";
    uint32_t length = resp->line_length;

    if (byte != '\n') {
        if (length == sizeof(ping)) {
            return -EPROTO;
        }
        resp->line[resp->line_length++] = byte;
        return TCP_REMOTE_RESP_MORE;
    }
    if (length > 0 && resp->line[length - 1] == '\r') {
        length--;
    }
    if (length != strlen(ping) || strncasecmp(resp->line, ping, length) != 0) {
        return -EPROTO;
    }
    memcpy(resp->text, ping, length);
    resp->args[0] = (struct tcp_remote_resp_arg){.length = length, .kept = true};
    resp->count = 1;
    resp->at = 1;
    resp->line_length = 0;
    resp->state = TCP_REMOTE_RESP_START;
    return TCP_REMOTE_RESP_COMMAND;
}

/* Takes what is there of an argument, more than a byte at a time. */
static size_t resp_bulk(struct tcp_remote_resp *resp, const char *bytes, size_t length)
{
    size_t n = length < resp->left ? length : (size_t)resp->left;

    if (resp->at < TCP_REMOTE_RESP_ARGS_KEPT && resp->args[resp->at].kept) {
        const struct tcp_remote_resp_arg *arg = &resp->args[resp->at];

        memcpy(resp->text + arg->at + (arg->length - resp->left), bytes, n);
    }
    resp->left -= n;
    if (resp->left == 0) {
        resp->state = TCP_REMOTE_RESP_CR;
    }
    return n;
}

static int resp_byte(struct tcp_remote_resp *resp, char byte)
{
    switch (resp->state) {
    case TCP_REMOTE_RESP_START:
        return resp_begin(resp, byte);
    case TCP_REMOTE_RESP_COUNT:
        return resp_count(resp, byte);
    case TCP_REMOTE_RESP_DOLLAR:
        resp->line_length = 0;
        resp->state = TCP_REMOTE_RESP_LENGTH;
        return byte == '$' ? TCP_REMOTE_RESP_MORE : -EPROTO;
    case TCP_REMOTE_RESP_LENGTH:
        return resp_length(resp, byte);
    case TCP_REMOTE_RESP_CR:
        resp->state = TCP_REMOTE_RESP_LF;
        return byte == '\r' ? TCP_REMOTE_RESP_MORE : -EPROTO;
    case TCP_REMOTE_RESP_LF:
        return resp_lf(resp, byte);
    case TCP_REMOTE_RESP_INLINE:
        return resp_inline(resp, byte);
    default:
        return -EPROTO;
    }
}

int tcp_remote_resp_parse(struct tcp_remote_resp *resp, const void *bytes, size_t length,
                          size_t *used_out)
{
    const char *at = bytes;
    size_t used = 0;
    int r = TCP_REMOTE_RESP_MORE;

    while (used < length && r == TCP_REMOTE_RESP_MORE) {
        if (resp->state == TCP_REMOTE_RESP_BULK) {
            used += resp_bulk(resp, at + used, length - used);
        } else {
            r = resp_byte(resp, at[used++]);
        }
    }
    *used_out = used;
    return r;
}
