/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_key.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "ipc_names.h"
#include "pack.h"
#include "setting.h"

#define KEY_RANK_MAX 255u

/* ---- fields ---- */

#define KEY_MODEL                                                                                  \
    {                                                                                              \
        KVL_IPC_FIELD_MODEL, 0, 0, 0                                                               \
    }
#define KEY_WORLD                                                                                  \
    {                                                                                              \
        KVL_IPC_FIELD_WORLD, 0, 0, 0                                                               \
    }
#define KEY_START                                                                                  \
    {                                                                                              \
        KVL_IPC_FIELD_START, 0, 0, 0                                                               \
    }
#define KEY_END                                                                                    \
    {                                                                                              \
        KVL_IPC_FIELD_END, 0, 0, 0                                                                 \
    }
#define KEY_WORKER(nil)                                                                            \
    {                                                                                              \
        KVL_IPC_FIELD_WORKER, KVL_IPC_KEY_HAS_WORKER, nil, 0                                       \
    }
#define KEY_HASH(nil, lack)                                                                        \
    {                                                                                              \
        KVL_IPC_FIELD_HASH, KVL_IPC_KEY_HAS_HASH, nil, lack                                        \
    }
#define KEY_TOKENS(nil)                                                                            \
    {                                                                                              \
        KVL_IPC_FIELD_TOKENS, KVL_IPC_KEY_HAS_TOKENS, nil, 0                                       \
    }
#define KEY_REQUEST(nil)                                                                           \
    {                                                                                              \
        KVL_IPC_FIELD_REQUEST, KVL_IPC_KEY_HAS_REQUEST, nil, 0                                     \
    }

static const struct kvl_ipc_key_form key_forms[] = {
    [KVL_IPC_GENERATION_0] = {4, {KEY_MODEL, KEY_WORLD, KEY_WORKER(0), KEY_HASH(0, 0)}},
    [KVL_IPC_GENERATION_A] = {4, {KEY_MODEL, KEY_WORLD, KEY_WORKER(1), KEY_HASH(0, 0)}},
    [KVL_IPC_GENERATION_B] = {8,
                              {KEY_MODEL, KEY_WORLD, KEY_WORKER(1), KEY_TOKENS(1), KEY_START,
                               KEY_END, KEY_HASH(1, 0), KEY_REQUEST(1)}},
    [KVL_IPC_GENERATION_C] = {8,
                              {KEY_MODEL, KEY_WORLD, KEY_WORKER(1), KEY_TOKENS(0), KEY_START,
                               KEY_END, KEY_REQUEST(0), KEY_HASH(1, 1)}},
};

static const char *const key_names[KVL_IPC_FIELD_COUNT] = {
    [KVL_IPC_FIELD_MODEL] = "model_name", [KVL_IPC_FIELD_WORLD] = "world_size",
    [KVL_IPC_FIELD_WORKER] = "worker_id", [KVL_IPC_FIELD_HASH] = "chunk_hash",
    [KVL_IPC_FIELD_TOKENS] = "token_ids", [KVL_IPC_FIELD_START] = "start",
    [KVL_IPC_FIELD_END] = "end",          [KVL_IPC_FIELD_REQUEST] = "request_id",
};

const struct kvl_ipc_key_form *kvl_ipc_key_form(uint32_t generation)
{
    if (generation == 0 || generation >= sizeof(key_forms) / sizeof(key_forms[0])) {
        return NULL;
    }
    return &key_forms[generation];
}

const char *kvl_ipc_field_name(uint8_t field)
{
    return key_names[field];
}

int kvl_ipc_key_has(const struct kvl_ipc_key *key, const struct kvl_ipc_key_field *field)
{
    return field->flag == 0 || (key->flags & field->flag) != 0;
}

/* ---- order ---- */

static int key_order(int below, int above)
{
    return below ? KVL_IPC_LESS : above ? KVL_IPC_GREATER : KVL_IPC_EQUAL;
}

/* Of UTF-8 this is the order of code points. */
static int key_order_bytes(struct kvl_ipc_bytes a, struct kvl_ipc_bytes b)
{
    const size_t shorter = (size_t)(a.length < b.length ? a.length : b.length);
    const int difference = shorter == 0 ? 0 : memcmp(a.at, b.at, shorter);

    if (difference != 0) {
        return key_order(difference < 0, 1);
    }
    return key_order(a.length<b.length, a.length> b.length);
}

static int key_order_ints(struct kvl_ipc_int a, struct kvl_ipc_int b)
{
    if (!a.negative != !b.negative) {
        return key_order(a.negative != 0, 1);
    }
    return key_order(a.bits<b.bits, a.bits> b.bits); /* two's complement: also below 0 */
}

/* A walk over a list of ints, however they are written. */
struct key_tokens {
    struct kvl_pack in;
    uint32_t left;
};

static void key_tokens_init(struct key_tokens *tokens, struct kvl_ipc_bytes list)
{
    tokens->left = 0;
    kvl_pack_init(&tokens->in, list.at, (size_t)list.length);
    (void)kvl_pack_read_array(&tokens->in, &tokens->left);
}

/* @return 1 and the next; 0 at the end. */
static int key_tokens_next(struct key_tokens *tokens, struct kvl_ipc_int *out)
{
    int negative;

    if (tokens->left == 0 || kvl_pack_read_int(&tokens->in, &out->bits, &negative) < 0) {
        return 0;
    }
    tokens->left--;
    out->negative = (uint32_t)negative;
    return 1;
}

static int key_order_tokens(struct kvl_ipc_bytes a, struct kvl_ipc_bytes b)
{
    struct key_tokens left;
    struct key_tokens right;
    struct kvl_ipc_int x = {0};
    struct kvl_ipc_int y = {0};
    int order = KVL_IPC_EQUAL;

    key_tokens_init(&left, a);
    key_tokens_init(&right, b);
    while (order == KVL_IPC_EQUAL) {
        const int has_x = key_tokens_next(&left, &x);
        const int has_y = key_tokens_next(&right, &y);

        if (!has_x || !has_y) {
            return key_order(has_x<has_y, has_x> has_y);
        }
        order = key_order_ints(x, y);
    }
    return order;
}

static int key_order_field(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b, uint8_t field)
{
    switch (field) {
    case KVL_IPC_FIELD_MODEL:
        return key_order_bytes(a->model_name, b->model_name);
    case KVL_IPC_FIELD_WORLD:
        return key_order_ints(a->world_size, b->world_size);
    case KVL_IPC_FIELD_WORKER:
        return key_order_ints(a->worker_id, b->worker_id);
    case KVL_IPC_FIELD_HASH:
        return key_order_bytes(a->chunk_hash, b->chunk_hash);
    case KVL_IPC_FIELD_TOKENS:
        return key_order_tokens(a->token_ids, b->token_ids);
    case KVL_IPC_FIELD_START:
        return key_order_ints(a->start, b->start);
    case KVL_IPC_FIELD_END:
        return key_order_ints(a->end, b->end);
    default: /* the request does not tell keys apart */
        return KVL_IPC_EQUAL;
    }
}

int kvl_ipc_key_compare(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b)
{
    const struct kvl_ipc_key_form *form = kvl_ipc_key_form(a->generation);
    int order = KVL_IPC_EQUAL;

    if (form == NULL || a->generation != b->generation) {
        return KVL_IPC_INCOMPARABLE;
    }
    for (uint32_t i = 0; i < form->count && order == KVL_IPC_EQUAL; i++) {
        const struct kvl_ipc_key_field *field = &form->fields[i];
        const int has_a = kvl_ipc_key_has(a, field);
        const int has_b = kvl_ipc_key_has(b, field);

        if (field->id == KVL_IPC_FIELD_REQUEST) {
            continue;
        }
        if (has_a != has_b) {
            return KVL_IPC_INCOMPARABLE;
        }
        order = has_a ? key_order_field(a, b, field->id) : KVL_IPC_EQUAL;
    }
    return order;
}

int kvl_ipc_key_equal(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b)
{
    return kvl_ipc_key_compare(a, b) == KVL_IPC_EQUAL;
}

/* ---- hash ---- */

/* splitmix64 over words of eight bytes: quick, and without the seed not to be predicted. */
static uint64_t key_mix(uint64_t hash, uint64_t word)
{
    uint64_t x = (hash ^ word) + 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t key_mix_bytes(uint64_t hash, struct kvl_ipc_bytes bytes)
{
    const uint8_t *at = bytes.at;
    uint64_t mixed = key_mix(hash, bytes.length);
    uint64_t word;

    for (uint64_t i = 0; i < bytes.length; i += sizeof(word)) {
        const size_t left = (size_t)(bytes.length - i);

        word = 0;
        memcpy(&word, at + i, left < sizeof(word) ? left : sizeof(word));
        mixed = key_mix(mixed, le64toh(word));
    }
    return mixed;
}

static uint64_t key_mix_int(uint64_t hash, struct kvl_ipc_int number)
{
    return key_mix(key_mix(hash, number.negative != 0), number.bits);
}

static uint64_t key_mix_tokens(uint64_t hash, struct kvl_ipc_bytes list)
{
    struct key_tokens tokens;
    struct kvl_ipc_int token = {0};
    uint64_t mixed = hash;

    key_tokens_init(&tokens, list);
    while (key_tokens_next(&tokens, &token)) {
        mixed = key_mix_int(mixed, token);
    }
    return mixed;
}

static uint64_t key_mix_field(uint64_t hash, const struct kvl_ipc_key *key, uint8_t field)
{
    switch (field) {
    case KVL_IPC_FIELD_MODEL:
        return key_mix_bytes(hash, key->model_name);
    case KVL_IPC_FIELD_WORLD:
        return key_mix_int(hash, key->world_size);
    case KVL_IPC_FIELD_WORKER:
        return key_mix_int(hash, key->worker_id);
    case KVL_IPC_FIELD_HASH:
        return key_mix_bytes(hash, key->chunk_hash);
    case KVL_IPC_FIELD_TOKENS:
        return key_mix_tokens(hash, key->token_ids);
    case KVL_IPC_FIELD_START:
        return key_mix_int(hash, key->start);
    case KVL_IPC_FIELD_END:
        return key_mix_int(hash, key->end);
    default:
        return hash;
    }
}

uint64_t kvl_ipc_key_hash(const struct kvl_ipc_key *key, uint64_t seed)
{
    const struct kvl_ipc_key_form *form = kvl_ipc_key_form(key->generation);
    uint64_t hash = key_mix(seed, key->generation);

    for (uint32_t i = 0; form != NULL && i < form->count; i++) {
        const struct kvl_ipc_key_field *field = &form->fields[i];

        if (field->id == KVL_IPC_FIELD_REQUEST) {
            continue;
        }
        hash = kvl_ipc_key_has(key, field) ? key_mix_field(hash, key, field->id)
                                           : key_mix(hash, UINT64_MAX);
    }
    return hash;
}

/* ---- what is made of keys ---- */

void kvl_ipc_key_without_worker(const struct kvl_ipc_key *key, struct kvl_ipc_key *key_out)
{
    *key_out = *key;
    key_out->flags &= ~KVL_IPC_KEY_HAS_WORKER;
    key_out->worker_id = kvl_ipc_int_of(0);
}

int kvl_ipc_key_hash_of_int(int64_t number, uint8_t *bytes_out)
{
    const uint32_t big = htobe32((uint32_t)number);

    if (number < 0 || number > UINT32_MAX) {
        return -ERANGE;
    }
    memcpy(bytes_out, &big, sizeof(big));
    return 0;
}

uint64_t kvl_ipc_key_hash_to_int(struct kvl_ipc_bytes chunk_hash)
{
    const uint8_t *at = chunk_hash.at;
    uint64_t number = 0;

    for (uint64_t i = 0; i < chunk_hash.length; i++) {
        number = number << 8 | at[i];
    }
    return number;
}

/* Storage keys that one key stands for, and the worker of the first. */
static int key_workers(const struct kvl_ipc_key *key, uint32_t index, uint32_t *first_out,
                       uint32_t *count_out, struct kvl_err *err)
{
    const struct kvl_ipc_int world = key->world_size;
    const struct kvl_ipc_int worker = key->worker_id;

    if ((key->flags & KVL_IPC_KEY_HAS_HASH) == 0) {
        return kvl_fail(err, -EBADMSG, "key %u: it has no chunk hash", index);
    }
    if (world.negative || world.bits == 0 || world.bits > KVL_IPC_WORLD_MAX) {
        return kvl_fail(err, -ERANGE, "key %u: its world size is not 1 to %u", index,
                        KVL_IPC_WORLD_MAX);
    }
    if ((key->flags & KVL_IPC_KEY_HAS_WORKER) == 0) {
        *first_out = 0;
        *count_out = (uint32_t)world.bits;
        return 0;
    }
    /* not held against the world size: peers do not either */
    if (worker.negative || worker.bits >= KVL_IPC_WORLD_MAX) {
        return kvl_fail(err, -ERANGE, "key %u: its worker is not 0 to %u", index,
                        KVL_IPC_WORLD_MAX - 1);
    }
    *first_out = (uint32_t)worker.bits;
    *count_out = 1;
    return 0;
}

static int key_expand_count(const struct kvl_ipc_key *keys, uint32_t count, uint64_t *count_out,
                            struct kvl_err *err)
{
    uint64_t total = 0;
    uint32_t first = 0;
    uint32_t workers = 0;

    for (uint32_t i = 0; i < count; i++) {
        int r = key_workers(&keys[i], i, &first, &workers, err);

        if (r < 0) {
            return r;
        }
        if (keys[i].world_size.bits != keys[0].world_size.bits) {
            return kvl_fail(err, -EBADMSG, "key %u: its world size is not that of the first", i);
        }
        total += workers;
    }
    *count_out = total;
    return 0;
}

int kvl_ipc_key_expand(const struct kvl_ipc_key *keys, uint32_t count,
                       struct kvl_ipc_storage_key *keys_out, uint32_t room, uint32_t *count_out,
                       struct kvl_err *err)
{
    struct kvl_ipc_storage_key *at = keys_out;
    uint64_t total = 0;
    uint32_t first = 0;
    uint32_t workers = 0;
    int r = key_expand_count(keys, count, &total, err);

    if (r < 0) {
        return r;
    }
    if (total > UINT32_MAX) {
        return kvl_fail(err, -EMSGSIZE, "keys: %u of them stand for too many", count);
    }
    *count_out = (uint32_t)total;
    if (total > room) {
        return kvl_fail(err, -ENOSPC, "keys: they stand for %u, there is room for %u", *count_out,
                        room);
    }
    for (uint32_t i = 0; i < count; i++) {
        (void)key_workers(&keys[i], i, &first, &workers, NULL); /* fine, as counted */
        for (uint32_t j = 0; j < workers; j++) {
            *at++ = (struct kvl_ipc_storage_key){.model_name = keys[i].model_name,
                                                 .chunk_hash = keys[i].chunk_hash,
                                                 .world_size = (uint32_t)keys[i].world_size.bits,
                                                 .worker_id = first + j};
        }
    }
    return 0;
}

int kvl_ipc_object_key(const struct kvl_ipc_storage_key *key, struct kvl_ipc_object_key *key_out,
                       struct kvl_err *err)
{
    if (key->world_size > KEY_RANK_MAX || key->worker_id > KEY_RANK_MAX) {
        return kvl_fail(err, -ERANGE, "key: world size %u or worker %u is beyond %u",
                        key->world_size, key->worker_id, KEY_RANK_MAX);
    }
    /* the local pair is the global one for now */
    *key_out = (struct kvl_ipc_object_key){
        .model_name = key->model_name,
        .chunk_hash = key->chunk_hash,
        .kv_rank =
            key->world_size << 24 | key->worker_id << 16 | key->world_size << 8 | key->worker_id,
    };
    return 0;
}
