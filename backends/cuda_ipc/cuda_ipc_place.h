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

/** Room for kvl_ipc_ops.uuid_text, with its terminator. */
#define CUDA_IPC_UUID_TEXT 37u

/**
 * Makes the place's context current on this thread: see cuda_ipc_api_push(). Leave is due after a 0
 * only.
 * @return 0; codes of the driver, err filled.
 */
int cuda_ipc_place_enter(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay,
                         struct kvl_err *err);
void cuda_ipc_place_leave(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay);

/**
 * Says in `err` (may be NULL) which call of the driver failed while doing what, and why.
 * @param what  begins the sentence: "cannot map memory of process 12"
 * @param call  the driver's function
 * @return the errno that goes with the code, never 0.
 */
int cuda_ipc_place_fail(const struct cuda_ipc_place *place, struct kvl_err *err, const char *what,
                        const char *call, cuda_result code);

#endif /* KVL_CUDA_IPC_PLACE_H */
