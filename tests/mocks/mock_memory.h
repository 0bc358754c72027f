/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file mock_memory.h
 * A backend that owns a kind of memory nobody else can touch: addresses of it are those of plain
 * memory moved by an offset, so whoever follows one crashes. It keeps chunks of its own on a shelf,
 * as a pool in that memory would be. A test steers it through a record of its own, whose address it
 * writes into the INI file: `control = 0x...`.
 */
#ifndef KVL_TESTS_MOCK_MEMORY_H
#define KVL_TESTS_MOCK_MEMORY_H

#include <stdatomic.h>
#include <stdint.h>

/** The kind of memory, and what is added to an address to get one of it. */
#define MOCK_MEM 40u
#define MOCK_MEM_OFFSET 0x6000000000000000ull

enum mock_memory_verb {
    MOCK_MEMORY_LOOKUP,
    MOCK_MEMORY_READ,
    MOCK_MEMORY_WRITE,
    MOCK_MEMORY_REMOVE,
    MOCK_MEMORY_GATHER,
    MOCK_MEMORY_SCATTER,
    MOCK_MEMORY_VERBS
};

/** All zero is a good backend. Read at each step, so a test may change it at any time. */
struct mock_memory_control {
    atomic_int code[MOCK_MEMORY_VERBS]; /* each item of that verb ends with it */
    atomic_int refuse[MOCK_MEMORY_VERBS]; /* submit ends with it */
    atomic_int hold[MOCK_MEMORY_VERBS]; /* 1 = batches of that verb wait until it is 0 */
    atomic_uint layers; /* a held read or scatter brings so many layers first */
    atomic_uint lie; /* a read or scatter says at once that so many layers are there */
    atomic_int deaf; /* 1 = a gather goes on although it was cancelled */
    atomic_uint items[MOCK_MEMORY_VERBS]; /* accepted so far */
    atomic_uint batches[MOCK_MEMORY_VERBS]; /* likewise */
    atomic_uint done[MOCK_MEMORY_VERBS]; /* batches completed */
    atomic_uint caches; /* registered now */
    atomic_ullong stream; /* of the last batch that had one */
};

#endif /* KVL_TESTS_MOCK_MEMORY_H */
