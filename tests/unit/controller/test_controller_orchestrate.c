/* SPDX-License-Identifier: Apache-2.0 */
/* Orders to workers and queries, with workers that answer, fail, say nothing or are not there. */
#include "frames.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controller_hash.h"
#include "rig.h"

struct setting_up {
    struct rig *rig;
    struct controller_arena *arena;
    struct controller_msg reply;
};

static int set_up_with(void **state, const char *const *pairs)
{
    struct setting_up *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    s->rig = rig_start(pairs);
    assert_int_equal(controller_arena_create(&s->arena), 0);
    *state = s;
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(state, NULL);
}

static int set_up_hasty(void **state)
{
    static const char *const pairs[] = {"control_timeout", "300ms", NULL};

    return set_up_with(state, pairs);
}

static int tear_down(void **state)
{
    struct setting_up *s = *state;

    controller_arena_destroy(s->arena);
    rig_free(s->rig);
    free(s);
    return 0;
}

static struct controller_msg clear_of(const char *instance)
{
    return (struct controller_msg){.type = CONTROLLER_CLEAR,
                                   .event_id = rig_text("Clear1"),
                                   .instance_id = rig_text(instance),
                                   .location = rig_text("LocalCPUBackend")};
}

static int run(struct setting_up *s, const struct controller_msg *request)
{
    controller_arena_reset(s->arena);
    return controller_orchestrate(rig_server(s->rig), request, s->arena, &s->reply);
}

static void expect_error(const struct setting_up *s, const char *text)
{
    assert_int_equal(s->reply.type, CONTROLLER_ERROR);
    if (s->reply.error.length < strlen(text) ||
        memcmp(s->reply.error.text, text, strlen(text)) != 0) {
        fail_msg("'%.*s' is not '%s'", (int)s->reply.error.length, s->reply.error.text, text);
    }
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- orders ---- */

static void test_clear_reaches_every_worker(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *one = rig_worker_start(s->rig, "inst", 1, RIG_ANSWERS, 768);
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_ANSWERS, 768);
    struct rig_worker *other = rig_worker_start(s->rig, "other", 0, RIG_ANSWERS, 1);
    const struct controller_msg request = clear_of("inst");
    char text[512];

    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_CLEAR_RET);
    assert_int_equal(s->reply.number, 768);
    assert_memory_equal(s->reply.event_id.text, "Clear1", 6);
    rig_worker_last(one, text, sizeof(text));
    assert_string_equal(text, "ClearWorkerMsg Worker1Clear1 LocalCPUBackend    0");
    assert_int_equal(rig_worker_orders(zero), 1);
    assert_int_equal(rig_worker_orders(other), 0);
    rig_worker_stop(one);
    rig_worker_stop(zero);
    rig_worker_stop(other);
}

static void test_numbers_must_agree(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_ANSWERS, 768);
    struct rig_worker *one = rig_worker_start(s->rig, "inst", 1, RIG_ANSWERS, 769);
    struct controller_msg request = clear_of("inst");

    assert_int_equal(run(s, &request), 0);
    expect_error(s, "The number of tokens cleared should be the same across all workers.");
    request.type = CONTROLLER_PIN;
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "The number of tokens pinned should be the same across all workers.");
    request.type = CONTROLLER_DECOMPRESS;
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "The number of tokens decompressed should be the same across all workers.");
    rig_worker_stop(zero);
    rig_worker_stop(one);
}

static void test_unknown_instance_is_named(void **state)
{
    struct setting_up *s = *state;
    struct controller_msg request = clear_of("nobody");

    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Instance 'nobody' is unknown.");
    request.type = CONTROLLER_HEALTH;
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_HEALTH_RET);
    assert_int_equal(s->reply.error_codes.count, 0);
}

static void test_text_of_the_worker_comes_through(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_ERROR, 0);
    const struct controller_msg request = clear_of("inst");

    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Worker error: no such thing");
    rig_worker_set(zero, RIG_OTHER, 0);
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Worker 0 of instance 'inst' answered FullSyncStartRetMsg to ClearWorkerMsg.");
    rig_worker_set(zero, RIG_GARBAGE, 0);
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Worker 0 of instance 'inst' sent what does not decode: ");
    rig_worker_stop(zero);
}

static void test_silent_worker_is_named_and_spoils_nothing(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_ANSWERS, 5);
    struct rig_worker *one = rig_worker_start(s->rig, "inst", 1, RIG_SILENT, 5);
    const struct controller_msg request = clear_of("inst");
    uint64_t began = now_ms();

    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Worker 1 of instance 'inst' at 127.0.0.1:");
    assert_non_null(memmem(s->reply.error.text, s->reply.error.length, "did not answer", 14));
    assert_true(now_ms() - began >= 300 && now_ms() - began < 10000);
    assert_int_equal(controller_server_count(rig_server(s->rig), CONTROLLER_COUNT_CONTROL_TIMEOUTS),
                     1);
    rig_worker_set(one, RIG_ANSWERS, 5); /* the late answer must not be taken for the next one */
    for (int i = 0; s->reply.type != CONTROLLER_CLEAR_RET; i++) {
        assert_true(i < 50);
        assert_int_equal(run(s, &request), 0);
    }
    assert_int_equal(s->reply.number, 5);
    rig_worker_stop(zero);
    rig_worker_stop(one);
}

static void test_worker_that_is_not_there(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_ANSWERS, 5);
    struct kvl_worker_desc desc = {
        .size = sizeof(desc),
        .name = {.instance = rig_text("inst"), .worker_id = 1},
        .ip = rig_text("127.0.0.1"),
        .port = 1,
    };
    struct controller_msg request = clear_of("inst");

    request.type = CONTROLLER_HEALTH;
    rig_host(s->rig)->registry_ops->register_worker(rig_host(s->rig)->registry, &desc, NULL);
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.error_codes.count, 2);
    assert_int_equal(s->reply.error_codes.at[0].code, 5);
    assert_int_equal(s->reply.error_codes.at[1].worker_id, 1);
    assert_int_equal(s->reply.error_codes.at[1].code, -1004);
    desc.port = 70000;
    rig_host(s->rig)->registry_ops->register_worker(rig_host(s->rig)->registry, &desc, NULL);
    request.type = CONTROLLER_CLEAR;
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Worker 1 of instance 'inst' at 127.0.0.1:70000 cannot be reached: ");
    rig_worker_stop(zero);
}

static void test_health_codes(void **state)
{
    static const struct {
        enum rig_mood mood;
        int64_t code;
    } moods[] = {{RIG_ANSWERS, 7}, {RIG_ERROR, -1001}, {RIG_OTHER, -1002}, {RIG_GARBAGE, -1003}};
    struct setting_up *s = *state;
    struct rig_worker *workers[4];
    struct controller_msg request = clear_of("inst");

    request.type = CONTROLLER_HEALTH;
    for (int i = 3; i >= 0; i--) {
        workers[i] = rig_worker_start(s->rig, "inst", i, moods[i].mood, 7);
    }
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_HEALTH_RET);
    assert_int_equal(s->reply.error_codes.count, 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s->reply.error_codes.at[i].worker_id, i);
        assert_int_equal(s->reply.error_codes.at[i].code, moods[i].code);
        rig_worker_stop(workers[i]);
    }
}

static void test_move_pairs_workers(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *from = rig_worker_start(s->rig, "from", 3, RIG_ANSWERS, 256);
    struct rig_worker *to = rig_worker_start(s->rig, "to", 9, RIG_ANSWERS, 1);
    struct kvl_chunk_id tokens[] = {{.bits = 1}, {.bits = 2}};
    struct controller_msg request = {
        .type = CONTROLLER_MOVE,
        .event_id = rig_text("Move1"),
        .old_position = {rig_text("from"), rig_text("LocalCPUBackend")},
        .new_position = {rig_text("to"), rig_text("LocalDiskBackend")},
        .ids = {.at = tokens, .count = 2, .is_set = 1},
        .copy = 1,
    };
    struct rig_worker *more;
    char text[512];

    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_MOVE_RET);
    assert_int_equal(s->reply.number, 256);
    assert_int_equal(rig_worker_orders(to), 0);
    rig_worker_last(from, text, sizeof(text));
    assert_memory_equal(text, "MoveWorkerMsg MoveWorker3", 25);
    assert_non_null(strstr(text, "LocalCPUBackend 10.0.0.9:8200 LocalDiskBackend 2"));
    more = rig_worker_start(s->rig, "to", 10, RIG_ANSWERS, 1);
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Instance 'from' has 1 workers and instance 'to' has 2");
    request.new_position.first = rig_text("nobody");
    assert_int_equal(run(s, &request), 0);
    expect_error(s, "Instance 'nobody' is unknown.");
    rig_worker_stop(from);
    rig_worker_stop(to);
    rig_worker_stop(more);
}

/* ---- at the same time ---- */

struct caller {
    struct setting_up *s;
    pthread_t thread;
    int code;
    enum controller_type type;
    uint64_t ended_ms;
};

static void *caller_run(void *arg)
{
    struct caller *caller = arg;
    const struct controller_msg request = clear_of("inst");
    struct controller_arena *arena;
    struct controller_msg reply;

    assert_int_equal(controller_arena_create(&arena), 0);
    caller->code = controller_orchestrate(rig_server(caller->s->rig), &request, arena, &reply);
    caller->type = caller->code == 0 ? reply.type : CONTROLLER_NONE;
    caller->ended_ms = now_ms();
    controller_arena_destroy(arena);
    return NULL;
}

static void test_one_order_at_a_time(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_SILENT, 5);
    struct rig_worker *other = rig_worker_start(s->rig, "other", 0, RIG_ANSWERS, 5);
    struct controller_msg request = clear_of("other");
    struct caller callers[4];

    for (int i = 0; i < 4; i++) {
        callers[i] = (struct caller){.s = s};
        pthread_create(&callers[i].thread, NULL, caller_run, &callers[i]);
    }
    rig_worker_wait(zero, 1);
    assert_int_equal(run(s, &request), 0); /* another instance is not held up */
    assert_int_equal(s->reply.type, CONTROLLER_CLEAR_RET);
    assert_int_equal(rig_worker_orders(zero), 1);
    rig_worker_set(zero, RIG_ANSWERS, 5);
    for (int i = 0; i < 4; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].code, 0);
        assert_int_equal(callers[i].type, CONTROLLER_CLEAR_RET);
    }
    assert_int_equal(rig_worker_orders(zero), 4);
    rig_worker_stop(zero);
    rig_worker_stop(other);
}

static void test_stop_ends_orders_under_way(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *zero = rig_worker_start(s->rig, "inst", 0, RIG_SILENT, 5);
    const struct controller_msg request = clear_of("inst");
    struct caller callers[2];
    uint64_t began;

    for (int i = 0; i < 2; i++) {
        callers[i] = (struct caller){.s = s};
        pthread_create(&callers[i].thread, NULL, caller_run, &callers[i]);
    }
    rig_worker_wait(zero, 1);
    began = now_ms();
    rig_stop(s->rig);
    assert_true(now_ms() - began < 5000);
    for (int i = 0; i < 2; i++) {
        pthread_join(callers[i].thread, NULL);
        assert_int_equal(callers[i].code, -ECANCELED);
    }
    assert_int_equal(run(s, &request), -ECANCELED);
    rig_worker_stop(zero);
}

/* ---- queries ---- */

static void test_lookup_hashes_tokens(void **state)
{
    struct setting_up *s = *state;
    const struct kvl_host *host = rig_host(s->rig);
    const struct controller_hashing hashing = {.chunk_size = 256};
    struct rig_worker *short_one = rig_worker_start(s->rig, "short", 0, RIG_ANSWERS, 0);
    struct rig_worker *long_one = rig_worker_start(s->rig, "long", 0, RIG_ANSWERS, 0);
    const struct kvl_worker_name short_name = {.instance = rig_text("short")};
    const struct kvl_worker_name long_name = {.instance = rig_text("long")};
    struct kvl_chunk_id tokens[522];
    struct kvl_chunk_id ids[3];
    struct kvl_key_op ops[3];
    struct controller_msg request = {.type = CONTROLLER_LOOKUP, .event_id = rig_text("e")};

    for (uint32_t i = 0; i < 522; i++) {
        tokens[i] = (struct kvl_chunk_id){.bits = i};
    }
    controller_hash_chain(&hashing, tokens, 522, ids);
    for (uint32_t i = 0; i < 3; i++) {
        ops[i] = (struct kvl_key_op){.id = ids[i], .seq = i, .kind = KVL_KEY_ADMIT};
    }
    assert_int_equal(host->registry_ops->apply(host->registry, &short_name,
                                               rig_text("LocalCPUBackend"), ops, 1, NULL),
                     0);
    assert_int_equal(host->registry_ops->apply(host->registry, &long_name,
                                               rig_text("LocalDiskBackend"), ops, 3, NULL),
                     0);
    request.ids.at = tokens;
    request.ids.count = 522;
    request.ids.is_set = 1;
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_LOOKUP_RET);
    assert_int_equal(s->reply.layout_info.count, 2);
    assert_memory_equal(s->reply.layout_info.at[0].instance_id.text, "long", 4);
    assert_memory_equal(s->reply.layout_info.at[0].location.text, "LocalDiskBackend", 16);
    assert_int_equal(s->reply.layout_info.at[0].count, 522); /* its last chunk is partial */
    assert_int_equal(s->reply.layout_info.at[1].count, 256);
    request.ids.count = 0;
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.layout_info.count, 0);
    rig_worker_stop(short_one);
    rig_worker_stop(long_one);
}

static void test_queries(void **state)
{
    struct setting_up *s = *state;
    struct rig_worker *a0 = rig_worker_start(s->rig, "a", 0, RIG_ANSWERS, 0);
    struct rig_worker *a1 = rig_worker_start(s->rig, "a", 1, RIG_ANSWERS, 0);
    struct rig_worker *b0 = rig_worker_start(s->rig, "b", 0, RIG_ANSWERS, 0);
    struct kvl_chunk_id one = {.bits = 1};
    struct controller_msg request = {.type = CONTROLLER_QUERY_INST, .ip = rig_text("127.0.0.1")};

    assert_int_equal(run(s, &request), 0);
    assert_true(s->reply.found_instance.is_set);
    assert_memory_equal(s->reply.found_instance.value.text, "a", 1);
    request.ip = rig_text("9.9.9.9");
    assert_int_equal(run(s, &request), 0);
    assert_false(s->reply.found_instance.is_set);

    request = (struct controller_msg){.type = CONTROLLER_QUERY_WORKER_INFO,
                                      .instance_id = rig_text("all")};
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.worker_infos.count, 3);
    request.ids.at = &one;
    request.ids.count = 1;
    request.ids.is_set = 1;
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.worker_infos.count, 1);
    assert_int_equal(s->reply.worker_infos.at[0].worker_id, 1);
    assert_memory_equal(s->reply.worker_infos.at[0].peer_init_url.value.text, "10.0.0.1:8200", 13);
    request.ids.count = 0;
    request.instance_id = rig_text("b");
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.worker_infos.count, 1);
    request.instance_id = rig_text("nobody");
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.worker_infos.count, 0);

    request.type = CONTROLLER_CHECK_FINISH;
    assert_int_equal(run(s, &request), 0);
    assert_int_equal(s->reply.type, CONTROLLER_ERROR);
    assert_int_equal(s->reply.error.length, 0);
    request.type = CONTROLLER_REGISTER;
    assert_int_equal(run(s, &request), -EINVAL);
    rig_worker_stop(a0);
    rig_worker_stop(a1);
    rig_worker_stop(b0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_clear_reaches_every_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_numbers_must_agree, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown_instance_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_text_of_the_worker_comes_through, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_silent_worker_is_named_and_spoils_nothing,
                                        set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(test_worker_that_is_not_there, set_up_hasty, tear_down),
        cmocka_unit_test_setup_teardown(test_health_codes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_move_pairs_workers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_one_order_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stop_ends_orders_under_way, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lookup_hashes_tokens, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_queries, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
