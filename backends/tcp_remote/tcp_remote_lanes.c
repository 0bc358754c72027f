/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_lanes.h"

#include <errno.h>
#include <stdlib.h>

#define COUNTERS_MAX 64u

struct tcp_remote_lanes {
    atomic_uint next;
    uint32_t count;
    struct tcp_remote_client *lane[]; /* owned */
};

int tcp_remote_lanes_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                            struct tcp_remote_lanes **lanes_out)
{
    const uint32_t count = options->client_threads < options->connections ? options->client_threads
                                                                          : options->connections;
    struct tcp_remote_lanes *lanes = calloc(1, sizeof(*lanes) + count * sizeof(lanes->lane[0]));
    int r = lanes == NULL ? -ENOMEM : 0;

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct tcp_remote_options own = *options;

        own.connections = options->connections / count + (i < options->connections % count);
        own.max_in_flight = (options->max_in_flight + count - 1) / count;
        r = tcp_remote_client_create(host, &own, &lanes->lane[i]);
        lanes->count += r == 0;
    }
    if (r < 0) {
        tcp_remote_lanes_destroy(lanes);
        return r;
    }
    *lanes_out = lanes;
    return 0;
}

int tcp_remote_lanes_start(struct tcp_remote_lanes *lanes, struct kvl_err *err)
{
    for (uint32_t i = 0; i < lanes->count; i++) {
        int r = tcp_remote_client_start(lanes->lane[i], err);

        if (r < 0) {
            tcp_remote_lanes_stop(lanes);
            return r;
        }
    }
    return 0;
}

int tcp_remote_lanes_reload(struct tcp_remote_lanes *lanes, struct kvl_err *err)
{
    int r = 0;

    /* The options are the same for all: the first refuses, or none. */
    for (uint32_t i = 0; r == 0 && i < lanes->count; i++) {
        r = tcp_remote_client_reload(lanes->lane[i], err);
    }
    return r;
}

void tcp_remote_lanes_quiesce(struct tcp_remote_lanes *lanes)
{
    for (uint32_t i = 0; i < lanes->count; i++) {
        tcp_remote_client_quiesce(lanes->lane[i]);
    }
}

int tcp_remote_lanes_drain(struct tcp_remote_lanes *lanes, uint64_t deadline_ms)
{
    int first = 0;

    for (uint32_t i = 0; i < lanes->count; i++) {
        int r = tcp_remote_client_drain(lanes->lane[i], deadline_ms);

        first = first == 0 ? r : first;
    }
    return first;
}

void tcp_remote_lanes_stop(struct tcp_remote_lanes *lanes)
{
    for (uint32_t i = 0; i < lanes->count; i++) {
        tcp_remote_client_stop(lanes->lane[i]);
    }
}

void tcp_remote_lanes_destroy(struct tcp_remote_lanes *lanes)
{
    for (uint32_t i = 0; lanes != NULL && i < lanes->count; i++) {
        tcp_remote_client_destroy(lanes->lane[i]);
    }
    free(lanes);
}

static struct tcp_remote_client *lane_at(struct tcp_remote_lanes *lanes, uint32_t turn)
{
    return lanes->lane[turn % lanes->count];
}

int tcp_remote_lanes_submit(struct tcp_remote_lanes *lanes, enum tcp_remote_kind kind,
                            const struct kvl_batch *batch)
{
    const uint32_t turn = atomic_fetch_add_explicit(&lanes->next, 1, memory_order_relaxed);
    int r = -ENOTCONN;

    for (uint32_t i = 0; i < lanes->count && (r == -ENOTCONN || r == -EAGAIN); i++) {
        r = tcp_remote_client_submit(lane_at(lanes, turn + i), kind, batch);
    }
    return r;
}

int tcp_remote_lanes_submit_single(struct tcp_remote_lanes *lanes, enum tcp_remote_kind kind,
                                   uint64_t cookie, uint64_t deadline_ms)
{
    const uint32_t turn = atomic_fetch_add_explicit(&lanes->next, 1, memory_order_relaxed);
    int r = -ENOTCONN;

    for (uint32_t i = 0; i < lanes->count && (r == -ENOTCONN || r == -EAGAIN); i++) {
        r = tcp_remote_client_submit_single(lane_at(lanes, turn + i), kind, cookie, deadline_ms);
    }
    return r;
}

void tcp_remote_lanes_cancel(struct tcp_remote_lanes *lanes, uint64_t cookie)
{
    for (uint32_t i = 0; i < lanes->count; i++) {
        tcp_remote_client_cancel(lanes->lane[i], cookie); /* those that do not know it ignore it */
    }
}

void tcp_remote_lanes_limits(struct tcp_remote_lanes *lanes, struct kvl_limits *limits_out)
{
    tcp_remote_client_limits(lanes->lane[0], limits_out);
    limits_out->max_in_flight *= lanes->count;
    if (limits_out->size >= offsetof(struct kvl_limits, streams) + sizeof(limits_out->streams)) {
        limits_out->streams = lanes->count;
    }
}

void tcp_remote_lanes_health(struct tcp_remote_lanes *lanes, struct kvl_health *health_out)
{
    struct kvl_health best = *health_out;

    tcp_remote_client_health(lanes->lane[0], &best);
    for (uint32_t i = 1; i < lanes->count; i++) {
        struct kvl_health one = *health_out;

        tcp_remote_client_health(lanes->lane[i], &one);
        best = one.state > best.state ? one : best;
    }
    *health_out = best;
}

/* Lanes tell their counters in the same order. */
struct sums {
    const char *names[COUNTERS_MAX];
    uint64_t values[COUNTERS_MAX];
    uint32_t at;
    uint32_t count;
};

static void add_counter(void *ctx, const char *name, uint64_t value)
{
    struct sums *sums = ctx;

    if (sums->at < COUNTERS_MAX) {
        sums->names[sums->at] = name;
        sums->values[sums->at++] += value;
        sums->count = sums->at > sums->count ? sums->at : sums->count;
    }
}

void tcp_remote_lanes_stats(struct tcp_remote_lanes *lanes, kvl_stat_fn fn, void *ctx)
{
    struct sums sums = {.count = 0};

    for (uint32_t i = 0; i < lanes->count; i++) {
        sums.at = 0;
        tcp_remote_client_stats(lanes->lane[i], add_counter, &sums);
    }
    for (uint32_t i = 0; i < sums.count; i++) {
        fn(ctx, sums.names[i], sums.values[i]);
    }
}
