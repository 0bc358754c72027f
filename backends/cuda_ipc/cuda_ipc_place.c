/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_place.h"

#include <errno.h>
#include <stdio.h>

#include "setting.h"

int cuda_ipc_place_enter(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay,
                         struct kvl_err *err)
{
    const struct cuda_ipc_api *api = place->api;
    cuda_result code = api->ctx_push_current(place->context);

    if (code != CUDA_OK) {
        return cuda_ipc_place_fail(place, err, "cannot use the device", "cuCtxPushCurrent", code);
    }
    stay->capture_mode = CUDA_CAPTURE_RELAXED;
    stay->is_relaxed = api->thread_exchange_stream_capture_mode != NULL &&
                       api->thread_exchange_stream_capture_mode(&stay->capture_mode) == CUDA_OK;
    return 0;
}

void cuda_ipc_place_leave(const struct cuda_ipc_place *place, struct cuda_ipc_stay *stay)
{
    cuda_context context;

    if (stay->is_relaxed) {
        (void)place->api->thread_exchange_stream_capture_mode(&stay->capture_mode);
    }
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
