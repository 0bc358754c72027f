/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_unique.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct unique {
    uint8_t *items;
    size_t size;
    int (*compare)(const void *left, const void *right); /* of keys */
};

static int unique_compare_text(const struct kvl_text *left, const struct kvl_text *right)
{
    if (left->length != right->length) {
        return left->length < right->length ? -1 : 1;
    }
    return left->length == 0 ? 0 : memcmp(left->text, right->text, left->length);
}

static int unique_compare_pairs(const void *left, const void *right)
{
    const struct controller_pair *a = left;
    const struct controller_pair *b = right;

    return unique_compare_text(&a->key, &b->key);
}

static int unique_compare_layouts(const void *left, const void *right)
{
    const struct controller_layout *a = left;
    const struct controller_layout *b = right;

    return unique_compare_text(&a->instance_id, &b->instance_id);
}

static int unique_compare_codes(const void *left, const void *right)
{
    const struct controller_code *a = left;
    const struct controller_code *b = right;

    return (a->worker_id > b->worker_id) - (a->worker_id < b->worker_id);
}

/* By key, then by place. */
static int unique_compare(const void *left, const void *right, void *ctx)
{
    const struct unique *unique = ctx;
    const uint32_t a = *(const uint32_t *)left;
    const uint32_t b = *(const uint32_t *)right;
    const int order =
        unique->compare(unique->items + a * unique->size, unique->items + b * unique->size);

    return order != 0 ? order : (a > b) - (a < b);
}

/* Entries of `order` from `from` on with the same key. */
static uint32_t unique_run(const struct unique *unique, const uint32_t *order, uint32_t from,
                           uint32_t count)
{
    const uint8_t *first = unique->items + order[from] * unique->size;
    uint32_t to = from + 1;

    while (to < count && unique->compare(first, unique->items + order[to] * unique->size) == 0) {
        to++;
    }
    return to - from;
}

static int unique_sweep(struct controller_arena *arena, const struct unique *unique,
                        uint32_t *count)
{
    uint32_t *order = controller_arena_take(arena, *count * sizeof(*order));
    uint8_t *gone = controller_arena_take(arena, *count);
    uint32_t kept = 0;
    uint32_t run;

    if (order == NULL || gone == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < *count; i++) {
        order[i] = i;
    }
    memset(gone, 0, *count);
    qsort_r(order, *count, sizeof(*order), unique_compare, (void *)(uintptr_t)unique);
    for (uint32_t i = 0; i < *count; i += run) {
        run = unique_run(unique, order, i, *count);
        for (uint32_t j = i + 1; j < i + run; j++) {
            gone[order[j]] = 1;
        }
        if (run > 1) {
            memcpy(unique->items + order[i] * unique->size,
                   unique->items + order[i + run - 1] * unique->size, unique->size);
        }
    }
    for (uint32_t i = 0; i < *count; i++) {
        if (!gone[i]) {
            memmove(unique->items + kept * unique->size, unique->items + i * unique->size,
                    unique->size);
            kept++;
        }
    }
    *count = kept;
    return 0;
}

int controller_unique_pairs(struct controller_arena *arena, void *items, uint32_t *count)
{
    const struct unique unique = {items, sizeof(struct controller_pair), unique_compare_pairs};

    return *count < 2 ? 0 : unique_sweep(arena, &unique, count);
}

int controller_unique_layouts(struct controller_arena *arena, void *items, uint32_t *count)
{
    const struct unique unique = {items, sizeof(struct controller_layout), unique_compare_layouts};

    return *count < 2 ? 0 : unique_sweep(arena, &unique, count);
}

int controller_unique_codes(struct controller_arena *arena, void *items, uint32_t *count)
{
    const struct unique unique = {items, sizeof(struct controller_code), unique_compare_codes};

    return *count < 2 ? 0 : unique_sweep(arena, &unique, count);
}
