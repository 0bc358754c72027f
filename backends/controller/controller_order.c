/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_order.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller_orchestrate.h"
#include "controller_state.h"

#define ERROR_ROOM 512u

/* What health reports for workers without a good answer. */
#define HEALTH_ERROR (-1001)
#define HEALTH_OTHER (-1002)
#define HEALTH_BROKEN (-1003)
#define HEALTH_SILENT (-1004)

/** An order of one kind. */
struct order_kind {
    enum controller_type request;
    enum controller_type worker; /* what workers get */
    enum controller_type worker_reply;
    enum controller_type reply;
    const char *prefix; /* of worker_event_id */
    int own_uuid; /* its tail is a new UUID, not the event id of the request */
    const char *done; /* for people: all workers should have ... the same number */
};

static const struct order_kind order_kinds[] = {
    {CONTROLLER_CLEAR, CONTROLLER_CLEAR_WORKER, CONTROLLER_CLEAR_WORKER_RET, CONTROLLER_CLEAR_RET,
     "Worker", 0, "cleared"},
    {CONTROLLER_PIN, CONTROLLER_PIN_WORKER, CONTROLLER_PIN_WORKER_RET, CONTROLLER_PIN_RET, "Worker",
     0, "pinned"},
    {CONTROLLER_COMPRESS, CONTROLLER_COMPRESS_WORKER, CONTROLLER_COMPRESS_WORKER_RET,
     CONTROLLER_COMPRESS_RET, "CompressWorker", 1, "compressed"},
    {CONTROLLER_DECOMPRESS, CONTROLLER_DECOMPRESS_WORKER, CONTROLLER_DECOMPRESS_WORKER_RET,
     CONTROLLER_DECOMPRESS_RET, "DecompressWorker", 1, "decompressed"},
    {CONTROLLER_MOVE, CONTROLLER_MOVE_WORKER, CONTROLLER_MOVE_WORKER_RET, CONTROLLER_MOVE_RET,
     "MoveWorker", 1, "moved"},
    {CONTROLLER_HEALTH, CONTROLLER_HEALTH_WORKER, CONTROLLER_HEALTH_WORKER_RET,
     CONTROLLER_HEALTH_RET, "HealthWorker", 1, NULL},
};

struct order_target {
    int64_t worker_id;
    int64_t port;
    char ip[KVL_NAME_ROOM];
    char peer_url[KVL_NAME_ROOM]; /* "" = none */
};

/** The workers of an instance in ascending order of their ids. */
struct order_targets {
    struct order_target *at; /* owned */
    uint32_t count;
    uint32_t room;
};

/** One order under way. */
struct order {
    struct controller_server *server;
    const struct order_kind *kind;
    const struct controller_msg *request;
    struct kvl_text instance;
    struct order_targets targets;
    struct order_targets others; /* Move: who gets the chunks */
    struct controller_ask *calls; /* owned, one per target */
    struct controller_buf *bufs; /* owned, the bytes of each call */
    struct controller_arena *arena; /* of the caller */
    struct controller_arena *scratch; /* owned, for answers */
    struct controller_msg *reply;
};

int controller_order_error(struct controller_arena *arena, struct controller_msg *reply_out,
                           const char *fmt, ...)
{
    char *text = controller_arena_take(arena, ERROR_ROOM);
    va_list args;
    int n;

    if (text == NULL) {
        return -ENOMEM;
    }
    va_start(args, fmt);
    n = vsnprintf(text, ERROR_ROOM, fmt, args);
    va_end(args);
    n = n < 0 ? 0 : n;
    reply_out->type = CONTROLLER_ERROR;
    reply_out->error.text = text;
    reply_out->error.length = (uint32_t)(n < (int)ERROR_ROOM ? n : (int)ERROR_ROOM - 1);
    return 0;
}

/* ---- whom it concerns ---- */

static int targets_add(void *ctx, const struct kvl_worker_info *worker)
{
    struct order_targets *targets = ctx;
    struct order_target *target;

    if (targets->count == targets->room) {
        uint32_t room = targets->room == 0 ? 8 : targets->room * 2;
        struct order_target *at = realloc(targets->at, room * sizeof(*at));

        if (at == NULL) {
            return -ENOMEM;
        }
        targets->at = at;
        targets->room = room;
    }
    target = &targets->at[targets->count++];
    target->worker_id = worker->worker_id;
    target->port = worker->port;
    memcpy(target->ip, worker->ip, sizeof(target->ip));
    memcpy(target->peer_url, worker->peer_url, sizeof(target->peer_url));
    return 0;
}

static int targets_compare(const void *a, const void *b)
{
    const struct order_target *left = a;
    const struct order_target *right = b;

    return (left->worker_id > right->worker_id) - (left->worker_id < right->worker_id);
}

/* @return 0; -ENOENT the instance is unknown, or has no name; -ENOMEM. */
static int targets_list(struct controller_server *server, struct kvl_text instance,
                        struct order_targets *targets_out)
{
    int r = -ENOENT;

    if (instance.length > 0) {
        r = server->host->registry_ops->list_workers(server->host->registry, instance, targets_add,
                                                     targets_out);
    }
    if (r == 0 && targets_out->count > 0) {
        qsort(targets_out->at, targets_out->count, sizeof(*targets_out->at), targets_compare);
    }
    return r == 0 && targets_out->count == 0 ? -ENOENT : r;
}

static int order_unknown(struct order *order, struct kvl_text instance)
{
    char shown[CONTROLLER_SHOWN_ROOM];

    controller_quiet_text(instance, shown);
    return controller_order_error(order->arena, order->reply, "Instance '%s' is unknown.", shown);
}

/* ---- what is sent ---- */

static int order_encode(struct order *order, uint32_t i)
{
    const struct controller_msg *request = order->request;
    const struct order_target *target = &order->targets.at[i];
    struct controller_msg msg = {
        .type = order->kind->worker,
        .location = request->location,
        .method = request->method,
        .ids = request->ids,
        .copy = request->copy,
        .old_position = {.location = request->old_position.location},
    };
    char uuid[CONTROLLER_UUID_ROOM];
    char *event;
    size_t room;
    int n;
    int r;

    controller_orchestrate_uuid(uuid);
    room = request->event_id.length + 64;
    event = malloc(room);
    if (event == NULL) {
        return -ENOMEM;
    }
    n = snprintf(event, room, "%s%" PRId64 "%.*s", order->kind->prefix, target->worker_id,
                 order->kind->own_uuid ? (int)sizeof(uuid) - 1 : (int)request->event_id.length,
                 order->kind->own_uuid            ? uuid
                 : request->event_id.text != NULL ? request->event_id.text
                                                  : "");
    msg.event_id = (struct kvl_text){.text = event, .length = (uint32_t)n};
    if (order->kind->request == CONTROLLER_MOVE) {
        msg.new_position.first.text = order->others.at[i].peer_url;
        msg.new_position.first.length = (uint32_t)strlen(order->others.at[i].peer_url);
        msg.new_position.location = request->new_position.location;
    }
    r = controller_encode(&msg, &order->bufs[i]);
    free(event);
    return r;
}

static int order_send(struct order *order)
{
    struct controller_server *server = order->server;
    const uint64_t deadline =
        server->host->now_ms(server->host) + server->options->control_timeout_ms;
    const uint32_t count = order->targets.count;
    int r = 0;

    order->calls = calloc(count, sizeof(*order->calls));
    order->bufs = calloc(count, sizeof(*order->bufs));
    if (order->calls == NULL || order->bufs == NULL ||
        controller_arena_create(&order->scratch) < 0) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        r = order_encode(order, i);
        order->calls[i].worker_id = order->targets.at[i].worker_id;
        order->calls[i].ip = order->targets.at[i].ip;
        order->calls[i].port = order->targets.at[i].port;
        order->calls[i].request = order->bufs[i].at;
        order->calls[i].request_length = order->bufs[i].length;
    }
    if (r < 0) {
        return r;
    }
    controller_count_add(&server->counts, CONTROLLER_COUNT_CONTROL_CALLS, count);
    r = controller_asks_run(&server->asks, server->zmq, order->instance, order->calls, count,
                            server->options->limits.frame_bytes, deadline);
    if (r == -ETIMEDOUT) { /* others had the workers all the time: nobody was asked */
        for (uint32_t i = 0; i < count; i++) {
            order->calls[i].status = r;
        }
        r = 0;
    }
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        controller_count_add(&server->counts, CONTROLLER_COUNT_CONTROL_TIMEOUTS,
                             order->calls[i].status == -ETIMEDOUT);
    }
    return r;
}

/* ---- what comes back ---- */

/* @return 0 and the worker's answer; what controller_decode says. */
static int order_answer(struct order *order, uint32_t i, struct controller_msg *msg_out,
                        char error[ERROR_ROOM])
{
    return controller_decode(order->calls[i].reply, order->calls[i].reply_length,
                             &order->server->options->limits, order->scratch, msg_out, error,
                             ERROR_ROOM);
}

static int order_no_answer(struct order *order, uint32_t i)
{
    const struct controller_ask *call = &order->calls[i];
    char shown[CONTROLLER_SHOWN_ROOM];

    controller_quiet_text(order->instance, shown);
    if (call->status == -ETIMEDOUT) {
        return controller_order_error(order->arena, order->reply,
                                      "Worker %" PRId64 " of instance '%s' at %s:%" PRId64
                                      " did not answer within %.1f s.",
                                      call->worker_id, shown, call->ip, call->port,
                                      (double)order->server->options->control_timeout_ms / 1000);
    }
    return controller_order_error(
        order->arena, order->reply,
        "Worker %" PRId64 " of instance '%s' at %s:%" PRId64 " cannot be reached: %s.",
        call->worker_id, shown, call->ip, call->port, strerror(-call->status));
}

/* Takes one worker's number. @return 0 and reply->type CONTROLLER_NONE; 0 and an ErrorMsg. */
static int order_take_number(struct order *order, uint32_t i, int64_t *number_out)
{
    struct controller_msg msg;
    char error[ERROR_ROOM];
    char shown[CONTROLLER_SHOWN_ROOM];
    int r;

    if (order->calls[i].status < 0) {
        return order_no_answer(order, i);
    }
    controller_quiet_text(order->instance, shown);
    r = order_answer(order, i, &msg, error);
    if (r == -ENOMEM) {
        return r;
    }
    if (r < 0) {
        return controller_order_error(order->arena, order->reply,
                                      "Worker %" PRId64 " of instance '%s' sent what does not "
                                      "decode: %s",
                                      order->calls[i].worker_id, shown, error);
    }
    if (msg.type == CONTROLLER_ERROR) {
        return controller_order_error(order->arena, order->reply, "%.*s", (int)msg.error.length,
                                      msg.error.length > 0 ? msg.error.text : "");
    }
    if (msg.type != order->kind->worker_reply) {
        return controller_order_error(
            order->arena, order->reply, "Worker %" PRId64 " of instance '%s' answered %s to %s.",
            order->calls[i].worker_id, shown, controller_type_name(msg.type),
            controller_type_name(order->kind->worker));
    }
    *number_out = msg.number;
    return 0;
}

static int order_merge_numbers(struct order *order)
{
    int64_t first = 0;

    for (uint32_t i = 0; i < order->targets.count; i++) {
        int64_t number = 0;
        int r = order_take_number(order, i, &number);

        if (r < 0 || order->reply->type == CONTROLLER_ERROR) {
            return r;
        }
        first = i == 0 ? number : first;
        if (number != first) {
            return controller_order_error(
                order->arena, order->reply,
                "The number of tokens %s should be the same across all workers.",
                order->kind->done);
        }
    }
    order->reply->type = order->kind->reply;
    order->reply->number = first;
    return 0;
}

static int order_merge_health(struct order *order)
{
    const uint32_t count = order->targets.count;
    struct controller_code *codes =
        controller_arena_take(order->arena, (count + 1) * sizeof(*codes));

    if (codes == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct controller_msg msg = {0};
        char error[ERROR_ROOM];

        codes[i].worker_id = order->targets.at[i].worker_id;
        if (order->calls[i].status < 0) {
            codes[i].code = HEALTH_SILENT;
        } else if (order_answer(order, i, &msg, error) < 0) {
            codes[i].code = HEALTH_BROKEN;
        } else if (msg.type == CONTROLLER_ERROR) {
            codes[i].code = HEALTH_ERROR;
        } else {
            codes[i].code = msg.type == CONTROLLER_HEALTH_WORKER_RET ? msg.number : HEALTH_OTHER;
        }
    }
    order->reply->type = CONTROLLER_HEALTH_RET;
    order->reply->error_codes.at = codes;
    order->reply->error_codes.count = count;
    return 0;
}

/* ---- the kinds ---- */

/* Finds the workers of both sides and pairs them by the order of their ids. @return 0 and a type
 * CONTROLLER_NONE to go on; 0 and an ErrorMsg; a code. */
static int order_pair(struct order *order)
{
    const struct kvl_text to = order->request->new_position.first;
    char from_shown[CONTROLLER_SHOWN_ROOM];
    char to_shown[CONTROLLER_SHOWN_ROOM];
    int r = targets_list(order->server, to, &order->others);

    if (r < 0) {
        return r == -ENOENT ? order_unknown(order, to) : r;
    }
    controller_quiet_text(order->instance, from_shown);
    controller_quiet_text(to, to_shown);
    if (order->others.count != order->targets.count) {
        return controller_order_error(
            order->arena, order->reply,
            "Instance '%s' has %u workers and instance '%s' has %u, they cannot be paired.",
            from_shown, order->targets.count, to_shown, order->others.count);
    }
    for (uint32_t i = 0; i < order->others.count; i++) {
        if (order->others.at[i].peer_url[0] == '\0') {
            return controller_order_error(
                order->arena, order->reply,
                "Dst worker %" PRId64 " of instance '%s' has no peer_init_url: P2P is not enabled.",
                order->others.at[i].worker_id, to_shown);
        }
    }
    return 0;
}

static int order_execute(struct order *order)
{
    const int is_health = order->kind->request == CONTROLLER_HEALTH;
    int r = targets_list(order->server, order->instance, &order->targets);

    if (r == -ENOENT && is_health) { /* nobody there, nobody ill */
        order->reply->type = CONTROLLER_HEALTH_RET;
        return 0;
    }
    if (r < 0) {
        return r == -ENOENT ? order_unknown(order, order->instance) : r;
    }
    if (order->kind->request == CONTROLLER_MOVE) {
        r = order_pair(order);
        if (r < 0 || order->reply->type == CONTROLLER_ERROR) {
            return r;
        }
    }
    r = order_send(order);
    if (r < 0) {
        return r;
    }
    return is_health ? order_merge_health(order) : order_merge_numbers(order);
}

static void order_fini(struct order *order)
{
    for (uint32_t i = 0; i < order->targets.count; i++) {
        if (order->calls != NULL) {
            free(order->calls[i].reply);
        }
        if (order->bufs != NULL) {
            controller_buf_fini(&order->bufs[i]);
        }
    }
    free(order->calls);
    free(order->bufs);
    free(order->targets.at);
    free(order->others.at);
    controller_arena_destroy(order->scratch);
}

int controller_order_run(struct controller_server *server, const struct controller_msg *request,
                         struct controller_arena *arena, struct controller_msg *reply_out)
{
    struct order order = {
        .server = server,
        .request = request,
        .instance =
            request->type == CONTROLLER_MOVE ? request->old_position.first : request->instance_id,
        .arena = arena,
        .reply = reply_out,
    };
    int r = -EINVAL;

    for (size_t i = 0; i < sizeof(order_kinds) / sizeof(order_kinds[0]); i++) {
        if (order_kinds[i].request == request->type) {
            order.kind = &order_kinds[i];
            r = order_execute(&order);
        }
    }
    order_fini(&order);
    return r;
}
