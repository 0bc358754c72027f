/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_entry.h"

#include <string.h>

int controller_entry_quick_op(struct controller_reader *in, struct kvl_key_op *op)
{
    static const char admit[] = "\x83\xa7op_type\xa5"
                                "admit\xa3key";
    static const char evict[] = "\x83\xa7op_type\xa5"
                                "evict\xa3key";
    static const char seq[] = "\xa7seq_num";
    const struct kvl_pack back = in->pack;

    if (kvl_pack_left(&in->pack) < sizeof(admit) - 1) {
        return 0;
    }
    if (memcmp(in->pack.at, admit, sizeof(admit) - 1) == 0) {
        op->kind = KVL_KEY_ADMIT;
    } else if (memcmp(in->pack.at, evict, sizeof(evict) - 1) == 0) {
        op->kind = KVL_KEY_EVICT;
    } else {
        return 0;
    }
    op->reserved = 0;
    in->pack.at += sizeof(admit) - 1;
    if (controller_read_id(in, NULL, &op->id) == 0 && kvl_pack_left(&in->pack) >= sizeof(seq) - 1 &&
        memcmp(in->pack.at, seq, sizeof(seq) - 1) == 0) {
        in->pack.at += sizeof(seq) - 1;
        if (kvl_pack_read_i64(&in->pack, &op->seq) == 0) {
            return 1;
        }
    }
    in->pack = back;
    return 0;
}

int controller_entry_id(struct controller_reader *in, const struct controller_at *at, void *item)
{
    return controller_read_id(in, at, item);
}

int controller_entry_layout(struct controller_reader *in, const struct controller_at *at,
                            void *item)
{
    struct controller_layout *layout = item;
    struct controller_at place = {.up = at};
    int r = controller_read_tuple(in, at, 4);

    if (r == 0) {
        r = controller_read_text(in, &place, "str", &layout->instance_id);
    }
    if (r == 0) {
        place.index = 1;
        r = controller_read_text(in, &place, "str", &layout->location);
    }
    if (r == 0) {
        place.index = 2;
        r = controller_read_int(in, &place, &layout->count);
    }
    if (r == 0) {
        place.index = 3;
        r = controller_read_text(in, &place, "str", &layout->peer_init_url);
    }
    return r;
}

int controller_entry_map_layout(struct controller_reader *in, const struct controller_at *at,
                                void *item)
{
    const struct controller_at key = {.up = at->up, .index = CONTROLLER_AT_KEY};
    struct controller_layout *layout = item;
    struct controller_at place = {.up = at};
    int r;

    layout->peer_init_url = (struct kvl_text){0};
    r = controller_read_text(in, &key, "str", &layout->instance_id);
    if (r == 0) {
        r = controller_read_tuple(in, at, 2);
    }
    if (r == 0) {
        r = controller_read_text(in, &place, "str", &layout->location);
    }
    if (r == 0) {
        place.index = 1;
        r = controller_read_int(in, &place, &layout->count);
    }
    return r;
}

int controller_entry_pair(struct controller_reader *in, const struct controller_at *at, void *item)
{
    const struct controller_at key = {.up = at->up, .index = CONTROLLER_AT_KEY};
    struct controller_pair *pair = item;
    int r = controller_read_text(in, &key, "str", &pair->key);

    return r < 0 ? r : controller_read_text(in, at, "str", &pair->value);
}

int controller_entry_code(struct controller_reader *in, const struct controller_at *at, void *item)
{
    const struct controller_at key = {.up = at->up, .index = CONTROLLER_AT_KEY};
    struct controller_code *code = item;
    int r = controller_read_int(in, &key, &code->worker_id);

    return r < 0 ? r : controller_read_int(in, at, &code->code);
}
