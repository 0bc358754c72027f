/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /controller/overview: all that the page shows, in one answer whose size does not grow with the
 * fleet: sums, and one page of the table of workers.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "controller_http_json.h"
#include "controller_routes.h"

#define ROWS_DEFAULT 25u
#define ROWS_MAX 500u
/* Six heartbeats as LMCache sends them: worth a look, also where no time-to-live is set. */
#define STALE_MS 60000u

/* Worst first: that is also how the table is sorted by default. */
enum state {
    STATE_SILENT,
    STATE_FAILED,
    STATE_STALE,
    STATE_SYNCING,
    STATE_EMPTY,
    STATE_NO_URL,
    STATE_QUIET,
    STATE_OK,
    STATES,
};

static const char *const state_words[STATES] = {
    [STATE_SILENT] = "silent",      [STATE_FAILED] = "sync failed",
    [STATE_STALE] = "stale",        [STATE_SYNCING] = "syncing",
    [STATE_EMPTY] = "no keys",      [STATE_NO_URL] = "no peer URL",
    [STATE_QUIET] = "no heartbeat", [STATE_OK] = "ok",
};

enum sort { SORT_TROUBLE, SORT_NAME, SORT_KEYS, SORT_SILENCE };

static const char *const sort_words[] = {"trouble", "name", "keys", "silence"};

struct row {
    struct kvl_worker_info info;
    uint64_t order; /* as registered */
    enum state state;
    enum sort sort; /* qsort has no context */
};

struct overview {
    const char *filter; /* part of instance, address or URL; "" = all */
    int state; /* -1 = all, STATES = all but ok */
    enum sort sort;
    bool heartbeats;
    uint64_t page;
    uint32_t size; /* rows of a page */
    struct row *rows;
    size_t count;
    size_t room;
    uint64_t seen;
    uint64_t states[STATES];
    bool failed;
};

/* Without a port for heartbeats nobody can send any: the page says that once, not per worker. */
static enum state row_state(const struct kvl_worker_info *info, bool heartbeats)
{
    if (info->is_silent) {
        return STATE_SILENT;
    }
    if (info->sync_state == KVL_SYNC_FAILED) {
        return STATE_FAILED;
    }
    if (info->has_heartbeat && info->silent_ms > STALE_MS) {
        return STATE_STALE;
    }
    if (info->sync_state == KVL_SYNC_SYNCING) {
        return STATE_SYNCING;
    }
    if (info->keys == 0) {
        return STATE_EMPTY;
    }
    if ((info->flags & KVL_WORKER_HAS_PEER_URL) == 0) {
        return STATE_NO_URL;
    }
    return info->has_heartbeat || !heartbeats ? STATE_OK : STATE_QUIET;
}

/* In words, for whoever looks at the row. */
static void row_reason(const struct row *row, struct controller_text *text)
{
    const struct kvl_worker_info *info = &row->info;
    char reason[256] = "";

    switch (row->state) {
    case STATE_SILENT:
        (void)snprintf(reason, sizeof(reason),
                       "nothing heard for %" PRIu64 " s: not offered to lookups any more",
                       info->silent_ms / 1000);
        break;
    case STATE_FAILED:
        (void)snprintf(reason, sizeof(reason),
                       "its full sync got stuck; it is asked for another at its next heartbeat");
        break;
    case STATE_STALE:
        (void)snprintf(reason, sizeof(reason),
                       "nothing heard for %" PRIu64 " s, heartbeats used to come; still offered "
                       "to lookups",
                       info->silent_ms / 1000);
        break;
    case STATE_SYNCING:
        (void)snprintf(reason, sizeof(reason),
                       "full sync, %" PRIu64 " of %" PRIu64
                       " batches; events are dropped meanwhile",
                       info->sync_received, info->sync_expected);
        break;
    case STATE_EMPTY:
        (void)snprintf(reason, sizeof(reason), "registered, holds no chunk now");
        break;
    case STATE_NO_URL:
        (void)snprintf(reason, sizeof(reason),
                       "no peer_init_url: peers cannot fetch from it, set enable_p2p");
        break;
    case STATE_QUIET:
        (void)snprintf(reason, sizeof(reason),
                       "sends no heartbeats: would be lost after a restart of the controller");
        break;
    case STATE_OK:
    case STATES:
        break;
    }
    controller_text_json0(text, reason);
}

static bool row_matches(const struct overview *overview, const struct row *row)
{
    const bool state = overview->state < 0 || (int)row->state == overview->state ||
                       (overview->state == STATES && row->state != STATE_OK);

    return state && (overview->filter[0] == '\0' ||
                     strcasestr(row->info.instance, overview->filter) != NULL ||
                     strcasestr(row->info.ip, overview->filter) != NULL ||
                     strcasestr(row->info.peer_url, overview->filter) != NULL);
}

static int overview_worker(void *ctx, const struct kvl_worker_info *info)
{
    struct overview *overview = ctx;
    struct row row = {
        .info = *info,
        .order = overview->seen++,
        .state = row_state(info, overview->heartbeats),
        .sort = overview->sort,
    };

    overview->states[row.state]++;
    if (!row_matches(overview, &row)) {
        return 0;
    }
    if (overview->count == overview->room) {
        size_t room = overview->room == 0 ? 64 : overview->room * 2;
        struct row *rows = realloc(overview->rows, room * sizeof(*rows));

        if (rows == NULL) {
            overview->failed = true;
            return 1;
        }
        overview->rows = rows;
        overview->room = room;
    }
    overview->rows[overview->count++] = row;
    return 0;
}

static int row_compare(const void *a, const void *b)
{
    const struct row *x = a;
    const struct row *y = b;
    int r = 0;

    if (x->sort == SORT_TROUBLE) {
        r = (x->state > y->state) - (x->state < y->state);
    } else if (x->sort == SORT_NAME) {
        r = strcmp(x->info.instance, y->info.instance);
        r = r != 0
                ? r
                : (x->info.worker_id > y->info.worker_id) - (x->info.worker_id < y->info.worker_id);
    } else if (x->sort == SORT_KEYS) {
        r = (x->info.keys < y->info.keys) - (x->info.keys > y->info.keys);
    } else {
        r = (x->info.silent_ms < y->info.silent_ms) - (x->info.silent_ms > y->info.silent_ms);
    }
    return r != 0 ? r : (x->order > y->order) - (x->order < y->order);
}

/* ---- the answer ---- */

static void show_number(struct controller_text *text, const char *name, uint64_t value)
{
    controller_text_put(text, ",");
    controller_text_name(text, name);
    controller_text_unsigned(text, value);
}

static void show_row(const struct row *row, struct controller_text *text)
{
    const struct kvl_worker_info *info = &row->info;

    controller_text_put(text, "{");
    controller_text_worker(text, info);
    show_number(text, "silent_ms", info->silent_ms);
    show_number(text, "locations", info->locations);
    show_number(text, "gaps", info->gaps);
    show_number(text, "sync_received", info->sync_received);
    show_number(text, "sync_expected", info->sync_expected);
    controller_text_put(text, ",\"state\":");
    controller_text_json0(text, state_words[row->state]);
    controller_text_put(text, ",\"reason\":");
    row_reason(row, text);
    controller_text_put(text, "}");
}

static void show_registry(const struct kvl_host *host, struct controller_text *text)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    host->registry_ops->stats(host->registry, &stats);
    show_number(text, "instances", stats.instances);
    show_number(text, "workers", stats.workers);
    show_number(text, "keys", stats.keys);
    show_number(text, "chunks", stats.chunks);
    show_number(text, "bytes", stats.bytes);
    show_number(text, "bytes_max", stats.bytes_max);
    show_number(text, "registry_dropped", stats.dropped);
    show_number(text, "gaps", stats.gaps);
    show_number(text, "syncing", stats.syncing);
    show_number(text, "completed", stats.completed);
    show_number(text, "missing_batches", stats.missing_batches);
    controller_text_put(text, ",\"sync_progress\":");
    controller_text_real(text, stats.global_progress);
}

static void show_counts(const struct controller_view *view, struct controller_text *text)
{
    controller_text_put(text, ",\"counts\":{");
    for (int i = 0; i < CONTROLLER_COUNTS; i++) {
        controller_text_put(text, i > 0 ? "," : "");
        controller_text_name(text, controller_count_names[i]);
        controller_text_unsigned(text,
                                 controller_server_count(view->server, (enum controller_count)i));
    }
    for (int i = 0; i < CONTROLLER_HTTP_COUNTS; i++) {
        show_number(text, controller_http_count_names[i],
                    atomic_load_explicit(&view->counts[i], memory_order_relaxed));
    }
    controller_text_put(text, "}");
}

static void show_all(const struct controller_view *view, struct overview *overview,
                     struct controller_text *text)
{
    const uint64_t now = view->host->now_ms(view->host);
    const uint64_t pages = (overview->count + overview->size - 1) / overview->size;
    size_t first;

    overview->page = overview->page < pages ? overview->page : pages > 0 ? pages - 1 : 0;
    first = (size_t)overview->page * overview->size;
    controller_text_put(text, "{\"now_ms\":");
    controller_text_unsigned(text, now);
    show_number(text, "uptime_ms", now - view->started_ms);
    show_number(text, "chunk_size", view->options->hashing.chunk_size);
    show_number(text, "heartbeats", view->options->heartbeat_port != 0);
    show_registry(view->host, text);
    show_counts(view, text);
    controller_text_put(text, ",\"states\":{");
    for (int i = 0; i < STATES; i++) {
        controller_text_put(text, i > 0 ? "," : "");
        controller_text_name(text, state_words[i]);
        controller_text_unsigned(text, overview->states[i]);
    }
    controller_text_put(text, "}");
    show_number(text, "matching", overview->count);
    show_number(text, "page", overview->page);
    show_number(text, "pages", pages);
    controller_text_put(text, ",\"rows\":[");
    for (size_t i = first; i < overview->count && i < first + overview->size; i++) {
        controller_text_put(text, i > first ? "," : "");
        show_row(&overview->rows[i], text);
    }
    controller_text_put(text, "]}");
}

/* ---- the question ---- */

static uint64_t overview_number(const struct controller_request *request, const char *name,
                                uint64_t value, uint64_t max)
{
    const char *text = request->query(request->query_ctx, name);
    struct kvl_chunk_id number;

    if (text != NULL && controller_json_digits(text, strlen(text), &number) == CONTROLLER_INT_OK &&
        !number.negative) {
        value = number.bits;
    }
    return value < max ? value : max;
}

static int overview_word(const struct controller_request *request, const char *name,
                         const char *const *words, int count, int other)
{
    const char *text = request->query(request->query_ctx, name);

    for (int i = 0; text != NULL && i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            return i;
        }
    }
    return other;
}

void controller_route_overview(const struct controller_request *request,
                               struct controller_answer *answer)
{
    const struct kvl_host *host = request->view->host;
    const char *filter = request->query(request->query_ctx, "q");
    const char *state = request->query(request->query_ctx, "state");
    struct overview overview = {
        .filter = filter != NULL ? filter : "",
        .sort = (enum sort)overview_word(request, "sort", sort_words, 4, SORT_TROUBLE),
        .heartbeats = request->view->options->heartbeat_port != 0,
        .page = overview_number(request, "page", 0, UINT32_MAX),
        .size = (uint32_t)overview_number(request, "size", ROWS_DEFAULT, ROWS_MAX),
    };

    overview.size = overview.size > 0 ? overview.size : 1;
    overview.state = state != NULL && strcmp(state, "trouble") == 0
                         ? STATES
                         : overview_word(request, "state", state_words, STATES, -1);
    (void)host->registry_ops->list_workers(host->registry, (struct kvl_text){0}, overview_worker,
                                           &overview);
    if (overview.failed) {
        controller_answer_detail(answer, 503, "no memory");
    } else {
        if (overview.count > 0) {
            qsort(overview.rows, overview.count, sizeof(*overview.rows), row_compare);
        }
        answer->media = CONTROLLER_MEDIA_JSON;
        answer->status = 200;
        show_all(request->view, &overview, &answer->text);
    }
    free(overview.rows);
}
