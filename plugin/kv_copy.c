/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "kv.h"
#include "scatter.h"

static uint64_t row_count(const struct kvl_kv_cache *cache)
{
    return (uint64_t)cache->layout.planes * cache->layout.layers;
}

static uint64_t chunk_tokens(const struct kvl_kv_cache *cache, uint64_t bytes)
{
    return bytes / (row_count(cache) * cache->layout.token_bytes);
}

/* The first `tokens` tokens of a block in one row (a plane of a layer). */
static struct kvl_sg piece_of(const struct kvl_kv_cache *cache, uint64_t row, uint32_t block,
                              uint64_t tokens)
{
    const struct kvl_kv *layout = &cache->layout;
    struct kvl_sg piece = {
        .mem = layout->mem,
        .addr = cache->bases[row] + block * layout->block_stride,
        .length = layout->token_bytes,
        .stride = layout->token_stride,
        .count = (uint32_t)tokens,
        .device = layout->device,
    };

    if (layout->token_stride == layout->token_bytes) {
        piece.length *= tokens;
        piece.count = 1;
    }
    return piece;
}

/* Tokens of the chunk that lie in block `i`: the last one may have fewer. */
static uint64_t tokens_in(const struct kvl_kv_cache *cache, uint64_t tokens, uint32_t i)
{
    const uint64_t before = (uint64_t)i * cache->layout.block_tokens;

    return tokens - before < cache->layout.block_tokens ? tokens - before
                                                        : cache->layout.block_tokens;
}

int kvl_kv_check(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                 uint64_t bytes, int may_skip)
{
    uint64_t token;
    uint64_t tokens;

    if (count == 0 || bytes == 0) {
        return -EINVAL;
    }
    for (uint32_t i = 0; !may_skip && i < count; i++) {
        if (blocks[i] == KVL_BLOCK_SKIP) {
            return -EINVAL;
        }
    }
    if (cache->bases == NULL) {
        return 0;
    }
    token = row_count(cache) * cache->layout.token_bytes;
    tokens = bytes / token;
    if (bytes % token != 0 || tokens <= (uint64_t)(count - 1) * cache->layout.block_tokens ||
        tokens > (uint64_t)count * cache->layout.block_tokens) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (blocks[i] >= cache->layout.block_count && blocks[i] != KVL_BLOCK_SKIP) {
            return -EINVAL;
        }
    }
    return 0;
}

void kvl_kv_gather(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                   uint64_t bytes, void *to)
{
    const uint64_t tokens = chunk_tokens(cache, bytes);
    unsigned char *out = to;

    for (uint64_t row = 0; row < row_count(cache); row++) {
        for (uint32_t i = 0; i < count; i++) {
            const uint64_t here = tokens_in(cache, tokens, i);
            const struct kvl_sg piece = piece_of(cache, row, blocks[i], here);

            kvl_sg_gather(&piece, 1, out);
            out += here * cache->layout.token_bytes;
        }
    }
}

void kvl_kv_scatter(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                    uint64_t bytes, const void *from)
{
    const uint64_t tokens = chunk_tokens(cache, bytes);
    const unsigned char *in = from;

    for (uint64_t row = 0; row < row_count(cache); row++) {
        for (uint32_t i = 0; i < count; i++) {
            const uint64_t here = tokens_in(cache, tokens, i);

            if (blocks[i] != KVL_BLOCK_SKIP) {
                const struct kvl_sg piece = piece_of(cache, row, blocks[i], here);

                kvl_sg_scatter(&piece, 1, in);
            }
            in += here * cache->layout.token_bytes;
        }
    }
}

int kvl_kv_has_runs(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count)
{
    if (cache->bases == NULL) {
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (blocks[i] == KVL_BLOCK_SKIP) {
            return 0;
        }
    }
    return 1;
}

uint64_t kvl_kv_most_runs(const struct kvl_kv_cache *cache, uint32_t count)
{
    return row_count(cache) * count;
}

uint32_t kvl_kv_runs(const struct kvl_kv_cache *cache, const uint32_t *blocks, uint32_t count,
                     uint64_t bytes, struct kvl_sg *sg_out)
{
    const uint64_t tokens = chunk_tokens(cache, bytes);
    uint32_t used = 0;

    for (uint64_t row = 0; row < row_count(cache); row++) {
        for (uint32_t i = 0; i < count; i++) {
            const struct kvl_sg piece =
                piece_of(cache, row, blocks[i], tokens_in(cache, tokens, i));
            struct kvl_sg *last = used > 0 ? &sg_out[used - 1] : NULL;

            /* Blocks that lie one behind the other are one run. */
            if (last != NULL && last->count == 1 && piece.count == 1 &&
                last->addr + last->length == piece.addr) {
                last->length += piece.length;
            } else {
                sg_out[used++] = piece;
            }
        }
    }
    return used;
}
