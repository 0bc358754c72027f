/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_http.h
 * The HTTP API of role controller, on libmicrohttpd: LMCache's routes, a page for people, and
 * /explain.
 *
 *   kvl-ctl-http    all connections; answers what can be answered at once
 *   kvl-ctl-call    up to CONTROLLER_HTTP_CALLS of them: orders that wait for workers
 *
 * so that an order to a worker that hangs holds up nobody else.
 */
#ifndef KVL_CONTROLLER_HTTP_H
#define KVL_CONTROLLER_HTTP_H

#include "controller_server.h"

/** Orders under way at once, and how many more may wait for their turn; beyond is a 503. */
#define CONTROLLER_HTTP_CALLS 32u
#define CONTROLLER_HTTP_CALLS_WAITING 64u

struct controller_http;

/** Makes the object, opens nothing. The server is borrowed and outlives it. @return 0; -ENOMEM. */
int controller_http_create(struct controller_server *server, struct controller_http **http_out);

/** Listens and starts its thread. @return 0; -EACCES, -EADDRINUSE, ... and err->text. */
int controller_http_start(struct controller_http *http, struct kvl_err *err);

/**
 * Answers what is under way, joins the threads and closes everything. Call it once
 * controller_server_stopping() says 1, so that orders end. Again is harmless.
 */
void controller_http_stop(struct controller_http *http);

/** Frees. Takes NULL. */
void controller_http_destroy(struct controller_http *http);

/** `http://host:port` once started, else "". Lives as long as the object. */
const char *controller_http_address(const struct controller_http *http);

/** Its counters, named http_...; from any thread. */
void controller_http_stats(struct controller_http *http, kvl_stat_fn fn, void *ctx);

#endif /* KVL_CONTROLLER_HTTP_H */
