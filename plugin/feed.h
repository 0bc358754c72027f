/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file feed.h
 * Changes of the store on their way to the one reader who announces them: a queue of fixed size.
 * The store adds in the order in which things happen; the reader waits. What overflows is not lost
 * in silence. Thread-safe.
 */
#ifndef KVL_PLUGIN_FEED_H
#define KVL_PLUGIN_FEED_H

#include <kvlane/host.h>

#include <pthread.h>
#include <stdbool.h>

/** Events that wait at most. */
#define KVL_FEED_ROOM 65536u

struct kvl_feed {
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t changed;
    struct kvl_store_event *ring; /* owned; NULL until there is a reader */
    const void *reader;
    uint32_t first;
    uint32_t count;
    bool is_waiting; /* the reader sleeps and was not woken yet */
    bool is_woken; /* by kvl_feed_wake */
    bool has_overflown; /* and the reader does not know yet */
};

void kvl_feed_init(struct kvl_feed *feed);
void kvl_feed_fini(struct kvl_feed *feed);

/** Makes `reader` the reader, the first time. @return 0; -EBUSY there is another; -ENOMEM. */
int kvl_feed_open(struct kvl_feed *feed, const void *reader);

/**
 * Adds a change at `where` (KVL_WHERE_). Never blocks for long; without a reader nothing is kept.
 * @return 0; -EINVAL bad key.
 */
int kvl_feed_add(struct kvl_feed *feed, uint32_t where, const struct kvl_key *key, uint64_t bytes,
                 uint32_t kind);

/** As store_events of the host, for one that has opened it. */
int kvl_feed_read(struct kvl_feed *feed, struct kvl_store_event *events_out, uint32_t room,
                  uint64_t deadline_ms);

/** As store_events_wake. Only that of the reader, or of anybody before there is one, counts. */
void kvl_feed_wake(struct kvl_feed *feed, const void *reader);

#endif /* KVL_PLUGIN_FEED_H */
