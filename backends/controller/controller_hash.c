/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_hash.h"

#include <endian.h>
#include <stdio.h>
#include <string.h>

/* Constants of CPython: Objects/tupleobject.c, Python/pyhash.c, Python/bootstrap_hash.c. */
#define TUPLE_PRIME_1 11400714785074694791u
#define TUPLE_PRIME_2 14029467366897019727u
#define TUPLE_PRIME_5 2870177450012600261u
#define TUPLE_LENGTH_MIX 3527539u
#define TUPLE_INSTEAD_OF_ERROR 1546275796
#define INT_MODULUS ((UINT64_C(1) << 61) - 1)
#define EMPTY_TUPLE_HASH 5740354900026072187
#define NONE_HASH_SINCE_312 4238894112

static uint64_t hash_rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

/* The hash of anything; -1 stands for an error in CPython. */
static int64_t hash_final(uint64_t hash)
{
    return hash == UINT64_MAX ? -2 : (int64_t)hash;
}

void controller_hash_key(uint32_t seed, uint64_t key_out[2])
{
    uint8_t bytes[24] = {0}; /* of which SipHash takes 16 */
    uint32_t state = seed;

    for (size_t i = 0; seed != 0 && i < sizeof(bytes); i++) {
        state = state * 214013 + 2531011;
        bytes[i] = (uint8_t)(state >> 16);
    }
    memcpy(key_out, bytes, 2 * sizeof(*key_out));
    key_out[0] = le64toh(key_out[0]);
    key_out[1] = le64toh(key_out[1]);
}

static void hash_sip_rounds(uint64_t v[4], unsigned rounds)
{
    for (unsigned i = 0; i < rounds; i++) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = hash_rotate(v[1], 13) ^ v[0];
        v[3] = hash_rotate(v[3], 16) ^ v[2];
        v[0] = hash_rotate(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = hash_rotate(v[1], 17) ^ v[2];
        v[3] = hash_rotate(v[3], 21) ^ v[0];
        v[2] = hash_rotate(v[2], 32);
    }
}

static uint64_t hash_sip(enum controller_sip sip, const uint64_t key[2], const char *text,
                         size_t length)
{
    const unsigned per_word = sip == CONTROLLER_SIP13 ? 1 : 2;
    const unsigned at_end = sip == CONTROLLER_SIP13 ? 3 : 4;
    uint64_t v[4] = {
        key[0] ^ 0x736f6d6570736575u,
        key[1] ^ 0x646f72616e646f6du,
        key[0] ^ 0x6c7967656e657261u,
        key[1] ^ 0x7465646279746573u,
    };
    const size_t whole = length / 8 * 8;
    uint64_t word;

    for (size_t i = 0; i <= whole; i += 8) {
        word = 0;
        memcpy(&word, text + i, i < whole ? 8 : length - whole);
        word = le64toh(word) | (i < whole ? 0 : (uint64_t)length << 56);
        v[3] ^= word;
        hash_sip_rounds(v, per_word);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    hash_sip_rounds(v, at_end);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int64_t controller_hash_text(enum controller_sip sip, uint32_t seed, const char *text,
                             size_t length)
{
    uint64_t key[2];

    if (length == 0) {
        return 0;
    }
    controller_hash_key(seed, key);
    return hash_final(hash_sip(sip, key, text, length));
}

int64_t controller_hash_int(const struct kvl_chunk_id *number)
{
    const uint64_t size = number->negative ? 0 - number->bits : number->bits;
    const uint64_t rest = size % INT_MODULUS;

    return hash_final(number->negative ? 0 - rest : rest);
}

int64_t controller_hash_none(enum controller_sip sip, uint32_t seed)
{
    char text[16];
    const int length = snprintf(text, sizeof(text), "%u", seed);

    return controller_hash_text(sip, seed, text, (size_t)length);
}

static uint64_t hash_lane(uint64_t acc, int64_t lane)
{
    return hash_rotate(acc + (uint64_t)lane * TUPLE_PRIME_2, 31) * TUPLE_PRIME_1;
}

static int64_t hash_tuple_end(uint64_t acc, uint64_t length)
{
    acc += length ^ (TUPLE_PRIME_5 ^ TUPLE_LENGTH_MIX);
    return acc == UINT64_MAX ? TUPLE_INSTEAD_OF_ERROR : (int64_t)acc;
}

int64_t controller_hash_ints(const struct kvl_chunk_id *numbers, uint32_t count)
{
    uint64_t acc = TUPLE_PRIME_5;

    for (uint32_t i = 0; i < count; i++) {
        acc = hash_lane(acc, controller_hash_int(&numbers[i]));
    }
    return hash_tuple_end(acc, count);
}

uint32_t controller_hash_chunks(const struct controller_hashing *hashing, uint32_t count)
{
    return count / hashing->chunk_size + (count % hashing->chunk_size != 0);
}

/* hash((previous, tokens, extra)) */
static int64_t hash_link(const struct controller_hashing *hashing, int64_t previous,
                         const struct kvl_chunk_id *tokens, uint32_t count)
{
    const struct kvl_chunk_id number = {.bits = (uint64_t)previous, .negative = previous < 0};
    uint64_t acc = TUPLE_PRIME_5;

    acc = hash_lane(acc, controller_hash_int(&number));
    acc = hash_lane(acc, controller_hash_ints(tokens, count));
    acc = hash_lane(acc, hashing->extra == CONTROLLER_EXTRA_EMPTY ? EMPTY_TUPLE_HASH
                                                                  : NONE_HASH_SINCE_312);
    return hash_tuple_end(acc, 3);
}

void controller_hash_chain(const struct controller_hashing *hashing,
                           const struct kvl_chunk_id *tokens, uint32_t count,
                           struct kvl_chunk_id *ids_out)
{
    int64_t hash = hashing->none_hash;
    uint32_t chunk = 0;
    uint32_t length;

    for (uint32_t from = 0; from < count; from += length) {
        length = count - from < hashing->chunk_size ? count - from : hashing->chunk_size;
        hash = hash_link(hashing, hash, tokens + from, length);
        ids_out[chunk++] = (struct kvl_chunk_id){.bits = (uint64_t)hash, .negative = hash < 0};
    }
}

int controller_id_order(const void *a, const void *b)
{
    const struct kvl_chunk_id *left = a;
    const struct kvl_chunk_id *right = b;

    if (left->bits != right->bits) {
        return left->bits < right->bits ? -1 : 1;
    }
    return (left->negative > right->negative) - (left->negative < right->negative);
}
