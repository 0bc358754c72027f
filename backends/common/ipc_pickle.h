/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_pickle.h
 * The subset of pickle protocols 4 and 5 that a CudaIPCWrapper needs: a reader that executes
 * nothing and makes a tree of symbols and values, and a writer of the bytes CPython writes.
 *
 * Reader: one pass, no recursion, no allocation; a tree is of fixed size. Names that are not on the
 * list of ipc_names.h are refused, REDUCE makes only a torch.Size of ints, NEWOBJ only a wrapper
 * without arguments, BUILD only sets its attributes, once. What one object shares with another by
 * the memo is shared in the tree, so the tree may not be walked to any depth.
 */
#ifndef KVL_IPC_PICKLE_H
#define KVL_IPC_PICKLE_H

#include <kvlane/ipc.h>

#define KVL_PICKLE_STACK_MAX 256u /* entries, marks among them */
#define KVL_PICKLE_MEMO_MAX 256u
#define KVL_PICKLE_DEPTH_MAX 16u
#define KVL_PICKLE_NODES_MAX 1024u
#define KVL_PICKLE_ITEMS_MAX 1024u /* of all tuples together */
#define KVL_PICKLE_ENTRIES_MAX 256u /* of all dicts together */

/** No node, no entry. */
#define KVL_PICKLE_NIL UINT16_MAX

enum kvl_pickle_kind {
    KVL_PICKLE_NONE,
    KVL_PICKLE_BOOL, /* bits: 0 or 1 */
    KVL_PICKLE_INT, /* bits, negative: from -2^63 to 2^64-1 */
    KVL_PICKLE_TEXT, /* at, length; UTF-8 */
    KVL_PICKLE_BYTES, /* at, length */
    KVL_PICKLE_TUPLE, /* first, length: its items */
    KVL_PICKLE_SIZE, /* a torch.Size; first, length: its items, all ints */
    KVL_PICKLE_DICT, /* first: newest entry; keys are texts */
    KVL_PICKLE_OBJECT, /* a wrapper; first: dict of its attributes */
    KVL_PICKLE_CLASS, /* the class of wrappers */
    KVL_PICKLE_SIZE_TYPE, /* torch.Size itself */
    KVL_PICKLE_DTYPE, /* bits: KVL_IPC_DTYPE_ */
};

struct kvl_pickle_node {
    union {
        const uint8_t *at; /* in the input */
        uint64_t bits;
    };
    uint32_t length;
    uint32_t offset; /* of its opcode in the input */
    uint16_t first;
    uint8_t kind; /* KVL_PICKLE_ */
    uint8_t depth; /* of nodes below it */
    uint8_t negative; /* of an int */
    uint8_t frozen; /* a dict that became attributes: BUILD copied it */
};

struct kvl_pickle_entry {
    uint16_t key;
    uint16_t value;
    uint16_t next; /* older entry of the same dict */
};

/** A stream that was read. Only what is counted is set. */
struct kvl_pickle_tree {
    uint16_t root;
    uint16_t node_count;
    uint16_t item_count;
    uint16_t entry_count;
    uint8_t protocol;
    struct kvl_pickle_node nodes[KVL_PICKLE_NODES_MAX];
    uint16_t items[KVL_PICKLE_ITEMS_MAX]; /* nodes */
    struct kvl_pickle_entry entries[KVL_PICKLE_ENTRIES_MAX];
};

/**
 * Reads a stream, whole. Nodes point into `bytes`.
 * @param base  where `bytes` begins, for the offsets in messages
 * @return 0; -EPROTO; -EMSGSIZE; -ENOTSUP a class of a later LMCache.
 */
int kvl_pickle_parse(const void *bytes, size_t length, size_t base,
                     struct kvl_pickle_tree *tree_out, struct kvl_err *err);

/** Item `index` of a tuple or torch.Size. */
static inline const struct kvl_pickle_node *kvl_pickle_item(const struct kvl_pickle_tree *tree,
                                                            const struct kvl_pickle_node *tuple,
                                                            uint32_t index)
{
    return &tree->nodes[tree->items[tuple->first + index]];
}

/** An attribute of an object; NULL when it has none of that name. */
const struct kvl_pickle_node *kvl_pickle_attr(const struct kvl_pickle_tree *tree,
                                              const struct kvl_pickle_node *object,
                                              const char *name);

/**
 * Writes into memory of the caller. Beyond its end nothing is written, but `length` goes on, so a
 * failed run says how much room the next one needs.
 */
struct kvl_pickle_out {
    uint8_t *at; /* may be NULL without room */
    size_t room;
    size_t length; /* written, or needed when that is more than room */
    size_t frame; /* begin of the open frame */
    int is_open; /* a frame is */
};

/** Begins a stream of protocol 4 or 5. */
void kvl_pickle_begin(struct kvl_pickle_out *out, void *bytes, size_t room, uint32_t protocol);

/** An opcode without argument that makes no object, such as MARK. */
void kvl_pickle_put_op(struct kvl_pickle_out *out, uint8_t op);

/** MEMOIZE: CPython writes it behind most objects, though nothing refers to them. */
void kvl_pickle_put_memoize(struct kvl_pickle_out *out);

/** To be called where an object begins, before the objects it is made of. */
void kvl_pickle_put_object(struct kvl_pickle_out *out);

void kvl_pickle_put_none(struct kvl_pickle_out *out);
void kvl_pickle_put_bool(struct kvl_pickle_out *out, int value);
void kvl_pickle_put_i64(struct kvl_pickle_out *out, int64_t value);
void kvl_pickle_put_u64(struct kvl_pickle_out *out, uint64_t value);
void kvl_pickle_put_text(struct kvl_pickle_out *out, struct kvl_ipc_bytes text);
/** At most 4 GiB. */
void kvl_pickle_put_bytes(struct kvl_pickle_out *out, struct kvl_ipc_bytes bytes);
void kvl_pickle_put_global(struct kvl_pickle_out *out, const char *module, const char *name);
void kvl_pickle_put_empty_tuple(struct kvl_pickle_out *out);
/** Around the items of a tuple, of which there are `count`, at least 1. */
void kvl_pickle_open_tuple(struct kvl_pickle_out *out, uint32_t count);
void kvl_pickle_close_tuple(struct kvl_pickle_out *out, uint32_t count);

/** Ends the stream. @return 0; -ENOSPC. */
int kvl_pickle_end(struct kvl_pickle_out *out);

/* Opcodes of the subset. */
#define KVL_PICKLE_OP_MARK 0x28u
#define KVL_PICKLE_OP_EMPTY_TUPLE 0x29u
#define KVL_PICKLE_OP_STOP 0x2eu
#define KVL_PICKLE_OP_BINBYTES 0x42u
#define KVL_PICKLE_OP_SHORT_BINBYTES 0x43u
#define KVL_PICKLE_OP_BININT 0x4au
#define KVL_PICKLE_OP_BININT1 0x4bu
#define KVL_PICKLE_OP_BININT2 0x4du
#define KVL_PICKLE_OP_NONE 0x4eu
#define KVL_PICKLE_OP_REDUCE 0x52u
#define KVL_PICKLE_OP_BINUNICODE 0x58u
#define KVL_PICKLE_OP_BUILD 0x62u
#define KVL_PICKLE_OP_BINGET 0x68u
#define KVL_PICKLE_OP_LONG_BINGET 0x6au
#define KVL_PICKLE_OP_SETITEM 0x73u
#define KVL_PICKLE_OP_TUPLE 0x74u
#define KVL_PICKLE_OP_SETITEMS 0x75u
#define KVL_PICKLE_OP_EMPTY_DICT 0x7du
#define KVL_PICKLE_OP_PROTO 0x80u
#define KVL_PICKLE_OP_NEWOBJ 0x81u
#define KVL_PICKLE_OP_TUPLE1 0x85u
#define KVL_PICKLE_OP_TUPLE2 0x86u
#define KVL_PICKLE_OP_TUPLE3 0x87u
#define KVL_PICKLE_OP_NEWTRUE 0x88u
#define KVL_PICKLE_OP_NEWFALSE 0x89u
#define KVL_PICKLE_OP_LONG1 0x8au
#define KVL_PICKLE_OP_SHORT_BINUNICODE 0x8cu
#define KVL_PICKLE_OP_BINBYTES8 0x8eu
#define KVL_PICKLE_OP_STACK_GLOBAL 0x93u
#define KVL_PICKLE_OP_MEMOIZE 0x94u
#define KVL_PICKLE_OP_FRAME 0x95u

#endif /* KVL_IPC_PICKLE_H */
