/* SPDX-License-Identifier: Apache-2.0 */
/* A message between a controller and its standby; what decodes must encode to the same bytes. The
 * records of one that decodes are replayed on a registry. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller_replay.h"
#include "controller_replica_wire.h"
#include "registry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static const struct controller_limits limits = {
    .frame_bytes = 1u << 16, .list_items = 4096, .text_bytes = 4096, .depth = 8};

static void check_again(const struct controller_replica_msg *msg, const uint8_t *data, size_t size)
{
    uint8_t head[CONTROLLER_REPLICA_OVERHEAD];
    const size_t length = controller_replica_encode(msg, head);

    check(length + msg->length == size);
    check(memcmp(head, data, length) == 0);
    check(msg->length == 0 || msg->bytes == data + length);
}

static void replay(const struct controller_replica_msg *msg)
{
    const struct kvl_registry_params params = {
        .max_bytes = 1u << 20,
        .settings = {.sync_timeout_ms = 300000, .sync_threshold = 80},
    };
    struct kvl_host host = {.size = sizeof(host), .registry_ops = &kvl_registry_table};
    struct controller_replay replay;
    struct controller_record record;
    struct kvl_cursor in;
    uint32_t count = 0;

    check(kvl_registry_create(&params, &host.registry) == 0);
    check(controller_replay_init(&replay, &host, &limits) == 0);
    kvl_cursor_init(&in, msg->bytes, msg->length);
    while (controller_record_next(&in, &record) == 1) {
        (void)controller_replay(&replay, &record);
        count++;
    }
    check(count == msg->count);
    controller_replay_fini(&replay);
    kvl_registry_destroy(host.registry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct controller_replica_msg msg;
    int r = controller_replica_decode(data, size, &msg);

    if (r == 0) {
        check(msg.kind >= CONTROLLER_REPLICA_HELLO && msg.kind < CONTROLLER_REPLICA_KINDS);
        check_again(&msg, data, size);
        if (msg.kind == CONTROLLER_REPLICA_EVENTS) {
            replay(&msg);
        }
    } else {
        check(r == -EPROTO || r == -EPROTONOSUPPORT);
    }
    return 0;
}
