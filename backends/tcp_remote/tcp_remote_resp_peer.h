/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_resp_peer.h
 * What a connection of the server role does when it speaks RESP2 instead of lm://: SET, GET and
 * EXISTS for LMCache's resp:// client, and as much around them as Redis clients ask before they
 * begin. Bytes move as in tcp_remote_peer.h, which calls this for each piece of a request.
 *
 * Its chunks are apart from those of lm://: their keys in the store begin with a newline, which no
 * key of lm:// does, because it is trimmed, and which a LIST leaves out.
 */
#ifndef KVL_TCP_REMOTE_RESP_PEER_H
#define KVL_TCP_REMOTE_RESP_PEER_H

#include "tcp_remote_peer.h"

/** First byte of the keys in the store. */
#define TCP_REMOTE_RESP_PREFIX '\n'
/** Longest key of a client. */
#define TCP_REMOTE_RESP_KEY_BYTES (KVL_KEY_MAX - 1u)

/** Makes a new connection speak RESP. @return 0; -ENOMEM. */
int tcp_remote_resp_peer_attach(struct tcp_remote_peer *peer);

/** Takes what was received and does at most one command of it. */
enum tcp_remote_step tcp_remote_resp_peer_request(struct tcp_remote_peer *peer);

/** True in the middle of a command. */
bool tcp_remote_resp_peer_is_inside(const struct tcp_remote_peer *peer);

/** True when the client may use the store; until then it must not sit there idle. */
bool tcp_remote_resp_peer_is_known(const struct tcp_remote_peer *peer);

#endif /* KVL_TCP_REMOTE_RESP_PEER_H */
