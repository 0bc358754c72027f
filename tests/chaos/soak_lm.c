/* SPDX-License-Identifier: Apache-2.0 */
/* A client as LMCache's: one connection, one request at a time, header and body of a PUT apart. */
#include "soak.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lm {
    struct soak_shared *shared;
    struct soak_slot *slot;
    uint64_t random;
    int fd;
    uint8_t *data; /* SOAK_VALUE_MAX bytes */
};

static int lm_lost(struct lm *lm, const char *what)
{
    soak_error(lm->slot, "%s: %s", what,
               errno == EPIPE    ? "closed by the server"
               : errno == EAGAIN ? "stuck"
                                 : strerror(errno));
    return -1;
}

static int lm_request(struct lm *lm, int32_t command, uint32_t key)
{
    uint8_t header[SOAK_HEADER];
    char text[SOAK_KEY_TEXT];

    soak_key_text(key, text);
    soak_header(header, command, 0, NULL, text);
    return soak_send(lm->fd, header, sizeof(header)) < 0 ? lm_lost(lm, "request") : 0;
}

static int lm_put(struct lm *lm, uint32_t key)
{
    uint64_t version = soak_version_begin(lm->slot);
    uint64_t size = soak_value_size(key, version);
    struct kvl_attrs attrs = soak_value_attrs(key, version);
    uint8_t header[SOAK_HEADER];
    char text[SOAK_KEY_TEXT];
    int r;

    soak_key_text(key, text);
    soak_value_fill(key, version, lm->data);
    soak_header(header, SOAK_CMD_PUT, (int32_t)size, &attrs, text);
    atomic_store(&lm->slot->phase, SOAK_PUT_BODY);
    r = soak_send(lm->fd, header, sizeof(header));
    r = r < 0 ? r : soak_send(lm->fd, lm->data, size);
    atomic_store(&lm->slot->phase, SOAK_IDLE);
    if (r < 0) {
        return lm_lost(lm, "PUT");
    }
    atomic_fetch_add(&lm->slot->puts, 1);
    atomic_fetch_add(&lm->slot->bytes, size);
    return 0;
}

/* The reply to a GET. @return 1 a value, 0 a miss, -1. */
static int lm_take_value(struct lm *lm, uint32_t key, uint64_t *version_out)
{
    struct soak_reply reply;
    int r = 0;

    *version_out = 0;
    if (soak_receive_reply(lm->fd, &reply) < 0) {
        return lm_lost(lm, "GET");
    }
    atomic_fetch_add(&lm->slot->gets, 1);
    if (reply.code == 400 && reply.length == 0) {
        return 0;
    }
    if (reply.code != 200 || reply.length < 0 || reply.length > (int32_t)SOAK_VALUE_MAX) {
        soak_error(lm->slot, "GET: code %d, length %d", reply.code, reply.length);
        return -1;
    }
    atomic_store(&lm->slot->phase, SOAK_GET_REPLY);
    r = soak_receive(lm->fd, lm->data, (size_t)reply.length);
    atomic_store(&lm->slot->phase, SOAK_IDLE);
    if (r < 0) {
        return lm_lost(lm, "GET");
    }
    if (!soak_value_check(lm->shared, lm->slot, key, lm->data, (uint64_t)reply.length, &reply.attrs,
                          version_out)) {
        return -1;
    }
    atomic_fetch_add(&lm->slot->hits, 1);
    atomic_fetch_add(&lm->slot->bytes, (uint64_t)reply.length);
    return 1;
}

static int lm_get(struct lm *lm, uint32_t key)
{
    uint64_t version;
    int r = lm_request(lm, SOAK_CMD_GET, key);

    r = r < 0 ? r : lm_take_value(lm, key, &version);
    if (r == 0 && soak_random(&lm->random) % 2 == 0) {
        r = lm_put(lm, key); /* as an engine: computed after a miss, then stored */
    }
    return r < 0 ? r : 0;
}

/* EXIST and HEALTH: 36 bytes and no more. */
static int lm_ask(struct lm *lm, int32_t command, uint32_t key)
{
    struct soak_reply reply;

    if (lm_request(lm, command, key) < 0) {
        return -1;
    }
    if (soak_receive_reply(lm->fd, &reply) < 0) {
        return lm_lost(lm, command == SOAK_CMD_EXIST ? "EXIST" : "HEALTH");
    }
    if ((reply.code != 200 && reply.code != 400) || reply.length != 0 ||
        (command == SOAK_CMD_HEALTH && reply.code != 200)) {
        soak_error(lm->slot, "command %d: code %d, length %d", command, reply.code, reply.length);
        return -1;
    }
    return 0;
}

static int lm_list(struct lm *lm)
{
    struct soak_reply reply;

    if (lm_request(lm, SOAK_CMD_LIST, 0) < 0) {
        return -1;
    }
    if (soak_receive_reply(lm->fd, &reply) < 0) {
        return lm_lost(lm, "LIST");
    }
    if (reply.code != 200 || reply.length < 0 || reply.length > (int32_t)SOAK_VALUE_MAX) {
        soak_error(lm->slot, "LIST: code %d, length %d", reply.code, reply.length);
        return -1;
    }
    return soak_receive(lm->fd, lm->data, (size_t)reply.length) < 0 ? lm_lost(lm, "LIST") : 0;
}

/* Several requests before the first reply is read. */
static int lm_pipeline(struct lm *lm, uint32_t key)
{
    uint64_t version;
    struct soak_reply reply;

    if (lm_put(lm, key) < 0 || lm_request(lm, SOAK_CMD_EXIST, key) < 0 ||
        lm_request(lm, SOAK_CMD_GET, key) < 0 || lm_request(lm, SOAK_CMD_EXIST, key) < 0) {
        return -1;
    }
    if (soak_receive_reply(lm->fd, &reply) < 0) {
        return lm_lost(lm, "EXIST");
    }
    if (lm_take_value(lm, key, &version) < 0) {
        return -1;
    }
    return soak_receive_reply(lm->fd, &reply) < 0 ? lm_lost(lm, "EXIST") : 0;
}

static int lm_step(struct lm *lm)
{
    uint32_t key = (uint32_t)(soak_random(&lm->random) % lm->shared->keys);
    uint64_t what = soak_random(&lm->random) % 100;

    atomic_fetch_add(&lm->slot->ops, 1);
    if (what < 45) {
        return lm_get(lm, key);
    }
    if (what < 70) {
        return lm_put(lm, key);
    }
    if (what < 90) {
        return lm_ask(lm, SOAK_CMD_EXIST, key);
    }
    if (what < 93) {
        return lm_ask(lm, SOAK_CMD_HEALTH, key);
    }
    if (what < 94) {
        return lm_list(lm);
    }
    if (what < 99) {
        return lm_pipeline(lm, key);
    }
    close(lm->fd);
    lm->fd = soak_connect(lm->shared->port);
    return lm->fd < 0 ? lm_lost(lm, "connect") : 0;
}

static bool lm_begin(struct lm *lm, struct soak_shared *shared, struct soak_slot *slot)
{
    *lm = (struct lm){.shared = shared, .slot = slot, .data = malloc(SOAK_VALUE_MAX)};
    lm->random = shared->seed ^ ((uint64_t)getpid() << 20) ^ soak_now_ms() ^ 1;
    lm->fd = soak_connect(shared->port);
    if (lm->fd < 0 || lm->data == NULL) {
        (void)lm_lost(lm, "connect");
    }
    return lm->fd >= 0 && lm->data != NULL;
}

static void lm_end(struct lm *lm)
{
    if (lm->fd >= 0) {
        close(lm->fd);
    }
    free(lm->data);
}

void soak_lm_run(struct soak_shared *shared, struct soak_slot *slot)
{
    struct lm lm;
    bool fine = lm_begin(&lm, shared, slot);

    while (fine && !atomic_load(&shared->stop)) {
        fine = lm_step(&lm) == 0;
    }
    lm_end(&lm);
}

int soak_lm_sweep(struct soak_shared *shared, struct soak_slot *slot, uint64_t *versions_out)
{
    struct lm lm;
    int found = lm_begin(&lm, shared, slot) ? 0 : -1;

    for (uint32_t key = 0; found >= 0 && key < shared->keys; key++) {
        uint64_t version = 0;
        int r = lm_request(&lm, SOAK_CMD_GET, key);

        r = r < 0 ? r : lm_take_value(&lm, key, &version);
        found = r < 0 ? -1 : found + r;
        if (versions_out != NULL) {
            versions_out[key] = version;
        }
    }
    lm_end(&lm);
    return found;
}
