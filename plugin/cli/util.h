/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file util.h
 * Clocks, files, a progress bar, a latency histogram, and the fixed mixing function.
 */
#ifndef KVL_UTIL_H
#define KVL_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** Now on CLOCK_MONOTONIC. */
uint64_t util_now_ms(void);
uint64_t util_now_ns(void);

/**
 * Reads a whole file of at most `limit` bytes; "-" is stdin. The buffer is the caller's to free and
 * has a terminator after its last byte. @return 0; negative errno, -EFBIG over the limit.
 */
int util_read_file(const char *path, size_t limit, uint8_t **data_out, size_t *size_out);

/** Writes all of it. @return 0; negative errno. */
int util_write_all(int fd, const void *data, size_t size);

/** Peak resident memory of a process in bytes, 0 when not known. pid 0 = this one. */
uint64_t util_peak_rss(int pid);

/** Resident memory of this process that belongs to others: it may read it and not write to it. */
uint64_t util_peer_rss(void);

/** "12.3 MiB". Returns `out`. */
const char *util_bytes_text(uint64_t bytes, char *out, size_t size);

/** splitmix64: the same word for the same input in every process. */
static inline uint64_t util_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* ---- progress ---- */

struct progress {
    const char *label;
    bool shown;
    uint64_t total;
    uint64_t next_ns;
};

/** Shows a bar on stderr when that is a terminal, or when forced. */
void progress_init(struct progress *progress, const char *label, uint64_t total, bool forced);
void progress_update(struct progress *progress, uint64_t done);
/** Wipes the bar, so that a line can be printed; the next update draws it again. */
void progress_clear(struct progress *progress);
void progress_end(struct progress *progress);

/* ---- latencies ---- */

#define HIST_SUB 16u
#define HIST_BUCKETS (61u * HIST_SUB)

/** Nanoseconds, 16 buckets per power of two: percentiles are at most 6 % high. */
struct hist {
    uint64_t count;
    uint64_t bucket[HIST_BUCKETS];
};

void hist_add(struct hist *hist, uint64_t ns);
void hist_merge(struct hist *into, const struct hist *from);

/** Upper bound in ns of the bucket that holds this share (0..1) of all values; 0 when empty. */
uint64_t hist_percentile(const struct hist *hist, double share);

#endif /* KVL_UTIL_H */
