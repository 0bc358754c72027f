/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_pins.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct pin {
    char text[KVL_KEY_MAX];
    uint32_t length;
    uint32_t position; /* of its chunk among those asked for */
    uint64_t lease;
    uint64_t bytes;
    uint64_t until_ms;
};

struct controller_pins {
    const struct kvl_host *host; /* borrowed */
    uint64_t pin_ms;
    uint64_t bytes_max;
    uint64_t bytes;
    struct pin *at; /* ordered by key */
    uint32_t count;
    uint32_t room;
};

struct wanted {
    struct kvl_chunk_id id;
    uint32_t position;
};

/* What the listing of the store finds. */
struct pin_search {
    const struct controller_pins *pins;
    struct wanted *wanted; /* ordered by id */
    uint32_t wanted_count;
    struct pin *found;
    uint32_t found_count;
    uint32_t found_room;
};

int controller_pins_create(const struct kvl_host *host, uint64_t pin_ms, uint64_t bytes_max,
                           struct controller_pins **pins_out)
{
    struct controller_pins *pins = calloc(1, sizeof(*pins));

    if (pins == NULL) {
        return -ENOMEM;
    }
    pins->host = host;
    pins->pin_ms = pin_ms;
    pins->bytes_max = bytes_max;
    *pins_out = pins;
    return 0;
}

void controller_pins_destroy(struct controller_pins *pins)
{
    if (pins == NULL) {
        return;
    }
    (void)controller_pins_expire(pins, UINT64_MAX);
    free(pins->at);
    free(pins);
}

/* ---- orders ---- */

static int pin_order_keys(const void *a, const void *b)
{
    const struct pin *left = a;
    const struct pin *right = b;

    if (left->length != right->length) {
        return left->length < right->length ? -1 : 1;
    }
    return memcmp(left->text, right->text, left->length);
}

static int pin_order_positions(const void *a, const void *b)
{
    uint32_t left = ((const struct pin *)a)->position;
    uint32_t right = ((const struct pin *)b)->position;

    return (left > right) - (left < right);
}

static int pin_order_ids(const void *a, const void *b)
{
    return controller_id_order(&((const struct wanted *)a)->id, &((const struct wanted *)b)->id);
}

static struct pin *pin_find(const struct controller_pins *pins, const struct kvl_key *key)
{
    struct pin probe = {.length = key->length};

    if (pins->count == 0 || key->length > KVL_KEY_MAX) {
        return NULL;
    }
    memcpy(probe.text, key->text, key->length);
    return bsearch(&probe, pins->at, pins->count, sizeof(*pins->at), pin_order_keys);
}

int controller_pins_has(const struct controller_pins *pins, const struct kvl_key *key)
{
    return pin_find(pins, key) != NULL;
}

uint32_t controller_pins_count(const struct controller_pins *pins)
{
    return pins->count;
}

uint64_t controller_pins_expire(struct controller_pins *pins, uint64_t now_ms)
{
    uint64_t next = UINT64_MAX;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < pins->count; i++) {
        if (pins->at[i].until_ms <= now_ms) {
            pins->bytes -= pins->at[i].bytes;
            (void)pins->host->store_release(pins->host, pins->at[i].lease);
            continue;
        }
        next = pins->at[i].until_ms < next ? pins->at[i].until_ms : next;
        if (kept != i) {
            pins->at[kept] = pins->at[i];
        }
        kept++;
    }
    pins->count = kept;
    return next;
}

/* ---- pinning ---- */

static int pin_look(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct pin_search *search = ctx;
    const struct wanted *hit;
    struct wanted probe = {0};
    struct pin *found;

    (void)bytes;
    if (search->pins->host->chunk_id(search->pins->host, key, &probe.id) < 0) {
        return 0;
    }
    hit = bsearch(&probe, search->wanted, search->wanted_count, sizeof(probe), pin_order_ids);
    if (hit == NULL) {
        return 0;
    }
    if (search->found_count == search->found_room) {
        uint32_t room = search->found_room == 0 ? 64 : search->found_room * 2;
        struct pin *wider =
            room > 4 * CONTROLLER_PINS_MAX ? NULL : realloc(search->found, room * sizeof(*wider));

        if (wider == NULL) {
            return -ENOMEM;
        }
        search->found = wider;
        search->found_room = room;
    }
    found = &search->found[search->found_count++];
    memset(found, 0, sizeof(*found));
    memcpy(found->text, key->text, key->length);
    found->length = key->length;
    found->position = hit->position;
    return 0;
}

static int pins_make_room(struct controller_pins *pins, uint32_t more)
{
    struct pin *wider;
    uint32_t room = pins->count + more;

    if (room <= pins->room) {
        return 0;
    }
    room = room > CONTROLLER_PINS_MAX ? CONTROLLER_PINS_MAX : room;
    wider = realloc(pins->at, room * sizeof(*wider));
    if (wider == NULL) {
        return -ENOMEM;
    }
    pins->at = wider;
    pins->room = room;
    return 0;
}

/* @return 1 pinned, also if it was; 0 the chunk is gone; -ENOSPC over a bound. `known` leading pins
 * are in order, newer ones stand behind them. */
static int pins_take(struct controller_pins *pins, uint32_t known, struct pin *found)
{
    const struct kvl_key key = {.text = found->text, .length = found->length};
    uint64_t until = pins->host->now_ms(pins->host) + pins->pin_ms;
    struct pin *old =
        known == 0 ? NULL : bsearch(found, pins->at, known, sizeof(*found), pin_order_keys);
    struct kvl_view view;

    if (old != NULL) {
        old->until_ms = until;
        return 1;
    }
    if (pins->host->store_get(pins->host, &key, &view) < 0) {
        return 0;
    }
    if (pins->count == pins->room || view.length > pins->bytes_max - pins->bytes) {
        (void)pins->host->store_release(pins->host, view.lease);
        return -ENOSPC;
    }
    found->lease = view.lease;
    found->bytes = view.length;
    found->until_ms = until;
    pins->at[pins->count++] = *found;
    pins->bytes += view.length;
    return 1;
}

/* A chunk may be there under several keys, one per rank or layer: all of them are pinned.
 * @return leading chunks pinned. */
static uint32_t pins_take_run(struct controller_pins *pins, struct pin_search *search)
{
    const uint32_t known = pins->count;
    uint32_t run = 0;
    uint32_t i = 0;

    while (i < search->found_count && search->found[i].position == run) {
        int pinned = 0;

        for (; i < search->found_count && search->found[i].position == run; i++) {
            int r = pins_take(pins, known, &search->found[i]);

            if (r < 0) {
                return run;
            }
            pinned |= r;
        }
        if (!pinned) {
            break;
        }
        run++;
    }
    return run;
}

static int pins_want(struct pin_search *search, const struct controller_hashing *hashing,
                     const struct kvl_chunk_id *tokens, uint32_t count)
{
    uint32_t chunks = controller_hash_chunks(hashing, count);
    struct kvl_chunk_id *ids = malloc(chunks * sizeof(*ids));

    search->wanted_count = chunks < CONTROLLER_PINS_MAX ? chunks : CONTROLLER_PINS_MAX;
    search->wanted = malloc(search->wanted_count * sizeof(*search->wanted));
    if (ids == NULL || search->wanted == NULL) {
        free(ids);
        return -ENOMEM;
    }
    controller_hash_chain(hashing, tokens, count, ids);
    for (uint32_t i = 0; i < search->wanted_count; i++) {
        search->wanted[i] = (struct wanted){.id = ids[i], .position = i};
    }
    free(ids);
    qsort(search->wanted, search->wanted_count, sizeof(*search->wanted), pin_order_ids);
    return 0;
}

int controller_pins_add(struct controller_pins *pins, const struct controller_hashing *hashing,
                        const struct kvl_chunk_id *tokens, uint32_t count, int64_t *tokens_out)
{
    struct pin_search search = {.pins = pins};
    uint64_t end;
    int r;

    if (count == 0) {
        *tokens_out = 0;
        return 0;
    }
    r = pins_want(&search, hashing, tokens, count);
    if (r == 0) {
        r = pins->host->store_list(pins->host, pin_look, &search);
    }
    if (r == 0) {
        r = pins_make_room(pins, search.found_count);
    }
    if (r == 0 && search.found_count > 0) {
        qsort(search.found, search.found_count, sizeof(*search.found), pin_order_positions);
        end = (uint64_t)pins_take_run(pins, &search) * hashing->chunk_size;
        qsort(pins->at, pins->count, sizeof(*pins->at), pin_order_keys);
        *tokens_out = (int64_t)(end < count ? end : count);
    } else if (r == 0) {
        *tokens_out = 0;
    }
    free(search.wanted);
    free(search.found);
    return r;
}
