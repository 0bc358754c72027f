/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_remote_lanes.h
 * The client role on several threads: each lane is a client of its own with its share of the
 * connections, and a batch travels on one lane from its beginning to its end. One thread cannot
 * copy as fast as a peer on the same host or a fast network can send.
 */
#ifndef KVL_TCP_REMOTE_LANES_H
#define KVL_TCP_REMOTE_LANES_H

#include "tcp_remote_client.h"

struct tcp_remote_lanes;

/** As many lanes as options->client_threads, at most one per connection. @return 0; -ENOMEM. */
int tcp_remote_lanes_create(const struct kvl_host *host, const struct tcp_remote_options *options,
                            struct tcp_remote_lanes **lanes_out);

/** Starts all or none. */
int tcp_remote_lanes_start(struct tcp_remote_lanes *lanes, struct kvl_err *err);

/** As those of tcp_remote_client.h, for all lanes. */
int tcp_remote_lanes_reload(struct tcp_remote_lanes *lanes, struct kvl_err *err);
void tcp_remote_lanes_quiesce(struct tcp_remote_lanes *lanes);
int tcp_remote_lanes_drain(struct tcp_remote_lanes *lanes, uint64_t deadline_ms);
void tcp_remote_lanes_stop(struct tcp_remote_lanes *lanes);
void tcp_remote_lanes_destroy(struct tcp_remote_lanes *lanes);

/** Takes the lanes in turn; one that refuses is passed over. */
int tcp_remote_lanes_submit(struct tcp_remote_lanes *lanes, enum tcp_remote_kind kind,
                            const struct kvl_batch *batch);
int tcp_remote_lanes_submit_single(struct tcp_remote_lanes *lanes, enum tcp_remote_kind kind,
                                   uint64_t cookie, uint64_t deadline_ms);
void tcp_remote_lanes_cancel(struct tcp_remote_lanes *lanes, uint64_t cookie);

void tcp_remote_lanes_limits(struct tcp_remote_lanes *lanes, struct kvl_limits *limits_out);

/** The best of all lanes: as long as one works, the peer can be reached. */
void tcp_remote_lanes_health(struct tcp_remote_lanes *lanes, struct kvl_health *health_out);

/** Sums over all lanes. */
void tcp_remote_lanes_stats(struct tcp_remote_lanes *lanes, kvl_stat_fn fn, void *ctx);

#endif /* KVL_TCP_REMOTE_LANES_H */
