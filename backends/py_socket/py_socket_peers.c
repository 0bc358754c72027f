/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_peers.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BUCKETS 1024u

struct py_socket_peers {
    pthread_mutex_t lock; /* guards everything below and the private fields of records */
    uint32_t max;
    uint32_t count;
    uint64_t serials;
    struct py_socket_peer *by_url[BUCKETS];
    struct py_socket_peer *by_id[BUCKETS];
};

int py_socket_random(void *bytes, size_t length)
{
    uint8_t *at = bytes;

    while (length > 0) {
        ssize_t n = getrandom(at, length, 0);

        if (n < 0 && errno != EINTR) {
            return -errno;
        }
        if (n > 0) {
            at += n;
            length -= (size_t)n;
        }
    }
    return 0;
}

/* FNV-1a: the names come from peers that have done a handshake, and there are at most `max`. */
static uint32_t peers_bucket(const char *name)
{
    uint32_t hash = 2166136261u;

    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 16777619u;
    }
    return (hash ^ hash >> 16) % BUCKETS;
}

struct py_socket_peer *py_socket_peer_retain(struct py_socket_peer *peer)
{
    atomic_fetch_add_explicit(&peer->refs, 1, memory_order_relaxed);
    return peer;
}

void py_socket_peer_release(struct py_socket_peer *peer)
{
    if (peer != NULL && atomic_fetch_sub_explicit(&peer->refs, 1, memory_order_acq_rel) == 1) {
        explicit_bzero(peer->tokens, sizeof(peer->tokens));
        explicit_bzero(peer->their_token, sizeof(peer->their_token));
        free(peer);
    }
}

int py_socket_peers_create(uint32_t max, struct py_socket_peers **peers_out)
{
    struct py_socket_peers *peers = calloc(1, sizeof(*peers));

    if (peers == NULL) {
        return -ENOMEM;
    }
    peers->max = max;
    pthread_mutex_init(&peers->lock, NULL);
    *peers_out = peers;
    return 0;
}

/* ---- with the lock held ---- */

static struct py_socket_peer *peers_by_url(struct py_socket_peers *peers, const char *url)
{
    struct py_socket_peer *peer = peers->by_url[peers_bucket(url)];

    while (peer != NULL && strcmp(peer->url, url) != 0) {
        peer = peer->next_by_url;
    }
    return peer;
}

static struct py_socket_peer *peers_by_id(struct py_socket_peers *peers, const char *id)
{
    struct py_socket_peer *peer = peers->by_id[peers_bucket(id)];

    while (peer != NULL && strcmp(peer->id, id) != 0) {
        peer = peer->next_by_id;
    }
    return peer;
}

static void peers_link(struct py_socket_peers *peers, struct py_socket_peer *peer)
{
    struct py_socket_peer **url = &peers->by_url[peers_bucket(peer->url)];
    struct py_socket_peer **id = &peers->by_id[peers_bucket(peer->id)];

    peer->next_by_url = *url;
    *url = peer;
    peer->next_by_id = *id;
    *id = peer;
    peers->count++;
}

/* Takes it out; its reference goes with the list at `gone_out`. */
static void peers_unlink(struct py_socket_peers *peers, struct py_socket_peer *peer, int reason,
                         struct py_socket_peer **gone_out)
{
    struct py_socket_peer **at = &peers->by_url[peers_bucket(peer->url)];

    while (*at != peer) {
        at = &(*at)->next_by_url;
    }
    *at = peer->next_by_url;
    at = &peers->by_id[peers_bucket(peer->id)];
    while (*at != peer) {
        at = &(*at)->next_by_id;
    }
    *at = peer->next_by_id;
    peers->count--;
    peer->next_gone = *gone_out;
    *gone_out = peer;
    atomic_store(&peer->gone, reason);
}

/* Takes out every record of an incarnation: it may have been reached by several names. */
static void peers_unlink_incarnation(struct py_socket_peers *peers, uint64_t incarnation,
                                     struct py_socket_peer **gone_out)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        struct py_socket_peer *peer = peers->by_url[i];

        while (peer != NULL) {
            struct py_socket_peer *next = peer->next_by_url;

            if (peer->offer.incarnation == incarnation) {
                peers_unlink(peers, peer, -ESTALE, gone_out);
            }
            peer = next;
        }
    }
}

static int peers_is_older(struct py_socket_peer *peer, struct py_socket_peer *than)
{
    uint64_t seen = atomic_load(&peer->seen_ms);
    uint64_t other = atomic_load(&than->seen_ms);

    return seen != other ? seen < other : peer->serial < than->serial;
}

/* Makes room for one. @return 0; -EMFILE everybody is in use. */
static int peers_make_room(struct py_socket_peers *peers, struct py_socket_peer **gone_out)
{
    struct py_socket_peer *oldest = NULL;

    if (peers->count < peers->max) {
        return 0;
    }
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (struct py_socket_peer *peer = peers->by_url[i]; peer != NULL;
             peer = peer->next_by_url) {
            if (atomic_load(&peer->refs) == 1 && (oldest == NULL || peers_is_older(peer, oldest))) {
                oldest = peer;
            }
        }
    }
    if (oldest == NULL) {
        return -EMFILE;
    }
    peers_unlink(peers, oldest, -ENOTCONN, gone_out);
    return 0;
}

static void peers_add_token(struct py_socket_peer *peer, const uint8_t *token)
{
    uint32_t place = peer->token_count;

    /* Two handshakes can cross; more of them come from a peer that does nothing else. */
    if (place == PY_SOCKET_TOKENS) {
        place = PY_SOCKET_TOKENS - 1;
    } else {
        peer->token_count++;
    }
    memcpy(peer->tokens[place], token, PY_SOCKET_TOKEN);
}

/* Only who called gave its peer a token before it learns of it. */
static void peers_take_token(struct py_socket_peer *peer, const struct py_socket_hello *hello)
{
    peer->is_settled = hello->token != NULL;
    if (peer->is_settled || !peer->has_answered) {
        memcpy(peer->their_token, hello->offer->token, PY_SOCKET_TOKEN);
    }
    peer->has_answered |= peer->is_settled;
}

static struct py_socket_peer *peers_new(struct py_socket_peers *peers,
                                        const struct py_socket_hello *hello, const char *id)
{
    struct py_socket_peer *peer = calloc(1, sizeof(*peer));

    if (peer == NULL) {
        return NULL;
    }
    memcpy(peer->id, id, strlen(id) + 1);
    memcpy(peer->url, hello->url, strlen(hello->url) + 1);
    peer->offer = *hello->offer;
    memset(peer->offer.token, 0, sizeof(peer->offer.token));
    peer->version = hello->version;
    peer->serial = ++peers->serials;
    atomic_init(&peer->refs, 1);
    atomic_init(&peer->seen_ms, hello->now_ms);
    return peer;
}

/* ---- end ---- */

/* The record of that incarnation; NULL: there is none, and *old_out is what stands in its place. */
static struct py_socket_peer *peers_known(struct py_socket_peers *peers,
                                          const struct py_socket_hello *hello,
                                          struct py_socket_peer **old_out)
{
    struct py_socket_peer *old = peers_by_id(peers, hello->id);

    if (old == NULL) {
        old = peers_by_url(peers, hello->url);
    }
    *old_out = old;
    return old != NULL && old->offer.incarnation == hello->offer->incarnation ? old : NULL;
}

static int peers_replace(struct py_socket_peers *peers, const struct py_socket_hello *hello,
                         struct py_socket_peer *old, struct py_socket_learned *learned)
{
    struct py_socket_peer *peer;
    uint8_t token[PY_SOCKET_TOKEN];
    int r = 0;

    if (hello->token != NULL) {
        memcpy(token, hello->token, sizeof(token));
    } else {
        r = py_socket_random(token, sizeof(token));
    }
    if (r == 0 && old == NULL) {
        r = peers_make_room(peers, &learned->gone);
    }
    if (r < 0) {
        return r;
    }
    peer = peers_new(peers, hello, old == NULL || hello->is_named ? hello->id : old->id);
    if (peer == NULL) {
        return -ENOMEM;
    }
    peers_add_token(peer, token);
    if (old != NULL && old->offer.incarnation != 0) {
        peers_unlink_incarnation(peers, old->offer.incarnation, &learned->gone);
    } else if (old != NULL) {
        peers_unlink(peers, old, -ESTALE, &learned->gone);
    }
    peers_link(peers, peer);
    learned->peer = peer;
    learned->is_new = 1;
    return 0;
}

/* ---- end ---- */

int py_socket_peers_learn(struct py_socket_peers *peers, const struct py_socket_hello *hello,
                          struct py_socket_learned *learned_out)
{
    struct py_socket_learned learned = {0};
    struct py_socket_peer *old;
    int r = 0;

    pthread_mutex_lock(&peers->lock);
    learned.peer = peers_known(peers, hello, &old);
    if (learned.peer == NULL) {
        r = peers_replace(peers, hello, old, &learned);
    } else {
        atomic_store(&old->seen_ms, hello->now_ms);
        if (hello->token != NULL) {
            peers_add_token(old, hello->token);
        }
    }
    if (r == 0) {
        peers_take_token(learned.peer, hello);
        memcpy(learned.token, learned.peer->tokens[0], PY_SOCKET_TOKEN);
        (void)py_socket_peer_retain(learned.peer);
    }
    pthread_mutex_unlock(&peers->lock);
    *learned_out = learned;
    return r;
}

int py_socket_peers_drop(struct py_socket_peers *peers, struct py_socket_peer *peer, int reason,
                         struct py_socket_peer **gone_out)
{
    int is_there;

    pthread_mutex_lock(&peers->lock);
    is_there = atomic_load(&peer->gone) == 0;
    if (is_there) {
        peers_unlink(peers, peer, reason, gone_out);
    }
    pthread_mutex_unlock(&peers->lock);
    return is_there;
}

struct py_socket_peer *py_socket_peers_drop_all(struct py_socket_peers *peers, int reason)
{
    struct py_socket_peer *gone = NULL;

    pthread_mutex_lock(&peers->lock);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        while (peers->by_url[i] != NULL) {
            peers_unlink(peers, peers->by_url[i], reason, &gone);
        }
    }
    pthread_mutex_unlock(&peers->lock);
    return gone;
}

void py_socket_peers_destroy(struct py_socket_peers *peers)
{
    struct py_socket_peer *gone;

    if (peers == NULL) {
        return;
    }
    gone = py_socket_peers_drop_all(peers, -ECANCELED);
    while (gone != NULL) {
        struct py_socket_peer *next = gone->next_gone;

        py_socket_peer_release(gone);
        gone = next;
    }
    pthread_mutex_destroy(&peers->lock);
    free(peers);
}

struct py_socket_peer *py_socket_peers_find(struct py_socket_peers *peers, const char *id)
{
    struct py_socket_peer *peer;

    pthread_mutex_lock(&peers->lock);
    peer = peers_by_id(peers, id);
    if (peer == NULL) {
        peer = peers_by_url(peers, id);
    }
    if (peer != NULL) {
        (void)py_socket_peer_retain(peer);
    }
    pthread_mutex_unlock(&peers->lock);
    return peer;
}

static uint32_t peers_token_differs(const uint8_t *a, const uint8_t *b)
{
    uint32_t differs = 0;

    for (uint32_t i = 0; i < PY_SOCKET_TOKEN; i++) {
        differs |= (uint32_t)(a[i] ^ b[i]);
    }
    return differs;
}

struct py_socket_peer *py_socket_peers_find_token(struct py_socket_peers *peers,
                                                  const uint8_t *token)
{
    struct py_socket_peer *found = NULL;

    pthread_mutex_lock(&peers->lock);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (struct py_socket_peer *peer = peers->by_url[i]; peer != NULL;
             peer = peer->next_by_url) {
            for (uint32_t k = 0; k < peer->token_count; k++) {
                if (peers_token_differs(peer->tokens[k], token) == 0) {
                    found = peer;
                }
            }
        }
    }
    if (found != NULL) {
        (void)py_socket_peer_retain(found);
    }
    pthread_mutex_unlock(&peers->lock);
    return found;
}

int py_socket_peers_is_settled(struct py_socket_peers *peers, const struct py_socket_peer *peer)
{
    int is_settled;

    pthread_mutex_lock(&peers->lock);
    is_settled = peer->is_settled || peer->version == 0;
    pthread_mutex_unlock(&peers->lock);
    return is_settled;
}

void py_socket_peers_token(struct py_socket_peers *peers, struct py_socket_peer *peer,
                           uint8_t *token_out)
{
    pthread_mutex_lock(&peers->lock);
    memcpy(token_out, peer->their_token, PY_SOCKET_TOKEN);
    pthread_mutex_unlock(&peers->lock);
}

void py_socket_peers_set_lookup(struct py_socket_peers *peers, struct py_socket_peer *peer,
                                const char *lookup_url)
{
    pthread_mutex_lock(&peers->lock);
    snprintf(peer->lookup_url, sizeof(peer->lookup_url), "%s", lookup_url);
    peer->has_lookup = 1;
    pthread_mutex_unlock(&peers->lock);
}

int py_socket_peers_get_lookup(struct py_socket_peers *peers, struct py_socket_peer *peer,
                               char *lookup_url_out)
{
    int has_lookup;

    pthread_mutex_lock(&peers->lock);
    has_lookup = peer->has_lookup;
    if (has_lookup) {
        memcpy(lookup_url_out, peer->lookup_url, sizeof(peer->lookup_url));
    }
    pthread_mutex_unlock(&peers->lock);
    return has_lookup;
}

uint32_t py_socket_peers_count(struct py_socket_peers *peers)
{
    uint32_t count;

    pthread_mutex_lock(&peers->lock);
    count = peers->count;
    pthread_mutex_unlock(&peers->lock);
    return count;
}
