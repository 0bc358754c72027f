/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_log.h
 * The folder as a log: segments from the oldest to the one that is written, and the index of what
 * is live in them. One thread writes, any number read. No I/O is done with the lock held.
 */
#ifndef KVL_DISK_LOG_H
#define KVL_DISK_LOG_H

#include <pthread.h>

#include <kvlane/host.h>

#include "disk_index.h"
#include "disk_op.h"
#include "disk_options.h"
#include "disk_segment.h"

/** What is moved between two looks at the clock, and small enough to be hashed in the cache. */
#define DISK_SLICE ((uint64_t)1024 * 1024)
/** Runs in one system call. */
#define DISK_RUNS 256

enum disk_counter {
    DISK_COUNT_HITS,
    DISK_COUNT_MISSES,
    DISK_COUNT_READ_BYTES,
    DISK_COUNT_WRITTEN, /* chunks */
    DISK_COUNT_WRITTEN_BYTES,
    DISK_COUNT_UNCHANGED, /* writes of what was there already */
    DISK_COUNT_REMOVED,
    DISK_COUNT_KEPT, /* chunks appended once more before their segment went */
    DISK_COUNT_EXPIRED, /* chunks that went with their segment */
    DISK_COUNT_EXPIRED_SEGMENTS,
    DISK_COUNT_CORRUPT, /* chunks whose bytes on disk are wrong */
    DISK_COUNT_COLLISIONS, /* another key under the same hash */
    DISK_COUNT_READ_ERRORS,
    DISK_COUNT_WRITE_ERRORS,
    DISK_COUNT_TORN_BYTES, /* cut off at start */
    DISK_COUNT_BAD_SEGMENTS, /* set aside at start */
    DISK_COUNTERS
};

struct disk_log {
    const struct kvl_host *host; /* borrowed */
    const struct disk_options *options; /* borrowed */
    struct disk_io io; /* may be replaced before open */
    int dir_fd; /* owned; holds the lock on the folder */

    pthread_mutex_t lock; /* guards index, segments, count and total_bytes */
    struct disk_index index;
    struct disk_segment **segments; /* oldest first; one reference each */
    uint32_t count;
    uint32_t capacity;
    uint64_t total_bytes;

    /* the writer's own, and before it of start */
    struct disk_segment *active; /* the last of them, or NULL: make one first */
    uint64_t sequence; /* of the last record */
    uint32_t number; /* of the last segment */

    atomic_int write_code; /* why writing fails at present, or 0 */
    atomic_bool warned_corrupt;
    atomic_bool warned_read;
    _Atomic uint64_t counters[DISK_COUNTERS];
};

/** A chunk that was found. */
struct disk_found {
    struct disk_name name;
    struct disk_place place;
    struct disk_segment *segment; /* one reference */
};

/** Reads nothing, opens nothing. `host` and `options` must outlive the log. */
void disk_log_init(struct disk_log *log, const struct kvl_host *host,
                   const struct disk_options *options);
/** Closes all. Takes a log that was only init'ed. */
void disk_log_fini(struct disk_log *log);

/**
 * Makes the folder where it is missing, locks it, and rebuilds the index of what is there.
 * @return 0; -EBUSY another process has the folder; a code; err->text on failure.
 */
int disk_log_open(struct disk_log *log, struct kvl_err *err);

/** Marks the open segment as closed. No reader or writer is left. */
void disk_log_close(struct disk_log *log);

/* ---- any thread ---- */

/** True when the index knows the key. */
bool disk_log_has(struct disk_log *log, const struct kvl_key *key);

/** Counts as use. @return 0 and a reference to give back; -ENOENT. */
int disk_log_find(struct disk_log *log, const struct kvl_key *key, struct disk_found *found_out);
void disk_log_put_back(struct disk_found *found);

/** Takes the chunk out of the index, if it still is where it was found. */
void disk_log_forget(struct disk_log *log, const struct disk_found *found);

/** Places of all chunks, oldest first, to be freed by free(). @return 0; -ENOMEM. */
int disk_log_places(struct disk_log *log, struct disk_place **places_out, uint64_t *count_out);

/** @return a segment with one more reference; NULL when it is gone. */
struct disk_segment *disk_log_segment(struct disk_log *log, uint32_t number);

struct disk_log_totals {
    uint64_t chunks;
    uint64_t live_bytes;
    uint64_t total_bytes;
    uint32_t segments;
};
void disk_log_totals(struct disk_log *log, struct disk_log_totals *totals_out);

void disk_log_count(struct disk_log *log, enum disk_counter counter, uint64_t amount);

/* ---- the writer, and start ---- */

/** Adds a segment behind the others and takes over its reference. @return 0; -ENOMEM. */
int disk_log_add_segment(struct disk_log *log, struct disk_segment *take_segment);

/** Puts a record that now stands in the segment into the index. @return 0; -ENOMEM. */
int disk_log_index_chunk(struct disk_log *log, struct disk_segment *segment,
                         const struct disk_name *name, uint64_t offset, uint64_t bytes);
/** Takes a chunk out of the index. @return 0; -ENOENT. */
int disk_log_index_remove(struct disk_log *log, const struct disk_name *name);

/** Moves the end of a segment. */
void disk_log_set_end(struct disk_log *log, struct disk_segment *segment, uint64_t end);

/** Unlinks the oldest segment, which is not the open one. @return false when there is none. */
bool disk_log_expire(struct disk_log *log);

/**
 * @param used_out  whether any chunk in it was used
 * @return the oldest segment with one more reference; NULL when there is none but the open one.
 */
struct disk_segment *disk_log_oldest(struct disk_log *log, bool *used_out);

/** True when the chunk lies there and was used since. */
bool disk_log_is_used(struct disk_log *log, const struct disk_name *name, uint32_t segment,
                      uint64_t offset);

/** True when the oldest segment must go for `need` more bytes, or may. */
bool disk_log_is_over(struct disk_log *log, uint64_t need);

/** Expires segments until `need` more bytes are within the budget, and those without a chunk. */
void disk_log_trim(struct disk_log *log, uint64_t need);

#endif /* KVL_DISK_LOG_H */
