/* SPDX-License-Identifier: Apache-2.0 */
#include "replay_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replay_trace.h"

#define METADATA_BUDGET (64ull << 20)
#define ENGINE_BUDGET (256ull << 20)
#define SEGMENT (16ull << 20) /* of the pool on a GPU */
#define SEGMENTS 64u /* of it, about, when it is large */

static uint64_t block_bytes(const struct replay *self)
{
    return self->metadata_only ? 0 : self->bytes_per_token * TRACE_BLOCK_TOKENS;
}

/* A limit in blocks implies its bytes; the store rounds chunks up, so leave some room. */
static uint64_t engine_budget(const struct replay *self)
{
    if (self->metadata_only) {
        return METADATA_BUDGET;
    }
    if (self->max_bytes != 0) {
        return self->max_bytes;
    }
    if (self->max_chunks != 0 && self->max_chunks < (1ull << 40) / block_bytes(self)) {
        return self->max_chunks * block_bytes(self) * 9 / 8 + (16u << 20);
    }
    return self->capacity != NULL ? REPLAY_SERVER_BUDGET : ENGINE_BUDGET;
}

static int server_start(struct replay *self, char *address_out, size_t address_size)
{
    char ini[512];

    (void)snprintf(ini, sizeof(ini),
                   "[kvlane]\nlog_level = warn\n[store]\nmax_bytes = %" PRIu64 "\n"
                   "[tcp_remote]\nrole = server\nlisten = 127.0.0.1:0\n",
                   self->server_bytes);
    return child_serve(&self->server, &self->common, "--ini", ini, address_out, address_size);
}

/* Peers are found by py_socket; without it the pool on the GPU would serve this engine only. */
static int gpu_ini(const struct replay *self, char *ini_out, size_t size)
{
    const uint64_t least = block_bytes(self) > SEGMENT ? block_bytes(self) : SEGMENT;
    const uint64_t pool = engine_budget(self) > least ? engine_budget(self) : least;
    const uint64_t segment = pool / SEGMENTS > least ? pool / SEGMENTS : least;
    int n = snprintf(ini_out, size, "[cuda_ipc]\nrequired = yes\n");

    if (self->with_peers) {
        n += snprintf(ini_out + n, size - (size_t)n,
                      "put_to = yes\npool = %" PRIu64 "\nsegment = %" PRIu64 "\n", pool, segment);
    } else {
        n += snprintf(ini_out + n, size - (size_t)n, "pool = 0\n");
    }
    if (self->driver != NULL) {
        n += snprintf(ini_out + n, size - (size_t)n, "driver = %s\n", self->driver);
    }
    return n;
}

static int engine_ini(const struct replay *self, const char *address, char *ini_out, size_t size)
{
    int n = snprintf(ini_out, size,
                     "[kvlane]\nlog_level = warn\n[store]\nmax_bytes = %" PRIu64
                     "\nmax_chunks = %" PRIu64 "\n",
                     engine_budget(self), self->max_chunks);

    if (self->on_gpu) {
        n += gpu_ini(self, ini_out + n, size - (size_t)n);
    }
    /* Asked in this order. Only where it was asked for by name must py_socket be there. */
    if (self->with_peers) {
        n += snprintf(ini_out + n, size - (size_t)n,
                      "[py_socket]\nrequired = %s\nbind = 127.0.0.1:0\n",
                      self->share != NULL ? "yes" : "auto");
    }
    if (address[0] != '\0') {
        n += snprintf(ini_out + n, size - (size_t)n,
                      "[tcp_remote]\nrole = client\nurl = %s\nput_to = yes\n", address);
    }
    return n;
}

static int engine_start_one(struct replay *self, uint32_t at, const char *address)
{
    struct {
        struct replay_init init;
        char text[4096 - sizeof(struct replay_init)];
    } message = {.init = {.block_bytes = block_bytes(self), .on_gpu = self->on_gpu}};
    size_t size = sizeof(message.init);
    int r = child_start(&self->children[at], "replay-engine", &self->common);

    if (r != CLI_OK) {
        return r;
    }
    if (self->driver != NULL) {
        (void)snprintf(message.init.driver, sizeof(message.init.driver), "%s", self->driver);
    }
    if (self->common.config == NULL) {
        size += (size_t)engine_ini(self, address, message.text, sizeof(message.text)) + 1;
    }
    if (child_send(self->children[at].fd, REPLAY_INIT, &message, size) < 0) {
        cli_error("replay: engine %u is gone", at);
        return CLI_OS;
    }
    return CLI_OK;
}

static int engine_await_ready(struct replay *self, uint32_t at, char *peer_address_out)
{
    struct replay_ready ready;
    size_t size;

    if (child_receive(self->children[at].fd, REPLAY_READY, &ready, sizeof(ready), &size) < 0 ||
        size != sizeof(ready)) {
        cli_error("replay: engine %u did not start", at);
        return CLI_OS;
    }
    if (peer_address_out != NULL) {
        (void)snprintf(peer_address_out, REPLAY_ADDRESS_ROOM, "%s", ready.peer_address);
    }
    return ready.exit_code;
}

/* Tells each engine where the others are. */
static int engines_meet(struct replay *self)
{
    char list[REPLAY_ENGINES_MAX * REPLAY_ADDRESS_ROOM];
    int r = CLI_OK;

    if (self->peers[0][0] == '\0') {
        printf("py_socket: not there (it needs libzmq), so the engines share by the server\n");
        return CLI_OK;
    }
    for (uint32_t i = 0; r == CLI_OK && i < self->engines; i++) {
        size_t length = 0;

        for (uint32_t j = 0; j < self->engines; j++) {
            if (j != i) {
                length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s",
                                           length > 0 ? "," : "", self->peers[j]);
            }
        }
        if (child_send(self->children[i].fd, REPLAY_PEERS, list, length + 1) < 0) {
            cli_error("replay: engine %u is gone", i);
            return CLI_OS;
        }
        r = engine_await_ready(self, i, NULL);
    }
    return r;
}

int replay_engines_start(struct replay *self)
{
    char address[256] = "";
    int r = CLI_OK;

    if (self->with_server) {
        r = server_start(self, address, sizeof(address));
    }
    for (uint32_t i = 0; r == CLI_OK && i < self->engines; i++) {
        r = engine_start_one(self, i, address);
    }
    for (uint32_t i = 0; r == CLI_OK && i < self->engines; i++) {
        r = engine_await_ready(self, i, self->peers[i]);
    }
    if (r == CLI_OK && self->with_peers) {
        r = engines_meet(self);
    }
    return r;
}

int replay_engine_await(struct replay *self, uint32_t at)
{
    struct replay_done done;
    size_t size;

    if (!self->busy[at]) {
        return CLI_OK;
    }
    self->busy[at] = false;
    if (child_receive(self->children[at].fd, REPLAY_DONE, &done, sizeof(done), &size) < 0) {
        cli_error("replay: engine %u is gone", at);
        return CLI_OS;
    }
    return CLI_OK;
}

int replay_engine_report(struct replay *self, uint32_t at)
{
    struct replay_report *report = calloc(1, sizeof(*report));
    struct replay_process *process = &self->processes[self->process_count++];
    size_t size = 0;
    int r = CLI_OK;

    if (report == NULL || child_send(self->children[at].fd, REPLAY_FINISH, NULL, 0) < 0 ||
        child_receive(self->children[at].fd, REPLAY_REPORT, report, sizeof(*report), &size) < 0 ||
        size != sizeof(*report)) {
        cli_error("replay: engine %u gave no report", at);
        r = CLI_OS;
    } else {
        replay_merge(&self->sum, report);
        (void)snprintf(process->name, sizeof(process->name), "engine %u", at);
        process->peak_rss = report->peak_rss;
        process->peer_rss = report->peer_rss;
        process->budget = self->common.config == NULL ? engine_budget(self) : report->budget;
        /* What the CUDA driver takes for itself is not ours to limit. */
        process->budget = self->on_gpu ? 0 : process->budget;
    }
    free(report);
    return r;
}
