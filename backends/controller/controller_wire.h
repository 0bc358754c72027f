/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_wire.h
 * Messages of LMCache's cache controller (0.3.12 to 0.3.14) <-> bytes. No I/O, no clock.
 *
 * A message on the wire is a msgpack map as msgspec writes tagged structs: first `type`, then all
 * fields in a fixed order. Reading takes them in any order, skips unknown keys, and gives the error
 * texts of msgspec. A frame that begins with `{` is JSON and is read as the same messages.
 *
 * One flat record stands for every message: which fields are in use follows from the type, and a
 * table (controller_schema.c) maps names to fields for both directions.
 */
#ifndef KVL_CONTROLLER_WIRE_H
#define KVL_CONTROLLER_WIRE_H

#include <kvlane/registry.h>

/** In the order of the specification: 4.1 events, 4.2 requests, 4.3 control, 4.4 orchestration. */
enum controller_type {
    CONTROLLER_NONE,
    CONTROLLER_DEREGISTER, /* DeRegisterMsg */
    CONTROLLER_KV_OPS, /* BatchedKVOperationMsg */
    CONTROLLER_SYNC_BATCH, /* FullSyncBatchMsg */
    CONTROLLER_SYNC_END, /* FullSyncEndMsg */
    CONTROLLER_KV_ADMIT, /* KVAdmitMsg, legacy */
    CONTROLLER_KV_EVICT, /* KVEvictMsg, legacy */
    CONTROLLER_REGISTER, /* RegisterMsg */
    CONTROLLER_REGISTER_RET,
    CONTROLLER_HEARTBEAT,
    CONTROLLER_HEARTBEAT_RET,
    CONTROLLER_P2P_LOOKUP, /* BatchedP2PLookupMsg */
    CONTROLLER_P2P_LOOKUP_RET,
    CONTROLLER_SYNC_START, /* FullSyncStartMsg */
    CONTROLLER_SYNC_START_RET,
    CONTROLLER_SYNC_STATUS, /* FullSyncStatusMsg */
    CONTROLLER_SYNC_STATUS_RET,
    CONTROLLER_ERROR, /* ErrorMsg */
    CONTROLLER_CLEAR_WORKER,
    CONTROLLER_CLEAR_WORKER_RET,
    CONTROLLER_PIN_WORKER,
    CONTROLLER_PIN_WORKER_RET,
    CONTROLLER_COMPRESS_WORKER,
    CONTROLLER_COMPRESS_WORKER_RET,
    CONTROLLER_DECOMPRESS_WORKER,
    CONTROLLER_DECOMPRESS_WORKER_RET,
    CONTROLLER_MOVE_WORKER,
    CONTROLLER_MOVE_WORKER_RET,
    CONTROLLER_HEALTH_WORKER,
    CONTROLLER_HEALTH_WORKER_RET,
    CONTROLLER_CHECK_FINISH_WORKER,
    CONTROLLER_CHECK_FINISH_WORKER_RET,
    CONTROLLER_LOOKUP,
    CONTROLLER_LOOKUP_RET,
    CONTROLLER_QUERY_INST,
    CONTROLLER_QUERY_INST_RET,
    CONTROLLER_CLEAR,
    CONTROLLER_CLEAR_RET,
    CONTROLLER_PIN,
    CONTROLLER_PIN_RET,
    CONTROLLER_COMPRESS,
    CONTROLLER_COMPRESS_RET,
    CONTROLLER_DECOMPRESS,
    CONTROLLER_DECOMPRESS_RET,
    CONTROLLER_MOVE,
    CONTROLLER_MOVE_RET,
    CONTROLLER_HEALTH,
    CONTROLLER_HEALTH_RET,
    CONTROLLER_CHECK_FINISH,
    CONTROLLER_CHECK_FINISH_RET,
    CONTROLLER_QUERY_WORKER_INFO,
    CONTROLLER_QUERY_WORKER_INFO_RET,
    CONTROLLER_TYPES, /* how many */
};

/** Text that may be nil. */
struct controller_opt_text {
    struct kvl_text value;
    int is_set; /* 0 = nil */
};

/** Integers, or nil. */
struct controller_ids {
    struct kvl_chunk_id *at;
    uint32_t count;
    int is_set; /* 0 = nil, where the field may be that */
};

struct controller_pair {
    struct kvl_text key;
    struct kvl_text value;
};

/** HeartbeatCommand: `full_sync` is the only one in use. */
struct controller_command {
    struct kvl_text command_type;
    struct controller_opt_text reason;
    struct kvl_text args; /* the msgpack of the map, as it came; empty = nil */
};

/** An entry of layout_info: BatchedP2PLookupRetMsg has all fields, LookupRetMsg all but the URL. */
struct controller_layout {
    struct kvl_text instance_id;
    struct kvl_text location;
    int64_t count; /* hit chunks, or end in tokens */
    struct kvl_text peer_init_url;
};

struct controller_code {
    int64_t worker_id;
    int64_t code;
};

struct controller_worker_info {
    struct kvl_text instance_id;
    int64_t worker_id;
    struct kvl_text ip;
    int64_t port;
    struct controller_opt_text peer_init_url;
    double registration_time;
    double last_heartbeat_time;
};

/** Old or new position: [instance_id or target_url, location]; or a location alone. */
struct controller_position {
    struct kvl_text first;
    struct kvl_text location;
};

#define CONTROLLER_LIST(type)                                                                      \
    struct {                                                                                       \
        type *at;                                                                                  \
        uint32_t count;                                                                            \
    }

struct controller_msg {
    enum controller_type type;
    struct kvl_text instance_id; /* QueryInstRetMsg: see found_instance */
    int64_t worker_id;
    struct kvl_text ip;
    int64_t port;
    struct controller_opt_text peer_init_url;
    struct kvl_text location;
    struct kvl_text sync_id;
    struct kvl_text event_id; /* also worker_event_id */
    struct kvl_text method;
    struct kvl_text error; /* also status */
    struct controller_opt_text error_msg;
    struct controller_opt_text found_instance; /* QueryInstRetMsg.instance_id */
    struct controller_position old_position;
    struct controller_position new_position;
    struct controller_ids ids; /* hashes, keys, tokens, worker_ids, missing_batches */
    struct kvl_chunk_id key; /* KVAdmitMsg, KVEvictMsg */
    int64_t seq_num;
    int64_t number; /* batch_id, actual_total_keys, total_keys, num_tokens, error_code */
    int64_t batch_count;
    double global_progress;
    int accepted; /* also is_complete */
    int can_exit_freeze;
    int copy; /* -1 = nil */
    CONTROLLER_LIST(struct kvl_key_op) operations;
    CONTROLLER_LIST(struct controller_pair) extra_config;
    CONTROLLER_LIST(struct controller_command) commands;
    CONTROLLER_LIST(struct controller_layout) layout_info;
    CONTROLLER_LIST(struct controller_code) error_codes;
    CONTROLLER_LIST(struct controller_worker_info) worker_infos;
};

/** What a frame may hold at most; a frame beyond is a bad frame. */
struct controller_limits {
    uint32_t frame_bytes;
    uint32_t list_items; /* of all lists and maps of a message together */
    uint32_t text_bytes; /* of one string */
    uint32_t depth; /* of skipped values */
};

/** The defaults: 64 MiB, 1 Mi items, 64 KiB, 32 levels. */
extern const struct controller_limits controller_default_limits;

/** Memory for the lists of one message at a time; grows, is kept between messages. */
struct controller_arena;
int controller_arena_create(struct controller_arena **arena_out);
void controller_arena_destroy(struct controller_arena *arena);
/** Takes everything back that was given out. */
void controller_arena_reset(struct controller_arena *arena);
/** Memory aligned for any type until the next reset; NULL without memory. */
void *controller_arena_take(struct controller_arena *arena, size_t bytes);

/**
 * Reads one frame, msgpack or JSON. Texts point into the frame or into the arena, lists into the
 * arena; both must outlive the message. The arena is reset first.
 * Commands with an unknown command_type stay in the list, with nothing but that.
 * @param error_out  why not, in the words of msgspec; terminated, and UTF-8 also when it was cut
 * @return 0; -EPROTO and error_out; -EILSEQ a string is not UTF-8, with error_out; -EMSGSIZE over a
 *         limit, or a number that the record holds as int64_t and that is above it, with error_out;
 *         -ENOMEM.
 */
int controller_decode(const void *frame, size_t length, const struct controller_limits *limits,
                      struct controller_arena *arena, struct controller_msg *msg_out,
                      char *error_out, size_t error_room);

/** A buffer that grows. `at` is owned; free with controller_buf_fini. */
struct controller_buf {
    uint8_t *at;
    size_t length;
    size_t room;
};
void controller_buf_fini(struct controller_buf *buf);
/** Makes room for `bytes` more. @return 0; -ENOMEM. */
int controller_buf_reserve(struct controller_buf *buf, size_t bytes);

/**
 * Appends the message, byte for byte what msgspec writes; nothing in case of an error. Texts must
 * be UTF-8.
 * @return 0; -ENOMEM; -EINVAL no type, or one that is none, an operation of no kind, or `args`
 *         that are not one map.
 */
int controller_encode(const struct controller_msg *msg, struct controller_buf *buf);

/** `RegisterMsg`, ...; NULL for what is none. */
const char *controller_type_name(enum controller_type type);

#endif /* KVL_CONTROLLER_WIRE_H */
