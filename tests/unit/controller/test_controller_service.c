/* SPDX-License-Identifier: Apache-2.0 */
/* Control calls to a worker, whose controller is away: that must not matter. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zmq.h>

#include "controller_wire.h"
#include "worker_rig.h"

/* hash chain of the tokens 0 .. 521 in chunks of 256, NONE_HASH 0, extra () */
static const int64_t chain[3] = {3131758554629441992, 8783757053568497755, -2187750341664164242};
#define TOKENS 522u

static struct rig *rig; /* of the test at hand */
static void *zmq;
static void *asker;
static char endpoint[300];
static struct controller_arena *arena;
static uint8_t answer_frame[4096];
static struct kvl_chunk_id tokens[TOKENS];

static void *connect_asker(void)
{
    const int no_linger = 0;
    const int patience = 20000;
    void *socket = zmq_socket(zmq, ZMQ_REQ);

    (void)zmq_setsockopt(socket, ZMQ_LINGER, &no_linger, sizeof(no_linger));
    (void)zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    assert_int_equal(zmq_connect(socket, endpoint), 0);
    return socket;
}

static int set_up(void **state)
{
    (void)state;
    rig = rig_make("127.0.0.1:1", "127.0.0.1:1");
    zmq = zmq_ctx_new();
    assert_int_equal(controller_arena_create(&arena), 0);
    for (uint32_t i = 0; i < TOKENS; i++) {
        tokens[i] = (struct kvl_chunk_id){.bits = i};
    }
    return 0;
}

static void start(void)
{
    struct kvl_health health;

    rig_create(rig);
    rig_start(rig);
    (void)rig_health(rig, &health);
    (void)snprintf(endpoint, sizeof(endpoint), "tcp://%s", health.address);
    asker = connect_asker();
}

static int tear_down(void **state)
{
    (void)state;
    (void)zmq_close(asker);
    (void)zmq_ctx_term(zmq);
    controller_arena_destroy(arena);
    rig_end(rig);
    return 0;
}

static struct kvl_text text_of(const char *text)
{
    return (struct kvl_text){.text = text, .length = (uint32_t)strlen(text)};
}

static struct controller_msg receive(void)
{
    struct controller_msg answer;
    char why[200];
    int n = zmq_recv(asker, answer_frame, sizeof(answer_frame), 0);

    assert_true(n > 0 && n <= (int)sizeof(answer_frame));
    assert_int_equal(controller_decode(answer_frame, (size_t)n, &controller_default_limits, arena,
                                       &answer, why, sizeof(why)),
                     0);
    return answer;
}

static struct controller_msg ask(const struct controller_msg *call)
{
    struct controller_buf buf = {0};

    assert_int_equal(controller_encode(call, &buf), 0);
    assert_int_equal(zmq_send(asker, buf.at, buf.length, 0), (int)buf.length);
    controller_buf_fini(&buf);
    return receive();
}

static struct controller_msg ask_for(enum controller_type type, const char *location)
{
    struct controller_msg call = {.type = type};

    call.event_id = text_of("Worker0event");
    call.location = text_of(location);
    call.method = text_of("cachegen");
    call.old_position.location = text_of(location);
    call.new_position.first = text_of("127.0.0.1:9");
    call.new_position.location = text_of(location);
    call.ids.at = tokens;
    call.ids.count = TOKENS;
    call.ids.is_set = 1;
    return ask(&call);
}

static void expect_error(const struct controller_msg *answer, const char *begin)
{
    assert_int_equal(answer->type, CONTROLLER_ERROR);
    if (strncmp(answer->error.text, begin, strlen(begin)) != 0) {
        fail_msg("'%.*s'", (int)answer->error.length, answer->error.text);
    }
}

static void put_chain(void)
{
    for (int i = 0; i < 3; i++) {
        rig_put(rig, chain[i]);
    }
}

static void test_health_is_zero(void **state)
{
    struct controller_msg answer;

    (void)state;
    start();
    answer = ask_for(CONTROLLER_HEALTH_WORKER, "");
    assert_int_equal(answer.type, CONTROLLER_HEALTH_WORKER_RET);
    assert_int_equal(answer.number, 0);
}

static void test_clear_counts_tokens(void **state)
{
    static const struct kvl_attrs opaque = {.fmt = KVL_FMT_BINARY, .shape = {9, 9, 9, 9}};
    struct controller_msg answer;

    (void)state;
    start();
    rig_put(rig, 1);
    rig_put(rig, 2);
    fake_host_put(rig->fake, "opaque", "x", 1, &opaque);
    answer = ask_for(CONTROLLER_CLEAR_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.type, CONTROLLER_CLEAR_WORKER_RET);
    assert_int_equal(answer.number, 512);
    assert_int_equal(fake_host_stored(rig->fake), 0);
    assert_int_equal(rig_stat(rig, "chunks_cleared"), 3);
}

static void test_clear_knows_one_location(void **state)
{
    struct controller_msg answer;

    (void)state;
    start();
    rig_put(rig, 1);
    answer = ask_for(CONTROLLER_CLEAR_WORKER, "LocalDiskBackend");
    expect_error(&answer, "Worker error: there is no location 'LocalDiskBackend'");
    assert_int_equal(fake_host_stored(rig->fake), 1);
}

static void test_pin_keeps_chunks_from_clear(void **state)
{
    struct controller_msg answer;

    (void)state;
    start();
    put_chain();
    rig_put(rig, 77);
    answer = ask_for(CONTROLLER_PIN_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.type, CONTROLLER_PIN_WORKER_RET);
    assert_int_equal(answer.number, TOKENS);
    answer = ask_for(CONTROLLER_PIN_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.number, TOKENS); /* again takes no second lease */
    RIG_WAIT(rig_stat(rig, "chunks_pinned_now") == 3);
    answer = ask_for(CONTROLLER_CLEAR_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.number, 256);
    assert_int_equal(fake_host_stored(rig->fake), 3);
}

static void test_pins_end(void **state)
{
    struct controller_msg answer;

    (void)state;
    rig_set(rig, "pin_time", "50");
    start();
    put_chain();
    answer = ask_for(CONTROLLER_PIN_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.number, TOKENS);
    assert_int_equal(fake_host_wait_releases(rig->fake, 3), 0);
    RIG_WAIT(rig_stat(rig, "chunks_pinned_now") == 0);
}

static void test_pin_stops_at_the_first_hole(void **state)
{
    struct controller_msg answer;

    (void)state;
    start();
    rig_put(rig, chain[0]);
    rig_put(rig, chain[2]);
    answer = ask_for(CONTROLLER_PIN_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.number, 256);
    RIG_WAIT(rig_stat(rig, "chunks_pinned_now") == 1);
}

static void test_pin_stops_at_the_budget(void **state)
{
    struct controller_msg answer;

    (void)state;
    rig_set(rig, "pin_budget", "40"); /* two chunks of 16 bytes */
    start();
    put_chain();
    answer = ask_for(CONTROLLER_PIN_WORKER, "LocalCPUBackend");
    assert_int_equal(answer.number, 512);
    RIG_WAIT(rig_stat(rig, "chunks_pinned_now") == 2);
}

static void test_what_is_not_offered_says_so(void **state)
{
    static const enum controller_type calls[] = {CONTROLLER_COMPRESS_WORKER,
                                                 CONTROLLER_DECOMPRESS_WORKER};
    struct controller_msg answer;

    (void)state;
    start();
    answer = ask_for(CONTROLLER_MOVE_WORKER, "LocalDiskBackend");
    expect_error(&answer, "Worker error: there is no location 'LocalDiskBackend'");
    answer = ask_for(CONTROLLER_MOVE_WORKER, "LocalCPUBackend"); /* there is nothing to move */
    assert_int_equal(answer.type, CONTROLLER_MOVE_WORKER_RET);
    assert_int_equal(answer.number, 0);
    put_chain();
    answer = ask_for(CONTROLLER_MOVE_WORKER, "LocalCPUBackend");
    expect_error(&answer, "Worker error: cannot move: this worker or the target has no peer");
    assert_int_equal(fake_host_stored(rig->fake), 3);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        answer = ask_for(calls[i], "LocalCPUBackend");
        expect_error(&answer, "Worker error: this worker ");
    }
    answer = ask_for(CONTROLLER_CHECK_FINISH_WORKER, "");
    expect_error(&answer, "Unknown message: CheckFinishWorkerMsg");
    answer = ask_for(CONTROLLER_SYNC_END, "");
    expect_error(&answer, "Unknown message: FullSyncEndMsg");
    assert_int_equal(rig_stat(rig, "control_calls_refused"), 6);
}

static void test_garbage_is_answered(void **state)
{
    /* the fourth is {"type": "Foo"} */
    static const char *const frames[] = {"", "\xc1", "{", "\x81\xa4type\xa3\x46oo",
                                         "\x93\x01\x02\x03"};
    static const size_t lengths[] = {0, 1, 1, 10, 4};
    struct controller_msg answer;

    (void)state;
    start();
    for (size_t i = 0; i < sizeof(frames) / sizeof(frames[0]); i++) {
        assert_int_equal(zmq_send(asker, frames[i], lengths[i], 0), (int)lengths[i]);
        answer = receive();
        expect_error(&answer, "Worker error: ");
    }
    /* more frames than a call has */
    assert_int_equal(zmq_send(asker, "\xc1", 1, ZMQ_SNDMORE), 1);
    assert_int_equal(zmq_send(asker, "x", 1, 0), 1);
    answer = receive();
    expect_error(&answer, "Worker error: ");
    answer = ask_for(CONTROLLER_HEALTH_WORKER, "");
    assert_int_equal(answer.type, CONTROLLER_HEALTH_WORKER_RET);
}

static void test_askers_that_vanish_block_nobody(void **state)
{
    struct controller_buf buf = {0};
    struct controller_msg call = {.type = CONTROLLER_HEALTH_WORKER};
    struct controller_msg answer;

    (void)state;
    start();
    assert_int_equal(controller_encode(&call, &buf), 0);
    for (int i = 0; i < 50; i++) {
        void *other = connect_asker();

        assert_int_equal(zmq_send(other, buf.at, buf.length, 0), (int)buf.length);
        (void)zmq_close(other);
    }
    controller_buf_fini(&buf);
    answer = ask_for(CONTROLLER_HEALTH_WORKER, "");
    assert_int_equal(answer.type, CONTROLLER_HEALTH_WORKER_RET);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        T(test_health_is_zero),
        T(test_clear_counts_tokens),
        T(test_clear_knows_one_location),
        T(test_pin_keeps_chunks_from_clear),
        T(test_pins_end),
        T(test_pin_stops_at_the_first_hole),
        T(test_pin_stops_at_the_budget),
        T(test_what_is_not_offered_says_so),
        T(test_garbage_is_answered),
        T(test_askers_that_vanish_block_nobody),
#undef T
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
