/* SPDX-License-Identifier: Apache-2.0 */
/* Every decoder of the wire; what decodes must encode to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "tcp_remote_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void fuzz_request(const uint8_t *data)
{
    struct tcp_remote_request request;
    struct tcp_remote_request again;
    uint8_t bytes[TCP_REMOTE_REQUEST_BYTES];

    tcp_remote_request_decode(data, &request);
    check(request.key_length <= TCP_REMOTE_KEY_BYTES);
    if (request.key_length == 0) {
        check(tcp_remote_request_encode(&request, bytes) < 0);
        return;
    }
    check(tcp_remote_request_encode(&request, bytes) == 0);
    check(memcmp(bytes, data, 36) == 0);
    tcp_remote_request_decode(bytes, &again);
    check(again.key_length == request.key_length);
    check(memcmp(again.key, request.key, request.key_length) == 0);
}

static void fuzz_reply(const uint8_t *data)
{
    struct tcp_remote_reply reply;
    uint8_t bytes[TCP_REMOTE_REPLY_BYTES];

    if (tcp_remote_reply_decode(data, &reply) == 0) {
        check(reply.length >= 0);
        tcp_remote_reply_encode(&reply, bytes);
        check(memcmp(bytes, data, sizeof(bytes)) == 0);
    }
}

static void fuzz_metadata(const uint8_t *data, size_t size)
{
    struct tcp_remote_metadata metadata;
    uint8_t bytes[2048];

    if (tcp_remote_metadata_decode(data, size, &metadata) == 0) {
        check(tcp_remote_metadata_encode(&metadata, bytes, sizeof(bytes)) == (int)size);
        check(memcmp(bytes, data, size) == 0);
        check(tcp_remote_shape_dims(metadata.groups[0].shape, metadata.fmt) >= 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= TCP_REMOTE_REQUEST_BYTES) {
        fuzz_request(data);
    }
    if (size >= TCP_REMOTE_REPLY_BYTES) {
        fuzz_reply(data);
    }
    if (size >= TCP_REMOTE_SEAL_BYTES) {
        (void)tcp_remote_seal_check(data, size, size);
    }
    fuzz_metadata(data, size);
    return 0;
}
