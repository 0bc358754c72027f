/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A channel to oneself: while it runs, one thread takes what the backends of this instance offer
 * and gives it back to them as the offer of a peer, and counts what they hold.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <kvlane/backend.h>

struct echo {
    const struct kvl_host *host;
    struct kvl_setting to;
    uint64_t thread;
    int has_thread;
    atomic_int stopping;
    atomic_uint_fast64_t rounds;
    atomic_uint_fast64_t offers; /* of the last round */
    atomic_uint_fast64_t held_host;
    atomic_uint_fast64_t held_gpu;
};

static const struct kvl_option echo_options[] = {
    {.name = "to",
     .type = KVL_OPTION_STRING,
     .value = "",
     .help = "backend told; empty = as named"},
};

static int echo_create(const struct kvl_host *host, void **self_out, struct kvl_err *err)
{
    struct echo *echo = calloc(1, sizeof(*echo));

    (void)err;
    if (echo == NULL) {
        return -ENOMEM;
    }
    echo->host = host;
    (void)host->setting(host, "to", &echo->to);
    *self_out = echo;
    return 0;
}

struct echo_round {
    struct echo *echo;
    uint64_t offers;
};

static void echo_offer(void *ctx, const struct kvl_offer *offer)
{
    struct echo_round *round = ctx;
    const struct kvl_setting *to = &round->echo->to;
    struct kvl_offer back = *offer;

    round->offers++;
    back.peer = (struct kvl_text){.text = "echo", .length = 4};
    if (to->text[0] != '\0') {
        back.backend = (struct kvl_text){.text = to->text, .length = (uint32_t)strlen(to->text)};
    }
    round->echo->host->offered(round->echo->host, &back);
}

static int echo_count(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    *(uint64_t *)ctx += key->length > 0 && bytes > 0;
    return 0;
}

static uint64_t echo_held(const struct echo *echo, uint32_t where)
{
    uint64_t count = 0;

    (void)echo->host->held(echo->host, where, echo_count, &count);
    return count;
}

static void *echo_main(void *arg)
{
    struct echo *echo = arg;

    while (!atomic_load(&echo->stopping)) {
        struct echo_round round = {.echo = echo};

        echo->host->offers(echo->host, echo_offer, &round);
        atomic_store(&echo->offers, round.offers);
        atomic_store(&echo->held_host, echo_held(echo, KVL_WHERE_HOST));
        atomic_store(&echo->held_gpu, echo_held(echo, KVL_WHERE_GPU));
        atomic_fetch_add(&echo->rounds, 1);
    }
    return NULL;
}

static int echo_start(void *self, struct kvl_err *err)
{
    struct echo *echo = self;
    int r = echo->host->thread_create(echo->host, "mock-echo", echo_main, echo, &echo->thread);

    (void)err;
    echo->has_thread = r == 0;
    return r;
}

static void echo_stop(void *self)
{
    struct echo *echo = self;

    atomic_store(&echo->stopping, 1);
    if (echo->has_thread) {
        (void)echo->host->thread_join(echo->host, echo->thread);
        echo->has_thread = 0;
    }
}

static void echo_destroy(void *self)
{
    free(self);
}

static void echo_get_stats(void *self, kvl_stat_fn fn, void *ctx)
{
    struct echo *echo = self;

    fn(ctx, "rounds", atomic_load(&echo->rounds));
    fn(ctx, "offers", atomic_load(&echo->offers));
    fn(ctx, "held_host", atomic_load(&echo->held_host));
    fn(ctx, "held_gpu", atomic_load(&echo->held_gpu));
}

static const struct kvl_backend_ops echo_ops = {
    .size = sizeof(struct kvl_backend_ops),
    .create = echo_create,
    .start = echo_start,
    .stop = echo_stop,
    .destroy = echo_destroy,
    .get_stats = echo_get_stats,
};

static const struct kvl_backend_desc echo_desc = {
    .magic = KVL_BACKEND_MAGIC,
    .size = sizeof(struct kvl_backend_desc),
    .abi_major = KVL_BACKEND_ABI_MAJOR,
    .abi_minor = KVL_BACKEND_ABI_MINOR,
    .name = "mock_echo",
    .version = "0",
    .build_id = "mock",
    .options = echo_options,
    .option_count = 1,
    .option_size = sizeof(struct kvl_option),
    .ops = &echo_ops,
};

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)
{
    return &echo_desc;
}
