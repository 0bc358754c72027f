/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_hash.h
 * How LMCache names chunks of tokens: a chain of hashes of Python tuples. Needed where tokens come
 * in (HTTP /lookup, Pin, Move, ...); lookups of peers bring their hashes along. Pure functions.
 */
#ifndef KVL_CONTROLLER_HASH_H
#define KVL_CONTROLLER_HASH_H

#include <kvlane/registry.h>

/** SipHash of CPython: up to 3.10, and from 3.11 on. */
enum controller_sip { CONTROLLER_SIP24, CONTROLLER_SIP13 };

/** Third lane of the tuple: `()`, or None as Python 3.12 and later hash it. */
enum controller_extra { CONTROLLER_EXTRA_EMPTY, CONTROLLER_EXTRA_NONE };

struct controller_hashing {
    int64_t none_hash; /* start of every chain */
    enum controller_extra extra;
    uint32_t chunk_size; /* tokens, at least 1 */
};

/** Key of SipHash with PYTHONHASHSEED=seed. */
void controller_hash_key(uint32_t seed, uint64_t key_out[2]);

/** Order of ids, for qsort and bsearch: any, but always the same. */
int controller_id_order(const void *a, const void *b);

/** hash() of a str with PYTHONHASHSEED=seed; ASCII. */
int64_t controller_hash_text(enum controller_sip sip, uint32_t seed, const char *text,
                             size_t length);

/** hash() of an int given as 64 bits and sign. */
int64_t controller_hash_int(const struct kvl_chunk_id *number);

/** hash() of a tuple of ints, Python 3.8 and later. */
int64_t controller_hash_ints(const struct kvl_chunk_id *numbers, uint32_t count);

/** NONE_HASH of a process with vLLM and PYTHONHASHSEED=seed. */
int64_t controller_hash_none(enum controller_sip sip, uint32_t seed);

/** Chunks of `count` tokens, the last may be partial. */
uint32_t controller_hash_chunks(const struct controller_hashing *hashing, uint32_t count);

/** Fills one id per chunk. */
void controller_hash_chain(const struct controller_hashing *hashing,
                           const struct kvl_chunk_id *tokens, uint32_t count,
                           struct kvl_chunk_id *ids_out);

#endif /* KVL_CONTROLLER_HASH_H */
