/* SPDX-License-Identifier: Apache-2.0 */
#include "hints.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BUCKET_KEYS 5
#define LOCKS 64u
#define BLOCKED 4096u

/* One cache line. A key with an empty mask is a free place. */
struct bucket {
    uint64_t keys[BUCKET_KEYS];
    uint32_t masks[BUCKET_KEYS];
    uint32_t hand; /* next one to forget */
};
_Static_assert(sizeof(struct bucket) == 64, "one cache line");

struct kvl_hints {
    struct bucket *buckets;
    uint64_t bucket_count; /* power of two */
    atomic_uint_fast64_t count;
    atomic_uint blocked[BLOCKED];
    pthread_mutex_t locks[LOCKS]; /* lock i guards the buckets whose number ends in i */
};

int kvl_hints_create(uint64_t entries, struct kvl_hints **hints_out)
{
    struct kvl_hints *hints = calloc(1, sizeof(*hints));
    uint64_t count = LOCKS;

    if (hints == NULL) {
        return -ENOMEM;
    }
    while (count * BUCKET_KEYS < entries) {
        count *= 2;
    }
    hints->buckets = mmap(NULL, count * sizeof(struct bucket), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (hints->buckets == MAP_FAILED) {
        free(hints);
        return -ENOMEM;
    }
    hints->bucket_count = count;
    for (uint32_t i = 0; i < LOCKS; i++) {
        pthread_mutex_init(&hints->locks[i], NULL);
    }
    *hints_out = hints;
    return 0;
}

void kvl_hints_destroy(struct kvl_hints *hints)
{
    if (hints == NULL) {
        return;
    }
    for (uint32_t i = 0; i < LOCKS; i++) {
        pthread_mutex_destroy(&hints->locks[i]);
    }
    munmap(hints->buckets, hints->bucket_count * sizeof(struct bucket));
    free(hints);
}

/* The store's index uses the low bits of the same hash; take the high ones here. */
static struct bucket *lock_bucket(struct kvl_hints *hints, uint64_t hash,
                                  pthread_mutex_t **lock_out)
{
    uint64_t number = (hash >> 24) & (hints->bucket_count - 1);

    *lock_out = &hints->locks[number % LOCKS];
    pthread_mutex_lock(*lock_out);
    return &hints->buckets[number];
}

static int find_key(const struct bucket *bucket, uint64_t hash)
{
    for (int i = 0; i < BUCKET_KEYS; i++) {
        if (bucket->masks[i] != 0 && bucket->keys[i] == hash) {
            return i;
        }
    }
    return -1;
}

static int place_key(struct kvl_hints *hints, struct bucket *bucket, uint64_t hash)
{
    int place = -1;

    for (int i = 0; i < BUCKET_KEYS && place < 0; i++) {
        if (bucket->masks[i] == 0) {
            place = i;
            atomic_fetch_add_explicit(&hints->count, 1, memory_order_relaxed);
        }
    }
    if (place < 0) {
        place = (int)bucket->hand;
        bucket->hand = (bucket->hand + 1) % BUCKET_KEYS;
    }
    bucket->keys[place] = hash;
    bucket->masks[place] = 0;
    return place;
}

void kvl_hints_publish(struct kvl_hints *hints, uint64_t hash, uint32_t index)
{
    pthread_mutex_t *lock;
    struct bucket *bucket = lock_bucket(hints, hash, &lock);
    int place = find_key(bucket, hash);

    if (place < 0) {
        place = place_key(hints, bucket, hash);
    }
    bucket->masks[place] |= 1u << index;
    pthread_mutex_unlock(lock);
}

void kvl_hints_withdraw(struct kvl_hints *hints, uint64_t hash, uint32_t index)
{
    pthread_mutex_t *lock;
    struct bucket *bucket = lock_bucket(hints, hash, &lock);
    int place = find_key(bucket, hash);

    if (place >= 0) {
        bucket->masks[place] &= ~(1u << index);
        if (bucket->masks[place] == 0) {
            atomic_fetch_sub_explicit(&hints->count, 1, memory_order_relaxed);
        }
    }
    pthread_mutex_unlock(lock);
}

uint32_t kvl_hints_find(struct kvl_hints *hints, uint64_t hash)
{
    pthread_mutex_t *lock;
    const struct bucket *bucket = lock_bucket(hints, hash, &lock);
    int place = find_key(bucket, hash);
    uint32_t mask = place >= 0 ? bucket->masks[place] : 0;

    pthread_mutex_unlock(lock);
    return mask;
}

void kvl_hints_block(struct kvl_hints *hints, uint64_t hash)
{
    atomic_fetch_add(&hints->blocked[hash % BLOCKED], 1);
}

void kvl_hints_unblock(struct kvl_hints *hints, uint64_t hash)
{
    atomic_fetch_sub(&hints->blocked[hash % BLOCKED], 1);
}

int kvl_hints_is_blocked(const struct kvl_hints *hints, uint64_t hash)
{
    return atomic_load(&hints->blocked[hash % BLOCKED]) != 0;
}

uint64_t kvl_hints_count(const struct kvl_hints *hints)
{
    return atomic_load_explicit(&hints->count, memory_order_relaxed);
}
