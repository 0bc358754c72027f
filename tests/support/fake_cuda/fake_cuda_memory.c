/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of devices, and pinned memory of the host.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

#define PAGE 4096u
/* Fresh memory is no zeros; only its begin, so that large allocations stay cheap. */
#define PATTERN 0xe7
#define PATTERN_MAX (1u << 20)

/* ---- devices ---- */

static int memory_back(struct fake_map *map)
{
    void *host;

    map->mapped = (map->bytes + PAGE - 1) / PAGE * PAGE;
    map->fd = memfd_create("kvlane-fake-cuda", MFD_CLOEXEC);
    if (map->fd < 0) {
        return -errno;
    }
    if (ftruncate(map->fd, (off_t)map->mapped) < 0) {
        close(map->fd);
        return -ENOMEM;
    }
    host = mmap(NULL, map->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, map->fd, 0);
    if (host == MAP_FAILED) {
        close(map->fd);
        return -ENOMEM;
    }
    memset(host, PATTERN, map->bytes < PATTERN_MAX ? map->bytes : PATTERN_MAX);
    map->base = (cuda_ptr)(uintptr_t)host | FAKE_CUDA_DEVICE_BIT;
    return 0;
}

static cuda_result memory_alloc(cuda_ptr *ptr_out, size_t bytes)
{
    struct fake_map *map = calloc(1, sizeof(*map));
    struct fake_state_memory entry;

    if (map == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    map->kind = FAKE_ALLOC;
    map->bytes = bytes;
    map->context = fake_current();
    map->physical = fake.devices[map->context->ordinal].physical;
    if (bytes > fake.memory || memory_back(map) < 0) {
        free(map);
        return CUDA_E_OUT_OF_MEMORY;
    }
    entry = (struct fake_state_memory){.owner = fake.self,
                                       .fd = map->fd,
                                       .physical = map->physical,
                                       .bytes = bytes,
                                       .base = map->base};
    if (fake_state_memory_add(&entry, fake.memory, &map->slot, &map->slot_id) < 0) {
        munmap(fake_host(map->base), map->mapped);
        close(map->fd);
        free(map);
        return CUDA_E_OUT_OF_MEMORY;
    }
    fake_map_add(map);
    *ptr_out = map->base;
    return CUDA_OK;
}

cuda_result cuMemAlloc_v2(cuda_ptr *ptr_out, size_t bytes)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK && bytes == 0) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        fake_lock();
        code = memory_alloc(ptr_out, bytes);
        fake_unlock();
    }
    return code;
}

/* Ends the range that begins at `ptr`, if it is of that kind. */
static cuda_result memory_end(cuda_ptr ptr, enum fake_map_kind kind, cuda_result otherwise)
{
    struct fake_map *map = fake_map_find(ptr);

    if (map == NULL || map->base != ptr || map->kind != kind) {
        return otherwise;
    }
    fake_map_remove(map);
    fake_map_free(map);
    return CUDA_OK;
}

cuda_result cuMemFree_v2(cuda_ptr ptr)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK && ptr != 0) {
        fake_lock();
        code = memory_end(ptr, FAKE_ALLOC, CUDA_E_INVALID_VALUE);
        fake_unlock();
    }
    return code;
}

cuda_result cuMemGetAddressRange_v2(cuda_ptr *base_out, size_t *bytes_out, cuda_ptr ptr)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    const struct fake_map *map;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find(ptr);
    if (map == NULL) {
        code = CUDA_E_NOT_FOUND;
    } else {
        if (base_out != NULL) {
            *base_out = map->base;
        }
        if (bytes_out != NULL) {
            *bytes_out = map->bytes;
        }
    }
    fake_unlock();
    return code;
}

cuda_result cuMemGetInfo_v2(size_t *free_out, size_t *total_out)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    uint64_t used;

    if (code == CUDA_OK) {
        fake_lock();
        used = fake_state_memory_used(fake.devices[fake_current()->ordinal].physical);
        fake_unlock();
        *total_out = fake.memory;
        *free_out = used > fake.memory ? 0 : fake.memory - used;
    }
    return code;
}

/* ---- host ---- */

static cuda_result memory_pin(enum fake_map_kind kind, void *addr, size_t bytes)
{
    enum fake_place place = FAKE_PINNED;
    struct fake_map *map;

    if (fake_range_check(fake_current(), (cuda_ptr)(uintptr_t)addr, bytes, 1, &place) != CUDA_OK ||
        place != FAKE_PAGEABLE) {
        return CUDA_E_HOST_MEMORY_ALREADY_REGISTERED;
    }
    map = calloc(1, sizeof(*map));
    if (map == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    map->kind = kind;
    map->base = (cuda_ptr)(uintptr_t)addr;
    map->bytes = bytes;
    map->context = fake_current();
    map->physical = -1;
    fake_map_add(map);
    return CUDA_OK;
}

cuda_result cuMemHostAlloc(void **addr_out, size_t bytes, unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    void *addr;

    if (code != CUDA_OK) {
        return code;
    }
    if (bytes == 0 ||
        flags > (CUDA_HOST_PORTABLE | CUDA_HOST_DEVICEMAP | CUDA_HOST_WRITECOMBINED)) {
        return CUDA_E_INVALID_VALUE;
    }
    if (posix_memalign(&addr, PAGE, bytes) != 0) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    memset(addr, PATTERN, bytes < PATTERN_MAX ? bytes : PATTERN_MAX);
    fake_lock();
    code = memory_pin(FAKE_HOST_ALLOC, addr, bytes);
    fake_unlock();
    if (code != CUDA_OK) {
        free(addr);
        return code;
    }
    *addr_out = addr;
    return CUDA_OK;
}

cuda_result cuMemFreeHost(void *addr)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = memory_end((cuda_ptr)(uintptr_t)addr, FAKE_HOST_ALLOC, CUDA_E_INVALID_VALUE);
        fake_unlock();
    }
    return code;
}

cuda_result cuMemHostRegister_v2(void *addr, size_t bytes, unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code != CUDA_OK) {
        return code;
    }
    /* 4 is memory of devices, which nobody here registers */
    if (addr == NULL || bytes == 0 ||
        (flags & ~(CUDA_HOST_PORTABLE | CUDA_HOST_DEVICEMAP | CUDA_HOST_READ_ONLY)) != 0 ||
        ((cuda_ptr)(uintptr_t)addr & FAKE_CUDA_DEVICE_BIT) != 0) {
        return CUDA_E_INVALID_VALUE;
    }
    fake_lock();
    code = memory_pin(FAKE_HOST_REGISTER, addr, bytes);
    fake_unlock();
    return code;
}

cuda_result cuMemHostUnregister(void *addr)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = memory_end((cuda_ptr)(uintptr_t)addr, FAKE_HOST_REGISTER,
                          CUDA_E_HOST_MEMORY_NOT_REGISTERED);
        fake_unlock();
    }
    return code;
}

cuda_result cuMemHostGetDevicePointer_v2(cuda_ptr *ptr_out, void *addr, unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    const struct fake_map *map;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find((cuda_ptr)(uintptr_t)addr);
    if (map == NULL || map->physical >= 0 || flags != 0) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        *ptr_out = (cuda_ptr)(uintptr_t)addr; /* one address space, as on every GPU of today */
    }
    fake_unlock();
    return code;
}

/* ---- attributes ---- */

static int memory_ordinal(const struct fake_map *map)
{
    if (map->context != NULL) {
        return map->context->ordinal;
    }
    for (int i = 0; i < fake.device_count; i++) {
        if (fake.devices[i].physical == map->physical) {
            return i;
        }
    }
    return -2; /* the driver's number for a device that is not visible */
}

/* @return 0 when the attribute does not apply to the pointer */
static int memory_attribute(const struct fake_map *map, unsigned int attr, cuda_ptr ptr,
                            void *value_out)
{
    int host = map->physical < 0;

    switch (attr) {
    case CUDA_POINTER_CONTEXT:
        *(cuda_context *)value_out = map->context;
        return map->context != NULL;
    case CUDA_POINTER_MEMORY_TYPE:
        *(unsigned int *)value_out = host ? CUDA_MEMORY_HOST : CUDA_MEMORY_DEVICE;
        return 1;
    case CUDA_POINTER_DEVICE_POINTER:
        *(cuda_ptr *)value_out = ptr;
        return 1;
    case CUDA_POINTER_HOST_POINTER:
        *(void **)value_out = host ? (void *)(uintptr_t)ptr : NULL;
        return host;
    case CUDA_POINTER_SYNC_MEMOPS:
        *(int *)value_out = 0;
        return 1;
    case CUDA_POINTER_BUFFER_ID:
        *(unsigned long long *)value_out = map->buffer_id;
        return 1;
    case CUDA_POINTER_DEVICE_ORDINAL:
        *(int *)value_out = memory_ordinal(map);
        return 1;
    case CUDA_POINTER_LEGACY_IPC_CAPABLE:
        *(int *)value_out = map->kind == FAKE_ALLOC;
        return 1;
    case CUDA_POINTER_RANGE_START:
        *(cuda_ptr *)value_out = map->base;
        return 1;
    case CUDA_POINTER_RANGE_SIZE:
        *(size_t *)value_out = map->bytes;
        return 1;
    case CUDA_POINTER_MAPPED:
        *(int *)value_out = 1;
        return 1;
    case CUDA_POINTER_HANDLE_TYPES:
        *(uint64_t *)value_out = map->kind == FAKE_VMM ? fake_memory_types(map->memory) : 0;
        return 1;
    default:
        return 0;
    }
}

/* Bytes of the answer, 0 for an attribute that the fake does not know. */
static size_t memory_attribute_bytes(unsigned int attr)
{
    switch (attr) {
    case CUDA_POINTER_MEMORY_TYPE:
    case CUDA_POINTER_SYNC_MEMOPS:
    case CUDA_POINTER_DEVICE_ORDINAL:
    case CUDA_POINTER_LEGACY_IPC_CAPABLE:
    case CUDA_POINTER_MAPPED:
        return 4;
    case CUDA_POINTER_CONTEXT:
    case CUDA_POINTER_DEVICE_POINTER:
    case CUDA_POINTER_HOST_POINTER:
    case CUDA_POINTER_BUFFER_ID:
    case CUDA_POINTER_RANGE_START:
    case CUDA_POINTER_RANGE_SIZE:
    case CUDA_POINTER_HANDLE_TYPES:
        return 8;
    default:
        return 0;
    }
}

cuda_result cuPointerGetAttribute(void *value_out, unsigned int attr, cuda_ptr ptr)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    const struct fake_map *map;
    uint64_t value;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find(ptr);
    if (map == NULL || memory_attribute_bytes(attr) == 0 ||
        !memory_attribute(map, attr, ptr, &value)) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        memcpy(value_out, &value, memory_attribute_bytes(attr));
    }
    fake_unlock();
    return code;
}

cuda_result cuPointerGetAttributes(unsigned int count, unsigned int *attrs, void **values_out,
                                   cuda_ptr ptr)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    const struct fake_map *map;

    for (unsigned int i = 0; i < count && code == CUDA_OK; i++) {
        if (memory_attribute_bytes(attrs[i]) == 0) {
            code = CUDA_E_INVALID_VALUE;
        }
    }
    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find(ptr);
    for (unsigned int i = 0; i < count; i++) {
        uint64_t value;

        if (map == NULL || !memory_attribute(map, attrs[i], ptr, &value)) {
            value = 0;
        }
        memcpy(values_out[i], &value, memory_attribute_bytes(attrs[i]));
    }
    fake_unlock();
    return CUDA_OK;
}
