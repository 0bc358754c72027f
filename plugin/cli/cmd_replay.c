/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_replay.c
 * Drives engine processes through a request trace and adds up what they report.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replay_run.h"
#include "replay_trace.h"

#define BYTES_PER_TOKEN_MAX (128u << 10) /* 64 MiB a block */

/* ---- the command line ---- */

static int replay_parse(struct replay *self, int argc, char **argv)
{
    const struct cli_option options[] = {
        {"trace", "FILE", "the trace, '-' is stdin", CLI_TEXT, &self->path, 0, 0},
        {"engines", "N", "engine processes; requests are dealt to them in turn (1)", CLI_COUNT,
         &self->engines, 1, REPLAY_ENGINES_MAX},
        {"requests", "N", "stop after so many requests", CLI_COUNT, &self->requests, 1, UINT64_MAX},
        {"bytes-per-token", "N", "bytes of a chunk per token, of 512 a block (64)", CLI_BYTES,
         &self->bytes_per_token, 1, BYTES_PER_TOKEN_MAX},
        {"metadata-only", NULL, "chunks of 0 bytes: policy and index only", CLI_FLAG,
         &self->metadata_only, 0, 0},
        {"capacity", "WHAT", "of each own store: blocks=N, bytes=SIZE or unlimited", CLI_TEXT,
         &self->capacity, 0, 0},
        {"share", "HOW", "how engines share: py_socket, tcp_remote, or both in this order (both)",
         CLI_TEXT, &self->share, 0, 0},
        {"serve", NULL, "with one engine too: a 'kvlane serve' process behind it", CLI_FLAG,
         &self->serve, 0, 0},
        {"server-capacity", "SIZE", "of the server's store (2GiB)", CLI_BYTES, &self->server_bytes,
         1 << 20, 1ull << 44},
        {"gpu", NULL, "blocks are in the memory of a GPU, in pages, and shared by cuda_ipc too",
         CLI_FLAG, &self->on_gpu, 0, 0},
        {"cuda-driver", "FILE", "the CUDA driver in place of libcuda.so.1", CLI_TEXT, &self->driver,
         0, 0},
        {"parallel", NULL, "engines overlap; counts then vary from run to run", CLI_FLAG,
         &self->parallel, 0, 0},
        {"bad-lines", "skip|fatal", "what to do with a line that is no request (fatal)", CLI_TEXT,
         &self->bad_lines, 0, 0},
        {"progress", NULL, "a progress bar also when stderr is no terminal", CLI_FLAG,
         &self->progress, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "replay",
        .args = "",
        .about =
            "Replays a request trace (JSON lines: timestamp, input_length, output_length, hash_ids "
            "of 512-token\nblocks) through engine processes: lookup, load of the prefix, recompute "
            "of the rest, save. A\nblock's bytes follow from its id and every byte that comes back "
            "is checked. Without --config,\nmore than one engine ask each other (py_socket), and "
            "then a 'kvlane serve' process on loopback\n(tcp_remote). Exit code 1: wrong bytes, or "
            "a process over its budget; 3: the trace.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &self->common,
    };
    int count;

    return cli_parse(&usage, argc, argv, &count);
}

static int take_capacity(struct replay *self)
{
    const char *text = self->capacity;
    int r = 0;

    if (text == NULL || strcmp(text, "unlimited") == 0) {
        return CLI_GO;
    }
    if (strncmp(text, "blocks=", 7) == 0) {
        r = cli_parse_count(text + 7, &self->max_chunks);
        r = self->max_chunks == 0 ? -EINVAL : r;
    } else if (strncmp(text, "bytes=", 6) == 0 && !self->metadata_only) {
        r = cli_parse_bytes(text + 6, &self->max_bytes);
        r = self->max_bytes < (1u << 20) ? -EINVAL : r;
    } else {
        r = -EINVAL;
    }
    if (r < 0) {
        cli_error("replay: --capacity wants blocks=N, bytes=SIZE of 1MiB or more (not with "
                  "--metadata-only), or unlimited, not '%s'",
                  text);
        return CLI_USAGE;
    }
    return CLI_GO;
}

static int take_share(struct replay *self)
{
    const bool both = self->share == NULL || strcmp(self->share, "both") == 0;
    const bool peers = both || strcmp(self->share, "py_socket") == 0;
    const bool server = both || strcmp(self->share, "tcp_remote") == 0;
    const bool several = self->common.config == NULL && self->engines > 1;

    if (!peers && !server) {
        cli_error("replay: --share wants py_socket, tcp_remote or both, not '%s'", self->share);
        return CLI_USAGE;
    }
    self->with_peers = several && peers;
    self->with_server = (several && server) || self->serve;
    return CLI_GO;
}

/* With a file the capacity comes on top of it. */
static int capacity_overrides(struct replay *self)
{
    struct cli_common *common = &self->common;

    if (common->set_count + 2 > CLI_MAX_SETS) {
        cli_error("replay: too many --set");
        return CLI_USAGE;
    }
    if (self->max_chunks != 0) {
        (void)snprintf(self->sets[0], sizeof(self->sets[0]), "store.max_chunks=%" PRIu64,
                       self->max_chunks);
        common->sets[common->set_count++] = self->sets[0];
    }
    if (self->max_bytes != 0) {
        (void)snprintf(self->sets[1], sizeof(self->sets[1]), "store.max_bytes=%" PRIu64,
                       self->max_bytes);
        common->sets[common->set_count++] = self->sets[1];
    }
    return CLI_GO;
}

static int replay_settings(struct replay *self)
{
    int r;

    if (self->path == NULL) {
        cli_error("replay: --trace is missing; see: kvlane replay --help");
        return CLI_USAGE;
    }
    if (strcmp(self->bad_lines, "skip") != 0 && strcmp(self->bad_lines, "fatal") != 0) {
        cli_error("replay: --bad-lines wants skip or fatal, not '%s'", self->bad_lines);
        return CLI_USAGE;
    }
    if (self->common.config != NULL && (self->serve || self->share != NULL)) {
        cli_error("replay: --serve and --share go without --config");
        return CLI_USAGE;
    }
    if (self->on_gpu && self->metadata_only) {
        cli_error("replay: --gpu goes without --metadata-only");
        return CLI_USAGE;
    }
    if (self->driver != NULL &&
        (self->driver[0] != '/' || strlen(self->driver) >= REPLAY_PATH_ROOM)) {
        cli_error("replay: --cuda-driver wants the whole path of a file, not '%s'", self->driver);
        return CLI_USAGE;
    }
    r = take_share(self);
    if (r == CLI_GO) {
        r = take_capacity(self);
    }
    return r == CLI_GO && self->common.config != NULL ? capacity_overrides(self) : r;
}

/* ---- the run ---- */

static int replay_line(struct replay *self, const struct trace_request *request, uint64_t number)
{
    uint32_t at = (uint32_t)(number % self->engines);
    int r = replay_engine_await(self, at);

    if (r != CLI_OK) {
        return r;
    }
    if (child_send(self->children[at].fd, REPLAY_REQUEST, request->ids,
                   request->id_count * sizeof(*request->ids)) < 0) {
        cli_error("replay: engine %u is gone", at);
        return CLI_OS;
    }
    self->busy[at] = true;
    /* One at a time keeps the order of the trace, and the counts the same in each run. */
    return self->parallel ? CLI_OK : replay_engine_await(self, at);
}

static int replay_lines(struct replay *self, struct trace *trace, struct trace_request *request)
{
    bool by_count = self->requests != 0;
    struct progress progress;
    uint64_t done = 0;
    int r = CLI_OK;

    progress_init(&progress, "replay", by_count ? self->requests : trace_size(trace),
                  self->progress);
    while (r == CLI_OK && (!by_count || done < self->requests)) {
        int got = trace_next(trace, request);

        if (got == 0) {
            break;
        }
        if (got == -EBADMSG) {
            progress_clear(&progress);
            cli_error("%s", trace_error(trace));
            self->bad_line_count++;
            r = strcmp(self->bad_lines, "skip") == 0 ? CLI_OK : CLI_INPUT;
        } else if (got < 0) {
            cli_error("cannot read '%s': %s", self->path, strerror(-got));
            r = CLI_INPUT;
        } else {
            r = replay_line(self, request, done++);
            progress_update(&progress, by_count ? done : trace_position(trace));
        }
    }
    for (uint32_t i = 0; i < self->engines; i++) {
        int awaited = r == CLI_OK ? replay_engine_await(self, i) : CLI_OK;

        r = r == CLI_OK ? awaited : r;
    }
    if (r == CLI_OK) {
        progress_end(&progress);
    } else {
        progress_clear(&progress);
    }
    return r;
}

static int replay_trace_file(struct replay *self)
{
    struct trace_request request = {0};
    struct trace *trace = NULL;
    int r = trace_open(self->path, &trace);

    if (r < 0) {
        cli_error("cannot open '%s': %s", self->path, strerror(-r));
        return r == -ENOMEM ? CLI_OS : CLI_INPUT;
    }
    request.ids = malloc(TRACE_IDS_MAX * sizeof(*request.ids));
    if (request.ids == NULL) {
        cli_error("replay: no memory");
        r = CLI_OS;
    } else {
        r = replay_lines(self, trace, &request);
    }
    free(request.ids);
    trace_close(trace);
    return r;
}

static int replay_verdict(struct replay *self, double seconds)
{
    const struct replay_counts *counts = &self->sum.counts;
    uint64_t hits = counts->hits_own + counts->hits_engine + counts->hits_remote;
    uint64_t errors = counts->wrong_blocks + counts->failed_ops;
    bool kept;

    replay_print(&self->sum, self->metadata_only, seconds);
    kept = replay_print_memory(self->processes, self->process_count);
    if (self->bad_line_count != 0) {
        printf("%-24s %12" PRIu64 "\n", "lines skipped", self->bad_line_count);
    }
    printf("replay: %s requests=%" PRIu64 " blocks=%" PRIu64 " hits=%" PRIu64 " own=%" PRIu64
           " engine=%" PRIu64 " remote=%" PRIu64 " recompute=%" PRIu64 " lost=%" PRIu64
           " errors=%" PRIu64 "\n",
           errors == 0 && kept ? "ok" : "failed", counts->requests, counts->blocks, hits,
           counts->hits_own, counts->hits_engine, counts->hits_remote, counts->blocks - hits,
           counts->lost, errors);
    if (counts->wrong_blocks != 0 || !kept) {
        return CLI_NO;
    }
    return counts->failed_ops != 0 ? CLI_PEER : CLI_OK;
}

static int replay_run(struct replay *self)
{
    uint64_t begin;
    double seconds;
    int r = replay_engines_start(self);

    if (r != CLI_OK) {
        return r;
    }
    begin = util_now_ns();
    r = replay_trace_file(self);
    seconds = (double)(util_now_ns() - begin) / 1e9;
    for (uint32_t i = 0; r == CLI_OK && i < self->engines; i++) {
        r = replay_engine_report(self, i);
    }
    if (r == CLI_OK && self->server.pid != 0) {
        struct replay_process *process = &self->processes[self->process_count++];

        (void)snprintf(process->name, sizeof(process->name), "server");
        process->peak_rss = util_peak_rss(self->server.pid);
        process->budget = self->server_bytes;
    }
    return r == CLI_OK ? replay_verdict(self, seconds) : r;
}

int cmd_replay(int argc, char **argv)
{
    struct replay *self = calloc(1, sizeof(*self));
    int r;

    if (self == NULL) {
        return CLI_OS;
    }
    self->engines = 1;
    self->bytes_per_token = 64;
    self->server_bytes = REPLAY_SERVER_BUDGET;
    self->bad_lines = "fatal";
    r = replay_parse(self, argc, argv);
    if (r == CLI_GO) {
        r = replay_settings(self);
    }
    if (r == CLI_GO) {
        r = replay_run(self);
        for (uint32_t i = 0; i < self->engines; i++) {
            int ended = child_end(&self->children[i]);

            if (ended != CLI_OK && r == CLI_OK) {
                cli_error("replay: engine %u ended with code %d", i, ended);
                r = ended;
            }
        }
        if (child_stop_server(&self->server) != CLI_OK && (r == CLI_OK || r == CLI_NO)) {
            cli_error("replay: the server process did not live to the end");
            r = CLI_PEER;
        }
    }
    free(self);
    return r;
}
