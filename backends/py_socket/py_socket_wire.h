/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_wire.h
 * Messages of LMCache's PySocketChannel and of its P2P lookup socket <-> bytes. No I/O.
 *
 * They are msgpack maps as msgspec writes tagged structs: `type` first, then all fields in order.
 * Reading takes any order and skips what it does not know. To the two init messages kvlane adds one
 * key, `kvl`, which Python's reader skips: the offer below.
 */
#ifndef KVL_PY_SOCKET_WIRE_H
#define KVL_PY_SOCKET_WIRE_H

#include <kvlane/registry.h>

#define PY_SOCKET_VERSION 1u /* of the data plane */
#define PY_SOCKET_TOKEN 16u
#define PY_SOCKET_BOOT_ID 36u

/** What a kvlane peer says about itself, both ways in one handshake. */
struct py_socket_offer {
    uint32_t version; /* highest data plane spoken; 0 = no offer: a Python peer */
    uint32_t min_version; /* lowest */
    uint64_t incarnation; /* random per channel; never 0 */
    uint64_t fingerprint; /* of model, layout, ..; 0 = any */
    uint8_t token[PY_SOCKET_TOKEN]; /* opens data connections to the one who offers */
    char boot_id[PY_SOCKET_BOOT_ID + 1]; /* of its host */
    char shm_name[108]; /* its abstract Unix socket without the leading zero byte; "" = none */
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
};

#endif /* KVL_PY_SOCKET_WIRE_H */
