/* SPDX-License-Identifier: Apache-2.0 */
/* How any thread asks for a handshake and, if it likes, waits for its end. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "py_socket_link_parts.h"
#include "py_socket_url.h"

/* @return 0 and what is left to do; -EALREADY nothing is; -EINVAL. */
static int link_known(struct py_socket_link *link, const struct py_socket_call *call,
                      const char *id, uint32_t *what_out, char *side_reply_out)
{
    struct py_socket_peer *peer = py_socket_peers_find(link->peers, id);
    uint32_t what = call->what;
    char side_reply[KVL_CHANNEL_URL_ROOM] = "";

    if (peer != NULL) {
        /* without a handshake nothing is asked for in vain: a side message alone always goes out */
        if ((what & PY_SOCKET_CALL_INIT) != 0 && py_socket_peers_is_settled(link->peers, peer)) {
            what &= ~PY_SOCKET_CALL_INIT;
            if ((what & PY_SOCKET_CALL_SIDE) != 0 &&
                py_socket_peers_get_lookup(link->peers, peer, side_reply)) {
                what &= ~PY_SOCKET_CALL_SIDE;
            }
        }
        py_socket_peer_release(peer);
    }
    if (what == 0 && side_reply_out != NULL) {
        memcpy(side_reply_out, side_reply, sizeof(side_reply));
    }
    *what_out = what;
    return what == 0 ? -EALREADY : 0;
}

static int link_make_call(struct py_socket_link *link, const struct py_socket_call *call,
                          struct link_call **made_out)
{
    const char *self = link->url;
    struct link_call *made = calloc(1, sizeof(*made));
    int r;

    if (made == NULL) {
        return -ENOMEM;
    }
    made->what = call->what;
    made->is_named = call->peer_id != NULL;
    made->deadline_ms = call->deadline_ms;
    if (made->deadline_ms == 0 || made->deadline_ms == KVL_NEVER) {
        made->deadline_ms = link_now(link) + link->config.options->handshake_timeout_ms;
    }
    r = py_socket_url_normal(call->url, made->url);
    if (r == 0) {
        r = link_copy_url("peer_id", made->is_named ? call->peer_id : made->url, made->id, NULL);
    }
    if (r == 0 && self[0] == '\0' && call->local_id != NULL) {
        self = call->local_id;
    }
    if (r == 0) {
        r = link_copy_url("local_id", self, made->self, NULL);
    }
    if (r == 0 && self[0] == '\0') {
        /* Python's reader wants a text, and peers need something to tell us by */
        snprintf(made->self, sizeof(made->self), "kvlane-%016" PRIx64, link->offer.incarnation);
    }
    if (r == 0) {
        r = py_socket_random(made->token, sizeof(made->token));
    }
    if (r < 0) {
        free(made);
        return r == -ENAMETOOLONG ? -EINVAL : r;
    }
    *made_out = made;
    return 0;
}

/* Several calls to one peer give it the same token: it would show the last one as soon as it has
 * it, and that call's answer may be behind the data connection. One that has just ended has left
 * the token in the record. The lock is held. */
static void link_share_token(const struct py_socket_link *link, struct link_call *call)
{
    for (const struct link_call *at = link->all; at != NULL; at = at->all_next) {
        if (strcmp(at->url, call->url) == 0) {
            memcpy(call->token, at->token, sizeof(call->token));
            return;
        }
    }
    (void)py_socket_peers_given(link->peers, call->url, call->token);
}

/* @return 0; -ECANCELED, -EAGAIN. The lock is held. */
static int link_enqueue(struct py_socket_link *link, struct link_call *call)
{
    if (link->is_closing) {
        return -ECANCELED;
    }
    if (link->call_count == LINK_CALLS_MAX) {
        return -EAGAIN;
    }
    link_share_token(link, call);
    link->call_count++;
    call->number = ++link->numbers;
    call->all_next = link->all;
    call->all_prev = &link->all;
    if (link->all != NULL) {
        link->all->all_prev = &call->all_next;
    }
    link->all = call;
    *link->fresh_end = call;
    link->fresh_end = &call->next;
    return 0;
}

int py_socket_link_call(struct py_socket_link *link, const struct py_socket_call *call,
                        py_socket_call_fn done, void *ctx, uint64_t *call_out, char *side_reply_out)
{
    struct link_call *made;
    uint64_t number = 0;
    uint32_t what;
    int r;

    if (call->url == NULL || call->what == 0) {
        return -EINVAL;
    }
    r = link_make_call(link, call, &made);
    if (r < 0) {
        return r;
    }
    made->done = done;
    made->ctx = ctx;
    r = link_known(link, call, made->id, &what, side_reply_out);
    if (r == 0) {
        made->what = what;
        pthread_mutex_lock(&link->lock);
        r = link_enqueue(link, made);
        number = made->number;
        pthread_mutex_unlock(&link->lock);
    }
    if (r < 0) {
        free(made);
        return r;
    }
    link_wake(link);
    if (call_out != NULL) {
        *call_out = number;
    }
    return 0;
}

void py_socket_link_cancel(struct py_socket_link *link, uint64_t number)
{
    pthread_mutex_lock(&link->lock);
    for (struct link_call *call = link->all; call != NULL; call = call->all_next) {
        if (call->number == number) {
            call->is_cancelled = 1;
            link->is_cancelling = 1;
            break;
        }
    }
    pthread_mutex_unlock(&link->lock);
    link_wake(link);
}

struct link_wait {
    struct py_socket_link *link;
    char *side_reply_out;
    int status;
    int is_done;
};

static void link_wait_done(void *ctx, int status, const char *side_reply)
{
    struct link_wait *wait = ctx;

    pthread_mutex_lock(&wait->link->lock);
    wait->status = status;
    wait->is_done = 1;
    if (status == 0 && wait->side_reply_out != NULL) {
        memcpy(wait->side_reply_out, side_reply, KVL_CHANNEL_URL_ROOM);
    }
    pthread_cond_broadcast(&wait->link->changed);
    pthread_mutex_unlock(&wait->link->lock);
}

int py_socket_link_call_wait(struct py_socket_link *link, const struct py_socket_call *call,
                             char *side_reply_out)
{
    struct link_wait wait = {.link = link, .side_reply_out = side_reply_out};
    int r = py_socket_link_call(link, call, link_wait_done, &wait, NULL, side_reply_out);

    if (r < 0) {
        return r == -EALREADY ? 0 : r;
    }
    pthread_mutex_lock(&link->lock);
    while (!wait.is_done) {
        if (!link->config.is_async || !link_grab(link)) {
            pthread_cond_wait(&link->changed, &link->lock);
            continue;
        }
        pthread_mutex_unlock(&link->lock);
        link_drive(link, -1);
        pthread_mutex_lock(&link->lock);
        link_let_go(link);
    }
    r = wait.status;
    pthread_mutex_unlock(&link->lock);
    return r;
}
