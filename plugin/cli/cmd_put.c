/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "chunk.h"
#include "util.h"

#define PUT_FILE_MAX (1ull << 32)

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
    int r = engine_close(&put->chunk.engine, CHUNK_DRAIN_MS);

    if (r == CLI_OK) {
        r = chunk_open(&put->chunk);
    }
    if (r != CLI_OK) {
        return r;
    }
    r = chunk_lookup(&put->chunk, item, &location);
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
    int r = chunk_key(argv[0], &item);

    if (r != CLI_OK) {
        return r;
    }
    item.attrs.fmt = (int32_t)put->fmt;
    item.attrs.dtype = (int32_t)put->dtype;
    if (put->shape != NULL && put_shape(put->shape, item.attrs.shape) < 0) {
        cli_error("put: --shape wants up to four numbers like 2,32,256,1024, not '%s'", put->shape);
        return CLI_USAGE;
    }
    r = util_read_file(argv[1], PUT_FILE_MAX, &data, &size);
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
    (void)engine_close(&put->chunk.engine, CHUNK_DRAIN_MS);
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
