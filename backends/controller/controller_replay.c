/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_replay.h"

#include <errno.h>
#include <string.h>

#include "controller_handle.h"

#define ERROR_ROOM 256u
/* Batches of a sync that are filled in at a time. */
#define MISSING_AT_ONCE 256u

/* A sync that starts takes the keys of its location away. No worker has this one. */
static const struct kvl_text replay_nowhere = {.text = "kvlane: nowhere", .length = 15};

int controller_replay_init(struct controller_replay *replay, const struct kvl_host *host,
                           const struct controller_limits *limits)
{
    memset(replay, 0, sizeof(*replay));
    replay->host = host;
    replay->limits = limits;
    return controller_arena_create(&replay->arena);
}

void controller_replay_fini(struct controller_replay *replay)
{
    controller_arena_destroy(replay->arena);
    replay->arena = NULL;
}

static struct kvl_worker_name replay_name(const struct controller_msg *msg)
{
    return (struct kvl_worker_name){.instance = msg->instance_id, .worker_id = msg->worker_id};
}

static uint64_t replay_size(int64_t number)
{
    return number > 0 ? (uint64_t)number : 0;
}

/* ---- full syncs ---- */

/* Makes the worker one that is in this sync, with its keys as they are. */
static int replay_adopt(struct controller_replay *replay, uint64_t batches)
{
    const struct kvl_worker_name name = replay_name(&replay->msg);

    return replay->host->registry_ops->sync_start(replay->host->registry, &name, replay_nowhere,
                                                  replay->msg.sync_id, 0, batches);
}

/* How many batches there are is not known: as many as it takes, and at the end all of them. */
static uint64_t replay_room(int64_t batch_id)
{
    uint64_t room = 64;

    while (room <= (uint64_t)batch_id) {
        room *= 2;
    }
    return room;
}

static int replay_add_batch(struct controller_replay *replay)
{
    const struct controller_msg *msg = &replay->msg;
    const struct kvl_worker_name name = replay_name(msg);

    return replay->host->registry_ops->sync_batch(replay->host->registry, &name, msg->location,
                                                  msg->sync_id, msg->number, msg->ids.at,
                                                  msg->ids.count);
}

static int replay_sync_batch(struct controller_replay *replay)
{
    int r = replay_add_batch(replay);

    if ((r == -ESTALE || r == -ERANGE) && replay->msg.number >= 0) {
        r = replay_adopt(replay, replay_room(replay->msg.number));
        if (r == 0) {
            r = replay_add_batch(replay);
        }
    }
    return r;
}

/* The primary had all batches; those that are missing here are in the base. */
static int replay_fill(struct controller_replay *replay)
{
    const struct kvl_registry_ops *ops = replay->host->registry_ops;
    struct kvl_registry *registry = replay->host->registry;
    const struct kvl_worker_name name = replay_name(&replay->msg);
    struct kvl_sync_status status;
    int64_t missing[MISSING_AT_ONCE];
    int r;

    do {
        status = (struct kvl_sync_status){.size = sizeof(status)};
        r = ops->sync_status(registry, &name, replay->msg.sync_id, &status, missing,
                             MISSING_AT_ONCE);
        for (uint32_t i = 0; r == 0 && i < status.missing_count && i < MISSING_AT_ONCE; i++) {
            r = ops->sync_batch(registry, &name, replay_nowhere, replay->msg.sync_id, missing[i],
                                NULL, 0);
        }
    } while (r == 0 && status.missing_count > MISSING_AT_ONCE);
    return r;
}

static int replay_sync_end(struct controller_replay *replay)
{
    const struct kvl_registry_ops *ops = replay->host->registry_ops;
    struct kvl_registry *registry = replay->host->registry;
    const struct kvl_worker_name name = replay_name(&replay->msg);
    int r = ops->sync_end(registry, &name, replay->msg.sync_id, NULL);

    if (r == -EAGAIN) {
        r = replay_fill(replay);
    } else if (r == -ESTALE) {
        r = replay_adopt(replay, 0);
    } else {
        return r;
    }
    return r == 0 ? ops->sync_end(registry, &name, replay->msg.sync_id, NULL) : r;
}

static int replay_sync_start(struct controller_replay *replay)
{
    const struct controller_msg *msg = &replay->msg;
    const struct kvl_worker_name name = replay_name(msg);

    return replay->host->registry_ops->sync_start(replay->host->registry, &name, msg->location,
                                                  msg->sync_id, replay_size(msg->number),
                                                  replay_size(msg->batch_count));
}

/* ---- everything ---- */

static int replay_event(struct controller_replay *replay)
{
    const struct kvl_registry_ops *ops = replay->host->registry_ops;
    const struct controller_msg *msg = &replay->msg;
    const struct kvl_worker_name name = replay_name(msg);

    switch (msg->type) {
    case CONTROLLER_DEREGISTER:
        return ops->remove_worker(replay->host->registry, &name);
    case CONTROLLER_KV_OPS:
        return ops->apply(replay->host->registry, &name, msg->location, msg->operations.at,
                          msg->operations.count, NULL);
    case CONTROLLER_SYNC_BATCH:
        return replay_sync_batch(replay);
    case CONTROLLER_SYNC_END:
        return replay_sync_end(replay);
    default:
        return -EPROTO;
    }
}

static int replay_request(struct controller_replay *replay)
{
    const struct kvl_registry_ops *ops = replay->host->registry_ops;
    struct kvl_worker_desc desc = controller_handle_worker(&replay->msg);
    uint32_t because;

    switch (replay->msg.type) {
    case CONTROLLER_REGISTER:
        return ops->register_worker(replay->host->registry, &desc, NULL);
    case CONTROLLER_HEARTBEAT:
        return ops->heartbeat(replay->host->registry, &desc, &because);
    case CONTROLLER_SYNC_START:
        return replay_sync_start(replay);
    default:
        return -EPROTO;
    }
}

int controller_replay(struct controller_replay *replay, const struct controller_record *record)
{
    char error[ERROR_ROOM];
    int r = controller_decode(record->bytes, record->length, replay->limits, replay->arena,
                              &replay->msg, error, sizeof(error));

    if (r < 0) {
        return r == -ENOMEM ? -ENOBUFS : r; /* the record itself is lost, not a part of its keys */
    }
    return record->kind == CONTROLLER_RECORD_EVENT ? replay_event(replay) : replay_request(replay);
}
