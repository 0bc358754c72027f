/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_demo.c
 * The product in one screen: engine A computes and saves, engines in other processes load through
 * each path the INI file gives them, and every logit has to be the same, bit for bit.
 */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "demo_run.h"

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
        {"gpu", "WHEN", "auto, yes or no: KV caches on a GPU (auto: where there is one)", CLI_TEXT,
         &self->gpu_word, 0, 0},
        {"cuda-driver", "FILE", "the CUDA driver in place of libcuda.so.1", CLI_TEXT, &self->driver,
         0, 0},
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
            "chunks; engine B,\nanother process, loads them out of A's memory (py_socket), engine "
            "C from a server (tcp_remote), and\nboth decode on. Where there is a GPU, A keeps its "
            "KV cache on it, and engine G loads from "
            "that memory\n(cuda_ipc). Shown: time to first token, "
            "speed-up, and whether all logits are bit-identical to\nrecomputation. Then one bit of "
            "a stored chunk is flipped, which must be seen and end as recompute or\nwith a good "
            "copy. With --config FILE, or where py_socket was not built, B takes the paths of its "
            "\nINI file and there is no C; if the file has a tcp_remote client, the demo starts a "
            "server for it.\nExit code 1: a result differs.",
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

/* ---- results ---- */

static void path_add(struct demo *self, const struct demo_ran *ran)
{
    uint32_t at = 0;

    while (at < self->path_count && strcmp(self->paths[at].name, ran->path) != 0) {
        at++;
    }
    if (at == DEMO_PATHS_MAX) {
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
    bool identical = demo_same(self, ran, cold);

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
        int r = demo_engine_prompt(self, &self->a, i, DEMO_SAVE, ran);

        if (r != CLI_OK) {
            return r;
        }
        print_row(self, i, 'A', ran);
    }
    return CLI_OK;
}

/* Remembers which path leads to a server, and checks that all came, from `path` (NULL = any). */
static void check_warm(struct demo *self, const struct demo_ran *ran, const char *path,
                       const char *whence)
{
    if (ran->loaded > 0 && strncmp(ran->path, "tcp_remote", 10) == 0) {
        (void)snprintf(self->remote, sizeof(self->remote), "%s", ran->path);
        (void)snprintf(self->address, sizeof(self->address), "%s", ran->address);
    }
    if (ran->loaded != ran->chunks || (path != NULL && strcmp(ran->path, path) != 0)) {
        progress_clear(&self->bar);
        printf("       expected all %u chunks from %s\n", ran->chunks, whence);
        self->differs = true;
    }
}

/* One prompt of B: first what others have, then what is its own by then. */
static int run_b(struct demo *self, uint32_t prompt)
{
    const bool asks_a = self->peer[0] != '\0';
    struct demo_ran ran;
    int r =
        demo_engine_prompt(self, &self->b, prompt, DEMO_USE | DEMO_SAVE | DEMO_SAVE_LOCAL, &ran);

    if (r != CLI_OK) {
        return r;
    }
    print_row(self, prompt, 'B', &ran);
    if (asks_a) {
        check_warm(self, &ran, "py_socket", "the memory of A");
    } else if (self->server.pid != 0) {
        check_warm(self, &ran, NULL, "the server");
    }
    r = demo_engine_prompt(self, &self->b, prompt, DEMO_USE, &ran);
    if (r == CLI_OK) {
        print_row(self, prompt, 'B', &ran);
        check_warm(self, &ran, NULL, "the own store");
    }
    return r;
}

/* One prompt of an engine that has nothing of its own; none when it was not started. */
static int run_one(struct demo *self, uint32_t prompt, const struct child *child, char name,
                   const char *path, const char *whence)
{
    struct demo_ran ran;
    int r;

    if (child->pid == 0) {
        return CLI_OK;
    }
    r = demo_engine_prompt(self, child, prompt, DEMO_USE, &ran);
    if (r == CLI_OK) {
        print_row(self, prompt, name, &ran);
        check_warm(self, &ran, path, whence);
    }
    return r;
}

static int run_warm(struct demo *self)
{
    for (uint32_t i = 0; i < self->prompts; i++) {
        int r = run_one(self, i, &self->g, 'G', "cuda_ipc", "the GPU memory of A");

        if (r == CLI_OK) {
            r = run_b(self, i);
        }
        if (r == CLI_OK) {
            r = run_one(self, i, &self->c, 'C', "tcp_remote", "the server");
        }
        if (r != CLI_OK) {
            return r;
        }
    }
    return CLI_OK;
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

/* The one that loads out of the GPU memory of A. */
static int engine_g_start(struct demo *self, const struct demo_ready *a)
{
    struct demo_ready ready;

    (void)snprintf(self->gpu_peer, sizeof(self->gpu_peer), "%s", a->gpu_address);
    printf("engines A and G: KV cache on %s, cuda_ipc at %s\n", self->gpu_name, self->gpu_peer);
    return demo_engine_new(self, &self->g, self->peer, self->gpu, &ready);
}

static int engines_start(struct demo *self)
{
    struct demo_ready a;
    struct demo_ready ready;
    int r = demo_engine_new(self, &self->a, "", self->gpu, &a);

    if (r != CLI_OK) {
        return r;
    }
    self->gpu = a.is_on_gpu ? self->gpu : DEMO_GPU_NO;
    if (demo_is_own_ini(self)) {
        (void)snprintf(self->peer, sizeof(self->peer), "%s", a.peer_address);
        if (self->peer[0] == '\0') {
            printf("py_socket: not there (it needs libzmq), so the engines share by the server\n");
        } else {
            printf("engine A: py_socket at %s\n", self->peer);
        }
    }
    /* With a file of the user there is one other engine, and it is as A is. */
    r = demo_engine_new(self, &self->b, self->peer, demo_is_own_ini(self) ? DEMO_GPU_NO : self->gpu,
                        &ready);
    if (r == CLI_OK && self->peer[0] != '\0' && self->server.pid != 0) {
        r = demo_engine_new(self, &self->c, "", DEMO_GPU_NO, &ready);
    }
    if (r == CLI_OK && demo_is_own_ini(self) && self->gpu != DEMO_GPU_NO) {
        r = engine_g_start(self, &a);
    }
    return r;
}

static int run_flips(struct demo *self)
{
    int r = demo_flip_peer(self);

    if (r == CLI_OK) {
        r = demo_flip_remote(self);
    }
    if (r == CLI_OK) {
        r = demo_flip_local(self);
    }
    return r;
}

static int demo_run(struct demo *self)
{
    uint64_t steps;
    int r = demo_gpu_find(self);

    if (r == CLI_OK) {
        r = demo_server_start(self);
    }
    if (r == CLI_OK) {
        r = engines_start(self);
    }
    if (r != CLI_OK) {
        return r;
    }
    print_head(self);
    steps = 3 * self->prompts + 2;
    steps += (self->c.pid != 0 ? self->prompts : 0) + (self->peer[0] != '\0');
    steps += self->g.pid != 0 ? self->prompts : 0;
    progress_init(&self->bar, "demo", steps, self->progress);
    r = run_cold(self);
    if (r == CLI_OK) {
        r = run_warm(self);
    }
    if (r == CLI_OK) {
        progress_clear(&self->bar);
        printf("\n");
        r = run_flips(self);
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
    self->gpu_word = "auto";
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
        (void)child_end(&self->c);
        (void)child_end(&self->g);
        (void)child_stop_server(&self->server);
    }
    free(self->prompt);
    free(self->reference);
    free(self);
    return r;
}
