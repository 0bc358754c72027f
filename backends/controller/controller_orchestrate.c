/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_orchestrate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "controller_order.h"
#include "controller_state.h"

#define PREFIXES_FIRST 64u

void controller_orchestrate_uuid(char text_out[CONTROLLER_UUID_ROOM])
{
    uint8_t b[16] = {0};
    ssize_t n = getrandom(b, sizeof(b), 0); /* 16 bytes are never cut short */

    (void)n;
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    (void)snprintf(text_out, CONTROLLER_UUID_ROOM,
                   "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
                   b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
                   b[14], b[15]);
}

/* Text that outlives the record it stands in. @return 0; -ENOMEM. */
static int orchestrate_keep(struct controller_arena *arena, const char *text,
                            struct kvl_text *text_out)
{
    size_t length = strlen(text);
    char *kept = controller_arena_take(arena, length + 1);

    if (kept == NULL) {
        return -ENOMEM;
    }
    memcpy(kept, text, length + 1);
    *text_out = (struct kvl_text){.text = kept, .length = (uint32_t)length};
    return 0;
}

/* ---- LookupMsg ---- */

/* The registry does not tell how many there would be: ask again with more room until some is left.
 */
static int lookup_prefixes(struct controller_server *server, struct controller_arena *arena,
                           const struct kvl_chunk_id *ids, uint32_t count,
                           struct kvl_prefix **prefixes_out)
{
    const struct kvl_host *host = server->host;

    for (uint32_t room = PREFIXES_FIRST;; room *= 4) {
        struct kvl_prefix *prefixes = controller_arena_take(arena, room * sizeof(*prefixes));
        int r;

        if (prefixes == NULL) {
            return -ENOMEM;
        }
        r = host->registry_ops->prefix(host->registry, ids, count, prefixes, room);
        if (r < 0 || (uint32_t)r < room) {
            *prefixes_out = prefixes;
            return r;
        }
    }
}

static int orchestrate_lookup(struct controller_server *server,
                              const struct controller_msg *request, struct controller_arena *arena,
                              struct controller_msg *reply_out)
{
    const struct controller_hashing *hashing = &server->options->hashing;
    const uint32_t tokens = request->ids.count;
    const uint32_t count = controller_hash_chunks(hashing, tokens);
    struct kvl_chunk_id *ids = controller_arena_take(arena, (count + 1) * sizeof(*ids));
    struct kvl_prefix *prefixes = NULL;
    struct controller_layout *layouts;
    int r = 0;

    if (ids == NULL) {
        return -ENOMEM;
    }
    if (count > 0) {
        controller_hash_chain(hashing, request->ids.at, tokens, ids);
        r = lookup_prefixes(server, arena, ids, count, &prefixes);
    }
    layouts = controller_arena_take(arena, ((size_t)(r < 0 ? 0 : r) + 1) * sizeof(*layouts));
    if (r < 0 || layouts == NULL) {
        return r < 0 ? r : -ENOMEM;
    }
    for (int i = 0; i < r; i++) {
        const uint64_t end = (uint64_t)prefixes[i].length * hashing->chunk_size;

        memset(&layouts[i], 0, sizeof(layouts[i]));
        layouts[i].instance_id.text = prefixes[i].instance;
        layouts[i].instance_id.length = (uint32_t)strlen(prefixes[i].instance);
        layouts[i].location.text = prefixes[i].location;
        layouts[i].location.length = (uint32_t)strlen(prefixes[i].location);
        layouts[i].count = (int64_t)(end < tokens ? end : tokens); /* the last may be partial */
    }
    reply_out->type = CONTROLLER_LOOKUP_RET;
    reply_out->layout_info.at = layouts;
    reply_out->layout_info.count = (uint32_t)r;
    return 0;
}

/* ---- QueryInstMsg ---- */

static int orchestrate_query_inst(struct controller_server *server,
                                  const struct controller_msg *request,
                                  struct controller_arena *arena, struct controller_msg *reply_out)
{
    char instance[KVL_NAME_ROOM];
    int r =
        server->host->registry_ops->instance_by_ip(server->host->registry, request->ip, instance);

    reply_out->type = CONTROLLER_QUERY_INST_RET;
    if (r == -ENOENT) {
        return 0;
    }
    if (r == 0) {
        r = orchestrate_keep(arena, instance, &reply_out->found_instance.value);
        reply_out->found_instance.is_set = 1;
    }
    return r;
}

/* ---- QueryWorkerInfoMsg ---- */

struct worker_query {
    struct controller_arena *arena;
    const struct controller_ids *wanted;
    struct controller_worker_info *infos;
    uint32_t count;
    uint32_t room;
};

static int query_wants(const struct controller_ids *wanted, int64_t worker_id)
{
    for (uint32_t i = 0; i < wanted->count; i++) {
        if ((int64_t)wanted->at[i].bits == worker_id &&
            wanted->at[i].negative == (uint32_t)(worker_id < 0)) {
            return 1;
        }
    }
    return wanted->count == 0;
}

static int query_grow(struct worker_query *query)
{
    uint32_t room = query->room == 0 ? 16 : query->room * 2;
    struct controller_worker_info *infos =
        controller_arena_take(query->arena, room * sizeof(*infos));

    if (infos == NULL) {
        return -ENOMEM;
    }
    if (query->count > 0) {
        memcpy(infos, query->infos, query->count * sizeof(*infos));
    }
    query->infos = infos;
    query->room = room;
    return 0;
}

static int query_add(void *ctx, const struct kvl_worker_info *worker)
{
    struct worker_query *query = ctx;
    struct controller_worker_info info = {
        .worker_id = worker->worker_id,
        .port = worker->port,
        .registration_time = worker->registration_time,
        .last_heartbeat_time = worker->last_heartbeat_time,
    };
    int r = 0;

    if (!query_wants(query->wanted, worker->worker_id)) {
        return 0;
    }
    if (query->count == query->room) {
        r = query_grow(query);
    }
    if (r == 0) {
        r = orchestrate_keep(query->arena, worker->instance, &info.instance_id);
    }
    if (r == 0) {
        r = orchestrate_keep(query->arena, worker->ip, &info.ip);
    }
    if (r == 0 && (worker->flags & KVL_WORKER_HAS_PEER_URL) != 0) {
        r = orchestrate_keep(query->arena, worker->peer_url, &info.peer_init_url.value);
        info.peer_init_url.is_set = 1;
    }
    if (r == 0) {
        query->infos[query->count++] = info;
    }
    return r;
}

static int orchestrate_query_workers(struct controller_server *server,
                                     const struct controller_msg *request,
                                     struct controller_arena *arena,
                                     struct controller_msg *reply_out)
{
    struct worker_query query = {.arena = arena, .wanted = &request->ids};
    struct kvl_text instance = request->instance_id;
    int r;

    if (instance.length == 3 && memcmp(instance.text, "all", 3) == 0) {
        instance = (struct kvl_text){0};
    }
    r = server->host->registry_ops->list_workers(server->host->registry, instance, query_add,
                                                 &query);
    if (r < 0 && r != -ENOENT) {
        return r;
    }
    if (r == -ENOENT) {
        char shown[CONTROLLER_SHOWN_ROOM];

        controller_quiet_text(request->instance_id, shown);
        kvl_debug(server->host->log, "controller: asked about instance '%s', which is unknown",
                  shown);
    }
    reply_out->type = CONTROLLER_QUERY_WORKER_INFO_RET;
    reply_out->worker_infos.at = query.infos;
    reply_out->worker_infos.count = query.count;
    return 0;
}

/* ---- all of them ---- */

int controller_orchestrate(struct controller_server *server, const struct controller_msg *request,
                           struct controller_arena *arena, struct controller_msg *reply_out)
{
    struct controller_msg reply = {.event_id = request->event_id};
    int r;

    if (controller_server_stopping(server)) {
        return -ECANCELED;
    }
    switch (request->type) {
    case CONTROLLER_LOOKUP:
        r = orchestrate_lookup(server, request, arena, &reply);
        break;
    case CONTROLLER_QUERY_INST:
        r = orchestrate_query_inst(server, request, arena, &reply);
        break;
    case CONTROLLER_QUERY_WORKER_INFO:
        r = orchestrate_query_workers(server, request, arena, &reply);
        break;
    case CONTROLLER_CLEAR:
    case CONTROLLER_PIN:
    case CONTROLLER_COMPRESS:
    case CONTROLLER_DECOMPRESS:
    case CONTROLLER_MOVE:
    case CONTROLLER_HEALTH:
        r = controller_order_run(server, request, arena, &reply);
        break;
    case CONTROLLER_CHECK_FINISH: /* nothing runs in the background: LMCache answers so, too */
        reply.type = CONTROLLER_ERROR;
        r = 0;
        break;
    default:
        r = -EINVAL;
    }
    if (r == 0) {
        *reply_out = reply;
    }
    return r;
}
