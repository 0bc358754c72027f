/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_pickle_state.h
 * Private to ipc_pickle*.c: a stream that is being read.
 */
#ifndef KVL_IPC_PICKLE_STATE_H
#define KVL_IPC_PICKLE_STATE_H

#include "cursor.h"
#include "ipc_pickle.h"

struct kvl_pickle {
    struct kvl_cursor in;
    size_t length; /* of the whole input */
    size_t base;
    size_t at; /* offset of the opcode being read */
    struct kvl_err *err;
    struct kvl_pickle_tree *tree;
    uint32_t depth; /* entries of the stack, without marks */
    uint32_t mark_count;
    uint32_t memo_count;
    int has_stopped;
    uint16_t stack[KVL_PICKLE_STACK_MAX];
    uint16_t marks[KVL_PICKLE_STACK_MAX]; /* depth of the stack where each was set */
    uint16_t memo[KVL_PICKLE_MEMO_MAX];
};

/** "pickle: <what> at byte <of this opcode>". @return `code`. */
int kvl_pickle_fail(const struct kvl_pickle *p, int code, const char *what);

/** @return 0; -EPROTO when the stack has less above its last mark. */
int kvl_pickle_need(const struct kvl_pickle *p, uint32_t count);

/** The object `below` the top; what kvl_pickle_need() has asked for. */
struct kvl_pickle_node *kvl_pickle_top(struct kvl_pickle *p, uint32_t below);

/** A copy of the node, at this opcode, on the stack. @return 0; -EMSGSIZE. */
int kvl_pickle_push_new(struct kvl_pickle *p, const struct kvl_pickle_node *node);

/** The opcodes STACK_GLOBAL, NEWOBJ, REDUCE, BUILD. @return 0; -EPROTO; -ENOTSUP; -EMSGSIZE. */
int kvl_pickle_global(struct kvl_pickle *p);
int kvl_pickle_newobj(struct kvl_pickle *p);
int kvl_pickle_reduce(struct kvl_pickle *p);
int kvl_pickle_build(struct kvl_pickle *p);

#endif /* KVL_IPC_PICKLE_STATE_H */
