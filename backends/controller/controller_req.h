/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_req.h
 * Asks a controller and waits for the answer: a DEALER socket to its reply or heartbeat port. The
 * wire has no correlation ids, so one question is under way at a time, and after a question without
 * a good answer the socket is made anew: a late answer dies with the old connection.
 *
 * A requester belongs to one thread.
 */
#ifndef KVL_CONTROLLER_REQ_H
#define KVL_CONTROLLER_REQ_H

#include <kvlane/backend.h>

#include "controller_wire.h"

/** Room for the sentence that says why there is no answer. */
#define CONTROLLER_WHY_MAX 200u

struct controller_req_desc {
    const struct kvl_host *host; /* borrowed */
    void *zmq; /* context; borrowed, outlives the requester */
    const char *url; /* host:port; copied */
    const int *stop_fd; /* readable from the moment on when calls are to end; borrowed */
    uint64_t recv_ms;
    uint64_t send_ms;
};

struct controller_req;

/** Opens nothing yet. @return 0; -ENOMEM. */
int controller_req_create(const struct controller_req_desc *desc, struct controller_req **req_out);
/** Closes the socket at once; what is not sent is lost. The next call opens another. */
void controller_req_close(struct controller_req *req);
/** Takes NULL. */
void controller_req_destroy(struct controller_req *req);

/** `host:port`, without a scheme. */
const char *controller_req_url(const struct controller_req *req);

/**
 * Sends a message and waits for an answer of type `want`, for at most send_ms + recv_ms. A
 * controller that is away is waited for as well.
 * @param answer_out  valid until the next call
 * @param why         CONTROLLER_WHY_MAX bytes; filled on failure
 * @return 0; -ETIMEDOUT; -ECANCELED the stop descriptor is readable; -EPROTO the answer is none, or
 *         of another type; -EREMOTEIO the controller answered ErrorMsg, its text is in `why`; -EIO
 *         the socket failed; -ENOMEM.
 */
int controller_req_call(struct controller_req *req, const struct controller_msg *ask,
                        enum controller_type want, struct controller_msg *answer_out, char *why);

/** The same, and not beyond a deadline; KVL_NEVER = none. */
int controller_req_call_until(struct controller_req *req, const struct controller_msg *ask,
                              enum controller_type want, uint64_t deadline_ms,
                              struct controller_msg *answer_out, char *why);

/** Text up to the terminating zero as the wire's records want it. NULL is empty. */
struct kvl_text controller_text(const char *text);
/** `tcp://` + url into room bytes; one `tcp://` that is there already is not doubled. */
void controller_endpoint(const char *url, char *out, size_t room);
/** Options that all sockets of a worker share: no linger, IPv6, dead peers noticed. */
void controller_socket_defaults(void *socket);

#endif /* KVL_CONTROLLER_REQ_H */
