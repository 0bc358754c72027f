/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reserved addresses, and physical memory mapped at them.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "fake_cuda_vmm.h"

struct vmm_reservation {
    struct vmm_reservation *next;
    cuda_ptr base;
    size_t bytes;
};

static struct vmm_reservation *vmm_reservations;

uint32_t fake_reservation_count(void)
{
    uint32_t count = 0;

    for (const struct vmm_reservation *r = vmm_reservations; r != NULL; r = r->next) {
        count++;
    }
    return count;
}

/* ---- addresses ---- */

static cuda_result vmm_reserve(cuda_ptr *ptr_out, size_t bytes)
{
    struct vmm_reservation *reservation = calloc(1, sizeof(*reservation));
    size_t all = bytes + FAKE_GRANULARITY;
    uintptr_t start;
    uintptr_t base;
    void *host;

    host = reservation == NULL
               ? MAP_FAILED
               : mmap(NULL, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (host == MAP_FAILED) {
        free(reservation);
        return CUDA_E_OUT_OF_MEMORY;
    }
    start = (uintptr_t)host;
    base = (start + FAKE_GRANULARITY - 1) / FAKE_GRANULARITY * FAKE_GRANULARITY;
    if (base > start) {
        munmap(host, base - start);
    }
    munmap((void *)(base + bytes), start + all - base - bytes);
    reservation->base = (cuda_ptr)base | FAKE_CUDA_DEVICE_BIT;
    reservation->bytes = bytes;
    reservation->next = vmm_reservations;
    vmm_reservations = reservation;
    *ptr_out = reservation->base;
    return CUDA_OK;
}

cuda_result cuMemAddressReserve(cuda_ptr *ptr_out, size_t bytes, size_t alignment, cuda_ptr wanted,
                                unsigned long long flags)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    (void)wanted; /* a hint */
    if (code == CUDA_OK && (bytes == 0 || bytes % FAKE_GRANULARITY != 0 || flags != 0 ||
                            (alignment & (alignment - 1)) != 0 || alignment > FAKE_GRANULARITY)) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        fake_lock();
        code = vmm_reserve(ptr_out, bytes);
        fake_unlock();
    }
    return code;
}

/* 1 when something is mapped there. */
static int vmm_in_use(cuda_ptr ptr, size_t bytes)
{
    for (const struct fake_map *map = fake.maps; map != NULL; map = map->next) {
        if (map->base < ptr + bytes && ptr < map->base + map->bytes) {
            return 1;
        }
    }
    return 0;
}

cuda_result cuMemAddressFree(cuda_ptr ptr, size_t bytes)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    struct vmm_reservation **at = &vmm_reservations;
    struct vmm_reservation *found;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    while (*at != NULL && ((*at)->base != ptr || (*at)->bytes != bytes)) {
        at = &(*at)->next;
    }
    found = *at;
    if (found == NULL || vmm_in_use(ptr, bytes)) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        *at = found->next;
        munmap(fake_host(ptr), bytes);
        free(found);
    }
    fake_unlock();
    return code;
}

/* ---- maps ---- */

static int vmm_reserved(cuda_ptr ptr, size_t bytes)
{
    for (const struct vmm_reservation *r = vmm_reservations; r != NULL; r = r->next) {
        if (ptr >= r->base && bytes <= r->bytes && ptr - r->base <= r->bytes - bytes) {
            return 1;
        }
    }
    return 0;
}

static cuda_result vmm_map(cuda_ptr ptr, size_t bytes, struct fake_memory *memory)
{
    struct fake_map *map = calloc(1, sizeof(*map));

    if (map == NULL || mmap(fake_host(ptr), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                            memory->fd, 0) == MAP_FAILED) {
        free(map);
        return CUDA_E_OUT_OF_MEMORY;
    }
    map->kind = FAKE_VMM;
    map->base = ptr;
    map->bytes = bytes;
    map->mapped = bytes;
    map->physical = memory->about.physical;
    map->memory = memory;
    memory->maps++;
    fake_map_add(map);
    return CUDA_OK;
}

cuda_result cuMemMap(cuda_ptr ptr, size_t bytes, size_t offset, cuda_mem mem,
                     unsigned long long flags)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    struct fake_memory *memory;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    memory = fake_memory_find(mem);
    if (memory == NULL || offset != 0 || flags != 0 || bytes == 0 ||
        bytes % FAKE_GRANULARITY != 0 || ptr % FAKE_GRANULARITY != 0 ||
        bytes > memory->about.bytes || !vmm_reserved(ptr, bytes) || vmm_in_use(ptr, bytes)) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        code = vmm_map(ptr, bytes, memory);
    }
    fake_unlock();
    return code;
}

/* 1 when the range is whole maps without a gap. */
static int vmm_is_whole(cuda_ptr ptr, size_t bytes)
{
    cuda_ptr end = ptr + bytes;

    while (ptr < end) {
        const struct fake_map *map = fake_map_find(ptr);

        if (map == NULL || map->kind != FAKE_VMM || map->base != ptr ||
            map->base + map->bytes > end) {
            return 0;
        }
        ptr += map->bytes;
    }
    return bytes > 0;
}

cuda_result cuMemUnmap(cuda_ptr ptr, size_t bytes)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    cuda_ptr end = ptr + bytes;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    if (!vmm_is_whole(ptr, bytes)) {
        code = CUDA_E_INVALID_VALUE;
    }
    while (code == CUDA_OK && ptr < end) {
        struct fake_map *map = fake_map_find(ptr);

        ptr += map->bytes;
        fake_map_remove(map);
        fake_map_free(map);
    }
    fake_unlock();
    return code;
}

static cuda_result vmm_set_access(cuda_ptr ptr, size_t bytes, const struct cuda_access *access)
{
    cuda_ptr end = ptr + bytes;
    uint32_t device;

    if (access->location.type != CUDA_LOCATION_DEVICE || access->location.id < 0 ||
        access->location.id >= fake.device_count || access->flags > CUDA_ACCESS_READ_WRITE ||
        access->flags == 2) {
        return CUDA_E_INVALID_VALUE;
    }
    device = 1u << (uint32_t)fake.devices[access->location.id].physical;
    for (struct fake_map *map; ptr < end; ptr += map->bytes) {
        map = fake_map_find(ptr);
        if (fake.no_peers && map->physical != fake.devices[access->location.id].physical) {
            return CUDA_E_INVALID_DEVICE;
        }
        map->readers = access->flags & 1 ? map->readers | device : map->readers & ~device;
        map->writers = access->flags & 2 ? map->writers | device : map->writers & ~device;
    }
    return CUDA_OK;
}

cuda_result cuMemSetAccess(cuda_ptr ptr, size_t bytes, const struct cuda_access *access,
                           size_t count)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    if (!vmm_is_whole(ptr, bytes) || count == 0) {
        code = CUDA_E_INVALID_VALUE;
    }
    for (size_t i = 0; i < count && code == CUDA_OK; i++) {
        code = vmm_set_access(ptr, bytes, &access[i]);
    }
    fake_unlock();
    return code;
}
