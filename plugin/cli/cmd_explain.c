/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The question goes to /explain of the controller's HTTP API, which knows the registry; here it is
 * only read, sent and shown.
 */
#include "explain.h"

#include <ctype.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli.h"
#include "util.h"

#define KEYS_LIMIT ((size_t)15 * 1024 * 1024) /* the controller takes bodies up to 16 MiB */
#define ANSWER_LIMIT ((size_t)1024 * 1024)
#define INSTANCE_LIMIT 255u

struct question {
    const char *keys;
    const char *instance; /* NULL = nobody in particular */
    const char *url;
    uint64_t timeout_ms;
    char host[256];
    char port[8];
    char *body; /* owned */
    size_t length;
};

bool explain_wanted(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--explain") == 0 || strncmp(argv[i], "--explain=", 10) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- the body ---- */

static void body_add(struct question *question, const char *text, size_t length)
{
    memcpy(question->body + question->length, text, length);
    question->length += length;
}

static void body_add_text(struct question *question, const char *text)
{
    body_add(question, text, strlen(text));
}

static void body_add_string(struct question *question, const char *text)
{
    body_add_text(question, "\"");
    for (; *text != '\0'; text++) {
        char escape[8];
        int n = (unsigned char)*text < 0x20 || *text == '"' || *text == '\\'
                    ? snprintf(escape, sizeof(escape), "\\u%04x", (unsigned char)*text)
                    : snprintf(escape, sizeof(escape), "%c", *text);

        body_add(question, escape, (size_t)n);
    }
    body_add_text(question, "\"");
}

/* `-12` or `0xff`, as JSON takes it. @return false when it is no number. */
static bool body_add_id(struct question *question, const char *text, size_t length)
{
    char digits[32];
    char *end;
    unsigned long long number;
    size_t sign = text[0] == '-';

    if (length >= sizeof(digits) || length == sign) {
        return false;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    if (strncmp(digits, "0x", 2) != 0 && strncmp(digits, "0X", 2) != 0) {
        body_add(question, text, length);
        return strspn(text + sign, "0123456789") >= length - sign;
    }
    errno = 0;
    number = strtoull(digits + 2, &end, 16);
    if (errno != 0 || *end != '\0' || !isxdigit((unsigned char)digits[2])) {
        return false;
    }
    (void)snprintf(digits, sizeof(digits), "%llu", number);
    body_add_text(question, digits);
    return true;
}

static int body_add_ids(struct question *question)
{
    const char *at = question->keys;

    body_add_text(question, "\"ids\":[");
    for (;;) {
        size_t length = strcspn(at, ",");

        if (!body_add_id(question, at, length)) {
            cli_error("controller: '%.*s' is neither a chunk id nor a file", (int)length, at);
            return CLI_USAGE;
        }
        if (at[length] == '\0') {
            body_add_text(question, "]");
            return CLI_GO;
        }
        body_add_text(question, ",");
        at += length + 1;
    }
}

/* A JSON list, or an object that goes as it is. */
static int body_add_file(struct question *question, const char *text, size_t length)
{
    while (length > 0 && isspace((unsigned char)*text)) {
        text++;
        length--;
    }
    if (length == 0 || *text != '[') {
        cli_error("controller: '%s' holds no JSON list of tokens", question->keys);
        return CLI_INPUT;
    }
    body_add_text(question, "\"tokens\":");
    body_add(question, text, length);
    return CLI_GO;
}

static int body_make(struct question *question)
{
    const bool is_file = strcmp(question->keys, "-") == 0 || access(question->keys, F_OK) == 0;
    uint8_t *text = NULL;
    size_t length = strlen(question->keys);
    int r = is_file ? util_read_file(question->keys, KEYS_LIMIT, &text, &length) : 0;

    if (r < 0) {
        cli_error("controller: cannot read '%s': %s", question->keys, strerror(-r));
        return CLI_INPUT;
    }
    /* an id may grow from 3 digits to 20, and a byte of the instance to six */
    question->body = malloc(length * 8 + INSTANCE_LIMIT * 6 + 64);
    if (question->body == NULL) {
        free(text);
        cli_error("controller: no memory");
        return CLI_OS;
    }
    body_add_text(question, "{");
    r = is_file ? body_add_file(question, (const char *)text, length) : body_add_ids(question);
    if (r == CLI_GO && question->instance != NULL) {
        body_add_text(question, ",\"instance_id\":");
        body_add_string(question, question->instance);
    }
    body_add_text(question, "}");
    free(text);
    return r;
}

/* ---- the conversation ---- */

/* `host:port`, `[v6]:port`, with `http://` before it or not. */
static int split_url(struct question *question)
{
    const char *at = question->url;
    const char *colon;
    size_t length;

    at += strncmp(at, "http://", 7) == 0 ? 7 : 0;
    colon = strrchr(at, ':');
    length = colon == NULL ? 0 : (size_t)(colon - at);
    if (length > 1 && at[0] == '[' && at[length - 1] == ']') {
        at++;
        length -= 2;
    }
    if (length == 0 || length >= sizeof(question->host) || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || colon[1] == '\0') {
        cli_error("controller: '%s' is no HOST:PORT", question->url);
        return CLI_USAGE;
    }
    memcpy(question->host, at, length);
    (void)snprintf(question->port, sizeof(question->port), "%s", colon + 1);
    return CLI_GO;
}

static int connect_to(const struct addrinfo *address, uint64_t deadline)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    int error = 0;
    socklen_t size = sizeof(error);
    uint64_t now = util_now_ms();

    if (fd < 0) {
        return -errno;
    }
    if (connect(fd, address->ai_addr, address->ai_addrlen) == 0) {
        return fd;
    }
    error = errno;
    if (error == EINPROGRESS) {
        error = poll(&wait, 1, now < deadline ? (int)(deadline - now) : 0) == 0 ? ETIMEDOUT : 0;
        if (error == 0) {
            (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
        }
    }
    if (error == 0) {
        return fd;
    }
    close(fd);
    return -error;
}

static int connect_any(const struct question *question, uint64_t deadline)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct addrinfo *list;
    int fd = -EHOSTUNREACH;
    int r = getaddrinfo(question->host, question->port, &hints, &list);

    if (r != 0) {
        cli_error("controller: cannot resolve '%s': %s", question->host, gai_strerror(r));
        return -EHOSTUNREACH;
    }
    for (const struct addrinfo *at = list; at != NULL && fd < 0; at = at->ai_next) {
        fd = connect_to(at, deadline);
    }
    freeaddrinfo(list);
    if (fd < 0) {
        cli_error("controller: cannot connect to '%s': %s; is the controller running, and is its "
                  "http_port right?",
                  question->url, strerror(-fd));
    }
    return fd;
}

/* Sends or receives as much as goes, until the deadline. @return 0, or -errno. */
static int wait_for(int fd, short events, uint64_t deadline)
{
    struct pollfd wait = {.fd = fd, .events = events};
    uint64_t now = util_now_ms();
    int r = poll(&wait, 1, now < deadline ? (int)(deadline - now) : 0);

    return r > 0 || (r < 0 && errno == EINTR) ? 0 : r == 0 ? -ETIMEDOUT : -errno;
}

static int send_all(int fd, const char *text, size_t length, uint64_t deadline)
{
    while (length > 0) {
        ssize_t n = send(fd, text, length, MSG_NOSIGNAL);

        if (n > 0) {
            text += n;
            length -= (size_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            int r = wait_for(fd, POLLOUT, deadline);

            if (r < 0) {
                return r;
            }
        } else {
            return -errno;
        }
    }
    return 0;
}

static int receive_all(int fd, char *text, size_t room, uint64_t deadline)
{
    size_t used = 0;

    for (;;) {
        ssize_t n = recv(fd, text + used, room - 1 - used, 0);

        if (n == 0) {
            text[used] = '\0';
            return 0;
        }
        if (n > 0) {
            used += (size_t)n;
            if (used == room - 1) {
                return -EMSGSIZE;
            }
        } else if (errno == EAGAIN || errno == EINTR) {
            int r = wait_for(fd, POLLIN, deadline);

            if (r < 0) {
                return r;
            }
        } else {
            return -errno;
        }
    }
}

static int talk(const struct question *question, int fd, char *answer, uint64_t deadline)
{
    const bool is_v6 = strchr(question->host, ':') != NULL;
    char head[512];
    int n = snprintf(
        head, sizeof(head),
        "POST /explain?format=text HTTP/1.1\r\nHost: %s%s%s:%s\r\nConnection: close\r\n"
        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
        is_v6 ? "[" : "", question->host, is_v6 ? "]" : "", question->port, question->length);
    int r = send_all(fd, head, (size_t)n, deadline);

    if (r == 0) {
        r = send_all(fd, question->body, question->length, deadline);
    }
    if (r == 0) {
        r = receive_all(fd, answer, ANSWER_LIMIT, deadline);
    }
    if (r < 0) {
        cli_error("controller: no answer from '%s': %s", question->url, strerror(-r));
        return CLI_PEER;
    }
    return CLI_OK;
}

static int show(const struct question *question, const char *answer)
{
    const char *body = strstr(answer, "\r\n\r\n");

    if (strncmp(answer, "HTTP/1.", 7) != 0 || body == NULL) {
        cli_error("controller: '%s' does not speak HTTP", question->url);
        return CLI_PEER;
    }
    if (strncmp(answer + 8, " 200 ", 5) != 0) {
        cli_error("controller: '%s' refuses the question: %s", question->url, body + 4);
        return strncmp(answer + 8, " 4", 2) == 0 ? CLI_INPUT : CLI_PEER;
    }
    (void)fputs(body + 4, stdout);
    return CLI_OK;
}

static int explain_ask(const struct question *question)
{
    uint64_t deadline = util_now_ms() + question->timeout_ms;
    char *answer = malloc(ANSWER_LIMIT);
    int fd;
    int r;

    if (answer == NULL) {
        cli_error("controller: no memory");
        return CLI_OS;
    }
    fd = connect_any(question, deadline);
    r = fd < 0 ? CLI_PEER : talk(question, fd, answer, deadline);
    if (r == CLI_OK) {
        r = show(question, answer);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(answer);
    return r;
}

int explain_run(int argc, char **argv)
{
    struct question question = {.url = "127.0.0.1:9000", .timeout_ms = 10000};
    const struct cli_option options[] = {
        {"explain", "KEYS", "chunk ids (-5,0xff,..), or a file with a JSON list of tokens",
         CLI_TEXT, &question.keys, 0, 0},
        {"instance", "ID", "the instance whose lookup it is; its own chunks are left out", CLI_TEXT,
         &question.instance, 0, 0},
        {"url", "HOST:PORT", "HTTP address of the controller (127.0.0.1:9000)", CLI_TEXT,
         &question.url, 0, 0},
        {"timeout", "TIME", "how long to wait for the answer (10s)", CLI_TIME, &question.timeout_ms,
         1, 3600000},
    };
    const struct cli_usage usage = {
        .command = "controller",
        .args = "",
        .about = "Asks a running controller why a lookup finds nothing, or less than hoped.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
    };
    int count;
    int r = cli_parse(&usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    if (question.instance != NULL && strlen(question.instance) > INSTANCE_LIMIT) {
        cli_error("controller: an instance id has at most %u bytes", INSTANCE_LIMIT);
        return CLI_USAGE;
    }
    r = split_url(&question);
    if (r == CLI_GO) {
        r = body_make(&question);
    }
    if (r == CLI_GO) {
        r = explain_ask(&question);
    }
    free(question.body);
    return r;
}
