/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_cuda_vmm.h
 * Physical memory of the VMM functions. With fake.lock held.
 */
#ifndef KVL_FAKE_CUDA_VMM_H
#define KVL_FAKE_CUDA_VMM_H

#include "fake_cuda_objects.h"

#define FAKE_GRANULARITY (2u << 20)

/** Stands behind the memory in its memfd. */
struct vmm_trailer {
    uint64_t magic;
    uint64_t bytes;
    int32_t physical;
    uint32_t types;
};

/** Lives as long as handles and maps of it. */
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

/** The memory of a handle, NULL for none. */
struct fake_memory *fake_memory_find(cuda_mem mem);

#endif /* KVL_FAKE_CUDA_VMM_H */
