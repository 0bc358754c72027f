/* SPDX-License-Identifier: Apache-2.0 */
#include "offer.h"

#include <errno.h>
#include <string.h>

void kvl_offer_box_init(struct kvl_offer_box *box)
{
    pthread_mutex_init(&box->lock, NULL);
    box->length = 0;
}

void kvl_offer_box_fini(struct kvl_offer_box *box)
{
    pthread_mutex_destroy(&box->lock);
}

int kvl_offer_box_put(struct kvl_offer_box *box, const void *bytes, uint32_t length)
{
    if (length > KVL_OFFER_MAX) {
        return -EMSGSIZE;
    }
    pthread_mutex_lock(&box->lock);
    box->length = length;
    memcpy(box->bytes, length > 0 ? bytes : "", length); /* memcpy takes no NULL */
    pthread_mutex_unlock(&box->lock);
    return 0;
}

uint32_t kvl_offer_box_get(struct kvl_offer_box *box, void *bytes_out)
{
    uint32_t length;

    pthread_mutex_lock(&box->lock);
    length = box->length;
    memcpy(bytes_out, box->bytes, length);
    pthread_mutex_unlock(&box->lock);
    return length;
}
