/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file ipc.h
 * What LMCache's multiprocess mode writes between an engine and its cache server: keys, tensors
 * shared by CUDA IPC (CudaIPCWrapper), and the payloads of its messages. Types, and one table of
 * pure functions that read and write them.
 *
 * No function here needs a GPU, an open instance or the network; none allocates, blocks or keeps
 * state: all may be called from any thread at any time. Whatever bytes are given, work and memory
 * are bounded: by the length of the input and the limits below.
 *
 * Nothing is ever executed. A wrapper travels as a pickle; the reader takes just the subset that
 * such an object needs, from a closed list of names, and refuses everything else.
 *
 * Texts and byte strings of a decoded record are views: they point into the input, which must stay
 * as long as they are used. Texts are UTF-8 and not terminated.
 *
 * Errors, with one sentence in `err` (may be NULL) that names what and at which byte of the input:
 * -EPROTO the bytes are malformed, or hold what is not allowed; -EBADMSG well formed, but not a
 * wrapper, handle or key that could be used; -ENOTSUP a known form that kvlane does not handle;
 * -EMSGSIZE beyond a limit; -ERANGE a number that does not fit; -ENOSPC too little room, see there;
 * -EINVAL the caller's fault.
 */
#ifndef KVL_IPC_H
#define KVL_IPC_H

#include <kvlane/io.h>

KVL_EXTERN_C_BEGIN

/* ---- limits ---- */

#define KVL_IPC_INPUT_MAX 16777216u /* bytes of one message; a smaller limit is in the options */
#define KVL_IPC_DIMS_MAX 64u /* of a tensor */
#define KVL_IPC_NAME_MAX 255u /* bytes of the name of a counter file */
#define KVL_IPC_UUID_MAX 64u /* bytes of a device UUID; a right one has 36 */
#define KVL_IPC_WORLD_MAX 65536u /* world size of a key that is expanded */

/* ---- which LMCache ---- */

/*
 * Generations of the protocol. Nothing on the wire tells them apart: configure it. 0: worker_id is
 * never nil. A: LMCache from about 0.3.13 on. B, C: keys by tokens or hash; of these the keys and
 * wrappers are known here, request numbers are not.
 */
#define KVL_IPC_GENERATION_0 1u
#define KVL_IPC_GENERATION_A 2u
#define KVL_IPC_GENERATION_B 3u
#define KVL_IPC_GENERATION_C 4u

/* Attributes that a wrapper has. */
#define KVL_IPC_FORM_PRE_UUID 1u /* no device_uuid: the device is the index in the handle */
#define KVL_IPC_FORM_A 2u /* contiguous, from the beginning of the storage */
#define KVL_IPC_FORM_C 3u /* with stride and storage offset */

/** Bit of a form in kvl_ipc_options.forms. */
#define KVL_IPC_FORM_BIT(form) (1u << (form))

/** NULL stands for all zero. */
struct kvl_ipc_options {
    uint32_t size; /* sizeof(struct kvl_ipc_options) of the caller */
    uint32_t generation; /* 0 = KVL_IPC_GENERATION_A */
    uint32_t protocol; /* pickle protocol to write, 4 or 5; 0 = 4. Both are read */
    uint32_t forms; /* KVL_IPC_FORM_BIT of those to take; 0 = A and C */
    uint64_t input_max; /* bytes; 0 = KVL_IPC_INPUT_MAX, which it cannot exceed */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_options) == 24, "append fields, bump the minor version");

/* ---- values ---- */

/** Borrowed bytes or UTF-8 text. `at` may be NULL when length is 0. */
struct kvl_ipc_bytes {
    const void *at;
    uint64_t length;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_bytes) == 16, "struct kvl_ipc_bytes: part of the ABI");

/** An integer from -2^63 to 2^64-1, in two's complement, as Python peers may write any. */
struct kvl_ipc_int {
    uint64_t bits;
    uint32_t negative; /* 1 when the number is below 0 */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_int) == 16, "struct kvl_ipc_int is part of the ABI");

static inline struct kvl_ipc_int kvl_ipc_int_of(int64_t value)
{
    struct kvl_ipc_int number;

    number.bits = (uint64_t)value;
    number.negative = value < 0 ? 1u : 0u;
    number.reserved = 0;
    return number;
}

/* ---- keys ---- */

#define KVL_IPC_KEY_HAS_WORKER (1u << 0) /* without: for all workers, as lookups ask */
#define KVL_IPC_KEY_HAS_HASH (1u << 1) /* always set in generations 0 and A */
#define KVL_IPC_KEY_HAS_TOKENS (1u << 2) /* generations B and C */
#define KVL_IPC_KEY_HAS_REQUEST (1u << 3) /* generations B and C; always set in C */

/** IPCCacheEngineKey. A field without its flag, or that the generation lacks, is not looked at. */
struct kvl_ipc_key {
    uint32_t generation; /* KVL_IPC_GENERATION_, not 0: says which fields there are */
    uint32_t flags; /* KVL_IPC_KEY_ */
    struct kvl_ipc_bytes model_name;
    struct kvl_ipc_int world_size;
    struct kvl_ipc_int worker_id;
    struct kvl_ipc_bytes chunk_hash;
    /* Generations B and C. The tokens are a whole KVL_IPC_INTS frame: decode it to read them,
     * encode one to set them. */
    struct kvl_ipc_bytes token_ids;
    struct kvl_ipc_int start;
    struct kvl_ipc_int end;
    struct kvl_ipc_bytes request_id;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_key) == 136, "struct kvl_ipc_key is part of the ABI");

/* Outcome of key_compare. */
#define KVL_IPC_LESS (-1)
#define KVL_IPC_EQUAL 0
#define KVL_IPC_GREATER 1
#define KVL_IPC_INCOMPARABLE 2 /* where Python raises TypeError: one has what the other lacks */

/** What a server stores under: a key of one worker. */
struct kvl_ipc_storage_key {
    struct kvl_ipc_bytes model_name;
    struct kvl_ipc_bytes chunk_hash;
    uint32_t world_size; /* 1 .. KVL_IPC_WORLD_MAX */
    uint32_t worker_id;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_storage_key) == 40, "struct kvl_ipc_storage_key: the ABI");

/** The same for the storage manager of February 2026. */
struct kvl_ipc_object_key {
    struct kvl_ipc_bytes model_name;
    struct kvl_ipc_bytes chunk_hash;
    uint32_t kv_rank; /* world size, rank, local world size, local rank: 8 bits each */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_object_key) == 40, "struct kvl_ipc_object_key: the ABI");

/* ---- tensors shared by CUDA IPC ---- */

/* Element types; kvl_ipc_ops.dtype_name has their names in torch. */
#define KVL_IPC_DTYPE_FLOAT16 1u
#define KVL_IPC_DTYPE_BFLOAT16 2u
#define KVL_IPC_DTYPE_FLOAT32 3u
#define KVL_IPC_DTYPE_FLOAT64 4u
#define KVL_IPC_DTYPE_FLOAT8_E4M3FN 5u
#define KVL_IPC_DTYPE_FLOAT8_E5M2 6u
#define KVL_IPC_DTYPE_FLOAT8_E4M3FNUZ 7u
#define KVL_IPC_DTYPE_FLOAT8_E5M2FNUZ 8u
#define KVL_IPC_DTYPE_FLOAT8_E8M0FNU 9u
#define KVL_IPC_DTYPE_UINT8 10u
#define KVL_IPC_DTYPE_INT8 11u
#define KVL_IPC_DTYPE_INT16 12u
#define KVL_IPC_DTYPE_INT32 13u
#define KVL_IPC_DTYPE_INT64 14u
#define KVL_IPC_DTYPE_BOOL 15u

/** A storage without memory: handle, counter_name and event are empty, there is nothing to open. */
#define KVL_IPC_NULL_STORAGE (1u << 0)
/** Wait for `event` before the memory is read. Without it `event` may hold anything. */
#define KVL_IPC_EVENT_SYNC (1u << 1)
/** The shape is a plain tuple and no torch.Size; form C writes it so. */
#define KVL_IPC_SHAPE_TUPLE (1u << 2)

/** CudaIPCWrapper: a tensor in the memory of another process. */
struct kvl_ipc_wrapper {
    uint32_t form; /* KVL_IPC_FORM_ */
    uint32_t flags; /* KVL_IPC_NULL_STORAGE, .. */
    int32_t device; /* index at the producer; means nothing elsewhere, except before device_uuid */
    uint32_t dtype; /* KVL_IPC_DTYPE_ */
    struct kvl_ipc_bytes handle; /* for handle_parse */
    uint64_t storage_bytes;
    uint64_t base_offset; /* of the storage in the block that the handle opens; bytes */
    struct kvl_ipc_bytes counter_name; /* "/torch_<pid>_<random>_<number>" */
    uint64_t counter_slot; /* 0 .. 9999 */
    struct kvl_ipc_bytes event; /* 64 bytes, a CUDA event handle */
    struct kvl_ipc_bytes device_uuid; /* any text is well formed; see uuid_text */
    int64_t storage_offset; /* form C: elements */
    uint32_t dims; /* entries of shape and stride */
    uint32_t reserved; /* 0 */
    int64_t shape[KVL_IPC_DIMS_MAX];
    int64_t stride[KVL_IPC_DIMS_MAX]; /* form C: elements */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_wrapper) == 1144, "struct kvl_ipc_wrapper: the ABI");

/* What handle bytes are. */
#define KVL_IPC_HANDLE_RAW 1u /* 64 bytes, torch before mid 2024 */
#define KVL_IPC_HANDLE_MALLOC 2u /* 'c': 64 bytes of the first block of a cudaMalloc segment */
#define KVL_IPC_HANDLE_FDS 3u /* 'e': descriptors of an expandable segment, in the exporter */
#define KVL_IPC_HANDLE_FABRIC 4u /* 'e': fabric handles of an expandable segment */

/** Handle bytes taken apart. */
struct kvl_ipc_handle {
    uint32_t kind; /* KVL_IPC_HANDLE_ */
    uint32_t version; /* 1 or 2; 0 of a raw one */
    int32_t pid; /* of the exporter, in its own PID namespace; expandable segments only */
    uint32_t item_bytes; /* of each entry of `items`: 64; 4 of descriptors */
    uint64_t count; /* entries of `items`; 1 unless expandable */
    uint64_t segment_bytes; /* of each entry; 0 unless expandable */
    struct kvl_ipc_bytes items; /* cudaIpcMemHandle_t, little-endian int32, or CUmemFabricHandle */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_handle) == 48, "struct kvl_ipc_handle: part of the ABI");

/* ---- messages ---- */

/* Request types of generations 0 and A; the numbers are those on the wire. */
#define KVL_IPC_REGISTER_KV_CACHE 1u
#define KVL_IPC_UNREGISTER_KV_CACHE 2u
#define KVL_IPC_STORE 3u
#define KVL_IPC_RETRIEVE 4u
#define KVL_IPC_LOOKUP 5u
#define KVL_IPC_CLEAR 6u
#define KVL_IPC_GET_CHUNK_SIZE 7u
#define KVL_IPC_NOOP 8u

/* What a frame of a message holds, and the fields of kvl_ipc_value that say it. */
#define KVL_IPC_INT 1u /* number */
#define KVL_IPC_INTS 2u /* ints */
#define KVL_IPC_BOOL_OR_NIL 3u /* truth */
#define KVL_IPC_BOOLS 4u /* bools */
#define KVL_IPC_TEXT 5u /* bytes */
#define KVL_IPC_BYTES 6u /* bytes */
#define KVL_IPC_BYTES_BOOL 7u /* a pair: bytes, truth */
#define KVL_IPC_BYTES_BOOLS 8u /* a pair: bytes, bools */
#define KVL_IPC_REQUEST 9u /* number, one of the above; generations 0 and A */
#define KVL_IPC_KEY 10u /* keys[0] */
#define KVL_IPC_KEYS 11u /* keys */
#define KVL_IPC_WRAPPER 12u /* wrappers[0] */
#define KVL_IPC_KV_CACHE 13u /* wrappers, one per layer */

/** A frame as what it means. The arrays are the caller's. */
struct kvl_ipc_value {
    uint32_t size; /* sizeof(struct kvl_ipc_value) of the caller */
    uint32_t kind; /* set by the caller, also to decode: KVL_IPC_INT, .. */
    uint32_t count; /* entries of the list; set by decode */
    uint32_t room; /* decode: entries that the array can hold */
    struct kvl_ipc_int number;
    int32_t truth; /* 0, 1; -1 = nil */
    uint32_t reserved; /* 0 */
    struct kvl_ipc_bytes bytes;
    int64_t *ints;
    uint8_t *bools; /* 0 or 1 each */
    struct kvl_ipc_key *keys;
    struct kvl_ipc_wrapper *wrappers;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_value) == 88, "append fields, bump the minor version");

/* ---- the table ---- */

struct kvl_ipc_ops {
    uint32_t size;
    uint32_t reserved;

    /* ---- frames: msgpack ---- */

    /**
     * Reads a frame, whole: bytes behind the value are refused. A list longer than value->room is
     * -ENOSPC, with the room it needs in value->count; the memory for it is at most about twelve
     * times the input. After any other failure *value is as before, but its arrays may hold
     * anything.
     */
    int (*decode)(const struct kvl_ipc_options *options, const void *bytes, size_t length,
                  struct kvl_ipc_value *value, struct kvl_err *err);

    /**
     * Writes a frame, byte for byte as LMCache does. Wrappers are checked before.
     * @param room  bytes at `bytes_out`, which may be NULL when it is 0
     * @return 0 and *length_out; -ENOSPC with the room it needs in *length_out; -EBADMSG; -EINVAL.
     */
    int (*encode)(const struct kvl_ipc_options *options, const struct kvl_ipc_value *value,
                  void *bytes_out, size_t room, size_t *length_out, struct kvl_err *err);

    /* ---- wrappers ---- */

    /** Reads the bare pickle of a wrapper, as CudaIPCWrapper.Deserialize() does. */
    int (*wrapper_unpickle)(const struct kvl_ipc_options *options, const void *bytes, size_t length,
                            struct kvl_ipc_wrapper *wrapper_out, struct kvl_err *err);

    /** Writes what CudaIPCWrapper.Serialize() does. As encode. */
    int (*wrapper_pickle)(const struct kvl_ipc_options *options,
                          const struct kvl_ipc_wrapper *wrapper, void *bytes_out, size_t room,
                          size_t *length_out, struct kvl_err *err);

    /**
     * The rules for a wrapper's values, which decode and encode check too: widths, handle bytes,
     * and that the tensor lies in its storage. Encode wants of form A that it covers it, too.
     * @return 0; -EBADMSG.
     */
    int (*wrapper_check)(const struct kvl_ipc_options *options,
                         const struct kvl_ipc_wrapper *wrapper, struct kvl_err *err);

    /** 1 when Python calls them equal, else 0. A torch.Size equals a plain tuple. */
    int (*wrapper_equal)(const struct kvl_ipc_wrapper *a, const struct kvl_ipc_wrapper *b);

    /**
     * Takes the handle bytes of a wrapper apart.
     * @return 0; -ENODATA a null storage: there is nothing to open; -EBADMSG.
     */
    int (*handle_parse)(const struct kvl_ipc_wrapper *wrapper, struct kvl_ipc_handle *handle_out,
                        struct kvl_err *err);

    /** Entry `index` of a handle of kind KVL_IPC_HANDLE_FDS; -1 beyond the last. */
    int32_t (*handle_fd)(const struct kvl_ipc_handle *handle, uint64_t index);

    /** Name in torch, "float16"; NULL for an unknown one. Static. */
    const char *(*dtype_name)(uint32_t dtype);

    /** Bytes of an element; 0 for an unknown one. */
    uint32_t (*dtype_bytes)(uint32_t dtype);

    /**
     * Text of the 16 bytes of a device UUID as wrappers have it, 36 characters and a terminator.
     * Compare that with device_uuid byte for byte; other spellings name no device.
     */
    void (*uuid_text)(const uint8_t *uuid, char *text_out);

    /* ---- keys ---- */

    /** 1 when all fields are equal (request_id is not looked at), else 0. */
    int (*key_equal)(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b);

    /** The same for equal keys, in every process that uses the same seed. */
    uint64_t (*key_hash)(const struct kvl_ipc_key *key, uint64_t seed);

    /** Python's order: field by field. @return KVL_IPC_LESS, .. */
    int (*key_compare)(const struct kvl_ipc_key *a, const struct kvl_ipc_key *b);

    /** The same key for all workers. Output and input may be the same. */
    void (*key_without_worker)(const struct kvl_ipc_key *key, struct kvl_ipc_key *key_out);

    /** Four bytes, big-endian, of a number as chunk hash. @return 0; -ERANGE. */
    int (*key_hash_of_int)(int64_t number, uint8_t *bytes_out);

    /** Big-endian number of all bytes, modulo 2^64. */
    uint64_t (*key_hash_to_int)(struct kvl_ipc_bytes chunk_hash);

    /**
     * Storage keys of a list of keys in its order; a key without worker stands for all of its world
     * size, 0 upwards.
     * @return 0 and *count_out; -ENOSPC with the room it needs in *count_out; -EBADMSG keys of
     *         different world sizes, or without a hash; -ERANGE world size or worker.
     */
    int (*key_expand)(const struct kvl_ipc_key *keys, uint32_t count,
                      struct kvl_ipc_storage_key *keys_out, uint32_t room, uint32_t *count_out,
                      struct kvl_err *err);

    /** @return 0; -ERANGE when world size or worker is beyond 255. */
    int (*object_key)(const struct kvl_ipc_storage_key *key, struct kvl_ipc_object_key *key_out,
                      struct kvl_err *err);
};
KVL_STATIC_ASSERT(sizeof(struct kvl_ipc_ops) == 160, "append slots, bump the minor version");

KVL_EXTERN_C_END

#endif /* KVL_IPC_H */
