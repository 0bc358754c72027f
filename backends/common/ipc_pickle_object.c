/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What pickle calls objects: names, and calls of them. Here it is decided that nothing is called.
 */
#include <errno.h>

#include "ipc_names.h"
#include "ipc_pickle_state.h"
#include "setting.h"

static int pickle_global_refuse(const struct kvl_pickle *p, enum kvl_ipc_symbol symbol,
                                struct kvl_ipc_bytes module, struct kvl_ipc_bytes name)
{
    char first[KVL_IPC_SHOW_ROOM];
    char second[KVL_IPC_SHOW_ROOM];
    const int is_later = symbol == KVL_IPC_SYMBOL_LATER;

    return kvl_fail(p->err, is_later ? -ENOTSUP : -EPROTO, "pickle: '%s.%s' at byte %zu is %s",
                    kvl_ipc_show(module, first), kvl_ipc_show(name, second), p->base + p->at,
                    is_later ? "of a later LMCache: known, not supported"
                             : "none of the names that are allowed");
}

int kvl_pickle_global(struct kvl_pickle *p)
{
    const struct kvl_pickle_node *name;
    const struct kvl_pickle_node *module;
    struct kvl_pickle_node node = {0};
    enum kvl_ipc_symbol symbol;
    uint32_t dtype = 0;
    int r = kvl_pickle_need(p, 2);

    if (r < 0) {
        return r;
    }
    name = kvl_pickle_top(p, 0);
    module = kvl_pickle_top(p, 1);
    if (name->kind != KVL_PICKLE_TEXT || module->kind != KVL_PICKLE_TEXT) {
        return kvl_pickle_fail(p, -EPROTO, "a name that is not a text");
    }
    symbol = kvl_ipc_symbol_find((struct kvl_ipc_bytes){module->at, module->length},
                                 (struct kvl_ipc_bytes){name->at, name->length}, &dtype);
    if (symbol == KVL_IPC_SYMBOL_NONE || symbol == KVL_IPC_SYMBOL_LATER) {
        return pickle_global_refuse(p, symbol, (struct kvl_ipc_bytes){module->at, module->length},
                                    (struct kvl_ipc_bytes){name->at, name->length});
    }
    p->depth -= 2;
    node.bits = dtype;
    node.kind = symbol == KVL_IPC_SYMBOL_WRAPPER ? KVL_PICKLE_CLASS
                : symbol == KVL_IPC_SYMBOL_SIZE  ? KVL_PICKLE_SIZE_TYPE
                                                 : KVL_PICKLE_DTYPE;
    return kvl_pickle_push_new(p, &node);
}

int kvl_pickle_newobj(struct kvl_pickle *p)
{
    const struct kvl_pickle_node object = {.kind = KVL_PICKLE_OBJECT, .first = KVL_PICKLE_NIL};
    const struct kvl_pickle_node *args;
    int r = kvl_pickle_need(p, 2);

    if (r < 0) {
        return r;
    }
    args = kvl_pickle_top(p, 0);
    if (kvl_pickle_top(p, 1)->kind != KVL_PICKLE_CLASS || args->kind != KVL_PICKLE_TUPLE ||
        args->length != 0) {
        return kvl_pickle_fail(p, -EPROTO, "an object that is no plain " KVL_IPC_WRAPPER_CLASS);
    }
    p->depth -= 2;
    return kvl_pickle_push_new(p, &object);
}

/* torch.Size((1, 2, 3)) and nothing else. */
int kvl_pickle_reduce(struct kvl_pickle *p)
{
    const struct kvl_pickle_node *args;
    struct kvl_pickle_node size;
    int r = kvl_pickle_need(p, 2);

    if (r < 0) {
        return r;
    }
    args = kvl_pickle_top(p, 0);
    if (kvl_pickle_top(p, 1)->kind != KVL_PICKLE_SIZE_TYPE || args->kind != KVL_PICKLE_TUPLE ||
        args->length != 1 || kvl_pickle_item(p->tree, args, 0)->kind != KVL_PICKLE_TUPLE) {
        return kvl_pickle_fail(p, -EPROTO, "a call that does not make a torch.Size");
    }
    size = *kvl_pickle_item(p->tree, args, 0);
    if (size.length > KVL_IPC_DIMS_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "a torch.Size of too many dimensions");
    }
    for (uint32_t i = 0; i < size.length; i++) {
        if (kvl_pickle_item(p->tree, &size, i)->kind != KVL_PICKLE_INT) {
            return kvl_pickle_fail(p, -EPROTO, "a torch.Size of what is no int");
        }
    }
    p->depth -= 2;
    size.kind = KVL_PICKLE_SIZE;
    return kvl_pickle_push_new(p, &size);
}

int kvl_pickle_build(struct kvl_pickle *p)
{
    struct kvl_pickle_node *object;
    struct kvl_pickle_node *state;
    int r = kvl_pickle_need(p, 2);

    if (r < 0) {
        return r;
    }
    state = kvl_pickle_top(p, 0);
    object = kvl_pickle_top(p, 1);
    if (object->kind != KVL_PICKLE_OBJECT || object->first != KVL_PICKLE_NIL ||
        state->kind != KVL_PICKLE_DICT) {
        return kvl_pickle_fail(p, -EPROTO, "attributes that no object can take");
    }
    if (state->depth >= KVL_PICKLE_DEPTH_MAX) {
        return kvl_pickle_fail(p, -EMSGSIZE, "objects are nested too deep");
    }
    object->first = p->stack[--p->depth];
    object->depth = (uint8_t)(state->depth + 1);
    state->frozen = 1;
    return 0;
}
