/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t util_now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

uint64_t util_now_ms(void)
{
    return util_now_ns() / 1000000;
}

/* Grows by doubling, because pipes and /proc tell no size. */
static int read_fd(int fd, size_t limit, uint8_t **data_out, size_t *size_out)
{
    size_t room = 65536;
    size_t size = 0;
    uint8_t *data = malloc(room);
    int r;

    if (data == NULL) {
        return -ENOMEM;
    }
    for (;;) {
        ssize_t n = read(fd, data + size, room - size - 1);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            r = -errno;
            goto err_free;
        }
        if (n == 0) {
            break;
        }
        size += (size_t)n;
        if (size > limit) {
            r = -EFBIG;
            goto err_free;
        }
        if (size + 1 == room) {
            uint8_t *more = realloc(data, room * 2);

            if (more == NULL) {
                r = -ENOMEM;
                goto err_free;
            }
            data = more;
            room *= 2;
        }
    }
    data[size] = '\0';
    *data_out = data;
    *size_out = size;
    return 0;

err_free:
    free(data);
    return r;
}

int util_read_file(const char *path, size_t limit, uint8_t **data_out, size_t *size_out)
{
    int fd;
    int r;

    if (strcmp(path, "-") == 0) {
        return read_fd(STDIN_FILENO, limit, data_out, size_out);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    r = read_fd(fd, limit, data_out, size_out);
    close(fd);
    return r;
}

int util_write_all(int fd, const void *data, size_t size)
{
    const uint8_t *at = data;

    while (at != NULL && size > 0) {
        ssize_t n = write(fd, at, size);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

uint64_t util_peak_rss(int pid)
{
    char path[64];
    uint8_t *text = NULL;
    size_t size;
    const char *line;
    uint64_t kib = 0;

    if (pid == 0) {
        (void)snprintf(path, sizeof(path), "/proc/self/status");
    } else {
        (void)snprintf(path, sizeof(path), "/proc/%d/status", pid);
    }
    if (util_read_file(path, 1u << 20, &text, &size) < 0 || text == NULL) {
        return 0;
    }
    line = strstr((const char *)text, "VmHWM:");
    if (line != NULL) {
        kib = strtoull(line + 6, NULL, 10);
    }
    free(text);
    return kib * 1024;
}

uint64_t util_peer_rss(void)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    bool theirs = false;
    uint64_t kib = 0;
    char line[512];

    if (file == NULL) {
        return 0;
    }
    while (fgets(line, sizeof(line), file) != NULL) {
        const char *space = strchr(line, ' ');

        /* "7f00-7f01 r--s ..." begins a mapping, "Rss:  4 kB" tells of it */
        if (space != NULL && strncmp(space, " r--s ", 6) == 0) {
            theirs = strstr(space, " /memfd:") != NULL;
        } else if (space != NULL && memchr(line, '-', (size_t)(space - line)) != NULL) {
            theirs = false;
        } else if (theirs && strncmp(line, "Rss:", 4) == 0) {
            kib += strtoull(line + 4, NULL, 10);
        }
    }
    (void)fclose(file);
    return kib * 1024;
}

const char *util_bytes_text(uint64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;

    while (value >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        unit++;
    }
    (void)snprintf(out, size, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

/* ---- progress ---- */

#define PROGRESS_WIDTH 40
#define PROGRESS_NS 100000000ull

void progress_init(struct progress *progress, const char *label, uint64_t total, bool forced)
{
    *progress = (struct progress){
        .label = label,
        .shown = forced || isatty(STDERR_FILENO) == 1,
        .total = total,
    };
}

static void progress_draw(const struct progress *progress, uint64_t done)
{
    char bar[PROGRESS_WIDTH + 1];
    uint64_t total = progress->total == 0 ? 1 : progress->total;
    double share = done >= total ? 1 : (double)done / (double)total;
    int full = (int)(share * PROGRESS_WIDTH);

    for (int i = 0; i < PROGRESS_WIDTH; i++) {
        bar[i] = i < full ? '#' : '.';
    }
    bar[PROGRESS_WIDTH] = '\0';
    fprintf(stderr, "\r%s [%s] %3d %%", progress->label, bar, (int)(share * 100));
    fflush(stderr);
}

void progress_update(struct progress *progress, uint64_t done)
{
    uint64_t now;

    if (!progress->shown) {
        return;
    }
    now = util_now_ns();
    if (now >= progress->next_ns) {
        progress->next_ns = now + PROGRESS_NS;
        progress_draw(progress, done);
    }
}

void progress_clear(struct progress *progress)
{
    if (progress->shown) {
        fprintf(stderr, "\r%70s\r", "");
        progress->next_ns = 0;
    }
}

void progress_end(struct progress *progress)
{
    if (progress->shown) {
        progress_draw(progress, progress->total);
        fprintf(stderr, "\n");
    }
    progress->shown = false;
}

/* ---- latencies ---- */

static uint32_t hist_index(uint64_t ns)
{
    uint32_t power;

    if (ns < HIST_SUB) {
        return (uint32_t)ns;
    }
    power = 63u - (uint32_t)__builtin_clzll(ns); /* at least 4 */
    return (power - 3) * HIST_SUB + (uint32_t)((ns >> (power - 4)) & (HIST_SUB - 1));
}

static uint64_t hist_upper(uint32_t index)
{
    uint32_t power;

    if (index < HIST_SUB) {
        return index;
    }
    power = index / HIST_SUB + 3;
    return (((uint64_t)HIST_SUB + index % HIST_SUB + 1) << (power - 4)) - 1;
}

void hist_add(struct hist *hist, uint64_t ns)
{
    hist->bucket[hist_index(ns)]++;
    hist->count++;
}

void hist_merge(struct hist *into, const struct hist *from)
{
    into->count += from->count;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        into->bucket[i] += from->bucket[i];
    }
}

uint64_t hist_percentile(const struct hist *hist, double share)
{
    uint64_t rank = (uint64_t)(share * (double)hist->count);
    uint64_t seen = 0;

    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += hist->bucket[i];
        if (seen > rank || (seen == hist->count && seen > 0)) {
            return hist_upper(i);
        }
    }
    return 0;
}
