/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_chunk.c
 * get, exists, list, health: whole chunks, one at a time; and what put shares with them.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chunk.h"
#include "util.h"

int chunk_parse(struct chunk *chunk, const struct cli_usage *usage, int argc, char **argv,
                int *count_out)
{
    int r = cli_parse(usage, argc, argv, count_out);

    if (r != CLI_GO) {
        return r;
    }
    if (chunk->server == NULL) {
        return CLI_GO;
    }
    if (chunk->common.config != NULL || strpbrk(chunk->server, "\r\n") != NULL ||
        strlen(chunk->server) > 256) {
        cli_error("%s: --server wants one address and goes without --config", usage->command);
        return CLI_USAGE;
    }
    (void)snprintf(chunk->ini, sizeof(chunk->ini),
                   "[kvlane]\nlog_level = warn\n"
                   "[tcp_remote]\nrole = client\nurl = %s\nput_to = yes\nrequired = yes\n",
                   chunk->server);
    return CLI_GO;
}

int chunk_open(struct chunk *chunk)
{
    struct engine_setup setup = {
        .common = &chunk->common,
        .config_text = chunk->server != NULL ? chunk->ini : NULL,
    };
    int r = engine_open(&chunk->engine, &setup);

    return r == CLI_OK ? engine_start(&chunk->engine) : r;
}

int chunk_key(const char *text, struct kvl_chunk *chunk_out)
{
    size_t length = strlen(text);

    if (length == 0 || length > KVL_KEY_MAX) {
        cli_error("a key has 1 to %u bytes, not %zu", KVL_KEY_MAX, length);
        return CLI_USAGE;
    }
    memset(chunk_out, 0, sizeof(*chunk_out));
    chunk_out->key = kvl_key_from_text(text);
    return CLI_OK;
}

/* Keys are any bytes; what would disturb a terminal or a line is written as \xNN. */
static void key_print(const struct kvl_key *key)
{
    for (uint32_t i = 0; i < key->length; i++) {
        unsigned char c = (unsigned char)key->text[i];

        if (c <= ' ' || c >= 127 || c == '\\') {
            printf("\\x%02x", c);
        } else {
            (void)putchar(c);
        }
    }
}

/* After a miss: was that an answer, or is the one who could answer away? */
static int miss_exit(const struct chunk *chunk)
{
    const struct kvl_plugin *ops = &chunk->engine.ops;
    struct kvl_health health = {.size = sizeof(health)};
    int r = CLI_NO;

    for (uint32_t at = KVL_LOCATION_BACKEND; ops->health(chunk->engine.instance, at, &health) == 0;
         at++) {
        int probe = ops->probe(chunk->engine.instance, at, engine_deadline(&chunk->engine));

        if (probe < 0 && probe != -ENOTSUP) {
            cli_error("'%.*s' does not answer: %s", (int)sizeof(health.name), health.name,
                      strerror(-probe));
            r = CLI_PEER;
        }
    }
    return r;
}

/* Looks one chunk up. @return 0 and its location; -ENOENT; another negative errno. */
int chunk_lookup(const struct chunk *chunk, const struct kvl_chunk *item, uint8_t *location_out)
{
    struct kvl_chunk ask = {.key = item->key};
    struct kvl_batch batch = engine_batch(&chunk->engine, &ask, 1);
    int32_t status = -ENOENT;
    struct kvl_result result = {
        .size = sizeof(result),
        .item_count = 1,
        .item_status = &status,
        .item_location = location_out,
    };
    int r = chunk->engine.ops.lookup(chunk->engine.instance, &batch, &result, NULL);

    return r < 0 ? r : status;
}

/* ---- get ---- */

/* Made only once the bytes are here, so that a miss leaves an older file alone. */
static int get_write(const char *path, const struct kvl_view *view)
{
    bool to_stdout = strcmp(path, "-") == 0;
    int fd = to_stdout ? STDOUT_FILENO : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int r;

    if (fd < 0) {
        cli_error("cannot write '%s': %s", path, strerror(errno));
        return CLI_OS;
    }
    r = util_write_all(fd, view->data, view->length);
    if (!to_stdout && close(fd) < 0 && r == 0) {
        r = -errno;
    }
    if (r < 0) {
        cli_error("cannot write '%s': %s", path, strerror(-r));
        return CLI_OS;
    }
    return CLI_OK;
}

/* Into the own store first, then a lease on it: the size need not be known beforehand. */
static int get_run(struct chunk *chunk, const struct kvl_chunk *item, const char *path, bool quiet)
{
    struct kvl_batch batch = engine_batch(&chunk->engine, item, 1);
    int32_t status = -ENOENT;
    struct kvl_result result = {.size = sizeof(result), .item_count = 1, .item_status = &status};
    struct kvl_view view = {0};
    int r = chunk->engine.ops.load(chunk->engine.instance, &batch, &result, NULL);

    r = r < 0 ? r : status;
    if (r == 0) {
        r = chunk->engine.ops.get(chunk->engine.instance, &item->key, &view);
    }
    if (r == -ENOENT) {
        cli_error("get: no such chunk");
        return miss_exit(chunk);
    }
    if (r < 0) {
        return engine_failed("get", r);
    }
    r = get_write(path, &view);
    if (r == CLI_OK && !quiet) {
        fprintf(stderr, "%llu bytes, fmt %d, dtype %d, shape %d,%d,%d,%d\n",
                (unsigned long long)view.length, view.attrs.fmt, view.attrs.dtype,
                view.attrs.shape[0], view.attrs.shape[1], view.attrs.shape[2], view.attrs.shape[3]);
    }
    (void)chunk->engine.ops.release(chunk->engine.instance, view.lease);
    return r;
}

int cmd_get(int argc, char **argv)
{
    struct chunk chunk = {0};
    bool quiet = false;
    const struct cli_option options[] = {
        CHUNK_SERVER_OPTION(&chunk),
        {"quiet", NULL, "do not tell size and attributes on stderr", CLI_FLAG, &quiet, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "get",
        .args = "KEY [FILE]",
        .about = "Fetches one chunk into FILE ('-' or none is stdout). Exit code 1: no such chunk.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &chunk.common,
        .min_args = 1,
        .max_args = 2,
    };
    struct kvl_chunk item;
    int count;
    int r = chunk_parse(&chunk, &usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    r = chunk_key(argv[0], &item);
    if (r != CLI_OK) {
        return r;
    }
    r = chunk_open(&chunk);
    if (r == CLI_OK) {
        r = get_run(&chunk, &item, count == 2 ? argv[1] : "-", quiet);
    }
    (void)engine_close(&chunk.engine, CHUNK_DRAIN_MS);
    return r;
}

/* ---- exists ---- */

static int exists_run(struct chunk *chunk, int count, char **argv)
{
    bool missing = false;

    for (int i = 0; i < count; i++) {
        struct kvl_chunk item;
        uint8_t location = KVL_LOCATION_NONE;
        char name[64] = "missing";
        int r = chunk_key(argv[i], &item);

        if (r != CLI_OK) {
            return r;
        }
        r = chunk_lookup(chunk, &item, &location);
        if (r == 0) {
            engine_location_name(&chunk->engine, location, name, sizeof(name));
        }
        missing = missing || r < 0;
        key_print(&item.key);
        printf(" %s\n", name);
    }
    return missing ? miss_exit(chunk) : CLI_OK;
}

int cmd_exists(int argc, char **argv)
{
    struct chunk chunk = {0};
    const struct cli_option options[] = {CHUNK_SERVER_OPTION(&chunk)};
    const struct cli_usage usage = {
        .command = "exists",
        .args = "KEY...",
        .about = "Prints each key and its location, or 'missing'. Exit code 1: one is missing; 4: "
                 "one is missing\nand a backend does not answer.",
        .options = options,
        .option_count = 1,
        .common = &chunk.common,
        .min_args = 1,
        .max_args = 100000,
    };
    int count;
    int r = chunk_parse(&chunk, &usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    r = chunk_open(&chunk);
    if (r == CLI_OK) {
        r = exists_run(&chunk, count, argv);
    }
    (void)engine_close(&chunk.engine, CHUNK_DRAIN_MS);
    return r;
}

/* ---- list ---- */

struct list_ctx {
    const char *name;
    uint64_t count;
};

static int list_print(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct list_ctx *list = ctx;

    list->count++;
    printf("%s ", list->name);
    key_print(key);
    printf(" %llu\n", (unsigned long long)bytes);
    return ferror(stdout) ? -EIO : 0;
}

static int list_run(struct chunk *chunk, const char *only)
{
    const struct kvl_plugin *ops = &chunk->engine.ops;
    struct kvl_health health = {.size = sizeof(health)};
    bool found = false;
    int exit_code = CLI_OK;

    for (uint32_t at = KVL_LOCATION_LOCAL; ops->health(chunk->engine.instance, at, &health) == 0;
         at++) {
        char name[64];
        struct list_ctx list = {.name = name};
        int r;

        engine_location_name(&chunk->engine, at, name, sizeof(name));
        if (only != NULL && strcmp(only, name) != 0) {
            continue;
        }
        found = true;
        r = ops->list(chunk->engine.instance, at, engine_deadline(&chunk->engine), list_print,
                      &list);
        if (r == -ENOTSUP && only == NULL) {
            continue;
        }
        if (r < 0) {
            cli_error("list: '%s': %s", name, strerror(-r));
            exit_code = CLI_PEER;
        }
    }
    if (!found) {
        cli_error("list: no location '%s'", only != NULL ? only : "");
        return CLI_USAGE;
    }
    return exit_code;
}

int cmd_list(int argc, char **argv)
{
    struct chunk chunk = {0};
    const char *only = NULL;
    const struct cli_option options[] = {
        CHUNK_SERVER_OPTION(&chunk),
        {"location", "NAME", "only this one: 'local' or an INI section", CLI_TEXT, &only, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "list",
        .args = "",
        .about = "Prints location, key and size of each chunk; size 0 where the location does not "
                 "say.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &chunk.common,
    };
    int count;
    int r = chunk_parse(&chunk, &usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    r = chunk_open(&chunk);
    if (r == CLI_OK) {
        r = list_run(&chunk, only);
    }
    (void)engine_close(&chunk.engine, CHUNK_DRAIN_MS);
    return r;
}

/* ---- health ---- */

static const char *health_word(uint32_t state)
{
    switch (state) {
    case KVL_HEALTH_OK:
        return "ok";
    case KVL_HEALTH_DEGRADED:
        return "degraded";
    default:
        return "down";
    }
}

static int health_run(struct chunk *chunk)
{
    const struct kvl_plugin *ops = &chunk->engine.ops;
    struct kvl_health health = {.size = sizeof(health)};
    int exit_code = CLI_OK;

    for (uint32_t at = KVL_LOCATION_LOCAL; ops->health(chunk->engine.instance, at, &health) == 0;
         at++) {
        /* The probe first: it may be what makes the connection that the record tells of. */
        int probe = ops->probe(chunk->engine.instance, at, engine_deadline(&chunk->engine));
        char name[64];

        engine_location_name(&chunk->engine, at, name, sizeof(name));
        (void)ops->health(chunk->engine.instance, at, &health);
        printf("%-16s %-8s %s%s%.*s", name, health_word(health.state),
               health.address[0] != '\0' ? health.address : "-", health.text[0] != '\0' ? "  " : "",
               (int)sizeof(health.text), health.text);
        if (probe != -ENOTSUP) {
            printf("  [probe: %s]", probe == 0 ? "answered" : strerror(-probe));
        }
        printf("\n");
        if (health.state != KVL_HEALTH_OK || (probe < 0 && probe != -ENOTSUP)) {
            exit_code = CLI_NO;
        }
    }
    return exit_code;
}

int cmd_health(int argc, char **argv)
{
    struct chunk chunk = {0};
    const struct cli_option options[] = {CHUNK_SERVER_OPTION(&chunk)};
    const struct cli_usage usage = {
        .command = "health",
        .args = "",
        .about = "Prints state, address and a sentence of each location, and asks peers whether "
                 "they answer.\nExit code 1: one is not healthy.",
        .options = options,
        .option_count = 1,
        .common = &chunk.common,
    };
    int count;
    int r = chunk_parse(&chunk, &usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    r = chunk_open(&chunk);
    if (r == CLI_OK) {
        r = health_run(&chunk);
    }
    (void)engine_close(&chunk.engine, CHUNK_DRAIN_MS);
    return r;
}
