/* SPDX-License-Identifier: Apache-2.0 */
#include "hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t kvl_hash_bytes(const void *data, size_t length)
{
    return XXH3_64bits(data, length);
}
