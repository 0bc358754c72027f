/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Physical memory of the VMM functions: a memfd with some bytes at its end that say what it is, so
 * that whoever gets the descriptor knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_cuda_state.h"
#include "fake_cuda_vmm.h"

#define TRAILER_MAGIC 0x6c6961727476666bull
#define MEMORY_TAG 0x3e00000000000000ull

static struct fake_memory *vmm_memories;

/* ---- physical memory ---- */

struct fake_memory *fake_memory_find(cuda_mem mem)
{
    struct fake_memory *memory = vmm_memories;

    while (memory != NULL && (memory->id != mem || memory->handles == 0)) {
        memory = memory->next;
    }
    return memory;
}

static void vmm_free_unused(struct fake_memory *memory)
{
    struct fake_memory **at = &vmm_memories;

    if (memory->handles > 0 || memory->maps > 0) {
        return;
    }
    while (*at != memory) {
        at = &(*at)->next;
    }
    *at = memory->next;
    if (memory->owned) {
        fake_state_memory_remove(memory->slot, memory->slot_id);
    }
    close(memory->fd);
    free(memory);
}

void fake_memory_release(struct fake_memory *memory)
{
    memory->maps--;
    vmm_free_unused(memory);
}

uint32_t fake_memory_types(const struct fake_memory *memory)
{
    return memory->about.types;
}

uint32_t fake_memory_count(void)
{
    uint32_t count = 0;

    for (const struct fake_memory *memory = vmm_memories; memory != NULL; memory = memory->next) {
        count += memory->handles;
    }
    return count;
}

/* Takes the descriptor. */
static struct fake_memory *vmm_make(int fd, const struct vmm_trailer *about)
{
    struct fake_memory *memory = calloc(1, sizeof(*memory));

    if (memory == NULL) {
        close(fd);
        return NULL;
    }
    memory->id = MEMORY_TAG | fake_new_id();
    memory->handles = 1;
    memory->fd = fd;
    memory->about = *about;
    memory->next = vmm_memories;
    vmm_memories = memory;
    return memory;
}

static cuda_result vmm_check_prop(const struct cuda_mem_prop *prop)
{
    if (prop->type != CUDA_MEM_PINNED || prop->location.type != CUDA_LOCATION_DEVICE ||
        prop->location.id < 0 || prop->location.id >= fake.device_count) {
        return CUDA_E_INVALID_VALUE;
    }
    /* a machine without fabric, as most are */
    return (prop->handle_types & ~CUDA_HANDLE_FD) != 0 ? CUDA_E_NOT_SUPPORTED : CUDA_OK;
}

static int vmm_memfd(const struct vmm_trailer *about)
{
    int fd = memfd_create("kvlane-fake-cuda-vmm", MFD_CLOEXEC);

    if (fd >= 0 && (ftruncate(fd, (off_t)about->bytes) < 0 ||
                    pwrite(fd, about, sizeof(*about), (off_t)about->bytes) != sizeof(*about))) {
        close(fd);
        return -ENOMEM;
    }
    return fd;
}

static cuda_result vmm_create(cuda_mem *mem_out, size_t bytes, const struct cuda_mem_prop *prop)
{
    struct vmm_trailer about = {.magic = TRAILER_MAGIC,
                                .bytes = bytes,
                                .physical = fake.devices[prop->location.id].physical,
                                .types = prop->handle_types};
    struct fake_state_memory entry = {
        .owner = fake.self, .fd = -1, .physical = about.physical, .bytes = bytes};
    struct fake_memory *memory;
    uint32_t slot;
    uint64_t slot_id;
    int fd;

    if (bytes > fake.memory || fake_state_memory_add(&entry, fake.memory, &slot, &slot_id) < 0) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    fd = vmm_memfd(&about);
    memory = fd < 0 ? NULL : vmm_make(fd, &about);
    if (memory == NULL) {
        fake_state_memory_remove(slot, slot_id);
        return CUDA_E_OUT_OF_MEMORY;
    }
    memory->owned = 1;
    memory->slot = slot;
    memory->slot_id = slot_id;
    *mem_out = memory->id;
    return CUDA_OK;
}

cuda_result cuMemCreate(cuda_mem *mem_out, size_t bytes, const struct cuda_mem_prop *prop,
                        unsigned long long flags)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK) {
        code = vmm_check_prop(prop);
    }
    if (code == CUDA_OK && (bytes == 0 || bytes % FAKE_GRANULARITY != 0 || flags != 0)) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        fake_lock();
        code = vmm_create(mem_out, bytes, prop);
        fake_unlock();
    }
    return code;
}

cuda_result cuMemRelease(cuda_mem mem)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    struct fake_memory *memory;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    memory = fake_memory_find(mem);
    if (memory == NULL) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        memory->handles--;
        vmm_free_unused(memory);
    }
    fake_unlock();
    return code;
}

cuda_result cuMemGetAllocationGranularity(size_t *bytes_out, const struct cuda_mem_prop *prop,
                                          unsigned int option)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK) {
        code = vmm_check_prop(prop);
    }
    if (code == CUDA_OK && option > CUDA_GRANULARITY_RECOMMENDED) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        *bytes_out = FAKE_GRANULARITY;
    }
    return code;
}

cuda_result cuMemGetAllocationPropertiesFromHandle(struct cuda_mem_prop *prop_out, cuda_mem mem)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    const struct fake_memory *memory;
    int ordinal = 0;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    memory = fake_memory_find(mem);
    if (memory == NULL) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        while (ordinal < fake.device_count &&
               fake.devices[ordinal].physical != memory->about.physical) {
            ordinal++;
        }
        *prop_out =
            (struct cuda_mem_prop){.type = CUDA_MEM_PINNED,
                                   .handle_types = memory->about.types,
                                   .location = {.type = CUDA_LOCATION_DEVICE,
                                                .id = ordinal < fake.device_count ? ordinal : -2}};
    }
    fake_unlock();
    return code;
}

/* ---- between processes ---- */

cuda_result cuMemExportToShareableHandle(void *handle_out, cuda_mem mem, unsigned int type,
                                         unsigned long long flags)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    const struct fake_memory *memory;
    int fd;

    if (code != CUDA_OK) {
        return code;
    }
    if (type == CUDA_HANDLE_FABRIC) {
        return CUDA_E_NOT_SUPPORTED;
    }
    fake_lock();
    memory = fake_memory_find(mem);
    if (memory == NULL || type != CUDA_HANDLE_FD || flags != 0 ||
        (memory->about.types & CUDA_HANDLE_FD) == 0) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        fd = fcntl(memory->fd, F_DUPFD_CLOEXEC, 0);
        if (fd < 0) {
            code = CUDA_E_OPERATING_SYSTEM;
        } else {
            *(int *)handle_out = fd;
        }
    }
    fake_unlock();
    return code;
}

static cuda_result vmm_import(cuda_mem *mem_out, int fd)
{
    struct fake_memory *memory;
    struct vmm_trailer about;
    struct stat info;
    int copy;

    if (fstat(fd, &info) < 0 || info.st_size <= (off_t)sizeof(about) ||
        pread(fd, &about, sizeof(about), info.st_size - (off_t)sizeof(about)) != sizeof(about) ||
        about.magic != TRAILER_MAGIC || about.bytes != (uint64_t)info.st_size - sizeof(about)) {
        return CUDA_E_INVALID_VALUE;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    memory = copy < 0 ? NULL : vmm_make(copy, &about);
    if (memory == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    *mem_out = memory->id;
    return CUDA_OK;
}

cuda_result cuMemImportFromShareableHandle(cuda_mem *mem_out, void *handle, unsigned int type)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK && type == CUDA_HANDLE_FABRIC) {
        code = CUDA_E_NOT_SUPPORTED;
    } else if (code == CUDA_OK && type != CUDA_HANDLE_FD) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        fake_lock();
        code = vmm_import(mem_out, (int)(intptr_t)handle);
        fake_unlock();
    }
    return code;
}

cuda_result cuMemRetainAllocationHandle(cuda_mem *mem_out, void *addr)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    const struct fake_map *map;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    map = fake_map_find((cuda_ptr)(uintptr_t)addr);
    if (map == NULL || map->kind != FAKE_VMM) {
        code = CUDA_E_INVALID_VALUE;
    } else {
        map->memory->handles++;
        *mem_out = map->memory->id;
    }
    fake_unlock();
    return code;
}
