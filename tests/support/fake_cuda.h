/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda.h
 * How tests steer the fake CUDA driver, a libcuda.so.1 of ours that needs no GPU. Several processes
 * can use it at once; they find each other through a state file. It is stricter than a driver where
 * that shows mistakes:
 *
 *  - Device pointers have a bit that no address of the CPU has: touching one faults at once.
 *  - Streams run their work later, on threads of their own, and only after the events waited for.
 *    Copies of a batch run in an order of chance. Freeing memory waits for
 *    the copy that uses it at that moment, not for those behind it, be they of the same batch: a
 *    copy that finds its memory gone breaks the context (700), as does an access beyond it.
 *  - Copies from unpinned memory take its bytes at once; copies into it return when they are done,
 *    so never while their stream is held.
 *  - Memory starts with a pattern, not with zeros.
 *  - The legacy stream does not wait for others, nor they for it.
 *
 * What a driver leaves undefined and this one decides: use of memory or events after their exporter
 * gave them up is CUDA_E_INVALID_VALUE; when the exporter died, mappings stay good and its events
 * count as done; opening in the exporting process is CUDA_E_INVALID_CONTEXT, as from another PID
 * namespace; copies of a batch that touch each other's bytes are CUDA_E_INVALID_VALUE.
 *
 * Environment, read by cuInit unless said otherwise (numbers are decimal):
 *
 *   KVLANE_FAKE_CUDA_STATE     state file; made when absent. Default: one per user, gone with its
 *                              last process
 *   KVLANE_FAKE_CUDA_DEVICES   how many, or their UUIDs separated by commas; default 1
 *   CUDA_VISIBLE_DEVICES       as for the driver: ordinals or "GPU-..." up to the first bad one
 *   KVLANE_FAKE_CUDA_VERSION   13000 by default. 12080 has only the batched copies of 12.8; 12040
 *                              has none. Read at any time
 *   KVLANE_FAKE_CUDA_STUB      1: every call is CUDA_E_STUB_LIBRARY. Read at any time
 *   KVLANE_FAKE_CUDA_HIDE      names, separated by commas, that cuGetProcAddress does not find.
 *                              Read at any time
 *   KVLANE_FAKE_CUDA_FAIL      as fail_calls() below
 *   KVLANE_FAKE_CUDA_MEMORY    bytes of each device, all processes together; default 4 GiB
 *   KVLANE_FAKE_CUDA_DELAY_US  least time from submission to execution; default 300
 *   KVLANE_FAKE_CUDA_PEERS     0: no device can reach another one's memory
 *   KVLANE_FAKE_CUDA_PID_SPACE a number; processes with another one are in another PID namespace
 *   KVLANE_FAKE_CUDA_SEED      of the order within batches
 */
#ifndef KVL_FAKE_CUDA_H
#define KVL_FAKE_CUDA_H

#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

#include "cuda_ipc_abi.h"

/** Set in every device pointer. */
#define FAKE_CUDA_DEVICE_BIT (1ull << 55)

/** What is alive in this process. All 0: nothing was leaked. */
struct fake_cuda_live {
    uint32_t contexts; /* retained, each counted as often */
    uint32_t allocations; /* of cuMemAlloc */
    uint32_t imports; /* opened memory handles, each counted as often */
    uint32_t events; /* own ones */
    uint32_t imported_events;
    uint32_t streams;
    uint32_t host_allocations;
    uint32_t host_registrations;
    uint32_t modules;
    uint32_t vmm_handles; /* references given out by create, import and retain */
    uint32_t vmm_maps;
    uint32_t vmm_reservations;
};

/** Thread-safe, and needs no context. */
struct fake_cuda_control {
    /** Calls of a function, named without suffix, refused ones included. 0 for unknown names. */
    uint64_t (*calls)(const char *name);

    void (*live)(struct fake_cuda_live *live_out);

    /**
     * Makes calls fail before they do anything: "cuMemAlloc=2" each one, "cuMemAlloc=2:3" only the
     * third from now; several separated by commas. Replaces what was set; NULL or "" ends it.
     * @return 0; -EINVAL
     */
    int (*fail_calls)(const char *rules);

    /** A stream starts nothing more until release(); what runs ends. NULL: all streams. */
    void (*hold)(cuda_stream stream);
    void (*release)(cuda_stream stream);

    /** Operations submitted to a stream and not done; NULL: to all streams. */
    uint32_t (*pending)(cuda_stream stream);

    /**
     * Reads and writes device memory at once, past all streams, for checks and set-up.
     * @return 0; -EFAULT when the range is not memory of this process
     */
    int (*peek)(void *dst, cuda_ptr src, size_t bytes);
    int (*poke)(cuda_ptr dst, const void *src, size_t bytes);

    /**
     * As if some thread of the engine captured a CUDA graph, in the mode that most programs use:
     * other threads must not allocate, map, query or wait meanwhile, unless they have called
     * cuThreadExchangeStreamCaptureMode. Such a call fails with 900 and breaks the capture.
     */
    void (*capture_begin)(void);
    /** @return calls that broke it */
    uint32_t (*capture_end)(void);
};

/** The control of a fake that was opened by dlopen; NULL when the library is not the fake. */
static inline const struct fake_cuda_control *fake_cuda_of(void *library)
{
    const struct fake_cuda_control *(*get)(void);
    void *symbol = dlsym(library, "fake_cuda_control");

    if (symbol == NULL) {
        return NULL;
    }
    memcpy(&get, &symbol, sizeof(get));
    return get();
}

#endif /* KVL_FAKE_CUDA_H */
