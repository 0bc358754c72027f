/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "cuda_ipc_pool.h"
#include "cursor.h"

#define HELLO_MAGIC 0x474c564bu /* "KVLG" */
#define OFFER_MAGIC 0x4f4c564bu /* "KVLO" */
#define COUNT_BYTES 8u /* in front of each list */

/* ---- parts ---- */

static void wire_put_peer(struct kvl_writer *out, const struct cuda_ipc_wire_peer *peer)
{
    kvl_writer_put_u64le(out, peer->who.pid);
    kvl_writer_put_u64le(out, peer->who.pid_namespace);
    kvl_writer_put_u64le(out, peer->who.start_time);
    kvl_writer_put_bytes(out, peer->instance, sizeof(peer->instance));
}

/* Nothing is written behind the end of the input. */
static void wire_get(struct kvl_cursor *in, void *bytes_out, size_t length)
{
    const uint8_t *bytes = kvl_cursor_get_bytes(in, length);

    if (bytes != NULL) {
        memcpy(bytes_out, bytes, length);
    }
}

static void wire_get_peer(struct kvl_cursor *in, struct cuda_ipc_wire_peer *peer_out)
{
    peer_out->who.pid = kvl_cursor_get_u64le(in);
    peer_out->who.pid_namespace = kvl_cursor_get_u64le(in);
    peer_out->who.start_time = kvl_cursor_get_u64le(in);
    wire_get(in, peer_out->instance, sizeof(peer_out->instance));
}

static void wire_begin(struct kvl_writer *out, uint8_t *bytes, uint32_t type, uint64_t request)
{
    kvl_writer_init(out, bytes, CUDA_IPC_WIRE_MAX);
    kvl_writer_put_u32le(out, type);
    kvl_writer_put_u32le(out, 0);
    kvl_writer_put_u64le(out, request);
}

/* Puts in the length, now that it is known. */
static size_t wire_end(const struct kvl_writer *out, uint8_t *bytes)
{
    const size_t length = kvl_writer_written(out);
    struct kvl_writer head;

    assert(!kvl_writer_failed(out));
    kvl_writer_init(&head, bytes + 4, 4);
    kvl_writer_put_u32le(&head, (uint32_t)length);
    return length;
}

static void wire_put_count(struct kvl_writer *out, uint32_t count)
{
    kvl_writer_put_u32le(out, count);
    kvl_writer_put_u32le(out, 0);
}

static void wire_begin_body(const struct cuda_ipc_wire_message *message, struct kvl_cursor *in)
{
    kvl_cursor_init(in, message->body, message->body_bytes);
}

/* ---- HELLO ---- */

size_t cuda_ipc_wire_put_hello(const struct cuda_ipc_wire_hello *hello, uint8_t *bytes_out)
{
    struct kvl_writer out;

    wire_begin(&out, bytes_out, CUDA_IPC_HELLO, 0);
    kvl_writer_put_u32le(&out, HELLO_MAGIC);
    kvl_writer_put_u32le(&out, hello->version);
    kvl_writer_put_u32le(&out, hello->device_count);
    kvl_writer_put_u32le(&out, 0);
    wire_put_peer(&out, &hello->peer);
    kvl_writer_put_bytes(&out, hello->uuids, hello->device_count * sizeof(hello->uuids[0]));
    return wire_end(&out, bytes_out);
}

static int wire_check_hello(struct kvl_cursor *in)
{
    const uint32_t magic = kvl_cursor_get_u32le(in);
    const uint32_t version = kvl_cursor_get_u32le(in);
    const uint32_t devices = kvl_cursor_get_u32le(in);
    const uint32_t reserved = kvl_cursor_get_u32le(in);
    struct cuda_ipc_wire_peer peer;

    wire_get_peer(in, &peer);
    if (kvl_cursor_failed(in) || magic != HELLO_MAGIC) {
        return -EPROTO;
    }
    if (version != CUDA_IPC_WIRE_VERSION) { /* what follows may look different then */
        (void)kvl_cursor_get_bytes(in, kvl_cursor_left(in));
        return 0;
    }
    if (devices > CUDA_IPC_WIRE_DEVICES_MAX) {
        return -EMSGSIZE;
    }
    (void)kvl_cursor_get_bytes(in, (size_t)devices * 16);
    return reserved == 0 ? 0 : -EPROTO;
}

void cuda_ipc_wire_get_hello(const struct cuda_ipc_wire_message *message,
                             struct cuda_ipc_wire_hello *hello_out)
{
    struct kvl_cursor in;

    wire_begin_body(message, &in);
    memset(hello_out, 0, sizeof(*hello_out));
    (void)kvl_cursor_get_u32le(&in);
    hello_out->version = kvl_cursor_get_u32le(&in);
    hello_out->device_count = kvl_cursor_get_u32le(&in);
    (void)kvl_cursor_get_u32le(&in);
    wire_get_peer(&in, &hello_out->peer);
    if (hello_out->version != CUDA_IPC_WIRE_VERSION) {
        hello_out->device_count = 0;
    }
    for (uint32_t i = 0; i < hello_out->device_count; i++) {
        wire_get(&in, &hello_out->uuids[i], sizeof(hello_out->uuids[i]));
    }
}

/* ---- REFUSED, BYE ---- */

size_t cuda_ipc_wire_put_refused(int32_t code, uint8_t *bytes_out)
{
    struct kvl_writer out;

    wire_begin(&out, bytes_out, CUDA_IPC_REFUSED, 0);
    kvl_writer_put_i32le(&out, -code);
    kvl_writer_put_u32le(&out, 0);
    return wire_end(&out, bytes_out);
}

static int wire_check_refused(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    const int32_t code = kvl_cursor_get_i32le(in);
    const uint32_t reserved = kvl_cursor_get_u32le(in);

    if (code <= 0 || code > 4095 || reserved != 0) { /* 4095: the largest errno of Linux */
        return -EPROTO;
    }
    message->code = -code;
    return 0;
}

size_t cuda_ipc_wire_put_bye(uint8_t *bytes_out)
{
    struct kvl_writer out;

    wire_begin(&out, bytes_out, CUDA_IPC_BYE, 0);
    return wire_end(&out, bytes_out);
}

/* ---- LOOKUP, LEASE: keys ---- */

size_t cuda_ipc_wire_put_keys(uint32_t type, uint64_t request, const struct kvl_key *keys,
                              uint32_t count, uint8_t *bytes_out)
{
    struct kvl_writer out;

    assert(count > 0 && count <= CUDA_IPC_WIRE_KEYS_MAX);
    wire_begin(&out, bytes_out, type, request);
    wire_put_count(&out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_writer_put_u8(&out, (uint8_t)keys[i].length);
        kvl_writer_put_bytes(&out, keys[i].text, keys[i].length);
    }
    return wire_end(&out, bytes_out);
}

static int wire_check_count(struct kvl_cursor *in, uint32_t max,
                            struct cuda_ipc_wire_message *message)
{
    const uint32_t count = kvl_cursor_get_u32le(in);
    const uint32_t reserved = kvl_cursor_get_u32le(in);

    if (kvl_cursor_failed(in) || count == 0 || reserved != 0) {
        return -EPROTO;
    }
    if (count > max) {
        return -EMSGSIZE;
    }
    message->count = count;
    return 0;
}

static int wire_check_keys(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    int r = wire_check_count(in, CUDA_IPC_WIRE_KEYS_MAX, message);

    for (uint32_t i = 0; r == 0 && i < message->count; i++) {
        const uint8_t length = kvl_cursor_get_u8(in);

        if (length == 0 || length > KVL_KEY_MAX || kvl_cursor_get_bytes(in, length) == NULL) {
            r = -EPROTO;
        }
    }
    return r;
}

void cuda_ipc_wire_get_keys(const struct cuda_ipc_wire_message *message, struct kvl_key *keys_out)
{
    struct kvl_cursor in;

    wire_begin_body(message, &in);
    (void)kvl_cursor_get_bytes(&in, COUNT_BYTES);
    for (uint32_t i = 0; i < message->count; i++) {
        const uint8_t length = kvl_cursor_get_u8(&in);

        keys_out[i] = (struct kvl_key){
            .text = (const char *)kvl_cursor_get_bytes(&in, length),
            .length = length,
        };
    }
}

/* ---- FOUND ---- */

size_t cuda_ipc_wire_put_found(uint64_t request, const uint8_t *found, uint32_t count,
                               uint8_t *bytes_out)
{
    struct kvl_writer out;

    assert(count > 0 && count <= CUDA_IPC_WIRE_KEYS_MAX);
    wire_begin(&out, bytes_out, CUDA_IPC_FOUND, request);
    wire_put_count(&out, count);
    for (uint32_t i = 0; i < count; i += 8) {
        uint8_t bits = 0;

        for (uint32_t k = i; k < count && k < i + 8; k++) {
            bits = (uint8_t)(bits | (found[k] & 1u) << (k - i));
        }
        kvl_writer_put_u8(&out, bits);
    }
    return wire_end(&out, bytes_out);
}

static int wire_check_found(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    int r = wire_check_count(in, CUDA_IPC_WIRE_KEYS_MAX, message);

    if (r == 0) {
        message->bits = kvl_cursor_get_bytes(in, (message->count + 7) / 8);
        if (message->bits != NULL && message->count % 8 != 0 &&
            message->bits[message->count / 8] >> message->count % 8 != 0) {
            r = -EPROTO;
        }
    }
    return r;
}

/* ---- SEGMENT ---- */

size_t cuda_ipc_wire_put_segment(const struct cuda_ipc_wire_segment *segment, uint8_t *bytes_out)
{
    const struct cuda_ipc_share *share = &segment->share;
    struct kvl_writer out;

    wire_begin(&out, bytes_out, CUDA_IPC_SEGMENT, 0);
    kvl_writer_put_u32le(&out, segment->number);
    kvl_writer_put_u32le(&out, share->type);
    kvl_writer_put_u64le(&out, share->base);
    kvl_writer_put_u64le(&out, share->length);
    kvl_writer_put_u64le(&out, share->buffer_id);
    kvl_writer_put_bytes(&out, &share->uuid, sizeof(share->uuid));
    kvl_writer_put_bytes(&out, share->handle, sizeof(share->handle));
    return wire_end(&out, bytes_out);
}

static void wire_get_segment(struct kvl_cursor *in, struct cuda_ipc_wire_segment *segment_out)
{
    struct cuda_ipc_share *share = &segment_out->share;

    memset(segment_out, 0, sizeof(*segment_out));
    segment_out->number = kvl_cursor_get_u32le(in);
    share->type = kvl_cursor_get_u32le(in);
    share->base = kvl_cursor_get_u64le(in);
    share->length = kvl_cursor_get_u64le(in);
    share->buffer_id = kvl_cursor_get_u64le(in);
    wire_get(in, &share->uuid, sizeof(share->uuid));
    wire_get(in, share->handle, sizeof(share->handle));
}

static int wire_check_segment(struct kvl_cursor *in)
{
    struct cuda_ipc_wire_segment segment;
    const struct cuda_ipc_share *share = &segment.share;

    wire_get_segment(in, &segment);
    if (kvl_cursor_failed(in) ||
        (share->type != CUDA_IPC_SHARE_LEGACY && share->type != CUDA_IPC_SHARE_FD) ||
        share->length == 0 || share->length > INT64_MAX ||
        share->base > UINT64_MAX - share->length) {
        return -EPROTO;
    }
    return segment.number < CUDA_IPC_POOL_SEGMENTS_MAX ? 0 : -EMSGSIZE;
}

void cuda_ipc_wire_get_segment(const struct cuda_ipc_wire_message *message,
                               struct cuda_ipc_wire_segment *segment_out)
{
    struct kvl_cursor in;

    wire_begin_body(message, &in);
    wire_get_segment(&in, segment_out);
}

/* ---- LEASED ---- */

static void wire_put_lease(struct kvl_writer *out, const struct cuda_ipc_wire_lease *lease)
{
    kvl_writer_put_i32le(out, -lease->status);
    kvl_writer_put_u32le(out, lease->segment);
    kvl_writer_put_u64le(out, lease->offset);
    kvl_writer_put_u64le(out, lease->bytes);
    kvl_writer_put_i32le(out, lease->attrs.fmt);
    kvl_writer_put_i32le(out, lease->attrs.dtype);
    for (size_t i = 0; i < 4; i++) {
        kvl_writer_put_i32le(out, lease->attrs.shape[i]);
    }
    kvl_writer_put_u32le(out, lease->flags);
    kvl_writer_put_u32le(out, 0);
    kvl_writer_put_u64le(out, lease->checksum);
    kvl_writer_put_u64le(out, lease->lease);
    kvl_writer_put_u64le(out, 0);
}

/* @return 0, or -EPROTO for what no listener says. */
static int wire_get_lease(struct kvl_cursor *in, struct cuda_ipc_wire_lease *lease_out)
{
    const int32_t code = kvl_cursor_get_i32le(in);
    uint64_t reserved;

    lease_out->status = code > 0 && code <= 4095 ? -code : 0;
    lease_out->segment = kvl_cursor_get_u32le(in);
    lease_out->offset = kvl_cursor_get_u64le(in);
    lease_out->bytes = kvl_cursor_get_u64le(in);
    lease_out->attrs.fmt = kvl_cursor_get_i32le(in);
    lease_out->attrs.dtype = kvl_cursor_get_i32le(in);
    for (size_t i = 0; i < 4; i++) {
        lease_out->attrs.shape[i] = kvl_cursor_get_i32le(in);
    }
    lease_out->flags = kvl_cursor_get_u32le(in);
    reserved = kvl_cursor_get_u32le(in);
    lease_out->checksum = kvl_cursor_get_u64le(in);
    lease_out->lease = kvl_cursor_get_u64le(in);
    reserved |= kvl_cursor_get_u64le(in);
    if (kvl_cursor_failed(in) || reserved != 0 || code < 0 || code > 4095 ||
        (lease_out->flags & ~KVL_CHUNK_HAS_CHECKSUM) != 0) {
        return -EPROTO;
    }
    if (code == 0 && (lease_out->bytes == 0 || lease_out->bytes > INT64_MAX ||
                      lease_out->offset > INT64_MAX - lease_out->bytes ||
                      lease_out->segment >= CUDA_IPC_POOL_SEGMENTS_MAX)) {
        return -EPROTO;
    }
    return 0;
}

size_t cuda_ipc_wire_put_leased(uint64_t request, const struct cuda_ipc_wire_lease *leases,
                                uint32_t count, uint8_t *bytes_out)
{
    struct kvl_writer out;

    assert(count > 0 && count <= CUDA_IPC_WIRE_KEYS_MAX);
    wire_begin(&out, bytes_out, CUDA_IPC_LEASED, request);
    wire_put_count(&out, count);
    for (uint32_t i = 0; i < count; i++) {
        wire_put_lease(&out, &leases[i]);
    }
    return wire_end(&out, bytes_out);
}

static int wire_check_leased(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    int r = wire_check_count(in, CUDA_IPC_WIRE_KEYS_MAX, message);
    struct cuda_ipc_wire_lease lease;

    for (uint32_t i = 0; r == 0 && i < message->count; i++) {
        r = wire_get_lease(in, &lease);
    }
    return r;
}

void cuda_ipc_wire_get_leases(const struct cuda_ipc_wire_message *message,
                              struct cuda_ipc_wire_lease *leases_out)
{
    struct kvl_cursor in;

    wire_begin_body(message, &in);
    (void)kvl_cursor_get_bytes(&in, COUNT_BYTES);
    for (uint32_t i = 0; i < message->count; i++) {
        (void)wire_get_lease(&in, &leases_out[i]);
    }
}

/* ---- RELEASE ---- */

size_t cuda_ipc_wire_put_release(const uint64_t *leases, uint32_t count, uint8_t *bytes_out)
{
    struct kvl_writer out;

    assert(count > 0 && count <= CUDA_IPC_WIRE_RELEASE_MAX);
    wire_begin(&out, bytes_out, CUDA_IPC_RELEASE, 0);
    wire_put_count(&out, count);
    for (uint32_t i = 0; i < count; i++) {
        kvl_writer_put_u64le(&out, leases[i]);
    }
    return wire_end(&out, bytes_out);
}

static int wire_check_release(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    const int r = wire_check_count(in, CUDA_IPC_WIRE_RELEASE_MAX, message);

    if (r == 0) {
        (void)kvl_cursor_get_bytes(in, (size_t)message->count * sizeof(uint64_t));
    }
    return r;
}

void cuda_ipc_wire_get_released(const struct cuda_ipc_wire_message *message, uint64_t *leases_out)
{
    struct kvl_cursor in;

    wire_begin_body(message, &in);
    (void)kvl_cursor_get_bytes(&in, COUNT_BYTES);
    for (uint32_t i = 0; i < message->count; i++) {
        leases_out[i] = kvl_cursor_get_u64le(&in);
    }
}

/* ---- all of them ---- */

static int wire_check_body(struct kvl_cursor *in, struct cuda_ipc_wire_message *message)
{
    switch (message->type) {
    case CUDA_IPC_HELLO:
        return wire_check_hello(in);
    case CUDA_IPC_REFUSED:
        return wire_check_refused(in, message);
    case CUDA_IPC_BYE:
        return 0;
    case CUDA_IPC_LOOKUP:
    case CUDA_IPC_LEASE:
        return wire_check_keys(in, message);
    case CUDA_IPC_FOUND:
        return wire_check_found(in, message);
    case CUDA_IPC_SEGMENT:
        return wire_check_segment(in);
    case CUDA_IPC_LEASED:
        return wire_check_leased(in, message);
    case CUDA_IPC_RELEASE:
        return wire_check_release(in, message);
    default:
        return -EPROTO;
    }
}

static int wire_has_request(uint32_t type)
{
    return type == CUDA_IPC_LOOKUP || type == CUDA_IPC_FOUND || type == CUDA_IPC_LEASE ||
           type == CUDA_IPC_LEASED;
}

int cuda_ipc_wire_decode(const void *bytes, size_t length,
                         struct cuda_ipc_wire_message *message_out)
{
    struct cuda_ipc_wire_message message = {0};
    struct kvl_cursor in;
    uint32_t told;
    int r;

    kvl_cursor_init(&in, bytes, length);
    message.type = kvl_cursor_get_u32le(&in);
    told = kvl_cursor_get_u32le(&in);
    message.request = kvl_cursor_get_u64le(&in);
    if (kvl_cursor_failed(&in) || told != length ||
        (message.request != 0 && !wire_has_request(message.type))) {
        return -EPROTO;
    }
    if (length > CUDA_IPC_WIRE_MAX) {
        return -EMSGSIZE;
    }
    message.body = (const uint8_t *)bytes + CUDA_IPC_WIRE_HEAD_BYTES;
    message.body_bytes = (uint32_t)kvl_cursor_left(&in);
    r = wire_check_body(&in, &message);
    if (r < 0) {
        return r;
    }
    if (kvl_cursor_failed(&in) || kvl_cursor_left(&in) > 0) {
        return -EPROTO;
    }
    *message_out = message;
    return 0;
}

/* ---- the offer ---- */

size_t cuda_ipc_wire_put_offer(const struct cuda_ipc_wire_offer *offer, uint8_t *bytes_out)
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, KVL_OFFER_MAX);
    kvl_writer_put_u32le(&out, OFFER_MAGIC);
    kvl_writer_put_u32le(&out, CUDA_IPC_WIRE_VERSION);
    kvl_writer_put_bytes(&out, offer->boot, sizeof(offer->boot));
    wire_put_peer(&out, &offer->peer);
    kvl_writer_put_u32le(&out, offer->address_length);
    kvl_writer_put_bytes(&out, offer->address, offer->address_length);
    assert(!kvl_writer_failed(&out));
    return kvl_writer_written(&out);
}

int cuda_ipc_wire_get_offer(const void *bytes, size_t length, struct cuda_ipc_wire_offer *offer_out)
{
    struct cuda_ipc_wire_offer offer = {0};
    struct kvl_cursor in;
    uint32_t version;

    kvl_cursor_init(&in, bytes, length);
    if (kvl_cursor_get_u32le(&in) != OFFER_MAGIC) {
        return -EPROTO;
    }
    version = kvl_cursor_get_u32le(&in);
    if (!kvl_cursor_failed(&in) && version != CUDA_IPC_WIRE_VERSION) {
        return -ENOTSUP;
    }
    wire_get(&in, offer.boot, sizeof(offer.boot));
    wire_get_peer(&in, &offer.peer);
    offer.address_length = kvl_cursor_get_u32le(&in);
    if (offer.address_length < 2 || offer.address_length > CUDA_IPC_WIRE_ADDRESS_MAX) {
        return -EPROTO;
    }
    wire_get(&in, offer.address, offer.address_length);
    if (kvl_cursor_failed(&in) || kvl_cursor_left(&in) > 0) {
        return -EPROTO;
    }
    *offer_out = offer;
    return 0;
}
