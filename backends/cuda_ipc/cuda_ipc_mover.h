/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_mover.h
 * The inside of the copy engine: what it keeps per device.
 *
 * A task is a job that was taken. It waits until the engine's stream has come to it, then it is
 * queued on the device part by part; a part is what ends with one event. Parts that end on the same
 * stream end in the order they were queued.
 *
 * Two locks. `lock` guards which tasks there are, and is held for moments. `pump` is held while
 * parts are queued and taken back, and guards all that is queued; a thread that submits only tries
 * it. Callbacks run with neither held, on the thread of the device. Order: pump, lock.
 */
#ifndef KVL_CUDA_IPC_MOVER_H
#define KVL_CUDA_IPC_MOVER_H

#include <time.h>

#include "cuda_ipc_args.h"
#include "cuda_ipc_copy.h"
#include "cuda_ipc_image.h"

#define CUDA_IPC_PARTS 64u /* of all tasks, queued at a time */
#define CUDA_IPC_TASK_PARTS 6u /* of one task */
#define CUDA_IPC_SLOT_SPANS 64u
#define CUDA_IPC_SLOTS_MAX 8u /* staging buffers per direction */
#define CUDA_IPC_TABLES 8u
#define CUDA_IPC_TABLE_BYTES (256ull << 10)
#define CUDA_IPC_BATCH_MAX 512u /* copies in one call of the driver */
#define CUDA_IPC_JOBS_MAX 1024u /* per device */

/** How a task moves. */
struct cuda_ipc_route {
    enum cuda_ipc_method method; /* of fragments: KERNEL, BATCH or LOOP */
    enum cuda_ipc_lane lane; /* on which fragments move */
    bool is_runs; /* KERNEL: from a table of runs, not from block tables */
    bool is_scatter; /* KERNEL with block tables: the paged side is the target */
    bool has_stage; /* between device and host by way of staging memory */
    bool has_mirror; /* host memory is not pinned: by way of pinned memory */
    bool is_up; /* staged: from host to device */
    uint32_t width; /* KERNEL with block tables: of a vector */
    uint32_t group; /* layers that are told together; 0 = order by chunks */
    uint64_t part_bytes; /* of a part, at most */
};

/** A buffer for what passes between host and device. */
struct cuda_ipc_slot {
    cuda_ptr device;
    uint8_t *mirror; /* pinned host memory of the same size; made at the first need */
    bool is_used;
    uint32_t span_count;
    struct cuda_ipc_span spans[CUDA_IPC_SLOT_SPANS];
    uint64_t at[CUDA_IPC_SLOT_SPANS]; /* where each begins */
    struct cuda_ipc_walk walks[CUDA_IPC_SLOT_SPANS]; /* how far the task was after each */
};

/** Arguments of kernels: pinned host memory, and where it is sent to. */
struct cuda_ipc_table {
    uint8_t *host;
    cuda_ptr device;
    bool is_used;
};

struct cuda_ipc_task;

struct cuda_ipc_part {
    struct cuda_ipc_part *next; /* on the lane it ends on, or free */
    struct cuda_ipc_task *task;
    cuda_event end; /* after it nothing of the part touches memory */
    cuda_event middle; /* staged: between the two ways */
    struct cuda_ipc_slot *slot;
    uint32_t layers_done; /* of the task, once it has ended */
    uint32_t chunks_done;
    uint32_t half; /* of the table that holds its runs: 1, 2; 0 = none */
};

struct cuda_ipc_task {
    struct cuda_ipc_task *all_next; /* under `lock` */
    struct cuda_ipc_task *all_prev;
    struct cuda_ipc_task *next; /* under `pump` once it was taken in, before that under `lock` */
    uint64_t id;
    atomic_int ending; /* 0, or the code with which somebody wants it to end */

    /* what was asked for; constant */
    uint32_t count;
    uint32_t wait_count;
    uint64_t *bytes;
    struct cuda_ipc_side src;
    struct cuda_ipc_side dst;
    const struct cuda_ipc_kv *kv; /* of the paged side, else NULL */
    cuda_event *waits;
    uint64_t deadline_ms;
    void (*progress)(void *ctx, uint32_t layers);
    void (*done)(void *ctx, const struct cuda_ipc_copy_end *end);
    void *ctx;
    uint64_t total; /* bytes */
    uint32_t block_total; /* entries in the block tables of the paged side */
    struct cuda_ipc_route route;

    /* how far it is; under `pump` */
    cuda_event begin; /* recorded on the engine's stream; NULL = none, or passed */
    uint32_t waited; /* of `waits` */
    bool is_issued; /* no part is to come */
    int status;
    int driver_code;
    uint32_t parts; /* queued */
    uint32_t layers_done;
    uint32_t layers_told;
    uint32_t chunks_done;
    struct cuda_ipc_table *table;
    bool is_uploaded; /* its block tables are in `table` */
    uint32_t halves; /* bits of the halves of `table` in use */
    struct cuda_ipc_walk walk;
    struct cuda_ipc_span rest; /* of the span that is current */
    int *item_status; /* scratch for the end */
};

/** What is being put together for the driver; under `pump`. */
struct cuda_ipc_basket {
    struct cuda_ipc_paged_args paged;
    uint32_t used; /* copies or runs in it */
    uint32_t half; /* of the table, for runs: 0, 1 */
    uint32_t vecs_max; /* of the runs */
    enum cuda_ipc_side_kind dst; /* of the copies: HOST, or else on a device */
    enum cuda_ipc_side_kind src;
    cuda_ptr dsts[CUDA_IPC_BATCH_MAX];
    cuda_ptr srcs[CUDA_IPC_BATCH_MAX];
    size_t sizes[CUDA_IPC_BATCH_MAX];
};

/** What the calibration says. */
struct cuda_ipc_figures {
    uint64_t crossover; /* fragments below it go by kernel, others by batch */
    uint64_t stage_below; /* between host and device: fragments below it go by way of staging */
    uint64_t device_rate; /* bytes per second that a copy on the device moves */
    uint64_t host_rate; /* bytes per second to the host */
};

struct cuda_ipc_mover {
    struct cuda_ipc_device *device;
    const struct kvl_host *host;
    struct cuda_ipc_copy_options options; /* with defaults put in */
    struct cuda_ipc_image image;
    struct cuda_ipc_figures figures;
    uint64_t thread;

    pthread_mutex_t lock;
    pthread_cond_t more; /* for the thread */
    pthread_cond_t idle; /* `count` fell to 0 */
    struct cuda_ipc_task *all;
    struct cuda_ipc_task *incoming_head;
    struct cuda_ipc_task *incoming_tail;
    uint32_t count; /* tasks, until their `done` has returned */
    uint32_t woken; /* rises when the thread has something new to look at */
    bool is_closed; /* takes nothing */
    bool is_stopping;
    cuda_event events[CUDA_IPC_JOBS_MAX]; /* free ones, for streams of engines */
    uint32_t event_count;

    pthread_mutex_t pump;
    struct cuda_ipc_task *tasks;
    struct cuda_ipc_part *lanes_head[CUDA_IPC_LANES];
    struct cuda_ipc_part *lanes_tail[CUDA_IPC_LANES];
    struct cuda_ipc_part parts[CUDA_IPC_PARTS];
    struct cuda_ipc_part *parts_free;
    struct cuda_ipc_slot slots[2][CUDA_IPC_SLOTS_MAX]; /* down, up */
    cuda_ptr slot_memory;
    struct cuda_ipc_table tables[CUDA_IPC_TABLES];
    void *table_host;
    cuda_ptr table_device;
    struct cuda_ipc_basket basket;

    /* counters */
    atomic_ullong jobs;
    atomic_ullong jobs_failed;
    atomic_ullong chunks;
    atomic_ullong bytes_device; /* device to device */
    atomic_ullong bytes_up;
    atomic_ullong bytes_down;
    atomic_ullong bytes_mirrored; /* of these, by way of pinned memory of ours */
    atomic_ullong parts_issued;
    atomic_ullong calls; /* of the driver, to queue work */
    atomic_ullong launches; /* of them, kernels */
    atomic_ullong batches; /* of them, batched copies */
};

static inline uint64_t cuda_ipc_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- cuda_ipc_mover.c ---- */

/** The thread of a device. */
void *cuda_ipc_mover_main(void *mover);
/** Puts a task, and those linked behind it, where the thread finds it. With `pump` held. */
void cuda_ipc_mover_link(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task);
/** Queues a part of the task if it can have one now. With `pump` held. @return whether it did. */
bool cuda_ipc_mover_issue(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task);

/* ---- cuda_ipc_setup.c ---- */

/**
 * Prepares a device and starts its thread.
 * @return 0; -ENOMEM, -EIO and so on, with err->text.
 */
int cuda_ipc_mover_create(const struct kvl_host *host, struct cuda_ipc_device *device,
                          const struct cuda_ipc_copy_options *options,
                          struct cuda_ipc_mover **mover_out, struct kvl_err *err);
/** After stop. */
void cuda_ipc_mover_destroy(struct cuda_ipc_mover *mover);

/* ---- cuda_ipc_submit.c ---- */

/**
 * Takes a task over when it returns 0; the context is current.
 * @return -EAGAIN, -ECANCELED, -EIO, what recording on the engine's stream gave.
 */
int cuda_ipc_mover_submit(struct cuda_ipc_mover *mover, struct cuda_ipc_task *take_task,
                          cuda_stream stream);
void cuda_ipc_mover_cancel(struct cuda_ipc_mover *mover, uint64_t id);
int cuda_ipc_mover_drain(struct cuda_ipc_mover *mover, uint64_t deadline_ms);
/** See cuda_ipc_copy_stop(). */
void cuda_ipc_mover_stop(struct cuda_ipc_mover *mover);

/* ---- cuda_ipc_task.c ---- */

/**
 * Checks a job and makes a task of it, with copies of all it refers to.
 * @param is_pinned  all host memory of the job is pinned
 * @return 0; -EINVAL, -ENOTSUP, -ENOMEM.
 */
int cuda_ipc_task_create(const struct cuda_ipc_mover *mover, const struct cuda_ipc_job *job,
                         bool is_pinned, struct cuda_ipc_task **task_out);
void cuda_ipc_task_destroy(struct cuda_ipc_task *task);

/** The next span, of at most `limit` bytes. @return false: there is none. */
bool cuda_ipc_task_span(struct cuda_ipc_task *task, uint64_t limit, struct cuda_ipc_span *span_out);
/** Gives back what could not be queued of the last span: the first one of the next part. */
void cuda_ipc_task_return(struct cuda_ipc_task *task, const struct cuda_ipc_span *span);
/** Whether all spans were given out, and how many chunks have none left. */
bool cuda_ipc_task_is_over(const struct cuda_ipc_task *task);
uint32_t cuda_ipc_task_chunks(const struct cuda_ipc_task *task);

/* ---- cuda_ipc_route.c ---- */

/** Decides how a task moves. */
void cuda_ipc_route_find(const struct cuda_ipc_mover *mover, const struct cuda_ipc_job *job,
                         bool is_pinned, struct cuda_ipc_task *task);

/* ---- cuda_ipc_issue.c: with `pump` held and the context current ---- */

/** Begins to queue fragments of a task, on the lane of its route. @return 0; -EAGAIN no table. */
int cuda_ipc_issue_begin(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task);
/**
 * Queues the fragments of a span, some of them perhaps not before the flush.
 * @param dst, src  the task's, or a DEVICE side in place of the one in host memory
 * @param span      shortened by what was taken
 * @return 0; -ENOBUFS the table is full, queue the rest in another part; a failure of the driver.
 */
int cuda_ipc_issue_span(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task,
                        const struct cuda_ipc_side *dst, const struct cuda_ipc_side *src,
                        struct cuda_ipc_span *span);
int cuda_ipc_issue_flush(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task);
/** Counts a call and takes note of its failure, in the task too. @return 0; errno. */
int cuda_ipc_issue_check(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task, const char *call,
                         cuda_result code);

/* ---- cuda_ipc_part.c: with `pump` held and the context current ---- */

/**
 * Queues the next part of a task.
 * @return 0, also when there was nothing left; -EAGAIN what it needs is in use; a failure, which is
 *         noted in the task.
 */
int cuda_ipc_part_issue(struct cuda_ipc_mover *mover, struct cuda_ipc_task *task);
/** Takes back the parts that have ended. @return how many. */
uint32_t cuda_ipc_part_retire(struct cuda_ipc_mover *mover);
/** Gives up all parts, of a device that is lost. */
void cuda_ipc_part_drop(struct cuda_ipc_mover *mover);

/* ---- cuda_ipc_watch.c ---- */

/** Sums over devices, but for the last two. */
struct cuda_ipc_counts {
    uint64_t jobs;
    uint64_t jobs_failed;
    uint64_t in_flight;
    uint64_t chunks;
    uint64_t bytes_device;
    uint64_t bytes_up;
    uint64_t bytes_down;
    uint64_t bytes_mirrored;
    uint64_t parts;
    uint64_t calls;
    uint64_t launches;
    uint64_t batches;
    uint64_t crossover; /* the smallest of all devices; 0 = no device */
    uint64_t stage_below; /* of that device */
};

/** One line. */
void cuda_ipc_mover_describe(const struct cuda_ipc_mover *mover, char *text_out, size_t size);
/** Adds what the device has counted. */
void cuda_ipc_mover_stats(struct cuda_ipc_mover *mover, struct cuda_ipc_counts *counts);

/* ---- cuda_ipc_measure.c ---- */

/** Fills mover->figures, by measuring when the options say so. Before the thread starts. */
void cuda_ipc_measure(struct cuda_ipc_mover *mover);

#endif /* KVL_CUDA_IPC_MOVER_H */
