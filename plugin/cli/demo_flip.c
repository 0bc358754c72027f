/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_run.h"

#include <stdio.h>
#include <string.h>

#define FLIP_CHUNK 3u /* of the first prompt; one in the middle */
#define SEALED_SUFFIX "@kvl%1" /* under which tcp_remote keeps the sealed form of a chunk */

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
    bool identical = demo_same(self, ran, &self->reference[0]);

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
    const struct demo_init init = {0};
    struct child child = {0};
    struct demo_ready ready;
    char ini[512];
    char key[DEMO_KEY_ROOM + 16];
    int ended;
    int r;

    (void)snprintf(ini, sizeof(ini),
                   "[kvlane]\nlog_level = warn\n"
                   "[tcp_remote]\nrole = client\nurl = %s\nput_to = yes\nchecksum = no\n",
                   self->address);
    flip_key(self, flip_chunk(self), SEALED_SUFFIX, key, sizeof(key));
    r = demo_engine_begin(&child, &plain, ini, &init, &ready);
    if (r == CLI_OK) {
        r = flip(&child, DEMO_FLIP_SEALED, key, status_out);
    }
    ended = child_end(&child);
    return r == CLI_OK ? ended : r;
}

/* An engine without chunks of its own loads the prompt and shows what it made of the damage. */
static int flip_find(struct demo *self, const char *peer, const char *where)
{
    struct child child = {0};
    struct demo_ready ready;
    struct demo_ran ran;
    int r = demo_engine_new(self, &child, peer, DEMO_GPU_NO, &ready);

    if (r == CLI_OK) {
        r = demo_engine_prompt(self, &child, 0, DEMO_USE, &ran);
    }
    if (r == CLI_OK) {
        print_flip(self, where, &ran);
    }
    (void)child_end(&child);
    return r;
}

static int flip_own_store(struct demo *self, const struct child *child)
{
    char key[DEMO_KEY_ROOM + 16];
    int32_t status = 0;
    int r;

    flip_key(self, flip_chunk(self), "", key, sizeof(key));
    r = flip(child, DEMO_FLIP, key, &status);
    if (r == CLI_OK && status < 0) {
        cli_error("demo: cannot reach a chunk in the own store: %s", strerror(-status));
        r = CLI_PEER;
    }
    return r;
}

int demo_flip_peer(struct demo *self)
{
    int r;

    if (self->peer[0] == '\0') {
        return CLI_OK;
    }
    r = flip_own_store(self, &self->a);
    return r == CLI_OK ? flip_find(self, self->peer, "py_socket, in the memory of A") : r;
}

int demo_flip_remote(struct demo *self)
{
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
    return flip_find(self, "", self->remote);
}

/*
 * After the others, so that no good copy is left and the chunk has to be computed. Where one of
 * them was not tried, the good copy there takes its place.
 */
int demo_flip_local(struct demo *self)
{
    struct demo_ran ran;
    int r = flip_own_store(self, &self->b);

    if (r != CLI_OK) {
        return r;
    }
    r = demo_engine_prompt(self, &self->b, 0, DEMO_USE, &ran);
    if (r == CLI_OK) {
        print_flip(self, "local", &ran);
    }
    return r;
}
