/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_client.h
 * The load of our own client: kvl-tcp_remote.so in its client role, called as the core calls it,
 * with batches from and into plain memory. What the core adds on top, a copy into the own store at
 * a save, is left out: it is the same for every backend.
 */
#ifndef KVL_TESTS_TCP_CLIENT_H
#define KVL_TESTS_TCP_CLIENT_H

#include "tcp_load.h"

struct tcp_client;

/** @param url  as in the INI file. @return NULL and a line on stderr when it does not start. */
struct tcp_client *tcp_client_open(const char *module, const char *url, uint32_t connections);
void tcp_client_close(struct tcp_client *client);

/**
 * Runs PUT (each confirmed), GET or EXIST for load->run_ms with two batches per connection under
 * way, of up to 16 chunks each; EXIST with 64 keys. `addr` and `conns` are not looked at.
 * Latencies are those of a batch.
 */
int tcp_client_run(struct tcp_client *client, const struct tcp_load *load,
                   struct tcp_load_result *result_out);

#endif /* KVL_TESTS_TCP_CLIENT_H */
