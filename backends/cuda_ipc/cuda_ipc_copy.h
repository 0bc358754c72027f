/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_copy.h
 * The copy engine: moves batches of chunks between engine memory, our own memory on devices,
 * imported memory and host memory. One engine per instance; it has one thread per device in use.
 *
 * A job has two sides. It begins once the engine's stream and the events it was given have come to
 * the point where they were at submit; until then nothing of it is queued on the device. Then it
 * is queued in parts, a bounded number at a time, so that a cancelled job ends soon and jobs share
 * the device. Everything is thread-safe.
 */
#ifndef KVL_CUDA_IPC_COPY_H
#define KVL_CUDA_IPC_COPY_H

#include "cuda_ipc_kv.h"

/** How bytes move on a device; `copy` of the INI section. */
enum cuda_ipc_method {
    CUDA_IPC_AUTO, /* what the calibration says */
    CUDA_IPC_KERNEL, /* our kernel; DMA between device and host as always */
    CUDA_IPC_BATCH, /* cuMemcpyBatchAsync */
    CUDA_IPC_LOOP, /* cuMemcpy..Async and cuMemcpy2DAsync, one after the other */
    CUDA_IPC_METHODS,
};

struct cuda_ipc_copy_options {
    enum cuda_ipc_method method; /* what the driver cannot do is replaced by what it can */
    uint32_t max_jobs; /* per device; 0 = 64 */
    uint64_t stage_bytes; /* device memory of one staging buffer; 0 = 8 MiB */
    uint32_t stage_count; /* of them per direction; 0 = 3, at least 2 */
    uint64_t layer_bytes; /* layers are told about every so many bytes; 0 = what 50 us move */
    uint32_t calibrate; /* 1 = measure when a device is opened, some ms */
    const void *image; /* compiled kernels; NULL = those built in. Borrowed until destroy */
};

struct cuda_ipc_copy;

/** How a job ended. */
struct cuda_ipc_copy_end {
    int status; /* 0, or the first failure */
    uint32_t count; /* chunks */
    const int *item_status; /* one per chunk; valid during the call */
    uint64_t bytes; /* of the chunks with status 0 */
    int driver_code; /* of the first failure, 0 if none */
};

/** Which memory a side has, and where it lies. */
struct cuda_ipc_job_side {
    enum cuda_ipc_side_kind kind;
    int device; /* ordinal; not for HOST. Of imported memory: the device it was opened on */
    struct cuda_ipc_kv *kv; /* PAGED; the caller holds it until `done` */
    const uint32_t *blocks; /* PAGED, as in struct kvl_batch */
    const uint32_t *block_first;
    const struct kvl_sg *sg; /* RUNS, as in struct kvl_batch; all on `device` */
    const uint32_t *sg_first;
    const cuda_ptr *addrs; /* DEVICE: address of each chunk */
    const void *const *hosts; /* HOST: address of each chunk; also for targets */
};

/** Everything is borrowed for the submit call; the memory itself until `done`. */
struct cuda_ipc_job {
    uint64_t id; /* for cancel; the caller's, unique among jobs in flight */
    uint32_t count; /* chunks, at least 1 */
    uint32_t wait_count;
    const uint64_t *bytes; /* of each chunk */
    struct cuda_ipc_job_side src;
    struct cuda_ipc_job_side dst;
    cuda_stream stream; /* the engine's; NULL = the memory is at rest */
    const cuda_event *waits; /* recorded events to wait for; they must live until `done` */
    uint64_t deadline_ms; /* CLOCK_MONOTONIC; 0 or KVL_NEVER = none. Ends like cancel: -ETIMEDOUT */

    /**
     * The first `layers` layers of all chunks have arrived. Grows; only for PAGED targets, when the
     * job is large enough that it pays. Optional. From the thread of the device, no lock held.
     */
    void (*progress)(void *ctx, uint32_t layers);

    /**
     * The end, exactly once for each accepted job: after it no byte of either side is touched.
     * From a thread of the device, never from inside submit; no lock held; may submit.
     */
    void (*done)(void *ctx, const struct cuda_ipc_copy_end *end);
    void *ctx;
};

/**
 * Makes an engine; opens no device, starts no thread.
 * @param devices  borrowed until destroy
 * @return 0; -ENOMEM.
 */
int cuda_ipc_copy_create(const struct kvl_host *host, struct cuda_ipc_devices *devices,
                         const struct cuda_ipc_copy_options *options,
                         struct cuda_ipc_copy **copy_out);

/**
 * Makes a device ready for jobs: context, kernel, staging memory, calibration, thread. Blocks the
 * first time; later calls are cheap. Only between start and stop of the instance.
 * @return 0; -ENODEV, -ENOMEM, -EIO, -ECANCELED stopped; err->text on failure.
 */
int cuda_ipc_copy_open(struct cuda_ipc_copy *copy, int device, struct kvl_err *err);

/**
 * Pins host memory, so that it is copied from and to without a detour. For a few large ranges.
 * Needs a device that is open. Undone by stop. @return 0; -EEXIST pinned already by somebody, which
 * serves as well; -ENOMEM, -ENOTSUP, -EIO, -ENODEV no device is open. err->text on failure.
 */
int cuda_ipc_copy_pin(struct cuda_ipc_copy *copy, void *base, uint64_t bytes, struct kvl_err *err);

/**
 * Takes a job. Checks it whole, block ids too, before anything is queued. Never waits for a device.
 * At least one side is on a device; that of `dst`, else of `src`, does the work.
 * @return 0; -EAGAIN too many in flight; -EINVAL a bad description, nothing was touched; -ENOTSUP
 *         host to host; -ENODEV the device is not open; -EIO it is lost; -ECANCELED stopping;
 *         -ENOMEM.
 */
int cuda_ipc_copy_submit(struct cuda_ipc_copy *copy, const struct cuda_ipc_job *job);

/**
 * Has a job end early with -ECANCELED: parts not yet queued are dropped, `done` comes after those
 * that are. Returns at once. Unknown ids are ignored.
 */
void cuda_ipc_copy_cancel(struct cuda_ipc_copy *copy, uint64_t id);

/** Waits until no job is in flight. @return 0; -ETIMEDOUT. */
int cuda_ipc_copy_drain(struct cuda_ipc_copy *copy, uint64_t deadline_ms);

/**
 * Cancels what is left, waits for it, joins the threads and frees device memory. A device that does
 * not come to an end within 10 s counts as lost: its jobs end with -EIO and its buffers stay, since
 * it may still write there.
 */
void cuda_ipc_copy_stop(struct cuda_ipc_copy *copy);

/** After stop, or directly after create. Takes NULL. */
void cuda_ipc_copy_destroy(struct cuda_ipc_copy *copy);

/** One line for health: methods, crossover, rates; "" when no device is open. */
void cuda_ipc_copy_describe(struct cuda_ipc_copy *copy, char *text_out, size_t size);

/** Calls `fn` once per counter, with names that begin with "copy_". */
void cuda_ipc_copy_stats(struct cuda_ipc_copy *copy, kvl_stat_fn fn, void *ctx);

/** 1 when all devices that were opened work; 0 when one is lost. */
bool cuda_ipc_copy_is_well(struct cuda_ipc_copy *copy);

#endif /* KVL_CUDA_IPC_COPY_H */
