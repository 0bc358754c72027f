/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_hold.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NONE UINT32_MAX
/* Leases given back between two looks at the lock. */
#define AT_ONCE 32u

struct held {
    uint64_t lease;
    uint64_t bytes;
    uint64_t until_ms;
    uint32_t bucket;
    uint32_t next_hash;
    uint32_t older; /* in the order of `until_ms` */
    uint32_t newer;
    uint32_t key_length;
    char key[KVL_KEY_MAX];
};

struct tcp_remote_hold {
    const struct kvl_host *host; /* borrowed */
    uint32_t max_count; /* also the number of buckets */
    uint64_t max_bytes;
    uint64_t seed; /* keys come from outside */

    pthread_mutex_t lock; /* guards what follows */
    struct held *held; /* max_count of them */
    uint32_t *buckets;
    uint32_t unused; /* linked by next_hash */
    uint32_t oldest;
    uint32_t newest;
    uint32_t count;
    uint64_t bytes;
};

/* Leases that left the table and are to be given back without the lock. */
struct leaving {
    uint64_t leases[AT_ONCE];
    uint32_t count;
};

int tcp_remote_hold_create(const struct kvl_host *host, uint32_t max_count, uint64_t max_bytes,
                           struct tcp_remote_hold **hold_out)
{
    struct tcp_remote_hold *hold = calloc(1, sizeof(*hold));

    if (hold == NULL) {
        return -ENOMEM;
    }
    hold->held = calloc(max_count, sizeof(*hold->held));
    hold->buckets = calloc(max_count, sizeof(*hold->buckets));
    if (hold->held == NULL || hold->buckets == NULL) {
        free(hold->held);
        free(hold->buckets);
        free(hold);
        return -ENOMEM;
    }
    hold->host = host;
    hold->max_count = max_count;
    hold->max_bytes = max_bytes;
    hold->seed = host->now_ms(host) ^ (uint64_t)(uintptr_t)hold;
    hold->oldest = NONE;
    hold->newest = NONE;
    for (uint32_t i = 0; i < max_count; i++) {
        hold->buckets[i] = NONE;
        hold->held[i].next_hash = i + 1 < max_count ? i + 1 : NONE;
    }
    pthread_mutex_init(&hold->lock, NULL);
    *hold_out = hold;
    return 0;
}

void tcp_remote_hold_destroy(struct tcp_remote_hold *hold)
{
    if (hold == NULL) {
        return;
    }
    (void)tcp_remote_hold_expire(hold, KVL_NEVER);
    pthread_mutex_destroy(&hold->lock);
    free(hold->held);
    free(hold->buckets);
    free(hold);
}

static uint32_t hold_bucket(const struct tcp_remote_hold *hold, const struct kvl_key *key)
{
    return (uint32_t)(XXH3_64bits_withSeed(key->text, key->length, hold->seed) % hold->max_count);
}

static uint32_t hold_find(const struct tcp_remote_hold *hold, uint32_t bucket,
                          const struct kvl_key *key)
{
    uint32_t at = hold->buckets[bucket];

    while (at != NONE && (hold->held[at].key_length != key->length ||
                          memcmp(hold->held[at].key, key->text, key->length) != 0)) {
        at = hold->held[at].next_hash;
    }
    return at;
}

static void hold_unhash(struct tcp_remote_hold *hold, uint32_t at)
{
    uint32_t *link = &hold->buckets[hold->held[at].bucket];

    while (*link != at) {
        link = &hold->held[*link].next_hash;
    }
    *link = hold->held[at].next_hash;
}

static void hold_take_out(struct tcp_remote_hold *hold, uint32_t at, struct leaving *leaving)
{
    struct held *held = &hold->held[at];

    hold_unhash(hold, at);
    if (held->older != NONE) {
        hold->held[held->older].newer = held->newer;
    } else {
        hold->oldest = held->newer;
    }
    if (held->newer != NONE) {
        hold->held[held->newer].older = held->older;
    } else {
        hold->newest = held->older;
    }
    hold->count--;
    hold->bytes -= held->bytes;
    held->next_hash = hold->unused;
    hold->unused = at;
    leaving->leases[leaving->count++] = held->lease;
}

static void hold_put_in(struct tcp_remote_hold *hold, uint32_t bucket, const struct kvl_key *key,
                        const struct kvl_view *view, uint64_t until_ms)
{
    uint32_t at = hold->unused;
    struct held *held = &hold->held[at];

    hold->unused = held->next_hash;
    held->lease = view->lease;
    held->bytes = view->length;
    held->until_ms = until_ms;
    held->bucket = bucket;
    held->next_hash = hold->buckets[bucket];
    hold->buckets[bucket] = at;
    held->key_length = key->length;
    memcpy(held->key, key->text, key->length);
    held->older = hold->newest;
    held->newer = NONE;
    if (hold->newest != NONE) {
        hold->held[hold->newest].newer = at;
    } else {
        hold->oldest = at;
    }
    hold->newest = at;
    hold->count++;
    hold->bytes += held->bytes;
}

static void hold_give_back(struct tcp_remote_hold *hold, struct leaving *leaving)
{
    while (leaving->count > 0) {
        leaving->count--;
        (void)hold->host->store_release(hold->host, leaving->leases[leaving->count]);
    }
}

bool tcp_remote_hold_keep(struct tcp_remote_hold *hold, const struct kvl_key *key,
                          const struct kvl_view *take_view, uint64_t until_ms)
{
    struct leaving leaving = {.count = 0};
    uint32_t bucket = hold_bucket(hold, key);
    bool first = false;
    bool done = take_view->length > hold->max_bytes;
    uint32_t at;

    if (done) {
        (void)hold->host->store_release(hold->host, take_view->lease);
    }
    while (!done) {
        pthread_mutex_lock(&hold->lock);
        at = hold_find(hold, bucket, key);
        if (at != NONE) {
            hold_take_out(hold, at, &leaving);
        }
        while (leaving.count < AT_ONCE && hold->oldest != NONE &&
               (hold->unused == NONE || hold->bytes + take_view->length > hold->max_bytes)) {
            hold_take_out(hold, hold->oldest, &leaving);
        }
        if (hold->unused != NONE && hold->bytes + take_view->length <= hold->max_bytes) {
            first = hold->count == 0;
            hold_put_in(hold, bucket, key, take_view, until_ms);
            done = true;
        }
        pthread_mutex_unlock(&hold->lock);
        hold_give_back(hold, &leaving);
    }
    return first;
}

void tcp_remote_hold_forget(struct tcp_remote_hold *hold, const struct kvl_key *key)
{
    struct leaving leaving = {.count = 0};
    uint32_t at;

    pthread_mutex_lock(&hold->lock);
    at = hold_find(hold, hold_bucket(hold, key), key);
    if (at != NONE) {
        hold_take_out(hold, at, &leaving);
    }
    pthread_mutex_unlock(&hold->lock);
    hold_give_back(hold, &leaving);
}

uint32_t tcp_remote_hold_expire(struct tcp_remote_hold *hold, uint64_t now_ms)
{
    struct leaving leaving = {.count = 0};
    uint32_t count = 0;
    bool more = true;

    while (more) {
        pthread_mutex_lock(&hold->lock);
        while (hold->oldest != NONE && hold->held[hold->oldest].until_ms <= now_ms &&
               leaving.count < AT_ONCE) {
            hold_take_out(hold, hold->oldest, &leaving);
        }
        pthread_mutex_unlock(&hold->lock);
        count += leaving.count;
        more = leaving.count == AT_ONCE;
        hold_give_back(hold, &leaving);
    }
    return count;
}

uint64_t tcp_remote_hold_next(struct tcp_remote_hold *hold)
{
    uint64_t next;

    pthread_mutex_lock(&hold->lock);
    next = hold->oldest == NONE ? KVL_NEVER : hold->held[hold->oldest].until_ms;
    pthread_mutex_unlock(&hold->lock);
    return next;
}

void tcp_remote_hold_stats(struct tcp_remote_hold *hold, uint32_t *count_out, uint64_t *bytes_out)
{
    pthread_mutex_lock(&hold->lock);
    *count_out = hold->count;
    *bytes_out = hold->bytes;
    pthread_mutex_unlock(&hold->lock);
}
