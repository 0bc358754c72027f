/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_host.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "fake_host_parts.h"

/* ---- there is nobody to ask or to push to ---- */

static int fake_locate(const struct kvl_host *host, const struct kvl_chunk_id *ids, uint32_t count,
                       uint64_t deadline_ms, kvl_locate_fn fn, void *ctx)
{
    (void)host;
    (void)ids;
    (void)count;
    (void)deadline_ms;
    (void)fn;
    (void)ctx;
    return -ENOTSUP;
}

static int fake_push(const struct kvl_host *host, const char *peer_url, const struct kvl_key *keys,
                     uint32_t count, uint64_t deadline_ms, uint32_t *pushed_out)
{
    (void)host;
    (void)peer_url;
    (void)keys;
    (void)count;
    (void)deadline_ms;
    (void)pushed_out;
    return -ENOTSUP;
}

/* ---- offers ---- */

static void fake_offers(const struct kvl_host *host, kvl_offer_fn fn, void *ctx)
{
    struct fake_host *fake = fake_of(host);
    struct fake_offer own;
    struct kvl_offer offer = {.size = sizeof(offer), .is_same_host = 1};

    pthread_mutex_lock(&fake->lock);
    own = fake->offer;
    pthread_mutex_unlock(&fake->lock);
    offer.backend = (struct kvl_text){.text = own.backend, .length = (uint32_t)strlen(own.backend)};
    offer.bytes = own.bytes;
    offer.length = own.length;
    if (own.length > 0) {
        fn(ctx, &offer);
    }
}

static void fake_offered(const struct kvl_host *host, const struct kvl_offer *offer)
{
    struct fake_host *fake = fake_of(host);
    struct fake_offer *last = &fake->offered;

    pthread_mutex_lock(&fake->lock);
    snprintf(last->backend, sizeof(last->backend), "%.*s", (int)offer->backend.length,
             offer->backend.text);
    snprintf(last->peer, sizeof(last->peer), "%.*s", (int)offer->peer.length, offer->peer.text);
    memcpy(last->bytes, offer->bytes, offer->length);
    last->length = offer->length;
    last->is_same_host = offer->is_same_host;
    fake->offered_count++;
    pthread_cond_broadcast(&fake->changed);
    pthread_mutex_unlock(&fake->lock);
}

static int fake_offer_own(const struct kvl_host *host, const void *bytes, uint32_t length)
{
    struct fake_host *fake = fake_of(host);

    if (length > KVL_OFFER_MAX) {
        return -EMSGSIZE;
    }
    fake_host_set_offer(fake, fake->desc->name != NULL ? fake->desc->name : "",
                        length > 0 ? bytes : "", length);
    return 0;
}

void fake_peers_fill(struct kvl_host *table)
{
    table->locate = fake_locate;
    table->push = fake_push;
    table->offers = fake_offers;
    table->offered = fake_offered;
    table->offer = fake_offer_own;
}

void fake_host_set_offer(struct fake_host *fake, const char *backend, const void *bytes,
                         uint32_t length)
{
    pthread_mutex_lock(&fake->lock);
    snprintf(fake->offer.backend, sizeof(fake->offer.backend), "%s", backend);
    memcpy(fake->offer.bytes, bytes, length);
    fake->offer.length = length;
    pthread_mutex_unlock(&fake->lock);
}

uint32_t fake_host_offer(struct fake_host *fake, void *bytes_out)
{
    uint32_t length;

    pthread_mutex_lock(&fake->lock);
    length = fake->offer.length;
    memcpy(bytes_out, fake->offer.bytes, length);
    pthread_mutex_unlock(&fake->lock);
    return length;
}

uint32_t fake_host_offered(struct fake_host *fake, struct fake_offer *last_out)
{
    uint32_t count;

    pthread_mutex_lock(&fake->lock);
    count = fake->offered_count;
    if (last_out != NULL) {
        *last_out = fake->offered;
    }
    pthread_mutex_unlock(&fake->lock);
    return count;
}
