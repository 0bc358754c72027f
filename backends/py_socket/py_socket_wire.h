/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_wire.h
 * Messages of LMCache's PySocketChannel and of its P2P lookup socket <-> bytes. No I/O, no
 * allocation.
 *
 * They are msgpack maps as msgspec writes tagged structs: `type` first, then all fields in order.
 * Reading takes any order, skips what it does not know, and of two keys of one name takes the last.
 * To the two init messages kvlane adds one key, `kvl`, which Python's reader skips: the offer.
 */
#ifndef KVL_PY_SOCKET_WIRE_H
#define KVL_PY_SOCKET_WIRE_H

#include <kvlane/registry.h>

#include "pack.h"
#include "py_socket_notes.h"

#define PY_SOCKET_VERSION 1u /* highest data plane spoken here */
#define PY_SOCKET_MIN_VERSION 1u /* lowest */
#define PY_SOCKET_TOKEN 16u
#define PY_SOCKET_BOOT_ID 36u
#define PY_SOCKET_SHM_NAME 107u

/* What a frame may hold at most; one beyond is a bad frame. */
#define PY_SOCKET_INIT_BYTES (64u << 10) /* of a frame at peer_init_url */
#define PY_SOCKET_LOOKUP_BYTES (64u << 20) /* of a frame at peer_lookup_url */
#define PY_SOCKET_LIST_MAX 65536u /* entries of a list */
#define PY_SOCKET_KEY_MAX 4096u /* bytes of a key */
#define PY_SOCKET_TEXT_MAX 1024u /* of any other text */
#define PY_SOCKET_MAP_MAX 256u /* pairs of a map */
#define PY_SOCKET_DEPTH 32u /* of values that are skipped */

/** What a kvlane peer says about itself, both ways in one handshake. */
struct py_socket_offer {
    uint32_t version; /* highest data plane spoken; 0 = no offer: a Python peer */
    uint32_t min_version; /* lowest */
    uint64_t incarnation; /* random per channel; never 0 */
    uint8_t token[PY_SOCKET_TOKEN]; /* the receiver shows it on data connections to the sender */
    char fingerprint[KVL_NAME_ROOM]; /* model, layout, ..; "" = any */
    char boot_id[PY_SOCKET_BOOT_ID + 1]; /* of its host; "" = unknown */
    char shm_name[PY_SOCKET_SHM_NAME + 1]; /* abstract Unix socket, without the zero; "" = none */
    char tcp[KVL_NAME_ROOM]; /* host:port of its data plane; "" = none */
    uint64_t buffer_bytes; /* of the registered buffer; 0 = none */
    uint64_t align_bytes;
};

enum py_socket_type {
    PY_SOCKET_NONE,
    PY_SOCKET_INIT_REQUEST, /* PySocketInitRequest */
    PY_SOCKET_INIT_RESPONSE, /* PySocketInitResponse */
    PY_SOCKET_SIDE, /* P2PInitSideMsg */
    PY_SOCKET_SIDE_RET, /* P2PInitSideRetMsg */
    PY_SOCKET_LOOKUP_GET, /* BatchedLookupAndGetMsg */
    PY_SOCKET_LOOKUP_GET_RET, /* BatchedLookupAndGetRetMsg */
    PY_SOCKET_LOOKUP_PUT, /* BatchedLookupAndPutMsg */
    PY_SOCKET_LOOKUP_PUT_RET, /* BatchedLookupAndPutRetMsg */
    PY_SOCKET_P2P_ERROR, /* P2PErrorMsg */
    PY_SOCKET_TYPES,
};

/* error_code of a P2PErrorMsg. */
#define PY_SOCKET_ERROR_SERVER 1
#define PY_SOCKET_ERROR_UNKNOWN 2 /* unknown message */
#define PY_SOCKET_ERROR_NO_HANDSHAKE 3 /* the receiver is to do the handshake and try again */

/** A list whose entries have been checked: all of one kind, all there. */
struct py_socket_list {
    struct kvl_pack at; /* the first entry not taken yet */
    uint32_t count; /* entries not taken yet */
};

/** One message. Which fields are in use follows from the type. Text points into the frame. */
struct py_socket_msg {
    enum py_socket_type type;
    /* peer_init_url, status, peer_lookup_url, receiver_id, sender_id: the one the type has */
    struct kvl_text text;
    struct kvl_text lookup_id;
    struct py_socket_list keys; /* text */
    struct py_socket_list mem_indexes; /* page numbers */
    struct py_socket_list offsets; /* numbers of tokens */
    int64_t number; /* num_hit_chunks, num_read_chunks, error_code */
    struct py_socket_offer offer; /* of the init messages; version 0 when there is none */
    struct py_socket_notes notes; /* that came with it */
};

#define PY_SOCKET_REASON_ROOM 96u

/**
 * Reads one frame.
 * @param reason_out  PY_SOCKET_REASON_ROOM bytes: a short reason in ASCII, nothing of the frame
 * @return 0; -EPROTO it is none of the messages, with the reason; -EMSGSIZE over a limit, with the
 *         reason; -ENOTSUP a message of a type that is not known, with the reason.
 */
int py_socket_decode(const void *frame, size_t length, struct py_socket_msg *msg_out,
                     char *reason_out);

/** Takes the next entry; only for lists of that kind, at most `count` times. */
struct kvl_text py_socket_list_text(struct py_socket_list *list);
uint64_t py_socket_list_number(struct py_socket_list *list);

/* ---- writing; whether there was room: kvl_pack_out_failed() ---- */

/**
 * @param offer  NULL or version 0: as Python writes it
 * @param notes  that go with an offer; NULL = none
 */
void py_socket_put_init_request(struct kvl_pack_out *out, const char *peer_init_url,
                                const struct py_socket_offer *offer,
                                const struct py_socket_notes *notes);
void py_socket_put_init_response(struct kvl_pack_out *out, const char *status,
                                 const struct py_socket_offer *offer,
                                 const struct py_socket_notes *notes);
void py_socket_put_side(struct kvl_pack_out *out);
void py_socket_put_side_ret(struct kvl_pack_out *out, const char *peer_lookup_url);

/** What both lookup messages carry. Borrowed. */
struct py_socket_lookup_msg {
    const char *lookup_id; /* get only */
    const char *peer_id; /* receiver_id or sender_id: ours */
    const struct kvl_text *keys;
    const uint64_t *offsets; /* put only: tokens per chunk */
    const uint64_t *mem_indexes;
    uint32_t count; /* of each of the lists */
};
void py_socket_put_lookup_get(struct kvl_pack_out *out, const struct py_socket_lookup_msg *msg);
void py_socket_put_lookup_put(struct kvl_pack_out *out, const struct py_socket_lookup_msg *msg);
void py_socket_put_lookup_get_ret(struct kvl_pack_out *out, int64_t num_hit_chunks);
void py_socket_put_lookup_put_ret(struct kvl_pack_out *out, int64_t num_read_chunks);
void py_socket_put_error(struct kvl_pack_out *out, int64_t error_code);

/** `PySocketInitRequest`, ...; NULL for what is none. */
const char *py_socket_type_name(enum py_socket_type type);

#endif /* KVL_PY_SOCKET_WIRE_H */
