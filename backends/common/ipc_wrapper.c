/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_wrapper.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ipc_handle.h"
#include "ipc_names.h"
#include "pack.h"
#include "setting.h"

#define WRAPPER_COUNTER_SLOTS 10000u
#define WRAPPER_EVENT_BYTES 64u
#define WRAPPER_FORMS_ALL                                                                          \
    (KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) |                  \
     KVL_IPC_FORM_BIT(KVL_IPC_FORM_C))

struct judge {
    const struct kvl_ipc_wrapper *wrapper;
    const struct kvl_ipc_places *places;
    struct kvl_err *err;
};

KVL_PRINTF(3, 4)
static int judge_bad(const struct judge *j, enum kvl_ipc_place place, const char *fmt, ...)
{
    char text[256];
    char where[32] = "";
    va_list args;

    if (j->err == NULL) {
        return -EBADMSG;
    }
    va_start(args, fmt);
    if (vsnprintf(text, sizeof(text), fmt, args) < 0) {
        text[0] = '\0';
    }
    va_end(args);
    if (j->places != NULL) {
        (void)snprintf(where, sizeof(where), " at byte %zu", j->places->at[place]);
    }
    return kvl_fail(j->err, -EBADMSG, "wrapper: %s%s", text, where);
}

/* ---- the handle ---- */

/* "/torch_1_2_3", as shm_open() gets it: no second slash, no dots. */
static int judge_is_counter_name(struct kvl_ipc_bytes name)
{
    static const char prefix[] = "/torch";
    const char *at = name.at;
    uint32_t groups = 0;

    if (name.length < sizeof(prefix) || name.length > KVL_IPC_NAME_MAX ||
        memcmp(at, prefix, sizeof(prefix) - 1) != 0) {
        return 0;
    }
    for (size_t i = sizeof(prefix) - 1; i < name.length; i++) {
        const int is_digit = at[i] >= '0' && at[i] <= '9';

        if (!is_digit && (at[i] != '_' || at[i - 1] == '_')) {
            return 0;
        }
        if (is_digit && at[i - 1] == '_') {
            groups++;
        } else if (is_digit && groups == 0) {
            return 0;
        }
    }
    return groups == 3 && at[name.length - 1] != '_';
}

static int judge_null_storage(const struct judge *j)
{
    const struct kvl_ipc_wrapper *w = j->wrapper;

    if (w->handle.length != 0 || w->counter_name.length != 0 || w->event.length != 0 ||
        (w->flags & KVL_IPC_EVENT_SYNC) != 0 || w->storage_bytes != 0 || w->base_offset != 0 ||
        w->counter_slot != 0) {
        return judge_bad(j, KVL_IPC_AT_TUPLE, "a storage without memory that has sizes");
    }
    return 0;
}

static int judge_handle_bytes(const struct judge *j)
{
    const struct kvl_ipc_wrapper *w = j->wrapper;
    struct kvl_ipc_handle handle;
    const char *why;
    uint64_t end;

    if (__builtin_add_overflow(w->base_offset, w->storage_bytes, &end)) {
        return judge_bad(j, KVL_IPC_AT_BASE_OFFSET, "offset and storage size beyond 2^64");
    }
    if (kvl_ipc_handle_read(w->handle, &handle, &why) < 0) {
        return judge_bad(j, KVL_IPC_AT_HANDLE, "%s", why);
    }
    if (handle.segment_bytes != 0 && end > kvl_ipc_handle_mapped(&handle)) {
        return judge_bad(j, KVL_IPC_AT_HANDLE, "a storage beyond the segments of its handle");
    }
    return 0;
}

static int judge_handle(const struct judge *j)
{
    const struct kvl_ipc_wrapper *w = j->wrapper;

    if ((w->flags & KVL_IPC_NULL_STORAGE) != 0) {
        return judge_null_storage(j);
    }
    if (!judge_is_counter_name(w->counter_name)) {
        return judge_bad(j, KVL_IPC_AT_COUNTER_NAME,
                         "a counter name that is not /torch_<pid>_<random>_<number>");
    }
    if (w->counter_slot >= WRAPPER_COUNTER_SLOTS) {
        return judge_bad(j, KVL_IPC_AT_COUNTER_SLOT, "a counter slot above %u",
                         WRAPPER_COUNTER_SLOTS - 1);
    }
    if (w->event.length != WRAPPER_EVENT_BYTES) {
        return judge_bad(j, KVL_IPC_AT_EVENT, "an event handle that has not %u bytes",
                         WRAPPER_EVENT_BYTES);
    }
    return judge_handle_bytes(j);
}

/* ---- the tensor ---- */

/* Bytes of all elements. @return 0; -EOVERFLOW. */
static int judge_tensor_bytes(const struct kvl_ipc_wrapper *w, uint64_t *bytes_out)
{
    uint64_t bytes = kvl_ipc_dtype_bytes(w->dtype);

    for (uint32_t i = 0; i < w->dims; i++) {
        if (w->shape[i] == 0) { /* whatever the others are */
            *bytes_out = 0;
            return 0;
        }
    }
    for (uint32_t i = 0; i < w->dims; i++) {
        if (__builtin_mul_overflow(bytes, (uint64_t)w->shape[i], &bytes)) {
            return -EOVERFLOW;
        }
    }
    *bytes_out = bytes;
    return 0;
}

/* Bytes from the begin of the storage to the end of the highest element. @return 0; -EOVERFLOW. */
static int judge_strided_bytes(const struct kvl_ipc_wrapper *w, uint64_t *bytes_out)
{
    uint64_t last = (uint64_t)w->storage_offset;
    uint64_t bytes;
    uint64_t step;
    int is_empty = 0;

    for (uint32_t i = 0; i < w->dims; i++) {
        is_empty |= w->shape[i] == 0;
    }
    for (uint32_t i = 0; i < w->dims && !is_empty; i++) {
        if (__builtin_mul_overflow((uint64_t)w->shape[i] - 1, (uint64_t)w->stride[i], &step) ||
            __builtin_add_overflow(last, step, &last)) {
            return -EOVERFLOW;
        }
    }
    if (__builtin_mul_overflow(last + (is_empty ? 0 : 1), kvl_ipc_dtype_bytes(w->dtype), &bytes) ||
        last == UINT64_MAX) {
        return -EOVERFLOW;
    }
    *bytes_out = bytes;
    return 0;
}

static int judge_stride(const struct judge *j)
{
    const struct kvl_ipc_wrapper *w = j->wrapper;
    uint64_t bytes;

    if (w->storage_offset < 0) {
        return judge_bad(j, KVL_IPC_AT_STORAGE_OFFSET, "a negative storage offset");
    }
    for (uint32_t i = 0; i < w->dims; i++) {
        if (w->stride[i] < 0) {
            return judge_bad(j, KVL_IPC_AT_STRIDE, "a negative stride");
        }
    }
    if (judge_strided_bytes(w, &bytes) < 0 || bytes > w->storage_bytes) {
        return judge_bad(j, KVL_IPC_AT_STRIDE, "a highest element beyond the storage");
    }
    return 0;
}

static int judge_tensor(const struct judge *j)
{
    const struct kvl_ipc_wrapper *w = j->wrapper;
    uint64_t bytes;

    if (kvl_ipc_dtype_bytes(w->dtype) == 0) {
        return judge_bad(j, KVL_IPC_AT_DTYPE, "an unknown dtype");
    }
    if (w->dims > KVL_IPC_DIMS_MAX) {
        return judge_bad(j, KVL_IPC_AT_SHAPE, "more than %u dimensions", KVL_IPC_DIMS_MAX);
    }
    for (uint32_t i = 0; i < w->dims; i++) {
        if (w->shape[i] < 0) {
            return judge_bad(j, KVL_IPC_AT_SHAPE, "a negative dimension");
        }
    }
    if (judge_tensor_bytes(w, &bytes) < 0 ||
        (w->form != KVL_IPC_FORM_C && bytes > w->storage_bytes)) {
        return judge_bad(j, KVL_IPC_AT_SHAPE, "a tensor larger than its storage");
    }
    return w->form == KVL_IPC_FORM_C ? judge_stride(j) : 0;
}

int kvl_ipc_wrapper_judge(const struct kvl_ipc_wrapper *wrapper,
                          const struct kvl_ipc_places *places, struct kvl_err *err)
{
    const struct judge j = {wrapper, places, err};
    const struct kvl_ipc_bytes uuid = wrapper->device_uuid;
    int r;

    if (wrapper->form < KVL_IPC_FORM_PRE_UUID || wrapper->form > KVL_IPC_FORM_C) {
        return judge_bad(&j, KVL_IPC_AT_WRAPPER, "an unknown form");
    }
    r = judge_handle(&j);
    if (r == 0) {
        r = judge_tensor(&j);
    }
    if (r == 0 && uuid.length > KVL_IPC_UUID_MAX) {
        r = judge_bad(&j, KVL_IPC_AT_UUID, "a device_uuid of more than %u bytes", KVL_IPC_UUID_MAX);
    }
    if (r == 0 && !kvl_pack_is_utf8(uuid.at, (size_t)uuid.length)) {
        r = judge_bad(&j, KVL_IPC_AT_UUID, "a device_uuid that is not UTF-8");
    }
    return r;
}

/* ---- both ways ---- */

int kvl_ipc_options_read(const struct kvl_ipc_options *options, struct kvl_ipc_options *options_out,
                         struct kvl_err *err)
{
    struct kvl_ipc_options read = {.size = sizeof(read)};

    if (options != NULL) {
        memcpy(&read, options, options->size < sizeof(read) ? options->size : sizeof(read));
    }
    read.generation = read.generation == 0 ? KVL_IPC_GENERATION_A : read.generation;
    read.protocol = read.protocol == 0 ? 4 : read.protocol;
    if (read.forms == 0) {
        read.forms = KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_C);
    }
    if (read.input_max == 0 || read.input_max > KVL_IPC_INPUT_MAX) {
        read.input_max = KVL_IPC_INPUT_MAX;
    }
    if (read.generation > KVL_IPC_GENERATION_C || (read.protocol != 4 && read.protocol != 5) ||
        (read.forms & ~WRAPPER_FORMS_ALL) != 0) {
        return kvl_fail(err, -EINVAL, "ipc: options with an unknown generation, protocol or form");
    }
    *options_out = read;
    return 0;
}

int kvl_ipc_wrapper_unpickle(const struct kvl_ipc_options *options, const void *bytes,
                             size_t length, size_t base, struct kvl_ipc_wrapper *wrapper_out,
                             struct kvl_err *err)
{
    struct kvl_pickle_tree tree; /* of 30 KB; only what is counted is set */
    struct kvl_ipc_wrapper wrapper;
    struct kvl_ipc_places places = {{0}};
    int r = kvl_pickle_parse(bytes, length, base, &tree, err);

    if (r == 0) {
        r = kvl_ipc_wrapper_take(&tree, options->forms, base, &wrapper, &places, err);
    }
    if (r == 0) {
        r = kvl_ipc_wrapper_judge(&wrapper, &places, err);
    }
    if (r == 0) {
        *wrapper_out = wrapper;
    }
    return r;
}

int kvl_ipc_wrapper_ready(const struct kvl_ipc_options *options,
                          const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err)
{
    uint64_t bytes = 0;
    int r;

    if (wrapper->handle.length > options->input_max) {
        return kvl_fail(err, -EMSGSIZE, "wrapper: a handle of %llu bytes",
                        (unsigned long long)wrapper->handle.length);
    }
    r = kvl_ipc_wrapper_judge(wrapper, NULL, err);
    if (r < 0) {
        return r;
    }
    /* a Python consumer views the whole storage as the shape */
    (void)judge_tensor_bytes(wrapper, &bytes);
    if (wrapper->form != KVL_IPC_FORM_C && bytes != wrapper->storage_bytes) {
        return kvl_fail(err, -EBADMSG, "wrapper: a tensor of %llu bytes in a storage of %llu",
                        (unsigned long long)bytes, (unsigned long long)wrapper->storage_bytes);
    }
    return 0;
}

static int wrapper_dims_equal(uint32_t count, const int64_t *a, const int64_t *b)
{
    return memcmp(a, b, count * sizeof(*a)) == 0;
}

int kvl_ipc_wrapper_equal(const struct kvl_ipc_wrapper *a, const struct kvl_ipc_wrapper *b)
{
    const uint32_t compared = KVL_IPC_NULL_STORAGE | KVL_IPC_EVENT_SYNC;

    if (a->form != b->form || a->dtype != b->dtype || a->dims != b->dims ||
        a->dims > KVL_IPC_DIMS_MAX || ((a->flags ^ b->flags) & compared) != 0) {
        return 0;
    }
    if (a->device != b->device || a->storage_bytes != b->storage_bytes ||
        a->base_offset != b->base_offset || a->counter_slot != b->counter_slot) {
        return 0;
    }
    if (!kvl_ipc_bytes_equal(a->handle, b->handle) ||
        !kvl_ipc_bytes_equal(a->counter_name, b->counter_name) ||
        !kvl_ipc_bytes_equal(a->event, b->event)) {
        return 0;
    }
    if (a->form != KVL_IPC_FORM_PRE_UUID && !kvl_ipc_bytes_equal(a->device_uuid, b->device_uuid)) {
        return 0;
    }
    if (a->form == KVL_IPC_FORM_C && (a->storage_offset != b->storage_offset ||
                                      !wrapper_dims_equal(a->dims, a->stride, b->stride))) {
        return 0;
    }
    return wrapper_dims_equal(a->dims, a->shape, b->shape);
}
