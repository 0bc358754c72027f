/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_resp_peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_resp.h"
#include "tcp_remote_server.h"

/* No reply but the payload of a GET is longer. */
#define REPLY_MAX ((size_t)280)
#define ECHO_MAX 200u
#define BAD_PASSWORDS_MAX 8u

#define REFUSED_KEY "-ERR key is longer than 149 bytes\r\n"
#define REFUSED_AUTH "-NOAUTH Authentication required.\r\n"
#define REFUSED_SIZE "-ERR value is over the limit of this server\r\n"
#define REFUSED_ROOM "-ERR no room for the value now\r\n"

_Static_assert(TCP_REMOTE_PEER_OUT >= REPLY_MAX, "an empty buffer takes any reply");
_Static_assert(TCP_REMOTE_RESP_KEY_BYTES == 149, "the text above names it");

struct tcp_remote_resp_peer {
    struct tcp_remote_resp parser;
    bool known; /* gave the password, or there is none */
    uint32_t bad_passwords;
    const char *refusal; /* static; answer to the SET whose value is being dropped */
};

typedef enum tcp_remote_step (*resp_fn)(struct tcp_remote_peer *peer);

struct resp_command {
    const char *name;
    uint32_t min; /* arguments, the name among them */
    uint32_t max;
    bool open; /* also before AUTH */
    resp_fn run;
    enum tcp_remote_counter counter;
};

int tcp_remote_resp_peer_attach(struct tcp_remote_peer *peer)
{
    peer->resp = calloc(1, sizeof(*peer->resp));
    if (peer->resp == NULL) {
        return -ENOMEM;
    }
    peer->request_bytes = 1;
    return 0;
}

bool tcp_remote_resp_peer_is_inside(const struct tcp_remote_peer *peer)
{
    return tcp_remote_resp_is_inside(&peer->resp->parser);
}

bool tcp_remote_resp_peer_is_known(const struct tcp_remote_peer *peer)
{
    return peer->resp->known || peer->loop->options->resp_password[0] == '\0';
}

static void resp_tally(struct tcp_remote_peer *peer, enum tcp_remote_counter counter)
{
    tcp_remote_loop_count(peer->loop, counter, 1);
}

/* ---- replies ---- */

static void resp_reply_bytes(struct tcp_remote_peer *peer, const void *bytes, size_t length)
{
    memcpy(peer->out + peer->out_at + peer->out_length, bytes, length);
    peer->out_length += length;
    if (sizeof(peer->out) - peer->out_length < REPLY_MAX) {
        peer->flushing = true;
    }
}

static enum tcp_remote_step resp_reply(struct tcp_remote_peer *peer, const char *text)
{
    if (text[0] == '-') {
        resp_tally(peer, TCP_REMOTE_COUNT_RESP_ERRORS);
    }
    resp_reply_bytes(peer, text, strlen(text));
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step resp_reply_bulk(struct tcp_remote_peer *peer, const char *text,
                                            size_t length)
{
    uint8_t head[TCP_REMOTE_RESP_HEAD_MAX];

    resp_reply_bytes(peer, head, tcp_remote_resp_bulk_head(length, head));
    resp_reply_bytes(peer, text, length);
    resp_reply_bytes(peer, "\r\n", 2);
    return TCP_REMOTE_STEP_ON;
}

/* Answers what is owed, then the connection is over. */
static enum tcp_remote_step resp_close(struct tcp_remote_peer *peer)
{
    peer->closing = true;
    peer->flushing = peer->out_length > 0;
    return peer->flushing ? TCP_REMOTE_STEP_ON : TCP_REMOTE_STEP_CLOSE;
}

/* ---- keys ---- */

/* The key of the store into 150 bytes. @return false when it does not fit. */
static bool resp_key(const struct tcp_remote_resp *parser, char *text_out, struct kvl_key *key_out)
{
    const struct tcp_remote_resp_arg *arg = &parser->args[1];

    if (!arg->kept || arg->length > TCP_REMOTE_RESP_KEY_BYTES) {
        return false;
    }
    text_out[0] = TCP_REMOTE_RESP_PREFIX;
    memcpy(text_out + 1, parser->text + arg->at, arg->length);
    *key_out = (struct kvl_key){.text = text_out, .length = arg->length + 1};
    return true;
}

/* ---- SET, GET, EXISTS ---- */

/* The head of a SET is there, its value follows. */
static enum tcp_remote_step resp_set_value(struct tcp_remote_peer *peer)
{
    struct tcp_remote_resp_peer *resp = peer->resp;
    struct kvl_chunk chunk = {.bytes = resp->parser.value};
    int r;

    resp->refusal = NULL;
    if (!tcp_remote_resp_peer_is_known(peer)) {
        resp->refusal = REFUSED_AUTH;
    } else if (!resp_key(&resp->parser, peer->key, &chunk.key)) {
        resp->refusal = REFUSED_KEY;
    }
    if (resp->refusal != NULL) {
        tcp_remote_peer_drop(peer, (size_t)chunk.bytes);
        return TCP_REMOTE_STEP_ON;
    }
    peer->key_length = chunk.key.length;
    r = tcp_remote_peer_receive(peer, &chunk);
    if (r < 0) {
        resp->refusal = r == -EMSGSIZE ? REFUSED_SIZE : REFUSED_ROOM;
        tcp_remote_server_forget(peer->loop->server, &chunk.key);
    }
    return TCP_REMOTE_STEP_ON;
}

/* The value is there, too, and what ends it. */
static enum tcp_remote_step resp_set(struct tcp_remote_peer *peer)
{
    const struct kvl_key key = {.text = peer->key, .length = peer->key_length};

    if (peer->resp->refusal != NULL) {
        return resp_reply(peer, peer->resp->refusal);
    }
    if (tcp_remote_peer_commit(peer) < 0) {
        return resp_reply(peer, "-ERR the store did not take the value\r\n");
    }
    tcp_remote_server_forget(peer->loop->server, &key); /* the bytes that were replaced */
    return resp_reply(peer, "+OK\r\n");
}

static enum tcp_remote_step resp_get_again(struct tcp_remote_peer *peer, int status)
{
    const struct kvl_host *host = peer->loop->host;
    const struct kvl_key key = {.text = peer->key, .length = peer->key_length};
    uint8_t head[TCP_REMOTE_RESP_HEAD_MAX];
    struct kvl_view view;

    (void)status; /* whatever became of the fetch, a SET may have brought the value meanwhile */
    if (host->store_get(host, &key, &view) < 0) {
        resp_tally(peer, TCP_REMOTE_COUNT_MISSES);
        return resp_reply(peer, "$-1\r\n");
    }
    resp_tally(peer, TCP_REMOTE_COUNT_HITS);
    peer->has_lease = true;
    peer->lease = view.lease;
    peer->payload = view.data;
    peer->payload_left = (size_t)view.length;
    peer->tail = "\r\n";
    peer->tail_left = 2;
    resp_reply_bytes(peer, head, tcp_remote_resp_bulk_head(view.length, head));
    peer->flushing = true;
    return TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step resp_exists_again(struct tcp_remote_peer *peer, int status)
{
    const struct kvl_host *host = peer->loop->host;
    const struct kvl_key key = {.text = peer->key, .length = peer->key_length};
    struct kvl_view view;

    (void)status; /* whatever became of the fetch, a SET may have brought the value meanwhile */
    if (host->store_get(host, &key, &view) < 0) {
        resp_tally(peer, TCP_REMOTE_COUNT_MISSES);
        return resp_reply(peer, ":0\r\n");
    }
    resp_tally(peer, TCP_REMOTE_COUNT_HITS);
    tcp_remote_server_hold(peer->loop->server, &key, &view, peer->loop->now_ms);
    return resp_reply(peer, ":1\r\n");
}

/* GET and EXISTS look here, then below. EXISTS brings the value along: it is promised then. */
static enum tcp_remote_step resp_find(struct tcp_remote_peer *peer, tcp_remote_resume_fn again)
{
    const struct kvl_host *host = peer->loop->host;
    char text[KVL_KEY_MAX];
    struct kvl_key key;

    if (!resp_key(&peer->resp->parser, text, &key)) {
        return resp_reply(peer, REFUSED_KEY);
    }
    memcpy(peer->key, key.text, key.length);
    peer->key_length = key.length;
    if (host->store_exists(host, &key) < 0 && tcp_remote_peer_fetch(peer, &key, 0, again)) {
        return TCP_REMOTE_STEP_ON;
    }
    return again(peer, 0);
}

static enum tcp_remote_step resp_get(struct tcp_remote_peer *peer)
{
    return resp_find(peer, resp_get_again);
}

static enum tcp_remote_step resp_exists(struct tcp_remote_peer *peer)
{
    return resp_find(peer, resp_exists_again);
}

/* ---- what clients say before they begin ---- */

/* Takes the same time wherever the first difference is. */
static bool resp_password_is(const char *password, const char *text, size_t length)
{
    size_t want = strlen(password);
    unsigned difference = want != length;

    for (size_t i = 0; i < length; i++) {
        difference |= (unsigned char)text[i] ^ (unsigned char)password[want == 0 ? 0 : i % want];
    }
    return difference == 0;
}

/* Argument `index` is the password. One user exists, whatever it is called. */
static bool resp_login(struct tcp_remote_peer *peer, uint32_t index)
{
    const struct tcp_remote_resp *parser = &peer->resp->parser;
    const struct tcp_remote_resp_arg *arg = &parser->args[index];

    if (arg->kept &&
        resp_password_is(peer->loop->options->resp_password, parser->text + arg->at, arg->length)) {
        peer->resp->known = true;
        return true;
    }
    peer->resp->known = false;
    peer->resp->bad_passwords++;
    resp_tally(peer, TCP_REMOTE_COUNT_RESP_AUTH_FAILED);
    tcp_remote_peer_complain(peer, "gave a wrong password");
    return false;
}

static enum tcp_remote_step resp_login_failed(struct tcp_remote_peer *peer)
{
    (void)resp_reply(peer, "-WRONGPASS invalid username-password pair\r\n");
    return peer->resp->bad_passwords >= BAD_PASSWORDS_MAX ? resp_close(peer) : TCP_REMOTE_STEP_ON;
}

static enum tcp_remote_step resp_auth(struct tcp_remote_peer *peer)
{
    if (peer->loop->options->resp_password[0] == '\0') {
        return resp_reply(peer, "-ERR AUTH called, but this server has no password\r\n");
    }
    if (!resp_login(peer, peer->resp->parser.count - 1)) {
        return resp_login_failed(peer);
    }
    return resp_reply(peer, "+OK\r\n");
}

static enum tcp_remote_step resp_hello(struct tcp_remote_peer *peer)
{
    const struct tcp_remote_resp *parser = &peer->resp->parser;
    bool has_password = peer->loop->options->resp_password[0] != '\0';

    if (parser->count > 1 && !tcp_remote_resp_is(parser, 1, "2")) {
        return resp_reply(peer, "-NOPROTO this server speaks RESP2 only\r\n");
    }
    for (uint32_t at = 2; at < parser->count;) {
        if (tcp_remote_resp_is(parser, at, "AUTH") && at + 2 < parser->count) {
            if (has_password && !resp_login(peer, at + 2)) {
                return resp_login_failed(peer);
            }
            at += 3;
        } else if (tcp_remote_resp_is(parser, at, "SETNAME") && at + 1 < parser->count) {
            at += 2;
        } else {
            return resp_reply(peer, "-ERR syntax error in HELLO\r\n");
        }
    }
    if (!tcp_remote_resp_peer_is_known(peer)) {
        return resp_reply(peer, "-NOAUTH HELLO must be called with AUTH here\r\n");
    }
    return resp_reply(peer,
                      "*14\r\n$6\r\nserver\r\n$6\r\nkvlane\r\n$7\r\nversion\r\n$5\r\n6.0.0\r\n"
                      "$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n"
                      "$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
                      "$7\r\nmodules\r\n*0\r\n");
}

static enum tcp_remote_step resp_ping(struct tcp_remote_peer *peer)
{
    const struct tcp_remote_resp *parser = &peer->resp->parser;
    const struct tcp_remote_resp_arg *arg = &parser->args[1];

    if (parser->count == 1) {
        return resp_reply(peer, "+PONG\r\n");
    }
    if (!arg->kept || arg->length > ECHO_MAX) {
        return resp_reply(peer, "-ERR the text is too long\r\n");
    }
    return resp_reply_bulk(peer, parser->text + arg->at, arg->length);
}

static enum tcp_remote_step resp_client(struct tcp_remote_peer *peer)
{
    const struct tcp_remote_resp *parser = &peer->resp->parser;

    if (tcp_remote_resp_is(parser, 1, "SETINFO") || tcp_remote_resp_is(parser, 1, "SETNAME")) {
        return resp_reply(peer, "+OK\r\n");
    }
    return resp_reply(peer, "-ERR unknown CLIENT subcommand\r\n");
}

static enum tcp_remote_step resp_list_commands(struct tcp_remote_peer *peer)
{
    return resp_reply(peer, "*0\r\n");
}

static enum tcp_remote_step resp_info(struct tcp_remote_peer *peer)
{
    /* clients look for a version before they choose their commands */
    static const char text[] = "# Server\r\nserver_name:kvlane\r\nredis_version:6.0.0\r\n"
                               "redis_mode:standalone\r\n";

    return resp_reply_bulk(peer, text, sizeof(text) - 1);
}

static enum tcp_remote_step resp_select(struct tcp_remote_peer *peer)
{
    return resp_reply(peer, tcp_remote_resp_is(&peer->resp->parser, 1, "0")
                                ? "+OK\r\n"
                                : "-ERR DB index is out of range\r\n");
}

static enum tcp_remote_step resp_quit(struct tcp_remote_peer *peer)
{
    (void)resp_reply(peer, "+OK\r\n");
    return resp_close(peer);
}

/* ---- which one ---- */

static const struct resp_command commands[] = {
    /* SET is asked for its password before its value comes */
    {"SET", 3, 3, true, resp_set, TCP_REMOTE_COUNT_RESP_SET},
    {"GET", 2, 2, false, resp_get, TCP_REMOTE_COUNT_RESP_GET},
    {"EXISTS", 2, 2, false, resp_exists, TCP_REMOTE_COUNT_RESP_EXISTS},
    {"PING", 1, 2, false, resp_ping, TCP_REMOTE_COUNT_RESP_OTHER},
    {"AUTH", 2, 3, true, resp_auth, TCP_REMOTE_COUNT_RESP_OTHER},
    {"HELLO", 1, 7, true, resp_hello, TCP_REMOTE_COUNT_RESP_OTHER},
    {"CLIENT", 2, 8, false, resp_client, TCP_REMOTE_COUNT_RESP_OTHER},
    {"COMMAND", 1, 8, false, resp_list_commands, TCP_REMOTE_COUNT_RESP_OTHER},
    {"INFO", 1, 8, false, resp_info, TCP_REMOTE_COUNT_RESP_OTHER},
    {"SELECT", 2, 2, false, resp_select, TCP_REMOTE_COUNT_RESP_OTHER},
    {"QUIT", 1, 1, true, resp_quit, TCP_REMOTE_COUNT_RESP_OTHER},
};

static enum tcp_remote_step resp_run(struct tcp_remote_peer *peer)
{
    const struct tcp_remote_resp *parser = &peer->resp->parser;

    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        const struct resp_command *command = &commands[i];

        if (!tcp_remote_resp_is(parser, 0, command->name)) {
            continue;
        }
        resp_tally(peer, command->counter);
        if (!command->open && !tcp_remote_resp_peer_is_known(peer)) {
            return resp_reply(peer, REFUSED_AUTH);
        }
        if (parser->count < command->min || parser->count > command->max) {
            return resp_reply(peer, "-ERR wrong number of arguments\r\n");
        }
        return command->run(peer);
    }
    resp_tally(peer, TCP_REMOTE_COUNT_RESP_OTHER);
    return resp_reply(peer, tcp_remote_resp_peer_is_known(peer)
                                ? "-ERR unknown command: this server has SET, GET and EXISTS\r\n"
                                : REFUSED_AUTH);
}

enum tcp_remote_step tcp_remote_resp_peer_request(struct tcp_remote_peer *peer)
{
    size_t used = 0;
    int r =
        tcp_remote_resp_parse(&peer->resp->parser, peer->in + peer->in_at, peer->in_length, &used);

    peer->in_at += used;
    peer->in_length -= used;
    switch (r) {
    case TCP_REMOTE_RESP_MORE:
        return TCP_REMOTE_STEP_ON;
    case TCP_REMOTE_RESP_VALUE:
        return resp_set_value(peer);
    case TCP_REMOTE_RESP_COMMAND:
        return resp_run(peer);
    default:
        resp_tally(peer, TCP_REMOTE_COUNT_PROTOCOL_ERRORS);
        tcp_remote_peer_complain(peer, "sent what is not RESP, closed");
        return resp_close(peer);
    }
}
