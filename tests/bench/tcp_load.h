/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file tcp_load.h
 * A load generator for stores behind a stream socket: one thread and one connection each, one
 * request at a time, as LMCache's client does it: no TCP_NODELAY, header and body in two sends. The
 * bytes are encoded here anew and not taken from the code under test.
 */
#ifndef KVL_TESTS_TCP_LOAD_H
#define KVL_TESTS_TCP_LOAD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define TCP_LOAD_CONNS_MAX 64u
/** Memory of the engine that values are sent from and received into, walked through in a ring. */
#define TCP_LOAD_MEMORY ((size_t)256 << 20)

#define TCP_LM_PUT 1
#define TCP_LM_GET 2
#define TCP_LM_EXIST 3
#define TCP_LM_REQUEST 186u
#define TCP_LM_REPLY 36u
#define TCP_LM_KEY_AT 36u
#define TCP_LM_KEY 150u

enum tcp_load_wire { TCP_LOAD_LM, TCP_LOAD_RESP };
enum tcp_load_kind { TCP_LOAD_PUT, TCP_LOAD_GET, TCP_LOAD_EXIST, TCP_LOAD_PUT_EXIST };

struct tcp_load {
    enum tcp_load_wire wire;
    struct sockaddr_storage addr;
    socklen_t addr_length;
    enum tcp_load_kind kind;
    size_t size; /* of a value */
    uint32_t conns;
    uint32_t keys; /* each connection has its own share of them */
    uint32_t first_key; /* number of the first one */
    uint32_t run_ms; /* 0 = each key once, for filling */
};

struct tcp_load_result {
    uint64_t ops;
    double seconds; /* until the last byte was confirmed */
    double gb_per_s; /* payload */
    double ops_per_s;
    double p50_us; /* of one operation; a PUT ends when the kernel has taken it */
    double p99_us;
};

/** Runs a load. @return 0; -1 and a line on stderr when a peer did not do what it should. */
int tcp_load_run(const struct tcp_load *load, struct tcp_load_result *result_out);

/** One load beside another: `front` is measured while `back` runs. */
int tcp_load_run_beside(const struct tcp_load *front, const struct tcp_load *back,
                        struct tcp_load_result *front_out, struct tcp_load_result *back_out);

/** Text of key `number`; at least 64 bytes of room. @return its length. */
size_t tcp_load_key(char *out, size_t room, uint32_t number);

double tcp_load_now(void);

/** TCP_LOAD_MEMORY bytes, the same at each call: no engine keeps its KV cache in a CPU's cache. */
uint8_t *tcp_load_memory(void);

#endif /* KVL_TESTS_TCP_LOAD_H */
