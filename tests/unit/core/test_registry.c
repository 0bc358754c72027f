/* SPDX-License-Identifier: Apache-2.0 */
/* Workers, keys and lookups, rule by rule. */
#include "registry_help.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static struct kvl_registry *of(void **state)
{
    return ((struct fixture *)*state)->registry;
}

/* ---- workers ---- */

static void test_registering_anew_drops_keys_and_takes_the_new_address(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    struct kvl_worker_desc desc = desc_of("a", 0, "a:1");
    struct kvl_worker_info info;
    struct kvl_seq_gap gap = {.found = 9};
    struct kvl_run run;
    uint32_t known = 9;

    assert_int_equal(kvl_registry_register(registry, &desc, &known), 0);
    assert_int_equal(known, 0);
    add(registry, "b", 0, "b:1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 5), 0);
    assert_int_equal(admit(registry, "a", 0, DISK, 0, 5), 0);
    assert_int_equal(beat(registry, "a", 0), KVL_SYNC_BECAUSE_RESTART);
    fixture->now_ms += 500;
    fixture->unix_time += 100;
    desc.ip = text("10.0.0.9");
    desc.port = 77;
    desc.peer_url = text("a:2");
    desc.incarnation = 4;
    assert_int_equal(kvl_registry_register(registry, &desc, &known), 0);
    assert_int_equal(known, 1);
    info = info_of(registry, "a", 0);
    assert_string_equal(info.ip, "10.0.0.9");
    assert_int_equal(info.port, 77);
    assert_string_equal(info.peer_url, "a:2");
    assert_int_equal(info.incarnation, 4);
    assert_true(info.registration_time == fixture->unix_time);
    assert_true(info.last_heartbeat_time == fixture->unix_time);
    assert_int_equal(info.silent_ms, 0);
    assert_int_equal(info.has_heartbeat, 0);
    assert_int_equal(info.keys, 0);
    assert_int_equal(info.locations, 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 1, &run, 1), 0);
    /* its sequences are forgotten, its place before b is not */
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 50, &gap), 0);
    assert_int_equal(gap.found, 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 1, 2), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, &run, 1), 1);
    assert_string_equal(run.instance, "a");
    assert_string_equal(run.peer_url, "a:2");
}

static void test_without_a_url_again(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_worker_info info;

    add(registry, "a", 0, "a:1");
    assert_int_equal(info_of(registry, "a", 0).flags, KVL_WORKER_HAS_PEER_URL);
    add(registry, "a", 0, NULL);
    info = info_of(registry, "a", 0);
    assert_int_equal(info.flags, 0);
    assert_string_equal(info.peer_url, "");
}

static void test_a_heartbeat_registers_the_unknown(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    struct kvl_worker_info info;

    assert_int_equal(beat(registry, "a", 3), KVL_SYNC_BECAUSE_UNKNOWN);
    info = info_of(registry, "a", 3);
    assert_int_equal(info.has_heartbeat, 1);
    assert_int_equal(info.port, 5003);
    fixture->unix_time += 5;
    assert_int_equal(beat(registry, "a", 3), KVL_SYNC_BECAUSE_RESTART);
    info = info_of(registry, "a", 3);
    assert_true(info.last_heartbeat_time == info.registration_time + 5);
}

static void test_another_incarnation_drops_everything(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_worker_desc desc = desc_of("a", 0, "a:1");
    uint32_t because;

    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 5), 0);
    desc.incarnation = 7; /* the first time that it is told */
    assert_int_equal(kvl_registry_heartbeat(registry, &desc, &because), 0);
    assert_int_equal(because, KVL_SYNC_BECAUSE_RESTART);
    assert_int_equal(keys_of(registry, "a", 0), 5);
    assert_int_equal(info_of(registry, "a", 0).incarnation, 7);
    desc.incarnation = 0; /* not told: no news */
    assert_int_equal(kvl_registry_heartbeat(registry, &desc, &because), 0);
    assert_int_equal(keys_of(registry, "a", 0), 5);
    desc.incarnation = 8;
    desc.port = 1234;
    assert_int_equal(kvl_registry_heartbeat(registry, &desc, &because), 0);
    assert_int_equal(because, KVL_SYNC_BECAUSE_UNKNOWN);
    assert_int_equal(keys_of(registry, "a", 0), 0);
    assert_int_equal(info_of(registry, "a", 0).port, 1234);
    assert_int_equal(info_of(registry, "a", 0).incarnation, 8);
}

static void test_removing_takes_keys_and_empty_instances(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    struct kvl_run runs[4];
    struct kvl_worker_info info;
    struct kvl_chunk_id id = id_of(0);

    add(registry, "a", 0, "a:1");
    add(registry, "a", 1, "a:2");
    add(registry, "b", 0, "b:1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 3), 0);
    assert_int_equal(kvl_registry_has(registry, &id), 1);
    assert_int_equal(kvl_registry_remove(registry, &name), 0);
    assert_int_equal(kvl_registry_remove(registry, &name), -ENOENT);
    assert_int_equal(kvl_registry_has(registry, &id), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 4), 0);
    assert_int_equal(kvl_registry_worker(registry, &name, &info), -ENOENT);
    assert_int_equal(stats_of(registry).instances, 2);
    /* who comes back stands last: worker in instance, and instance */
    add(registry, "a", 0, "a:1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 1), 0);
    assert_int_equal(admit(registry, "a", 1, CPU, 0, 1), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 1), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 4), 3);
    assert_int_equal(runs[0].worker_id, 1);
    assert_int_equal(runs[1].worker_id, 0);
    assert_string_equal(runs[2].instance, "b");
    assert_int_equal(kvl_registry_remove(registry, &name), 0);
    assert_int_equal(kvl_registry_remove(registry, &(struct kvl_worker_name){text("a"), 1}), 0);
    assert_int_equal(stats_of(registry).instances, 1);
    add(registry, "a", 1, "a:2");
    assert_int_equal(admit(registry, "a", 1, CPU, 0, 1), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 4), 2);
    assert_string_equal(runs[0].instance, "b");
}

static void test_names_have_limits(void **state)
{
    struct kvl_registry *registry = of(state);
    char longest[KVL_NAME_ROOM + 1];
    struct kvl_worker_desc desc = desc_of("a", 0, "u");
    struct kvl_worker_name name;
    struct kvl_key_op op = {.id = id_of(1), .kind = KVL_KEY_ADMIT};
    struct kvl_run run;

    memset(longest, 'x', sizeof(longest) - 1);
    longest[KVL_NAME_MAX] = '\0';
    name = name_of(longest, 0);
    desc.name = name;
    desc.ip = text(longest);
    desc.peer_url = text(longest);
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    assert_int_equal(kvl_registry_apply(registry, &name, text(longest), &op, 1, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, &run, 1), 1);
    assert_string_equal(run.instance, longest);
    assert_string_equal(run.location, longest);
    assert_string_equal(run.ip, longest);
    assert_string_equal(run.peer_url, longest);
    longest[KVL_NAME_MAX] = 'x';
    longest[KVL_NAME_MAX + 1] = '\0';
    assert_int_equal(kvl_registry_apply(registry, &name, text(longest), &op, 1, NULL), -EMSGSIZE);
    for (int i = 0; i < 3; i++) {
        struct kvl_worker_desc bad = desc_of("b", 0, "u");

        bad.name.instance = i == 0 ? text(longest) : bad.name.instance;
        bad.ip = i == 1 ? text(longest) : bad.ip;
        bad.peer_url = i == 2 ? text(longest) : bad.peer_url;
        assert_int_equal(kvl_registry_register(registry, &bad, NULL), -EMSGSIZE);
    }
    desc = desc_of("b", 0, "u");
    desc.name.instance = (struct kvl_text){.text = "a\0b", .length = 3};
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), -EINVAL);
    assert_int_equal(stats_of(registry).workers, 1);
}

static int collect(void *ctx, const struct kvl_worker_info *worker)
{
    char *out = ctx;
    size_t used = strlen(out);

    snprintf(out + used, 200 - used, "%s%lld ", worker->instance, (long long)worker->worker_id);
    return worker->worker_id == 99 ? -EINTR : 0;
}

static void test_workers_are_listed_in_scan_order(void **state)
{
    struct kvl_registry *registry = of(state);
    char out[200] = "";

    add(registry, "b", 5, NULL);
    add(registry, "a", 1, NULL);
    add(registry, "b", 2, NULL);
    add(registry, "a", -3, NULL);
    assert_int_equal(kvl_registry_list_workers(registry, text(""), collect, out), 0);
    assert_string_equal(out, "b5 b2 a1 a-3 ");
    out[0] = '\0';
    assert_int_equal(kvl_registry_list_workers(registry, text("a"), collect, out), 0);
    assert_string_equal(out, "a1 a-3 ");
    assert_int_equal(kvl_registry_list_workers(registry, text("c"), collect, out), -ENOENT);
    add(registry, "b", 99, NULL);
    out[0] = '\0';
    assert_int_equal(kvl_registry_list_workers(registry, text(""), collect, out), -EINTR);
    assert_string_equal(out, "b5 b2 b99 ");
}

static void test_the_first_instance_with_an_address(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_worker_desc desc = desc_of("a", 0, NULL);
    char out[KVL_NAME_ROOM] = "same";

    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    desc = desc_of("b", 0, NULL);
    desc.ip = text("10.0.0.2");
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    desc = desc_of("a", 1, NULL);
    desc.ip = text("10.0.0.3");
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    desc = desc_of("c", 1, NULL);
    desc.ip = text("10.0.0.2");
    assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
    assert_int_equal(kvl_registry_instance_by_ip(registry, text("10.0.0.4"), out), -ENOENT);
    assert_string_equal(out, "same");
    assert_int_equal(kvl_registry_instance_by_ip(registry, text("10.0.0.2"), out), 0);
    assert_string_equal(out, "b");
    assert_int_equal(kvl_registry_instance_by_ip(registry, text("10.0.0.3"), out), 0);
    assert_string_equal(out, "a");
}

/* ---- time ---- */

static void test_only_those_with_a_heartbeat_are_reaped(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    char out[200] = "";

    add(registry, "never", 0, NULL);
    beat(registry, "silent", 0);
    beat(registry, "speaks", 0);
    beat(registry, "beats", 0);
    fixture->now_ms += 20000;
    assert_int_equal(admit(registry, "speaks", 0, CPU, 0, 1), 0); /* any message is life */
    fixture->now_ms += 10000;
    beat(registry, "beats", 0);
    assert_int_equal(kvl_registry_reap(registry, 30000, collect, out), 0);
    fixture->now_ms += 1;
    assert_int_equal(info_of(registry, "silent", 0).silent_ms, 30001);
    assert_int_equal(kvl_registry_reap(registry, 30000, collect, out), 1);
    assert_string_equal(out, "silent0 ");
    assert_int_equal(stats_of(registry).workers, 3);
    assert_int_equal(kvl_registry_reap(registry, 30000, NULL, NULL), 0);
    fixture->now_ms += 1000000;
    assert_int_equal(kvl_registry_reap(registry, 0, collect, out), -EINVAL);
    assert_int_equal(kvl_registry_reap(registry, 30000, NULL, NULL), 2);
    assert_int_equal(stats_of(registry).workers, 1);
}

static void test_a_step_of_the_wall_clock_ages_nobody(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry_settings settings = default_settings();
    struct kvl_run run;

    settings.worker_ttl_ms = 1000;
    kvl_registry_configure(fixture->registry, &settings);
    beat(fixture->registry, "a", 0);
    assert_int_equal(admit(fixture->registry, "a", 0, CPU, 0, 1), 0);
    assert_int_equal(start(fixture->registry, "a", 0, DISK, "s", 1), 0);
    fixture->unix_time += 1e9;
    assert_int_equal(kvl_registry_reap(fixture->registry, 1000, NULL, NULL), 0);
    assert_int_equal(find(fixture->registry, 0, "", 0, 0, 1, &run, 1), 1);
    assert_int_equal(info_of(fixture->registry, "a", 0).sync_state, KVL_SYNC_SYNCING);
    fixture->unix_time -= 2e9;
    assert_int_equal(kvl_registry_reap(fixture->registry, 1000, NULL, NULL), 0);
    assert_int_equal(find(fixture->registry, 0, "", 0, 0, 1, &run, 1), 1);
}

static void test_lookups_leave_out_who_is_silent_for_too_long(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    struct kvl_registry_settings settings = default_settings();
    const struct kvl_chunk_id id = id_of(0);
    struct kvl_prefix prefix;
    struct kvl_run runs[2];

    beat(registry, "a", 0);
    add(registry, "b", 0, NULL); /* never sends heartbeats: is never silent */
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 1), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 1), 0);
    fixture->now_ms += 10001;
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 2), 2); /* the setting is off */
    settings.worker_ttl_ms = 10000;
    kvl_registry_configure(registry, &settings);
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 2), 1);
    assert_string_equal(runs[0].instance, "b");
    assert_int_equal(kvl_registry_prefix(registry, &id, 1, &prefix, 1), 1);
    assert_string_equal(prefix.instance, "b");
    assert_int_equal(kvl_registry_has(registry, &id), 1);
    assert_int_equal(info_of(registry, "a", 0).is_silent, 1);
    assert_int_equal(info_of(registry, "b", 0).is_silent, 0);
    assert_int_equal(stats_of(registry).silent, 1);
    assert_int_equal(admit(registry, "a", 0, DISK, 5, 6), 0); /* it speaks again */
    assert_int_equal(find(registry, 0, "", 0, 0, 1, runs, 2), 2);
    assert_string_equal(runs[0].instance, "a");
}

/* ---- events ---- */

static void test_events_need_a_known_worker(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 1);
    struct kvl_seq_gap gap = {.expected = 5, .found = 5};

    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, &gap), -ENOENT);
    add(registry, "a", 0, NULL);
    assert_int_equal(tell(registry, "a", 1, CPU, KVL_KEY_ADMIT, 1, 0, &gap), -ENOENT);
    assert_int_equal(kvl_registry_withdraw(registry, &name, text(CPU), NULL, 0), -ENOENT);
    assert_int_equal(kvl_registry_clear(registry, &name, text(CPU)), -ENOENT);
    assert_int_equal(kvl_registry_list_keys(registry, &name, text(CPU), NULL, NULL), -ENOENT);
    assert_int_equal(tell(registry, "a", 0, CPU, 3, 1, 0, &gap), -EINVAL);
    assert_int_equal(gap.expected, 5);
    assert_int_equal(gap.found, 5);
    assert_int_equal(stats_of(registry).keys, 0);
}

static void test_events_are_applied_in_order(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    const struct kvl_key_op ops[] = {
        {.id = id_of(1), .seq = 0, .kind = KVL_KEY_ADMIT},
        {.id = id_of(1), .seq = 1, .kind = KVL_KEY_EVICT},
        {.id = id_of(2), .seq = 2, .kind = KVL_KEY_EVICT}, /* absent is fine */
        {.id = id_of(2), .seq = 3, .kind = KVL_KEY_ADMIT},
        {.id = id_of(2), .seq = 4, .kind = KVL_KEY_ADMIT}, /* twice is once */
        {.id = id_of(3), .seq = 5, .kind = KVL_KEY_ADMIT},
        {.id = id_of(3), .seq = 6, .kind = KVL_KEY_EVICT},
        {.id = id_of(-1), .seq = 7, .kind = KVL_KEY_ADMIT},
    };
    const struct kvl_chunk_id big = {.bits = UINT64_MAX};
    const struct kvl_chunk_id one = id_of(-1);

    add(registry, "a", 0, NULL);
    assert_int_equal(kvl_registry_apply(registry, &name, text(CPU), ops, 8, NULL), 0);
    assert_int_equal(keys_of(registry, "a", 0), 2);
    assert_int_equal(kvl_registry_has(registry, &ops[3].id), 1);
    assert_int_equal(kvl_registry_has(registry, &ops[0].id), 0);
    assert_int_equal(kvl_registry_has(registry, &one), 1);
    assert_int_equal(kvl_registry_has(registry, &big), 0); /* the same bits, another number */
    assert_int_equal(kvl_registry_apply(registry, &name, text(CPU), NULL, 0, NULL), 0);
}

static void test_the_first_gap_of_a_message_counts_once(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    const struct kvl_key_op ops[] = {
        {.id = id_of(1), .seq = 100, .kind = KVL_KEY_ADMIT}, /* never a gap: the first */
        {.id = id_of(2), .seq = 101, .kind = KVL_KEY_ADMIT},
        {.id = id_of(3), .seq = 105, .kind = KVL_KEY_ADMIT},
        {.id = id_of(4), .seq = 50, .kind = KVL_KEY_ADMIT},
    };
    struct kvl_seq_gap gap = {0};

    add(registry, "a", 0, NULL);
    assert_int_equal(kvl_registry_apply(registry, &name, text(CPU), ops, 4, &gap), 0);
    assert_int_equal(gap.found, 1);
    assert_int_equal(gap.expected, 102);
    assert_int_equal(gap.actual, 105);
    assert_int_equal(keys_of(registry, "a", 0), 4); /* applied all the same */
    assert_int_equal(stats_of(registry).gaps, 1);
    assert_int_equal(info_of(registry, "a", 0).gaps, 1);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_EVICT, 1, 51, &gap), 0);
    assert_int_equal(gap.found, 0);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_EVICT, 1, 7, &gap), 0);
    assert_int_equal(gap.found, 0); /* each location counts for itself */
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, 7, &gap), 0);
    assert_int_equal(gap.found, 1);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, INT64_MAX, &gap), 0);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, INT64_MIN, &gap), 0);
    assert_int_equal(gap.found, 0); /* wraps */
}

static void test_a_location_that_was_empty_goes_to_the_end(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    const struct kvl_key_op ops[] = {
        {.id = id_of(1), .seq = 1, .kind = KVL_KEY_EVICT},
        {.id = id_of(1), .seq = 2, .kind = KVL_KEY_ADMIT},
    };
    const struct kvl_chunk_id id = id_of(1);
    struct kvl_run runs[4];

    add(registry, "a", 0, NULL);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, runs, 4), 2);
    assert_string_equal(runs[0].location, CPU);
    assert_int_equal(kvl_registry_apply(registry, &name, text(CPU), ops, 2, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, runs, 4), 2);
    assert_string_equal(runs[0].location, DISK); /* although it was empty within one message */
    assert_int_equal(kvl_registry_withdraw(registry, &name, text(DISK), &id, 1), 0);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, 1, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, runs, 4), 2);
    assert_string_equal(runs[0].location, CPU);
    assert_int_equal(kvl_registry_clear(registry, &name, text(CPU)), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 3, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 1, 2, runs, 4), 2);
    assert_string_equal(runs[0].location, DISK);
    assert_int_equal(stats_of(registry).gaps, 0);
}

static void test_withdraw_and_clear(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    const struct kvl_chunk_id ids[] = {id_of(1), id_of(77)};

    add(registry, "a", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 5), 0);
    assert_int_equal(admit(registry, "a", 0, DISK, 0, 7), 0);
    assert_int_equal(kvl_registry_withdraw(registry, &name, text(CPU), ids, 2), 0);
    assert_int_equal(kvl_registry_withdraw(registry, &name, text("elsewhere"), ids, 2), 0);
    assert_int_equal(keys_of(registry, "a", 0), 11);
    assert_int_equal(kvl_registry_clear(registry, &name, text(CPU)), 0);
    assert_int_equal(kvl_registry_clear(registry, &name, text("elsewhere")), 0);
    assert_int_equal(keys_of(registry, "a", 0), 7);
    assert_int_equal(info_of(registry, "a", 0).locations, 1);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 5), 0);
    assert_int_equal(kvl_registry_clear(registry, &name, text("")), 0);
    assert_int_equal(keys_of(registry, "a", 0), 0);
    assert_int_equal(stats_of(registry).keys, 0);
}

static int sum_ids(void *ctx, const struct kvl_chunk_id *ids, uint32_t count)
{
    uint64_t *sum = ctx;

    for (uint32_t i = 0; i < count; i++) {
        sum[0]++;
        sum[1] += ids[i].bits;
    }
    return sum[2] != 0 ? -EINTR : 0;
}

static void test_keys_of_a_location_are_listed(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);
    uint64_t sum[3] = {0};

    add(registry, "a", 0, NULL);
    add(registry, "b", 0, NULL);
    for (int64_t i = 0; i < 20; i++) {
        assert_int_equal(admit(registry, "a", 0, CPU, 100 * i, 100 * i + 100), 0);
    }
    assert_int_equal(admit(registry, "a", 0, DISK, 0, 100), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 200), 0);
    assert_int_equal(kvl_registry_list_keys(registry, &name, text(CPU), sum_ids, sum), 0);
    assert_int_equal(sum[0], 2000);
    assert_int_equal(sum[1], 2000 * 1999 / 2);
    assert_int_equal(kvl_registry_list_keys(registry, &name, text("?"), sum_ids, sum), 0);
    assert_int_equal(sum[0], 2000);
    sum[2] = 1;
    assert_int_equal(kvl_registry_list_keys(registry, &name, text(CPU), sum_ids, sum), -EINTR);
    assert_true(sum[0] < 4000);
}

static void test_locations_have_a_limit(void **state)
{
    struct kvl_registry *registry = of(state);
    char location[20];

    add(registry, "a", 0, NULL);
    for (uint32_t i = 0; i < KVL_REGISTRY_LOCATIONS_MAX; i++) {
        snprintf(location, sizeof(location), "place%u", i);
        assert_int_equal(tell(registry, "a", 0, location, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    }
    assert_int_equal(tell(registry, "a", 0, "more", KVL_KEY_ADMIT, 1, 0, NULL), -ENOMEM);
    assert_int_equal(stats_of(registry).dropped, 1);
    assert_int_equal(tell(registry, "a", 0, location, KVL_KEY_ADMIT, 2, 1, NULL), 0);
    add(registry, "a", 0, NULL);
    assert_int_equal(tell(registry, "a", 0, "more", KVL_KEY_ADMIT, 1, 0, NULL), 0);
}

static void test_memory_has_a_bound(void **state)
{
    struct fixture fixture = {.now_ms = 1};
    struct kvl_registry *registry;
    const struct kvl_worker_name name = name_of("a", 0);
    struct kvl_registry_stats stats;
    uint64_t told = 0;

    (void)state;
    fixture.registry = registry = make_registry(&fixture, 16u << 20);
    add(registry, "a", 0, NULL);
    while (told < (4u << 20) && stats_of(registry).dropped == 0) {
        static struct kvl_key_op ops[4096];

        for (uint32_t i = 0; i < 4096; i++, told++) {
            ops[i] = (struct kvl_key_op){.id = {.bits = told * 0x9e3779b97f4a7c15ull},
                                         .seq = (int64_t)told,
                                         .kind = KVL_KEY_ADMIT};
        }
        kvl_registry_apply(registry, &name, text(CPU), ops, 4096, NULL);
    }
    stats = stats_of(registry);
    assert_true(stats.dropped > 0 && stats.dropped <= 4096);
    assert_int_equal(stats.keys + stats.dropped, told);
    assert_int_equal(stats.bytes_max, 16u << 20);
    assert_int_equal(stats.gaps, 0); /* what is dropped is in the sequence all the same */
    assert_int_equal(keys_of(registry, "a", 0), stats.keys);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_EVICT, 0, (int64_t)told, NULL), 0);
    kvl_registry_destroy(registry);
}

/* ---- lookups ---- */

static void test_the_longest_run_wins(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_run runs[4];

    add(registry, "a", 0, "a:1");
    add(registry, "b", 0, "b:1");
    add(registry, "c", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 2), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 3), 0);
    assert_int_equal(admit(registry, "c", 0, DISK, 0, 5), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 5, runs, 4), 3);
    assert_string_equal(runs[0].instance, "c");
    assert_string_equal(runs[0].location, DISK);
    assert_string_equal(runs[0].peer_url, "");
    assert_int_equal(runs[0].length, 5);
    assert_string_equal(runs[1].instance, "b");
    assert_string_equal(runs[2].instance, "a");
    /* who has no URL hides nobody, and who asks is left out */
    assert_int_equal(find(registry, KVL_FIND_WITH_URL, "", 0, 0, 5, runs, 4), 2);
    assert_string_equal(runs[0].instance, "b");
    assert_string_equal(runs[0].peer_url, "b:1");
    assert_int_equal(find(registry, KVL_FIND_WITH_URL, "b", 0, 0, 5, runs, 4), 1);
    assert_string_equal(runs[0].instance, "a");
    assert_int_equal(runs[0].length, 2);
    assert_int_equal(find(registry, 0, "nobody", 0, 0, 5, runs, 4), 3);
    assert_int_equal(find(registry, 0, "", 0, 5, 6, runs, 4), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 0, runs, 4), 0);
}

static void test_runs_are_of_one_location_and_end_at_a_hole(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_run runs[4];

    add(registry, "a", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 2), 0);
    assert_int_equal(admit(registry, "a", 0, DISK, 2, 4), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 3, 2, NULL), 0);
    assert_int_equal(find(registry, 0, "", 0, 0, 4, runs, 4), 1);
    assert_int_equal(runs[0].length, 2);
}

static void test_the_same_worker_id_comes_first_where_asked_for(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_run runs[4];

    add(registry, "a", 0, "a0");
    add(registry, "a", 1, "a1");
    add(registry, "b", 1, "b1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 9), 0);
    assert_int_equal(admit(registry, "a", 1, CPU, 0, 1), 0);
    assert_int_equal(admit(registry, "b", 1, CPU, 0, 3), 0);
    assert_int_equal(find(registry, KVL_FIND_SAME_WORKER, "", 1, 0, 9, runs, 4), 3);
    assert_string_equal(runs[0].peer_url, "b1");
    assert_string_equal(runs[1].peer_url, "a1");
    assert_string_equal(runs[2].peer_url, "a0");
    assert_int_equal(find(registry, KVL_FIND_SAME_WORKER, "", 5, 0, 9, runs, 4), 3);
    assert_string_equal(runs[0].peer_url, "a0");
    assert_int_equal(find(registry, 0, "", 1, 0, 9, runs, 1), 1);
    assert_string_equal(runs[0].peer_url, "a0");
}

static void test_the_nearest_comes_first_where_asked_for(void **state)
{
    static const char *const ips[] = {"10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3"};
    struct kvl_registry *registry = of(state);
    const struct kvl_chunk_id id = id_of(0);
    struct kvl_find query = {
        .size = sizeof(query),
        .flags = KVL_FIND_NEAR,
        .ids = &id,
        .count = 1,
        .own_instance = text("i3"),
        .own_ip = text("10.0.0.2"),
    };
    struct kvl_run runs[4];
    uint32_t total = 0;

    for (int i = 0; i < 4; i++) {
        char name[8];
        struct kvl_worker_desc desc;

        snprintf(name, sizeof(name), "i%d", i);
        desc = desc_of(name, 0, NULL);
        desc.ip = text(ips[i]);
        assert_int_equal(kvl_registry_register(registry, &desc, NULL), 0);
        assert_int_equal(admit(registry, name, 0, CPU, 0, 1), 0);
    }
    assert_int_equal(kvl_registry_find(registry, &query, runs, 4, &total), 4);
    assert_int_equal(total, 4);
    assert_string_equal(runs[0].instance, "i3");
    assert_int_equal(runs[0].distance, KVL_DISTANCE_OWN);
    assert_string_equal(runs[1].instance, "i1");
    assert_int_equal(runs[1].distance, KVL_DISTANCE_HOST);
    assert_string_equal(runs[2].instance, "i2");
    assert_string_equal(runs[3].instance, "i0");
    assert_int_equal(runs[3].distance, KVL_DISTANCE_PEER);
    query.flags = 0; /* told, but not used */
    assert_int_equal(kvl_registry_find(registry, &query, runs, 2, &total), 2);
    assert_int_equal(total, 4);
    assert_string_equal(runs[0].instance, "i0");
    assert_string_equal(runs[1].instance, "i1");
    assert_int_equal(runs[1].distance, KVL_DISTANCE_HOST);
    query.size = 8;
    assert_int_equal(kvl_registry_find(registry, &query, runs, 2, &total), -EINVAL);
}

static void test_more_holders_than_fit_on_the_stack(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_run *runs = calloc(300, sizeof(*runs));

    assert_non_null(runs);
    for (int64_t i = 0; i < 300; i++) {
        add(registry, i % 3 == 0 ? "a" : i % 3 == 1 ? "b" : "c", i, NULL);
        assert_int_equal(admit(registry,
                               i % 3 == 0   ? "a"
                               : i % 3 == 1 ? "b"
                                            : "c",
                               i, CPU, 0, 1 + i % 7),
                         0);
    }
    assert_int_equal(find(registry, 0, "", 0, 0, 10, runs, 300), 300);
    for (int i = 1; i < 300; i++) {
        const int order = strcmp(runs[i - 1].instance, runs[i].instance);

        assert_true(runs[i - 1].length > runs[i].length ||
                    (runs[i - 1].length == runs[i].length &&
                     (order < 0 || (order == 0 && runs[i - 1].worker_id < runs[i].worker_id))));
    }
    free(runs);
}

static void test_prefixes_join_the_workers_of_an_instance(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_chunk_id ids[6];
    struct kvl_prefix out[4];

    for (int i = 0; i < 6; i++) {
        ids[i] = id_of(i);
    }
    add(registry, "a", 0, NULL);
    add(registry, "b", 0, NULL);
    add(registry, "b", 1, NULL);
    add(registry, "c", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 2), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 2), 0);
    assert_int_equal(admit(registry, "b", 1, DISK, 1, 4), 0);
    assert_int_equal(admit(registry, "b", 1, CPU, 3, 4), 0);
    assert_int_equal(admit(registry, "c", 0, CPU, 1, 6), 0); /* lacks the first */
    assert_int_equal(kvl_registry_prefix(registry, ids, 6, out, 4), 2);
    assert_string_equal(out[0].instance, "b");
    assert_int_equal(out[0].length, 4);
    assert_string_equal(out[0].location, DISK); /* the first in the order that has the last */
    assert_string_equal(out[1].instance, "a");
    assert_int_equal(out[1].length, 2);
    assert_string_equal(out[1].location, CPU);
    assert_int_equal(kvl_registry_prefix(registry, ids, 2, out, 4), 2);
    assert_string_equal(out[0].instance, "a"); /* equally long: first come first */
    assert_int_equal(kvl_registry_prefix(registry, ids, 6, out, 1), 1);
    assert_string_equal(out[0].instance, "b");
    assert_int_equal(kvl_registry_prefix(registry, ids, 6, out, 0), 0);
    assert_int_equal(kvl_registry_prefix(registry, ids, 0, out, 4), 0);
}

static void test_why_nothing_was_found(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    struct kvl_registry_settings settings = default_settings();
    const struct kvl_chunk_id ids[] = {id_of(0), id_of(1), id_of(2)};
    struct kvl_find query = {
        .size = sizeof(query),
        .flags = KVL_FIND_WITH_URL,
        .ids = ids,
        .count = 3,
        .exclude_instance = text("a"),
    };
    struct kvl_explain why = {.size = sizeof(why)};

    settings.worker_ttl_ms = 1000;
    kvl_registry_configure(registry, &settings);
    beat(registry, "silent", 0);
    assert_int_equal(admit(registry, "silent", 0, CPU, 0, 3), 0);
    fixture->now_ms += 2000;
    add(registry, "a", 0, "a:1");
    add(registry, "b", 0, "b:1");
    add(registry, "c", 0, NULL);
    add(registry, "d", 0, "d:1");
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 3), 0);
    assert_int_equal(admit(registry, "b", 0, CPU, 0, 1), 0);
    assert_int_equal(admit(registry, "c", 0, CPU, 0, 3), 0);
    assert_int_equal(start(registry, "d", 0, CPU, "s", 1), 0);
    assert_int_equal(kvl_registry_explain(registry, &query, &why), 0);
    assert_int_equal(why.known, 1);
    assert_int_equal(why.holders, 3);
    assert_int_equal(why.excluded, 1);
    assert_int_equal(why.without_url, 2);
    assert_int_equal(why.silent, 1);
    assert_int_equal(why.workers, 5);
    assert_int_equal(why.syncing, 1);
    assert_int_equal(why.keys, 10);
    assert_int_equal(why.never_synced, 1);
    query.count = 1;
    assert_int_equal(kvl_registry_explain(registry, &query, &why), 0);
    assert_int_equal(why.known, 1);
    assert_int_equal(why.holders, 0);
    query.size = 1;
    assert_int_equal(kvl_registry_explain(registry, &query, &why), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        REGISTRY_TEST(test_registering_anew_drops_keys_and_takes_the_new_address),
        REGISTRY_TEST(test_without_a_url_again),
        REGISTRY_TEST(test_a_heartbeat_registers_the_unknown),
        REGISTRY_TEST(test_another_incarnation_drops_everything),
        REGISTRY_TEST(test_removing_takes_keys_and_empty_instances),
        REGISTRY_TEST(test_names_have_limits),
        REGISTRY_TEST(test_workers_are_listed_in_scan_order),
        REGISTRY_TEST(test_the_first_instance_with_an_address),
        REGISTRY_TEST(test_only_those_with_a_heartbeat_are_reaped),
        REGISTRY_TEST(test_a_step_of_the_wall_clock_ages_nobody),
        REGISTRY_TEST(test_lookups_leave_out_who_is_silent_for_too_long),
        REGISTRY_TEST(test_events_need_a_known_worker),
        REGISTRY_TEST(test_events_are_applied_in_order),
        REGISTRY_TEST(test_the_first_gap_of_a_message_counts_once),
        REGISTRY_TEST(test_a_location_that_was_empty_goes_to_the_end),
        REGISTRY_TEST(test_withdraw_and_clear),
        REGISTRY_TEST(test_keys_of_a_location_are_listed),
        REGISTRY_TEST(test_locations_have_a_limit),
        cmocka_unit_test(test_memory_has_a_bound),
        REGISTRY_TEST(test_the_longest_run_wins),
        REGISTRY_TEST(test_runs_are_of_one_location_and_end_at_a_hole),
        REGISTRY_TEST(test_the_same_worker_id_comes_first_where_asked_for),
        REGISTRY_TEST(test_the_nearest_comes_first_where_asked_for),
        REGISTRY_TEST(test_more_holders_than_fit_on_the_stack),
        REGISTRY_TEST(test_prefixes_join_the_workers_of_an_instance),
        REGISTRY_TEST(test_why_nothing_was_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
