/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a frame. The first byte says of which kind and generation; what is taken comes back
 * when it is written.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"

/* What a caller may have room for. */
#define FUZZ_ROOM 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

struct arrays {
    int64_t ints[FUZZ_ROOM];
    uint8_t bools[FUZZ_ROOM];
    struct kvl_ipc_key keys[FUZZ_ROOM];
    struct kvl_ipc_wrapper wrappers[FUZZ_ROOM];
};

static struct kvl_ipc_value value_of(uint32_t kind, struct arrays *arrays)
{
    return (struct kvl_ipc_value){.size = sizeof(struct kvl_ipc_value),
                                  .kind = kind,
                                  .room = FUZZ_ROOM,
                                  .ints = arrays->ints,
                                  .bools = arrays->bools,
                                  .keys = arrays->keys,
                                  .wrappers = arrays->wrappers};
}

static void check_same(const struct kvl_ipc_value *a, const struct kvl_ipc_value *b)
{
    const int is_key = a->kind == KVL_IPC_KEY || a->kind == KVL_IPC_KEYS;
    const int is_wrapper = a->kind == KVL_IPC_WRAPPER || a->kind == KVL_IPC_KV_CACHE;
    const uint32_t count = a->kind == KVL_IPC_KEY || a->kind == KVL_IPC_WRAPPER ? 1 : a->count;

    check(a->count == b->count && a->truth == b->truth && a->number.bits == b->number.bits);
    check(a->bytes.length == b->bytes.length &&
          (a->bytes.length == 0 || memcmp(a->bytes.at, b->bytes.at, a->bytes.length) == 0));
    check(a->kind != KVL_IPC_INTS || memcmp(a->ints, b->ints, count * sizeof(a->ints[0])) == 0);
    for (uint32_t i = 0; is_key && i < count; i++) {
        check(kvl_ipc_table.key_equal(&a->keys[i], &b->keys[i]));
        check(kvl_ipc_table.key_hash(&a->keys[i], 1) == kvl_ipc_table.key_hash(&b->keys[i], 1));
    }
    for (uint32_t i = 0; is_wrapper && i < count; i++) {
        check(kvl_ipc_table.wrapper_equal(&a->wrappers[i], &b->wrappers[i]));
    }
}

static void check_written(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value)
{
    static struct arrays arrays;
    struct kvl_ipc_value again = value_of(value->kind, &arrays);
    size_t length = 0;
    uint8_t *bytes;
    int r = kvl_ipc_table.encode(options, value, NULL, 0, &length, NULL);

    if (r == -EBADMSG) { /* a wrapper smaller than its storage */
        return;
    }
    check(r == -ENOSPC);
    bytes = malloc(length);
    check(bytes != NULL);
    check(kvl_ipc_table.encode(options, value, bytes, length, &length, NULL) == 0);
    check(kvl_ipc_table.decode(options, bytes, length, &again, NULL) == 0);
    check_same(value, &again);
    free(bytes);
}

static void check_expanded(const struct kvl_ipc_value *value)
{
    struct kvl_ipc_storage_key keys[FUZZ_ROOM];
    struct kvl_ipc_object_key object;
    uint32_t count = 0;

    if (value->kind != KVL_IPC_KEYS ||
        kvl_ipc_table.key_expand(value->keys, value->count, keys, FUZZ_ROOM, &count, NULL) < 0) {
        return;
    }
    check(count >= value->count && count <= FUZZ_ROOM);
    for (uint32_t i = 0; i < count; i++) {
        check(kvl_ipc_table.object_key(&keys[i], &object, NULL) ==
              (keys[i].worker_id > 255 || keys[i].world_size > 255 ? -ERANGE : 0));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct arrays arrays;
    const struct kvl_ipc_options options = {
        .size = sizeof(options),
        .generation = size > 0 ? KVL_IPC_GENERATION_0 + data[0] / 64u : 0,
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_ipc_value value;
    uint32_t kind;
    int r;

    if (size == 0) {
        return 0;
    }
    kind = data[0] % 64u % KVL_IPC_KV_CACHE + 1;
    value = value_of(kind, &arrays);
    r = kvl_ipc_table.decode(&options, data + 1, size - 1, &value, &err);
    if (r < 0) {
        check(err.code == r && err.text[0] != '\0');
        check(r != -ENOSPC || value.count > FUZZ_ROOM);
        return 0;
    }
    check_expanded(&value);
    check_written(&options, &value);
    return 0;
}
