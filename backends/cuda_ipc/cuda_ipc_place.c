/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_place.h"

#include <errno.h>
#include <stdio.h>

#include "setting.h"

int cuda_ipc_place_enter(const struct cuda_ipc_place *place, struct kvl_err *err)
{
    cuda_result code = place->api->ctx_push_current(place->context);

    return code == CUDA_OK
               ? 0
               : cuda_ipc_place_fail(place, err, "cannot use the device", "cuCtxPushCurrent", code);
}

void cuda_ipc_place_leave(const struct cuda_ipc_place *place)
{
    cuda_context context;

    (void)place->api->ctx_pop_current(&context);
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

void cuda_ipc_place_uuid_text(const struct cuda_uuid *uuid, char *text_out)
{
    char *out = text_out;

    for (size_t i = 0; i < sizeof(uuid->bytes); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            *out++ = '-';
        }
        snprintf(out, 3, "%02x", (unsigned)(unsigned char)uuid->bytes[i]);
        out += 2;
    }
}
