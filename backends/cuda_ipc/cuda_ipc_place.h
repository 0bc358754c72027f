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

/** Room for the text of a UUID, with its terminator. */
#define CUDA_IPC_UUID_TEXT 37u

/** What a thread had before cuda_ipc_place_enter(). */
struct cuda_ipc_stay {
    unsigned int capture_mode;
    int is_relaxed;
};

/**
 * Makes the place's context current on this thread, which may be an engine's: what was current
 * before comes back with leave, which is due after a 0 only. Inside, our calls neither disturb nor
 * fail because of a CUDA graph that another thread is capturing. Nests.
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

/** 32 lowercase hex digits as 8-4-4-4-12, as torch and LMCache write it: no "GPU-" before it. */
void cuda_ipc_place_uuid_text(const struct cuda_uuid *uuid, char *text_out);

#endif /* KVL_CUDA_IPC_PLACE_H */
