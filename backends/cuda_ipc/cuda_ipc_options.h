/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_options.h
 * The keys of the INI section `cuda_ipc`, and their values as one record.
 */
#ifndef KVL_CUDA_IPC_OPTIONS_H
#define KVL_CUDA_IPC_OPTIONS_H

#include <kvlane/backend.h>

#include "cuda_ipc_copy.h"
#include "cuda_ipc_self.h"

/** Most addresses in `peers`. */
#define CUDA_IPC_STATIC_PEERS_MAX 32u

enum cuda_ipc_listen { CUDA_IPC_LISTEN_NO, CUDA_IPC_LISTEN_AUTO, CUDA_IPC_LISTEN_ADDRESS };

struct cuda_ipc_options {
    const char *driver; /* borrowed from the host; "" = the system's */
    const char *devices; /* likewise; "auto" or a list, see cuda_ipc_options_devices() */
    uint64_t pool; /* bytes per device; a multiple of CUDA_IPC_POOL_ALIGN */
    uint64_t segment; /* bytes of one allocation of the pool; likewise */
    uint32_t ways; /* CUDA_IPC_EXPORT_ bits */
    struct cuda_ipc_copy_options copy;
    int pin_store;
    enum cuda_ipc_listen listen;
    struct cuda_ipc_address address; /* of LISTEN_ADDRESS */
    struct cuda_ipc_address peers[CUDA_IPC_STATIC_PEERS_MAX];
    uint32_t peer_count;
    uint32_t max_peers;
    uint32_t max_mappings;
    uint64_t max_mapped;
    uint64_t timeout_ms;
    uint32_t max_in_flight;
};

#define CUDA_IPC_OPTION_COUNT 16u
extern const struct kvl_option cuda_ipc_option_table[CUDA_IPC_OPTION_COUNT];

/** Reads and checks the settings, but for which devices there are. @return 0; -EINVAL and err. */
int cuda_ipc_options_read(const struct kvl_host *host, struct cuda_ipc_options *options_out,
                          struct kvl_err *err);

/**
 * Which of the visible devices the instance may use: bit per ordinal.
 * @return 0; -ENODEV one that is named is not there. err->text on failure.
 */
int cuda_ipc_options_devices(const struct cuda_ipc_options *options,
                             const struct cuda_ipc_devices *devices, uint64_t *mask_out,
                             struct kvl_err *err);

#endif /* KVL_CUDA_IPC_OPTIONS_H */
