/* SPDX-License-Identifier: Apache-2.0 */
#include "disk_index.h"

#include <errno.h>
#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define INDEX_FIRST_CAPACITY 1024u

static struct disk_name index_hash(const void *key, size_t length, uint64_t seed)
{
    const XXH128_hash_t hash = XXH3_128bits_withSeed(key, length, seed);

    return (struct disk_name){.hash = hash.low64, .check = (uint32_t)(hash.high64 >> 32)};
}

void disk_index_init(struct disk_index *index, uint64_t seed)
{
    *index = (struct disk_index){.hash = index_hash, .seed = seed};
}

void disk_index_fini(struct disk_index *index)
{
    free(index->slots);
    index->slots = NULL;
    index->capacity = 0;
}

struct disk_name disk_index_name(const struct disk_index *index, const struct kvl_key *key)
{
    return index->hash(key->text, key->length, index->seed);
}

static bool index_is_live(const struct disk_index *index, const struct disk_slot *slot)
{
    return slot->place.segment != 0 && slot->place.segment >= index->floor;
}

/* The slot of the name, or the free one where it belongs. There always is a free one. */
static struct disk_slot *index_seek(const struct disk_index *index, const struct disk_name *name)
{
    const uint64_t mask = index->capacity - 1;
    uint64_t at = name->hash & mask;

    while (index->slots[at].place.segment != 0 &&
           (index->slots[at].hash != name->hash || index->slots[at].check != name->check)) {
        at = (at + 1) & mask;
    }
    return &index->slots[at];
}

bool disk_index_find(const struct disk_index *index, const struct disk_name *name,
                     struct disk_place *place_out)
{
    const struct disk_slot *slot;

    if (index->capacity == 0) {
        return false;
    }
    slot = index_seek(index, name);
    if (!index_is_live(index, slot)) {
        return false;
    }
    *place_out = slot->place;
    return true;
}

bool disk_index_use(struct disk_index *index, const struct disk_name *name,
                    struct disk_place *place_out)
{
    if (!disk_index_find(index, name, place_out)) {
        return false;
    }
    index_seek(index, name)->place.used = 1;
    return true;
}

/* Moves the live slots to a table that has room for one more. */
static int index_rebuild(struct disk_index *index)
{
    struct disk_index next = *index;

    next.capacity = INDEX_FIRST_CAPACITY;
    while (index->live + 1 > next.capacity / 8 * 5) {
        next.capacity *= 2;
    }
    next.used = 0;
    next.slots = calloc(next.capacity, sizeof(*next.slots));
    if (next.slots == NULL) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < index->capacity; i++) {
        const struct disk_slot *slot = &index->slots[i];
        const struct disk_name name = {.hash = slot->hash, .check = slot->check};

        if (index_is_live(index, slot)) {
            *index_seek(&next, &name) = *slot;
            next.used++;
        }
    }
    free(index->slots);
    index->slots = next.slots; /* not *index = next: others read `seed` without the lock */
    index->capacity = next.capacity;
    index->used = next.used;
    return 0;
}

int disk_index_put(struct disk_index *index, const struct disk_name *name,
                   const struct disk_place *place, struct disk_place *old_out)
{
    struct disk_slot *slot;
    int r = 0;

    if (index->used + 1 > index->capacity / 8 * 7) {
        r = index_rebuild(index);
        if (r < 0) {
            return r;
        }
    }
    slot = index_seek(index, name);
    if (index_is_live(index, slot)) {
        *old_out = slot->place;
        r = 1;
    } else {
        index->live++;
        index->used += slot->place.segment == 0;
    }
    *slot = (struct disk_slot){.hash = name->hash, .check = name->check, .place = *place};
    return r;
}

/* Closes the gap, so that nobody's way to a slot behind it is cut. */
static void index_free_slot(struct disk_index *index, uint64_t gap)
{
    const uint64_t mask = index->capacity - 1;
    uint64_t at = gap;

    for (;;) {
        uint64_t home;

        at = (at + 1) & mask;
        if (index->slots[at].place.segment == 0) {
            break;
        }
        home = index->slots[at].hash & mask;
        if (((at - home) & mask) >= ((at - gap) & mask)) {
            index->slots[gap] = index->slots[at];
            gap = at;
        }
    }
    index->slots[gap] = (struct disk_slot){0};
    index->used--;
}

bool disk_index_remove(struct disk_index *index, const struct disk_name *name,
                       struct disk_place *old_out)
{
    const struct disk_slot *slot;

    if (index->capacity == 0) {
        return false;
    }
    slot = index_seek(index, name);
    if (!index_is_live(index, slot)) {
        return false;
    }
    *old_out = slot->place;
    index_free_slot(index, (uint64_t)(slot - index->slots));
    index->live--;
    return true;
}

void disk_index_raise_floor(struct disk_index *index, uint32_t floor, uint64_t live)
{
    index->floor = floor;
    index->live -= live;
}

uint64_t disk_index_places(const struct disk_index *index, struct disk_place *places_out,
                           uint64_t max)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < index->capacity && n < max; i++) {
        if (index_is_live(index, &index->slots[i])) {
            places_out[n++] = index->slots[i].place;
        }
    }
    return n;
}
