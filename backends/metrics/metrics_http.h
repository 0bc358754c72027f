/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file metrics_http.h
 * The HTTP server: one thread, a bounded number of connections, and no way to hold one for long.
 */
#ifndef KVL_METRICS_HTTP_H
#define KVL_METRICS_HTTP_H

#include "metrics_options.h"

struct metrics_http;

/** Makes a server; opens nothing. @return 0; -ENOMEM. */
int metrics_http_create(const struct kvl_host *host, const struct metrics_options *options,
                        struct metrics_http **http_out);

/** Listens and starts the thread. @return 0; -EACCES, -EADDRINUSE, ... and err->text. */
int metrics_http_start(struct metrics_http *http, struct kvl_err *err);

/** From now on /health answers 503. Does not block. */
void metrics_http_quiesce(struct metrics_http *http);

/** Joins the thread and closes what is open. Again is harmless. */
void metrics_http_stop(struct metrics_http *http);

/** Frees. Takes NULL. */
void metrics_http_destroy(struct metrics_http *http);

void metrics_http_health(struct metrics_http *http, struct kvl_health *health_out);
void metrics_http_stats(struct metrics_http *http, kvl_stat_fn fn, void *ctx);

#endif /* KVL_METRICS_HTTP_H */
