/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_ipc_export.h"
#include "cuda_ipc_net.h"
#include "cuda_ipc_pool.h"
#include "setting.h"

#define MIB (1024ll * 1024)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

const struct kvl_option cuda_ipc_option_table[CUDA_IPC_OPTION_COUNT] = {
    {"driver", KVL_OPTION_STRING, 0, "libcuda.so.1", NULL, 0, 0,
     "file or name of the CUDA driver's library"},
    {"devices", KVL_OPTION_STRING, 0, "auto", NULL, 0, 0,
     "auto: those that the engine uses; else a list of ordinals or UUIDs that may be used"},
    {"pool", KVL_OPTION_SIZE, 0, "1GiB", NULL, 0, 8 * TIB,
     "memory for chunks on each device in use, beside the engine's; 0 = none"},
    {"segment", KVL_OPTION_SIZE, 0, "256MiB", NULL, 2 * MIB, 64 * GIB,
     "bytes of one allocation of the pool; the largest chunk it can take"},
    {"share", KVL_OPTION_ENUM, 0, "auto", "auto|legacy|fd|no", 0, 0,
     "how peers map the pool: legacy IPC handles, descriptors (containers), what works, or not"},
    {"copy", KVL_OPTION_ENUM, 0, "auto", "auto|kernel|batch|loop", 0, 0,
     "how fragments are copied; auto measures when a device is opened"},
    {"stage", KVL_OPTION_SIZE, 0, "8MiB", NULL, 64 * 1024, GIB,
     "device memory of one staging buffer between pages and host memory; there are 6 per device"},
    {"layer_bytes", KVL_OPTION_SIZE, 0, "0", NULL, 0, TIB,
     "layers of a load are told of about every so many bytes; 0 = as often as costs little"},
    {"pin_store", KVL_OPTION_BOOL, 0, "yes", NULL, 0, 0,
     "pin the own store, so that devices copy from and to it without a detour"},
    {"listen", KVL_OPTION_STRING, 0, "auto", NULL, 0, 0,
     "where peers on this host ask for chunks: auto, no, /path or @abstract name"},
    {"peers", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "addresses of peers, separated by commas, beside those that other backends tell of"},
    {"max_peers", KVL_OPTION_INT, 0, "64", NULL, 1, CUDA_IPC_PEERS_MAX,
     "connections to peers, and as many from peers"},
    {"max_mappings", KVL_OPTION_INT, 0, "1024", NULL, 1, 65536,
     "allocations of peers that are kept mapped; unused ones go"},
    {"max_mapped", KVL_OPTION_SIZE, 0, "0", NULL, 0, 8 * TIB,
     "bytes of peers that are kept mapped; 0 = no limit"},
    {"timeout", KVL_OPTION_DURATION, 0, "1s", NULL, 50, 60000,
     "a peer that does not answer for so long is disconnected"},
    {"max_in_flight", KVL_OPTION_INT, 0, "256", NULL, 1, 65536, "batches accepted at a time"},
};

static uint64_t options_number(const struct kvl_host *host, const char *name)
{
    return (uint64_t)kvl_setting_number(host, name);
}

static uint64_t options_aligned(uint64_t bytes)
{
    return bytes / CUDA_IPC_POOL_ALIGN * CUDA_IPC_POOL_ALIGN;
}

/* The ways in the order of the option's words. */
static uint32_t options_ways(uint64_t word)
{
    static const uint32_t ways[] = {CUDA_IPC_EXPORT_ALL, CUDA_IPC_EXPORT_LEGACY, CUDA_IPC_EXPORT_FD,
                                    CUDA_IPC_EXPORT_PRIVATE};

    return ways[word];
}

static int options_listen(const char *text, struct cuda_ipc_options *options, struct kvl_err *err)
{
    if (strcmp(text, "auto") == 0) {
        options->listen = CUDA_IPC_LISTEN_AUTO;
    } else if (strcmp(text, "no") == 0) {
        options->listen = CUDA_IPC_LISTEN_NO;
    } else if (cuda_ipc_address_parse(text, &options->address) == 0) {
        options->listen = CUDA_IPC_LISTEN_ADDRESS;
    } else {
        return kvl_fail(err, -EINVAL,
                        "cuda_ipc: listen must be auto, no, an absolute path or @name, at most %u "
                        "bytes, not '%s'",
                        CUDA_IPC_WIRE_ADDRESS_MAX, text);
    }
    return 0;
}

/* Calls `fn` for each word between commas and blanks. */
static int options_words(const char *text, int (*fn)(void *ctx, const char *word), void *ctx)
{
    const char *at = text;
    int r = 0;

    while (r == 0) {
        char word[CUDA_IPC_WIRE_ADDRESS_MAX + 2];
        size_t length;

        at += strspn(at, ", \t");
        length = strcspn(at, ", \t");
        if (length == 0) {
            break;
        }
        if (length >= sizeof(word)) {
            return -EINVAL;
        }
        memcpy(word, at, length);
        word[length] = '\0';
        at += length;
        r = fn(ctx, word);
    }
    return r;
}

static int options_add_peer(void *ctx, const char *word)
{
    struct cuda_ipc_options *options = ctx;

    if (options->peer_count == CUDA_IPC_STATIC_PEERS_MAX) {
        return -EINVAL;
    }
    return cuda_ipc_address_parse(word, &options->peers[options->peer_count++]);
}

static int options_check(const struct cuda_ipc_options *options, struct kvl_err *err)
{
    if (options->pool > 0 && options->pool < options->segment) {
        return kvl_fail(err, -EINVAL,
                        "cuda_ipc: pool must be 0 or at least one segment (%llu bytes), not %llu",
                        (unsigned long long)options->segment, (unsigned long long)options->pool);
    }
    if (options->pool / options->segment > CUDA_IPC_POOL_SEGMENTS_MAX) {
        return kvl_fail(err, -EINVAL,
                        "cuda_ipc: a pool of %llu bytes would have more than %u segments of %llu",
                        (unsigned long long)options->pool, CUDA_IPC_POOL_SEGMENTS_MAX,
                        (unsigned long long)options->segment);
    }
    return 0;
}

int cuda_ipc_options_read(const struct kvl_host *host, struct cuda_ipc_options *options_out,
                          struct kvl_err *err)
{
    struct cuda_ipc_options options = {
        .driver = kvl_setting_text(host, "driver"),
        .devices = kvl_setting_text(host, "devices"),
        .pool = options_aligned(options_number(host, "pool")),
        .segment = options_aligned(options_number(host, "segment")),
        .ways = options_ways(options_number(host, "share")),
        .copy = {.method = (enum cuda_ipc_method)options_number(host, "copy"),
                 .max_jobs = (uint32_t)options_number(host, "max_in_flight"),
                 .stage_bytes = options_number(host, "stage"),
                 .layer_bytes = options_number(host, "layer_bytes"),
                 .calibrate = 1},
        .pin_store = options_number(host, "pin_store") != 0,
        .max_peers = (uint32_t)options_number(host, "max_peers"),
        .max_mappings = (uint32_t)options_number(host, "max_mappings"),
        .max_mapped = options_number(host, "max_mapped"),
        .timeout_ms = options_number(host, "timeout"),
        .max_in_flight = (uint32_t)options_number(host, "max_in_flight"),
    };
    int r = options_listen(kvl_setting_text(host, "listen"), &options, err);

    if (r == 0) {
        r = options_words(kvl_setting_text(host, "peers"), options_add_peer, &options);
        if (r < 0) {
            return kvl_fail(err, r,
                            "cuda_ipc: peers must be absolute paths or @names, at most %u, "
                            "separated by commas, not '%s'",
                            CUDA_IPC_STATIC_PEERS_MAX, kvl_setting_text(host, "peers"));
        }
        r = options_check(&options, err);
    }
    if (r == 0) {
        *options_out = options;
    }
    return r;
}

/* ---- devices ---- */

struct options_choice {
    const struct cuda_ipc_devices *devices;
    uint64_t mask;
};

/* Text of a UUID, with or without "GPU-" or "MIG-", dashes anywhere. */
static int options_uuid(const char *text, struct cuda_uuid *uuid_out)
{
    static const char digits[] = "0123456789abcdef";
    uint32_t count = 0;

    if (strncmp(text, "GPU-", 4) == 0 || strncmp(text, "MIG-", 4) == 0) {
        text += 4;
    }
    memset(uuid_out, 0, sizeof(*uuid_out));
    for (; *text != '\0'; text++) {
        const char *digit = strchr(digits, *text | 0x20);
        char *byte = &uuid_out->bytes[count / 2];

        if (*text == '-') {
            continue;
        }
        if (digit == NULL || count == 32) {
            return -EINVAL;
        }
        *byte = (char)(*byte | (digit - digits) << (count % 2 == 0 ? 4 : 0));
        count++;
    }
    return count == 32 ? 0 : -EINVAL;
}

static int options_choose(void *ctx, const char *word)
{
    struct options_choice *choice = ctx;
    struct cuda_uuid uuid;
    char *end;
    long ordinal = strtol(word, &end, 10);

    if (*end != '\0') {
        ordinal =
            options_uuid(word, &uuid) == 0 ? cuda_ipc_devices_find(choice->devices, &uuid) : -1;
    }
    if (ordinal < 0 || ordinal >= (long)choice->devices->count) {
        return -ENODEV;
    }
    choice->mask |= 1ull << ordinal;
    return 0;
}

int cuda_ipc_options_devices(const struct cuda_ipc_options *options,
                             const struct cuda_ipc_devices *devices, uint64_t *mask_out,
                             struct kvl_err *err)
{
    struct options_choice choice = {.devices = devices};
    int r = 0;

    if (strcmp(options->devices, "auto") == 0) {
        choice.mask = devices->count < 64 ? (1ull << devices->count) - 1 : UINT64_MAX;
    } else {
        r = options_words(options->devices, options_choose, &choice);
    }
    if (r < 0 || choice.mask == 0) {
        return kvl_fail(
            err, -ENODEV,
            "cuda_ipc: devices '%s' names none, or one that is not among the %u visible "
            "ones; ordinals begin at 0, UUIDs look like GPU-8f2b...",
            options->devices, devices->count);
    }
    *mask_out = choice.mask;
    return 0;
}
