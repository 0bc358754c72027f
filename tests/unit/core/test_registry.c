/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "registry.h"

/* ---- a registry with a clock that tests move by hand ---- */

struct fixture {
    struct kvl_registry *registry;
    uint64_t now_ms;
    double unix_time;
};

static uint64_t fixture_now_ms(void *ctx)
{
    return ((struct fixture *)ctx)->now_ms;
}

static double fixture_unix_time(void *ctx)
{
    return ((struct fixture *)ctx)->unix_time;
}

static const struct kvl_registry_settings defaults = {
    .sync_timeout_ms = 300000,
    .sync_threshold = 80,
};

static int set_up(void **state)
{
    static struct fixture fixture;
    const struct kvl_registry_clock clock = {
        .now_ms = fixture_now_ms,
        .unix_time = fixture_unix_time,
        .ctx = &fixture,
    };
    const struct kvl_registry_params params = {.settings = defaults, .clock = &clock};

    fixture = (struct fixture){.now_ms = 1000, .unix_time = 1700000000.0};
    *state = &fixture;
    return kvl_registry_create(&params, &fixture.registry);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;

    kvl_registry_destroy(fixture->registry);
    return 0;
}

static struct kvl_text text(const char *from)
{
    return (struct kvl_text){.text = from, .length = (uint32_t)strlen(from)};
}

static struct kvl_worker_name name_of(const char *instance, int64_t worker_id)
{
    return (struct kvl_worker_name){.instance = text(instance), .worker_id = worker_id};
}

static struct kvl_worker_desc desc_of(const char *instance, int64_t worker_id, const char *url)
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

static void add(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                const char *url)
{
    const struct kvl_worker_desc desc = desc_of(instance, worker_id, url);
    uint32_t known = 7;

    assert_int_equal(kvl_registry_register(registry, &desc, &known), 0);
}

static struct kvl_chunk_id id_of(int64_t number)
{
    return (struct kvl_chunk_id){.bits = (uint64_t)number, .negative = number < 0};
}

#define CPU "LocalCPUBackend"
#define DISK "LocalDiskBackend"

static int admit(struct kvl_registry *registry, const char *instance, int64_t worker_id,
                 const char *location, int64_t from, int64_t to, int64_t seq)
{
    const struct kvl_worker_name name = name_of(instance, worker_id);
    int r = 0;

    for (int64_t i = from; r == 0 && i < to; i++) {
        const struct kvl_key_op op = {.id = id_of(i), .seq = seq + i - from, .kind = KVL_KEY_ADMIT};

        r = kvl_registry_apply(registry, &name, text(location), &op, 1, NULL);
    }
    return r;
}

static int find(struct kvl_registry *registry, uint32_t flags, const char *exclude,
                int64_t worker_id, int64_t from, int64_t to, struct kvl_run *runs, uint32_t room)
{
    struct kvl_chunk_id ids[64];
    struct kvl_find query = {
        .size = sizeof(query),
        .flags = flags,
        .ids = ids,
        .count = (uint32_t)(to - from),
        .exclude_instance = text(exclude),
        .worker_id = worker_id,
    };

    for (int64_t i = from; i < to; i++) {
        ids[i - from] = id_of(i);
    }
    return kvl_registry_find(registry, &query, runs, room, NULL);
}

static void test_the_longest_run_wins(void **state)
{
    struct kvl_registry *registry = ((struct fixture *)*state)->registry;
    struct kvl_run runs[4];

    add(registry, "a", 0, "a:1");
    add(registry, "b", 0, "b:1");
    add(registry, "c", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 2, 0), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 3, 0), 0);
    assert_int_equal(admit(registry, "c", 0, DISK, 0, 5, 0), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 5, runs, 4), 3);
    assert_string_equal(runs[0].instance, "c");
    assert_int_equal(runs[0].length, 5);
    assert_string_equal(runs[1].instance, "b");
    assert_string_equal(runs[2].instance, "a");
    assert_int_equal(find(registry, KVL_FIND_WITH_URL, "", 0, 0, 5, runs, 4), 2);
    assert_string_equal(runs[0].instance, "b");
    assert_string_equal(runs[0].peer_url, "b:1");
    assert_int_equal(find(registry, KVL_FIND_WITH_URL, "b", 0, 0, 5, runs, 4), 1);
    assert_string_equal(runs[0].instance, "a");
    assert_int_equal(runs[0].length, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_the_longest_run_wins, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
