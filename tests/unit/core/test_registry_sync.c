/* SPDX-License-Identifier: Apache-2.0 */
/* Full sync, rule by rule. */
#include "registry_help.h"

#include <errno.h>
#include <stdio.h>

static struct kvl_registry *of(void **state)
{
    return ((struct fixture *)*state)->registry;
}

static uint32_t state_of(struct kvl_registry *registry, const char *instance, int64_t worker_id)
{
    return info_of(registry, instance, worker_id).sync_state;
}

static void test_a_sync_replaces_one_location(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_chunk_id old = id_of(0);
    struct kvl_seq_gap gap = {.found = 1};
    struct kvl_worker_info info;
    uint64_t keys = 0;

    add(registry, "a", 0, NULL);
    assert_int_equal(admit(registry, "a", 0, CPU, 0, 5), 0);
    assert_int_equal(admit(registry, "a", 0, DISK, 0, 7), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "s1", 2), 0);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_SYNCING);
    assert_int_equal(keys_of(registry, "a", 0), 7); /* the other location stays */
    assert_int_equal(batch(registry, "a", 0, CPU, "s1", 1, 10, 13), 0);
    info = info_of(registry, "a", 0);
    assert_int_equal(info.sync_received, 1);
    assert_int_equal(info.sync_expected, 2);
    assert_int_equal(batch(registry, "a", 0, CPU, "s1", 0, 13, 15), 0);
    assert_int_equal(end(registry, "a", 0, "s1", &keys), 0);
    assert_int_equal(keys, 5);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_COMPLETED);
    assert_int_equal(keys_of(registry, "a", 0), 12);
    assert_int_equal(
        kvl_registry_clear(registry, &(struct kvl_worker_name){text("a"), 0}, text(DISK)), 0);
    assert_int_equal(kvl_registry_has(registry, &old), 0);
    /* its sequence begins anew */
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 1000, &gap), 0);
    assert_int_equal(gap.found, 0);
    assert_int_equal(end(registry, "a", 0, "s1", &keys), 0); /* said again */
    assert_int_equal(end(registry, "a", 0, "s0", &keys), -ESTALE);
}

static void test_the_sequence_of_an_empty_location_begins_anew_too(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_seq_gap gap = {.found = 1};

    add(registry, "a", 0, NULL);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_EVICT, 1, 5, NULL), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 1), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 0), 0);
    assert_int_equal(end(registry, "a", 0, "s", NULL), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 77, &gap), 0);
    assert_int_equal(gap.found, 0);
}

static void test_events_are_dropped_meanwhile(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_seq_gap gap = {.found = 9};

    add(registry, "a", 0, NULL);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 1), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, &gap), -EBUSY);
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 2, 1, &gap), -EBUSY);
    assert_int_equal(gap.found, 9);
    assert_int_equal(keys_of(registry, "a", 0), 1);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 1), 0);
    assert_int_equal(end(registry, "a", 0, "s", NULL), 0);
    /* the sequence was not followed, so what was dropped shows as a gap */
    assert_int_equal(tell(registry, "a", 0, DISK, KVL_KEY_ADMIT, 2, 2, &gap), 0);
    assert_int_equal(gap.found, 1);
    assert_int_equal(gap.expected, 1);
}

static void test_it_ends_only_when_every_batch_has_come(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_sync_status status;
    int64_t missing[200];
    uint64_t keys = 42;

    add(registry, "a", 0, NULL);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 130), 0);
    for (int64_t i = 0; i < 130; i++) {
        if (i != 3 && i != 64 && i != 129) {
            assert_int_equal(batch(registry, "a", 0, CPU, "s", i, 10 * i, 10 * i + 10), 0);
        }
    }
    assert_int_equal(end(registry, "a", 0, "s", &keys), -EAGAIN);
    assert_int_equal(keys, 42);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 5, 50, 60), 0); /* again: counts once */
    status = status_of(registry, "a", 0, "s", missing, 200);
    assert_int_equal(status.missing_count, 3);
    assert_int_equal(missing[0], 3);
    assert_int_equal(missing[1], 64);
    assert_int_equal(missing[2], 129);
    assert_int_equal(status.is_complete, 0);
    missing[1] = -5;
    status = status_of(registry, "a", 0, "s", missing, 1);
    assert_int_equal(status.missing_count, 3);
    assert_int_equal(missing[1], -5);
    assert_int_equal(stats_of(registry).missing_batches, 3);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 3, 30, 40), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 64, 640, 650), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 129, 1290, 1300), 0);
    assert_int_equal(end(registry, "a", 0, "s", &keys), 0);
    assert_int_equal(keys, 1300);
    assert_int_equal(keys_of(registry, "a", 0), 1300);
    status = status_of(registry, "a", 0, "s", missing, 200);
    assert_int_equal(status.is_complete, 1);
    assert_int_equal(status.missing_count, 0);
    assert_int_equal(status_of(registry, "a", 0, "other", missing, 1).is_complete, 0);
}

static void test_what_does_not_belong_is_refused(void **state)
{
    struct kvl_registry *registry = of(state);
    char longest[KVL_NAME_ROOM + 1];
    int64_t missing[1];

    memset(longest, 'x', sizeof(longest) - 1);
    longest[KVL_NAME_ROOM] = '\0';
    assert_int_equal(start(registry, "a", 0, CPU, "s", 2), -ENOENT);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 1), -ENOENT);
    assert_int_equal(end(registry, "a", 0, "s", NULL), -ENOENT);
    add(registry, "a", 0, NULL);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 1), -ESTALE);
    assert_int_equal(end(registry, "a", 0, "s", NULL), -ESTALE);
    assert_int_equal(end(registry, "a", 0, "", NULL), -ESTALE);
    assert_int_equal(start(registry, "a", 0, longest, "s", 2), -EMSGSIZE);
    assert_int_equal(start(registry, "a", 0, CPU, longest, 2), -EMSGSIZE);
    assert_int_equal(start(registry, "a", 0, CPU, "s", KVL_REGISTRY_BATCHES_MAX + 1), -EMSGSIZE);
    assert_int_equal(start(registry, "a", 0, CPU, "s", UINT64_MAX), -EMSGSIZE);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_NONE);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 2), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "t", 2), -EBUSY);
    assert_int_equal(batch(registry, "a", 0, CPU, "t", 0, 0, 1), -ESTALE);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 2, 0, 1), -ERANGE);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", -1, 0, 1), -ERANGE);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", INT64_MIN, 0, 1), -ERANGE);
    assert_int_equal(keys_of(registry, "a", 0), 0);
    assert_int_equal(status_of(registry, "a", 0, "t", missing, 1).missing_count, 0);
    assert_int_equal(status_of(registry, "b", 0, "s", missing, 1).missing_count, 0);
    assert_int_equal(status_of(registry, "a", 0, "s", missing, 1).missing_count, 2);
    assert_int_equal(start(registry, "b", 0, CPU, "s", KVL_REGISTRY_BATCHES_MAX), -ENOENT);
    add(registry, "b", 0, NULL);
    assert_int_equal(start(registry, "b", 0, CPU, "s", KVL_REGISTRY_BATCHES_MAX), 0);
    assert_int_equal(batch(registry, "b", 0, CPU, "s", KVL_REGISTRY_BATCHES_MAX - 1, 0, 1), 0);
}

static void test_the_same_start_begins_anew(void **state)
{
    struct kvl_registry *registry = of(state);
    int64_t missing[3];
    uint64_t keys;

    add(registry, "a", 0, NULL);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 2), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 10), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 3), 0);
    assert_int_equal(keys_of(registry, "a", 0), 0);
    assert_int_equal(status_of(registry, "a", 0, "s", missing, 3).missing_count, 3);
    assert_int_equal(missing[0], 0);
    for (int64_t i = 0; i < 3; i++) {
        assert_int_equal(batch(registry, "a", 0, CPU, "s", i, 0, 4), 0);
    }
    assert_int_equal(end(registry, "a", 0, "s", &keys), 0);
    assert_int_equal(keys, 12);
    assert_int_equal(keys_of(registry, "a", 0), 4);
    assert_int_equal(start(registry, "a", 0, CPU, "t", 0), 0); /* after a completed one */
    assert_int_equal(end(registry, "a", 0, "t", &keys), 0);
    assert_int_equal(keys, 0);
}

static void test_a_quiet_sync_fails(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;

    add(registry, "a", 0, NULL);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 3), 0);
    fixture->now_ms += 300000;
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 1), 0); /* activity */
    fixture->now_ms += 200000;
    status_of(registry, "a", 0, "s", NULL, 0); /* none */
    fixture->now_ms += 100000;
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_SYNCING);
    assert_int_equal(start(registry, "a", 0, CPU, "t", 1), -EBUSY);
    fixture->now_ms += 1;
    assert_int_equal(stats_of(registry).syncing, 0); /* seen by who only looks */
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_FAILED);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 1, 1, 2), -ESTALE);
    assert_int_equal(end(registry, "a", 0, "s", NULL), -ESTALE);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 9, 0, NULL), 0);
    assert_int_equal(start(registry, "a", 0, CPU, "t", 1), 0);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_SYNCING);
}

/* Whoever looks at it first: an event, a timer, a heartbeat. */
static void test_everything_that_looks_lets_it_fail(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    struct kvl_registry_settings settings = default_settings();
    struct kvl_sync_status status;
    int64_t missing[1];

    for (int64_t i = 0; i < 5; i++) {
        add(registry, "a", i, NULL);
        assert_int_equal(start(registry, "a", i, CPU, "s", 1), 0);
    }
    fixture->now_ms += 300001;
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(start(registry, "a", 1, CPU, "t", 1), 0);
    status = status_of(registry, "a", 2, "s", missing, 1);
    assert_int_equal(status.missing_count, 0);
    assert_int_equal(beat(registry, "a", 3), KVL_SYNC_BECAUSE_RESTART);
    kvl_registry_tidy(registry, 0);
    settings.sync_timeout_ms = UINT64_MAX / 2; /* so that what follows shows the states as set */
    kvl_registry_configure(registry, &settings);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_FAILED);
    assert_int_equal(state_of(registry, "a", 1), KVL_SYNC_SYNCING);
    for (int64_t i = 2; i < 5; i++) {
        assert_int_equal(state_of(registry, "a", i), KVL_SYNC_FAILED);
    }
    assert_int_equal(stats_of(registry).syncing, 1);
}

static void test_all_there_but_the_end(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    uint64_t keys;

    add(registry, "a", 0, NULL);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 1), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 4), 0);
    fixture->now_ms += 300001;
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_FAILED);
    assert_int_equal(end(registry, "a", 0, "s", &keys), 0);
    assert_int_equal(keys, 4);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_COMPLETED);
}

static void test_registering_anew_drops_only_a_sync_under_way(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;

    for (int64_t i = 0; i < 3; i++) {
        add(registry, "a", i, NULL);
        assert_int_equal(start(registry, "a", i, CPU, "s", 1), 0);
    }
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 4), 0);
    assert_int_equal(end(registry, "a", 0, "s", NULL), 0);
    fixture->now_ms += 300001;
    assert_int_equal(tell(registry, "a", 1, CPU, KVL_KEY_ADMIT, 9, 0, NULL), 0); /* FAILED */
    assert_int_equal(start(registry, "a", 2, CPU, "t", 1), 0);
    for (int64_t i = 0; i < 3; i++) {
        add(registry, "a", i, NULL);
    }
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_COMPLETED);
    assert_int_equal(state_of(registry, "a", 1), KVL_SYNC_FAILED);
    assert_int_equal(state_of(registry, "a", 2), KVL_SYNC_NONE);
    assert_int_equal(batch(registry, "a", 2, CPU, "t", 0, 0, 4), -ESTALE);
    assert_int_equal(tell(registry, "a", 2, CPU, KVL_KEY_ADMIT, 9, 0, NULL), 0);
    assert_int_equal(stats_of(registry).syncing, 0);
    assert_int_equal(stats_of(registry).completed, 1);
}

static void complete(struct kvl_registry *registry, int64_t worker_id)
{
    assert_int_equal(start(registry, "a", worker_id, CPU, "s", 0), 0);
    assert_int_equal(end(registry, "a", worker_id, "s", NULL), 0);
}

static void test_what_heartbeats_ask_for(void **state)
{
    struct fixture *fixture = *state;
    struct kvl_registry *registry = fixture->registry;
    int64_t missing[1];
    struct kvl_sync_status status;

    for (int64_t i = 0; i < 5; i++) {
        assert_int_equal(beat(registry, "a", i), KVL_SYNC_BECAUSE_UNKNOWN);
        assert_int_equal(beat(registry, "a", i), KVL_SYNC_BECAUSE_RESTART);
    }
    assert_int_equal(start(registry, "a", 0, CPU, "s", 1), 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    assert_int_equal(batch(registry, "a", 0, CPU, "s", 0, 0, 1), 0);
    assert_int_equal(end(registry, "a", 0, "s", NULL), 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    assert_int_equal(start(registry, "a", 1, CPU, "s", 1), 0);
    fixture->now_ms += 300001;
    /* everybody is asked, so this is why; not that it has failed */
    assert_int_equal(beat(registry, "a", 1), KVL_SYNC_BECAUSE_RESTART);
    complete(registry, 1);
    complete(registry, 2);
    status = status_of(registry, "a", 4, "s", missing, 1);
    assert_true(status.global_progress == 0.6);
    assert_int_equal(status.can_exit_freeze, 0);
    assert_int_equal(beat(registry, "a", 4), KVL_SYNC_BECAUSE_RESTART);
    complete(registry, 3);
    status = status_of(registry, "nobody", 4, "s", missing, 1);
    assert_true(status.global_progress == 0.8);
    assert_int_equal(status.can_exit_freeze, 1);
    assert_int_equal(beat(registry, "a", 4), 0);
    /* for good: also when progress falls again */
    for (int64_t i = 5; i < 20; i++) {
        add(registry, "a", i, NULL);
        assert_int_equal(beat(registry, "a", i), 0);
    }
    assert_int_equal(status_of(registry, "a", 4, "s", missing, 1).can_exit_freeze, 0);
    assert_true(status_of(registry, "a", 4, "s", missing, 1).global_progress == 0.2);
    assert_true(stats_of(registry).global_progress == 0.2);
    assert_int_equal(start(registry, "a", 4, CPU, "s", 1), 0);
    fixture->now_ms += 300001;
    assert_int_equal(beat(registry, "a", 4), KVL_SYNC_BECAUSE_FAILED);
}

static void test_progress_without_workers(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_sync_status status = status_of(registry, "a", 0, "s", NULL, 0);

    assert_true(status.global_progress == 0.0);
    assert_int_equal(status.can_exit_freeze, 0);
    assert_true(stats_of(registry).global_progress == 0.0);
    assert_int_equal(beat(registry, "a", 0), KVL_SYNC_BECAUSE_UNKNOWN);
    assert_int_equal(beat(registry, "a", 0), KVL_SYNC_BECAUSE_RESTART);
}

static void test_a_gap_asks_for_a_sync_where_set(void **state)
{
    struct kvl_registry *registry = of(state);
    struct kvl_registry_settings settings = default_settings();

    add(registry, "a", 0, NULL);
    complete(registry, 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 7, NULL), 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    settings.resync_after_gap = 1;
    kvl_registry_configure(registry, &settings);
    assert_int_equal(beat(registry, "a", 0), KVL_SYNC_BECAUSE_GAP);
    assert_int_equal(beat(registry, "a", 0), KVL_SYNC_BECAUSE_GAP); /* until it begins */
    assert_int_equal(start(registry, "a", 0, CPU, "s", 0), 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    assert_int_equal(end(registry, "a", 0, "s", NULL), 0);
    assert_int_equal(beat(registry, "a", 0), 0);
    assert_int_equal(info_of(registry, "a", 0).gaps, 1);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 0, NULL), 0);
    assert_int_equal(tell(registry, "a", 0, CPU, KVL_KEY_ADMIT, 1, 7, NULL), 0);
    add(registry, "a", 0, NULL); /* a new process has lost nothing */
    assert_int_equal(beat(registry, "a", 0), 0);
}

static void test_removing_forgets_the_sync(void **state)
{
    struct kvl_registry *registry = of(state);
    const struct kvl_worker_name name = name_of("a", 0);

    add(registry, "a", 0, NULL);
    assert_int_equal(start(registry, "a", 0, CPU, "s", 1), 0);
    assert_int_equal(kvl_registry_remove(registry, &name), 0);
    assert_int_equal(stats_of(registry).syncing, 0);
    add(registry, "a", 0, NULL);
    assert_int_equal(state_of(registry, "a", 0), KVL_SYNC_NONE);
    assert_int_equal(end(registry, "a", 0, "s", NULL), -ESTALE);
    complete(registry, 0);
    assert_int_equal(stats_of(registry).completed, 1);
    assert_int_equal(kvl_registry_remove(registry, &name), 0);
    assert_int_equal(stats_of(registry).completed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        REGISTRY_TEST(test_a_sync_replaces_one_location),
        REGISTRY_TEST(test_the_sequence_of_an_empty_location_begins_anew_too),
        REGISTRY_TEST(test_events_are_dropped_meanwhile),
        REGISTRY_TEST(test_it_ends_only_when_every_batch_has_come),
        REGISTRY_TEST(test_what_does_not_belong_is_refused),
        REGISTRY_TEST(test_the_same_start_begins_anew),
        REGISTRY_TEST(test_a_quiet_sync_fails),
        REGISTRY_TEST(test_everything_that_looks_lets_it_fail),
        REGISTRY_TEST(test_all_there_but_the_end),
        REGISTRY_TEST(test_registering_anew_drops_only_a_sync_under_way),
        REGISTRY_TEST(test_what_heartbeats_ask_for),
        REGISTRY_TEST(test_progress_without_workers),
        REGISTRY_TEST(test_a_gap_asks_for_a_sync_where_set),
        REGISTRY_TEST(test_removing_forgets_the_sync),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
