/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_ipc_place.h
 * A visible device as the calls of the driver need it: the table, and the context to make current.
 */
#ifndef KVL_CUDA_IPC_PLACE_H
#define KVL_CUDA_IPC_PLACE_H

#include "cuda_ipc_api.h"

/**
 * A copy may be passed around. The table and the context are borrowed: they outlive whatever was
 * given the place, unless that says otherwise.
 */
struct cuda_ipc_place {
    const struct cuda_ipc_api *api;
    cuda_context context; /* the device's primary context, retained by whoever made the place */
    cuda_device device; /* as the driver names it */
    int32_t ordinal; /* as kvl_sg.device */
    struct cuda_uuid uuid;
};

#endif /* KVL_CUDA_IPC_PLACE_H */
