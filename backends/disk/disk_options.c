/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_options.h"

#include <errno.h>

#include "disk_record.h"
#include "setting.h"

#define KIB 1024ll
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

const struct kvl_option disk_option_table[DISK_OPTION_COUNT] = {
    {"path", KVL_OPTION_PATH, KVL_OPTION_REQUIRED, "", NULL, 0, 0,
     "folder of the chunks, for this instance alone; made when missing"},
    {"budget", KVL_OPTION_SIZE, 0, "10GiB", NULL, 16 * MIB, 64 * TIB,
     "bytes on disk; beyond them the oldest segment goes"},
    {"segment", KVL_OPTION_SIZE, 0, "0", NULL, 0, 128 * GIB,
     "bytes of one file; 0 = a 64th of the budget, 4MiB to 1GiB"},
    {"sync", KVL_OPTION_ENUM, 0, "no", "no|segment|write", 0, 0,
     "when to wait for the disk: never, at the end of a segment, with each chunk"},
    {"page_cache", KVL_OPTION_BOOL, 0, "yes", NULL, 0, 0,
     "let the kernel keep what was written and read, as far as memory is free"},
    {"threads", KVL_OPTION_INT, 0, "2", NULL, 1, 64, "threads that read"},
    {"max_in_flight", KVL_OPTION_INT, 0, "1024", NULL, 1, 65536, "batches accepted at a time"},
};

static uint64_t options_number(const struct kvl_host *host, const char *name)
{
    struct kvl_setting setting = {0};

    return host->setting(host, name, &setting) == 0 ? (uint64_t)setting.number : 0;
}

static uint64_t options_segment(uint64_t budget)
{
    uint64_t segment = budget / 64;

    if (segment > GIB) { /* what a start after a crash reads again */
        segment = GIB;
    }
    if (segment < budget / (DISK_SEGMENTS_MAX / 2)) {
        segment = budget / (DISK_SEGMENTS_MAX / 2);
    }
    return segment < 4 * MIB ? 4 * MIB : segment;
}

static int options_check(const struct disk_options *options, struct kvl_err *err)
{
    const unsigned long long budget = options->budget;
    const unsigned long long segment = options->segment;

    if (options->path == NULL || options->path[0] != '/') {
        return kvl_fail(err, -EINVAL, "disk: path must be an absolute folder, not '%s'",
                        options->path == NULL ? "" : options->path);
    }
    if (segment < MIB || segment > budget / 4) {
        return kvl_fail(err, -EINVAL,
                        "disk: segment must be 1 MiB to a quarter of the budget (%llu), not %llu",
                        budget / 4, segment);
    }
    if (budget / segment > DISK_SEGMENTS_MAX) {
        return kvl_fail(err, -EINVAL,
                        "disk: segments of %llu bytes would make more than %u open files of a "
                        "budget of %llu",
                        segment, DISK_SEGMENTS_MAX, budget);
    }
    return 0;
}

int disk_options_read(const struct kvl_host *host, struct disk_options *options_out,
                      struct kvl_err *err)
{
    struct kvl_setting path = {0};
    struct disk_options options = {0};
    int r;

    (void)host->setting(host, "path", &path);
    options.path = path.text;
    options.budget = options_number(host, "budget");
    options.segment = options_number(host, "segment");
    options.sync = (enum disk_sync)options_number(host, "sync");
    options.page_cache = options_number(host, "page_cache") != 0;
    options.threads = (uint32_t)options_number(host, "threads");
    options.max_in_flight = (uint32_t)options_number(host, "max_in_flight");
    if (options.segment == 0) {
        options.segment = options_segment(options.budget);
    }
    /* a chunk beyond `segment` gets a file of its own; MIB covers heads and what is open */
    options.max_bytes = options.budget - MIB;
    if (options.max_bytes > DISK_PAYLOAD_MAX) {
        options.max_bytes = DISK_PAYLOAD_MAX;
    }
    options.max_chunks = options.budget / 4096;
    r = options_check(&options, err);
    if (r == 0) {
        *options_out = options;
    }
    return r;
}
