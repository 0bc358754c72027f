/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Virtual memory: physical memory, reserved addresses, and maps of one at the other. Physical memory
 * is a memfd with a page behind it that says what it is, so that whoever gets the descriptor knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

#define GRANULARITY (2u << 20)
#define TRAILER_MAGIC 0x6c6961727476666bull
#define MEMORY_TAG 0x3e00000000000000ull

struct vmm_trailer {
    uint64_t magic;
    uint64_t bytes;
    int32_t physical;
    uint32_t types;
};

struct fake_memory {
    struct fake_memory *next;
    uint64_t id;
    uint32_t handles;
    uint32_t maps;
    int fd;
    int owned; /* entered in the state file */
    uint32_t slot;
    uint64_t slot_id;
    struct vmm_trailer about;
};

struct vmm_reservation {
    struct vmm_reservation *next;
    cuda_ptr base;
    size_t bytes;
};

static struct {
    struct fake_memory *memories;
    struct vmm_reservation *reservations;
} vmm;

/* ---- physical memory ---- */

static struct fake_memory *vmm_find(cuda_mem mem)
{
    struct fake_memory *memory = vmm.memories;

    while (memory != NULL && (memory->id != mem || memory->handles == 0)) {
        memory = memory->next;
    }
    return memory;
}

static void vmm_free_unused(struct fake_memory *memory)
{
    struct fake_memory **at = &vmm.memories;

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

void fake_memory_count(uint32_t *handles_out, uint32_t *reservations_out)
{
    *handles_out = 0;
    *reservations_out = 0;
    for (const struct fake_memory *memory = vmm.memories; memory != NULL; memory = memory->next) {
        *handles_out += memory->handles;
    }
    for (const struct vmm_reservation *r = vmm.reservations; r != NULL; r = r->next) {
        ++*reservations_out;
    }
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
    memory->next = vmm.memories;
    vmm.memories = memory;
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
    if (code == CUDA_OK && (bytes == 0 || bytes % GRANULARITY != 0 || flags != 0)) {
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
    memory = vmm_find(mem);
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
        *bytes_out = GRANULARITY;
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
    memory = vmm_find(mem);
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
    memory = vmm_find(mem);
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

/* ---- addresses ---- */

static cuda_result vmm_reserve(cuda_ptr *ptr_out, size_t bytes)
{
    struct vmm_reservation *reservation = calloc(1, sizeof(*reservation));
    size_t all = bytes + GRANULARITY;
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
    base = (start + GRANULARITY - 1) / GRANULARITY * GRANULARITY;
    if (base > start) {
        munmap(host, base - start);
    }
    munmap((void *)(base + bytes), start + all - base - bytes);
    reservation->base = (cuda_ptr)base | FAKE_CUDA_DEVICE_BIT;
    reservation->bytes = bytes;
    reservation->next = vmm.reservations;
    vmm.reservations = reservation;
    *ptr_out = reservation->base;
    return CUDA_OK;
}

cuda_result cuMemAddressReserve(cuda_ptr *ptr_out, size_t bytes, size_t alignment, cuda_ptr wanted,
                                unsigned long long flags)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    (void)wanted; /* a hint */
    if (code == CUDA_OK && (bytes == 0 || bytes % GRANULARITY != 0 || flags != 0 ||
                            (alignment & (alignment - 1)) != 0 || alignment > GRANULARITY)) {
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
    struct vmm_reservation **at = &vmm.reservations;
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
    for (const struct vmm_reservation *r = vmm.reservations; r != NULL; r = r->next) {
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
    memory = vmm_find(mem);
    if (memory == NULL || offset != 0 || flags != 0 || bytes == 0 || bytes % GRANULARITY != 0 ||
        ptr % GRANULARITY != 0 || bytes > memory->about.bytes || !vmm_reserved(ptr, bytes) ||
        vmm_in_use(ptr, bytes)) {
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
