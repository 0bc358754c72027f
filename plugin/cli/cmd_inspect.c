/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cmd_inspect.c
 * inspect: what a frame of LMCache's multiprocess mode holds, or why it is refused. The codecs are
 * those of the plugin, so the answer is that of a running engine.
 */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "inspect.h"
#include "util.h"

/* Any backend with codecs will do, and its device may be missing. */
static const char inspect_ini[] = "[kvlane]\nlog_level = error\n"
                                  "[store]\nmax_bytes = 1MiB\n"
                                  "[cuda_ipc]\nrequired = auto\n";

/* A bare pickle, which is no frame. */
#define INSPECT_PICKLE 0u

struct inspect {
    const char *as;
    const char *generation;
    const struct kvl_ipc_ops *ipc;
    struct kvl_ipc_options options;
    uint8_t *bytes;
    size_t length;
};

static int inspect_is_pickle(const struct inspect *in)
{
    return in->length >= 2 && in->bytes[0] == 0x80 && (in->bytes[1] == 4 || in->bytes[1] == 5);
}

/* Length of the head of a list that begins here; 0 when none does. */
static size_t inspect_list_head(const struct inspect *in)
{
    if (in->length == 0 || in->bytes[0] < 0x90) {
        return 0;
    }
    if (in->bytes[0] <= 0x9f) {
        return 1;
    }
    return in->bytes[0] == 0xdc ? 3 : in->bytes[0] == 0xdd ? 5 : 0;
}

static int inspect_is_ext(const struct inspect *in, size_t at)
{
    return at < in->length && ((in->bytes[at] >= 0xc7 && in->bytes[at] <= 0xc9) ||
                               (in->bytes[at] >= 0xd4 && in->bytes[at] <= 0xd8));
}

/* What the bytes look like at their begin. */
static uint32_t inspect_guess(const struct inspect *in)
{
    const size_t head = inspect_list_head(in);

    if (inspect_is_pickle(in)) {
        return INSPECT_PICKLE;
    }
    if (head > 0) {
        return inspect_is_ext(in, head) ? KVL_IPC_KV_CACHE : KVL_IPC_KEYS;
    }
    return inspect_is_ext(in, 0) ? KVL_IPC_WRAPPER : KVL_IPC_KEY;
}

/* @return 0; -EINVAL for an unknown word. */
static int inspect_kind(const struct inspect *in, uint32_t *kind_out)
{
    if (strcmp(in->as, "auto") == 0) {
        *kind_out = inspect_guess(in);
    } else if (strcmp(in->as, "key") == 0) {
        *kind_out = inspect_list_head(in) > 0 ? KVL_IPC_KEYS : KVL_IPC_KEY;
    } else if (strcmp(in->as, "wrapper") == 0) {
        *kind_out = inspect_is_ext(in, 0) ? KVL_IPC_WRAPPER : INSPECT_PICKLE;
    } else if (strcmp(in->as, "kvcache") == 0) {
        *kind_out = KVL_IPC_KV_CACHE;
    } else {
        return -EINVAL;
    }
    return 0;
}

static void inspect_print(const struct inspect *in, const struct kvl_ipc_value *value)
{
    const int is_key = value->kind == KVL_IPC_KEY || value->kind == KVL_IPC_KEYS;
    const int is_list = value->kind == KVL_IPC_KEYS || value->kind == KVL_IPC_KV_CACHE;
    const uint32_t count = is_list ? value->count : 1;

    if (is_list) {
        printf("%s of %u\n", is_key ? "list of keys" : "KV cache, layers", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (is_list) {
            printf("%s %u\n", is_key ? "key" : "wrapper", i);
        } else {
            printf("%s\n", is_key ? "key" : "wrapper");
        }
        if (is_key) {
            inspect_print_key(in->ipc, &value->keys[i]);
        } else {
            inspect_print_wrapper(in->ipc, &value->wrappers[i]);
        }
    }
}

static int inspect_refused(int r, const struct kvl_err *err)
{
    cli_error("inspect: refused: %s", err->text[0] != '\0' ? err->text : strerror(-r));
    return CLI_INPUT;
}

static int inspect_pickle(const struct inspect *in)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_ipc_wrapper wrapper;
    const struct kvl_ipc_value value = {
        .size = sizeof(value), .kind = KVL_IPC_WRAPPER, .wrappers = &wrapper};
    int r = in->ipc->wrapper_unpickle(&in->options, in->bytes, in->length, &wrapper, &err);

    if (r < 0) {
        return inspect_refused(r, &err);
    }
    inspect_print(in, &value);
    return CLI_OK;
}

/* Asks how long the list is, then reads it. */
static int inspect_frame(const struct inspect *in, uint32_t kind)
{
    struct kvl_ipc_value value = {.size = sizeof(value), .kind = kind};
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_ipc_key key;
    struct kvl_ipc_wrapper wrapper;
    const int is_key = kind == KVL_IPC_KEY || kind == KVL_IPC_KEYS;
    void *list = NULL;
    int r;

    value.keys = &key;
    value.wrappers = &wrapper;
    r = in->ipc->decode(&in->options, in->bytes, in->length, &value, &err);
    if (r == -ENOSPC) {
        list = calloc(value.count, is_key ? sizeof(key) : sizeof(wrapper));
        if (list == NULL) {
            cli_error("inspect: no memory for a list of %u", value.count);
            return CLI_OS;
        }
        value.room = value.count;
        value.keys = list;
        value.wrappers = list;
        err.text[0] = '\0';
        r = in->ipc->decode(&in->options, in->bytes, in->length, &value, &err);
    }
    if (r == 0) {
        inspect_print(in, &value);
    }
    free(list);
    return r < 0 ? inspect_refused(r, &err) : CLI_OK;
}

static int inspect_generation(struct inspect *in)
{
    static const char letters[] = "0ABC";
    const char *at = in->generation[0] == '\0' ? NULL : strchr(letters, in->generation[0]);

    if (at == NULL || in->generation[1] != '\0') {
        cli_error("inspect: --generation is 0, A, B or C, not '%s'", in->generation);
        return CLI_USAGE;
    }
    in->options.size = sizeof(in->options);
    in->options.generation = KVL_IPC_GENERATION_0 + (uint32_t)(at - letters);
    in->options.forms = KVL_IPC_FORM_BIT(KVL_IPC_FORM_PRE_UUID) | KVL_IPC_FORM_BIT(KVL_IPC_FORM_A) |
                        KVL_IPC_FORM_BIT(KVL_IPC_FORM_C);
    return CLI_OK;
}

static int inspect_codecs(struct inspect *in, struct engine *engine,
                          const struct cli_common *common)
{
    const struct engine_setup setup = {
        .common = common,
        .config_text = common->config == NULL ? inspect_ini : NULL,
    };
    int r = engine_open(engine, &setup);

    if (r != CLI_OK) {
        return r;
    }
    if (engine->ops.ipc == NULL || engine->ops.ipc(engine->instance, NULL, &in->ipc) < 0 ||
        !KVL_HAS_OP(in->ipc, object_key)) {
        cli_error("inspect: no backend in the INI file has the codecs of LMCache's IPC types");
        return CLI_INPUT;
    }
    return CLI_OK;
}

static int inspect_run(struct inspect *in, const struct cli_common *common)
{
    struct engine engine = {0};
    uint32_t kind;
    int r;

    if (inspect_kind(in, &kind) < 0) {
        cli_error("inspect: --as is key, wrapper, kvcache or auto, not '%s'", in->as);
        return CLI_USAGE;
    }
    r = inspect_codecs(in, &engine, common);
    if (r == CLI_OK) {
        r = kind == INSPECT_PICKLE ? inspect_pickle(in) : inspect_frame(in, kind);
    }
    (void)engine_close(&engine, 0);
    return r;
}

int cmd_inspect(int argc, char **argv)
{
    struct cli_common common = {0};
    struct inspect in = {.as = "auto", .generation = "A"};
    const struct cli_option options[] = {
        {"as", "KIND", "key, wrapper, kvcache or auto; auto by default", CLI_TEXT, &in.as, 0, 0},
        {"generation", "G", "of the keys: 0, A, B or C; A by default", CLI_TEXT, &in.generation, 0,
         0},
    };
    const struct cli_usage usage = {
        .command = "inspect",
        .args = "[FILE]",
        .about = "Prints what a frame of LMCache's multiprocess mode holds (a key, keys, a wrapper "
                 "with or\nwithout its extension, a KV cache), or why it is refused: exit code 3. "
                 "FILE - or none\nis stdin. Nothing in it is executed. Without --config the codecs "
                 "of cuda_ipc are used;\nthey need no GPU.",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &common,
        .max_args = 1,
    };
    int count;
    int r = cli_parse(&usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    r = inspect_generation(&in);
    if (r != CLI_OK) {
        return r;
    }
    r = util_read_file(count == 1 ? argv[0] : "-", KVL_IPC_INPUT_MAX, &in.bytes, &in.length);
    if (r < 0) {
        cli_error("inspect: %s: %s", count == 1 ? argv[0] : "stdin", strerror(-r));
        return CLI_INPUT;
    }
    r = inspect_run(&in, &common);
    free(in.bytes);
    return r;
}
