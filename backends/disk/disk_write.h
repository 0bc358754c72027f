/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_write.h
 * What the writer thread does with one item.
 */
#ifndef KVL_DISK_WRITE_H
#define KVL_DISK_WRITE_H

#include "disk_log.h"

/**
 * Appends a chunk, or finds that the same bytes are there already. Makes room by expiring old
 * segments. On failure nothing is there any more under that key, until a restart.
 * @return 0 and the payload's size added to *bytes_out when it was written; -ENOSPC, -EIO the disk
 *         does not take it; -ECANCELED, -ETIMEDOUT of the op; -EMSGSIZE; -ENOMEM.
 */
int disk_write_chunk(struct disk_log *log, const struct disk_op *op, const struct disk_item *item,
                     uint64_t *bytes_out);

/**
 * Takes a chunk out, for good.
 * @return 0; -ENOENT; -ENOSPC, -EIO gone, but it may be back after a restart.
 */
int disk_write_removal(struct disk_log *log, const struct disk_item *item);

#endif /* KVL_DISK_WRITE_H */
