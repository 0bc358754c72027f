/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_resp.h
 * The bytes of RESP2 as far as a server of SET, GET and EXISTS meets them: an incremental parser of
 * commands and the head of a bulk reply. Pure functions: no I/O, no allocation.
 *
 * Commands are arrays of bulk strings. Of inline commands there is PING alone, because everything
 * else that begins like text is no client of this server: a browser, a wrong port.
 */
#ifndef KVL_TCP_REMOTE_RESP_H
#define KVL_TCP_REMOTE_RESP_H

#include <stdbool.h>

#include <kvlane/abi.h>

/** Longest argument that is kept; longer ones are skipped and marked. */
#define TCP_REMOTE_RESP_ARG_MAX 1024u
/** Arguments kept, the name of the command among them; more are skipped. */
#define TCP_REMOTE_RESP_ARGS_KEPT 8u
/** More arguments, or longer ones, break the protocol. */
#define TCP_REMOTE_RESP_ARGS_MAX 1024u
#define TCP_REMOTE_RESP_BULK_MAX ((uint64_t)INT32_MAX)
/** Room for `$` and a length. */
#define TCP_REMOTE_RESP_HEAD_MAX 24u

enum tcp_remote_resp_event {
    TCP_REMOTE_RESP_MORE, /* every byte was used, the command is not complete */
    TCP_REMOTE_RESP_COMMAND, /* `args` hold a command until the next call */
    /* a SET: its key is in `args`, `value` bytes follow; the caller takes them off the stream, then
     * goes on parsing and gets COMMAND */
    TCP_REMOTE_RESP_VALUE
};

enum tcp_remote_resp_state {
    TCP_REMOTE_RESP_START,
    TCP_REMOTE_RESP_COUNT, /* in the line of an array's length */
    TCP_REMOTE_RESP_DOLLAR,
    TCP_REMOTE_RESP_LENGTH, /* in the line of a bulk string's length */
    TCP_REMOTE_RESP_BULK,
    TCP_REMOTE_RESP_CR, /* behind a bulk string */
    TCP_REMOTE_RESP_LF,
    TCP_REMOTE_RESP_INLINE
};

struct tcp_remote_resp_arg {
    uint32_t at; /* in `text` */
    uint32_t length;
    bool kept; /* false = too long, or one too many: not in `text` */
};

/** All zero is the state before the first byte. */
struct tcp_remote_resp {
    enum tcp_remote_resp_state state;
    uint32_t count; /* arguments announced */
    uint32_t at; /* of them complete */
    uint64_t left; /* bytes of the argument that are still to come */
    uint64_t value; /* bytes of a SET's value */
    uint32_t line_length;
    uint32_t text_used;
    struct tcp_remote_resp_arg args[TCP_REMOTE_RESP_ARGS_KEPT];
    char line[16];
    char text[TCP_REMOTE_RESP_ARG_MAX + 256];
};

/**
 * Takes bytes off a stream, up to the end of a command at most.
 * @param used_out  bytes taken
 * @return TCP_REMOTE_RESP_ events; -EPROTO for what is not RESP, and nothing more can be parsed.
 */
int tcp_remote_resp_parse(struct tcp_remote_resp *resp, const void *bytes, size_t length,
                          size_t *used_out);

/** True inside a command: some of its bytes came, not all. */
bool tcp_remote_resp_is_inside(const struct tcp_remote_resp *resp);

/** True when argument `index` is this text, letters in any case. */
bool tcp_remote_resp_is(const struct tcp_remote_resp *resp, uint32_t index, const char *text);

/** Writes `$<length>\r\n` into TCP_REMOTE_RESP_HEAD_MAX bytes. @return bytes written. */
size_t tcp_remote_resp_bulk_head(uint64_t length, void *bytes_out);

#endif /* KVL_TCP_REMOTE_RESP_H */
