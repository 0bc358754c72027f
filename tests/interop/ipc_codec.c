/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads and writes again what lines on stdin hold, for test_ipc_*.py:
 *
 *   pickle PROTOCOL HEX           a bare wrapper, below the rules for values of a writer
 *   frame KIND GENERATION HEX     a value of kvl_ipc_value, by its numbers
 *   order GENERATION HEX HEX      two keys
 *   expand HEX                    storage keys of a list of keys of generation A
 *
 * Answers `ERRNO HEX TEXT`: the bytes written, and what was read as ipc_text.h has it (or why not).
 * Answers of order: `0 COMPARED EQUAL`; `ERRNO 0 0` when a key could not be read.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ipc.h"
#include "ipc_text.h"
#include "ipc_wrapper.h"

#define CODEC_FORMS                                                                                \
    (KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) |                  \
     KVL_IPC_FORM_BIT(KVL_IPC_FORM_C))
#define CODEC_ROOM 4096u

static struct kvl_ipc_wrapper codec_wrappers[CODEC_ROOM];
static struct kvl_ipc_key codec_keys[CODEC_ROOM];
static struct kvl_ipc_storage_key codec_storage[CODEC_ROOM];
static int64_t codec_ints[CODEC_ROOM];
static uint8_t codec_bools[CODEC_ROOM];

static void print_hex(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        printf("%02x", bytes[i]);
    }
}

static int run_pickle(uint32_t protocol, const uint8_t *bytes, size_t length, struct kvl_err *err)
{
    const struct kvl_ipc_options options = {
        .size = sizeof(options), .protocol = protocol, .forms = CODEC_FORMS};
    struct kvl_ipc_wrapper wrapper;
    size_t need = 0;
    uint8_t *out;
    int r = kvl_ipc_table.wrapper_unpickle(&options, bytes, length, &wrapper, err);

    if (r < 0) {
        return r;
    }
    (void)kvl_ipc_wrapper_put(&wrapper, protocol, NULL, 0, &need);
    out = malloc(need);
    if (out == NULL) {
        return -ENOMEM;
    }
    r = kvl_ipc_wrapper_put(&wrapper, protocol, out, need, &need);
    if (r == 0) {
        printf("0 ");
        print_hex(out, need);
        printf(" ");
        ipc_text_wrapper(stdout, &wrapper);
    }
    free(out);
    return r;
}

static struct kvl_ipc_value codec_value(uint32_t kind)
{
    return (struct kvl_ipc_value){.size = sizeof(struct kvl_ipc_value),
                                  .kind = kind,
                                  .room = CODEC_ROOM,
                                  .ints = codec_ints,
                                  .bools = codec_bools,
                                  .keys = codec_keys,
                                  .wrappers = codec_wrappers};
}

static int run_frame(uint32_t kind, uint32_t generation, const uint8_t *bytes, size_t length,
                     struct kvl_err *err)
{
    const struct kvl_ipc_options options = {.size = sizeof(options), .generation = generation};
    struct kvl_ipc_value value = codec_value(kind);
    size_t need = 0;
    uint8_t *out;
    int r = kvl_ipc_table.decode(&options, bytes, length, &value, err);

    if (r < 0) {
        return r;
    }
    r = kvl_ipc_table.encode(&options, &value, NULL, 0, &need, err);
    out = r == -ENOSPC ? malloc(need) : NULL;
    if (out != NULL) {
        r = kvl_ipc_table.encode(&options, &value, out, need, &need, err);
    }
    if (r == 0) {
        printf("0 ");
        print_hex(out, need);
        printf(" ");
        ipc_text_value(stdout, &value);
    }
    free(out);
    return r;
}

static int run_order(uint32_t generation, const char *hex, const char *other, struct kvl_err *err)
{
    const struct kvl_ipc_options options = {.size = sizeof(options), .generation = generation};
    const char *const both[] = {hex, other};
    struct kvl_ipc_key keys[2];
    uint8_t *bytes[2];
    size_t length;
    int r = 0;

    for (size_t i = 0; i < 2; i++) {
        struct kvl_ipc_value value = codec_value(KVL_IPC_KEY);

        value.keys = &keys[i];
        bytes[i] = ipc_text_bytes(both[i], &length);
        r = r == 0 ? kvl_ipc_table.decode(&options, bytes[i], length, &value, err) : r;
    }
    if (r == 0) {
        printf("0 %d %d", kvl_ipc_table.key_compare(&keys[0], &keys[1]),
               kvl_ipc_table.key_hash(&keys[0], 5) == kvl_ipc_table.key_hash(&keys[1], 5));
    }
    free(bytes[0]);
    free(bytes[1]);
    return r;
}

static int run_expand(const uint8_t *bytes, size_t length, struct kvl_err *err)
{
    struct kvl_ipc_value value = codec_value(KVL_IPC_KEYS);
    uint32_t count;
    int r = kvl_ipc_table.decode(NULL, bytes, length, &value, err);

    if (r == 0) {
        r = kvl_ipc_table.key_expand(value.keys, value.count, codec_storage, CODEC_ROOM, &count,
                                     err);
    }
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        printf("%s%u %u ", i == 0 ? "0 " : ";", codec_storage[i].world_size,
               codec_storage[i].worker_id);
        print_hex(codec_storage[i].model_name.at, codec_storage[i].model_name.length);
        printf(" ");
        print_hex(codec_storage[i].chunk_hash.at, codec_storage[i].chunk_hash.length);
    }
    return r;
}

static int run_line(char *line, struct kvl_err *err)
{
    char *rest = line;
    const char *word = strsep(&rest, " ");
    const char *first = strsep(&rest, " ");
    const char *second = strsep(&rest, " ");
    const char *third = strsep(&rest, " ");
    size_t length = 0;
    uint8_t *bytes;
    int r = -EINVAL;

    if (strcmp(word, "order") == 0) {
        return run_order((uint32_t)strtoul(first, NULL, 10), second, third, err);
    }
    bytes = ipc_text_bytes(third != NULL ? third : second != NULL ? second : first, &length);
    if (strcmp(word, "pickle") == 0) {
        r = run_pickle((uint32_t)strtoul(first, NULL, 10), bytes, length, err);
    } else if (strcmp(word, "frame") == 0) {
        r = run_frame((uint32_t)strtoul(first, NULL, 10), (uint32_t)strtoul(second, NULL, 10),
                      bytes, length, err);
    } else if (strcmp(word, "expand") == 0) {
        r = run_expand(bytes, length, err);
    }
    free(bytes);
    return r;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;

    while ((length = getline(&line, &room, stdin)) > 0) {
        struct kvl_err err = {.size = sizeof(err)};
        int r;

        line[length - 1] = '\0';
        r = run_line(line, &err);
        if (r < 0) {
            printf("%d - %s", -r, err.text);
        }
        printf("\n");
    }
    free(line);
    return 0;
}
