/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as the pickle of a wrapper: what is taken stays in the input and comes back. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void check_inside(struct kvl_ipc_bytes view, const uint8_t *data, size_t size)
{
    const uint8_t *at = view.at;

    check(view.length == 0 ||
          (at >= data && view.length <= size && (size_t)(at - data) <= size - view.length));
}

static void check_written(const struct kvl_ipc_options *options,
                          const struct kvl_ipc_wrapper *wrapper)
{
    struct kvl_ipc_wrapper again;
    size_t length = 0;
    uint8_t *bytes;
    int r = kvl_ipc_table.wrapper_pickle(options, wrapper, NULL, 0, &length, NULL);

    if (r == -EBADMSG) { /* smaller than its storage: read, not written */
        check(wrapper->form != KVL_IPC_FORM_C);
        return;
    }
    check(r == -ENOSPC);
    bytes = malloc(length);
    check(bytes != NULL);
    check(kvl_ipc_table.wrapper_pickle(options, wrapper, bytes, length, &length, NULL) == 0);
    check(kvl_ipc_table.wrapper_unpickle(options, bytes, length, &again, NULL) == 0);
    check(kvl_ipc_table.wrapper_equal(wrapper, &again));
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct kvl_ipc_options options = {
        .size = sizeof(options),
        .forms = KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) |
                 KVL_IPC_FORM_BIT(KVL_IPC_FORM_C),
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_ipc_wrapper wrapper;
    struct kvl_ipc_handle handle;
    int r = kvl_ipc_table.wrapper_unpickle(&options, data, size, &wrapper, &err);

    if (r < 0) {
        check(err.code == r && strstr(err.text, " at byte ") != NULL);
        return 0;
    }
    check_inside(wrapper.handle, data, size);
    check_inside(wrapper.counter_name, data, size);
    check_inside(wrapper.event, data, size);
    check_inside(wrapper.device_uuid, data, size);
    check(wrapper.dims <= KVL_IPC_DIMS_MAX);
    check(kvl_ipc_table.wrapper_check(&options, &wrapper, NULL) == 0);
    r = kvl_ipc_table.handle_parse(&wrapper, &handle, NULL);
    check(r == ((wrapper.flags & KVL_IPC_NULL_STORAGE) != 0 ? -ENODATA : 0));
    check_written(&options, &wrapper);
    return 0;
}
