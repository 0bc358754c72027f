/* SPDX-License-Identifier: Apache-2.0 */
/* For the time until the real one is merged: one lock, chains. */
#include "registry_index.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 65536u

struct entry {
    struct entry *next;
    struct kvl_chunk_id id;
    uint32_t count;
    uint32_t *holders;
};

struct kvl_index {
    pthread_mutex_t lock;
    uint64_t max_bytes;
    struct entry *buckets[BUCKETS];
    uint32_t holder_count;
    uint64_t *keys;
    uint8_t *alive;
    struct kvl_index_stats stats;
};

static struct kvl_index *mut(const struct kvl_index *index)
{
    pthread_mutex_lock(&((struct kvl_index *)(uintptr_t)index)->lock);
    return (struct kvl_index *)(uintptr_t)index;
}

static void done(struct kvl_index *index)
{
    pthread_mutex_unlock(&index->lock);
}

static bool same(const struct kvl_chunk_id *a, const struct kvl_chunk_id *b)
{
    return a->bits == b->bits && a->negative == b->negative;
}

static struct entry **slot(struct kvl_index *index, const struct kvl_chunk_id *id)
{
    struct entry **at = &index->buckets[(id->bits * 0x9e3779b97f4a7c15ull + id->negative) >> 48];

    while (*at != NULL && !same(&(*at)->id, id)) {
        at = &(*at)->next;
    }
    return at;
}

static int at_of(const struct entry *entry, uint32_t holder)
{
    for (uint32_t i = 0; entry != NULL && i < entry->count; i++) {
        if (entry->holders[i] == holder) {
            return (int)i;
        }
    }
    return -1;
}

int kvl_index_create(uint64_t max_bytes, struct kvl_index **index_out)
{
    struct kvl_index *index = calloc(1, sizeof(*index));

    if (index == NULL) {
        return -ENOMEM;
    }
    pthread_mutex_init(&index->lock, NULL);
    index->max_bytes = max_bytes;
    *index_out = index;
    return 0;
}

void kvl_index_destroy(struct kvl_index *index)
{
    for (uint32_t i = 0; index != NULL && i < BUCKETS; i++) {
        while (index->buckets[i] != NULL) {
            struct entry *next = index->buckets[i]->next;

            free(index->buckets[i]->holders);
            free(index->buckets[i]);
            index->buckets[i] = next;
        }
    }
    if (index != NULL) {
        free(index->keys);
        free(index->alive);
        pthread_mutex_destroy(&index->lock);
    }
    free(index);
}

int kvl_index_holder_open(struct kvl_index *index, uint32_t *holder_out)
{
    uint32_t at = 0;

    mut(index);
    while (at < index->holder_count && index->alive[at]) {
        at++;
    }
    if (at == index->holder_count) {
        index->keys = realloc(index->keys, (at + 1) * sizeof(*index->keys));
        index->alive = realloc(index->alive, at + 1);
        index->holder_count++;
    }
    index->keys[at] = 0;
    index->alive[at] = 1;
    *holder_out = at;
    done(index);
    return 0;
}

static void drop_at(struct kvl_index *index, struct entry **at, uint32_t holder)
{
    struct entry *entry = *at;
    int i = at_of(entry, holder);

    if (i < 0) {
        return;
    }
    entry->holders[i] = entry->holders[--entry->count];
    index->keys[holder]--;
    index->stats.entries--;
    if (entry->count == 0) {
        *at = entry->next;
        free(entry->holders);
        free(entry);
        index->stats.ids--;
        index->stats.bytes -= 64;
    }
}

void kvl_index_holder_retire(struct kvl_index *index, uint32_t holder)
{
    mut(index);
    for (uint32_t i = 0; i < BUCKETS; i++) {
        struct entry **at = &index->buckets[i];

        while (*at != NULL) {
            struct entry *entry = *at;

            drop_at(index, at, holder);
            if (*at == entry) {
                at = &entry->next;
            }
        }
    }
    index->alive[holder] = 0;
    done(index);
}

uint64_t kvl_index_holder_keys(const struct kvl_index *index, uint32_t holder)
{
    uint64_t keys;

    mut(index);
    keys = index->keys[holder];
    done((struct kvl_index *)(uintptr_t)index);
    return keys;
}

static int add_one(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *id)
{
    struct entry **at = slot(index, id);

    if (at_of(*at, holder) >= 0) {
        return 0;
    }
    if (*at == NULL) {
        if (index->max_bytes > 0 && index->stats.bytes + 64 > index->max_bytes) {
            return -ENOMEM;
        }
        *at = calloc(1, sizeof(**at));
        (*at)->id = *id;
        index->stats.ids++;
        index->stats.bytes += 64;
    }
    (*at)->holders = realloc((*at)->holders, ((*at)->count + 1) * sizeof(uint32_t));
    (*at)->holders[(*at)->count++] = holder;
    index->keys[holder]++;
    index->stats.entries++;
    return 0;
}

uint32_t kvl_index_apply(struct kvl_index *index, uint32_t holder, const struct kvl_key_op *ops,
                         uint32_t count, uint64_t *dropped_out)
{
    uint32_t i;

    mut(index);
    for (i = 0; i < count; i++) {
        const uint64_t before = index->keys[holder];

        if (ops[i].kind == KVL_KEY_ADMIT) {
            *dropped_out += add_one(index, holder, &ops[i].id) < 0;
        } else {
            drop_at(index, slot(index, &ops[i].id), holder);
            if (before > 0 && index->keys[holder] == 0) {
                i++;
                break;
            }
        }
    }
    done(index);
    return i;
}

uint32_t kvl_index_add(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                       uint32_t count)
{
    uint32_t dropped = 0;

    mut(index);
    for (uint32_t i = 0; i < count; i++) {
        dropped += add_one(index, holder, &ids[i]) < 0;
    }
    done(index);
    return dropped;
}

void kvl_index_remove(struct kvl_index *index, uint32_t holder, const struct kvl_chunk_id *ids,
                      uint32_t count)
{
    mut(index);
    for (uint32_t i = 0; i < count; i++) {
        drop_at(index, slot(index, &ids[i]), holder);
    }
    done(index);
}

int kvl_index_holders(const struct kvl_index *index, const struct kvl_chunk_id *id,
                      uint32_t **holders_out)
{
    struct kvl_index *own = mut(index);
    const struct entry *entry = *slot(own, id);
    int count = entry != NULL ? (int)entry->count : 0;

    *holders_out = NULL;
    if (count > 0) {
        *holders_out = malloc((size_t)count * sizeof(uint32_t));
        memcpy(*holders_out, entry->holders, (size_t)count * sizeof(uint32_t));
    }
    done(own);
    return count;
}

int kvl_index_has(const struct kvl_index *index, const struct kvl_chunk_id *id)
{
    uint32_t *holders;
    int r = kvl_index_holders(index, id, &holders);

    free(holders);
    return r > 0;
}

static int holds(const struct kvl_index *index, const struct kvl_chunk_id *id, uint32_t holder)
{
    struct kvl_index *own = mut(index);
    int r = at_of(*slot(own, id), holder) >= 0;

    done(own);
    return r;
}

int kvl_index_runs(const struct kvl_index *index, const struct kvl_chunk_id *ids, uint32_t count,
                   kvl_index_accept_fn accept, void *ctx, struct kvl_index_run **runs_out)
{
    uint32_t *holders;
    int n = count > 0 ? kvl_index_holders(index, &ids[0], &holders) : 0;
    int used = 0;

    *runs_out = NULL;
    if (n <= 0) {
        return n;
    }
    *runs_out = malloc((size_t)n * sizeof(**runs_out));
    for (int i = 0; i < n; i++) {
        uint32_t length = 1;

        if (!accept(ctx, holders[i])) {
            continue;
        }
        while (length < count && holds(index, &ids[length], holders[i])) {
            length++;
        }
        (*runs_out)[used++] = (struct kvl_index_run){.holder = holders[i], .length = length};
    }
    free(holders);
    if (used == 0) {
        free(*runs_out);
        *runs_out = NULL;
    }
    return used;
}

int kvl_index_prefixes(const struct kvl_index *index, const struct kvl_chunk_id *ids,
                       uint32_t count, const struct kvl_index_grouping *grouping,
                       struct kvl_index_prefix **prefixes_out)
{
    struct kvl_index_prefix *out = NULL;
    int used = 0;

    for (uint32_t at = 0; at < count; at++) {
        uint32_t *holders;
        int n = kvl_index_holders(index, &ids[at], &holders);

        if (at == 0) {
            out = malloc((size_t)(n + 1) * sizeof(*out));
        }
        for (int i = 0; i < n; i++) {
            uint32_t group = grouping->group(grouping->ctx, holders[i]);
            int k = 0;

            while (k < used && out[k].group != group) {
                k++;
            }
            if (group == KVL_INDEX_NONE || (k == used && at > 0)) {
                continue;
            }
            if (k == used) {
                out[used++] =
                    (struct kvl_index_prefix){.group = group, .length = 1, .holder = holders[i]};
            } else if (out[k].length == at ||
                       (out[k].length == at + 1 &&
                        grouping->before(grouping->ctx, holders[i], out[k].holder))) {
                out[k].length = at + 1;
                out[k].holder = holders[i];
            }
        }
        free(holders);
    }
    *prefixes_out = out;
    return used;
}

int kvl_index_walk(const struct kvl_index *index, kvl_index_entry_fn fn, void *ctx)
{
    struct kvl_index *own = mut(index);
    struct {
        struct kvl_chunk_id id;
        uint32_t holder;
    } *all = malloc((own->stats.entries + 1) * sizeof(*all));
    uint64_t count = 0;
    int r = 0;

    for (uint32_t i = 0; i < BUCKETS; i++) {
        for (const struct entry *entry = own->buckets[i]; entry != NULL; entry = entry->next) {
            for (uint32_t k = 0; k < entry->count; k++) {
                all[count].id = entry->id;
                all[count++].holder = entry->holders[k];
            }
        }
    }
    done(own);
    for (uint64_t i = 0; r == 0 && i < count; i++) {
        r = fn(ctx, &all[i].id, all[i].holder);
    }
    free(all);
    return r;
}

int kvl_index_tidy(struct kvl_index *index, uint64_t budget_us)
{
    (void)index;
    (void)budget_us;
    return 0;
}

void kvl_index_get_stats(const struct kvl_index *index, struct kvl_index_stats *stats_out)
{
    struct kvl_index *own = mut(index);

    *stats_out = own->stats;
    done(own);
}
