/* SPDX-License-Identifier: Apache-2.0 */
#include "remote_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK CUDA_RIG_CHECK
#define SETTINGS_MAX 16

/* ---- in the engine's process ---- */

struct remote_self {
    struct cuda_rig cuda;
    struct cuda_engine_rig rig;
    uint32_t count; /* of the load that was begun */
    uint32_t seed;
    uint64_t cookie;
};

/* Room for the chunks of a load at the end of the cache. */
static uint32_t remote_first(uint32_t count)
{
    return ENGINE_BLOCKS - count * ENGINE_CHUNK_BLOCKS;
}

static int remote_end_load(struct remote_self *self)
{
    struct fake_result *result = malloc(sizeof(*result));
    int status;

    CHECK(result != NULL && fake_host_wait(self->rig.fake, self->cookie, result) == 0);
    status = result->status;
    for (uint32_t i = 0; i < self->count; i++) { /* right bytes, or an error */
        CHECK(result->items[i] != 0 ||
              cuda_engine_holds(&self->rig, remote_first(self->count) + i * ENGINE_CHUNK_BLOCKS,
                                self->seed + i));
    }
    free(result);
    return status;
}

static void remote_count_errors(const struct remote_self *self, struct remote_answer *answer)
{
    for (const char *at = self->rig.errors; *at != '\0'; at++) {
        answer->value += *at == '\n';
    }
    (void)snprintf(answer->text, sizeof(answer->text), "%.1000s", self->rig.errors);
}

static void remote_do_connect(struct remote_self *self, const struct remote_order *order)
{
    const struct kvl_offer offer = {
        .size = sizeof(offer), .bytes = order->bytes, .length = order->length};

    self->rig.ops->connect(self->rig.self, &offer);
}

static void remote_do(struct remote_self *self, const struct remote_order *order,
                      struct remote_answer *answer)
{
    struct cuda_engine_rig *rig = &self->rig;
    struct kvl_health health;

    switch (order->what) {
    case REMOTE_SAVE:
        cuda_engine_save(rig, order->prefix, order->count, order->seed);
        break;
    case REMOTE_LOAD:
        answer->value = cuda_engine_load(rig, order->prefix, order->count, order->seed);
        break;
    case REMOTE_HAS:
        answer->value = cuda_engine_has(rig, order->prefix);
        break;
    case REMOTE_BEGIN_LOAD:
        self->count = order->count;
        self->seed = order->seed;
        answer->value = cuda_engine_submit(rig, rig->ops->read, order->prefix, order->count,
                                           remote_first(order->count), 0);
        self->cookie = rig->cookie;
        break;
    case REMOTE_END_LOAD:
        answer->value = remote_end_load(self);
        break;
    case REMOTE_HOLD:
        self->cuda.control->hold(NULL);
        break;
    case REMOTE_RELEASE:
        self->cuda.control->release(NULL);
        break;
    case REMOTE_PENDING:
        answer->value = self->cuda.control->pending(NULL);
        break;
    case REMOTE_CANCEL:
        rig->ops->cancel(rig->self, self->cookie);
        break;
    case REMOTE_MEET:
        remote_do_connect(self, order);
        break;
    case REMOTE_STAT:
        answer->value = (int64_t)cuda_engine_stat(rig, order->prefix);
        break;
    case REMOTE_CALLS:
        answer->value = (int64_t)self->cuda.control->calls(order->prefix);
        break;
    case REMOTE_HEALTH:
        health = cuda_engine_health(rig);
        answer->value = health.state;
        (void)snprintf(answer->text, sizeof(answer->text), "%s", health.text);
        break;
    case REMOTE_ERRORS:
        remote_count_errors(self, answer);
        break;
    case REMOTE_STOP_READ:
        cuda_engine_fini(rig);
        CHECK(strstr(rig->warnings, "still read the pool") != NULL);
        break;
    case REMOTE_STOP:
        cuda_engine_fini(rig);
        cuda_rig_close(&self->cuda); /* nothing of the driver's is left */
        break;
    }
}

/* "name=value name=value" into pairs that stay. */
static void remote_settings(char *text, const char *pairs[2 * SETTINGS_MAX + 1])
{
    uint32_t n = 0;
    char *save = NULL;

    for (char *word = strtok_r(text, " ", &save); word != NULL; word = strtok_r(NULL, " ", &save)) {
        char *value = strchr(word, '=');

        CHECK(value != NULL && n < 2 * SETTINGS_MAX);
        *value = '\0';
        pairs[n++] = word;
        pairs[n++] = value + 1;
    }
    pairs[n] = NULL;
}

int remote_engine_run(int fd)
{
    struct remote_self *self = calloc(1, sizeof(*self));
    const char *pairs[2 * SETTINGS_MAX + 1];
    struct remote_order order = {.what = REMOTE_SAVE};
    struct remote_answer answer;

    CHECK(self != NULL);
    cuda_rig_recv(fd, &order, sizeof(order));
    remote_settings((char *)order.bytes, pairs);
    cuda_rig_open(&self->cuda);
    cuda_engine_init(&self->rig, &self->cuda, pairs);
    cuda_engine_start(&self->rig);
    memset(&answer, 0, sizeof(answer));
    answer.length = fake_host_offer(self->rig.fake, answer.bytes);
    cuda_rig_send(fd, &answer, sizeof(answer));
    while (order.what != REMOTE_STOP && order.what != REMOTE_STOP_READ) {
        cuda_rig_recv(fd, &order, sizeof(order));
        memset(&answer, 0, sizeof(answer));
        remote_do(self, &order, &answer);
        cuda_rig_send(fd, &answer, sizeof(answer));
    }
    free(self);
    return 0;
}

/* ---- in the test ---- */

static struct remote_answer remote_send(struct remote_engine *remote,
                                        const struct remote_order *order)
{
    struct remote_answer answer;

    cuda_rig_send(remote->peer.fd, order, sizeof(*order));
    cuda_rig_recv(remote->peer.fd, &answer, sizeof(answer));
    return answer;
}

void remote_start(struct remote_engine *remote, const char *settings)
{
    struct remote_order order = {.what = REMOTE_SAVE};
    struct remote_answer answer;

    cuda_rig_start(&remote->peer, REMOTE_ENGINE_ROLE);
    (void)snprintf((char *)order.bytes, sizeof(order.bytes), "%s", settings);
    answer = remote_send(remote, &order);
    remote->length = answer.length;
    memcpy(remote->offer, answer.bytes, answer.length);
}

void remote_stop(struct remote_engine *remote)
{
    (void)remote_ask(remote, REMOTE_STOP, "", 0, 0);
    cuda_rig_end(&remote->peer);
}

void remote_kill(struct remote_engine *remote)
{
    cuda_rig_kill(&remote->peer);
}

struct remote_answer remote_ask(struct remote_engine *remote, enum remote_what what,
                                const char *prefix, uint32_t count, uint32_t seed)
{
    struct remote_order order = {.what = what, .count = count, .seed = seed};

    (void)snprintf(order.prefix, sizeof(order.prefix), "%s", prefix);
    return remote_send(remote, &order);
}

int64_t remote_stat(struct remote_engine *remote, const char *name)
{
    return remote_ask(remote, REMOTE_STAT, name, 0, 0).value;
}

struct remote_wish {
    struct remote_engine *remote;
    const char *name;
    int64_t value;
};

static int remote_is_there(void *ctx)
{
    const struct remote_wish *wish = ctx;

    return remote_stat(wish->remote, wish->name) == wish->value;
}

void remote_await(struct remote_engine *remote, const char *name, int64_t value)
{
    struct remote_wish wish = {remote, name, value};

    cuda_rig_until(remote_is_there, &wish);
}

void remote_meet(struct remote_engine *remote, const struct remote_engine *other)
{
    const int64_t links = remote_stat(remote, "peer_links");
    struct remote_order order = {.what = REMOTE_MEET, .length = other->length};

    memcpy(order.bytes, other->offer, other->length);
    (void)remote_send(remote, &order);
    remote_await(remote, "peer_links", links + 1);
}
