/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_service.h
 * The REP socket of a worker: clear, pin and health, asked by a controller. One thread, one call at
 * a time. Whatever comes in is answered, so that the socket never waits for an answer of ours.
 */
#ifndef KVL_CONTROLLER_SERVICE_H
#define KVL_CONTROLLER_SERVICE_H

#include "controller_worker.h"

struct controller_service_desc {
    const struct kvl_host *host; /* borrowed */
    void *zmq; /* context; borrowed */
    const int *stop_fd; /* readable from the moment on when the thread is to end; borrowed */
    int allow_remote; /* listen on every address, else on 127.0.0.1 */
    int32_t port; /* 0 = the kernel picks */
    const char *location; /* the only one that can be cleared or pinned */
    uint64_t pin_ms;
    uint64_t pin_bytes;
    uint64_t move_ms; /* longest that moving chunks may take */
    struct controller_hashing hashing;
    struct controller_limits limits;
};

struct controller_service_stats {
    uint64_t calls;
    uint64_t refused; /* answered by ErrorMsg */
    uint64_t cleared; /* chunks */
    uint64_t pinned; /* chunks, now */
};

struct controller_service;

int controller_service_create(const struct controller_service_desc *desc,
                              struct controller_service **service_out);
/** Binds and starts the thread. @return 0 and the port; -EADDRINUSE, -EACCES, -EIO, ... */
int controller_service_start(struct controller_service *service, int32_t *port_out);
/** Joins the thread, which ends with the stop descriptor, gives pins back, closes the socket. */
void controller_service_stop(struct controller_service *service);
/** Takes NULL. */
void controller_service_destroy(struct controller_service *service);

void controller_service_stats(struct controller_service *service,
                              struct controller_service_stats *stats_out);

#endif /* KVL_CONTROLLER_SERVICE_H */
