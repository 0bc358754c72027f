/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry_index_impl.h"

#define RETRIES 3u

/* A group that has had every id so far, or had: then its length is not 0. */
struct group {
    uint32_t number;
    uint32_t holders; /* that have the id in work */
    uint32_t length;
    uint32_t best; /* holder of the last id, once length is set */
};

/* Bits are holder numbers, as many as there were at the start. */
struct teams {
    const struct kvl_index *index;
    const struct kvl_index_grouping *grouping;
    uint32_t words;
    uint64_t *current; /* holders of the last id, in groups still in the race */
    uint64_t *next; /* of the id in work */
    uint64_t *asked; /* whose group is known */
    uint64_t *member; /* of a group in the race */
    uint32_t *group_of; /* of members: place in `groups` */
    struct group *groups;
    uint32_t count;
    uint32_t room;
    uint32_t racing;
    uint32_t *table; /* number of a group -> place + 1; 2 * room, a power of two */
};

static int teams_init(struct teams *teams, const struct kvl_index *index,
                      const struct kvl_index_grouping *grouping)
{
    uint32_t limit = atomic_load_explicit(&index->holders.limit, memory_order_acquire);

    *teams = (struct teams){.index = index, .grouping = grouping, .words = limit / 64 + 1};
    teams->current = calloc(4ull * teams->words, sizeof(uint64_t));
    teams->group_of = malloc(64ull * teams->words * sizeof(uint32_t));
    if (teams->current == NULL || teams->group_of == NULL) {
        return -ENOMEM;
    }
    teams->next = teams->current + teams->words;
    teams->asked = teams->next + teams->words;
    teams->member = teams->asked + teams->words;
    return 0;
}

static void teams_fini(struct teams *teams)
{
    free(teams->current);
    free(teams->group_of);
    free(teams->groups);
    free(teams->table);
}

/* ---- groups by number ---- */

static uint32_t *table_at(const struct teams *teams, uint32_t number)
{
    uint32_t mask = 2 * teams->room - 1;
    uint32_t at = number * 0x9e3779b1u & mask;

    while (teams->table[at] != 0 && teams->groups[teams->table[at] - 1].number != number) {
        at = (at + 1) & mask;
    }
    return &teams->table[at];
}

static int groups_grow(struct teams *teams)
{
    uint32_t room = teams->room == 0 ? 16 : 2 * teams->room;
    struct group *groups = realloc(teams->groups, room * sizeof(*groups));
    uint32_t *table;

    if (groups == NULL) {
        return -ENOMEM;
    }
    teams->groups = groups;
    table = calloc(2ull * room, sizeof(*table));
    if (table == NULL) {
        return -ENOMEM;
    }
    free(teams->table);
    teams->table = table;
    teams->room = room;
    for (uint32_t i = 0; i < teams->count; i++) {
        *table_at(teams, groups[i].number) = i + 1;
    }
    return 0;
}

/* Asks for the group of a holder. Groups come in with the first id only. */
static int ask(struct teams *teams, uint32_t holder, int is_first)
{
    uint32_t number = teams->grouping->group(teams->grouping->ctx, holder);
    uint32_t *entry;

    teams->asked[holder / 64] |= 1ull << (holder % 64);
    if (number == KVL_INDEX_NONE) {
        return 0;
    }
    if (is_first && teams->count == teams->room && groups_grow(teams) < 0) {
        return -ENOMEM;
    }
    entry = table_at(teams, number);
    if (*entry == 0 && is_first) {
        teams->groups[teams->count++] = (struct group){.number = number};
        teams->racing++;
        *entry = teams->count;
    }
    if (*entry != 0) {
        teams->group_of[holder] = *entry - 1;
        teams->member[holder / 64] |= 1ull << (holder % 64);
    }
    return 0;
}

/* ---- one id ---- */

static int ask_all(struct teams *teams, int is_first)
{
    for (uint32_t w = 0; w < teams->words; w++) {
        for (uint64_t bits = teams->next[w] & ~teams->asked[w]; bits != 0; bits &= bits - 1) {
            if (ask(teams, w * 64 + (uint32_t)__builtin_ctzll(bits), is_first) < 0) {
                return -ENOMEM;
            }
        }
    }
    return 0;
}

/* Counts what the groups have now; leaves out who is no longer in the race. */
static void count_word(struct teams *teams, uint32_t w)
{
    uint64_t now = teams->next[w] & teams->member[w];

    for (uint64_t bits = teams->current[w] & ~now; bits != 0; bits &= bits - 1) {
        teams->groups[teams->group_of[w * 64 + (uint32_t)__builtin_ctzll(bits)]].holders--;
    }
    for (uint64_t bits = now & ~teams->current[w]; bits != 0; bits &= bits - 1) {
        struct group *group =
            &teams->groups[teams->group_of[w * 64 + (uint32_t)__builtin_ctzll(bits)]];

        if (group->length != 0) {
            now &= ~(bits & -bits);
            teams->member[w] &= now | ~teams->next[w];
        } else {
            group->holders++;
        }
    }
    teams->next[w] = now;
}

static void finish(struct teams *teams, uint32_t holder, uint32_t length)
{
    struct group *group = &teams->groups[teams->group_of[holder]];

    if (group->length == 0) {
        group->length = length;
        group->best = holder;
        teams->racing--;
    } else if (teams->grouping->before(teams->grouping->ctx, holder, group->best)) {
        group->best = holder;
    }
}

/* Groups without a holder now: all that they had for the id before is among what went. */
static void finish_word(struct teams *teams, uint32_t w, uint32_t length)
{
    for (uint64_t bits = teams->current[w] & ~teams->next[w]; bits != 0; bits &= bits - 1) {
        uint32_t holder = w * 64 + (uint32_t)__builtin_ctzll(bits);

        if (teams->groups[teams->group_of[holder]].holders == 0) {
            finish(teams, holder, length);
        }
    }
}

/* The cost goes with what differs from the id before. */
static int step(struct teams *teams, uint64_t hash, const struct kvl_chunk_id *id, uint32_t at)
{
    uint64_t *current = teams->current;

    kvl_index_bits(teams->index, hash, id, teams->next, teams->words);
    if (ask_all(teams, at == 0) < 0) {
        return -ENOMEM;
    }
    for (uint32_t w = 0; w < teams->words; w++) {
        count_word(teams, w);
    }
    for (uint32_t w = 0; w < teams->words; w++) {
        finish_word(teams, w, at);
    }
    memcpy(current, teams->next, teams->words * sizeof(*current));
    return 0;
}

static int race(struct teams *teams, const struct kvl_chunk_id *ids, uint32_t count)
{
    struct index_stream stream;
    uint32_t i;

    kvl_index_stream_init(&stream, teams->index, ids, sizeof(*ids), count, 0);
    for (i = 0; i < count && (i == 0 || teams->racing != 0); i++) {
        if (step(teams, index_stream_next(&stream, i), &ids[i], i) < 0) {
            return -ENOMEM;
        }
    }
    for (uint32_t w = 0; w < teams->words; w++) {
        for (uint64_t bits = teams->current[w]; bits != 0; bits &= bits - 1) {
            finish(teams, w * 64 + (uint32_t)__builtin_ctzll(bits), count);
        }
    }
    return 0;
}

/* Did the number of anybody who took part go to another holder meanwhile? */
static int was_reborn(const struct teams *teams, uint64_t opens)
{
    if (atomic_load_explicit(&teams->index->holders.opens, memory_order_acquire) == opens) {
        return 0;
    }
    for (uint32_t w = 0; w < teams->words; w++) {
        for (uint64_t bits = teams->asked[w]; bits != 0; bits &= bits - 1) {
            const struct index_holder *holder =
                index_holder(teams->index, w * 64 + (uint32_t)__builtin_ctzll(bits));

            if (atomic_load_explicit(&holder->opened, memory_order_acquire) > opens) {
                return 1;
            }
        }
    }
    return 0;
}

static int prefixes_once(struct teams *teams, const struct kvl_index *index,
                         const struct kvl_chunk_id *ids, uint32_t count,
                         const struct kvl_index_grouping *grouping)
{
    uint64_t opens = atomic_load_explicit(&index->holders.opens, memory_order_acquire);

    if (teams_init(teams, index, grouping) < 0 || race(teams, ids, count) < 0) {
        return -ENOMEM;
    }
    return was_reborn(teams, opens) ? -EAGAIN : 0;
}

int kvl_index_prefixes(const struct kvl_index *index, const struct kvl_chunk_id *ids,
                       uint32_t count, const struct kvl_index_grouping *grouping,
                       struct kvl_index_prefix **prefixes_out)
{
    struct kvl_index_prefix *prefixes = NULL;
    struct teams teams;
    uint32_t tries = 0;
    int r = prefixes_once(&teams, index, ids, count, grouping);

    while (r == -EAGAIN && ++tries < RETRIES) {
        teams_fini(&teams);
        r = prefixes_once(&teams, index, ids, count, grouping);
    }
    if (r != -ENOMEM && teams.count != 0) {
        prefixes = malloc(teams.count * sizeof(*prefixes));
        r = prefixes == NULL ? -ENOMEM : (int)teams.count;
    }
    for (uint32_t i = 0; prefixes != NULL && i < teams.count; i++) {
        prefixes[i] = (struct kvl_index_prefix){.group = teams.groups[i].number,
                                                .length = teams.groups[i].length,
                                                .holder = teams.groups[i].best};
    }
    teams_fini(&teams);
    if (r == -ENOMEM) {
        return r;
    }
    *prefixes_out = prefixes;
    return r > 0 ? r : 0;
}
