/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_pickle.h"

#include <errno.h>
#include <string.h>

#include "ipc_pickle_state.h"
#include "pack.h"
#include "setting.h"

int kvl_pickle_fail(const struct kvl_pickle *p, int code, const char *what)
{
    return kvl_fail(p->err, code, "pickle: %s at byte %zu", what, p->base + p->at);
}

static int pickle_truncated(const struct kvl_pickle *p)
{
    return kvl_fail(p->err, -EPROTO, "pickle: the input ends inside the opcode at byte %zu",
                    p->base + p->at);
}

/* ---- stack ---- */

/* What lies below the topmost mark is out of reach. */
static uint32_t pickle_reach(const struct kvl_pickle *p)
{
    return p->depth - (p->mark_count > 0 ? p->marks[p->mark_count - 1] : 0u);
}

static int pickle_push(struct kvl_pickle *p, uint16_t node)
{
    if (p->depth + p->mark_count >= KVL_PICKLE_STACK_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "the stack grows too high");
    }
    p->stack[p->depth++] = node;
    return 0;
}

/* A copy of the node, at this opcode, on the stack. */
int kvl_pickle_push_new(struct kvl_pickle *p, const struct kvl_pickle_node *node)
{
    struct kvl_pickle_tree *tree = p->tree;

    if (node->depth > KVL_PICKLE_DEPTH_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "objects are nested too deep");
    }
    if (tree->node_count >= KVL_PICKLE_NODES_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "too many objects");
    }
    tree->nodes[tree->node_count] = *node;
    tree->nodes[tree->node_count].offset = (uint32_t)p->at;
    return pickle_push(p, tree->node_count++);
}

struct kvl_pickle_node *kvl_pickle_top(struct kvl_pickle *p, uint32_t below)
{
    return &p->tree->nodes[p->stack[p->depth - 1 - below]];
}

int kvl_pickle_need(const struct kvl_pickle *p, uint32_t count)
{
    return pickle_reach(p) >= count ? 0 : kvl_pickle_fail(p, -EPROTO, "the stack holds too little");
}

/* ---- scalars ---- */

static int pickle_none(struct kvl_pickle *p)
{
    return kvl_pickle_push_new(p, &(struct kvl_pickle_node){.kind = KVL_PICKLE_NONE});
}

static int pickle_true(struct kvl_pickle *p)
{
    return kvl_pickle_push_new(p, &(struct kvl_pickle_node){.kind = KVL_PICKLE_BOOL, .bits = 1});
}

static int pickle_false(struct kvl_pickle *p)
{
    return kvl_pickle_push_new(p, &(struct kvl_pickle_node){.kind = KVL_PICKLE_BOOL});
}

static int pickle_int(struct kvl_pickle *p, uint64_t bits, int negative)
{
    const struct kvl_pickle_node node = {
        .kind = KVL_PICKLE_INT, .bits = bits, .negative = (uint8_t)negative};

    return kvl_cursor_failed(&p->in) ? pickle_truncated(p) : kvl_pickle_push_new(p, &node);
}

static int pickle_binint(struct kvl_pickle *p)
{
    const int32_t value = kvl_cursor_get_i32le(&p->in);

    return pickle_int(p, (uint64_t)(int64_t)value, value < 0);
}

static int pickle_binint1(struct kvl_pickle *p)
{
    return pickle_int(p, kvl_cursor_get_u8(&p->in), 0);
}

static int pickle_binint2(struct kvl_pickle *p)
{
    const uint32_t low = kvl_cursor_get_u8(&p->in);

    return pickle_int(p, low | (uint32_t)kvl_cursor_get_u8(&p->in) << 8, 0);
}

/* Two's complement, little-endian, of any length: CPython writes the fewest bytes. */
static int pickle_long1(struct kvl_pickle *p)
{
    const uint32_t count = kvl_cursor_get_u8(&p->in);
    const uint8_t *bytes = kvl_cursor_get_bytes(&p->in, count);
    uint64_t bits = 0;
    int negative;

    if (kvl_cursor_failed(&p->in)) {
        return pickle_truncated(p);
    }
    if (count > 9) {
        return kvl_pickle_fail(p, -EMSGSIZE, "an int of more than 64 bits");
    }
    negative = count > 0 && bytes[count - 1] >= 0x80;
    for (uint32_t i = 0; i < 8; i++) {
        const uint64_t byte = i < count ? bytes[i] : negative ? 0xffu : 0u;

        bits |= byte << (8 * i);
    }
    if (count == 9 && bytes[8] != (negative ? 0xff : 0)) {
        return kvl_pickle_fail(p, -EMSGSIZE, "an int of more than 64 bits");
    }
    if (negative && bits <= INT64_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "an int below -2^63");
    }
    return pickle_int(p, bits, negative);
}

/* ---- strings ---- */

static int pickle_string(struct kvl_pickle *p, uint8_t kind, uint64_t length)
{
    struct kvl_pickle_node node = {.kind = kind, .length = (uint32_t)length};

    if (kvl_cursor_failed(&p->in) || length > kvl_cursor_left(&p->in)) {
        return pickle_truncated(p);
    }
    node.at = kvl_cursor_get_bytes(&p->in, (size_t)length);
    if (kind == KVL_PICKLE_TEXT && !kvl_pack_is_utf8(node.at, (size_t)length)) {
        return kvl_pickle_fail(p, -EPROTO, "a text that is not UTF-8");
    }
    return kvl_pickle_push_new(p, &node);
}

static int pickle_short_text(struct kvl_pickle *p)
{
    return pickle_string(p, KVL_PICKLE_TEXT, kvl_cursor_get_u8(&p->in));
}

static int pickle_text(struct kvl_pickle *p)
{
    return pickle_string(p, KVL_PICKLE_TEXT, kvl_cursor_get_u32le(&p->in));
}

static int pickle_short_bytes(struct kvl_pickle *p)
{
    return pickle_string(p, KVL_PICKLE_BYTES, kvl_cursor_get_u8(&p->in));
}

static int pickle_bytes(struct kvl_pickle *p)
{
    return pickle_string(p, KVL_PICKLE_BYTES, kvl_cursor_get_u32le(&p->in));
}

static int pickle_bytes8(struct kvl_pickle *p)
{
    return pickle_string(p, KVL_PICKLE_BYTES, kvl_cursor_get_u64le(&p->in));
}

/* ---- stream ---- */

static int pickle_frame(struct kvl_pickle *p)
{
    const uint64_t length = kvl_cursor_get_u64le(&p->in);

    if (kvl_cursor_failed(&p->in)) {
        return pickle_truncated(p);
    }
    if (length > kvl_cursor_left(&p->in)) {
        return kvl_pickle_fail(p, -EPROTO, "a frame that is longer than the input");
    }
    return 0; /* a hint for reading ahead */
}

static int pickle_mark(struct kvl_pickle *p)
{
    if (p->depth + p->mark_count >= KVL_PICKLE_STACK_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "the stack grows too high");
    }
    p->marks[p->mark_count++] = (uint16_t)p->depth;
    return 0;
}

static int pickle_memoize(struct kvl_pickle *p)
{
    int r = kvl_pickle_need(p, 1);

    if (r < 0) {
        return r;
    }
    if (p->memo_count >= KVL_PICKLE_MEMO_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "the memo grows too large");
    }
    p->memo[p->memo_count++] = p->stack[p->depth - 1];
    return 0;
}

static int pickle_get(struct kvl_pickle *p, uint32_t slot)
{
    if (kvl_cursor_failed(&p->in)) {
        return pickle_truncated(p);
    }
    if (slot >= p->memo_count) {
        return kvl_pickle_fail(p, -EPROTO, "a memo slot that is not set");
    }
    return pickle_push(p, p->memo[slot]);
}

static int pickle_binget(struct kvl_pickle *p)
{
    return pickle_get(p, kvl_cursor_get_u8(&p->in));
}

static int pickle_long_binget(struct kvl_pickle *p)
{
    return pickle_get(p, kvl_cursor_get_u32le(&p->in));
}

static int pickle_stop(struct kvl_pickle *p)
{
    if (p->depth != 1 || p->mark_count != 0) {
        return kvl_pickle_fail(p, -EPROTO, "not exactly one object is left");
    }
    p->tree->root = p->stack[0];
    p->has_stopped = 1;
    return 0;
}

/* ---- containers ---- */

/* The topmost `count` objects become a tuple. */
static int pickle_make_tuple(struct kvl_pickle *p, uint32_t count)
{
    struct kvl_pickle_tree *tree = p->tree;
    struct kvl_pickle_node tuple = {
        .kind = KVL_PICKLE_TUPLE, .length = count, .first = tree->item_count};

    if (count > KVL_PICKLE_ITEMS_MAX - tree->item_count) {
        return kvl_pickle_fail(p, -EMSGSIZE, "too many items of tuples");
    }
    p->depth -= count;
    for (uint32_t i = 0; i < count; i++) {
        const uint16_t item = p->stack[p->depth + i];

        tree->items[tree->item_count++] = item;
        if (tuple.depth <= tree->nodes[item].depth) {
            tuple.depth = (uint8_t)(tree->nodes[item].depth + 1);
        }
    }
    return kvl_pickle_push_new(p, &tuple);
}

static int pickle_need_mark(const struct kvl_pickle *p)
{
    return p->mark_count > 0 ? 0 : kvl_pickle_fail(p, -EPROTO, "no mark is set");
}

static int pickle_tuple(struct kvl_pickle *p)
{
    const uint32_t count = pickle_reach(p);
    int r = pickle_need_mark(p);

    if (r < 0) {
        return r;
    }
    p->mark_count--;
    return pickle_make_tuple(p, count);
}

static int pickle_tuple_of(struct kvl_pickle *p, uint32_t count)
{
    int r = kvl_pickle_need(p, count);

    return r < 0 ? r : pickle_make_tuple(p, count);
}

static int pickle_tuple0(struct kvl_pickle *p)
{
    return pickle_make_tuple(p, 0);
}

static int pickle_tuple1(struct kvl_pickle *p)
{
    return pickle_tuple_of(p, 1);
}

static int pickle_tuple2(struct kvl_pickle *p)
{
    return pickle_tuple_of(p, 2);
}

static int pickle_tuple3(struct kvl_pickle *p)
{
    return pickle_tuple_of(p, 3);
}

static int pickle_dict(struct kvl_pickle *p)
{
    const struct kvl_pickle_node dict = {.kind = KVL_PICKLE_DICT, .first = KVL_PICKLE_NIL};

    return kvl_pickle_push_new(p, &dict);
}

static int pickle_dict_add(struct kvl_pickle *p, struct kvl_pickle_node *dict, uint16_t key,
                           uint16_t value)
{
    struct kvl_pickle_tree *tree = p->tree;
    const uint8_t depth = (uint8_t)(tree->nodes[value].depth + 1);

    if (tree->nodes[key].kind != KVL_PICKLE_TEXT) {
        return kvl_pickle_fail(p, -EPROTO, "a dict key that is not a text");
    }
    if (tree->entry_count >= KVL_PICKLE_ENTRIES_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "too many entries of dicts");
    }
    if (depth > KVL_PICKLE_DEPTH_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "objects are nested too deep");
    }
    tree->entries[tree->entry_count] =
        (struct kvl_pickle_entry){.key = key, .value = value, .next = dict->first};
    dict->first = tree->entry_count++;
    dict->depth = dict->depth < depth ? depth : dict->depth;
    return 0;
}

/* The topmost `count` objects are keys and values in turn, of the dict below them. */
static int pickle_dict_fill(struct kvl_pickle *p, uint32_t count)
{
    struct kvl_pickle_node *dict;
    int r = kvl_pickle_need(p, count + 1);

    if (r < 0) {
        return r;
    }
    dict = kvl_pickle_top(p, count);
    if (dict->kind != KVL_PICKLE_DICT || dict->frozen || count % 2 != 0) {
        return kvl_pickle_fail(p, -EPROTO, "entries that no dict can take");
    }
    p->depth -= count;
    for (uint32_t i = 0; i < count && r == 0; i += 2) {
        r = pickle_dict_add(p, dict, p->stack[p->depth + i], p->stack[p->depth + i + 1]);
    }
    return r;
}

static int pickle_setitem(struct kvl_pickle *p)
{
    return pickle_dict_fill(p, 2);
}

static int pickle_setitems(struct kvl_pickle *p)
{
    const uint32_t count = pickle_reach(p);
    int r = pickle_need_mark(p);

    if (r < 0) {
        return r;
    }
    p->mark_count--;
    return pickle_dict_fill(p, count);
}

/* ---- the whole ---- */

typedef int (*pickle_op_fn)(struct kvl_pickle *p);

static const pickle_op_fn pickle_ops[256] = {
    [KVL_PICKLE_OP_MARK] = pickle_mark,
    [KVL_PICKLE_OP_EMPTY_TUPLE] = pickle_tuple0,
    [KVL_PICKLE_OP_STOP] = pickle_stop,
    [KVL_PICKLE_OP_BINBYTES] = pickle_bytes,
    [KVL_PICKLE_OP_SHORT_BINBYTES] = pickle_short_bytes,
    [KVL_PICKLE_OP_BININT] = pickle_binint,
    [KVL_PICKLE_OP_BININT1] = pickle_binint1,
    [KVL_PICKLE_OP_BININT2] = pickle_binint2,
    [KVL_PICKLE_OP_NONE] = pickle_none,
    [KVL_PICKLE_OP_REDUCE] = kvl_pickle_reduce,
    [KVL_PICKLE_OP_BINUNICODE] = pickle_text,
    [KVL_PICKLE_OP_BUILD] = kvl_pickle_build,
    [KVL_PICKLE_OP_BINGET] = pickle_binget,
    [KVL_PICKLE_OP_LONG_BINGET] = pickle_long_binget,
    [KVL_PICKLE_OP_SETITEM] = pickle_setitem,
    [KVL_PICKLE_OP_TUPLE] = pickle_tuple,
    [KVL_PICKLE_OP_SETITEMS] = pickle_setitems,
    [KVL_PICKLE_OP_EMPTY_DICT] = pickle_dict,
    [KVL_PICKLE_OP_NEWOBJ] = kvl_pickle_newobj,
    [KVL_PICKLE_OP_TUPLE1] = pickle_tuple1,
    [KVL_PICKLE_OP_TUPLE2] = pickle_tuple2,
    [KVL_PICKLE_OP_TUPLE3] = pickle_tuple3,
    [KVL_PICKLE_OP_NEWTRUE] = pickle_true,
    [KVL_PICKLE_OP_NEWFALSE] = pickle_false,
    [KVL_PICKLE_OP_LONG1] = pickle_long1,
    [KVL_PICKLE_OP_SHORT_BINUNICODE] = pickle_short_text,
    [KVL_PICKLE_OP_BINBYTES8] = pickle_bytes8,
    [KVL_PICKLE_OP_STACK_GLOBAL] = kvl_pickle_global,
    [KVL_PICKLE_OP_MEMOIZE] = pickle_memoize,
    [KVL_PICKLE_OP_FRAME] = pickle_frame,
};

static int pickle_step(struct kvl_pickle *p)
{
    uint8_t op;

    p->at = p->length - kvl_cursor_left(&p->in);
    if (kvl_cursor_left(&p->in) == 0) {
        return kvl_pickle_fail(p, -EPROTO, "the input ends without STOP");
    }
    op = kvl_cursor_get_u8(&p->in);
    if (pickle_ops[op] == NULL) {
        return kvl_fail(p->err, -EPROTO, "pickle: the opcode 0x%02x at byte %zu is not allowed", op,
                        p->base + p->at);
    }
    return pickle_ops[op](p);
}

static int pickle_head(struct kvl_pickle *p)
{
    const uint8_t op = kvl_cursor_get_u8(&p->in);
    const uint8_t protocol = kvl_cursor_get_u8(&p->in);

    if (kvl_cursor_failed(&p->in) || op != KVL_PICKLE_OP_PROTO) {
        return kvl_pickle_fail(p, -EPROTO, "no PROTO");
    }
    if (protocol != 4 && protocol != 5) {
        return kvl_pickle_fail(p, -EPROTO, "a protocol that is neither 4 nor 5");
    }
    p->tree->protocol = protocol;
    return 0;
}

int kvl_pickle_parse(const void *bytes, size_t length, size_t base,
                     struct kvl_pickle_tree *tree_out, struct kvl_err *err)
{
    struct kvl_pickle p; /* not zeroed: only what is counted is read */
    int r;

    if (length > KVL_IPC_INPUT_MAX) {
        return kvl_fail(err, -EMSGSIZE, "pickle: %zu bytes at byte %zu, the limit is %u", length,
                        base, KVL_IPC_INPUT_MAX);
    }
    kvl_cursor_init(&p.in, bytes, length);
    p.length = length;
    p.base = base;
    p.at = 0;
    p.err = err;
    p.tree = tree_out;
    p.depth = p.mark_count = p.memo_count = 0;
    p.has_stopped = 0;
    tree_out->node_count = tree_out->item_count = tree_out->entry_count = 0;
    r = pickle_head(&p);
    while (r == 0 && !p.has_stopped) {
        r = pickle_step(&p);
    }
    if (r == 0 && kvl_cursor_left(&p.in) > 0) {
        p.at++;
        r = kvl_pickle_fail(&p, -EPROTO, "bytes behind STOP");
    }
    return r;
}

const struct kvl_pickle_node *kvl_pickle_attr(const struct kvl_pickle_tree *tree,
                                              const struct kvl_pickle_node *object,
                                              const char *name)
{
    const size_t length = strlen(name);
    uint16_t at;

    if (object->first == KVL_PICKLE_NIL) {
        return NULL;
    }
    /* newest first: the last of several with one name counts */
    for (at = tree->nodes[object->first].first; at != KVL_PICKLE_NIL; at = tree->entries[at].next) {
        const struct kvl_pickle_node *key = &tree->nodes[tree->entries[at].key];

        if (key->length == length && memcmp(key->at, name, length) == 0) {
            return &tree->nodes[tree->entries[at].value];
        }
    }
    return NULL;
}
