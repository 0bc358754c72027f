/* SPDX-License-Identifier: Apache-2.0 */
/* A frame, msgpack or JSON by its first byte; what decodes must encode, and then stay the same. */
#include <stdlib.h>
#include <string.h>

#include "controller_wire.h"
#include "pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static const struct controller_limits limits = {
    .frame_bytes = 1u << 20, .list_items = 4096, .text_bytes = 4096, .depth = 8};

static void check_text(struct kvl_text text)
{
    check(text.length <= limits.text_bytes && kvl_pack_is_utf8(text.text, text.length));
}

/* Encodes and decodes once more: the second bytes are the first. */
static void check_again(const struct controller_msg *msg)
{
    struct controller_arena *arena;
    struct controller_buf first = {0};
    struct controller_buf second = {0};
    struct controller_msg again;
    char error[64];

    check(controller_arena_create(&arena) == 0);
    check(controller_encode(msg, &first) == 0);
    check(controller_decode(first.at, first.length, &limits, arena, &again, error, sizeof(error)) ==
          0);
    check(again.type == msg->type);
    check(controller_encode(&again, &second) == 0);
    check(first.length == second.length);
    check(memcmp(first.at, second.at, first.length) == 0);
    controller_buf_fini(&first);
    controller_buf_fini(&second);
    controller_arena_destroy(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct controller_arena *arena;
    struct controller_msg msg;
    char error[64] = "";
    int r;

    check(controller_arena_create(&arena) == 0);
    r = controller_decode(data, size, &limits, arena, &msg, error, sizeof(error));
    if (r == 0) {
        check(controller_type_name(msg.type) != NULL);
        check(msg.ids.count <= limits.list_items && msg.operations.count <= limits.list_items);
        check_text(msg.instance_id);
        check_text(msg.location);
        check_text(msg.error);
        check_again(&msg);
    } else {
        check(error[0] != 0);
        check(kvl_pack_is_utf8(error, strlen(error)));
    }
    controller_arena_destroy(arena);
    return 0;
}
