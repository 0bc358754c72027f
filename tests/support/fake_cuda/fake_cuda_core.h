/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_core.h
 * What the files of the fake driver share: the objects of this process and the lock over them.
 *
 * One lock, fake.lock, guards every object and is never held while bytes are copied or a callback
 * runs. Everything that changes is announced by fake.changed. Objects are handed out as numbers in
 * the guise of pointers and never reused, so that a stale handle is always told from a live one.
 */
#ifndef KVL_FAKE_CUDA_CORE_H
#define KVL_FAKE_CUDA_CORE_H

#include <pthread.h>
#include <stdint.h>

#include "cuda_ipc_abi.h"
#include "fake_cuda.h"

#define FAKE_DEVICES_MAX 16

/** A process as others recognise it: a number alone is reused. */
struct fake_who {
    int32_t pid;
    uint64_t start; /* ticks since boot */
    uint64_t space; /* inode of the PID namespace */
};

/** The primary context of a device. */
struct CUctx_st {
    int ordinal;
    uint32_t retained;
    cuda_result error; /* sticky: every later call returns it */
    struct fake_stream *defaults[2]; /* legacy and per thread; made when first used */
};

struct fake_device {
    int physical; /* number among all devices, whatever is visible */
    struct cuda_uuid uuid;
    struct CUctx_st context;
};

enum fake_map_kind {
    FAKE_ALLOC, /* cuMemAlloc */
    FAKE_IMPORT, /* cuIpcOpenMemHandle */
    FAKE_VMM, /* cuMemMap */
    FAKE_HOST_ALLOC,
    FAKE_HOST_REGISTER,
};

/** A range of addresses that copies may use. */
struct fake_map {
    struct fake_map *next;
    enum fake_map_kind kind;
    cuda_ptr base;
    size_t bytes;
    size_t mapped; /* bytes of the mapping behind it */
    cuda_context context; /* NULL for FAKE_VMM */
    int physical; /* device that has the memory; -1 on the host */
    uint64_t buffer_id;
    uint32_t pins; /* copies under way */
    int doomed; /* being freed: no new copies */
    uint32_t opens; /* FAKE_IMPORT */
    uint32_t slot; /* FAKE_ALLOC, FAKE_IMPORT: in the state file */
    uint64_t slot_id;
    struct fake_who owner; /* FAKE_IMPORT */
    int fd; /* FAKE_ALLOC */
    struct fake_memory *memory; /* FAKE_VMM */
    uint32_t readers; /* FAKE_VMM: devices with access, by physical number */
    uint32_t writers;
};

struct fake_event {
    struct fake_event *next;
    uint64_t id;
    cuda_context context;
    uint32_t flags;
    uint32_t refs; /* the handle, and operations that name it */
    int destroyed;
    int imported;
    int shared; /* the counts are in the state file */
    uint32_t slot;
    uint64_t slot_id;
    struct fake_who owner; /* of an imported one */
    uint64_t recorded; /* records submitted; when not shared */
    uint64_t completed; /* the latest of them that was reached */
};

struct fake_all {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t pid; /* of the process that called cuInit; 0 before */
    struct fake_who self;
    struct fake_device devices[FAKE_DEVICES_MAX];
    int device_count;
    size_t memory; /* bytes per device */
    uint64_t delay_ns;
    int no_peers;
    int held; /* all streams */
    int capturing; /* some thread, in the mode that forbids others most calls */
    uint32_t capture_broken; /* calls that were made all the same */
    uint64_t seed;
    uint64_t next_id;
    struct fake_map *maps;
    struct fake_event *events;
    struct fake_stream *streams;
};

extern struct fake_all fake;

/** What a call asks for before it does anything. */
enum fake_need {
    FAKE_NOTHING, /* works before cuInit */
    FAKE_DRIVER, /* cuInit was called, in this process */
    FAKE_CONTEXT, /* and a context without error is current */
};

/**
 * Begins every call: counts it and says why it fails at once, if it does.
 * @param name  the function's symbol, with or without suffix
 */
cuda_result fake_enter(const char *name, enum fake_need need);

/** Begins a call about a device. These do not change after cuInit and are read without the lock. */
cuda_result fake_device_enter(const char *name, cuda_device device);

/** The current context of this thread, NULL without one. */
cuda_context fake_current(void);
/** On threads that run callbacks: every call of the driver is then refused. */
void fake_forbid_calls(int forbidden);

void fake_lock(void);
void fake_unlock(void);
/** Waits for a change, lock held; until `until_ns` of CLOCK_MONOTONIC unless that is 0. */
void fake_wait(uint64_t until_ns);
uint64_t fake_now_ns(void);
/** A number that this process has not used yet. Lock held. */
uint64_t fake_new_id(void);
/** Random bits for orders of chance. Lock held. */
uint64_t fake_random(void);
/** Breaks a context for good, unless it is broken. Lock held. */
void fake_break(cuda_context context, cuda_result code);

/* ---- who ---- */

/** Fills fake.self. */
void fake_who_am_i(void);
/** 0 once that process has ended, also while it is a zombie. */
int fake_who_alive(const struct fake_who *who);
int fake_who_same(const struct fake_who *a, const struct fake_who *b);

/* ---- names and calls ---- */

struct fake_export {
    const char *name; /* without suffix */
    int since; /* the version that brought this ABI */
    void (*fn)(void);
};

extern const struct fake_export fake_exports[];
extern const uint32_t fake_export_count;

int fake_version(void);
/** 1 when `name` stands in a list separated by commas. */
int fake_listed(const char *list, const char *name);
/** As fake_cuda_control.fail_calls and .calls. */
int fake_fail_rules(const char *rules);
uint64_t fake_calls(const char *name);

#endif /* KVL_FAKE_CUDA_CORE_H */
