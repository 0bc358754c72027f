/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_options.h
 * The keys of the INI section `disk`, and their values as one record.
 */
#ifndef KVL_DISK_OPTIONS_H
#define KVL_DISK_OPTIONS_H

#include <kvlane/backend.h>

/** Each segment keeps a descriptor open. */
#define DISK_SEGMENTS_MAX 1024u

enum disk_sync { DISK_SYNC_NO, DISK_SYNC_SEGMENT, DISK_SYNC_WRITE };

struct disk_options {
    const char *path; /* borrowed from the host */
    uint64_t budget;
    uint64_t segment; /* bytes after which a new file is begun */
    uint64_t max_bytes; /* one chunk */
    uint64_t max_chunks; /* so that the index stays small beside the budget */
    enum disk_sync sync;
    int page_cache;
    uint32_t threads;
    uint32_t max_in_flight;
};

#define DISK_OPTION_COUNT 7u
extern const struct kvl_option disk_option_table[DISK_OPTION_COUNT];

/** Reads and checks the settings. @return 0; -EINVAL and err->text. */
int disk_options_read(const struct kvl_host *host, struct disk_options *options_out,
                      struct kvl_err *err);

#endif /* KVL_DISK_OPTIONS_H */
