/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Everything at once. Each instance has one thread that changes it, so what belongs together is
 * known: an instance `i` has the address, URLs and ids of `i` only, whatever lives its records and
 * numbers had before.
 */
#include "registry_help.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define INSTANCES 3
#define WORKERS 3
#define IDS 40 /* of each instance; and as many that all of them have */
#define ROUNDS 4000

struct shared {
    struct kvl_registry *registry;
    atomic_int changing;
    atomic_int failed;
    const char *path;
};

static void check(struct shared *shared, bool ok)
{
    if (!ok) {
        atomic_store(&shared->failed, 1);
    }
}

static uint32_t pick(uint64_t *random, uint32_t below)
{
    *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(*random >> 33) % below;
}

static struct kvl_chunk_id id_in(int instance, uint32_t i)
{
    return (struct kvl_chunk_id){.bits = ((uint64_t)instance << 32) + i + 1};
}

/* Texts that say whose they are. */
struct texts {
    char instance[16];
    char ip[16];
    char url[32];
};

static struct kvl_worker_desc make_desc(struct texts *texts, int instance, int64_t worker_id)
{
    struct kvl_worker_desc desc;

    snprintf(texts->instance, sizeof(texts->instance), "i%d", instance);
    snprintf(texts->ip, sizeof(texts->ip), "10.0.0.%d", instance);
    snprintf(texts->url, sizeof(texts->url), "10.0.0.%d:%lld", instance, (long long)worker_id);
    desc = desc_of(texts->instance, worker_id, texts->url);
    desc.ip = text(texts->ip);
    return desc;
}

struct changer {
    struct shared *shared;
    int instance;
};

static void apply_some(struct shared *shared, const struct kvl_worker_name *name, int instance,
                       uint64_t *random)
{
    struct kvl_key_op ops[32];
    int r;

    for (uint32_t i = 0; i < 32; i++) {
        ops[i] = (struct kvl_key_op){
            .id = id_in(pick(random, 2) ? instance : INSTANCES, pick(random, IDS)),
            .seq = (int64_t)i,
            .kind = pick(random, 3) == 0 ? KVL_KEY_EVICT : KVL_KEY_ADMIT,
        };
    }
    r = kvl_registry_apply(shared->registry, name, text(pick(random, 3) ? CPU : DISK), ops, 32,
                           NULL);
    check(shared, r == 0 || r == -ENOENT || r == -EBUSY);
}

/* @param alone  nobody else speaks for this worker */
static void sync_some(struct shared *shared, const struct kvl_worker_name *name, int instance,
                      uint64_t *random, bool alone)
{
    struct kvl_chunk_id ids[IDS];
    int r = kvl_registry_sync_start(shared->registry, name, text(CPU), text("s"), 0, 1);

    for (uint32_t i = 0; i < IDS; i++) {
        ids[i] = id_in(instance, i);
    }
    check(shared, r == 0 || r == -ENOENT);
    if (r == 0 && pick(random, 4) > 0) {
        r = kvl_registry_sync_batch(shared->registry, name, text(CPU), text("s"), 0, ids, IDS);
        check(shared, r == 0 || (!alone && (r == -ENOENT || r == -ESTALE)));
        r = kvl_registry_sync_end(shared->registry, name, text("s"), NULL);
        check(shared, r == 0 || (!alone && (r == -ENOENT || r == -ESTALE || r == -EAGAIN)));
    }
}

static void *change(void *arg)
{
    const struct changer *changer = arg;
    struct shared *shared = changer->shared;
    uint64_t random = (uint64_t)changer->instance * 77 + 5;

    for (int i = 0; i < ROUNDS; i++) {
        struct texts texts;
        const struct kvl_worker_desc desc =
            make_desc(&texts, changer->instance, (int64_t)pick(&random, WORKERS));
        uint32_t because;
        int r;

        switch (pick(&random, 10)) {
        case 0:
            check(shared, kvl_registry_register(shared->registry, &desc, NULL) == 0);
            break;
        case 1:
            check(shared, kvl_registry_heartbeat(shared->registry, &desc, &because) == 0);
            break;
        case 2:
            r = kvl_registry_remove(shared->registry, &desc.name);
            check(shared, r == 0 || r == -ENOENT);
            break;
        case 3:
            r = kvl_registry_clear(shared->registry, &desc.name, text(CPU));
            check(shared, r == 0 || r == -ENOENT);
            break;
        case 4:
            sync_some(shared, &desc.name, changer->instance, &random, true);
            break;
        default:
            apply_some(shared, &desc.name, changer->instance, &random);
            break;
        }
    }
    atomic_fetch_sub(&shared->changing, 1);
    return NULL;
}

/* Whatever is in an answer must be of one and the same instance. */
static void check_texts(struct shared *shared, const char *instance, const char *ip,
                        const char *url, int64_t worker_id, int asked)
{
    const int of = instance[0] == 'i' ? instance[1] - '0' : -1;
    struct texts texts;

    check(shared, of >= 0 && of < INSTANCES && (asked == INSTANCES || asked == of));
    make_desc(&texts, of, worker_id);
    check(shared, strcmp(instance, texts.instance) == 0 && strcmp(ip, texts.ip) == 0 &&
                      strcmp(url, texts.url) == 0);
}

static void look_up(struct shared *shared, uint64_t *random)
{
    const int asked = (int)pick(random, INSTANCES + 1);
    struct kvl_chunk_id ids[6];
    struct kvl_run runs[INSTANCES * WORKERS * 2];
    struct kvl_prefix prefixes[INSTANCES];
    struct kvl_explain why = {.size = sizeof(why)};
    const struct kvl_find query = {
        .size = sizeof(query),
        .flags = pick(random, 8),
        .ids = ids,
        .count = 6,
        .exclude_instance = text(pick(random, 2) ? "i1" : ""),
        .own_instance = text("i2"),
        .own_ip = text("10.0.0.0"),
        .worker_id = 1,
    };
    const uint32_t first = pick(random, IDS);
    int n;

    for (uint32_t i = 0; i < 6; i++) {
        ids[i] = id_in(asked, (first + i) % IDS);
    }
    n = kvl_registry_find(shared->registry, &query, runs, INSTANCES * WORKERS * 2, NULL);
    check(shared, n >= 0);
    for (int i = 0; i < n; i++) {
        check_texts(shared, runs[i].instance, runs[i].ip, runs[i].peer_url, runs[i].worker_id,
                    asked);
        check(shared, strcmp(runs[i].location, CPU) == 0 || strcmp(runs[i].location, DISK) == 0);
        check(shared, runs[i].length >= 1 && runs[i].length <= 6);
        check(shared, query.exclude_instance.length == 0 || strcmp(runs[i].instance, "i1") != 0);
        check(shared, (runs[i].distance == KVL_DISTANCE_OWN) == (runs[i].instance[1] == '2'));
    }
    n = kvl_registry_prefix(shared->registry, ids, 6, prefixes, INSTANCES);
    check(shared, n >= 0 && (asked == INSTANCES || n <= 1));
    for (int i = 0; i < n; i++) {
        check(shared, asked == INSTANCES || prefixes[i].instance[1] - '0' == asked);
        check(shared, i == 0 || prefixes[i - 1].length >= prefixes[i].length);
    }
    check(shared, kvl_registry_explain(shared->registry, &query, &why) == 0);
    (void)kvl_registry_has(shared->registry, &ids[0]);
}

static int check_info(void *ctx, const struct kvl_worker_info *info)
{
    check_texts(ctx, info->instance, info->ip, info->peer_url, info->worker_id, INSTANCES);
    return 0;
}

static int check_ids(void *ctx, const struct kvl_chunk_id *ids, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        check(ctx, ids[i].bits >> 32 == 0 || ids[i].bits >> 32 == INSTANCES);
    }
    return 0;
}

static void *read_it(void *arg)
{
    struct shared *shared = arg;
    const struct kvl_worker_name name = name_of("i0", 1);
    uint64_t random = 99;

    while (atomic_load(&shared->changing) > 0) {
        char instance[KVL_NAME_ROOM];
        int r;

        look_up(shared, &random);
        (void)kvl_registry_list_workers(shared->registry, text(""), check_info, shared);
        r = kvl_registry_list_keys(shared->registry, &name, text(CPU), check_ids, shared);
        check(shared, r == 0 || r == -ENOENT);
        r = kvl_registry_instance_by_ip(shared->registry, text("10.0.0.1"), instance);
        check(shared, r == -ENOENT || strcmp(instance, "i1") == 0);
        stats_of(shared->registry);
        kvl_registry_tidy(shared->registry, 20);
    }
    return NULL;
}

static void *look_only(void *arg)
{
    struct shared *shared = arg;
    uint64_t random = 7;

    while (atomic_load(&shared->changing) > 0) {
        look_up(shared, &random);
    }
    return NULL;
}

static void *save_it(void *arg)
{
    struct shared *shared = arg;

    while (atomic_load(&shared->changing) > 0) {
        struct fixture fixture = {.now_ms = 1};
        struct kvl_registry *copy = make_registry(&fixture, 0);
        struct shared of_copy = {.registry = copy};
        uint64_t random = 3;

        check(shared, kvl_registry_save(shared->registry, shared->path) == 0);
        check(shared, kvl_registry_load(copy, shared->path) == 0);
        look_up(&of_copy, &random);
        kvl_registry_list_workers(copy, text(""), check_info, &of_copy);
        check(shared, atomic_load(&of_copy.failed) == 0);
        kvl_registry_destroy(copy);
    }
    return NULL;
}

static void test_everything_at_once(void **state)
{
    char path[] = "/tmp/kvlane-test-registry-XXXXXX";
    const int fd = mkstemp(path);
    struct shared shared = {.changing = INSTANCES, .path = path};
    const struct kvl_registry_params params = {.settings = default_settings()};
    struct changer changers[INSTANCES];
    pthread_t threads[INSTANCES + 3];
    struct kvl_registry_stats stats;

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(kvl_registry_create(&params, &shared.registry), 0);
    for (int i = 0; i < INSTANCES; i++) {
        changers[i] = (struct changer){.shared = &shared, .instance = i};
        assert_int_equal(pthread_create(&threads[i], NULL, change, &changers[i]), 0);
    }
    assert_int_equal(pthread_create(&threads[INSTANCES], NULL, read_it, &shared), 0);
    assert_int_equal(pthread_create(&threads[INSTANCES + 1], NULL, save_it, &shared), 0);
    assert_int_equal(pthread_create(&threads[INSTANCES + 2], NULL, look_only, &shared), 0);
    for (int i = 0; i < INSTANCES + 3; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(atomic_load(&shared.failed), 0);
    for (int i = 0; i < INSTANCES; i++) {
        for (int64_t w = 0; w < WORKERS; w++) {
            struct texts texts;
            const struct kvl_worker_desc desc = make_desc(&texts, i, w);

            kvl_registry_remove(shared.registry, &desc.name);
        }
    }
    while (kvl_registry_tidy(shared.registry, 1000) == 1) {
    }
    stats = stats_of(shared.registry);
    assert_int_equal(stats.keys, 0);
    assert_int_equal(stats.chunks, 0);
    assert_int_equal(stats.workers, 0);
    assert_int_equal(stats.instances, 0);
    assert_int_equal(stats.syncing, 0);
    assert_int_equal(stats.completed, 0);
    kvl_registry_destroy(shared.registry);
    unlink(path);
}

/* Several threads may speak for one worker, and several may register it first. */
static void *speak(void *arg)
{
    struct shared *shared = arg;
    struct texts texts;
    const struct kvl_worker_desc desc = make_desc(&texts, 0, 0);
    uint64_t random = (uint64_t)(uintptr_t)&texts;

    for (int i = 0; i < ROUNDS; i++) {
        const uint32_t what = pick(&random, 10);
        int r;

        if (what == 0) {
            check(shared, kvl_registry_register(shared->registry, &desc, NULL) == 0);
        } else if (what == 1) {
            r = kvl_registry_remove(shared->registry, &desc.name);
            check(shared, r == 0 || r == -ENOENT);
        } else if (what == 2) {
            sync_some(shared, &desc.name, 0, &random, false);
        } else {
            apply_some(shared, &desc.name, 0, &random);
        }
    }
    return NULL;
}

static void test_many_speak_for_one_worker(void **state)
{
    struct shared shared = {.changing = 0};
    const struct kvl_registry_params params = {.settings = default_settings()};
    pthread_t threads[4];
    struct texts texts;
    const struct kvl_worker_desc desc = make_desc(&texts, 0, 0);

    (void)state;
    assert_int_equal(kvl_registry_create(&params, &shared.registry), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, speak, &shared), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(kvl_registry_register(shared.registry, &desc, NULL), 0);
    assert_int_equal(stats_of(shared.registry).workers, 1);
    assert_int_equal(stats_of(shared.registry).keys, 0);
    assert_int_equal(kvl_registry_remove(shared.registry, &desc.name), 0);
    assert_int_equal(stats_of(shared.registry).instances, 0);
    assert_int_equal(stats_of(shared.registry).syncing, 0);
    kvl_registry_destroy(shared.registry);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything_at_once),
        cmocka_unit_test(test_many_speak_for_one_worker),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
