/* SPDX-License-Identifier: Apache-2.0 */
#include "demo_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INI_MAX 65536u

/* Backends are asked in the order of their sections: other engines, then the server. */
static const char core_ini[] = "[kvlane]\n"
                               "log_level = warn\n";
/* Followed by the address of its peer, if there is one. */
static const char peer_ini[] = "[py_socket]\n"
                               "required = auto\n" /* without libzmq it is not built */
                               "bind = 127.0.0.1:0\n"
                               "peers = ";
static const char server_client_ini[] = "[tcp_remote]\n"
                                        "role = client\n"
                                        "url = lm://127.0.0.1:1\n" /* replaced by the server's */
                                        "put_to = yes\n"
                                        "checksum = yes\n";

static const char server_ini[] = "[kvlane]\n"
                                 "log_level = warn\n"
                                 "[store]\n"
                                 "max_bytes = 1GiB\n"
                                 "[tcp_remote]\n"
                                 "role = server\n"
                                 "listen = 127.0.0.1:0\n";

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
        (void)demo_config_client(server_client_ini, section_out, size);
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

int demo_server_start(struct demo *self)
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

int demo_engine_begin(struct child *child, const struct cli_common *common, const char *ini,
                      const struct demo_init *init, struct demo_ready *ready_out)
{
    struct {
        struct demo_init init;
        char text[2048];
    } message = {.init = *init};
    size_t size;
    int r = child_start(child, "demo-engine", common);

    if (r != CLI_OK) {
        return r;
    }
    (void)snprintf(message.text, sizeof(message.text), "%s", ini);
    if (child_send(child->fd, DEMO_INIT, &message,
                   sizeof(message.init) + strlen(message.text) + 1) < 0 ||
        child_receive(child->fd, DEMO_READY, ready_out, sizeof(*ready_out), &size) < 0 ||
        size != sizeof(*ready_out)) {
        cli_error("demo: an engine process is gone");
        return CLI_OS;
    }
    return ready_out->exit_code;
}

bool demo_is_own_ini(const struct demo *self)
{
    return self->common.config == NULL && getenv("KVLANE_CONFIG") == NULL;
}

/* What an engine on a GPU has before the other sections, so that it is asked first. */
static void gpu_ini(const struct demo *self, const char *peer, char *out, size_t size)
{
    int n = snprintf(out, size,
                     "[cuda_ipc]\n"
                     "required = %s\n"
                     "put_to = yes\n"
                     "pool = %" PRIu64 "\n"
                     "segment = 16MiB\n",
                     self->gpu == DEMO_GPU_MUST ? "yes" : "auto", arena_bytes(self));

    if (self->driver != NULL) {
        n += snprintf(out + n, size - (size_t)n, "driver = %s\n", self->driver);
    }
    if (peer[0] == '\0' && self->gpu_peer[0] != '\0') {
        (void)snprintf(out + n, size - (size_t)n, "peers = %s\n", self->gpu_peer);
    }
}

int demo_engine_new(const struct demo *self, struct child *child, const char *peer, uint32_t gpu,
                    struct demo_ready *ready_out)
{
    struct demo_init init = {
        .arena_bytes = arena_bytes(self), .gpu = gpu, .await_peer = self->gpu_peer[0] != '\0'};
    char device[768] = "";
    char ini[1792] = "";

    (void)snprintf(init.driver, sizeof(init.driver), "%s",
                   self->driver != NULL ? self->driver : "");
    if (demo_is_own_ini(self)) {
        if (gpu != DEMO_GPU_NO) {
            gpu_ini(self, peer, device, sizeof(device));
        }
        (void)snprintf(ini, sizeof(ini), "%s%s%s%s\n%s", core_ini, device, peer_ini, peer,
                       server_client_ini);
    }
    return demo_engine_begin(child, &self->common, ini, &init, ready_out);
}

int demo_gpu_find(struct demo *self)
{
    const bool must = strcmp(self->gpu_word, "yes") == 0;

    if (!must && strcmp(self->gpu_word, "auto") != 0 && strcmp(self->gpu_word, "no") != 0) {
        cli_error("demo: --gpu wants auto, yes or no, not '%s'", self->gpu_word);
        return CLI_USAGE;
    }
    if (self->driver != NULL &&
        (self->driver[0] != '/' || strlen(self->driver) >= DEMO_PATH_ROOM)) {
        cli_error("demo: --cuda-driver wants the whole path of a file, not '%s'", self->driver);
        return CLI_USAGE;
    }
    /* A file of the user says by itself what is shared, and may know of no GPU. */
    if (strcmp(self->gpu_word, "no") == 0 || (!must && !demo_is_own_ini(self))) {
        return CLI_OK;
    }
    if (gpu_probe(self->driver, self->gpu_name) == 0) {
        self->gpu = must ? DEMO_GPU_MUST : DEMO_GPU_TRY;
    } else if (must) {
        cli_error("demo: %s", self->gpu_name);
        return CLI_PEER;
    }
    return CLI_OK;
}

int demo_engine_prompt(struct demo *self, const struct child *child, uint32_t prompt,
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

bool demo_same(const struct demo *self, const struct demo_ran *one, const struct demo_ran *two)
{
    return memcmp(one->logits, two->logits, sizeof(one->logits)) == 0 && one->steps == two->steps &&
           memcmp(one->tokens, two->tokens, self->decode) == 0;
}
