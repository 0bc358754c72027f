/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_segment.h
 * One file of the log. Who reads it holds a reference, so that it can be unlinked meanwhile.
 */
#ifndef KVL_DISK_SEGMENT_H
#define KVL_DISK_SEGMENT_H

#include <stdatomic.h>
#include <stdbool.h>

#include "disk_file.h"
#include "disk_record.h"

/** "4294967295.seg.bad" */
#define DISK_NAME_MAX 24u

struct disk_segment {
    uint32_t number;
    uint64_t id;
    int fd; /* owned */
    atomic_uint refs;

    /* guarded by the log's lock; `end` is changed by the writer alone */
    uint64_t end; /* where the next record goes */
    uint64_t live; /* chunks that the index knows here */
    uint64_t live_bytes; /* of their records' payloads */
    bool used; /* some chunk of it */
};

void disk_segment_name(uint32_t number, char name_out[DISK_NAME_MAX]);

/** @return true for the name of a segment, or with `.bad` behind it. */
bool disk_segment_parse(const char *name, uint32_t *number_out, bool *bad_out);

/** Makes a new file with its head. @return 0 and one reference; -ENOSPC, -EIO, .. */
int disk_segment_create(const struct disk_io *io, int dir_fd, uint32_t number,
                        struct disk_segment **segment_out);

/**
 * Opens a file and checks its head. `end` is left at the first record.
 * @param size_out  of the file
 * @return 0 and one reference; -ENODATA an empty file; -EBADMSG, -EPROTONOSUPPORT as
 *         disk_file_head_decode(); -EIO, ..
 */
int disk_segment_open(const struct disk_io *io, int dir_fd, uint32_t number, uint64_t *size_out,
                      struct disk_segment **segment_out);

/** Writes the record that says that nothing follows. It is overwritten when something does. */
int disk_segment_seal(const struct disk_io *io, struct disk_segment *segment, uint64_t sequence);

/** True when the file ends in such a record. */
bool disk_segment_is_sealed(const struct disk_io *io, const struct disk_segment *segment,
                            uint64_t size);

void disk_segment_retain(struct disk_segment *segment);
/** Closes the file with the last reference. Takes NULL. */
void disk_segment_release(struct disk_segment *segment);

#endif /* KVL_DISK_SEGMENT_H */
