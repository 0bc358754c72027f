/* SPDX-License-Identifier: Apache-2.0 */
#include "table.h"

#include <errno.h>
#include <stdlib.h>

#define NONE UINT32_MAX

void kvl_table_init(struct kvl_table *table)
{
    *table = (struct kvl_table){.free = NONE};
}

void kvl_table_fini(struct kvl_table *table)
{
    free(table->slots);
    kvl_table_init(table);
}

static int grow(struct kvl_table *table)
{
    uint32_t room = table->room == 0 ? 64 : table->room * 2;
    struct kvl_table_slot *slots = realloc(table->slots, room * sizeof(*slots));

    if (slots == NULL) {
        return -ENOMEM;
    }
    table->slots = slots;
    for (uint32_t i = room; i-- > table->room;) {
        slots[i] = (struct kvl_table_slot){.generation = 1, .next_free = table->free};
        table->free = i;
    }
    table->room = room;
    return 0;
}

int kvl_table_add(struct kvl_table *table, void *object, uint64_t *handle_out)
{
    uint32_t index;

    if (table->free == NONE && grow(table) < 0) {
        return -ENOMEM;
    }
    index = table->free;
    table->free = table->slots[index].next_free;
    table->slots[index].object = object;
    table->count++;
    *handle_out = (uint64_t)table->slots[index].generation << 32 | index;
    return 0;
}

void *kvl_table_get(const struct kvl_table *table, uint64_t handle)
{
    uint32_t index = (uint32_t)handle;

    if (index >= table->room || table->slots[index].generation != (uint32_t)(handle >> 32)) {
        return NULL;
    }
    return table->slots[index].object;
}

void kvl_table_drop(struct kvl_table *table, uint64_t handle)
{
    struct kvl_table_slot *slot;

    if (kvl_table_get(table, handle) == NULL) {
        return;
    }
    slot = &table->slots[(uint32_t)handle];
    slot->object = NULL;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->next_free = table->free;
    table->free = (uint32_t)handle;
    table->count--;
}

void *kvl_table_any(const struct kvl_table *table)
{
    for (uint32_t i = 0; i < table->room; i++) {
        if (table->slots[i].object != NULL) {
            return table->slots[i].object;
        }
    }
    return NULL;
}
