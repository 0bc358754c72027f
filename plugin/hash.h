/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file hash.h
 * XXH3-64: the hash of keys and the checksum of chunks. Compiled in from xxhash.h, so that nothing
 * is linked. The seed is fixed: hashes are compared between processes.
 */
#ifndef KVL_PLUGIN_HASH_H
#define KVL_PLUGIN_HASH_H

#include <kvlane/key.h>

uint64_t kvl_hash_bytes(const void *data, size_t length);

static inline uint64_t kvl_hash_key(const struct kvl_key *key)
{
    return kvl_hash_bytes(key->text, key->length);
}

#endif /* KVL_PLUGIN_HASH_H */
