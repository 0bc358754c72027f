/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_objects.h
 * Streams, events and memory of the fake driver, as its files use each other. With fake.lock held
 * unless said otherwise.
 */
#ifndef KVL_FAKE_CUDA_OBJECTS_H
#define KVL_FAKE_CUDA_OBJECTS_H

#include "fake_cuda_core.h"
#include "fake_cuda_driver.h"

/* ---- streams ---- */

/** Work in a stream; the first member of what it does. */
struct fake_op {
    struct fake_op *next;
    struct fake_stream *stream; /* set by fake_stream_push() */
    uint64_t not_before_ns;
    int always; /* also in a broken context */
    /** Does it, without the lock. Another code than CUDA_OK breaks the context. */
    cuda_result (*run)(struct fake_op *op);
    /** Frees it, with the lock. */
    void (*drop)(struct fake_op *op);
};

struct fake_stream {
    struct fake_stream *next;
    uint64_t id;
    cuda_context context;
    struct fake_op *head; /* stays here while it runs */
    struct fake_op *tail;
    uint64_t submitted;
    uint64_t done;
    int held;
    int destroyed; /* no handle any more: ends when it is empty */
    int killed; /* with its context: waits for nothing */
    int is_default;
};

/** The stream of a handle, the default ones of the current context among them. NULL: none. */
struct fake_stream *fake_stream_find(cuda_stream handle);
/** Adds work at the end. Takes it. */
void fake_stream_push(struct fake_stream *stream, struct fake_op *op);
/** Waits until everything submitted up to now is done. Drops the lock meanwhile. */
void fake_stream_finish(struct fake_stream *stream);
/** Ends all streams of a context. Drops the lock meanwhile. */
void fake_stream_end_all(cuda_context context);
uint32_t fake_stream_count(void);
void fake_stream_hold(cuda_stream handle, int held);
uint32_t fake_stream_pending(cuda_stream handle);

/* ---- events ---- */

void fake_event_end_all(cuda_context context);
void fake_event_count(uint32_t *own_out, uint32_t *imported_out);

/* ---- memory ---- */

/** Enters a range; fills in id and list. */
void fake_map_add(struct fake_map *map);
/** The range an address lies in, NULL for none. */
struct fake_map *fake_map_find(cuda_ptr ptr);
/** Waits until no copy uses it, and takes it out of the list. Drops the lock meanwhile. */
void fake_map_remove(struct fake_map *map);
/** Gives back what is behind a range that was taken out, and frees it. */
void fake_map_free(struct fake_map *map);
void fake_map_end_all(cuda_context context);

enum fake_place {
    FAKE_DEVICE,
    FAKE_PINNED,
    FAKE_PAGEABLE,
};

/**
 * Says what a range is, and whether a copy in `context` may use it.
 * @return CUDA_OK; CUDA_E_INVALID_VALUE
 */
cuda_result fake_range_check(cuda_context context, cuda_ptr ptr, size_t bytes, int write,
                             enum fake_place *place_out);
/** A range in use. */
struct fake_pin {
    cuda_ptr ptr;
    size_t bytes;
    enum fake_place place;
    uint8_t *host; /* where the CPU finds it */
};

/** As above, and keeps the range from being freed until fake_range_unpin(). */
cuda_result fake_range_pin(cuda_context context, cuda_ptr ptr, size_t bytes, int write,
                           struct fake_pin *pin_out);
void fake_range_unpin(const struct fake_pin *pin);

/** Where the CPU finds what is behind a device pointer. */
static inline void *fake_host(cuda_ptr ptr)
{
    return (void *)(uintptr_t)(ptr & ~FAKE_CUDA_DEVICE_BIT);
}

/* ---- virtual memory ---- */

struct fake_memory;
/** Ends a map of it. */
void fake_memory_release(struct fake_memory *memory);
/** References given out. */
uint32_t fake_memory_count(void);
uint32_t fake_reservation_count(void);
/** Handle types it can be exported as. */
uint32_t fake_memory_types(const struct fake_memory *memory);

/* ---- modules ---- */

void fake_module_end_all(cuda_context context);
uint32_t fake_module_count(void);

#endif /* KVL_FAKE_CUDA_OBJECTS_H */
