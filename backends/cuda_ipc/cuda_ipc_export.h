/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_export.h
 * Memory allocated here that other processes can map.
 *
 * Exports are entered in one list of the process, by which an import from ourselves is known: see
 * cuda_ipc_map.h. All functions may be called from any thread and block while the driver works;
 * the thread's current context is afterwards as it was.
 */
#ifndef KVL_CUDA_IPC_EXPORT_H
#define KVL_CUDA_IPC_EXPORT_H

#include "cuda_ipc_place.h"
#include "cuda_ipc_share.h"

/* Ways to share, tried in this order. */
#define CUDA_IPC_EXPORT_LEGACY (1u << 0) /* cuMemAlloc and a handle of legacy IPC */
#define CUDA_IPC_EXPORT_FD (1u << 1) /* cuMemCreate and a descriptor */
#define CUDA_IPC_EXPORT_PRIVATE (1u << 2) /* cuMemAlloc, and nobody else can map it */
#define CUDA_IPC_EXPORT_ALL 7u

struct cuda_ipc_export;

/**
 * Allocates device memory by the first of `ways` that works. LEGACY counts as working only when a
 * handle could be made. Log cuda_ipc_export_cause() when another way than the first was taken.
 * @param ways  CUDA_IPC_EXPORT_ bits, at least one
 * @param err   may be NULL; one sentence with the cause of each way that failed
 * @return 0; -ENOMEM the device is full, no further way is tried then; -ENOTSUP none of the ways
 *         works here; -EINVAL no bytes or no way; -EIO, -ENODEV of the driver.
 */
int cuda_ipc_export_create(const struct cuda_ipc_place *place, uint64_t bytes, uint32_t ways,
                           struct cuda_ipc_export **export_out, struct kvl_err *err);

/**
 * Ends the export and frees the memory. Copies on it have ended. What other
 * processes have mapped must be given back before, else what they read is undefined: tell them.
 * A mapping by this same process keeps the memory until it is released. Takes NULL.
 */
void cuda_ipc_export_destroy(struct cuda_ipc_export *export);

/** What to tell others; type CUDA_IPC_SHARE_NONE for a private one. Lives as long as the export. */
const struct cuda_ipc_share *cuda_ipc_export_share(const struct cuda_ipc_export *export);

/** The memory in this process: start of the allocation, as share->base. */
cuda_ptr cuda_ipc_export_base(const struct cuda_ipc_export *export);
/** Usable bytes: at least what was asked for. */
uint64_t cuda_ipc_export_bytes(const struct cuda_ipc_export *export);

/** Descriptor to send along; borrowed, close-on-exec. -1 unless of type CUDA_IPC_SHARE_FD. */
int cuda_ipc_export_fd(const struct cuda_ipc_export *export);

/** Why the ways before the one that was taken did not work; "" when the first one did. Without the
 *  component before it. */
const char *cuda_ipc_export_cause(const struct cuda_ipc_export *export);

/**
 * For cuda_ipc_map: finds an export of this process by what it told others, and keeps its memory.
 * Compares the whole record, so a stale or invented one is not found. @return 0; -ENOENT.
 */
int cuda_ipc_export_borrow(const struct cuda_ipc_share *share, struct cuda_ipc_export **export_out);
/** Gives back what borrow gave. */
void cuda_ipc_export_return(struct cuda_ipc_export *export);

#endif /* KVL_CUDA_IPC_EXPORT_H */
