/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ranges of addresses that copies may use, and what it takes to use one.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

/* No program has memory there, so a small number is a mistake and not a host address. */
#define LOWEST 65536u

void fake_map_add(struct fake_map *map)
{
    map->buffer_id = fake_new_id();
    map->next = fake.maps;
    fake.maps = map;
}

static struct fake_map *map_at(cuda_ptr ptr, int with_doomed)
{
    for (struct fake_map *map = fake.maps; map != NULL; map = map->next) {
        if (ptr >= map->base && ptr - map->base < map->bytes && (with_doomed || !map->doomed)) {
            return map;
        }
    }
    return NULL;
}

struct fake_map *fake_map_find(cuda_ptr ptr)
{
    return map_at(ptr, 0);
}

void fake_map_remove(struct fake_map *map)
{
    struct fake_map **at = &fake.maps;

    map->doomed = 1;
    while (map->pins > 0) {
        fake_wait(0);
    }
    while (*at != map) {
        at = &(*at)->next;
    }
    *at = map->next;
}

void fake_map_free(struct fake_map *map)
{
    void *host = fake_host(map->base);

    switch (map->kind) {
    case FAKE_ALLOC:
        fake_state_memory_remove(map->slot, map->slot_id);
        munmap(host, map->mapped);
        close(map->fd);
        break;
    case FAKE_IMPORT:
        munmap(host, map->mapped);
        break;
    case FAKE_VMM:
        /* the reservation stays, so nobody else gets these addresses */
        (void)mmap(host, map->mapped, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        fake_memory_release(map->memory);
        break;
    case FAKE_HOST_ALLOC:
        free(host);
        break;
    case FAKE_HOST_REGISTER:
        break;
    }
    free(map);
}

static struct fake_map *map_of(cuda_context context)
{
    struct fake_map *map = fake.maps;

    while (map != NULL && (map->context != context || map->doomed)) {
        map = map->next;
    }
    return map;
}

void fake_map_end_all(cuda_context context)
{
    struct fake_map *map;

    while ((map = map_of(context)) != NULL) {
        fake_map_remove(map);
        fake_map_free(map);
    }
}

/* ---- use ---- */

static int map_allows(const struct fake_map *map, cuda_context context, int write)
{
    uint32_t device = 1u << (uint32_t)fake.devices[context->ordinal].physical;

    if (map->kind == FAKE_VMM) {
        return ((write ? map->writers : map->readers) & device) != 0;
    }
    /* gone at its owner, unless that died: then nobody takes it away any more */
    return map->kind != FAKE_IMPORT || fake_state_memory_is(map->slot, map->slot_id) ||
           !fake_who_alive(&map->owner);
}

/* Device memory: within one allocation, but virtual memory may be made of several maps. */
static cuda_result range_check_device(cuda_context context, cuda_ptr ptr, size_t bytes, int write)
{
    cuda_ptr end = ptr + bytes;
    const struct fake_map *map = NULL;

    if (end < ptr) {
        return CUDA_E_INVALID_VALUE;
    }
    while (ptr < end) {
        const struct fake_map *here = fake_map_find(ptr);

        if (here == NULL || !map_allows(here, context, write) ||
            (map != NULL && (map->kind != FAKE_VMM || here->kind != FAKE_VMM))) {
            return CUDA_E_INVALID_VALUE;
        }
        map = here;
        ptr = here->base + here->bytes;
    }
    return CUDA_OK;
}

static cuda_result range_check_host(cuda_ptr ptr, size_t bytes, enum fake_place *place_out)
{
    if (ptr < LOWEST || ptr + bytes < ptr) {
        return CUDA_E_INVALID_VALUE;
    }
    for (const struct fake_map *map = fake.maps; map != NULL; map = map->next) {
        cuda_ptr end = map->base + map->bytes;

        if (end <= ptr || map->base >= ptr + bytes) {
            continue;
        }
        /* half pinned, half not: the driver refuses that. What is being freed is of neither kind */
        if (map->doomed || ptr < map->base || ptr + bytes > end) {
            return CUDA_E_INVALID_VALUE;
        }
        *place_out = FAKE_PINNED;
        return CUDA_OK;
    }
    *place_out = FAKE_PAGEABLE;
    return CUDA_OK;
}

cuda_result fake_range_check(cuda_context context, cuda_ptr ptr, size_t bytes, int write,
                             enum fake_place *place_out)
{
    if ((ptr & FAKE_CUDA_DEVICE_BIT) == 0) {
        return range_check_host(ptr, bytes, place_out);
    }
    *place_out = FAKE_DEVICE;
    return range_check_device(context, ptr, bytes, write);
}

cuda_result fake_range_pin(cuda_context context, cuda_ptr ptr, size_t bytes, int write,
                           struct fake_pin *pin_out)
{
    struct fake_pin pin = {.ptr = ptr, .bytes = bytes, .host = fake_host(ptr)};
    cuda_result code = fake_range_check(context, ptr, bytes, write, &pin.place);

    if (code != CUDA_OK) {
        return code;
    }
    for (cuda_ptr at = ptr; pin.place != FAKE_PAGEABLE && at < ptr + bytes;) {
        struct fake_map *map = fake_map_find(at);

        map->pins++;
        at = map->base + map->bytes;
    }
    *pin_out = pin;
    return CUDA_OK;
}

void fake_range_unpin(const struct fake_pin *pin)
{
    for (cuda_ptr at = pin->ptr; pin->place != FAKE_PAGEABLE && at < pin->ptr + pin->bytes;) {
        struct fake_map *map = map_at(at, 1);

        map->pins--;
        at = map->base + map->bytes;
    }
    pthread_cond_broadcast(&fake.changed);
}
