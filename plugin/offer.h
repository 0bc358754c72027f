/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file offer.h
 * What a backend wants told to its like in other processes, kept until channels ask for it.
 * Thread-safe.
 */
#ifndef KVL_PLUGIN_OFFER_H
#define KVL_PLUGIN_OFFER_H

#include <kvlane/host.h>

#include <pthread.h>

struct kvl_offer_box {
    pthread_mutex_t lock; /* guards everything below */
    uint32_t length; /* 0 = nothing is offered */
    uint8_t bytes[KVL_OFFER_MAX];
};

void kvl_offer_box_init(struct kvl_offer_box *box);
void kvl_offer_box_fini(struct kvl_offer_box *box);

/** Puts a copy in place of what is there. @return 0; -EMSGSIZE over KVL_OFFER_MAX. */
int kvl_offer_box_put(struct kvl_offer_box *box, const void *bytes, uint32_t length);

/** @param bytes_out  room for KVL_OFFER_MAX. @return bytes written; 0 = nothing is offered. */
uint32_t kvl_offer_box_get(struct kvl_offer_box *box, void *bytes_out);

#endif /* KVL_PLUGIN_OFFER_H */
