/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc.h"

#include <errno.h>
#include <stdio.h>

#include "ipc_handle.h"
#include "ipc_key.h"
#include "ipc_names.h"
#include "ipc_pack.h"
#include "ipc_wrapper.h"
#include "setting.h"

static int ipc_decode(const struct kvl_ipc_options *options, const void *bytes, size_t length,
                      struct kvl_ipc_value *value, struct kvl_err *err)
{
    struct kvl_ipc_options read;
    int r = kvl_ipc_options_read(options, &read, err);

    if (r == 0 && value->size < sizeof(*value)) {
        r = kvl_fail(err, -EINVAL, "ipc: a value of %u bytes", value->size);
    }
    return r < 0 ? r : kvl_ipc_decode(&read, bytes, length, value, err);
}

static int ipc_encode(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                      void *bytes_out, size_t room, size_t *length_out, struct kvl_err *err)
{
    struct kvl_ipc_options read;
    int r = kvl_ipc_options_read(options, &read, err);

    if (r == 0 && value->size < sizeof(*value)) {
        r = kvl_fail(err, -EINVAL, "ipc: a value of %u bytes", value->size);
    }
    return r < 0 ? r : kvl_ipc_encode(&read, value, bytes_out, room, length_out, err);
}

static int ipc_wrapper_unpickle(const struct kvl_ipc_options *options, const void *bytes,
                                size_t length, struct kvl_ipc_wrapper *wrapper_out,
                                struct kvl_err *err)
{
    struct kvl_ipc_options read;
    int r = kvl_ipc_options_read(options, &read, err);

    if (r == 0 && length > read.input_max) {
        r = kvl_fail(err, -EMSGSIZE, "pickle: %zu bytes, the limit is %llu", length,
                     (unsigned long long)read.input_max);
    }
    return r < 0 ? r : kvl_ipc_wrapper_unpickle(&read, bytes, length, 0, wrapper_out, err);
}

static int ipc_wrapper_pickle(const struct kvl_ipc_options *options,
                              const struct kvl_ipc_wrapper *wrapper, void *bytes_out, size_t room,
                              size_t *length_out, struct kvl_err *err)
{
    struct kvl_ipc_options read;
    int r = kvl_ipc_options_read(options, &read, err);

    if (r == 0) {
        r = kvl_ipc_wrapper_ready(&read, wrapper, err);
    }
    if (r < 0) {
        return r;
    }
    r = kvl_ipc_wrapper_put(wrapper, read.protocol, bytes_out, room, length_out);
    return r < 0 ? kvl_fail(err, r, "pickle: %zu bytes do not fit in %zu", *length_out, room) : 0;
}

static int ipc_wrapper_check(const struct kvl_ipc_options *options,
                             const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err)
{
    struct kvl_ipc_options read;
    int r = kvl_ipc_options_read(options, &read, err);

    if (r == 0 && wrapper->form <= KVL_IPC_FORM_C &&
        (read.forms & KVL_IPC_FORM_BIT(wrapper->form)) == 0) {
        r = kvl_fail(err, -EBADMSG, "wrapper: a form that is not taken");
    }
    return r < 0 ? r : kvl_ipc_wrapper_judge(wrapper, NULL, err);
}

static int ipc_handle_parse(const struct kvl_ipc_wrapper *wrapper,
                            struct kvl_ipc_handle *handle_out, struct kvl_err *err)
{
    const char *why;

    if ((wrapper->flags & KVL_IPC_NULL_STORAGE) != 0) {
        return kvl_fail(err, -ENODATA, "wrapper: a storage without memory, nothing to open");
    }
    if (kvl_ipc_handle_read(wrapper->handle, handle_out, &why) < 0) {
        return kvl_fail(err, -EBADMSG, "wrapper: %s", why);
    }
    return 0;
}

static void ipc_uuid_text(const uint8_t *uuid, char *text_out)
{
    static const uint8_t groups[] = {4, 2, 2, 2, 6};
    const uint8_t *at = uuid;
    char *to = text_out;

    for (size_t i = 0; i < sizeof(groups); i++) {
        for (uint8_t j = 0; j < groups[i]; j++) {
            (void)snprintf(to, 3, "%02x", *at++);
            to += 2;
        }
        *to++ = '-';
    }
    to[-1] = '\0';
}

const struct kvl_ipc_ops kvl_ipc_table = {
    .size = sizeof(struct kvl_ipc_ops),
    .decode = ipc_decode,
    .encode = ipc_encode,
    .wrapper_unpickle = ipc_wrapper_unpickle,
    .wrapper_pickle = ipc_wrapper_pickle,
    .wrapper_check = ipc_wrapper_check,
    .wrapper_equal = kvl_ipc_wrapper_equal,
    .handle_parse = ipc_handle_parse,
    .handle_fd = kvl_ipc_handle_fd,
    .dtype_name = kvl_ipc_dtype_name,
    .dtype_bytes = kvl_ipc_dtype_bytes,
    .uuid_text = ipc_uuid_text,
    .key_equal = kvl_ipc_key_equal,
    .key_hash = kvl_ipc_key_hash,
    .key_compare = kvl_ipc_key_compare,
    .key_without_worker = kvl_ipc_key_without_worker,
    .key_hash_of_int = kvl_ipc_key_hash_of_int,
    .key_hash_to_int = kvl_ipc_key_hash_to_int,
    .key_expand = kvl_ipc_key_expand,
    .object_key = kvl_ipc_object_key,
};
