/* SPDX-License-Identifier: Apache-2.0 */
#include "feed.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "chunk_id.h"
#include "thread.h"

void kvl_feed_init(struct kvl_feed *feed)
{
    *feed = (struct kvl_feed){0};
    pthread_mutex_init(&feed->lock, NULL);
    kvl_cond_init(&feed->changed);
}

void kvl_feed_fini(struct kvl_feed *feed)
{
    pthread_cond_destroy(&feed->changed);
    pthread_mutex_destroy(&feed->lock);
    free(feed->ring);
}

int kvl_feed_open(struct kvl_feed *feed, const void *reader)
{
    int r = 0;

    pthread_mutex_lock(&feed->lock);
    if (feed->ring == NULL) {
        feed->ring = malloc(KVL_FEED_ROOM * sizeof(*feed->ring));
        feed->reader = reader;
    }
    if (feed->ring == NULL) {
        r = -ENOMEM;
    } else if (feed->reader != reader) {
        r = -EBUSY;
    }
    pthread_mutex_unlock(&feed->lock);
    return r;
}

int kvl_feed_add(struct kvl_feed *feed, uint32_t where, const struct kvl_key *key, uint64_t bytes,
                 uint32_t kind)
{
    struct kvl_store_event event = {
        .bytes = kind == KVL_KEY_ADMIT ? bytes : 0,
        .kind = kind,
        .where = where,
    };
    int r = kvl_chunk_id_of(key, &event.id);

    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&feed->lock);
    if (feed->ring == NULL) {
        pthread_mutex_unlock(&feed->lock);
        return 0;
    }
    if (feed->has_overflown || feed->count == KVL_FEED_ROOM) {
        feed->has_overflown = true;
        feed->count = 0;
    } else {
        feed->ring[(feed->first + feed->count++) % KVL_FEED_ROOM] = event;
    }
    /* A burst wakes once: who is awake takes all there is. */
    if (feed->is_waiting) {
        feed->is_waiting = false;
        pthread_cond_signal(&feed->changed);
    }
    pthread_mutex_unlock(&feed->lock);
    return 0;
}

static bool has_something(const struct kvl_feed *feed)
{
    return feed->count > 0 || feed->has_overflown || feed->is_woken;
}

static struct timespec time_of(uint64_t ms)
{
    const uint64_t most = INT32_MAX * 1000ull; /* a time that any time_t can hold */

    ms = ms < most ? ms : most;
    return (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
}

static uint32_t take(struct kvl_feed *feed, struct kvl_store_event *events_out, uint32_t room)
{
    const uint32_t count = feed->count < room ? feed->count : room;
    const uint32_t until_end = KVL_FEED_ROOM - feed->first;
    const uint32_t head = count < until_end ? count : until_end;

    if (count == 0) {
        return 0;
    }
    memcpy(events_out, &feed->ring[feed->first], head * sizeof(*events_out));
    memcpy(events_out + head, feed->ring, (count - head) * sizeof(*events_out));
    feed->first = (feed->first + count) % KVL_FEED_ROOM;
    feed->count -= count;
    return count;
}

int kvl_feed_read(struct kvl_feed *feed, struct kvl_store_event *events_out, uint32_t room,
                  uint64_t deadline_ms)
{
    const struct timespec until = time_of(deadline_ms);
    int r = 0;

    pthread_mutex_lock(&feed->lock);
    while (!has_something(feed) && r == 0) {
        feed->is_waiting = true;
        r = pthread_cond_timedwait(&feed->changed, &feed->lock, &until);
    }
    feed->is_waiting = false;
    feed->is_woken = false;
    if (feed->has_overflown) {
        feed->has_overflown = false;
        r = -EOVERFLOW;
    } else {
        r = (int)take(feed, events_out, room);
    }
    pthread_mutex_unlock(&feed->lock);
    return r;
}

void kvl_feed_wake(struct kvl_feed *feed, const void *reader)
{
    pthread_mutex_lock(&feed->lock);
    if (feed->reader == NULL || feed->reader == reader) {
        feed->is_woken = true;
        feed->is_waiting = false;
        pthread_cond_broadcast(&feed->changed);
    }
    pthread_mutex_unlock(&feed->lock);
}
