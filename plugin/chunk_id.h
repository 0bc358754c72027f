/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_CHUNK_ID_H
#define KVL_PLUGIN_CHUNK_ID_H

#include <kvlane/key.h>
#include <kvlane/registry.h>

/**
 * Number of a chunk among workers. For `model@world_size@worker_id@hash@dtype[@...]` the
 * hash: hex of an integer from -2^63 to 2^64-1 with its sign in front, or the first 8 of 32 bytes
 * in hex, big-endian. For any other key the XXH3-64 of the text. Pure.
 * @return 0; -EINVAL not 1 to KVL_KEY_MAX bytes.
 */
int kvl_chunk_id_of(const struct kvl_key *key, struct kvl_chunk_id *id_out);

#endif /* KVL_PLUGIN_CHUNK_ID_H */
