/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_link.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "cond.h"

#define REGISTER_PAUSE_MS 1000u
/* How long the first registration waits for a peer channel beside us to open. */
#define PEER_START_MS 5000u
#define PEER_POLL_MS 20u
/* From a broken connection to the heartbeat that asks who is there now. */
#define LOOK_AGAIN_MS 100u
#define LOOK_AGAIN_SPREAD_MS 400u

struct controller_link {
    struct controller_link_desc desc;
    uint64_t thread;
    bool has_thread;

    pthread_mutex_t lock; /* guards the rest of this block */
    pthread_cond_t changed;
    bool stopping;
    bool kicked;
    struct controller_link_stats stats;

    /* The thread's own. */
    struct controller_req *reply;
    struct controller_req *heart; /* NULL = the controller named no port for heartbeats */
    bool heart_failed; /* the last heartbeat through it: the next goes to the reply port */
    char peer_url[KVL_NAME_ROOM]; /* of the channel backend beside us; "" = none, or not known */
};

static uint64_t link_now(const struct controller_link *link)
{
    return link->desc.host->now_ms(link->desc.host);
}

void controller_link_describe(const struct controller_identity *self, enum controller_type type,
                              struct controller_msg *msg_out)
{
    memset(msg_out, 0, sizeof(*msg_out));
    msg_out->type = type;
    msg_out->instance_id = controller_text(self->instance_id);
    msg_out->worker_id = self->worker_id;
    msg_out->ip = controller_text(self->ip);
    msg_out->port = self->port;
    msg_out->peer_init_url.value = controller_text(self->peer_init_url);
    msg_out->peer_init_url.is_set = self->peer_init_url[0] != '\0';
}

static void link_note(struct controller_link *link, int r, const char *why)
{
    struct controller_link_stats *stats = &link->stats;
    bool is_news;

    pthread_mutex_lock(&link->lock);
    is_news = r < 0 ? stats->why[0] == '\0' : stats->why[0] != '\0';
    if (stats->answered != (r == 0)) {
        stats->since_ms = link_now(link);
        stats->answered = r == 0;
    }
    if (r == 0) {
        stats->last_answer_ms = link_now(link);
        stats->why[0] = '\0';
    } else {
        stats->failures++;
        (void)snprintf(stats->why, sizeof(stats->why), "%s", why);
    }
    pthread_mutex_unlock(&link->lock);
    if (is_news && r < 0) {
        kvl_warn(link->desc.host->log, "controller: %s, will go on trying", why);
    } else if (is_news) {
        kvl_info(link->desc.host->log, "controller: '%s' answers again",
                 controller_req_url(link->reply));
    }
}

/* @return 0 the time is over; 1 a kick came, where that matters; -ECANCELED. */
static int link_pause(struct controller_link *link, uint64_t ms, bool until_kick)
{
    uint64_t until = link_now(link) + ms;
    struct timespec at = {.tv_sec = (time_t)(until / 1000),
                          .tv_nsec = (long)(until % 1000) * 1000000};
    int r = 0;

    pthread_mutex_lock(&link->lock);
    while (!link->stopping && !(until_kick && link->kicked) && r == 0) {
        r = pthread_cond_timedwait(&link->changed, &link->lock, &at);
    }
    r = until_kick && link->kicked;
    link->kicked = link->kicked && !until_kick;
    r = link->stopping ? -ECANCELED : r;
    pthread_mutex_unlock(&link->lock);
    return r;
}

/* ---- registration and heartbeats ---- */

/* Where the backend with a peer channel in this instance can be reached. It may start after us, so
 * the first registration gives it a moment. */
static void link_learn_peer(struct controller_link *link)
{
    const struct kvl_host *host = link->desc.host;
    const uint64_t until = link_now(link) + PEER_START_MS;
    bool is_coming = true;

    if (link->desc.self->peer_init_url[0] != '\0' || link->peer_url[0] != '\0') {
        return;
    }
    while (is_coming && link->peer_url[0] == '\0') {
        struct kvl_health health = {.size = sizeof(health)};

        is_coming = false;
        for (uint32_t at = 1; host->health(host, at, &health) == 0; at++) {
            if ((health.caps & KVL_CAP_CHANNEL) != 0) {
                is_coming = health.address[0] == '\0' && link_now(link) < until;
                (void)snprintf(link->peer_url, sizeof(link->peer_url), "%s", health.address);
                break;
            }
            health = (struct kvl_health){.size = sizeof(health)};
        }
        is_coming = is_coming && link_pause(link, PEER_POLL_MS, false) == 0;
    }
    if (link->peer_url[0] != '\0') {
        kvl_info(host->log, "controller: peers are told to come to '%s'", link->peer_url);
    }
}

static void link_describe(struct controller_link *link, enum controller_type type,
                          struct controller_msg *msg_out)
{
    controller_link_describe(link->desc.self, type, msg_out);
    if (!msg_out->peer_init_url.is_set && link->peer_url[0] != '\0') {
        msg_out->peer_init_url.value = controller_text(link->peer_url);
        msg_out->peer_init_url.is_set = 1;
    }
}

static void link_take_heartbeat_url(struct controller_link *link,
                                    const struct controller_msg *answer)
{
    static const char name[] = "heartbeat_url";
    struct controller_req_desc desc = link->desc.req;

    for (uint32_t i = 0; i < answer->extra_config.count; i++) {
        const struct controller_pair *pair = &answer->extra_config.at[i];
        char url[KVL_NAME_ROOM];

        if (pair->key.length != sizeof(name) - 1 ||
            memcmp(pair->key.text, name, sizeof(name) - 1) != 0 || pair->value.length == 0 ||
            pair->value.length > KVL_NAME_MAX) {
            continue;
        }
        memcpy(url, pair->value.text, pair->value.length);
        url[pair->value.length] = '\0';
        controller_req_destroy(link->heart);
        link->heart = NULL;
        link->heart_failed = false;
        desc.url = url;
        if (controller_req_create(&desc, &link->heart) == 0) {
            kvl_info(link->desc.host->log, "controller: heartbeats go to '%s'",
                     controller_req_url(link->heart));
        }
    }
}

static void link_ask_sync(struct controller_link *link)
{
    static const char reason[] = "worker_has_news";

    if (controller_events_lost(link->desc.events)) {
        controller_sync_request(link->desc.sync, reason, sizeof(reason) - 1);
    }
}

static int link_register(struct controller_link *link)
{
    struct controller_msg ask;
    struct controller_msg answer;
    char why[CONTROLLER_WHY_MAX];
    int r;

    link_learn_peer(link);
    link_describe(link, CONTROLLER_REGISTER, &ask);
    r = controller_req_call(link->reply, &ask, CONTROLLER_REGISTER_RET, &answer, why);
    if (r == -ECANCELED) {
        return r;
    }
    link_note(link, r, why);
    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&link->lock);
    link->stats.registered = 1;
    link->stats.registrations++;
    pthread_mutex_unlock(&link->lock);
    kvl_info(link->desc.host->log, "controller: registered with '%s' as '%s' %lld",
             controller_req_url(link->reply), link->desc.self->instance_id,
             (long long)link->desc.self->worker_id);
    link_take_heartbeat_url(link, &answer);
    link_ask_sync(link);
    return 0;
}

static void link_obey(struct controller_link *link, const struct controller_msg *answer)
{
    static const char full_sync[] = "full_sync";

    for (uint32_t i = 0; i < answer->commands.count; i++) {
        const struct controller_command *command = &answer->commands.at[i];
        bool known = command->command_type.length == sizeof(full_sync) - 1 &&
                     memcmp(command->command_type.text, full_sync, sizeof(full_sync) - 1) == 0;
        bool first;

        pthread_mutex_lock(&link->lock);
        link->stats.commands += known;
        first = !known && link->stats.unknown_commands++ == 0;
        pthread_mutex_unlock(&link->lock);
        if (known) {
            controller_sync_request(link->desc.sync, command->reason.value.text,
                                    command->reason.is_set ? command->reason.value.length : 0);
        } else if (first) {
            kvl_warn(link->desc.host->log, "controller: command '%.*s' is not known here, skipped",
                     (int)(command->command_type.length < 64 ? command->command_type.length : 64),
                     command->command_type.text);
        }
    }
}

/* Heartbeats have a port of their own where the controller offers one. They are taken at the reply
 * port too, which is what is left when that port cannot be reached. */
static int link_heartbeat(struct controller_link *link)
{
    struct controller_req *req =
        link->heart != NULL && !link->heart_failed ? link->heart : link->reply;
    struct controller_msg ask;
    struct controller_msg answer;
    char why[CONTROLLER_WHY_MAX];
    int r;

    link_describe(link, CONTROLLER_HEARTBEAT, &ask);
    r = controller_req_call(req, &ask, CONTROLLER_HEARTBEAT_RET, &answer, why);
    if (r == -ECANCELED) {
        return r;
    }
    link->heart_failed = req == link->heart && r < 0;
    link_note(link, r, why);
    if (r == 0) {
        pthread_mutex_lock(&link->lock);
        link->stats.heartbeats++;
        pthread_mutex_unlock(&link->lock);
        link_obey(link, &answer);
        link_ask_sync(link);
    }
    return r;
}

static uint64_t link_spread(void)
{
    uint16_t value = 0;

    (void)!getrandom(&value, sizeof(value), GRND_NONBLOCK);
    return LOOK_AGAIN_MS + value % LOOK_AGAIN_SPREAD_MS;
}

static void *link_main(void *arg)
{
    struct controller_link *link = arg;
    uint64_t wait = link->desc.heartbeat_delay_ms;
    int r = link_register(link);

    while (r < 0 && r != -ECANCELED) {
        r = link_pause(link, REGISTER_PAUSE_MS, false);
        if (r == 0) {
            r = link_register(link);
        }
    }
    while (r != -ECANCELED) {
        r = link_pause(link, wait, true);
        if (r == 1) {
            r = link_pause(link, link_spread(), false);
        }
        if (r == 0) {
            r = link_heartbeat(link);
        }
        wait = link->desc.heartbeat_ms;
    }
    return NULL;
}

/* ---- life ---- */

int controller_link_create(const struct controller_link_desc *desc,
                           struct controller_link **link_out)
{
    struct controller_link *link = calloc(1, sizeof(*link));
    int r;

    if (link == NULL) {
        return -ENOMEM;
    }
    link->desc = *desc;
    r = controller_req_create(&desc->req, &link->reply);
    if (r < 0) {
        free(link);
        return r;
    }
    pthread_mutex_init(&link->lock, NULL);
    (void)kvl_monotonic_cond_init(&link->changed);
    *link_out = link;
    return 0;
}

int controller_link_start(struct controller_link *link)
{
    const struct kvl_host *host = link->desc.host;
    int r;

    pthread_mutex_lock(&link->lock);
    link->stats.since_ms = link_now(link);
    pthread_mutex_unlock(&link->lock);
    r = host->thread_create(host, "kvl-ctl-link", link_main, link, &link->thread);
    link->has_thread = r == 0;
    return r;
}

void controller_link_stop(struct controller_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->stopping = true;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
    if (link->has_thread) {
        (void)link->desc.host->thread_join(link->desc.host, link->thread);
        link->has_thread = false;
    }
    controller_req_destroy(link->heart);
    link->heart = NULL;
    controller_req_close(link->reply);
}

void controller_link_destroy(struct controller_link *link)
{
    if (link == NULL) {
        return;
    }
    controller_req_destroy(link->reply);
    pthread_cond_destroy(&link->changed);
    pthread_mutex_destroy(&link->lock);
    free(link);
}

void controller_link_kick(struct controller_link *link)
{
    pthread_mutex_lock(&link->lock);
    link->kicked = true;
    pthread_cond_broadcast(&link->changed);
    pthread_mutex_unlock(&link->lock);
}

void controller_link_stats(struct controller_link *link, struct controller_link_stats *stats_out)
{
    pthread_mutex_lock(&link->lock);
    *stats_out = link->stats;
    pthread_mutex_unlock(&link->lock);
}
