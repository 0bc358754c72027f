/* SPDX-License-Identifier: Apache-2.0 */
#include "replay_window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu.h"
#include "replay_trace.h"
#include "util.h"

#define PAGE_TOKENS 16u
#define PAGES (TRACE_BLOCK_TOKENS / PAGE_TOKENS) /* of a block of the trace */

struct replay_window {
    struct engine *engine;
    uint64_t bytes;
    uint32_t count;
    uint8_t *buffer; /* count * bytes */
    struct kvl_sg sg[REPLAY_WINDOW_MAX];
    uint32_t sg_first[REPLAY_WINDOW_MAX + 1];

    struct gpu *gpu; /* NULL = in host memory; then nothing below is used */
    uint64_t device; /* count * bytes there */
    uint8_t *stage; /* pinned, as it is on the device */
    uint64_t kv; /* 0 = not registered */
    uint32_t pages[REPLAY_WINDOW_MAX * PAGES]; /* block table of the cache */
    uint32_t page_first[REPLAY_WINDOW_MAX + 1];
};

/* ---- on a GPU ---- */

static void pages_deal(struct replay_window *window)
{
    const uint64_t seed = (uint64_t)getpid() << 32;
    const uint32_t count = window->count * PAGES;

    for (uint32_t i = 0; i < count; i++) {
        window->pages[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        const uint32_t other = (uint32_t)(util_mix(seed + i) % (i + 1));
        const uint32_t page = window->pages[i];

        window->pages[i] = window->pages[other];
        window->pages[other] = page;
    }
    for (uint32_t i = 0; i <= window->count; i++) {
        window->page_first[i] = i * PAGES;
    }
}

static int window_register(struct replay_window *window)
{
    const uint64_t token = window->bytes / TRACE_BLOCK_TOKENS;
    struct kvl_err err = {.size = sizeof(err)};
    const struct kvl_kv kv = {
        .size = sizeof(kv),
        .mem = KVL_MEM_CUDA,
        .layers = 1,
        .planes = 1,
        .block_tokens = PAGE_TOKENS,
        .block_count = window->count * PAGES,
        .token_bytes = token,
        .token_stride = token,
        .block_stride = token * PAGE_TOKENS,
        .bases = &window->device,
    };
    int r;

    if (window->engine->ops.register_kv == NULL) {
        cli_error("replay: this plugin knows no paged KV caches");
        return CLI_INPUT;
    }
    r = window->engine->ops.register_kv(window->engine->instance, &kv, &window->kv, &err);
    if (r < 0) {
        cli_error("replay: cannot register the KV cache: %s", err.text);
    }
    return r < 0 ? CLI_PEER : CLI_OK;
}

static int window_to_gpu(struct replay_window *window, const char *driver)
{
    char text[GPU_TEXT];
    void *stage = NULL;
    int r = gpu_create(driver, &window->gpu, text);

    if (r < 0) {
        cli_error("replay: %s", text);
        return CLI_PEER;
    }
    r = gpu_alloc(window->gpu, window->count * window->bytes, &window->device);
    if (r == 0) {
        r = gpu_pinned_alloc(window->gpu, window->count * window->bytes, &stage);
        window->stage = stage;
    }
    if (r < 0) {
        cli_error("replay: %s", gpu_error(window->gpu));
        return CLI_PEER;
    }
    pages_deal(window);
    return window_register(window);
}

/* Copies the pages of the first `count` blocks between `buffer` and `stage`. */
static void pages_copy(struct replay_window *window, uint32_t count, bool is_push)
{
    const uint64_t bytes = window->bytes / PAGES;

    for (uint32_t i = 0; i < count * PAGES; i++) {
        uint8_t *here = window->buffer + i * bytes;
        uint8_t *there = window->stage + window->pages[i] * bytes;

        memcpy(is_push ? there : here, is_push ? here : there, bytes);
    }
}

static int gpu_failed(const struct replay_window *window, int r)
{
    if (r < 0) {
        cli_error("replay: %s", gpu_error(window->gpu));
    }
    return r;
}

/* ---- */

int replay_window_create(struct engine *engine, uint64_t bytes, uint32_t count, bool on_gpu,
                         const char *driver, struct replay_window **window_out)
{
    struct replay_window *window = calloc(1, sizeof(*window));
    int r = CLI_OK;

    if (window == NULL || (window->buffer = malloc(count * bytes)) == NULL) {
        cli_error("replay: no memory");
        free(window);
        return CLI_OS;
    }
    window->engine = engine;
    window->bytes = bytes;
    window->count = count;
    for (uint32_t i = 0; i < count; i++) {
        window->sg[i] = (struct kvl_sg){
            .mem = KVL_MEM_HOST,
            .addr = (uint64_t)(uintptr_t)(window->buffer + i * bytes),
            .length = bytes,
            .stride = bytes,
            .count = 1,
            .device = KVL_DEVICE_HOST,
        };
        window->sg_first[i + 1] = i + 1;
    }
    if (on_gpu) {
        r = window_to_gpu(window, driver);
    }
    if (r != CLI_OK) {
        replay_window_destroy(window);
        return r;
    }
    *window_out = window;
    return CLI_OK;
}

void replay_window_destroy(struct replay_window *window)
{
    if (window == NULL) {
        return;
    }
    if (window->kv != 0) {
        (void)window->engine->ops.unregister_kv(window->engine->instance, window->kv);
    }
    if (window->gpu != NULL) {
        (void)gpu_wait(window->gpu);
        gpu_pinned_free(window->gpu, window->stage);
        gpu_free(window->gpu, window->device);
        gpu_destroy(window->gpu);
    }
    free(window->buffer);
    free(window);
}

void replay_window_name(struct replay_window *window, struct kvl_batch *batch)
{
    if (window->gpu == NULL) {
        batch->sg = window->sg;
        batch->sg_first = window->sg_first;
        return;
    }
    batch->kv = window->kv;
    batch->blocks = window->pages;
    batch->block_first = window->page_first;
    batch->stream = gpu_stream(window->gpu);
}

int replay_window_push(struct replay_window *window, uint32_t count)
{
    int r;

    if (window->gpu == NULL) {
        return 0;
    }
    r = gpu_wait(window->gpu); /* the stage is free */
    if (r == 0) {
        pages_copy(window, count, true);
        r = gpu_put(window->gpu, window->device, window->stage, window->count * window->bytes);
    }
    return gpu_failed(window, r);
}

int replay_window_pull(struct replay_window *window, uint32_t count)
{
    int r;

    if (window->gpu == NULL) {
        return 0;
    }
    r = gpu_get(window->gpu, window->stage, window->device, window->count * window->bytes);
    if (r == 0) {
        r = gpu_wait(window->gpu);
    }
    if (r == 0) {
        pages_copy(window, count, false);
    }
    return gpu_failed(window, r);
}

/* ---- the bytes of a block ---- */

void replay_window_fill(struct replay_window *window, uint32_t i, uint64_t id)
{
    const uint64_t bytes = window->bytes;
    uint8_t *to = window->buffer + i * bytes;
    uint64_t seed = util_mix(id);
    uint64_t at = 0;

    for (; at + 8 <= bytes; at += 8) {
        uint64_t word = util_mix(seed + at);

        memcpy(to + at, &word, 8);
    }
    if (at < bytes) {
        uint64_t word = util_mix(seed + at);

        memcpy(to + at, &word, bytes - at);
    }
}

bool replay_window_is_right(const struct replay_window *window, uint32_t i, uint64_t id)
{
    const uint64_t bytes = window->bytes;
    const uint8_t *from = window->buffer + i * bytes;
    uint64_t seed = util_mix(id);
    uint64_t at = 0;
    uint64_t wrong = 0;

    for (; at + 8 <= bytes; at += 8) {
        uint64_t word;

        memcpy(&word, from + at, 8);
        wrong |= word ^ util_mix(seed + at);
    }
    if (at < bytes) {
        uint64_t word = util_mix(seed + at);

        wrong |= (uint64_t)(memcmp(from + at, &word, bytes - at) != 0);
    }
    return wrong == 0;
}
