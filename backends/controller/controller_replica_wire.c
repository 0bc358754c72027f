/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_replica_wire.h"

#include <errno.h>
#include <string.h>

static const uint8_t wire_magic[3] = {'K', 'V', 'R'};

void controller_record_head(enum controller_record_kind kind, uint32_t length,
                            uint8_t bytes_out[CONTROLLER_RECORD_HEAD_BYTES])
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, CONTROLLER_RECORD_HEAD_BYTES);
    kvl_writer_put_u8(&out, (uint8_t)kind);
    kvl_writer_put_u32le(&out, length);
}

int controller_record_next(struct kvl_cursor *in, struct controller_record *record_out)
{
    struct controller_record record;
    uint8_t kind;

    if (kvl_cursor_left(in) == 0 && !kvl_cursor_failed(in)) {
        return 0;
    }
    kind = kvl_cursor_get_u8(in);
    record.length = kvl_cursor_get_u32le(in);
    record.bytes = kvl_cursor_get_bytes(in, record.length);
    if (kvl_cursor_failed(in) ||
        (kind != CONTROLLER_RECORD_EVENT && kind != CONTROLLER_RECORD_REQUEST)) {
        return -EPROTO;
    }
    record.kind = (enum controller_record_kind)kind;
    *record_out = record;
    return 1;
}

/* ---- messages ---- */

size_t controller_replica_encode(const struct controller_replica_msg *msg,
                                 uint8_t bytes_out[CONTROLLER_REPLICA_OVERHEAD])
{
    struct kvl_writer out;

    kvl_writer_init(&out, bytes_out, CONTROLLER_REPLICA_OVERHEAD);
    kvl_writer_put_bytes(&out, wire_magic, sizeof(wire_magic));
    kvl_writer_put_u8(&out, CONTROLLER_REPLICA_VERSION);
    kvl_writer_put_u8(&out, (uint8_t)msg->kind);
    kvl_writer_put_fill(&out, 0, 3);
    kvl_writer_put_u64le(&out, msg->nonce);
    kvl_writer_put_u64le(&out, msg->number);
    if (msg->kind == CONTROLLER_REPLICA_END) {
        kvl_writer_put_u64le(&out, msg->exact);
    } else if (msg->kind == CONTROLLER_REPLICA_EVENTS) {
        kvl_writer_put_u32le(&out, msg->count);
    }
    return kvl_writer_written(&out);
}

static int wire_head(struct kvl_cursor *in, struct controller_replica_msg *msg)
{
    const uint8_t *magic = kvl_cursor_get_bytes(in, sizeof(wire_magic));
    uint8_t version = kvl_cursor_get_u8(in);
    uint8_t kind = kvl_cursor_get_u8(in);
    const uint8_t *zero = kvl_cursor_get_bytes(in, 3);

    msg->nonce = kvl_cursor_get_u64le(in);
    msg->number = kvl_cursor_get_u64le(in);
    if (kvl_cursor_failed(in) || memcmp(magic, wire_magic, sizeof(wire_magic)) != 0) {
        return -EPROTO;
    }
    if (version != CONTROLLER_REPLICA_VERSION) {
        return -EPROTONOSUPPORT;
    }
    if (kind == 0 || kind >= CONTROLLER_REPLICA_KINDS || (zero[0] | zero[1] | zero[2]) != 0) {
        return -EPROTO;
    }
    msg->kind = (enum controller_replica_kind)kind;
    return 0;
}

static int wire_check_records(const struct controller_replica_msg *msg)
{
    struct controller_record record;
    struct kvl_cursor in;
    uint32_t count = 0;
    int r;

    kvl_cursor_init(&in, msg->bytes, msg->length);
    while ((r = controller_record_next(&in, &record)) == 1) {
        count++;
    }
    return r < 0 || count != msg->count ? -EPROTO : 0;
}

int controller_replica_decode(const void *bytes, size_t length,
                              struct controller_replica_msg *msg_out)
{
    struct controller_replica_msg msg = {0};
    struct kvl_cursor in;
    int r;

    kvl_cursor_init(&in, bytes, length);
    r = wire_head(&in, &msg);
    if (r < 0) {
        return r;
    }
    if (msg.kind == CONTROLLER_REPLICA_END) {
        msg.exact = kvl_cursor_get_u64le(&in);
    } else if (msg.kind == CONTROLLER_REPLICA_EVENTS) {
        msg.count = kvl_cursor_get_u32le(&in);
    }
    if (msg.kind == CONTROLLER_REPLICA_PART || msg.kind == CONTROLLER_REPLICA_EVENTS) {
        msg.length = kvl_cursor_left(&in);
        msg.bytes = kvl_cursor_get_bytes(&in, msg.length);
    }
    if (kvl_cursor_failed(&in) || kvl_cursor_left(&in) != 0) {
        return -EPROTO;
    }
    if (msg.kind == CONTROLLER_REPLICA_EVENTS && wire_check_records(&msg) < 0) {
        return -EPROTO;
    }
    *msg_out = msg;
    return 0;
}
