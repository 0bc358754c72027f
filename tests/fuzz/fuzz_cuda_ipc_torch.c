/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a KV cache of torch: whatever the codec lets through, the layout that is read from
 * it lies inside its storage, and a counter's name is no path.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_counter.h"
#include "cuda_ipc_tensor.h"
#include "ipc.h"

#define LAYERS 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static uint64_t last_byte(const struct cuda_ipc_tensor *tensor)
{
    return tensor->offset + (tensor->planes - 1) * tensor->plane_stride +
           (tensor->block_count - 1) * tensor->block_stride +
           (tensor->block_tokens - 1) * tensor->token_stride + tensor->token_bytes;
}

static void check_tensor(const struct kvl_ipc_wrapper *wrapper)
{
    struct cuda_ipc_tensor tensor;
    int r = cuda_ipc_tensor_read(&kvl_ipc_table, wrapper, &tensor, NULL);

    check(r == 0 || r == -ENOTSUP || r == -EBADMSG || r == -EMSGSIZE);
    if (r == 0) {
        check(tensor.planes >= 1 && tensor.block_count >= 1 && tensor.block_tokens >= 1);
        check(tensor.token_bytes > 0 && tensor.token_bytes % 8 == 0);
        check(last_byte(&tensor) == tensor.offset + tensor.extent);
        check(last_byte(&tensor) <= wrapper->storage_bytes);
        check(cuda_ipc_tensor_alike(&tensor, &tensor));
    }
}

static void check_name(const void *name, size_t length)
{
    uint64_t pid;
    int r = cuda_ipc_counter_check(name, length, &pid);

    check(r == 0 || r == -EBADMSG);
    if (r == 0) {
        check(length > 1 && length <= CUDA_IPC_COUNTER_NAME_MAX);
        check(memchr((const char *)name + 1, '/', length - 1) == NULL);
        check(memchr(name, '.', length) == NULL && memchr(name, '\0', length) == NULL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct kvl_ipc_wrapper wrappers[LAYERS];
    struct kvl_ipc_value value = {
        .size = sizeof(value), .kind = KVL_IPC_KV_CACHE, .room = LAYERS, .wrappers = wrappers};

    check_name(data, size);
    if (kvl_ipc_table.decode(NULL, data, size, &value, NULL) < 0) {
        return 0;
    }
    for (uint32_t i = 0; i < value.count; i++) {
        check_name(wrappers[i].counter_name.at, (size_t)wrappers[i].counter_name.length);
        check_tensor(&wrappers[i]);
    }
    return 0;
}
