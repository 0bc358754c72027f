/* SPDX-License-Identifier: Apache-2.0 */
/* The parser of Redis commands. In one piece and byte by byte it must say the same. */
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_resp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void check_args(const struct tcp_remote_resp *resp)
{
    for (uint32_t i = 0; i < resp->count && i < TCP_REMOTE_RESP_ARGS_KEPT; i++) {
        const struct tcp_remote_resp_arg *arg = &resp->args[i];

        check(!arg->kept || (size_t)arg->at + arg->length <= sizeof(resp->text));
        check(!tcp_remote_resp_is(resp, i, "GET") || (arg->kept && arg->length == 3));
    }
}

/* Steps to the next event. @return it; MORE at the end of the bytes. */
static int step(struct tcp_remote_resp *resp, const uint8_t *data, size_t size, size_t piece,
                size_t *at)
{
    int r = TCP_REMOTE_RESP_MORE;

    while (*at < size && r == TCP_REMOTE_RESP_MORE) {
        size_t length = size - *at < piece ? size - *at : piece;
        size_t used = 0;

        r = tcp_remote_resp_parse(resp, data + *at, length, &used);
        check(used > 0 && used <= length);
        *at += used;
    }
    if (r == TCP_REMOTE_RESP_VALUE) {
        check(resp->value <= TCP_REMOTE_RESP_BULK_MAX);
        *at += resp->value < size - *at ? (size_t)resp->value : size - *at;
    }
    if (r == TCP_REMOTE_RESP_COMMAND) {
        check(resp->count >= 1 && resp->count <= TCP_REMOTE_RESP_ARGS_MAX);
        check(!tcp_remote_resp_is_inside(resp));
        check_args(resp);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tcp_remote_resp whole;
    static struct tcp_remote_resp pieces;
    size_t whole_at = 0;
    size_t pieces_at = 0;
    int r = TCP_REMOTE_RESP_COMMAND;

    memset(&whole, 0, sizeof(whole));
    memset(&pieces, 0, sizeof(pieces));
    while (r > TCP_REMOTE_RESP_MORE) {
        r = step(&whole, data, size, size, &whole_at);
        check(step(&pieces, data, size, 1, &pieces_at) == r);
        check(whole_at == pieces_at);
        check(whole.count == pieces.count && whole.value == pieces.value);
        check(r < 0 || memcmp(whole.args, pieces.args, sizeof(whole.args)) == 0);
        check(r < 0 || memcmp(whole.text, pieces.text, whole.text_used) == 0 ||
              r == TCP_REMOTE_RESP_MORE);
    }
    return 0;
}
