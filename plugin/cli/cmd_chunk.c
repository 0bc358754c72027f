/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_chunk.c
 * put, get, exists, list, health: whole chunks, one at a time.
 */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine.h"
#include "util.h"

#define CHUNK_FILE_MAX (1ull << 32)

/** What these five have in common. */
struct chunk {
    struct engine engine;
    struct cli_common common;
    const char *server;
    char ini[512];
};

static int chunk_parse(struct chunk *chunk, const struct cli_usage *usage, int argc, char **argv,
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
                   "[tcp_remote]\nrole = client\nurl = %s\nput_to = yes\nrequired = yes\n",
                   chunk->server);
    return CLI_GO;
}

#define CHUNK_SERVER_OPTION(chunk)                                                          \
    {                                                                                       \
        "server", "lm://HOST:PORT", "talk to this tcp_remote server; in place of --config", \
            CLI_TEXT, &(chunk)->server, 0, 0                                                \
    }

static int chunk_open(struct chunk *chunk)
{
    struct engine_setup setup = {
        .common = &chunk->common,
        .config_text = chunk->server != NULL ? chunk->ini : NULL,
    };
    int r = engine_open(&chunk->engine, &setup);

    return r == CLI_OK ? engine_start(&chunk->engine) : r;
}

static int key_take(const char *text, struct kvl_chunk *chunk_out)
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
static int lookup_one(const struct chunk *chunk, const struct kvl_chunk *item,
                      uint8_t *location_out)
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

/* ---- put ---- */

struct put {
    struct chunk chunk;
    uint64_t fmt;
    uint64_t dtype;
    const char *shape;
};

static int put_shape(const char *text, int32_t shape_out[4])
{
    const char *at = text;

    for (int i = 0; i < 4 && *at != '\0'; i++) {
        char number[16];
        size_t length = strcspn(at, ",");
        uint64_t value;

        if (length == 0 || length >= sizeof(number)) {
            return -EINVAL;
        }
        memcpy(number, at, length);
        number[length] = '\0';
        if (cli_parse_count(number, &value) < 0 || value > INT32_MAX) {
            return -EINVAL;
        }
        shape_out[i] = (int32_t)value;
        at += length + (at[length] == ',');
    }
    return *at == '\0' ? 0 : -EINVAL;
}

static int put_save(struct put *put, const struct kvl_chunk *item, const uint8_t *data)
{
    const struct kvl_sg sg = {
        .mem = KVL_MEM_HOST,
        .addr = (uint64_t)(uintptr_t)data,
        .length = item->bytes,
        .stride = item->bytes,
        .count = 1,
        .device = KVL_DEVICE_HOST,
    };
    const uint32_t first[2] = {0, 1};
    struct kvl_batch batch = engine_batch(&put->chunk.engine, item, 1);
    int32_t status = -EIO;
    struct kvl_result result = {.size = sizeof(result), .item_count = 1, .item_status = &status};
    int r;

    if (item->bytes != 0) {
        batch.sg = &sg;
        batch.sg_first = first;
    }
    batch.flags = KVL_BATCH_OVERWRITE;
    r = put->chunk.engine.ops.save(put->chunk.engine.instance, &batch, &result, NULL);
    r = r < 0 ? r : status;
    return r < 0 ? engine_failed("put", r) : CLI_OK;
}

/*
 * Our own store ends with this process, so a chunk that is only there is lost. A second instance
 * sees what others will see.
 */
static int put_verify(struct put *put, const struct kvl_chunk *item)
{
    uint8_t location = KVL_LOCATION_NONE;
    char name[64];
    int r = engine_close(&put->chunk.engine, 5000);

    if (r == CLI_OK) {
        r = chunk_open(&put->chunk);
    }
    if (r != CLI_OK) {
        return r;
    }
    r = lookup_one(&put->chunk, item, &location);
    if (r < 0) {
        cli_error("put: no backend took the chunk%s",
                  r == -ENOENT ? " (is 'put_to = yes' missing, or is the peer away?)" : "");
        return CLI_PEER;
    }
    engine_location_name(&put->chunk.engine, location, name, sizeof(name));
    printf("%s: %llu bytes\n", name, (unsigned long long)item->bytes);
    return CLI_OK;
}

static int put_run(struct put *put, char **argv)
{
    struct kvl_chunk item;
    uint8_t *data;
    size_t size;
    int r = key_take(argv[0], &item);

    if (r != CLI_OK) {
        return r;
    }
    item.attrs.fmt = (int32_t)put->fmt;
    item.attrs.dtype = (int32_t)put->dtype;
    if (put->shape != NULL && put_shape(put->shape, item.attrs.shape) < 0) {
        cli_error("put: --shape wants up to four numbers like 2,32,256,1024, not '%s'", put->shape);
        return CLI_USAGE;
    }
    r = util_read_file(argv[1], CHUNK_FILE_MAX, &data, &size);
    if (r < 0) {
        cli_error("cannot read '%s': %s", argv[1], strerror(-r));
        return r == -ENOMEM ? CLI_OS : CLI_INPUT;
    }
    item.bytes = size;
    if (put->shape == NULL) {
        item.attrs.shape[0] = size <= INT32_MAX ? (int32_t)size : 0;
    }
    r = chunk_open(&put->chunk);
    if (r == CLI_OK) {
        r = put_save(put, &item, data);
    }
    if (r == CLI_OK) {
        r = put_verify(put, &item);
    }
    (void)engine_close(&put->chunk.engine, 0);
    free(data);
    return r;
}

int cmd_put(int argc, char **argv)
{
    struct put put = {.fmt = KVL_FMT_BINARY, .dtype = KVL_DTYPE_UINT8};
    const struct cli_option options[] = {
        CHUNK_SERVER_OPTION(&put.chunk),
        {"fmt", "N", "memory format of the chunk (4, opaque bytes)", CLI_COUNT, &put.fmt, 0,
         INT32_MAX},
        {"dtype", "N", "element type of the chunk (6, uint8)", CLI_COUNT, &put.dtype, 0, INT32_MAX},
        {"shape", "A,B,C,D", "shape of the chunk (its size)", CLI_TEXT, &put.shape, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "put",
        .args = "KEY FILE",
        .about = "Stores FILE ('-' is stdin) as one chunk, in place of an older one, and checks "
                 "that it is there.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &put.chunk.common,
        .min_args = 2,
        .max_args = 2,
    };
    int count;
    int r = chunk_parse(&put.chunk, &usage, argc, argv, &count);

    return r == CLI_GO ? put_run(&put, argv) : r;
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
    struct kvl_view view;
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
    r = key_take(argv[0], &item);
    if (r != CLI_OK) {
        return r;
    }
    r = chunk_open(&chunk);
    if (r == CLI_OK) {
        r = get_run(&chunk, &item, count == 2 ? argv[1] : "-", quiet);
    }
    (void)engine_close(&chunk.engine, 0);
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
        int r = key_take(argv[i], &item);

        if (r != CLI_OK) {
            return r;
        }
        r = lookup_one(chunk, &item, &location);
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
    (void)engine_close(&chunk.engine, 0);
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
    (void)engine_close(&chunk.engine, 0);
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
    (void)engine_close(&chunk.engine, 0);
    return r;
}
