/* SPDX-License-Identifier: Apache-2.0 */
/* Role worker against a scripted controller: what it announces, and that it comes back from
 * faults. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scripted.h"
#include "worker_rig.h"

#define ROUNDS 60

static struct scripted *peer; /* of the test at hand */
static struct rig *rig;

static struct scripted_view look(void)
{
    struct scripted_view view;

    scripted_view(peer, &view);
    return view;
}

static int set_up(void **state)
{
    (void)state;
    peer = scripted_start(false);
    rig = rig_make(scripted_pull_url(peer), scripted_reply_url(peer));
    return 0;
}

static int set_up_with_heartbeat_port(void **state)
{
    (void)state;
    peer = scripted_start(true);
    rig = rig_make(scripted_pull_url(peer), scripted_reply_url(peer));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (rig != NULL) {
        rig_end(rig);
        rig = NULL;
    }
    scripted_end(peer);
    return 0;
}

static void start_with(int chunks)
{
    rig_create(rig);
    for (int i = 0; i < chunks; i++) {
        rig_put(rig, i);
    }
    rig_start(rig);
}

static void wait_announced(uint32_t keys)
{
    RIG_WAIT(look().completed && look().keys == keys);
}

/* ---- when all goes well ---- */

static void test_registers_with_its_address(void **state)
{
    struct kvl_health health;

    (void)state;
    rig_set(rig, "peer_init_url", "tcp://10.1.2.3:500");
    start_with(0);
    wait_announced(0);
    RIG_WAIT(rig_health(rig, &health) == KVL_HEALTH_OK &&
             strstr(health.text, "store announced") != NULL);
    assert_string_equal(look().ip, "127.0.0.1");
    assert_string_equal(look().peer_url, "10.1.2.3:500");
    assert_int_equal(look().port, strtol(strrchr(health.address, ':') + 1, NULL, 10));
}

static void test_a_peer_url_unset_is_nil(void **state)
{
    (void)state;
    start_with(0);
    wait_announced(0);
    assert_string_equal(look().peer_url, "nil");
}

static void test_announces_what_was_there_before(void **state)
{
    (void)state;
    start_with(5);
    rig_put(rig, -7);
    wait_announced(6);
    assert_true(scripted_has(peer, 4, false));
    assert_true(scripted_has(peer, (uint64_t)-7, true));
    assert_int_equal(look().early, 0);
}

static void test_changes_follow(void **state)
{
    (void)state;
    start_with(0);
    wait_announced(0);
    rig_put(rig, 100);
    rig_put(rig, 101);
    RIG_WAIT(look().keys == 2);
    rig_remove(rig, 100);
    RIG_WAIT(look().keys == 1);
    assert_true(scripted_has(peer, 101, false));
    assert_int_equal(look().ops, 3);
    assert_int_equal(look().gaps, 0);
}

static void test_a_burst_is_cut_into_messages(void **state)
{
    (void)state;
    rig_set(rig, "batch_size", "20");
    start_with(0);
    wait_announced(0);
    for (int i = 0; i < 3000; i++) {
        rig_put(rig, i);
    }
    RIG_WAIT(look().keys == 3000);
    assert_int_equal(look().gaps, 0);
    assert_true(look().longest <= 20);
    assert_true(look().messages >= 150);
    assert_int_equal(rig_stat(rig, "events_sent"), 3000);
}

static void test_heartbeats_go_to_their_own_port(void **state)
{
    (void)state;
    start_with(0);
    RIG_WAIT(look().heartbeats_own >= 3);
    assert_int_equal(look().heartbeats, look().heartbeats_own);
}

static void test_heartbeats_go_to_the_reply_port_without_one(void **state)
{
    (void)state;
    start_with(0);
    RIG_WAIT(look().heartbeats >= 3);
    assert_int_equal(look().heartbeats_own, 0);
}

static void test_unknown_commands_are_skipped(void **state)
{
    (void)state;
    start_with(1);
    wait_announced(1);
    assert_int_equal(look().starts, 1);
    scripted_command(peer, "dance", "full_sync");
    RIG_WAIT(look().starts == 2 && look().completed);
    RIG_WAIT(rig_stat(rig, "syncs_done") == 2);
    assert_int_equal(rig_stat(rig, "commands_unknown"), 1);
    assert_int_equal(rig_stat(rig, "commands"), 1);
    assert_int_equal(look().keys, 1);
}

static void test_says_farewell(void **state)
{
    (void)state;
    start_with(1);
    wait_announced(1);
    rig_end(rig);
    rig = NULL;
    RIG_WAIT(look().deregisters == 1);
    assert_false(look().known);
}

/* ---- chunks in memory of a GPU ---- */

static void wait_both(uint32_t keys, uint32_t gpu_keys)
{
    RIG_WAIT(look().completed && look().keys == keys && look().gpu_keys == gpu_keys);
}

static void test_gpu_chunks_have_a_location_of_their_own(void **state)
{
    (void)state;
    rig_create(rig);
    rig_put(rig, 1);
    rig_hold(rig, 1);
    rig_hold(rig, 2);
    rig_start(rig);
    RIG_WAIT(rig_stat(rig, "syncs_done") == 1);
    wait_both(1, 2);
    assert_int_equal(rig_stat(rig, "sync_keys_now"), 3);
    assert_int_equal(look().starts, 2); /* a sync clears one location */
    for (int i = 10; i < 100; i++) {
        rig_put(rig, i);
        rig_hold(rig, i);
        rig_hold(rig, -i);
    }
    wait_both(91, 182);
    rig_drop(rig, 1);
    rig_remove(rig, 1);
    wait_both(90, 181);
    assert_false(scripted_has(peer, 1, false));
    assert_int_equal(look().gaps, 0); /* numbers of one location have no holes */
    assert_int_equal(look().ops, 90 * 3 + 2);
    assert_int_equal(rig_stat(rig, "events_sent"), 90 * 3 + 2);
}

static void test_an_empty_gpu_is_announced_too(void **state)
{
    (void)state;
    rig_create(rig);
    rig_hold(rig, 1);
    rig_drop(rig, 1);
    rig_start(rig);
    RIG_WAIT(rig_stat(rig, "syncs_done") == 1);
    assert_int_equal(look().starts, 2); /* it clears what another process left there */
    assert_int_equal(look().batches, 2);
    wait_both(0, 0);
}

static void test_gpu_chunks_come_back_with_the_controller(void **state)
{
    (void)state;
    rig_create(rig);
    rig_put(rig, 1);
    rig_hold(rig, 2);
    rig_start(rig);
    wait_both(1, 1);
    scripted_kill(peer);
    rig_hold(rig, 3);
    scripted_revive(peer);
    wait_both(1, 2);
    rig_hold(rig, 4);
    rig_put(rig, 4);
    wait_both(2, 3);
    assert_int_equal(look().gaps, 0);
    rig_end(rig);
    rig = NULL;
    RIG_WAIT(look().deregisters == 1 && look().keys == 0 && look().gpu_keys == 0);
}

static void test_gpu_chunks_that_change_during_a_sync(void **state)
{
    (void)state;
    rig_set(rig, "sync_batch_size", "2");
    rig_create(rig);
    for (int i = 0; i < 60; i++) {
        rig_put(rig, i);
        rig_hold(rig, i);
    }
    rig_start(rig);
    RIG_WAIT(look().batches > 2);
    for (int i = 0; i < 30; i++) {
        rig_drop(rig, i);
        rig_hold(rig, 1000 + i);
        rig_remove(rig, i);
    }
    RIG_WAIT(rig_stat(rig, "syncs_done") == 1 && rig_stat(rig, "events_queued_now") == 0);
    wait_both(30, 60);
    assert_int_equal(look().ops_dropped, 0);
}

/* ---- full sync ---- */

static void test_an_empty_store_is_one_empty_batch(void **state)
{
    (void)state;
    start_with(0);
    wait_announced(0);
    assert_int_equal(look().batches, 1);
}

static void test_changes_during_a_sync_are_not_lost(void **state)
{
    (void)state;
    rig_set(rig, "sync_batch_size", "2");
    start_with(200);
    RIG_WAIT(look().batches > 5);
    for (int i = 0; i < 50; i++) {
        rig_remove(rig, i);
        rig_put(rig, 1000 + i);
        rig_put(rig, i + 2000);
        rig_remove(rig, i + 2000);
    }
    RIG_WAIT(look().completed && look().ops == 200);
    assert_int_equal(look().keys, 200);
    assert_false(scripted_has(peer, 0, false));
    assert_true(scripted_has(peer, 1049, false));
    assert_false(scripted_has(peer, 2000, false));
    assert_int_equal(look().ops_dropped, 0);
    assert_int_equal(look().gaps, 0);
}

static void test_missing_batches_are_sent_again(void **state)
{
    (void)state;
    scripted_lose_batches(peer, 4);
    rig_set(rig, "sync_batch_size", "10");
    start_with(100);
    wait_announced(100);
    assert_true(look().ends >= 2);
    assert_int_equal(rig_stat(rig, "sync_batches_resent"), 4);
    assert_int_equal(look().starts, 1);
}

static void test_refused_syncs_end_in_a_new_registration(void **state)
{
    (void)state;
    scripted_be_stuck(peer);
    start_with(3);
    wait_announced(3);
    assert_int_equal(look().deregisters, 1);
    assert_true(rig_stat(rig, "syncs_failed") >= 2);
}

static void test_lost_events_end_in_a_full_sync(void **state)
{
    (void)state;
    start_with(3);
    wait_announced(3);
    fake_host_lose_events(rig->fake);
    RIG_WAIT(look().starts == 2 && look().completed);
    assert_int_equal(look().keys, 3);
}

static void test_a_controller_away_costs_bounded_memory(void **state)
{
    (void)state;
    start_with(1);
    wait_announced(1);
    scripted_kill(peer);
    for (int i = 0; i < 270000; i++) {
        rig_put(rig, 7000);
        rig_remove(rig, 7000);
    }
    rig_put(rig, 7001);
    RIG_WAIT(rig_stat(rig, "events_dropped") >= 500000);
    assert_true(rig_stat(rig, "events_queued_now") < 100000);
    scripted_revive(peer);
    wait_announced(2);
    assert_true(scripted_has(peer, 7001, false));
}

static void test_another_reader_of_the_events_is_said(void **state)
{
    struct kvl_health health;

    (void)state;
    rig_create(rig);
    fake_host_set_events_code(rig->fake, -EBUSY);
    rig_start(rig);
    RIG_WAIT(rig_health(rig, &health) == KVL_HEALTH_DOWN);
    assert_non_null(strstr(health.text, "another section"));
}

/* ---- who has a chunk? ---- */

struct located {
    _Atomic int called;
    int32_t status;
    uint32_t count;
    struct kvl_run run;
};

static void take_located(void *ctx, int32_t status, const struct kvl_run *runs, uint32_t count)
{
    struct located *located = ctx;

    located->status = status;
    located->count = count;
    if (count > 0) {
        located->run = runs[0];
    }
    located->called++;
}

static int locate(uint64_t first, uint64_t deadline_ms, struct located *located)
{
    const struct kvl_chunk_id ids[3] = {{.bits = first}, {.bits = first + 1}, {.bits = first + 2}};

    memset(located, 0, sizeof(*located));
    return rig->desc->ops->locate(rig->self, ids, 3, deadline_ms, take_located, located);
}

static void test_locates_holders(void **state)
{
    struct located located;

    (void)state;
    start_with(10);
    wait_announced(10);
    RIG_WAIT(rig_health(rig, NULL) == KVL_HEALTH_OK);
    assert_int_equal(locate(8, KVL_NEVER, &located), 0);
    RIG_WAIT(located.called == 1);
    assert_int_equal(located.status, 0);
    assert_int_equal(located.count, 1);
    assert_string_equal(located.run.instance, SCRIPTED_HOLDER);
    assert_string_equal(located.run.location, "LocalCPUBackend");
    assert_string_equal(located.run.peer_url, SCRIPTED_HOLDER_URL);
    assert_string_equal(located.run.ip, "10.9.8.7");
    assert_int_equal(located.run.length, 2);
    assert_int_equal(located.run.distance, KVL_DISTANCE_PEER);
    assert_int_equal(locate(100, KVL_NEVER, &located), 0);
    RIG_WAIT(located.called == 1);
    assert_int_equal(located.status, 0);
    assert_int_equal(located.count, 0);
}

static void test_lookups_without_a_good_answer_end(void **state)
{
    struct located located;
    struct located waiting[3];

    (void)state;
    rig_set(rig, "recv_timeout", "60m");
    rig_set(rig, "heartbeat_delay", "60m"); /* so that it goes on believing in the controller */
    rig_set(rig, "heartbeat_time", "60m");
    start_with(10);
    wait_announced(10);
    scripted_set_mood(peer, SCRIPTED_LIAR);
    assert_int_equal(locate(0, KVL_NEVER, &located), 0);
    RIG_WAIT(located.called == 1);
    assert_int_equal(located.status, -EPROTO);
    scripted_set_mood(peer, SCRIPTED_SILENT);
    assert_int_equal(locate(0, rig_now_ms() + 50, &located), 0);
    RIG_WAIT(located.called == 1);
    assert_int_equal(located.status, -ETIMEDOUT);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(locate(0, KVL_NEVER, &waiting[i]), 0);
    }
    rig->desc->ops->stop(rig->self);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(waiting[i].called, 1);
        assert_int_equal(waiting[i].status, -ECANCELED);
    }
}

static void test_nobody_is_asked_who_is_not_there(void **state)
{
    struct located located;

    (void)state;
    scripted_set_mood(peer, SCRIPTED_SILENT);
    start_with(0);
    RIG_WAIT(rig_stat(rig, "questions_failed") > 0);
    assert_int_equal(locate(0, KVL_NEVER, &located), -ENOTCONN);
    assert_int_equal(located.called, 0);
}

/* ---- controllers that misbehave ---- */

static void test_start_does_not_wait_for_a_controller(void **state)
{
    struct kvl_health health;

    (void)state;
    scripted_kill(peer);
    rig_set(rig, "recv_timeout", "100");
    start_with(2);
    RIG_WAIT(rig_health(rig, &health) == KVL_HEALTH_DEGRADED &&
             strstr(health.text, "no answer") != NULL);
    assert_non_null(strstr(health.text, "not registered since"));
    scripted_revive(peer);
    wait_announced(2);
}

static void test_stop_does_not_wait_for_a_controller(void **state)
{
    uint64_t begun;

    (void)state;
    scripted_set_mood(peer, SCRIPTED_SILENT);
    rig_set(rig, "recv_timeout", "60m");
    start_with(2);
    RIG_WAIT(rig_health(rig, NULL) == KVL_HEALTH_DEGRADED);
    begun = rig_now_ms();
    rig_end(rig);
    rig = NULL;
    assert_true(rig_now_ms() - begun < 5000);
}

static void test_bad_answers_are_no_answers(void **state)
{
    static const enum scripted_mood moods[] = {SCRIPTED_GARBAGE, SCRIPTED_ERROR, SCRIPTED_WRONG,
                                               SCRIPTED_SILENT};

    (void)state;
    rig_set(rig, "recv_timeout", "200");
    scripted_set_mood(peer, SCRIPTED_GARBAGE);
    start_with(2);
    RIG_WAIT(rig_stat(rig, "questions_failed") >= 1);
    scripted_set_mood(peer, SCRIPTED_GOOD);
    wait_announced(2);
    for (size_t i = 0; i < sizeof(moods) / sizeof(moods[0]); i++) {
        uint64_t failed = rig_stat(rig, "questions_failed");

        scripted_set_mood(peer, moods[i]);
        RIG_WAIT(rig_stat(rig, "questions_failed") >= failed + 2);
        assert_int_equal(rig_health(rig, NULL), KVL_HEALTH_DEGRADED);
        scripted_set_mood(peer, SCRIPTED_GOOD);
        RIG_WAIT(rig_health(rig, NULL) == KVL_HEALTH_OK);
    }
    rig_put(rig, 55);
    RIG_WAIT(scripted_has(peer, 55, false));
}

static void test_answers_that_come_twice_are_not_mixed_up(void **state)
{
    (void)state;
    scripted_set_mood(peer, SCRIPTED_TWICE);
    start_with(2);
    wait_announced(2);
    RIG_WAIT(rig_stat(rig, "heartbeats") >= 5);
    assert_int_equal(rig_stat(rig, "questions_failed"), 0);
}

static void test_a_restarted_controller_is_told_everything(void **state)
{
    (void)state;
    start_with(10);
    wait_announced(10);
    scripted_kill(peer);
    rig_put(rig, 500);
    rig_remove(rig, 3);
    scripted_revive(peer);
    wait_announced(10);
    assert_true(scripted_has(peer, 500, false));
    assert_false(scripted_has(peer, 3, false));
    assert_int_equal(look().registers, 0); /* the heartbeat did it */
    rig_put(rig, 501);
    RIG_WAIT(scripted_has(peer, 501, false));
    assert_int_equal(look().gaps, 0);
}

static void test_a_controller_that_dies_in_a_sync(void **state)
{
    (void)state;
    rig_set(rig, "sync_batch_size", "5");
    scripted_die_after_batches(peer, 4);
    start_with(100);
    RIG_WAIT(scripted_is_dead(peer));
    rig_put(rig, 500);
    scripted_revive(peer);
    wait_announced(101);
    rig_put(rig, 501);
    RIG_WAIT(scripted_has(peer, 501, false));
}

static void test_restarts_leave_nothing_behind(void **state)
{
    uint32_t before = 0;

    (void)state;
    start_with(4);
    wait_announced(4);
    for (int i = 0; i < ROUNDS; i++) {
        scripted_kill(peer);
        scripted_revive(peer);
        rig_put(rig, 1000 + i);
        wait_announced(5 + (uint32_t)i);
        RIG_WAIT(rig_health(rig, NULL) == KVL_HEALTH_OK);
        if (i == 3) {
            before = rig_descriptors();
        }
    }
    /* connections of the last restart may still be on their way out */
    RIG_WAIT(rig_descriptors() <= before + 4);
}

static void test_lives_leave_nothing_behind(void **state)
{
    uint32_t before = 0;

    (void)state;
    rig_create(rig);
    for (int i = 0; i < 20; i++) {
        rig_end(rig);
        rig = rig_make(scripted_pull_url(peer), scripted_reply_url(peer));
        start_with(2);
        if (i % 2 == 0) { /* every other one is stopped wherever it is just now */
            wait_announced(2);
        }
        if (i == 4) {
            before = rig_descriptors();
        }
    }
    RIG_WAIT(rig_descriptors() <= before + 4);
}

/* ---- settings ---- */

static void expect_refusal(const char *name, const char *value, const char *word)
{
    struct rig *other = rig_make("127.0.0.1:1", "127.0.0.1:2");
    struct kvl_err err = {.size = sizeof(err)};
    struct fake_host *fake;

    rig_set(other, name, value);
    fake = fake_host_create(other->desc, other->pairs);
    assert_int_equal(other->desc->ops->check(fake_host_table(fake), &err), -EINVAL);
    if (strstr(err.text, word) == NULL) {
        fail_msg("'%s' does not name '%s'", err.text, word);
    }
    fake_host_destroy(fake);
    free(other);
}

static void test_settings_that_cannot_work_are_refused(void **state)
{
    (void)state;
    expect_refusal("instance_id", "", "instance_id");
    expect_refusal("controller_pull_url", "", "controller_pull_url");
    expect_refusal("controller_reply_url", "nonsense", "controller_reply_url");
    expect_refusal("controller_reply_url", "127.0.0.1:0", "controller_reply_url");
    expect_refusal("controller_pull_url", "10.0.0.1:8300", "allow_remote");
    rig_create(rig);
}

static void test_a_port_in_use_is_said(void **state)
{
    struct kvl_health health;
    struct kvl_err err = {.size = sizeof(err)};
    struct rig *second;

    (void)state;
    start_with(0);
    (void)rig_health(rig, &health);
    second = rig_make(scripted_pull_url(peer), scripted_reply_url(peer));
    rig_set(second, "worker_port", strrchr(health.address, ':') + 1);
    rig_create(second);
    assert_int_equal(second->desc->ops->start(second->self, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, "control calls"));
    rig_end(second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(test_registers_with_its_address),
        T(test_a_peer_url_unset_is_nil),
        T(test_announces_what_was_there_before),
        T(test_changes_follow),
        T(test_a_burst_is_cut_into_messages),
        cmocka_unit_test_setup_teardown(test_heartbeats_go_to_their_own_port,
                                        set_up_with_heartbeat_port, tear_down),
        T(test_heartbeats_go_to_the_reply_port_without_one),
        T(test_unknown_commands_are_skipped),
        T(test_says_farewell),
        T(test_gpu_chunks_have_a_location_of_their_own),
        T(test_an_empty_gpu_is_announced_too),
        T(test_gpu_chunks_come_back_with_the_controller),
        T(test_gpu_chunks_that_change_during_a_sync),
        T(test_an_empty_store_is_one_empty_batch),
        T(test_changes_during_a_sync_are_not_lost),
        T(test_missing_batches_are_sent_again),
        T(test_refused_syncs_end_in_a_new_registration),
        T(test_lost_events_end_in_a_full_sync),
        T(test_a_controller_away_costs_bounded_memory),
        T(test_another_reader_of_the_events_is_said),
        T(test_locates_holders),
        T(test_lookups_without_a_good_answer_end),
        T(test_nobody_is_asked_who_is_not_there),
        T(test_start_does_not_wait_for_a_controller),
        T(test_stop_does_not_wait_for_a_controller),
        T(test_bad_answers_are_no_answers),
        T(test_answers_that_come_twice_are_not_mixed_up),
        T(test_a_restarted_controller_is_told_everything),
        T(test_a_controller_that_dies_in_a_sync),
        T(test_restarts_leave_nothing_behind),
        T(test_lives_leave_nothing_behind),
        T(test_settings_that_cannot_work_are_refused),
        T(test_a_port_in_use_is_said),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
