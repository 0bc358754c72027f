/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_counters.h
 * Counters of an instance, over all its channels. Set from anywhere, read without a lock.
 */
#ifndef KVL_PY_SOCKET_COUNTERS_H
#define KVL_PY_SOCKET_COUNTERS_H

#include <stdatomic.h>

#include <kvlane/watch.h>

/* name in struct py_socket_counters, which is also what people see */
#define PY_SOCKET_COUNTERS(COUNTER)                                                                \
    COUNTER(channels_now)                                                                          \
    COUNTER(peers_now)                                                                             \
    COUNTER(peers_replaced) /* another incarnation at the same URL */                              \
    COUNTER(peers_forgotten)                                                                       \
    COUNTER(handshakes_in) /* answered with ok */                                                  \
    COUNTER(handshakes_in_refused)                                                                 \
    COUNTER(handshakes_out) /* that ended well */                                                  \
    COUNTER(handshakes_out_timeout)                                                                \
    COUNTER(handshakes_out_refused) /* by the peer or for what it offers */                        \
    COUNTER(handshakes_out_bad) /* an answer that is none */                                       \
    COUNTER(handshakes_out_denied) /* CURVE keys that do not match */                              \
    COUNTER(handshakes_out_failed) /* no socket, no memory, closed */                              \
    COUNTER(handshakes_retried) /* further sockets used */                                         \
    COUNTER(side_messages_in)                                                                      \
    COUNTER(frames_bad) /* answered with a reason */                                               \
    COUNTER(lookups_in)                                                                            \
    COUNTER(lookups_in_failed)                                                                     \
    COUNTER(lookups_out)                                                                           \
    COUNTER(lookups_out_failed)                                                                    \
    COUNTER(curve_denied) /* connections from keys that are not allowed */

struct py_socket_counters {
#define COUNTER(name) _Atomic uint64_t name;
    PY_SOCKET_COUNTERS(COUNTER)
#undef COUNTER
};

static inline void py_socket_count(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void py_socket_uncount(_Atomic uint64_t *counter)
{
    atomic_fetch_sub_explicit(counter, 1, memory_order_relaxed);
}

static inline uint64_t py_socket_counted(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static inline void py_socket_counters_tell(const struct py_socket_counters *counters,
                                           kvl_stat_fn fn, void *ctx)
{
#define COUNTER(name) fn(ctx, #name, py_socket_counted(&counters->name));
    PY_SOCKET_COUNTERS(COUNTER)
#undef COUNTER
}

#endif /* KVL_PY_SOCKET_COUNTERS_H */
