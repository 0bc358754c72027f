/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file disk_read.h
 * What the reader threads do with one item.
 */
#ifndef KVL_DISK_READ_H
#define KVL_DISK_READ_H

#include "disk_log.h"

/**
 * Reads what stands before the payload and compares the whole key. A damaged chunk is dropped from
 * the index.
 * @param bytes_out   where record_out->key points
 * @return 0; -ENOENT another key; -EBADMSG damaged; -EIO.
 */
int disk_read_head(struct disk_log *log, const struct disk_found *found, const struct kvl_key *key,
                   uint8_t bytes_out[DISK_HEAD_MAX], struct disk_record *record_out);

/**
 * Brings a chunk to where the op wants it, and checks its checksum there.
 * @return 0 and the payload's size in *bytes_out; -ENOENT; -EBADMSG damaged, or not what the reader
 *         expects; -EIO; -ECANCELED, -ETIMEDOUT of the op; what host->read_target said.
 */
int disk_read_chunk(struct disk_log *log, const struct disk_op *op, uint32_t item,
                    uint64_t *bytes_out);

/** Gives all keys to host->list_add. @return 0; -ENOMEM; of the op; what host->list_add said. */
int disk_read_list(struct disk_log *log, const struct disk_op *op);

#endif /* KVL_DISK_READ_H */
