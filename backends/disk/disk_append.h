/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_append.h
 * The segment that is open for writing, and what goes when there is no room for another. For the
 * writer thread alone.
 */
#ifndef KVL_DISK_APPEND_H
#define KVL_DISK_APPEND_H

#include "disk_log.h"

/**
 * Sees to an open segment with room for a record of `need` bytes, within the budget: the oldest
 * segment goes, and those of its chunks that were used since are appended once more, as far as they
 * make up half of it.
 * @return 0; -ENOSPC, -EIO, ..
 */
int disk_append_make_room(struct disk_log *log, uint64_t need);

#endif /* KVL_DISK_APPEND_H */
