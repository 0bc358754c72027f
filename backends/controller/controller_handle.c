/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_handle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "controller_bind.h"

/* Of the decoder's texts; names of fields come from outside and may be long. */
#define ERROR_ROOM 512u
#define PYTHON_CLASS "<class 'lmcache.v1.cache_controller.message.%s'>"
#define REFUSED                                                                                    \
    "Failed to start sync: worker already syncing with different sync_id or worker not found"
/* Batches asked for again at first; the rest when there are more. */
#define MISSING_FIRST 64u

static const char *const handle_abouts[CONTROLLER_SAYS] = {
    [CONTROLLER_SAY_BAD] = "frames that do not decode",
    [CONTROLLER_SAY_UNKNOWN] = "messages that do not belong here",
    [CONTROLLER_SAY_WORKER] = "workers that are not registered",
    [CONTROLLER_SAY_GAP] = "gaps in sequences",
    [CONTROLLER_SAY_SYNC] = "full syncs",
    [CONTROLLER_SAY_ROOM] = "want of memory",
    [CONTROLLER_SAY_URL] = "workers without peer_init_url",
};

int controller_handle_init(struct controller_handle *handle, const struct kvl_host *host,
                           const struct controller_options *options,
                           struct controller_counts *counts)
{
    memset(handle, 0, sizeof(*handle));
    handle->host = host;
    handle->options = options;
    handle->counts = counts;
    return controller_arena_create(&handle->arena);
}

void controller_handle_fini(struct controller_handle *handle)
{
    controller_arena_destroy(handle->arena);
    handle->arena = NULL;
}

/* ---- small things ---- */

static void handle_count(struct controller_handle *handle, enum controller_count which, uint64_t n)
{
    controller_count_add(handle->counts, which, n);
}

static int handle_may(struct controller_handle *handle, enum controller_say say)
{
    return controller_quiet_may(&handle->quiet[say], handle->host, handle_abouts[say]);
}

static struct kvl_worker_name handle_name(const struct controller_msg *msg)
{
    return (struct kvl_worker_name){.instance = msg->instance_id, .worker_id = msg->worker_id};
}

static struct kvl_text handle_text(const char *text)
{
    return (struct kvl_text){.text = text, .length = (uint32_t)strlen(text)};
}

/* What nobody can count backwards from is none. */
static uint64_t handle_size(int64_t number)
{
    return number > 0 ? (uint64_t)number : 0;
}

/* ---- events ---- */

static void event_deregister(struct controller_handle *handle, const struct controller_msg *msg)
{
    const struct kvl_worker_name name = handle_name(msg);
    char shown[CONTROLLER_SHOWN_ROOM];
    int r = handle->host->registry_ops->remove_worker(handle->host->registry, &name);

    controller_quiet_text(msg->instance_id, shown);
    if (r == 0) {
        handle->is_change = 1;
        kvl_info(handle->host->log, "controller: worker '%s' %" PRId64 " deregistered", shown,
                 msg->worker_id);
        return;
    }
    handle_count(handle, CONTROLLER_COUNT_DROPPED_UNKNOWN_WORKER, 1);
    if (handle_may(handle, CONTROLLER_SAY_WORKER)) {
        kvl_warn(handle->host->log,
                 "controller: worker '%s' %" PRId64 " deregisters and is not registered", shown,
                 msg->worker_id);
    }
}

/* Why events of a worker were not applied, or not all. */
static void event_refused(struct controller_handle *handle, const struct controller_msg *msg, int r)
{
    char shown[CONTROLLER_SHOWN_ROOM];

    controller_quiet_text(msg->instance_id, shown);
    switch (r) {
    case -ENOENT:
        handle_count(handle, CONTROLLER_COUNT_DROPPED_UNKNOWN_WORKER, 1);
        if (handle_may(handle, CONTROLLER_SAY_WORKER)) {
            kvl_warn(handle->host->log,
                     "controller: %s of worker '%s' %" PRId64 " dropped, it is not registered",
                     controller_type_name(msg->type), shown, msg->worker_id);
        }
        return;
    case -EBUSY:
        handle_count(handle, CONTROLLER_COUNT_DROPPED_SYNCING, 1);
        kvl_debug(handle->host->log,
                  "controller: %s of worker '%s' %" PRId64 " dropped during its full sync",
                  controller_type_name(msg->type), shown, msg->worker_id);
        return;
    case -ENOMEM:
        handle_count(handle, CONTROLLER_COUNT_DROPPED_MEMORY, 1);
        if (handle_may(handle, CONTROLLER_SAY_ROOM)) {
            kvl_warn(handle->host->log,
                     "controller: no room for keys of worker '%s' %" PRId64 ", some are dropped",
                     shown, msg->worker_id);
        }
        return;
    case -ESTALE:
    case -ERANGE:
        handle_count(handle, CONTROLLER_COUNT_DROPPED_SYNC, 1);
        if (handle_may(handle, CONTROLLER_SAY_SYNC)) {
            kvl_warn(handle->host->log, "controller: %s of worker '%s' %" PRId64 " dropped, %s",
                     controller_type_name(msg->type), shown, msg->worker_id,
                     r == -ESTALE ? "no such sync is under way" : "its batch_id is out of range");
        }
        return;
    default:
        handle_count(handle, CONTROLLER_COUNT_BAD_FRAMES, 1);
        if (handle_may(handle, CONTROLLER_SAY_BAD)) {
            kvl_warn(handle->host->log, "controller: %s of worker '%s' %" PRId64 " dropped: %s",
                     controller_type_name(msg->type), shown, msg->worker_id, strerror(-r));
        }
    }
}

static void event_key_ops(struct controller_handle *handle, const struct controller_msg *msg)
{
    const struct kvl_worker_name name = handle_name(msg);
    struct kvl_seq_gap gap = {0};
    int r;

    if (msg->operations.count == 0) {
        return;
    }
    r = handle->host->registry_ops->apply(handle->host->registry, &name, msg->location,
                                          msg->operations.at, msg->operations.count, &gap);
    if (r < 0) {
        event_refused(handle, msg, r);
    }
    if (r == 0 || r == -ENOMEM) {
        handle->is_change = 1;
        handle_count(handle, CONTROLLER_COUNT_KEY_OPS, msg->operations.count);
    }
    if (gap.found && handle_may(handle, CONTROLLER_SAY_GAP)) {
        char shown[CONTROLLER_SHOWN_ROOM];

        controller_quiet_text(msg->instance_id, shown);
        kvl_warn(handle->host->log,
                 "controller: worker '%s' %" PRId64 " sent seq %" PRId64 " where %" PRId64
                 " was next, gap %" PRId64,
                 shown, msg->worker_id, gap.actual, gap.expected,
                 (int64_t)((uint64_t)gap.actual - (uint64_t)gap.expected));
    }
}

static void event_sync_batch(struct controller_handle *handle, const struct controller_msg *msg)
{
    const struct kvl_worker_name name = handle_name(msg);
    int r = handle->host->registry_ops->sync_batch(handle->host->registry, &name, msg->location,
                                                   msg->sync_id, msg->number, msg->ids.at,
                                                   msg->ids.count);

    if (r < 0) {
        event_refused(handle, msg, r);
    }
    if (r == 0 || r == -ENOMEM) {
        handle->is_change = 1;
        handle_count(handle, CONTROLLER_COUNT_SYNC_KEYS, msg->ids.count);
    }
}

static void event_sync_end(struct controller_handle *handle, const struct controller_msg *msg)
{
    const struct kvl_worker_name name = handle_name(msg);
    uint64_t keys = 0;
    char shown[CONTROLLER_SHOWN_ROOM];
    int r =
        handle->host->registry_ops->sync_end(handle->host->registry, &name, msg->sync_id, &keys);

    controller_quiet_text(msg->instance_id, shown);
    if (r == -EAGAIN) {
        kvl_debug(handle->host->log,
                  "controller: full sync of worker '%s' %" PRId64 " ends with batches missing",
                  shown, msg->worker_id);
        return;
    }
    if (r < 0) {
        event_refused(handle, msg, r);
        return;
    }
    handle->is_change = 1;
    handle_count(handle, CONTROLLER_COUNT_SYNC_ENDS, 1);
    kvl_info(handle->host->log,
             "controller: full sync of worker '%s' %" PRId64 " completed, %" PRIu64 " keys", shown,
             msg->worker_id, keys);
    if (keys != handle_size(msg->number) && handle_may(handle, CONTROLLER_SAY_SYNC)) {
        kvl_warn(handle->host->log,
                 "controller: worker '%s' %" PRId64 " says its full sync had %" PRId64
                 " keys, %" PRIu64 " came",
                 shown, msg->worker_id, msg->number, keys);
    }
}

static void event_unknown(struct controller_handle *handle, const struct controller_msg *msg)
{
    const int legacy = msg->type == CONTROLLER_KV_ADMIT || msg->type == CONTROLLER_KV_EVICT;

    handle_count(handle, CONTROLLER_COUNT_UNKNOWN_MESSAGES, 1);
    if (handle_may(handle, CONTROLLER_SAY_UNKNOWN)) {
        kvl_warn(handle->host->log, "controller: %s: " PYTHON_CLASS " on the pull socket, dropped",
                 legacy ? "Unknown worker message type" : "Unknown message type",
                 controller_type_name(msg->type));
    }
}

/* A decoder's answer; @return 0 when there is a message. */
static int handle_decode(struct controller_handle *handle, const void *frame, size_t length,
                         char error_out[ERROR_ROOM])
{
    int r = controller_decode(frame, length, &handle->options->limits, handle->arena, &handle->msg,
                              error_out, ERROR_ROOM);

    if (r == -ENOMEM) {
        (void)snprintf(error_out, ERROR_ROOM, "out of memory");
    }
    if (r < 0) {
        handle_count(handle, CONTROLLER_COUNT_BAD_FRAMES, 1);
        if (handle_may(handle, CONTROLLER_SAY_BAD)) {
            char shown[CONTROLLER_SHOWN_ROOM];

            controller_quiet_text(handle_text(error_out), shown);
            kvl_warn(handle->host->log, "controller: a frame of %zu bytes does not decode: %s",
                     length, shown);
        }
    }
    return r;
}

/* The standbys are told in the order in which the frames of a worker were applied, whichever thread
 * did it: so nobody else may come between the two. */
static void handle_enter(struct controller_handle *handle, const struct kvl_worker_name *name)
{
    handle->is_change = 0;
    controller_replica_enter(handle->replica, name);
}

static void handle_leave(struct controller_handle *handle, const struct kvl_worker_name *name,
                         enum controller_record_kind kind, const void *frame, size_t length)
{
    if (handle->is_change) {
        controller_replica_tell(handle->replica, kind, frame, length);
    }
    controller_replica_leave(handle->replica, name);
}

void controller_handle_event(struct controller_handle *handle, const void *frame, size_t length)
{
    struct kvl_worker_name name;
    char error[ERROR_ROOM];

    handle_count(handle, CONTROLLER_COUNT_PULL_FRAMES, 1);
    if (handle_decode(handle, frame, length, error) < 0) {
        return;
    }
    name = handle_name(&handle->msg);
    handle_enter(handle, &name);
    switch (handle->msg.type) {
    case CONTROLLER_DEREGISTER:
        event_deregister(handle, &handle->msg);
        break;
    case CONTROLLER_KV_OPS:
        event_key_ops(handle, &handle->msg);
        break;
    case CONTROLLER_SYNC_BATCH:
        event_sync_batch(handle, &handle->msg);
        break;
    case CONTROLLER_SYNC_END:
        event_sync_end(handle, &handle->msg);
        break;
    default:
        event_unknown(handle, &handle->msg);
    }
    handle_leave(handle, &name, CONTROLLER_RECORD_EVENT, frame, length);
}

/* ---- requests ---- */

static int reply_error(struct controller_buf *reply, const char *text)
{
    const struct controller_msg out = {.type = CONTROLLER_ERROR, .error = handle_text(text)};

    return controller_encode(&out, reply);
}

static int reply_code(struct controller_buf *reply, int r)
{
    char text[128];

    if (r == -EMSGSIZE) {
        (void)snprintf(text, sizeof(text), "A name is longer than %u bytes", KVL_NAME_MAX);
    } else {
        (void)snprintf(text, sizeof(text), "%s", r == -ENOMEM ? "out of memory" : strerror(-r));
    }
    return reply_error(reply, text);
}

static int request_has_url(const struct controller_msg *msg)
{
    return msg->peer_init_url.is_set && msg->peer_init_url.value.length > 0;
}

struct kvl_worker_desc controller_handle_worker(const struct controller_msg *msg)
{
    const int has_url = request_has_url(msg);

    return (struct kvl_worker_desc){
        .size = sizeof(struct kvl_worker_desc),
        .flags = has_url ? KVL_WORKER_HAS_PEER_URL : 0,
        .name = handle_name(msg),
        .ip = msg->ip,
        .port = msg->port,
        .peer_url = has_url ? msg->peer_init_url.value : (struct kvl_text){0},
    };
}

static void request_registered(struct controller_handle *handle, const struct controller_msg *msg,
                               const char *how)
{
    char shown[CONTROLLER_SHOWN_ROOM];

    controller_quiet_text(msg->instance_id, shown);
    kvl_info(handle->host->log, "controller: worker '%s' %" PRId64 " registered%s", shown,
             msg->worker_id, how);
    if (!request_has_url(msg) && handle_may(handle, CONTROLLER_SAY_URL)) {
        kvl_warn(handle->host->log,
                 "controller: worker '%s' %" PRId64
                 " has no peer_init_url, lookups of peers do not find it",
                 shown, msg->worker_id);
    }
}

static int request_register(struct controller_handle *handle, const struct controller_msg *msg,
                            struct controller_buf *reply)
{
    const struct kvl_worker_desc desc = controller_handle_worker(msg);
    struct controller_pair pair = {.key = handle_text("heartbeat_url")};
    struct controller_msg out = {.type = CONTROLLER_REGISTER_RET};
    char url[CONTROLLER_ADDRESS_ROOM];
    uint32_t known = 0;
    int r = handle->host->registry_ops->register_worker(handle->host->registry, &desc, &known);

    if (r < 0) {
        return reply_code(reply, r);
    }
    handle->is_change = 1;
    handle_count(handle, CONTROLLER_COUNT_REGISTRATIONS, 1);
    request_registered(handle, msg, known ? " anew" : "");
    if (handle->heartbeat_port != 0) {
        const char *host = handle->options->announce_host[0] != '\0'
                               ? handle->options->announce_host
                               : handle->options->host;

        controller_bind_address_for(host, handle->heartbeat_port, msg->ip, url, sizeof(url));
        pair.value = handle_text(url);
        out.extra_config.at = &pair;
        out.extra_config.count = 1;
    }
    return controller_encode(&out, reply);
}

static const char *request_reason(uint32_t because)
{
    switch (because) {
    case KVL_SYNC_BECAUSE_UNKNOWN:
        return "worker_re_registered";
    case KVL_SYNC_BECAUSE_RESTART:
        return "controller_restart";
    case KVL_SYNC_BECAUSE_FAILED:
        return "sync_failed_retry";
    default:
        return "seq_discontinuity";
    }
}

static int request_heartbeat(struct controller_handle *handle, const struct controller_msg *msg,
                             struct controller_buf *reply)
{
    const struct kvl_worker_desc desc = controller_handle_worker(msg);
    struct controller_command command = {.command_type = handle_text("full_sync")};
    struct controller_msg out = {.type = CONTROLLER_HEARTBEAT_RET};
    uint32_t because = 0;
    int r = handle->host->registry_ops->heartbeat(handle->host->registry, &desc, &because);

    if (r < 0) {
        return reply_code(reply, r);
    }
    handle->is_change = 1;
    handle_count(handle, CONTROLLER_COUNT_HEARTBEATS, 1);
    if (because == KVL_SYNC_BECAUSE_UNKNOWN) {
        request_registered(handle, msg, " by its heartbeat");
    }
    if (because != 0) {
        handle_count(handle, CONTROLLER_COUNT_SYNC_REQUESTS, 1);
        command.reason.value = handle_text(request_reason(because));
        command.reason.is_set = 1;
        out.commands.at = &command;
        out.commands.count = 1;
    }
    return controller_encode(&out, reply);
}

/* Exactly one entry, whatever was found: the requester reads the first without looking. */
static int request_lookup(struct controller_handle *handle, const struct controller_msg *msg,
                          struct controller_buf *reply)
{
    const struct kvl_find query = {
        .size = sizeof(query),
        .flags = KVL_FIND_WITH_URL | KVL_FIND_SAME_WORKER,
        .ids = msg->ids.at,
        .count = msg->ids.count,
        .exclude_instance = msg->instance_id,
        .worker_id = msg->worker_id,
    };
    struct controller_layout entry = {0};
    const struct controller_msg out = {
        .type = CONTROLLER_P2P_LOOKUP_RET,
        .layout_info = {.at = &entry, .count = 1},
    };
    struct kvl_run run;
    int r = 0;

    if (msg->ids.count > 0) {
        r = handle->host->registry_ops->find(handle->host->registry, &query, &run, 1, NULL);
    }
    if (r < 0) {
        return reply_code(reply, r);
    }
    handle_count(handle, CONTROLLER_COUNT_LOOKUPS, 1);
    if (r > 0) {
        handle_count(handle, CONTROLLER_COUNT_LOOKUP_HITS, 1);
        entry.instance_id = handle_text(run.instance);
        entry.location = handle_text(run.location);
        entry.count = run.length;
        entry.peer_init_url = handle_text(run.peer_url);
    }
    return controller_encode(&out, reply);
}

static int request_sync_start(struct controller_handle *handle, const struct controller_msg *msg,
                              struct controller_buf *reply)
{
    const struct kvl_worker_name name = handle_name(msg);
    const uint64_t batches = handle_size(msg->batch_count);
    struct controller_msg out = {.type = CONTROLLER_SYNC_START_RET, .sync_id = msg->sync_id};
    char text[128];
    int r = -EMSGSIZE;

    if (batches <= handle->options->batch_count_max) {
        r = handle->host->registry_ops->sync_start(handle->host->registry, &name, msg->location,
                                                   msg->sync_id, handle_size(msg->number), batches);
    }
    if (r == 0) {
        handle->is_change = 1;
        handle_count(handle, CONTROLLER_COUNT_SYNC_STARTS, 1);
        out.accepted = 1;
        return controller_encode(&out, reply);
    }
    handle_count(handle, CONTROLLER_COUNT_SYNC_REFUSED, 1);
    if (r == -ENOENT || r == -EBUSY) {
        (void)snprintf(text, sizeof(text), "%s", REFUSED);
    } else {
        (void)snprintf(text, sizeof(text), "Failed to start sync: %s",
                       r == -EMSGSIZE ? "too many batches, or a name is too long" : strerror(-r));
    }
    out.error_msg.value = handle_text(text);
    out.error_msg.is_set = 1;
    return controller_encode(&out, reply);
}

/* The registry counts all that are missing, and writes those that have room. */
static int status_missing(struct controller_handle *handle, const struct controller_msg *msg,
                          struct kvl_sync_status *status, struct controller_ids *ids_out)
{
    const struct kvl_worker_name name = handle_name(msg);
    uint32_t room = MISSING_FIRST;
    int64_t *missing;
    int r;

    do {
        missing = controller_arena_take(handle->arena, room * sizeof(*missing));
        if (missing == NULL) {
            return -ENOMEM;
        }
        *status = (struct kvl_sync_status){.size = sizeof(*status)};
        r = handle->host->registry_ops->sync_status(handle->host->registry, &name, msg->sync_id,
                                                    status, missing, room);
        if (r < 0) {
            return r;
        }
        if (status->missing_count <= room) {
            break;
        }
        room = status->missing_count;
    } while (1);
    ids_out->count = status->missing_count;
    ids_out->at = controller_arena_take(handle->arena, (ids_out->count + 1) * sizeof(*ids_out->at));
    if (ids_out->at == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < ids_out->count; i++) {
        ids_out->at[i] = (struct kvl_chunk_id){.bits = (uint64_t)missing[i]};
    }
    return 0;
}

static int request_sync_status(struct controller_handle *handle, const struct controller_msg *msg,
                               struct controller_buf *reply)
{
    struct controller_msg out = {.type = CONTROLLER_SYNC_STATUS_RET, .sync_id = msg->sync_id};
    struct kvl_sync_status status;
    int r;

    out.ids.is_set = 1;
    r = status_missing(handle, msg, &status, &out.ids);
    if (r < 0) {
        return reply_code(reply, r);
    }
    out.accepted = status.is_complete != 0;
    out.global_progress = status.global_progress;
    out.can_exit_freeze = status.can_exit_freeze != 0;
    return controller_encode(&out, reply);
}

static int request_unknown(struct controller_handle *handle, const char *format,
                           struct controller_buf *reply)
{
    char text[256];
    char class[192];

    handle_count(handle, CONTROLLER_COUNT_UNKNOWN_MESSAGES, 1);
    (void)snprintf(class, sizeof(class), PYTHON_CLASS, controller_type_name(handle->msg.type));
    (void)snprintf(text, sizeof(text), "%s%s", format, class);
    if (handle_may(handle, CONTROLLER_SAY_UNKNOWN)) {
        kvl_warn(handle->host->log, "controller: %s", text);
    }
    return reply_error(reply, text);
}

void controller_handle_short(struct controller_handle *handle, int parts)
{
    handle_count(handle, CONTROLLER_COUNT_REPLY_MESSAGES, 1);
    handle_count(handle, CONTROLLER_COUNT_SHORT_MESSAGES, 1);
    if (handle_may(handle, CONTROLLER_SAY_BAD)) {
        kvl_warn(handle->host->log,
                 "controller: a request has %d parts where identity, an empty one and the payload "
                 "were due, not answered",
                 parts);
    }
}

/* Requests that may change what the registry has of the worker that asks. */
static int request_change(struct controller_handle *handle, const void *frame, size_t length,
                          struct controller_buf *reply)
{
    const struct controller_msg *msg = &handle->msg;
    const struct kvl_worker_name name = handle_name(msg);
    int r;

    handle_enter(handle, &name);
    r = msg->type == CONTROLLER_REGISTER    ? request_register(handle, msg, reply)
        : msg->type == CONTROLLER_HEARTBEAT ? request_heartbeat(handle, msg, reply)
                                            : request_sync_start(handle, msg, reply);
    handle_leave(handle, &name, CONTROLLER_RECORD_REQUEST, frame, length);
    return r;
}

int controller_handle_request(struct controller_handle *handle, enum controller_door door,
                              const void *frame, size_t length, struct controller_buf *reply)
{
    const struct controller_msg *msg = &handle->msg;
    char error[ERROR_ROOM];

    handle_count(handle, CONTROLLER_COUNT_REPLY_MESSAGES, 1);
    if (handle_decode(handle, frame, length, error) < 0) {
        return reply_error(reply, error);
    }
    if (door == CONTROLLER_DOOR_HEARTBEAT && msg->type != CONTROLLER_HEARTBEAT) {
        return request_unknown(handle, "Expected HeartbeatMsg, got ", reply);
    }
    switch (msg->type) {
    case CONTROLLER_REGISTER:
    case CONTROLLER_HEARTBEAT:
    case CONTROLLER_SYNC_START:
        return request_change(handle, frame, length, reply);
    case CONTROLLER_P2P_LOOKUP:
        return request_lookup(handle, msg, reply);
    case CONTROLLER_SYNC_STATUS:
        return request_sync_status(handle, msg, reply);
    default:
        return request_unknown(handle, "Unknown message type: ", reply);
    }
}
