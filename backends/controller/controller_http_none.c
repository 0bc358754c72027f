/* SPDX-License-Identifier: Apache-2.0 */
/* Built without libmicrohttpd: workers are served all the same. */
#include <stddef.h>

#include "controller_http.h"

int controller_http_create(struct controller_server *server, struct controller_http **http_out)
{
    kvl_warn(controller_server_host(server)->log,
             "controller: built without libmicrohttpd, there is no HTTP API");
    *http_out = NULL;
    return 0;
}

int controller_http_start(struct controller_http *http, struct kvl_err *err)
{
    (void)http;
    (void)err;
    return 0;
}

void controller_http_stop(struct controller_http *http)
{
    (void)http;
}

void controller_http_destroy(struct controller_http *http)
{
    (void)http;
}

const char *controller_http_address(const struct controller_http *http)
{
    (void)http;
    return "";
}

void controller_http_stats(struct controller_http *http, kvl_stat_fn fn, void *ctx)
{
    (void)http;
    (void)fn;
    (void)ctx;
}
