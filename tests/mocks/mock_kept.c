/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A good one that keeps its chunks in "the memory of a GPU": it says what comes and goes there,
 * lists it, offers something to its like and is told what they offer, and has codecs, which it has
 * also where its device is missing.
 */
#include "mock.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/ipc.h>

struct kept {
    const struct kvl_host *host;
    void *mock; /* what the other slots work on */
    uint32_t where;

    pthread_mutex_t lock; /* guards everything below */
    uint64_t connects;
    uint64_t same_host;
    uint64_t offer_sum; /* of the last one */
    uint64_t peer_sum;
    int is_running;
    int was_told_late; /* before start or after stop */
};

static void kept_changed(const struct kvl_host *host, const struct kvl_key *key, uint64_t bytes,
                         uint32_t kind)
{
    host->held_event(host, key, bytes, kind);
}

const struct mock_fault mock_fault = {.changed = kept_changed};

static const struct kvl_option kept_options[] = {
    MOCK_OPTIONS,
    {.name = "offer", .type = KVL_OPTION_STRING, .value = "", .help = "told to its like"},
    {.name = "device",
     .type = KVL_OPTION_BOOL,
     .value = "yes",
     .help = "no: this machine has none"},
    {.name = "where", .type = KVL_OPTION_INT, .value = "1", .min = 0, .max = 9, .help = "which"},
};

static int kept_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct kvl_setting setting;
    struct kept *kept;
    int r;

    if (host->setting(host, "device", &setting) < 0 || setting.number == 0) {
        (void)snprintf(err->text, sizeof(err->text), "the mock has no device here");
        return -ENODEV;
    }
    kept = calloc(1, sizeof(*kept));
    if (kept == NULL) {
        return -ENOMEM;
    }
    kept->host = host;
    (void)host->setting(host, "where", &setting);
    kept->where = (uint32_t)setting.number;
    r = mock_create(host, &kept->mock, err);
    if (r < 0) {
        free(kept);
        return r;
    }
    (void)pthread_mutex_init(&kept->lock, NULL);
    *self_out = kept;
    return 0;
}

static int kept_start(void *self, struct kvl_err *err)
{
    struct kept *kept = self;
    struct kvl_setting setting;
    int r = 0;

    (void)kept->host->setting(kept->host, "offer", &setting);
    if (setting.text[0] != '\0') {
        r = kept->host->offer(kept->host, setting.text, (uint32_t)strlen(setting.text));
    }
    r = r == 0 ? mock_start(kept->mock, err) : r;
    (void)pthread_mutex_lock(&kept->lock);
    kept->is_running = r == 0;
    (void)pthread_mutex_unlock(&kept->lock);
    return r;
}

static void kept_quiesce(void *self)
{
    mock_quiesce(((struct kept *)self)->mock);
}

static void kept_stop(void *self)
{
    struct kept *kept = self;

    (void)pthread_mutex_lock(&kept->lock);
    kept->is_running = 0;
    (void)pthread_mutex_unlock(&kept->lock);
    mock_stop(kept->mock);
}

static void kept_destroy(void *self)
{
    struct kept *kept = self;

    if (kept->was_told_late) {
        abort(); /* nobody could be told otherwise: counters are gone */
    }
    mock_destroy(kept->mock);
    (void)pthread_mutex_destroy(&kept->lock);
    free(kept);
}

static int kept_lookup(void *self, const struct kvl_batch *batch)
{
    return mock_lookup(((struct kept *)self)->mock, batch);
}

static int kept_read(void *self, const struct kvl_batch *batch)
{
    return mock_read(((struct kept *)self)->mock, batch);
}

static int kept_write(void *self, const struct kvl_batch *batch)
{
    return mock_write(((struct kept *)self)->mock, batch);
}

static int kept_remove(void *self, const struct kvl_batch *batch)
{
    return mock_remove(((struct kept *)self)->mock, batch);
}

static void kept_get_limits(void *self, struct kvl_limits *limits_out)
{
    limits_out->where = ((const struct kept *)self)->where;
}

static void kept_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    struct kept *kept = self;

    mock_get_stats(kept->mock, fn, ctx);
    (void)pthread_mutex_lock(&kept->lock);
    fn(ctx, "connects", kept->connects);
    fn(ctx, "same_host", kept->same_host);
    fn(ctx, "offer_sum", kept->offer_sum);
    fn(ctx, "peer_sum", kept->peer_sum);
    (void)pthread_mutex_unlock(&kept->lock);
}

static void kept_connect(void *self, const struct kvl_offer *offer)
{
    struct kept *kept = self;

    (void)pthread_mutex_lock(&kept->lock);
    kept->connects++;
    kept->same_host += offer->is_same_host;
    kept->offer_sum = mock_sum(offer->bytes, offer->length);
    kept->peer_sum = mock_sum(offer->peer.text, offer->peer.length);
    kept->was_told_late |= !kept->is_running;
    (void)pthread_mutex_unlock(&kept->lock);
}

static int kept_held(void *self, kvl_key_fn fn, void *ctx)
{
    return mock_held(((struct kept *)self)->mock, fn, ctx);
}

/* Tests compare the pointer and call nothing in it. */
static const struct kvl_ipc_ops kept_ipc = {.size = sizeof(struct kvl_ipc_ops)};

static const struct kvl_backend_ops kept_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .create = kept_create,
    .start = kept_start,
    .quiesce = kept_quiesce,
    .stop = kept_stop,
    .destroy = kept_destroy,
    .lookup = kept_lookup,
    .read = kept_read,
    .write = kept_write,
    .remove = kept_remove,
    .get_limits = kept_get_limits,
    .get_stats = kept_get_stats,
    .connect = kept_connect,
    .held = kept_held,
    .ipc = &kept_ipc,
};

static const struct kvl_backend_desc kept_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .caps = KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_REMOVE | KVL_CAP_CONNECT |
            KVL_CAP_HELD | KVL_CAP_IPC,
    .name = "mock_kept",
    .version = "0",
    .build_id = "mock",
    .options = kept_options,
    .option_count = sizeof(kept_options) / sizeof(kept_options[0]),
    .option_size = sizeof(struct kvl_option),
    .ops = &kept_ops,
};

MOCK_ENTRY(&kept_desc)
