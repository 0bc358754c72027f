/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc_key.h
 * IPCCacheEngineKey and what is made of it. The contracts are those of the slots in kvl_ipc_ops.
 */
#ifndef KVL_IPC_KEY_H
#define KVL_IPC_KEY_H

#include <kvlane/ipc.h>

enum kvl_ipc_field {
    KVL_IPC_FIELD_MODEL,
    KVL_IPC_FIELD_WORLD,
    KVL_IPC_FIELD_WORKER,
    KVL_IPC_FIELD_HASH,
    KVL_IPC_FIELD_TOKENS,
    KVL_IPC_FIELD_START,
    KVL_IPC_FIELD_END,
    KVL_IPC_FIELD_REQUEST,
    KVL_IPC_FIELD_COUNT,
};

/** One field of a key of some generation. */
struct kvl_ipc_key_field {
    uint8_t id; /* KVL_IPC_FIELD_ */
    uint8_t flag; /* KVL_IPC_KEY_HAS_ that says it is not nil; 0 = it always is there */
    uint8_t may_be_nil;
    uint8_t may_lack; /* on the wire, for nil */
};

struct kvl_ipc_key_form {
    uint32_t count;
    struct kvl_ipc_key_field fields[KVL_IPC_FIELD_COUNT]; /* in the order of the wire */
};

/** Fields of the keys of a generation; NULL for an unknown one. */
const struct kvl_ipc_key_form *kvl_ipc_key_form(uint32_t generation);

/** Name of a field on the wire. */
const char *kvl_ipc_field_name(uint8_t field);

/** 1 when the key has a value there. */
int kvl_ipc_key_has(const struct kvl_ipc_key *key, const struct kvl_ipc_key_field *field);

int kvl_ipc_key_equal(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b);
uint64_t kvl_ipc_key_hash(const struct kvl_ipc_key *key, uint64_t seed);
int kvl_ipc_key_compare(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b);
void kvl_ipc_key_without_worker(const struct kvl_ipc_key *key, struct kvl_ipc_key *key_out);
int kvl_ipc_key_hash_of_int(int64_t number, uint8_t *bytes_out);
uint64_t kvl_ipc_key_hash_to_int(struct kvl_ipc_bytes chunk_hash);
int kvl_ipc_key_expand(const struct kvl_ipc_key *keys, uint32_t count,
                       struct kvl_ipc_storage_key *keys_out, uint32_t room, uint32_t *count_out,
                       struct kvl_err *err);
int kvl_ipc_object_key(const struct kvl_ipc_storage_key *key, struct kvl_ipc_object_key *key_out,
                       struct kvl_err *err);

#endif /* KVL_IPC_KEY_H */
