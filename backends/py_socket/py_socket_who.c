/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_who.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOLDERS_MAX 4096u
#define HINTS 65536u /* a power of two; 1 MiB */
#define BACKOFF_FIRST_MS 250u
#define BACKOFF_MOST_MS 30000u

struct hint {
    uint64_t hash;
    uint32_t holder; /* index + 1; 0 = none */
    uint32_t reserved;
};

struct py_socket_who {
    pthread_mutex_t lock; /* guards all below */
    uint32_t count;
    struct py_socket_holder *holders[HOLDERS_MAX]; /* owned */
    struct hint hints[HINTS];
};

int py_socket_who_create(struct py_socket_who **who_out)
{
    struct py_socket_who *who = calloc(1, sizeof(*who));

    if (who == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&who->lock, NULL);
    *who_out = who;
    return 0;
}

void py_socket_who_destroy(struct py_socket_who *who)
{
    if (who == NULL) {
        return;
    }
    for (uint32_t i = 0; i < who->count; i++) {
        free(who->holders[i]);
    }
    pthread_mutex_destroy(&who->lock);
    free(who);
}

static struct py_socket_holder *holder_find(const struct py_socket_who *who, const char *url)
{
    for (uint32_t i = 0; i < who->count; i++) {
        if (strcmp(who->holders[i]->url, url) == 0) {
            return who->holders[i];
        }
    }
    return NULL;
}

/* The lock is held. */
static struct py_socket_holder *holder_make(struct py_socket_who *who, const char *url)
{
    struct py_socket_holder *holder = holder_find(who, url);

    if (holder == NULL && who->count < HOLDERS_MAX &&
        (holder = calloc(1, sizeof(*holder))) != NULL) {
        snprintf(holder->url, sizeof(holder->url), "%s", url);
        holder->index = who->count;
        who->holders[who->count++] = holder;
    }
    return holder;
}

struct py_socket_holder *py_socket_who_holder(struct py_socket_who *who, const char *url)
{
    struct py_socket_holder *holder;

    if (url[0] == '\0' || strlen(url) > KVL_CHANNEL_URL_MAX) {
        return NULL;
    }
    pthread_mutex_lock(&who->lock);
    holder = holder_make(who, url);
    pthread_mutex_unlock(&who->lock);
    return holder;
}

void py_socket_who_set_static(struct py_socket_who *who, char (*urls)[KVL_CHANNEL_URL_ROOM],
                              uint32_t count)
{
    pthread_mutex_lock(&who->lock);
    for (uint32_t i = 0; i < who->count; i++) {
        who->holders[i]->is_static = 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct py_socket_holder *holder = holder_make(who, urls[i]);

        if (holder != NULL) {
            holder->is_static = 1;
        }
    }
    pthread_mutex_unlock(&who->lock);
}

struct py_socket_holder *py_socket_who_next_static(struct py_socket_who *who, uint32_t *at_io)
{
    struct py_socket_holder *found = NULL;

    pthread_mutex_lock(&who->lock);
    while (found == NULL && *at_io < who->count) {
        struct py_socket_holder *holder = who->holders[(*at_io)++];

        found = holder->is_static ? holder : NULL;
    }
    pthread_mutex_unlock(&who->lock);
    return found;
}

int py_socket_who_may_try(struct py_socket_who *who, const struct py_socket_holder *holder,
                          uint64_t now_ms)
{
    int may;

    pthread_mutex_lock(&who->lock);
    may = now_ms >= holder->quiet_until_ms;
    pthread_mutex_unlock(&who->lock);
    return may;
}

int py_socket_who_is_new(struct py_socket_who *who, const struct py_socket_holder *holder)
{
    int is_new;

    pthread_mutex_lock(&who->lock);
    is_new = holder->backoff_ms == 0;
    pthread_mutex_unlock(&who->lock);
    return is_new;
}

int py_socket_who_try(struct py_socket_who *who, struct py_socket_holder *holder, uint64_t now_ms)
{
    int may;

    pthread_mutex_lock(&who->lock);
    may = !holder->is_connecting && now_ms >= holder->quiet_until_ms;
    holder->is_connecting |= may;
    pthread_mutex_unlock(&who->lock);
    return may;
}

void py_socket_who_tried(struct py_socket_who *who, struct py_socket_holder *holder, int status,
                         uint64_t now_ms)
{
    pthread_mutex_lock(&who->lock);
    holder->is_connecting = 0;
    if (status == 0) {
        holder->backoff_ms = 0;
        holder->quiet_until_ms = 0;
    } else {
        holder->backoff_ms = holder->backoff_ms == 0 ? BACKOFF_FIRST_MS : holder->backoff_ms * 2;
        if (holder->backoff_ms > BACKOFF_MOST_MS) {
            holder->backoff_ms = BACKOFF_MOST_MS;
        }
        holder->quiet_until_ms = now_ms + holder->backoff_ms;
    }
    pthread_mutex_unlock(&who->lock);
}

void py_socket_who_remember(struct py_socket_who *who, uint64_t hash,
                            const struct py_socket_holder *holder)
{
    struct hint *hint = &who->hints[hash & (HINTS - 1)];

    pthread_mutex_lock(&who->lock);
    *hint = (struct hint){.hash = hash, .holder = holder->index + 1};
    pthread_mutex_unlock(&who->lock);
}

void py_socket_who_forget(struct py_socket_who *who, uint64_t hash,
                          const struct py_socket_holder *holder)
{
    struct hint *hint = &who->hints[hash & (HINTS - 1)];

    pthread_mutex_lock(&who->lock);
    if (hint->hash == hash && hint->holder == holder->index + 1) {
        *hint = (struct hint){0};
    }
    pthread_mutex_unlock(&who->lock);
}

struct py_socket_holder *py_socket_who_had(struct py_socket_who *who, uint64_t hash)
{
    const struct hint *hint = &who->hints[hash & (HINTS - 1)];
    struct py_socket_holder *holder = NULL;

    pthread_mutex_lock(&who->lock);
    if (hint->hash == hash && hint->holder != 0) {
        holder = who->holders[hint->holder - 1];
    }
    pthread_mutex_unlock(&who->lock);
    return holder;
}
