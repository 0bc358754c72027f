/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file copy_rig.h
 * A copy engine on the fake driver, memory of all kinds, and random jobs whose outcome is known.
 * Failures end the test.
 */
#ifndef KVL_TEST_COPY_RIG_H
#define KVL_TEST_COPY_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_ipc_copy.h"
#include "cuda_rig.h"
#include "fake_host.h"
#include "sides.h"

#define COPY_ARENA (1u << 18)
#define COPY_LAYERS_MAX 64u

/** How a job ended, and what was told meanwhile. */
struct copy_end {
    pthread_mutex_t lock;
    pthread_cond_t more;
    int ends;
    int status;
    int items[SIDES_CHUNKS];
    uint64_t bytes;
    uint32_t told;
    uint32_t layers[COPY_LAYERS_MAX];
};

/** A random job in flight. Its memory belongs to the rig: one at a time. */
struct copy_case {
    struct sides_shape shape;
    struct sides to;
    struct sides from;
    struct cuda_ipc_job job;
    const void *hosts[SIDES_CHUNKS];
    uint64_t numbers[2]; /* of registered caches */
    uint64_t dst_base;
    uint64_t src_base;
    struct copy_end end;
};

struct copy_rig {
    struct cuda_rig cuda;
    struct fake_host *fake;
    struct cuda_ipc_devices devices;
    struct cuda_ipc_device *device;
    struct cuda_ipc_kvs kvs;
    struct cuda_ipc_copy *copy;
    cuda_ptr device_memory[2]; /* dst, src */
    uint8_t *host_memory[2];
    uint8_t src[COPY_ARENA]; /* what the source holds */
    uint8_t expected[COPY_ARENA]; /* what the target has to hold */
    uint8_t seen[COPY_ARENA];
};

/**
 * Opens the fake as a driver of that version, with one engine on device 0.
 * @param pinned  1 = host memory is pinned
 */
struct copy_rig *copy_rig_open(const char *version, const struct cuda_ipc_copy_options *options,
                               int pinned);
/** Stops the engine and checks that nothing is left over. */
void copy_rig_close(struct copy_rig *rig);
/** The same after the device was lost: what is left over is the driver's. */
void copy_rig_close_lost(struct copy_rig *rig);

/** Bytes that the fake takes for compiled kernels. */
const void *copy_rig_image(void);

/** Fills memory anew and describes a job. */
void copy_case_make(struct copy_rig *rig, struct copy_case *c, enum cuda_ipc_side_kind to,
                    enum cuda_ipc_side_kind from, uint32_t align, int skips, uint64_t *seed);
int copy_case_submit(struct copy_rig *rig, struct copy_case *c);
/** Waits for the end. @return its status. */
int copy_case_wait(struct copy_case *c);
/** What the target holds now. */
const uint8_t *copy_case_see(struct copy_rig *rig, const struct copy_case *c);
void copy_case_free(struct copy_rig *rig, struct copy_case *c);

/** Makes, submits, waits, and compares every byte of the target's memory. */
void copy_case_run(struct copy_rig *rig, enum cuda_ipc_side_kind to, enum cuda_ipc_side_kind from,
                   uint32_t align, int skips, uint64_t *seed);

/** One counter of the engine. */
uint64_t copy_rig_stat(struct copy_rig *rig, const char *name);

#endif /* KVL_TEST_COPY_RIG_H */
