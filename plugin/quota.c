/* SPDX-License-Identifier: Apache-2.0 */
#include "quota.h"

#include <errno.h>
#include <stdio.h>

#include "hash.h"
#include "option.h"

#define NONE KVL_QUOTA_NONE
#define PLACES (2 * KVL_QUOTA_GROUPS)

static uint32_t find_group(struct kvl_quota *quota, const char *name, size_t length)
{
    const uint64_t hash = kvl_hash_bytes(name, length);
    uint32_t place = (uint32_t)hash % PLACES;
    struct kvl_quota_group *group;

    while (quota->places[place] != 0) {
        const uint32_t at = quota->places[place] - 1u;

        if (quota->groups[at].hash == hash) {
            return at;
        }
        place = (place + 1) % PLACES;
    }
    if (quota->count == KVL_QUOTA_GROUPS) {
        return KVL_QUOTA_GROUPS - 1;
    }
    group = &quota->groups[quota->count++];
    *group = (struct kvl_quota_group){
        .hash = hash,
        .limit = quota->each != 0 ? quota->each : UINT64_MAX,
        .newest = NONE,
        .oldest = NONE,
    };
    quota->places[place] = (uint16_t)quota->count;
    return quota->count - 1;
}

/* One "name=size" of the list, which ends at `end`. */
static int read_limit(struct kvl_quota *quota, const char *at, const char *end, char *why_out,
                      size_t why_size)
{
    static const struct kvl_option option = {.name = "quotas", .type = KVL_OPTION_SIZE};
    const char *equals = end;
    char size[64];
    char expected[128];
    int64_t number;

    while (equals > at && equals[-1] != '=') {
        equals--; /* the last one: a model's name may hold '=' */
    }
    if (equals == at || (size_t)(end - equals) >= sizeof(size)) {
        snprintf(why_out, why_size, "'%.*s' is not name=size", (int)(end - at), at);
        return -EINVAL;
    }
    snprintf(size, sizeof(size), "%.*s", (int)(end - equals), equals);
    if (kvl_option_parse(&option, size, &number, expected, sizeof(expected)) < 0 || number <= 0) {
        snprintf(why_out, why_size, "'%.*s': '%s' is not a size such as 4GiB", (int)(end - at), at,
                 size);
        return -EINVAL;
    }
    for (equals--; equals > at && equals[-1] == ' ';) {
        equals--;
    }
    quota->groups[find_group(quota, at, (size_t)(equals - at))].limit = (uint64_t)number;
    return 0;
}

int kvl_quota_init(struct kvl_quota *quota, uint64_t each, const char *list, char *why_out,
                   size_t why_size)
{
    quota->each = each;
    while (*list != '\0') {
        const char *end;
        const char *next;

        list += strspn(list, " ,");
        next = list + strcspn(list, ",");
        end = next;
        while (end > list && end[-1] == ' ') {
            end--;
        }
        if (end > list && read_limit(quota, list, end, why_out, why_size) < 0) {
            return -EINVAL;
        }
        list = next;
    }
    return 0;
}

uint32_t kvl_quota_group(struct kvl_quota *quota, const struct kvl_key *key)
{
    const char *at = memchr(key->text, '@', key->length);

    return find_group(quota, key->text, at != NULL ? (size_t)(at - key->text) : 0);
}

void kvl_quota_add(struct kvl_quota *quota, uint32_t index)
{
    struct kvl_quota_node *node = quota->node(quota->ctx, index);
    struct kvl_quota_group *group = &quota->groups[node->group];

    node->newer = NONE;
    node->older = group->newest;
    if (group->newest != NONE) {
        quota->node(quota->ctx, group->newest)->newer = index;
    } else {
        group->oldest = index;
    }
    group->newest = index;
}

void kvl_quota_drop(struct kvl_quota *quota, uint32_t index)
{
    const struct kvl_quota_node *node = quota->node(quota->ctx, index);
    struct kvl_quota_group *group = &quota->groups[node->group];

    if (node->newer != NONE) {
        quota->node(quota->ctx, node->newer)->older = node->older;
    } else {
        group->newest = node->older;
    }
    if (node->older != NONE) {
        quota->node(quota->ctx, node->older)->newer = node->newer;
    } else {
        group->oldest = node->newer;
    }
}

void kvl_quota_touch(struct kvl_quota *quota, uint32_t index)
{
    if (quota->groups[quota->node(quota->ctx, index)->group].newest != index) {
        kvl_quota_drop(quota, index);
        kvl_quota_add(quota, index);
    }
}

uint32_t kvl_quota_victim(struct kvl_quota *quota, uint32_t group)
{
    uint32_t at = quota->groups[group].oldest;

    while (at != NONE && quota->is_busy(quota->ctx, at)) {
        at = quota->node(quota->ctx, at)->newer;
    }
    return at;
}
