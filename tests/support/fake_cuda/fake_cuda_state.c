/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_cuda_state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STATE_MAGIC 0x31656b6166766bull /* changes with the layout below */
#define PROCESSES 256u
#define MEMORIES 4096u
#define EVENTS 8192u
/* How long a waiter trusts that whoever should wake it still lives. */
#define TICK_NS 20000000l

struct state_memory {
    uint64_t id; /* 0: free */
    struct fake_state_memory memory;
};

struct state_event {
    uint64_t id; /* 0: free */
    uint64_t recorded;
    uint64_t completed;
    struct fake_who owner;
    struct fake_who recorder; /* of the latest record */
};

struct state_file {
    uint64_t magic;
    uint64_t next_id;
    uint32_t tick;
    uint32_t reserved;
    struct fake_who processes[PROCESSES];
    struct state_memory memories[MEMORIES];
    struct state_event events[EVENTS];
};

static struct {
    struct state_file *file;
    int fd;
    int is_default;
    char path[PATH_MAX];
} state = {.fd = -1};

/* ---- the file ---- */

static void state_lock(void)
{
    while (flock(state.fd, LOCK_EX) < 0 && errno == EINTR) {
    }
}

static void state_unlock(void)
{
    flock(state.fd, LOCK_UN);
}

/* Forgets what the dead have left. File lock held. */
static void state_sweep(void)
{
    struct state_file *file = state.file;

    for (uint32_t i = 0; i < PROCESSES; i++) {
        if (file->processes[i].pid != 0 && !fake_who_alive(&file->processes[i])) {
            file->processes[i] = (struct fake_who){.pid = 0};
        }
    }
    for (uint32_t i = 0; i < MEMORIES; i++) {
        if (file->memories[i].id != 0 && !fake_who_alive(&file->memories[i].memory.owner)) {
            __atomic_store_n(&file->memories[i].id, 0, __ATOMIC_RELEASE);
        }
    }
    for (uint32_t i = 0; i < EVENTS; i++) {
        if (file->events[i].id != 0 && !fake_who_alive(&file->events[i].owner)) {
            __atomic_store_n(&file->events[i].id, 0, __ATOMIC_RELEASE);
        }
    }
}

static void state_path(void)
{
    const char *path = getenv("KVLANE_FAKE_CUDA_STATE");
    const char *folder = getenv("XDG_RUNTIME_DIR");

    state.is_default = path == NULL || path[0] == '\0';
    if (!state.is_default) {
        snprintf(state.path, sizeof(state.path), "%s", path);
        return;
    }
    snprintf(state.path, sizeof(state.path), "%s/kvlane-fake-cuda-%u",
             folder == NULL || folder[0] == '\0' ? "/dev/shm" : folder, getuid());
}

/* Opens and locks; a file that its last user removes meanwhile is left alone. */
static int state_open_locked(void)
{
    struct stat info;

    for (;;) {
        state.fd = open(state.path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (state.fd < 0) {
            return -errno;
        }
        state_lock();
        if (fstat(state.fd, &info) < 0) {
            return -errno;
        }
        if (info.st_nlink > 0) {
            break;
        }
        close(state.fd);
    }
    if ((size_t)info.st_size < sizeof(struct state_file) &&
        ftruncate(state.fd, sizeof(struct state_file)) < 0) {
        return -errno;
    }
    return 0;
}

static int state_enter(void)
{
    for (uint32_t i = 0; i < PROCESSES; i++) {
        if (state.file->processes[i].pid == 0) {
            state.file->processes[i] = fake.self;
            return 0;
        }
    }
    return -ENFILE;
}

int fake_state_open(void)
{
    void *addr;
    int r;

    fake_who_am_i();
    state_path();
    r = state_open_locked();
    if (r < 0) {
        goto err_close;
    }
    addr = mmap(NULL, sizeof(struct state_file), PROT_READ | PROT_WRITE, MAP_SHARED, state.fd, 0);
    if (addr == MAP_FAILED) {
        r = -errno;
        goto err_close;
    }
    state.file = addr;
    if (state.file->magic != STATE_MAGIC) {
        memset(state.file, 0, sizeof(*state.file));
        state.file->magic = STATE_MAGIC;
        /* no id of an earlier file with this name comes again */
        state.file->next_id = fake_now_ns();
    }
    state_sweep();
    r = state_enter();
    state_unlock();
    return r;

err_close:
    if (state.fd >= 0) {
        close(state.fd);
        state.fd = -1;
    }
    return r;
}

void fake_state_close(void)
{
    uint32_t others = 0;

    if (state.file == NULL) {
        return;
    }
    state_lock();
    for (uint32_t i = 0; i < MEMORIES; i++) {
        if (fake_who_same(&state.file->memories[i].memory.owner, &fake.self)) {
            __atomic_store_n(&state.file->memories[i].id, 0, __ATOMIC_RELEASE);
        }
    }
    for (uint32_t i = 0; i < EVENTS; i++) {
        if (fake_who_same(&state.file->events[i].owner, &fake.self)) {
            __atomic_store_n(&state.file->events[i].id, 0, __ATOMIC_RELEASE);
        }
    }
    state_sweep();
    for (uint32_t i = 0; i < PROCESSES; i++) {
        if (fake_who_same(&state.file->processes[i], &fake.self)) {
            state.file->processes[i] = (struct fake_who){.pid = 0};
        }
        others += state.file->processes[i].pid != 0;
    }
    if (state.is_default && others == 0) {
        unlink(state.path);
    }
    state_unlock();
}

static uint64_t state_new_id(void)
{
    return ++state.file->next_id;
}

/* ---- memory ---- */

static uint64_t state_used(int physical)
{
    uint64_t used = 0;

    for (uint32_t i = 0; i < MEMORIES; i++) {
        if (state.file->memories[i].id != 0 &&
            state.file->memories[i].memory.physical == physical) {
            used += state.file->memories[i].memory.bytes;
        }
    }
    return used;
}

uint64_t fake_state_memory_used(int physical)
{
    uint64_t used;

    state_lock();
    state_sweep();
    used = state_used(physical);
    state_unlock();
    return used;
}

static int state_memory_free_slot(uint32_t *slot_out)
{
    for (uint32_t i = 0; i < MEMORIES; i++) {
        if (state.file->memories[i].id == 0) {
            *slot_out = i;
            return 0;
        }
    }
    return -ENFILE;
}

int fake_state_memory_add(const struct fake_state_memory *memory, uint64_t limit,
                          uint32_t *slot_out, uint64_t *id_out)
{
    uint32_t slot = 0;
    int r;

    state_lock();
    if (state_used(memory->physical) + memory->bytes > limit || state_memory_free_slot(&slot) < 0) {
        state_sweep();
    }
    r = state_memory_free_slot(&slot);
    if (state_used(memory->physical) + memory->bytes > limit) {
        r = -ENOMEM;
    }
    if (r == 0) {
        struct state_memory *entry = &state.file->memories[slot];

        entry->memory = *memory;
        *slot_out = slot;
        *id_out = state_new_id();
        __atomic_store_n(&entry->id, *id_out, __ATOMIC_RELEASE);
    }
    state_unlock();
    return r;
}

static struct state_memory *state_memory_at(uint32_t slot, uint64_t id)
{
    if (slot >= MEMORIES || id == 0 ||
        __atomic_load_n(&state.file->memories[slot].id, __ATOMIC_ACQUIRE) != id) {
        return NULL;
    }
    return &state.file->memories[slot];
}

void fake_state_memory_remove(uint32_t slot, uint64_t id)
{
    struct state_memory *entry;

    state_lock();
    entry = state_memory_at(slot, id);
    if (entry != NULL) {
        __atomic_store_n(&entry->id, 0, __ATOMIC_RELEASE);
    }
    state_unlock();
}

int fake_state_memory_get(uint32_t slot, uint64_t id, struct fake_state_memory *memory_out)
{
    const struct state_memory *entry;
    int r = -ENOENT;

    state_lock();
    entry = state_memory_at(slot, id);
    if (entry != NULL) {
        *memory_out = entry->memory;
        r = 0;
    }
    state_unlock();
    return r;
}

int fake_state_memory_is(uint32_t slot, uint64_t id)
{
    return state_memory_at(slot, id) != NULL;
}

int fake_state_memory_open(uint32_t slot, uint64_t id)
{
    const struct state_memory *entry;
    char path[64];
    int fd = -ENOENT;

    /* the owner takes the entry out, under this lock, before it closes the descriptor */
    state_lock();
    entry = state_memory_at(slot, id);
    if (entry != NULL && fake_who_alive(&entry->memory.owner)) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", entry->memory.owner.pid, entry->memory.fd);
        fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            fd = -ENOENT;
        }
    }
    state_unlock();
    return fd;
}

/* ---- events ---- */

static struct state_event *state_event_at(uint32_t slot, uint64_t id)
{
    if (slot >= EVENTS || id == 0 ||
        __atomic_load_n(&state.file->events[slot].id, __ATOMIC_ACQUIRE) != id) {
        return NULL;
    }
    return &state.file->events[slot];
}

static int state_event_claim(uint32_t *slot_out, uint64_t *id_out)
{
    for (uint32_t i = 0; i < EVENTS; i++) {
        struct state_event *event = &state.file->events[i];

        if (event->id != 0) {
            continue;
        }
        event->recorded = 0;
        event->completed = 0;
        event->owner = fake.self;
        event->recorder = fake.self;
        *slot_out = i;
        *id_out = state_new_id();
        __atomic_store_n(&event->id, *id_out, __ATOMIC_RELEASE);
        return 0;
    }
    return -ENFILE;
}

int fake_state_event_add(uint32_t *slot_out, uint64_t *id_out)
{
    int r;

    state_lock();
    r = state_event_claim(slot_out, id_out);
    if (r < 0) {
        state_sweep();
        r = state_event_claim(slot_out, id_out);
    }
    state_unlock();
    return r;
}

static void state_tick(void)
{
    __atomic_add_fetch(&state.file->tick, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &state.file->tick, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void fake_state_event_remove(uint32_t slot, uint64_t id)
{
    struct state_event *event;

    state_lock();
    event = state_event_at(slot, id);
    if (event != NULL) {
        __atomic_store_n(&event->id, 0, __ATOMIC_RELEASE);
    }
    state_unlock();
    state_tick();
}

int fake_state_event_owner(uint32_t slot, uint64_t id, struct fake_who *owner_out)
{
    const struct state_event *event;
    int r = -ENOENT;

    state_lock();
    event = state_event_at(slot, id);
    if (event != NULL) {
        *owner_out = event->owner;
        r = 0;
    }
    state_unlock();
    return r;
}

uint64_t fake_state_event_record(uint32_t slot, uint64_t id)
{
    struct state_event *event;
    uint64_t number = 0;

    state_lock();
    event = state_event_at(slot, id);
    if (event != NULL) {
        event->recorder = fake.self;
        number = __atomic_add_fetch(&event->recorded, 1, __ATOMIC_ACQ_REL);
    }
    state_unlock();
    return number;
}

void fake_state_event_reach(uint32_t slot, uint64_t id, uint64_t number)
{
    struct state_event *event;

    state_lock();
    event = state_event_at(slot, id);
    if (event != NULL && __atomic_load_n(&event->completed, __ATOMIC_ACQUIRE) < number) {
        __atomic_store_n(&event->completed, number, __ATOMIC_RELEASE);
    }
    state_unlock();
    state_tick();
}

uint64_t fake_state_event_recorded(uint32_t slot, uint64_t id)
{
    const struct state_event *event = state_event_at(slot, id);

    return event == NULL ? 0 : __atomic_load_n(&event->recorded, __ATOMIC_ACQUIRE);
}

int fake_state_event_done(uint32_t slot, uint64_t id, uint64_t number)
{
    const struct state_event *event;
    struct fake_who recorder;

    state_lock();
    event = state_event_at(slot, id);
    if (event == NULL || __atomic_load_n(&event->completed, __ATOMIC_ACQUIRE) >= number) {
        state_unlock();
        return 1;
    }
    recorder = event->recorder;
    state_unlock();
    return !fake_who_same(&recorder, &fake.self) && !fake_who_alive(&recorder);
}

uint32_t fake_state_tick(void)
{
    return __atomic_load_n(&state.file->tick, __ATOMIC_ACQUIRE);
}

void fake_state_event_wait(uint32_t tick)
{
    struct timespec limit = {.tv_nsec = TICK_NS};

    syscall(SYS_futex, &state.file->tick, FUTEX_WAIT, tick, &limit, NULL, 0);
}
