/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file replay_engine.c
 * One engine process of replay: per request lookup, load of the prefix that was found, recompute
 * of the rest, save. A block's bytes follow from its id, so what comes back can be checked.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "engine.h"
#include "replay.h"
#include "replay_trace.h"
#include "replay_window.h"

#define KEY_ROOM 48 /* "kvlane-replay@1@0@" + 16 hex digits + "@uint8" is 40 */
#define WINDOW_BYTES (8ull << 20)
#define DRAIN_MS 5000

enum place {
    PLACE_UNKNOWN,
    PLACE_ENGINE,
    PLACE_GPU,
    PLACE_OTHER,
};

struct replay_engine {
    struct engine engine;
    struct cli_common common;
    int fd;
    char *ini; /* NULL = as the common options say */
    uint64_t block_bytes;
    uint32_t window; /* blocks that are moved at a time */
    struct replay_window *memory; /* of them; NULL = metadata only */
    bool on_gpu;
    char driver[REPLAY_PATH_ROOM];
    struct kvl_chunk *chunks; /* TRACE_IDS_MAX of each, as are the arrays below */
    char (*keys)[KEY_ROOM];
    int32_t *status;
    uint8_t *location;
    uint8_t place[UINT8_MAX + 1]; /* enum place, per location */
    struct replay_report report;
};

/* ---- one request ---- */

static void failed_op(struct replay_engine *self, const char *what, int r)
{
    if (self->report.counts.failed_ops++ == 0) {
        cli_error("replay: %s: %s", what, strerror(-r));
    }
}

static void request_name(struct replay_engine *self, const uint64_t *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct kvl_chunk *chunk = &self->chunks[i];
        int n = snprintf(self->keys[i], KEY_ROOM, "kvlane-replay@1@0@%" PRIx64 "@uint8", ids[i]);

        memset(chunk, 0, sizeof(*chunk));
        chunk->key.text = self->keys[i];
        chunk->key.length = (uint32_t)n;
        chunk->attrs.fmt = KVL_FMT_BINARY;
        chunk->attrs.dtype = KVL_DTYPE_UINT8;
        chunk->attrs.shape[0] = (int32_t)self->block_bytes;
    }
}

/* True for a section `word` or `word:label`. */
static bool is_section(const char *name, const char *word)
{
    const size_t length = strlen(word);

    return strncmp(name, word, length) == 0 && (name[length] == '\0' || name[length] == ':');
}

/* What is at a section of py_socket lies in another engine; of cuda_ipc, on a GPU, put there by
 * another engine or by this one. */
static enum place place_of(struct replay_engine *self, uint8_t location)
{
    char name[64];

    if (self->place[location] == PLACE_UNKNOWN) {
        engine_location_name(&self->engine, location, name, sizeof(name));
        self->place[location] = is_section(name, "py_socket")  ? PLACE_ENGINE
                                : is_section(name, "cuda_ipc") ? PLACE_GPU
                                                               : PLACE_OTHER;
    }
    return (enum place)self->place[location];
}

/* @return blocks of the prefix that are somewhere. */
static uint32_t request_lookup(struct replay_engine *self, uint32_t count)
{
    struct replay_counts *counts = &self->report.counts;
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks, count);
    struct kvl_result result = {
        .size = sizeof(result),
        .item_count = count,
        .item_status = self->status,
        .item_location = self->location,
    };
    uint64_t begin = util_now_ns();
    int r = self->engine.ops.lookup(self->engine.instance, &batch, &result, NULL);

    hist_add(&self->report.lookup, util_now_ns() - begin);
    counts->blocks += count;
    if (r < 0) {
        failed_op(self, "lookup", r);
        return 0;
    }
    for (uint32_t i = 0; i < result.matched; i++) {
        if (self->location[i] == KVL_LOCATION_LOCAL) {
            counts->hits_own++;
        } else if (place_of(self, self->location[i]) != PLACE_OTHER) {
            counts->hits_engine++;
        } else {
            counts->hits_remote++;
        }
    }
    return result.matched;
}

static void check_loaded(struct replay_engine *self, uint64_t id, uint32_t at, uint8_t location)
{
    struct replay_counts *counts = &self->report.counts;

    if (!replay_window_is_right(self->memory, at, id)) {
        if (counts->wrong_blocks++ == 0) {
            cli_error("replay: block %" PRIu64 " came back with other bytes", id);
        }
        return;
    }
    counts->bytes_loaded += self->block_bytes;
    if (location != KVL_LOCATION_LOCAL) {
        const enum place place = place_of(self, location);

        *(place == PLACE_ENGINE ? &counts->bytes_engine
          : place == PLACE_GPU  ? &counts->bytes_gpu
                                : &counts->bytes_remote) += self->block_bytes;
    }
}

/* @return how many leading blocks of the window came. */
static uint32_t window_load(struct replay_engine *self, const uint64_t *ids, uint32_t first,
                            uint32_t count)
{
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks + first, count);
    struct kvl_result result = {
        .size = sizeof(result),
        .item_count = count,
        .item_status = self->status,
        .item_location = self->location,
    };
    uint64_t begin;
    uint32_t good = 0;
    int r;

    for (uint32_t i = 0; i < count; i++) {
        self->chunks[first + i].bytes = self->block_bytes;
        self->chunks[first + i].flags = KVL_CHUNK_EXPECT_ATTRS;
    }
    replay_window_name(self->memory, &batch);
    begin = util_now_ns();
    r = self->engine.ops.load(self->engine.instance, &batch, &result, NULL);
    self->report.counts.load_ns += util_now_ns() - begin;
    if (r == 0) {
        r = replay_window_pull(self->memory, count);
    }
    if (r < 0) {
        failed_op(self, "load", r);
        return 0;
    }
    /* Check also what comes after a hole: no byte may be wrong, used or not. */
    for (uint32_t i = 0; i < count; i++) {
        if (self->status[i] == 0) {
            check_loaded(self, ids[first + i], i, self->location[i]);
            good += good == i;
        }
    }
    return good;
}

static void request_load(struct replay_engine *self, const uint64_t *ids, uint32_t matched)
{
    uint64_t before = self->report.counts.load_ns;
    uint32_t at = 0;

    while (at < matched) {
        uint32_t count = matched - at < self->window ? matched - at : self->window;
        uint32_t good = window_load(self, ids, at, count);

        at += good;
        if (good < count) {
            break; /* the prefix ends here; the rest is computed anew */
        }
    }
    self->report.counts.lost += matched - at;
    hist_add(&self->report.load, self->report.counts.load_ns - before);
}

static void window_save(struct replay_engine *self, const uint64_t *ids, uint32_t first,
                        uint32_t count)
{
    struct replay_counts *counts = &self->report.counts;
    struct kvl_batch batch = engine_batch(&self->engine, self->chunks + first, count);
    struct kvl_result result = {.size = sizeof(result)};
    uint64_t begin;
    int r = 0;

    for (uint32_t i = 0; i < count; i++) {
        self->chunks[first + i].bytes = self->block_bytes;
        self->chunks[first + i].flags = 0;
        if (self->block_bytes != 0) {
            replay_window_fill(self->memory, i, ids[first + i]);
        }
    }
    if (self->block_bytes != 0) {
        r = replay_window_push(self->memory, count);
        replay_window_name(self->memory, &batch);
    }
    begin = util_now_ns();
    if (r == 0) {
        r = self->engine.ops.save(self->engine.instance, &batch, &result, NULL);
    }
    counts->save_ns += util_now_ns() - begin;
    if (r < 0) {
        failed_op(self, "save", r);
        return;
    }
    counts->saved += result.matched;
    counts->not_saved += count - result.matched;
    counts->bytes_saved += result.bytes;
}

/* Last window first, as the core does inside a batch: the head of a prefix is evicted last. */
static void request_save(struct replay_engine *self, const uint64_t *ids, uint32_t count)
{
    uint32_t end = count;

    while (end > 0) {
        uint32_t size = end < self->window ? end : self->window;

        window_save(self, ids, end - size, size);
        end -= size;
    }
}

static void replay_request(struct replay_engine *self, const uint64_t *ids, uint32_t count)
{
    uint32_t matched;

    self->report.counts.requests++;
    if (count == 0) {
        return;
    }
    request_name(self, ids, count);
    matched = request_lookup(self, count);
    if (self->block_bytes != 0 && matched > 0) {
        request_load(self, ids, matched);
    }
    request_save(self, ids, count);
}

/* ---- the process ---- */

static int engine_memory(struct replay_engine *self)
{
    if (self->block_bytes == 0) {
        self->window = TRACE_IDS_MAX; /* one batch: the store trims once per request */
    } else {
        uint64_t fit = WINDOW_BYTES / self->block_bytes;

        self->window = fit < 1 ? 1 : fit > REPLAY_WINDOW_MAX ? REPLAY_WINDOW_MAX : (uint32_t)fit;
    }
    self->chunks = malloc(TRACE_IDS_MAX * sizeof(*self->chunks));
    self->keys = malloc(TRACE_IDS_MAX * sizeof(*self->keys));
    self->status = malloc(TRACE_IDS_MAX * sizeof(*self->status));
    self->location = malloc(TRACE_IDS_MAX * sizeof(*self->location));
    if (self->chunks == NULL || self->keys == NULL || self->status == NULL ||
        self->location == NULL) {
        cli_error("replay: no memory");
        return CLI_OS;
    }
    return CLI_OK;
}

static int engine_begin(struct replay_engine *self)
{
    struct {
        struct replay_init init;
        char text[4096];
    } message;
    struct engine_setup setup = {.common = &self->common};
    struct replay_ready ready = {.exit_code = CLI_OS};
    size_t size = 0;

    if (child_receive(self->fd, REPLAY_INIT, &message, sizeof(message) - 1, &size) < 0 ||
        size < sizeof(message.init)) {
        return CLI_OS;
    }
    ((char *)&message)[size] = '\0';
    self->block_bytes = message.init.block_bytes;
    self->on_gpu = message.init.on_gpu != 0;
    (void)snprintf(self->driver, sizeof(self->driver), "%.*s", (int)sizeof(self->driver) - 1,
                   message.init.driver);
    if (size > sizeof(message.init)) {
        self->ini = strdup(message.text);
        if (self->ini == NULL) {
            return CLI_OS;
        }
    }
    setup.config_text = self->ini;
    ready.exit_code = engine_memory(self);
    if (ready.exit_code == CLI_OK) {
        ready.exit_code = engine_open(&self->engine, &setup);
    }
    if (ready.exit_code == CLI_OK) {
        ready.exit_code = engine_start(&self->engine);
    }
    if (ready.exit_code == CLI_OK && self->block_bytes != 0) {
        ready.exit_code = replay_window_create(&self->engine, self->block_bytes, self->window,
                                               self->on_gpu, self->driver, &self->memory);
    }
    if (ready.exit_code == CLI_OK) {
        engine_location_address(&self->engine, "py_socket", ready.peer_address,
                                sizeof(ready.peer_address));
    }
    if (child_send(self->fd, REPLAY_READY, &ready, sizeof(ready)) < 0) {
        return CLI_OS;
    }
    return ready.exit_code;
}

/* Whom to ask is known only when all engines are there: the others' addresses come after start. */
static int engine_take_peers(struct replay_engine *self, const char *peers, size_t size)
{
    static const char option[] = "py_socket.peers=";
    struct replay_ready ready = {.exit_code = CLI_OS};
    struct engine_setup setup = {.common = &self->common, .config_text = self->ini};
    const char *extra;
    char *text;

    if (size == 0 || peers[size - 1] != '\0') {
        return -EPROTO;
    }
    text = malloc(sizeof(option) + size);
    if (text != NULL) {
        (void)snprintf(text, sizeof(option) + size, "%s%s", option, peers);
        extra = text;
        setup.extra = &extra;
        setup.extra_count = 1;
        ready.exit_code = engine_reload(&self->engine, &setup);
    }
    free(text);
    return child_send(self->fd, REPLAY_READY, &ready, sizeof(ready));
}

static void take_budget(void *ctx, const char *name, uint64_t value)
{
    struct replay_report *report = ctx;

    if (strcmp(name, "store_max_bytes") == 0) {
        report->budget = value;
    }
}

/* Others map our memory as we do theirs: all have to be there until the last has told its peak. */
static int engine_report(struct replay_engine *self, void **data, size_t *room)
{
    struct replay_report *report = &self->report;
    uint32_t type;
    size_t size;
    int r;

    (void)self->engine.ops.stats(self->engine.instance, take_budget, report);
    report->peer_rss = util_peer_rss();
    report->peak_rss = util_peak_rss(0);
    report->peak_rss -= report->peer_rss < report->peak_rss ? report->peer_rss : 0;
    r = child_send(self->fd, REPLAY_REPORT, report, sizeof(*report));
    if (r == 0) {
        r = child_receive_any(self->fd, &type, data, room, &size);
    }
    return r == -ECONNRESET ? 0 : -EPROTO;
}

/* One message. @return 1 after the last; 0; negative errno. */
static int engine_handle(struct replay_engine *self, uint32_t type, void **data, size_t *room,
                         size_t size)
{
    const struct replay_counts *counts = &self->report.counts;
    struct replay_done done = {0};
    int r;

    switch (type) {
    case REPLAY_PEERS:
        return engine_take_peers(self, *data, size);
    case REPLAY_REQUEST:
        if (size / sizeof(uint64_t) > TRACE_IDS_MAX) {
            return -EMSGSIZE;
        }
        replay_request(self, *data, (uint32_t)(size / sizeof(uint64_t)));
        done.errors = counts->wrong_blocks + counts->failed_ops;
        return child_send(self->fd, REPLAY_DONE, &done, sizeof(done));
    case REPLAY_FINISH:
        r = engine_report(self, data, room);
        return r < 0 ? r : 1;
    default:
        return -EPROTO;
    }
}

static int engine_serve_requests(struct replay_engine *self)
{
    void *data = NULL;
    size_t room = 0;
    size_t size = 0;
    uint32_t type = 0;
    int r = 0;

    while (r == 0) {
        r = child_receive_any(self->fd, &type, &data, &room, &size);
        if (r == 0) {
            r = engine_handle(self, type, &data, &room, size);
        }
    }
    free(data);
    return r < 0 ? CLI_OS : CLI_OK;
}

int cmd_replay_engine(int argc, char **argv)
{
    struct replay_engine *self = calloc(1, sizeof(*self));
    uint64_t fd = 0;
    const struct cli_option options[] = {
        {"fd", "N", "the driver's socket", CLI_COUNT, &fd, 3, 3},
    };
    struct cli_usage usage = {
        .command = "replay-engine",
        .args = "",
        .about = "One engine process of 'kvlane replay', which starts it.",
        .options = options,
        .option_count = 1,
    };
    int count;
    int r;

    if (self == NULL) {
        return CLI_OS;
    }
    usage.common = &self->common;
    r = cli_parse(&usage, argc, argv, &count);
    if (r == CLI_GO && fd == 0) {
        cli_error("replay-engine is started by 'kvlane replay'");
        r = CLI_USAGE;
    }
    if (r == CLI_GO) {
        self->fd = (int)fd;
        r = engine_begin(self);
        if (r == CLI_OK) {
            r = engine_serve_requests(self);
        }
        replay_window_destroy(self->memory);
        (void)engine_close(&self->engine, DRAIN_MS);
    }
    free(self->ini);
    free(self->chunks);
    free(self->keys);
    free(self->status);
    free(self->location);
    free(self);
    return r;
}
