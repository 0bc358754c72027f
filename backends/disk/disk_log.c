/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_log.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

void disk_log_init(struct disk_log *log, const struct kvl_host *host,
                   const struct disk_options *options)
{
    *log = (struct disk_log){.host = host, .options = options, .io = disk_io_kernel, .dir_fd = -1};
    (void)pthread_mutex_init(&log->lock, NULL);
    disk_index_init(&log->index, 0);
}

void disk_log_fini(struct disk_log *log)
{
    for (uint32_t i = 0; i < log->count; i++) {
        disk_segment_release(log->segments[i]);
    }
    free(log->segments);
    disk_index_fini(&log->index);
    if (log->dir_fd >= 0) {
        (void)close(log->dir_fd);
    }
    (void)pthread_mutex_destroy(&log->lock);
}

void disk_log_close(struct disk_log *log)
{
    if (log->active != NULL && disk_segment_seal(&log->io, log->active, log->sequence + 1) == 0 &&
        log->options->sync != DISK_SYNC_NO) {
        (void)fdatasync(log->active->fd);
    }
    log->active = NULL;
}

void disk_log_count(struct disk_log *log, enum disk_counter counter, uint64_t amount)
{
    (void)atomic_fetch_add_explicit(&log->counters[counter], amount, memory_order_relaxed);
}

/* ---- with the lock held ---- */

/* Numbers grow along the array. */
static struct disk_segment *log_segment(const struct disk_log *log, uint32_t number)
{
    uint32_t low = 0;
    uint32_t high = log->count;

    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;

        if (log->segments[middle]->number < number) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < log->count && log->segments[low]->number == number ? log->segments[low] : NULL;
}

static void log_unaccount(struct disk_log *log, const struct disk_place *place)
{
    struct disk_segment *segment = log_segment(log, place->segment);

    if (segment != NULL) {
        segment->live--;
        segment->live_bytes -= place->bytes;
    }
}

static bool places_equal(const struct disk_place *a, const struct disk_place *b)
{
    return a->segment == b->segment && a->unit == b->unit;
}

/* ---- any thread ---- */

bool disk_log_has(struct disk_log *log, const struct kvl_key *key)
{
    const struct disk_name name = disk_index_name(&log->index, key);
    struct disk_place place;
    bool has;

    (void)pthread_mutex_lock(&log->lock);
    has = disk_index_find(&log->index, &name, &place);
    (void)pthread_mutex_unlock(&log->lock);
    return has;
}

int disk_log_find(struct disk_log *log, const struct kvl_key *key, struct disk_found *found_out)
{
    struct disk_found found = {.name = disk_index_name(&log->index, key)};

    (void)pthread_mutex_lock(&log->lock);
    if (disk_index_use(&log->index, &found.name, &found.place)) {
        found.segment = log_segment(log, found.place.segment);
    }
    if (found.segment != NULL) {
        disk_segment_retain(found.segment);
        found.segment->used = true;
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (found.segment == NULL) {
        return -ENOENT;
    }
    *found_out = found;
    return 0;
}

void disk_log_put_back(struct disk_found *found)
{
    disk_segment_release(found->segment);
    found->segment = NULL;
}

void disk_log_forget(struct disk_log *log, const struct disk_found *found)
{
    struct disk_place place;

    (void)pthread_mutex_lock(&log->lock);
    if (disk_index_find(&log->index, &found->name, &place) && places_equal(&place, &found->place)) {
        (void)disk_index_remove(&log->index, &found->name, &place);
        log_unaccount(log, &place);
    }
    (void)pthread_mutex_unlock(&log->lock);
}

static int log_compare_places(const void *a, const void *b)
{
    const struct disk_place *x = a;
    const struct disk_place *y = b;

    if (x->segment != y->segment) {
        return x->segment < y->segment ? -1 : 1;
    }
    return (x->unit > y->unit) - (x->unit < y->unit);
}

int disk_log_places(struct disk_log *log, struct disk_place **places_out, uint64_t *count_out)
{
    struct disk_place *places;
    uint64_t count;

    (void)pthread_mutex_lock(&log->lock);
    count = log->index.live;
    places = calloc(count + 1, sizeof(*places));
    if (places != NULL) {
        count = disk_index_places(&log->index, places, count);
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (places == NULL) {
        return -ENOMEM;
    }
    qsort(places, count, sizeof(*places), log_compare_places); /* the disk likes it in order */
    *places_out = places;
    *count_out = count;
    return 0;
}

struct disk_segment *disk_log_segment(struct disk_log *log, uint32_t number)
{
    struct disk_segment *segment;

    (void)pthread_mutex_lock(&log->lock);
    segment = log_segment(log, number);
    if (segment != NULL) {
        disk_segment_retain(segment);
    }
    (void)pthread_mutex_unlock(&log->lock);
    return segment;
}

void disk_log_totals(struct disk_log *log, struct disk_log_totals *totals_out)
{
    struct disk_log_totals totals = {0};

    (void)pthread_mutex_lock(&log->lock);
    totals.chunks = log->index.live;
    totals.total_bytes = log->total_bytes;
    totals.segments = log->count;
    for (uint32_t i = 0; i < log->count; i++) {
        totals.live_bytes += log->segments[i]->live_bytes;
    }
    (void)pthread_mutex_unlock(&log->lock);
    *totals_out = totals;
}

/* ---- the writer, and start ---- */

int disk_log_add_segment(struct disk_log *log, struct disk_segment *take_segment)
{
    int r = 0;

    (void)pthread_mutex_lock(&log->lock);
    if (log->count == log->capacity) {
        const uint32_t capacity = log->capacity == 0 ? 64 : 2 * log->capacity;
        struct disk_segment **segments = realloc(log->segments, capacity * sizeof(*log->segments));

        if (segments == NULL) {
            r = -ENOMEM;
        } else {
            log->segments = segments;
            log->capacity = capacity;
        }
    }
    if (r == 0) {
        log->segments[log->count++] = take_segment;
        log->total_bytes += take_segment->end;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return r;
}

int disk_log_index_chunk(struct disk_log *log, struct disk_segment *segment,
                         const struct disk_name *name, uint64_t offset, uint64_t bytes)
{
    const struct disk_place place = {
        .segment = segment->number,
        .unit = (uint32_t)(offset / DISK_ALIGN),
        .bytes = (uint32_t)bytes & INT32_MAX, /* DISK_PAYLOAD_MAX */
    };
    struct disk_place old;
    int r;

    (void)pthread_mutex_lock(&log->lock);
    r = disk_index_put(&log->index, name, &place, &old);
    if (r == 1) {
        log_unaccount(log, &old);
    }
    if (r >= 0) {
        segment->live++;
        segment->live_bytes += bytes;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return r < 0 ? r : 0;
}

int disk_log_index_remove(struct disk_log *log, const struct disk_name *name)
{
    struct disk_place old;
    bool removed;

    (void)pthread_mutex_lock(&log->lock);
    removed = disk_index_remove(&log->index, name, &old);
    if (removed) {
        log_unaccount(log, &old);
    }
    (void)pthread_mutex_unlock(&log->lock);
    return removed ? 0 : -ENOENT;
}

void disk_log_set_end(struct disk_log *log, struct disk_segment *segment, uint64_t end)
{
    (void)pthread_mutex_lock(&log->lock);
    log->total_bytes += end - segment->end;
    segment->end = end;
    (void)pthread_mutex_unlock(&log->lock);
}

bool disk_log_expire(struct disk_log *log)
{
    struct disk_segment *oldest = NULL;
    char name[DISK_NAME_MAX];

    (void)pthread_mutex_lock(&log->lock);
    if (log->count > 0 && log->segments[0] != log->active) {
        oldest = log->segments[0];
        log->count--;
        for (uint32_t i = 0; i < log->count; i++) {
            log->segments[i] = log->segments[i + 1];
        }
        log->total_bytes -= oldest->end;
        disk_index_raise_floor(&log->index, oldest->number + 1, oldest->live);
    }
    (void)pthread_mutex_unlock(&log->lock);
    if (oldest == NULL) {
        return false;
    }
    disk_log_count(log, DISK_COUNT_EXPIRED, oldest->live);
    disk_log_count(log, DISK_COUNT_EXPIRED_SEGMENTS, 1);
    disk_segment_name(oldest->number, name);
    kvl_debug(log->host->log, "disk: segment '%s' goes with %llu chunks", name,
              (unsigned long long)oldest->live);
    if (unlinkat(log->dir_fd, name, 0) != 0) {
        kvl_warn(log->host->log, "disk: cannot unlink '%s/%s' (errno %d), its room is lost",
                 log->options->path, name, errno);
    }
    disk_segment_release(oldest);
    return true;
}

struct disk_segment *disk_log_oldest(struct disk_log *log, bool *used_out)
{
    struct disk_segment *oldest = NULL;

    (void)pthread_mutex_lock(&log->lock);
    if (log->count > 0 && log->segments[0] != log->active) {
        oldest = log->segments[0];
        disk_segment_retain(oldest);
        *used_out = oldest->used;
    }
    (void)pthread_mutex_unlock(&log->lock);
    return oldest;
}

bool disk_log_is_used(struct disk_log *log, const struct disk_name *name, uint32_t segment,
                      uint64_t offset)
{
    struct disk_place place;
    bool used;

    (void)pthread_mutex_lock(&log->lock);
    used = disk_index_find(&log->index, name, &place) && place.used && place.segment == segment &&
           place.unit == offset / DISK_ALIGN;
    (void)pthread_mutex_unlock(&log->lock);
    return used;
}

/* One that holds nothing but garbage may go, too, but only the oldest: a removal in another one may
 * be all that keeps an older chunk dead after a restart. */
bool disk_log_is_over(struct disk_log *log, uint64_t need)
{
    bool over;

    (void)pthread_mutex_lock(&log->lock);
    over = log->total_bytes + need > log->options->budget ||
           log->index.live >= log->options->max_chunks ||
           (log->count > 0 && log->segments[0]->live == 0);
    (void)pthread_mutex_unlock(&log->lock);
    return over;
}

void disk_log_trim(struct disk_log *log, uint64_t need)
{
    while (disk_log_is_over(log, need) && disk_log_expire(log)) {
    }
}
