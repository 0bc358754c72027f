/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_demo.c
 * The product in one screen: engine A computes and saves, engine B in another process loads through
 * each path the INI file gives it, and every logit has to be the same, bit for bit.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "child.h"
#include "demo.h"
#include "util.h"

#define PATHS_MAX 8u
#define INI_MAX 65536u
#define FLIP_CHUNK 3u /* of the first prompt; one in the middle */
#define SEALED_SUFFIX "@kvl%1" /* under which tcp_remote keeps the sealed form of a chunk */

static const char engine_ini[] = "[kvlane]\n"
                                 "log_level = warn\n"
                                 "[tcp_remote]\n"
                                 "role = client\n"
                                 "url = lm://127.0.0.1:1\n" /* replaced by the server's */
                                 "put_to = yes\n"
                                 "checksum = yes\n";

static const char server_ini[] = "[store]\n"
                                 "max_bytes = 1GiB\n"
                                 "[tcp_remote]\n"
                                 "role = server\n"
                                 "listen = 127.0.0.1:0\n";

/** Times of one path over all prompts. */
struct demo_path {
    char name[32];
    uint64_t ttft_ns;
    uint32_t runs;
};

struct demo {
    struct cli_common common; /* of the engines: with the server's address */
    const char *text;
    const char *server_config;
    uint64_t prompts;
    uint64_t tokens;
    uint64_t decode;
    bool no_server;
    bool progress;

    char set_url[320];
    struct child server;
    struct child a;
    struct child b;
    struct demo_prompt *prompt;
    struct demo_ran *reference; /* one per prompt: what A computed */
    struct demo_path paths[PATHS_MAX]; /* [0] is "cold", [1] is "local" */
    uint32_t path_count;
    char remote[32]; /* the path B took first, "" = none */
    char address[200];
    bool differs; /* something was not as it must be */
    struct progress bar;
    uint64_t steps_done;
};

/* ---- the command line ---- */

static int demo_parse(struct demo *self, int argc, char **argv)
{
    const struct cli_option options[] = {
        {"text", "FILE", "prompt from this file instead of the project's documents", CLI_TEXT,
         &self->text, 0, 0},
        {"prompts", "N", "prompts to run (3)", CLI_COUNT, &self->prompts, 1, DEMO_PROMPTS_MAX},
        {"tokens", "N", "tokens of a prompt, one a byte (2000)", CLI_COUNT, &self->tokens,
         2 * DEMO_CHUNK_TOKENS + 1, MODEL_MAX_TOKENS - DEMO_DECODE_MAX},
        {"decode", "N", "tokens to decode after each prompt (16)", CLI_COUNT, &self->decode, 1,
         DEMO_DECODE_MAX},
        {"server-config", "FILE", "INI file of the server that the demo starts", CLI_TEXT,
         &self->server_config, 0, 0},
        {"no-server", NULL, "start none: use the one the INI file names", CLI_FLAG,
         &self->no_server, 0, 0},
        {"progress", NULL, "a progress bar also when stderr is no terminal", CLI_FLAG,
         &self->progress, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "demo",
        .args = "",
        .about =
            "A small real transformer reads text as prompts. Engine A computes and saves its KV "
            "chunks; engine B,\nanother process, loads them through each path that the INI file "
            "gives it and decodes on. Shown: time\nto first token, speed-up, and whether all "
            "logits are bit-identical to recomputation. Then one bit of\na stored chunk is "
            "flipped, "
            "which must be seen and end as recompute. --config FILE is the INI file of\nthe "
            "engines; if it has a tcp_remote client, the demo starts a server for it. Exit code 1: "
            "a result\ndiffers.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &self->common,
    };
    int count;

    return cli_parse(&usage, argc, argv, &count);
}

static int demo_prompts(struct demo *self)
{
    int r;

    self->prompt = calloc(self->prompts, sizeof(*self->prompt));
    self->reference = calloc(self->prompts, sizeof(*self->reference));
    if (self->prompt == NULL || self->reference == NULL) {
        cli_error("demo: no memory");
        return CLI_OS;
    }
    if (self->text == NULL) {
        demo_prompts_find(self->prompt, (uint32_t)self->prompts, (uint32_t)self->tokens);
        return CLI_OK;
    }
    self->prompts = 1;
    r = demo_prompt_read(&self->prompt[0], self->text, (uint32_t)self->tokens);
    if (r == -ENODATA) {
        cli_error("demo: '%s' has %u bytes or fewer, expected a longer text", self->text,
                  2 * DEMO_CHUNK_TOKENS);
    } else if (r < 0) {
        cli_error("cannot read '%s': %s", self->text, strerror(-r));
    }
    return r < 0 ? CLI_INPUT : CLI_OK;
}

/* ---- processes ---- */

/* The section whose address is to be that of our server; "" = start none. */
static int demo_client_section(const struct demo *self, char *section_out, size_t size)
{
    const char *path = self->common.config;
    uint8_t *text;
    size_t length;
    int r;

    section_out[0] = '\0';
    if (self->no_server) {
        return CLI_OK;
    }
    if (path == NULL) {
        path = getenv("KVLANE_CONFIG");
    }
    if (path == NULL) {
        (void)demo_config_client(engine_ini, section_out, size);
        return CLI_OK;
    }
    r = util_read_file(path, INI_MAX, &text, &length);
    if (r < 0) {
        cli_error("cannot read '%s': %s", path, strerror(-r));
        return r == -ENOMEM ? CLI_OS : CLI_INPUT;
    }
    (void)demo_config_client((const char *)text, section_out, size);
    free(text);
    return CLI_OK;
}

static int demo_server(struct demo *self)
{
    char section[64];
    char address[200];
    int r = demo_client_section(self, section, sizeof(section));

    if (r != CLI_OK || section[0] == '\0') {
        return r;
    }
    r = child_serve(
        &self->server, &self->common, self->server_config != NULL ? "--config" : "--ini",
        self->server_config != NULL ? self->server_config : server_ini, address, sizeof(address));
    if (r != CLI_OK) {
        return r;
    }
    if (self->common.set_count == CLI_MAX_SETS) {
        cli_error("demo: too many --set");
        return CLI_USAGE;
    }
    (void)snprintf(self->set_url, sizeof(self->set_url), "%s.url=%s", section, address);
    self->common.sets[self->common.set_count++] = self->set_url;
    printf("server: kvlane serve at %s\n", address);
    return CLI_OK;
}

static uint64_t arena_bytes(const struct demo *self)
{
    uint64_t chunks = self->prompts * demo_chunk_count((uint32_t)self->tokens);

    return (chunks * DEMO_CHUNK_BYTES * 5 / 4 + (16u << 20)) / 4096 * 4096;
}

static int engine_begin(struct child *child, const struct cli_common *common, const char *ini,
                        uint64_t arena)
{
    struct {
        struct demo_init init;
        char text[2048];
    } message = {.init = {.arena_bytes = arena}};
    int32_t ready = CLI_OS;
    size_t size;
    int r = child_start(child, "demo-engine", common);

    if (r != CLI_OK) {
        return r;
    }
    (void)snprintf(message.text, sizeof(message.text), "%s", ini);
    if (child_send(child->fd, DEMO_INIT, &message,
                   sizeof(message.init) + strlen(message.text) + 1) < 0 ||
        child_receive(child->fd, DEMO_READY, &ready, sizeof(ready), &size) < 0) {
        cli_error("demo: an engine process is gone");
        return CLI_OS;
    }
    return ready;
}

static int engine_new(const struct demo *self, struct child *child)
{
    bool own = self->common.config == NULL && getenv("KVLANE_CONFIG") == NULL;

    return engine_begin(child, &self->common, own ? engine_ini : "", arena_bytes(self));
}

static int engine_prompt(struct demo *self, const struct child *child, uint32_t prompt,
                         uint32_t flags, struct demo_ran *ran_out)
{
    static struct demo_run run;
    size_t size = 0;

    memset(&run, 0, sizeof(run));
    run.flags = flags;
    run.token_count = self->prompt[prompt].token_count;
    run.decode = (uint32_t)self->decode;
    memcpy(run.tokens, self->prompt[prompt].tokens, run.token_count);
    if (child_send(child->fd, DEMO_RUN, &run, sizeof(run)) < 0 ||
        child_receive(child->fd, DEMO_RAN, ran_out, sizeof(*ran_out), &size) < 0 ||
        size != sizeof(*ran_out)) {
        cli_error("demo: an engine process is gone");
        return CLI_OS;
    }
    progress_update(&self->bar, ++self->steps_done);
    if (ran_out->error < 0) {
        cli_error("demo: the plugin failed: %s", strerror(-ran_out->error));
        return CLI_PEER;
    }
    return CLI_OK;
}

/* ---- results ---- */

static bool same(const struct demo *self, const struct demo_ran *one, const struct demo_ran *two)
{
    return memcmp(one->logits, two->logits, sizeof(one->logits)) == 0 && one->steps == two->steps &&
           memcmp(one->tokens, two->tokens, self->decode) == 0;
}

static void path_add(struct demo *self, const struct demo_ran *ran)
{
    uint32_t at = 0;

    while (at < self->path_count && strcmp(self->paths[at].name, ran->path) != 0) {
        at++;
    }
    if (at == PATHS_MAX) {
        return;
    }
    if (at == self->path_count) {
        (void)snprintf(self->paths[at].name, sizeof(self->paths[at].name), "%s", ran->path);
        self->path_count++;
    }
    self->paths[at].ttft_ns += ran->ttft_ns;
    self->paths[at].runs++;
}

static double path_ms(const struct demo_path *path)
{
    return path->runs == 0 ? 0 : (double)path->ttft_ns / path->runs / 1e6;
}

static void print_head(const struct demo *self)
{
    char bytes[32];

    printf("model: %u layers of %u, byte tokens, KV chunks of %u tokens and %s\n", MODEL_LAYERS,
           MODEL_HIDDEN, DEMO_CHUNK_TOKENS,
           util_bytes_text(DEMO_CHUNK_BYTES, bytes, sizeof(bytes)));
    printf("engines: %s\n\n",
           self->common.config != NULL ? self->common.config : "built-in INI text");
    printf("%-20s %6s %-6s %-14s %7s %11s %9s %9s  %s\n", "prompt", "tokens", "engine", "path",
           "chunks", "load", "ttft", "speed-up", "bit-identical");
}

static void print_row(struct demo *self, uint32_t prompt, char engine, const struct demo_ran *ran)
{
    const struct demo_ran *cold = &self->reference[prompt];
    bool identical = same(self, ran, cold);

    progress_clear(&self->bar);
    printf("%-20.20s %6u %-6c %-14.14s %3u/%-3u %8.1f ms %6.0f ms %7.1f x  %s\n",
           self->prompt[prompt].name, self->prompt[prompt].token_count, engine, ran->path,
           ran->loaded, ran->chunks, (double)(ran->lookup_ns + ran->load_ns) / 1e6,
           (double)ran->ttft_ns / 1e6, (double)cold->ttft_ns / (double)ran->ttft_ns,
           ran == cold ? "is the reference"
           : identical ? "yes"
                       : "NO");
    (void)fflush(stdout);
    self->differs = self->differs || !identical;
    path_add(self, ran);
}

/* ---- the run ---- */

static int run_cold(struct demo *self)
{
    for (uint32_t i = 0; i < self->prompts; i++) {
        struct demo_ran *ran = &self->reference[i];
        int r = engine_prompt(self, &self->a, i, DEMO_SAVE, ran);

        if (r != CLI_OK) {
            return r;
        }
        print_row(self, i, 'A', ran);
    }
    return CLI_OK;
}

/* First what others have, then what is its own by then. */
static int run_warm(struct demo *self)
{
    for (uint32_t i = 0; i < self->prompts; i++) {
        for (uint32_t turn = 0; turn < 2; turn++) {
            struct demo_ran ran;
            uint32_t save = turn == 0 ? DEMO_SAVE | DEMO_SAVE_LOCAL : 0;
            int r = engine_prompt(self, &self->b, i, DEMO_USE | save, &ran);

            if (r != CLI_OK) {
                return r;
            }
            print_row(self, i, 'B', &ran);
            if (turn == 0 && ran.loaded > 0 && strcmp(ran.path, "local") != 0) {
                (void)snprintf(self->remote, sizeof(self->remote), "%s", ran.path);
                (void)snprintf(self->address, sizeof(self->address), "%s", ran.address);
            }
            if (ran.loaded != ran.chunks && (turn == 1 || self->server.pid != 0)) {
                progress_clear(&self->bar);
                printf("       expected all %u chunks from %s\n", ran.chunks,
                       turn == 1 ? "the own store" : "the server");
                self->differs = true;
            }
        }
    }
    return CLI_OK;
}

/* ---- one flipped bit ---- */

static int flip(const struct child *child, uint32_t type, const char *key, int32_t *status_out)
{
    size_t size;

    if (child_send(child->fd, type, key, strlen(key) + 1) < 0 ||
        child_receive(child->fd, DEMO_FLIPPED, status_out, sizeof(*status_out), &size) < 0) {
        cli_error("demo: an engine process is gone");
        return CLI_OS;
    }
    return CLI_OK;
}

static void flip_key(const struct demo *self, uint32_t chunk, const char *suffix, char *key_out,
                     size_t size)
{
    char keys[DEMO_CHUNKS_MAX][DEMO_KEY_ROOM];

    demo_chunk_keys(self->prompt[0].tokens, chunk + 1, keys);
    (void)snprintf(key_out, size, "%s%s", keys[chunk], suffix);
}

static uint32_t flip_chunk(const struct demo *self)
{
    uint32_t count = demo_chunk_count(self->prompt[0].token_count);

    return FLIP_CHUNK < count ? FLIP_CHUNK : count - 1;
}

static void print_flip(struct demo *self, const char *where, const struct demo_ran *ran)
{
    bool refused = ran->refused == (int32_t)flip_chunk(self);
    bool seen = refused || ran->healed > 0;
    bool identical = same(self, ran, &self->reference[0]);

    progress_clear(&self->bar);
    printf("one bit flipped in chunk %u at %s: %s, %u chunks used, the rest computed, "
           "bit-identical: %s\n",
           flip_chunk(self), where,
           refused ? "refused"
           : seen  ? "replaced by a good copy"
                   : "NOT SEEN",
           ran->loaded, identical ? "yes" : "NO");
    (void)fflush(stdout);
    self->differs = self->differs || !seen || !identical;
}

/* A client that knows nothing of seals changes the bytes at the server. */
static int flip_at_server(struct demo *self, int32_t *status_out)
{
    struct cli_common plain = {.plugin = self->common.plugin,
                               .log = self->common.log,
                               .timeout_ms = self->common.timeout_ms};
    struct child child = {0};
    char ini[512];
    char key[DEMO_KEY_ROOM + 16];
    int ended;
    int r;

    (void)snprintf(ini, sizeof(ini),
                   "[tcp_remote]\nrole = client\nurl = %s\nput_to = yes\nchecksum = no\n",
                   self->address);
    flip_key(self, flip_chunk(self), SEALED_SUFFIX, key, sizeof(key));
    r = engine_begin(&child, &plain, ini, 0);
    if (r == CLI_OK) {
        r = flip(&child, DEMO_FLIP_SEALED, key, status_out);
    }
    ended = child_end(&child);
    return r == CLI_OK ? ended : r;
}

static int run_flip_remote(struct demo *self)
{
    struct child c = {0};
    struct demo_ran ran;
    int32_t status = 0;
    int r;

    if (strncmp(self->remote, "tcp_remote", 10) != 0) {
        return CLI_OK;
    }
    r = flip_at_server(self, &status);
    if (r != CLI_OK) {
        return r;
    }
    if (status < 0) {
        progress_clear(&self->bar);
        printf("one bit flipped at %s: not tried, the server has no sealed chunks "
               "(checksum = yes makes them)\n",
               self->remote);
        return CLI_OK;
    }
    r = engine_new(self, &c);
    if (r == CLI_OK) {
        r = engine_prompt(self, &c, 0, DEMO_USE, &ran);
    }
    if (r == CLI_OK) {
        print_flip(self, self->remote, &ran);
    }
    (void)child_end(&c);
    return r;
}

/*
 * After the one at the server, so that no good copy is left and the chunk has to be computed. Where
 * that was not tried, the good copy there takes its place.
 */
static int run_flip_local(struct demo *self)
{
    struct demo_ran ran;
    char key[DEMO_KEY_ROOM + 16];
    int32_t status = 0;
    int r;

    flip_key(self, flip_chunk(self), "", key, sizeof(key));
    r = flip(&self->b, DEMO_FLIP, key, &status);
    if (r != CLI_OK) {
        return r;
    }
    if (status < 0) {
        cli_error("demo: cannot reach a chunk in the own store: %s", strerror(-status));
        return CLI_PEER;
    }
    r = engine_prompt(self, &self->b, 0, DEMO_USE, &ran);
    if (r == CLI_OK) {
        print_flip(self, "local", &ran);
    }
    return r;
}

static int demo_verdict(struct demo *self)
{
    const struct demo_path *cold = &self->paths[0];
    const char *comma = "";

    printf("\ndemo: %s paths=", self->differs ? "failed" : "ok");
    for (uint32_t i = 1; i < self->path_count; i++) {
        if (self->paths[i].runs > 0) {
            printf("%s%s", comma, self->paths[i].name);
            comma = ",";
        }
    }
    printf(" identical=%s ttft_cold_ms=%.1f", self->differs ? "no" : "yes", path_ms(cold));
    for (uint32_t i = 1; i < self->path_count; i++) {
        if (self->paths[i].runs > 0) {
            printf(" ttft_%s_ms=%.1f", self->paths[i].name, path_ms(&self->paths[i]));
        }
    }
    printf("\n");
    return self->differs ? CLI_NO : CLI_OK;
}

static int demo_run(struct demo *self)
{
    int r = demo_server(self);

    if (r == CLI_OK) {
        r = engine_new(self, &self->a);
    }
    if (r == CLI_OK) {
        r = engine_new(self, &self->b);
    }
    if (r != CLI_OK) {
        return r;
    }
    print_head(self);
    progress_init(&self->bar, "demo", 3 * self->prompts + 2, self->progress);
    r = run_cold(self);
    if (r == CLI_OK) {
        r = run_warm(self);
    }
    if (r == CLI_OK) {
        progress_clear(&self->bar);
        printf("\n");
        r = run_flip_remote(self);
    }
    if (r == CLI_OK) {
        r = run_flip_local(self);
    }
    progress_clear(&self->bar);
    return r == CLI_OK ? demo_verdict(self) : r;
}

int cmd_demo(int argc, char **argv)
{
    struct demo *self = calloc(1, sizeof(*self));
    int r;

    if (self == NULL) {
        return CLI_OS;
    }
    self->prompts = 3;
    self->tokens = 2000;
    self->decode = 16;
    self->path_count = 2;
    (void)snprintf(self->paths[0].name, sizeof(self->paths[0].name), "cold");
    (void)snprintf(self->paths[1].name, sizeof(self->paths[1].name), "local");
    r = demo_parse(self, argc, argv);
    if (r == CLI_GO) {
        r = demo_prompts(self);
        if (r == CLI_OK) {
            r = demo_run(self);
        }
        (void)child_end(&self->a);
        (void)child_end(&self->b);
        (void)child_stop_server(&self->server);
    }
    free(self->prompt);
    free(self->reference);
    free(self);
    return r;
}
