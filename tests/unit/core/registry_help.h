/* SPDX-License-Identifier: Apache-2.0 */
/* A registry with a clock that tests move by hand, and short ways to talk to it. */
#ifndef KVL_TEST_REGISTRY_HELP_H
#define KVL_TEST_REGISTRY_HELP_H

#include "cm.h"

#include <string.h>

#include "registry.h"

#define CPU "LocalCPUBackend"
#define DISK "LocalDiskBackend"

struct fixture {
    struct kvl_registry *registry;
    uint64_t now_ms;
    double unix_time;
};

static inline uint64_t fixture_now_ms(void *ctx)
{
    return ((struct fixture *)ctx)->now_ms;
}

static inline double fixture_unix_time(void *ctx)
{
    return ((struct fixture *)ctx)->unix_time;
}

static inline struct kvl_registry_settings default_settings(void)
{
    return (struct kvl_registry_settings){.sync_timeout_ms = 300000, .sync_threshold = 80};
}

static inline struct kvl_registry *make_registry(struct fixture *fixture, uint64_t max_bytes)
{
    const struct kvl_registry_clock clock = {
        .now_ms = fixture_now_ms,
        .unix_time = fixture_unix_time,
        .ctx = fixture,
    };
    const struct kvl_registry_params params = {
        .max_bytes = max_bytes,
        .settings = default_settings(),
        .clock = &clock,
    };
    struct kvl_registry *registry = NULL;

    assert_int_equal(kvl_registry_create(&params, &registry), 0);
    return registry;
}

static inline int set_up(void **state)
{
    static struct fixture fixture;

    fixture = (struct fixture){.now_ms = 1000, .unix_time = 1700000000.0};
    fixture.registry = make_registry(&fixture, 0);
    *state = &fixture;
    return 0;
}

static inline int tear_down(void **state)
{
    kvl_registry_destroy(((struct fixture *)*state)->registry);
    return 0;
}

#define REGISTRY_TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

static inline struct kvl_text text(const char *from)
{
    return (struct kvl_text){.text = from, .length = (uint32_t)strlen(from)};
}

static inline struct kvl_worker_name name_of(const char *instance, int64_t worker_id)
{
    return (struct kvl_worker_name){.instance = text(instance), .worker_id = worker_id};
}

static inline struct kvl_worker_desc desc_of(const char *instance, int64_t worker_id,
                                             const char *url)
{
    struct kvl_worker_desc desc = {
        .size = sizeof(desc),
        .name = name_of(instance, worker_id),
        .ip = text("10.0.0.1"),
        .port = 5000 + worker_id,
    };

    if (url != NULL) {
        desc.flags = KVL_WORKER_HAS_PEER_URL;
        desc.peer_url = text(url);
    }
    return desc;
}

static inline void add(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                       const char *url)
{
    const struct kvl_worker_desc desc = desc_of(instance, worker_id, url);

    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
}

static inline uint32_t beat(struct kvl_registry *registry, const char *instance, int64_t worker_id)
{
    const struct kvl_worker_desc desc = desc_of(instance, worker_id, NULL);
    uint32_t because = 77;

    assert_int_equal(kvl_registry_heartbeat(registry, &desc, &because), 0);
    return because;
}

static inline struct kvl_chunk_id id_of(int64_t number)
{
    return (struct kvl_chunk_id){.bits = (uint64_t)number, .negative = number < 0};
}

/* One event. */
static inline int tell(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                       const char *location, uint32_t kind, int64_t id, int64_t seq,
                       struct kvl_seq_gap *gap)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    const struct kvl_key_op op = {.id = id_of(id), .seq = seq, .kind = kind};

    return kvl_registry_apply(registry, &name, text(location), &op, 1, gap);
}

/* Admits from .. to-1 in one message, with sequences from 0 on. */
static inline int admit(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                        const char *location, int64_t from, int64_t to)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    struct kvl_key_op ops[256];

    assert_true(to - from <= 256);
    for (int64_t i = from; i < to; i++) {
        ops[i - from] = (struct kvl_key_op){.id = id_of(i), .seq = i - from, .kind = KVL_KEY_ADMIT};
    }
    return kvl_registry_apply(registry, &name, text(location), ops, (uint32_t)(to - from), NULL);
}

static inline uint64_t keys_of(struct kvl_registry *registry, const char *instance,
                               int64_t worker_id)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    struct kvl_worker_info info;

    assert_int_equal(kvl_registry_worker(registry, &name, &info), 0);
    return info.keys;
}

static inline struct kvl_worker_info info_of(struct kvl_registry *registry, const char *instance,
                                             int64_t worker_id)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    struct kvl_worker_info info;

    assert_int_equal(kvl_registry_worker(registry, &name, &info), 0);
    return info;
}

static inline struct kvl_registry_stats stats_of(struct kvl_registry *registry)
{
    struct kvl_registry_stats stats = {.size = sizeof(stats)};

    kvl_registry_stats(registry, &stats);
    return stats;
}

/* Looks up from .. to-1. */
static inline int find(struct kvl_registry *registry, uint32_t flags, const char *exclude,
                       int64_t worker_id, int64_t from, int64_t to, struct kvl_run *runs,
                       uint32_t room)
{
    struct kvl_chunk_id ids[64];
    const struct kvl_find query = {
        .size = sizeof(query),
        .flags = flags,
        .ids = ids,
        .count = (uint32_t)(to - from),
        .exclude_instance = text(exclude),
        .worker_id = worker_id,
    };

    assert_true(to - from <= 64);
    for (int64_t i = from; i < to; i++) {
        ids[i - from] = id_of(i);
    }
    return kvl_registry_find(registry, &query, runs, room, NULL);
}

static inline int start(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                        const char *location, const char *sync_id, uint64_t batches)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);

    return kvl_registry_sync_start(registry, &name, text(location), text(sync_id), 0, batches);
}

/* A batch with the keys from .. to-1. */
static inline int batch(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                        const char *location, const char *sync_id, int64_t batch_id, int64_t from,
                        int64_t to)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    struct kvl_chunk_id ids[64];

    assert_true(to - from <= 64);
    for (int64_t i = from; i < to; i++) {
        ids[i - from] = id_of(i);
    }
    return kvl_registry_sync_batch(registry, &name, text(location), text(sync_id), batch_id, ids,
                                   (uint32_t)(to - from));
}

static inline int end(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                      const char *sync_id, uint64_t *keys)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);

    return kvl_registry_sync_end(registry, &name, text(sync_id), keys);
}

static inline struct kvl_sync_status status_of(struct kvl_registry *registry, const char *instance,
                                               int64_t worker_id, const char *sync_id,
                                               int64_t *missing, uint32_t room)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    struct kvl_sync_status status = {.size = sizeof(status)};

    assert_int_equal(
        kvl_registry_sync_status(registry, &name, text(sync_id), &status, missing, room), 0);
    return status;
}

#endif /* KVL_TEST_REGISTRY_HELP_H */
