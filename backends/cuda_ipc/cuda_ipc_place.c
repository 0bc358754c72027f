/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_place.h"

#include <errno.h>

#include "setting.h"

int cuda_ipc_place_enter(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay,
                         struct kvl_err *err)
{
    const cuda_result code = cuda_ipc_api_push(place->api, place->context, stay);

    return code == CUDA_OK
               ? 0
               : cuda_ipc_place_fail(place, err, "cannot use the device", "cuCtxPushCurrent", code);
}

void cuda_ipc_place_leave(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay)
{
    cuda_ipc_api_pop(place->api, stay);
}

int cuda_ipc_place_fail(const struct cuda_ipc_place *place, struct kvl_err *err, const char *what,
                        const char *call, cuda_result code)
{
    char text[CUDA_IPC_TEXT_MAX];
    int r = cuda_ipc_api_errno(code);

    cuda_ipc_api_explain(place->api, call, code, text, sizeof(text));
    r = kvl_fail(err, r == 0 ? -EIO : r, "cuda_ipc: %s: %s", what, text);
    if (err != NULL && err->size >= sizeof(*err)) {
        err->backend_code = (int32_t)code;
    }
    return r;
}
