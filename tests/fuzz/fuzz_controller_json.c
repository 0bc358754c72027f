/* SPDX-License-Identifier: Apache-2.0 */
/* JSON to msgpack: what comes out is one whole value, and larger than the text by a factor only. */
#include <stdlib.h>
#include <string.h>

#include "controller_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

/* Every text in it is UTF-8, whatever the escapes said. */
static void check_texts(const void *bytes, size_t length)
{
    struct kvl_pack_item item;
    struct kvl_pack in;

    kvl_pack_init(&in, bytes, length);
    while (kvl_pack_left(&in) > 0) {
        check(kvl_pack_read(&in, &item) == 0);
        if (item.type == KVL_PACK_TEXT) {
            check(kvl_pack_is_utf8(item.bytes, item.length));
        }
        check(item.type != KVL_PACK_BYTES && item.type != KVL_PACK_EXT);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct controller_limits limits = {
        .frame_bytes = 1u << 20, .list_items = 4096, .text_bytes = 4096, .depth = 8};
    char error[64] = "";
    struct controller_reader in = {.limits = &limits, .error = error, .error_room = sizeof(error)};
    const void *pack;
    size_t length;
    struct kvl_pack whole;

    check(controller_arena_create(&in.arena) == 0);
    if (controller_json_to_pack(&in, data, size, &pack, &length) == 0) {
        check(length <= size / 2 * 5 + 32);
        kvl_pack_init(&whole, pack, length);
        check(kvl_pack_skip(&whole, KVL_PACK_DEPTH_MAX) == 0);
        check(kvl_pack_left(&whole) == 0);
        check_texts(pack, length);
    } else {
        check(error[0] != 0);
        check(kvl_pack_is_utf8(error, strlen(error)));
    }
    controller_arena_destroy(in.arena);
    return 0;
}
