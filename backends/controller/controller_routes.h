/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_routes.h
 * What the HTTP API answers, without the sockets: a table of routes, a request, an answer.
 */
#ifndef KVL_CONTROLLER_ROUTES_H
#define KVL_CONTROLLER_ROUTES_H

#include "controller_http_text.h"
#include "controller_server.h"

enum controller_media {
    CONTROLLER_MEDIA_JSON,
    CONTROLLER_MEDIA_TEXT,
    CONTROLLER_MEDIA_PAGE, /* the dashboard, not in `text` */
};

struct controller_answer {
    unsigned status;
    enum controller_media media;
    struct controller_text text; /* owned */
};

/** What the HTTP side counts for itself. */
enum controller_http_count {
    CONTROLLER_HTTP_REQUESTS,
    CONTROLLER_HTTP_REFUSED, /* answers 4xx */
    CONTROLLER_HTTP_FAILED, /* answers 5xx */
    CONTROLLER_HTTP_LOOKUPS,
    CONTROLLER_HTTP_LOOKUP_HITS,
    CONTROLLER_HTTP_CUT, /* connections that took too long */
    CONTROLLER_HTTP_CONNECTIONS, /* gauge */
    CONTROLLER_HTTP_BODY_BYTES, /* gauge: bodies in memory */
    CONTROLLER_HTTP_COUNTS, /* how many */
};

/** By enum controller_http_count; metrics and stats use the same words. */
extern const char *const controller_http_count_names[CONTROLLER_HTTP_COUNTS];

/** The same for all requests. Borrowed. */
struct controller_view {
    struct controller_server *server;
    const struct kvl_host *host;
    const struct controller_options *options;
    _Atomic uint64_t *counts; /* CONTROLLER_HTTP_COUNTS */
    uint64_t started_ms;
};

struct controller_request {
    const struct controller_view *view;
    const struct controller_route *route;
    const char *body;
    size_t length;
    const char *content_type; /* NULL = none */
    const char *(*query)(void *ctx, const char *name); /* a parameter of the URL, or NULL */
    void *query_ctx;
    struct controller_arena *arena; /* of the thread */
};

struct controller_route {
    const char *method;
    const char *path;
    void (*run)(const struct controller_request *request, struct controller_answer *answer);
    const struct controller_order *order; /* for those that become an orchestration message */
};

/**
 * Finds the route of a path. HEAD counts as GET.
 * @param allow_out  when the path is known under another method: which, else NULL
 * @return NULL when there is none.
 */
const struct controller_route *controller_route_find(const char *method, const char *path,
                                                     const char **allow_out);

/** 1 when the request may wait for workers and belongs into a thread of its own. */
int controller_route_waits(const struct controller_route *route);

/** Fills `{"detail": text}`. */
void controller_answer_detail(struct controller_answer *answer, unsigned status, const char *text);

/* ---- in files of their own ---- */

void controller_route_metrics(const struct controller_request *request,
                              struct controller_answer *answer);
void controller_route_workers(const struct controller_request *request,
                              struct controller_answer *answer);
void controller_route_key_stats(const struct controller_request *request,
                                struct controller_answer *answer);
void controller_route_threads(const struct controller_request *request,
                              struct controller_answer *answer);
void controller_route_overview(const struct controller_request *request,
                               struct controller_answer *answer);
void controller_route_explain(const struct controller_request *request,
                              struct controller_answer *answer);

/** Appends `"instance_id":..` to `"last_heartbeat_time":..`, without braces. */
void controller_text_worker(struct controller_text *text, const struct kvl_worker_info *worker);

#endif /* KVL_CONTROLLER_ROUTES_H */
