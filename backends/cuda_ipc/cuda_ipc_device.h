/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_device.h
 * The devices of one instance: which there are, how they are called in other processes, and what
 * is held on those in use: the primary context, streams and a pool of events.
 *
 * A device is opened when it is first used, because a primary context costs hundreds of MB of its
 * memory. Pointers to devices stay valid until cuda_ipc_devices_fini(). Everything is thread-safe
 * unless said otherwise.
 */
#ifndef KVL_CUDA_IPC_DEVICE_H
#define KVL_CUDA_IPC_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <kvlane/host.h>

#include "cuda_ipc_api.h"

#define CUDA_IPC_DEVICES_MAX 64u

/** Streams of a device. What is queued on one of them ends in that order. */
enum cuda_ipc_lane {
    CUDA_IPC_LANE_IN, /* work on the device that writes engine memory */
    CUDA_IPC_LANE_OUT, /* work on the device that reads engine memory */
    CUDA_IPC_LANE_UP, /* DMA from host memory */
    CUDA_IPC_LANE_DOWN, /* DMA to host memory */
    CUDA_IPC_LANES,
};

struct cuda_ipc_device {
    const struct cuda_ipc_api *api; /* borrowed */
    const struct kvl_log *log; /* borrowed */
    int ordinal; /* `device` of kvl_kv and kvl_sg */
    cuda_device handle;
    struct cuda_uuid uuid; /* of the instance where the device is split (MIG) */
    char name[64];
    int processors; /* streaming multiprocessors */
    int capability; /* 90 = 9.0 */

    /* Below: valid once cuda_ipc_devices_open() gave the device out. */
    cuda_context context; /* primary, retained */
    cuda_stream streams[CUDA_IPC_LANES]; /* non-blocking */
    atomic_uint lost; /* the driver's code once the device is of no use any more, else 0 */
    bool is_open; /* under the lock of the table */
};

struct cuda_ipc_devices {
    const struct cuda_ipc_api *api;
    const struct kvl_log *log;
    uint32_t count;
    pthread_mutex_t lock; /* opening */
    struct cuda_ipc_device all[CUDA_IPC_DEVICES_MAX];
};

/**
 * Lists the visible devices; opens none of them.
 * @param api  borrowed until fini
 * @return 0; -ENODEV and so on, with err->text.
 */
int cuda_ipc_devices_init(struct cuda_ipc_devices *devices, const struct cuda_ipc_api *api,
                          const struct kvl_log *log, struct kvl_err *err);

/** Releases what is open. No work may be under way. Takes a zeroed table. */
void cuda_ipc_devices_fini(struct cuda_ipc_devices *devices);

/** The visible device of that UUID. @return its ordinal; -ENODEV it is not visible here. */
int cuda_ipc_devices_find(const struct cuda_ipc_devices *devices, const struct cuda_uuid *uuid);

/**
 * The device, ready for use: context retained, streams made. The first call for a device blocks in
 * the driver, up to seconds; later ones cost a lock.
 * @return 0; -ENODEV no such device; -EIO it is lost; what the driver said. err->text on failure.
 */
int cuda_ipc_devices_open(struct cuda_ipc_devices *devices, int ordinal,
                          struct cuda_ipc_device **device_out, struct kvl_err *err);

/**
 * Makes the device's context current on the calling thread: see cuda_ipc_api_push().
 * @return 0; -EIO and so on; leave is due in any case.
 */
int cuda_ipc_device_enter(struct cuda_ipc_device *device, struct cuda_ipc_stay *visit);
void cuda_ipc_device_leave(struct cuda_ipc_device *device, struct cuda_ipc_stay *visit);

/**
 * Takes note of a failed call: errno for it. A code after which the context is dead (an illegal
 * address, an uncorrectable ECC error, ..) makes the device lost and is logged once.
 * @param call  name of the driver's function
 */
int cuda_ipc_device_fail(struct cuda_ipc_device *device, const char *call, cuda_result code);

/** Declares a device lost that no longer answers; `code` says why. Logged once. */
void cuda_ipc_device_lose(struct cuda_ipc_device *device, const char *call, cuda_result code);

/** 0; -EIO once the device is lost. */
int cuda_ipc_device_state(const struct cuda_ipc_device *device);

/** Device memory that is known to be there: a short memory for cuda_ipc_device_covers(). */
struct cuda_ipc_ranges {
    uint32_t count;
    struct {
        uint64_t base;
        uint64_t bytes;
    } all[16];
};

/**
 * Whether memory of the driver's lies all the way from `addr`; with the context current.
 * @param ranges  zeroed before the first call; spares most calls of the driver
 * @return bytes that are there, at most `bytes`.
 */
uint64_t cuda_ipc_device_covers(struct cuda_ipc_device *device, struct cuda_ipc_ranges *ranges,
                                uint64_t addr, uint64_t bytes);

#endif /* KVL_CUDA_IPC_DEVICE_H */
