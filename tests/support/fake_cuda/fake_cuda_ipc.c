/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of other processes by legacy handles: their memfds, reached through /proc.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

#define HANDLE_MAGIC 0x79726f6d656dull
#define PAGE 4096u

struct ipc_handle {
    uint64_t magic;
    uint64_t id;
    struct fake_who owner;
    uint32_t slot;
    uint32_t reserved;
    uint64_t mix[2]; /* makes the bytes of two handles differ all over */
};
KVL_STATIC_ASSERT(sizeof(struct ipc_handle) == 64, "a handle has 64 bytes");

/* Over all bytes before it, the padding among them. */
static void ipc_mix(struct ipc_handle *handle)
{
    const uint8_t *bytes = (const uint8_t *)handle;
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < offsetof(struct ipc_handle, mix); i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    handle->mix[0] = hash;
    handle->mix[1] = hash * 0x9e3779b97f4a7c15u;
}

cuda_result cuIpcGetMemHandle(struct cuda_ipc_mem_handle *handle_out, cuda_ptr ptr)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct ipc_handle image;
    const struct fake_map *map;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find(ptr);
    if (map == NULL || map->kind != FAKE_ALLOC) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        memset(&image, 0, sizeof(image));
        image.magic = HANDLE_MAGIC;
        image.id = map->slot_id;
        image.owner = fake.self;
        image.slot = map->slot;
        ipc_mix(&image);
        memcpy(handle_out->bytes, &image, sizeof(image));
    }
    fake_unlock();
    return code;
}

static int ipc_is_sound(const struct ipc_handle *image)
{
    struct ipc_handle again = *image;

    ipc_mix(&again);
    return image->magic == HANDLE_MAGIC && memcmp(image, &again, sizeof(again)) == 0;
}

static struct fake_map *ipc_opened(const struct ipc_handle *image, cuda_context context)
{
    for (struct fake_map *map = fake.maps; map != NULL; map = map->next) {
        if (map->kind == FAKE_IMPORT && map->context == context && map->slot == image->slot &&
            map->slot_id == image->id && !map->doomed) {
            return map;
        }
    }
    return NULL;
}

static cuda_result ipc_map(const struct ipc_handle *image, const struct fake_state_memory *memory,
                           struct fake_map **map_out)
{
    struct fake_map *map = calloc(1, sizeof(*map));
    void *host;
    int fd;

    if (map == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    map->kind = FAKE_IMPORT;
    map->bytes = memory->bytes;
    map->mapped = (memory->bytes + PAGE - 1) / PAGE * PAGE;
    map->context = fake_current();
    map->physical = memory->physical;
    map->slot = image->slot;
    map->slot_id = image->id;
    map->owner = memory->owner;
    fd = fake_state_memory_open(image->slot, image->id);
    if (fd < 0) {
        free(map);
        return CUDA_E_INVALID_VALUE;
    }
    host = mmap(NULL, map->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (host == MAP_FAILED) {
        free(map);
        return CUDA_E_MAP_FAILED;
    }
    map->base = (cuda_ptr)(uintptr_t)host | FAKE_CUDA_DEVICE_BIT;
    fake_map_add(map);
    *map_out = map;
    return CUDA_OK;
}

static cuda_result ipc_open(const struct ipc_handle *image, cuda_ptr *base_out)
{
    cuda_context context = fake_current();
    struct fake_state_memory memory;
    struct fake_map *map;
    cuda_result code;

    if (!ipc_is_sound(image)) {
        return CUDA_E_INVALID_VALUE;
    }
    if (image->owner.space != fake.self.space || fake_who_same(&image->owner, &fake.self)) {
        return CUDA_E_INVALID_CONTEXT;
    }
    if (fake_state_memory_get(image->slot, image->id, &memory) < 0) {
        return CUDA_E_INVALID_VALUE;
    }
    if (memory.physical != fake.devices[context->ordinal].physical && fake.no_peers) {
        return CUDA_E_PEER_ACCESS_UNSUPPORTED;
    }
    map = ipc_opened(image, context);
    if (map == NULL) {
        code = ipc_map(image, &memory, &map);
        if (code != CUDA_OK) {
            return code;
        }
    }
    map->opens++;
    *base_out = map->base;
    return CUDA_OK;
}

cuda_result cuIpcOpenMemHandle_v2(cuda_ptr *base_out, struct cuda_ipc_mem_handle handle,
                                  unsigned int flags)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct ipc_handle image;

    if (code == CUDA_OK && flags != CUDA_IPC_LAZY_PEER_ACCESS) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        memcpy(&image, handle.bytes, sizeof(image));
        fake_lock();
        code = ipc_open(&image, base_out);
        fake_unlock();
    }
    return code;
}

cuda_result cuIpcCloseMemHandle(cuda_ptr base)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_map *map;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find(base);
    if (map == NULL || map->kind != FAKE_IMPORT || map->base != base ||
        map->context != fake_current()) {
        code = CUDA_E_INVALID_VALUE;
    } else if (--map->opens == 0) {
        fake_map_remove(map);
        fake_map_free(map);
    }
    fake_unlock();
    return code;
}
