/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages between instances of cuda_ipc and their offers: what decodes is within the limits and
 * encodes to the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static size_t encode_keys(const struct cuda_ipc_wire_message *message, uint8_t *bytes)
{
    struct kvl_key keys[CUDA_IPC_WIRE_KEYS_MAX];

    check(message->count > 0 && message->count <= CUDA_IPC_WIRE_KEYS_MAX);
    cuda_ipc_wire_get_keys(message, keys);
    for (uint32_t i = 0; i < message->count; i++) {
        check(keys[i].length > 0 && keys[i].length <= KVL_KEY_MAX);
    }
    return cuda_ipc_wire_put_keys(message->type, message->request, keys, message->count, bytes);
}

static size_t encode_found(const struct cuda_ipc_wire_message *message, uint8_t *bytes)
{
    uint8_t found[CUDA_IPC_WIRE_KEYS_MAX];

    check(message->count > 0 && message->count <= CUDA_IPC_WIRE_KEYS_MAX);
    for (uint32_t i = 0; i < message->count; i++) {
        found[i] = message->bits[i / 8] >> i % 8 & 1;
    }
    return cuda_ipc_wire_put_found(message->request, found, message->count, bytes);
}

static size_t encode_leased(const struct cuda_ipc_wire_message *message, uint8_t *bytes)
{
    static struct cuda_ipc_wire_lease leases[CUDA_IPC_WIRE_KEYS_MAX];

    check(message->count > 0 && message->count <= CUDA_IPC_WIRE_KEYS_MAX);
    cuda_ipc_wire_get_leases(message, leases);
    for (uint32_t i = 0; i < message->count; i++) {
        check(leases[i].status != 0 || leases[i].offset + leases[i].bytes <= INT64_MAX);
    }
    return cuda_ipc_wire_put_leased(message->request, leases, message->count, bytes);
}

static size_t encode(const struct cuda_ipc_wire_message *message, const uint8_t *data, size_t size,
                     uint8_t *bytes)
{
    static uint64_t released[CUDA_IPC_WIRE_RELEASE_MAX];
    struct cuda_ipc_wire_segment segment;
    struct cuda_ipc_wire_hello hello;

    switch (message->type) {
    case CUDA_IPC_HELLO:
        cuda_ipc_wire_get_hello(message, &hello);
        check(hello.device_count <= CUDA_IPC_WIRE_DEVICES_MAX);
        if (hello.version != CUDA_IPC_WIRE_VERSION) { /* nothing behind it is looked at */
            memcpy(bytes, data, size);
            return size;
        }
        return cuda_ipc_wire_put_hello(&hello, bytes);
    case CUDA_IPC_REFUSED:
        return cuda_ipc_wire_put_refused(message->code, bytes);
    case CUDA_IPC_BYE:
        return cuda_ipc_wire_put_bye(bytes);
    case CUDA_IPC_FOUND:
        return encode_found(message, bytes);
    case CUDA_IPC_SEGMENT:
        cuda_ipc_wire_get_segment(message, &segment);
        check(segment.share.base + segment.share.length >= segment.share.base);
        return cuda_ipc_wire_put_segment(&segment, bytes);
    case CUDA_IPC_LEASED:
        return encode_leased(message, bytes);
    case CUDA_IPC_RELEASE:
        cuda_ipc_wire_get_released(message, released);
        return cuda_ipc_wire_put_release(released, message->count, bytes);
    default:
        return encode_keys(message, bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t encoded[CUDA_IPC_WIRE_MAX];
    uint8_t *bytes = malloc(size == 0 ? 1 : size); /* of just that size, for the sanitizer */
    struct cuda_ipc_wire_message message;
    struct cuda_ipc_wire_offer offer;

    if (bytes == NULL) {
        return 0;
    }
    memcpy(bytes, data, size);
    if (cuda_ipc_wire_decode(bytes, size, &message) == 0) {
        check(encode(&message, bytes, size, encoded) == size);
        check(memcmp(encoded, bytes, size) == 0);
    }
    if (cuda_ipc_wire_get_offer(bytes, size, &offer) == 0) {
        check(cuda_ipc_wire_put_offer(&offer, encoded) == size);
        check(memcmp(encoded, bytes, size) == 0);
    }
    free(bytes);
    return 0;
}
