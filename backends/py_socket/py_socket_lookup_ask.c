/* SPDX-License-Identifier: Apache-2.0 */
/* The asking side of lookup sockets. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <zmq.h>

#include "py_socket_lookup_parts.h"
#include "py_socket_url.h"

#define LINES_MAX 256u

static void line_hang_up(struct lookup_line *line)
{
    if (line->req != NULL) {
        py_socket_zmq_hang_up(line->req, line->watch);
        line->req = NULL;
        line->watch = NULL;
    }
}

void lookup_hang_up(struct py_socket_lookup *lookup)
{
    while (lookup->lines != NULL) {
        struct lookup_line *line = lookup->lines;

        lookup->lines = line->next;
        line_hang_up(line);
        free(line);
    }
}

static struct lookup_line *lookup_find(struct py_socket_lookup *lookup, const char *url)
{
    struct lookup_line *line = lookup->lines;

    while (line != NULL && strcmp(line->url, url) != 0) {
        line = line->next;
    }
    return line;
}

/* The line unused for longest gives its room; NULL when all are busy. */
static struct lookup_line *lookup_oldest(struct py_socket_lookup *lookup)
{
    struct lookup_line *oldest = NULL;

    for (struct lookup_line *line = lookup->lines; line != NULL; line = line->next) {
        if (!line->is_busy && (oldest == NULL || line->used_ms < oldest->used_ms)) {
            oldest = line;
        }
    }
    return oldest;
}

/* A line for that peer, perhaps with a connection, perhaps busy. NULL: none for now. */
static struct lookup_line *lookup_line_for(struct py_socket_lookup *lookup, const char *url)
{
    struct lookup_line *line = lookup_find(lookup, url);

    if (line != NULL) {
        return line;
    }
    if (lookup->line_count == LINES_MAX) {
        line = lookup_oldest(lookup);
        if (line != NULL) {
            line_hang_up(line);
        }
    } else {
        line = calloc(1, sizeof(*line));
        if (line != NULL) {
            line->next = lookup->lines;
            lookup->lines = line;
            lookup->line_count++;
        }
    }
    if (line != NULL) {
        memcpy(line->url, url, strlen(url) + 1);
    }
    return line;
}

/* Waits for its turn on the line to that peer. @return 0; -ETIMEDOUT, -ECANCELED. */
static int lookup_take_line(struct py_socket_lookup *lookup, const char *url, uint64_t deadline_ms,
                            struct lookup_line **line_out)
{
    const struct timespec until = {
        .tv_sec = (time_t)(deadline_ms / 1000),
        .tv_nsec = (long)(deadline_ms % 1000) * 1000000,
    };
    struct lookup_line *line = NULL;
    int r = 0;

    pthread_mutex_lock(&lookup->lock);
    while (r == 0) {
        if (lookup->is_stopping) {
            r = -ECANCELED;
            break;
        }
        line = lookup_line_for(lookup, url);
        if (line != NULL && !line->is_busy) {
            line->is_busy = 1;
            break;
        }
        r = -pthread_cond_clockwait(&lookup->freed, &lookup->lock, CLOCK_MONOTONIC, &until);
    }
    pthread_mutex_unlock(&lookup->lock);
    *line_out = line;
    return r;
}

static void lookup_give_line(struct py_socket_lookup *lookup, struct lookup_line *line)
{
    const struct kvl_host *host = lookup->config.host;

    pthread_mutex_lock(&lookup->lock);
    line->is_busy = 0;
    line->used_ms = host->now_ms(host);
    pthread_cond_broadcast(&lookup->freed);
    pthread_mutex_unlock(&lookup->lock);
}

/* Waits for `events` on the line. @return 0; -ETIMEDOUT, -ECANCELED, -EACCES, -ECONNRESET. */
static int line_wait(struct py_socket_lookup *lookup, struct lookup_line *line, short events,
                     uint64_t until_ms)
{
    const struct kvl_host *host = lookup->config.host;

    for (;;) {
        zmq_pollitem_t items[3] = {
            {.socket = line->req, .events = events},
            {.socket = line->watch, .events = ZMQ_POLLIN},
            {.fd = lookup->stop_fd, .events = ZMQ_POLLIN},
        };
        uint64_t now = host->now_ms(host);
        uint32_t seen;

        if (zmq_poll(items, 3, until_ms > now ? (long)(until_ms - now) : 0) < 0 && errno != EINTR) {
            return -EIO;
        }
        if (items[2].revents != 0) {
            return -ECANCELED;
        }
        if (items[0].revents != 0) {
            return 0;
        }
        seen = py_socket_zmq_watched(line->watch);
        if ((seen & PY_SOCKET_DENIED) != 0) {
            return -EACCES;
        }
        if ((seen & PY_SOCKET_LOST) != 0 && (events & ZMQ_POLLIN) != 0) {
            return -ECONNRESET;
        }
        if (now >= until_ms) {
            return -ETIMEDOUT;
        }
    }
}

/* Sends the question and receives the answer. -ETIMEDOUT and -ECONNRESET are worth another try. */
static int line_try(struct py_socket_lookup *lookup, struct lookup_line *line,
                    const struct kvl_pack_out *question, uint64_t until_ms, zmq_msg_t *answer)
{
    int r = 0;

    if (line->req == NULL) {
        r = py_socket_zmq_dial(lookup->config.zmq, line->url, PY_SOCKET_INIT_BYTES, &line->req,
                               &line->watch);
    }
    if (r == 0) {
        r = line_wait(lookup, line, ZMQ_POLLOUT, until_ms);
    }
    if (r == 0 && zmq_send(line->req, question->at, question->length, ZMQ_DONTWAIT) < 0) {
        r = -ECONNRESET;
    }
    if (r == 0) {
        r = line_wait(lookup, line, ZMQ_POLLIN, until_ms);
    }
    if (r == 0 && zmq_msg_recv(answer, line->req, ZMQ_DONTWAIT) < 0) {
        r = -ECONNRESET;
    }
    if (r < 0 || zmq_msg_more(answer)) {
        /* a late answer must not be taken for the one to a later question */
        line_hang_up(line);
    }
    return r;
}

static int lookup_tries(struct py_socket_lookup *lookup, struct lookup_line *line,
                        const struct kvl_pack_out *question, uint64_t deadline_ms,
                        zmq_msg_t *answer)
{
    const struct kvl_host *host = lookup->config.host;
    int r = -ETIMEDOUT;

    for (uint32_t left = PY_SOCKET_LOOKUP_TRIES; left > 0; left--) {
        uint64_t now = host->now_ms(host);
        uint64_t share = deadline_ms > now ? (deadline_ms - now) / left : 0;

        r = line_try(lookup, line, question, now + share, answer);
        if (r != -ETIMEDOUT && r != -ECONNRESET) {
            return r;
        }
    }
    return -ETIMEDOUT;
}

static int lookup_judge(zmq_msg_t *answer, enum py_socket_type wanted, uint32_t count,
                        uint32_t *number_out)
{
    char reason[PY_SOCKET_REASON_ROOM];
    struct py_socket_msg msg;

    if (py_socket_decode(zmq_msg_data(answer), zmq_msg_size(answer), &msg, reason) < 0) {
        return -EPROTO;
    }
    if (msg.type == PY_SOCKET_P2P_ERROR) {
        return msg.number == PY_SOCKET_ERROR_NO_HANDSHAKE ? -ENOTCONN : -EREMOTEIO;
    }
    if (msg.type != wanted || msg.number < 0 || msg.number > count) {
        return -EPROTO;
    }
    *number_out = (uint32_t)msg.number;
    return 0;
}

static void lookup_write(const struct py_socket_question *question, enum py_socket_type type,
                         struct kvl_pack_out *out)
{
    const struct py_socket_lookup_msg msg = {
        .lookup_id = question->lookup_id != NULL ? question->lookup_id : "",
        .peer_id = question->own_id,
        .keys = question->chunks.keys,
        .offsets = question->chunks.offsets,
        .mem_indexes = question->chunks.mem_indexes,
        .count = question->chunks.count,
    };

    if (type == PY_SOCKET_LOOKUP_GET) {
        py_socket_put_lookup_get(out, &msg);
    } else {
        py_socket_put_lookup_put(out, &msg);
    }
}

static int lookup_exchange(struct py_socket_lookup *lookup, const char *url, uint64_t deadline_ms,
                           const struct kvl_pack_out *out, zmq_msg_t *answer)
{
    struct lookup_line *line;
    int r = lookup_take_line(lookup, url, deadline_ms, &line);

    if (r < 0) {
        return r;
    }
    r = lookup_tries(lookup, line, out, deadline_ms, answer);
    lookup_give_line(lookup, line);
    return r;
}

/* @return 0 and the bytes of the question, to be freed; -EMSGSIZE, -ENOMEM. */
static int lookup_encode(const struct py_socket_question *question, enum py_socket_type type,
                         struct kvl_pack_out *out)
{
    kvl_pack_out_init(out, NULL, 0);
    lookup_write(question, type, out);
    if (out->length > PY_SOCKET_LOOKUP_BYTES) {
        return -EMSGSIZE;
    }
    kvl_pack_out_init(out, malloc(out->length), out->length);
    if (out->at == NULL) {
        return -ENOMEM;
    }
    lookup_write(question, type, out);
    return 0;
}

static int lookup_ask(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                      enum py_socket_type type, enum py_socket_type wanted, uint32_t *number_out)
{
    const struct kvl_host *host = lookup->config.host;
    uint64_t deadline_ms = question->deadline_ms;
    char url[KVL_CHANNEL_URL_ROOM];
    struct kvl_pack_out out;
    zmq_msg_t answer;
    int r = py_socket_url_normal(question->lookup_url, url);

    if (r < 0 || question->own_id == NULL || question->chunks.count > PY_SOCKET_LIST_MAX) {
        return r < 0 || question->own_id == NULL ? -EINVAL : -EMSGSIZE;
    }
    r = lookup_encode(question, type, &out);
    if (r < 0) {
        return r;
    }
    if (deadline_ms == 0 || deadline_ms == KVL_NEVER) {
        deadline_ms = host->now_ms(host) + lookup->config.options->handshake_timeout_ms;
    }
    (void)zmq_msg_init(&answer);
    r = lookup_exchange(lookup, url, deadline_ms, &out, &answer);
    if (r == 0) {
        r = lookup_judge(&answer, wanted, question->chunks.count, number_out);
    }
    (void)zmq_msg_close(&answer);
    free(out.at);
    py_socket_count(&lookup->config.counters->lookups_out);
    if (r < 0) {
        py_socket_count(&lookup->config.counters->lookups_out_failed);
    }
    return r;
}

int py_socket_lookup_get(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *hits_out)
{
    return lookup_ask(lookup, question, PY_SOCKET_LOOKUP_GET, PY_SOCKET_LOOKUP_GET_RET, hits_out);
}

int py_socket_lookup_put(struct py_socket_lookup *lookup, const struct py_socket_question *question,
                         uint32_t *read_out)
{
    if (question->chunks.offsets == NULL && question->chunks.count > 0) {
        return -EINVAL;
    }
    return lookup_ask(lookup, question, PY_SOCKET_LOOKUP_PUT, PY_SOCKET_LOOKUP_PUT_RET, read_out);
}
