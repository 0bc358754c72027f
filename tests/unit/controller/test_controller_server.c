/* SPDX-License-Identifier: Apache-2.0 */
/* The main path over real sockets, without Python: golden bytes in, golden bytes out. */
#include "frames.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "controller_bind.h"
#include "rig.h"
#include "vectors.h"

static struct frame golden(const char *name)
{
    for (size_t i = 0; i < sizeof(vector_messages) / sizeof(vector_messages[0]); i++) {
        if (strcmp(vector_messages[i].name, name) == 0) {
            return frame_of_hex(vector_messages[i].hex);
        }
    }
    fail_msg("no golden message '%s'", name);
    return (struct frame){0};
}

static void send_golden(void *socket, int dealer, const char *name)
{
    struct frame frame = golden(name);

    rig_send(socket, dealer, frame.bytes, frame.length);
    free(frame.bytes);
}

static void expect_golden(void *socket, const char *name)
{
    struct frame frame = golden(name);
    uint8_t bytes[1024];
    size_t n = rig_receive(socket, bytes, sizeof(bytes));

    assert_int_equal(n, frame.length);
    assert_memory_equal(bytes, frame.bytes, n);
    free(frame.bytes);
}

static int set_up(void **state)
{
    *state = rig_start(NULL);
    return 0;
}

static int tear_down(void **state)
{
    rig_free(*state);
    return 0;
}

static int set_up_small_frames(void **state)
{
    static const char *const pairs[] = {"max_frame", "4096", NULL};

    *state = rig_start(pairs);
    return 0;
}

/* ---- golden bytes ---- */

static void test_golden_life_of_a_worker(void **state)
{
    struct rig *rig = *state;
    void *dealer = rig_dealer(rig);
    void *beats = rig_heartbeat(rig);
    void *push = rig_push(rig);
    const struct controller_msg *answer;
    struct kvl_chunk_id ids[] = {{.bits = 3970174878686283145u}};
    const struct controller_msg lookup = {.type = CONTROLLER_P2P_LOOKUP,
                                          .ids = {.at = ids, .count = 1, .is_set = 1},
                                          .instance_id = rig_text("inst_b")};
    uint8_t bytes[1024];

    send_golden(dealer, 1, "register_p2p");
    assert_true(rig_receive(dealer, bytes, sizeof(bytes)) > 0);
    send_golden(dealer, 1, "batched_p2p_lookup");
    expect_golden(dealer, "batched_p2p_lookup_ret_miss");
    send_golden(push, 0, "batched_kv_operation");
    rig_wait(rig, CONTROLLER_COUNT_KEY_OPS, 2);
    answer = rig_ask(rig, dealer, &lookup);
    assert_int_equal(answer->layout_info.count, 1);
    assert_int_equal(answer->layout_info.at[0].count, 1);
    assert_int_equal(answer->layout_info.at[0].peer_init_url.length, 13);
    send_golden(dealer, 1, "full_sync_start");
    expect_golden(dealer, "full_sync_start_ret_accepted");
    send_golden(beats, 1, "heartbeat");
    expect_golden(beats, "heartbeat_ret_empty"); /* it is syncing already */
    send_golden(push, 0, "full_sync_batch");
    rig_wait(rig, CONTROLLER_COUNT_SYNC_KEYS, 2);
    send_golden(push, 0, "deregister");
    rig_wait(rig, CONTROLLER_COUNT_PULL_FRAMES, 3);
    answer = rig_ask(rig, dealer, &lookup);
    assert_int_equal(answer->layout_info.at[0].count, 0);
    rig_close(dealer);
    rig_close(beats);
    rig_close(push);
}

/* ---- what goes wrong ---- */

static void test_bad_frames_lose_only_themselves(void **state)
{
    struct rig *rig = *state;
    void *dealer = rig_dealer(rig);
    void *push = rig_push(rig);
    struct frame ops = golden("batched_kv_operation");
    uint8_t bytes[1024];

    send_golden(dealer, 1, "register_p2p");
    (void)rig_receive(dealer, bytes, sizeof(bytes));
    assert_int_equal(zmq_send(push, "\xc1", 1, ZMQ_SNDMORE), 1);
    assert_int_equal(zmq_send(push, "", 0, ZMQ_SNDMORE), 0);
    assert_int_equal(zmq_send(push, ops.bytes, ops.length - 1, ZMQ_SNDMORE), ops.length - 1);
    rig_send(push, 0, ops.bytes, ops.length);
    rig_wait(rig, CONTROLLER_COUNT_KEY_OPS, 2);
    assert_int_equal(controller_server_count(rig_server(rig), CONTROLLER_COUNT_BAD_FRAMES), 3);
    free(ops.bytes);
    rig_close(dealer);
    rig_close(push);
}

static void test_errors_are_answered(void **state)
{
    struct rig *rig = *state;
    void *dealer = rig_dealer(rig);
    void *beats = rig_heartbeat(rig);
    const struct controller_msg hello = {
        .type = CONTROLLER_DEREGISTER, .instance_id = rig_text("i"), .ip = rig_text("x")};
    const struct controller_msg *answer = rig_ask(rig, dealer, &hello);

    assert_int_equal(answer->type, CONTROLLER_ERROR);
    assert_memory_equal(
        answer->error.text,
        "Unknown message type: <class 'lmcache.v1.cache_controller.message.DeRegisterMsg'>",
        answer->error.length);
    answer = rig_ask(rig, beats, &hello);
    assert_int_equal(answer->type, CONTROLLER_ERROR);
    assert_memory_equal(
        answer->error.text,
        "Expected HeartbeatMsg, got <class 'lmcache.v1.cache_controller.message.DeRegisterMsg'>",
        answer->error.length);
    assert_int_equal(zmq_send(dealer, "only one", 8, 0), 8); /* no empty part: no answer */
    rig_wait(rig, CONTROLLER_COUNT_SHORT_MESSAGES, 1);
    answer = rig_ask(rig, dealer, &hello);
    assert_int_equal(answer->type, CONTROLLER_ERROR);
    rig_close(dealer);
    rig_close(beats);
}

static void test_answers_keep_the_order_of_requests(void **state)
{
    struct rig *rig = *state;
    void *dealer = rig_dealer(rig);
    void *push = rig_push(rig);
    struct kvl_key_op ops[64];
    struct kvl_chunk_id ids[64];
    struct controller_msg msg = {.type = CONTROLLER_KV_OPS,
                                 .instance_id = rig_text("inst_a"),
                                 .location = rig_text("LocalCPUBackend"),
                                 .operations = {.at = ops, .count = 64}};
    struct controller_buf buf = {0};
    uint8_t bytes[1024];

    send_golden(dealer, 1, "register_p2p");
    (void)rig_receive(dealer, bytes, sizeof(bytes));
    for (uint32_t i = 0; i < 64; i++) {
        ids[i] = (struct kvl_chunk_id){.bits = 1000 + i};
        ops[i] = (struct kvl_key_op){.id = ids[i], .seq = i, .kind = KVL_KEY_ADMIT};
    }
    rig_push_msg(push, &msg);
    rig_wait(rig, CONTROLLER_COUNT_KEY_OPS, 64);
    msg = (struct controller_msg){.type = CONTROLLER_P2P_LOOKUP, .instance_id = rig_text("b")};
    msg.ids.at = ids;
    for (uint32_t i = 0; i < 500; i++) {
        msg.ids.count = 1 + i * 7 % 64;
        buf.length = 0;
        assert_int_equal(controller_encode(&msg, &buf), 0);
        rig_send(dealer, 1, buf.at, buf.length);
    }
    for (uint32_t i = 0; i < 500; i++) {
        struct controller_arena *arena;
        struct controller_msg answer;
        char error[256];
        size_t n = rig_receive(dealer, bytes, sizeof(bytes));

        assert_int_equal(controller_arena_create(&arena), 0);
        assert_int_equal(controller_decode(bytes, n, &controller_default_limits, arena, &answer,
                                           error, sizeof(error)),
                         0);
        assert_int_equal(answer.layout_info.at[0].count, 1 + i * 7 % 64);
        controller_arena_destroy(arena);
    }
    controller_buf_fini(&buf);
    rig_close(dealer);
    rig_close(push);
}

static void test_req_client(void **state)
{
    struct rig *rig = *state;
    void *req = rig_req(rig);
    uint8_t bytes[1024];

    send_golden(req, 0, "register_p2p");
    assert_true(rig_receive(req, bytes, sizeof(bytes)) > 0);
    send_golden(req, 0, "batched_p2p_lookup");
    expect_golden(req, "batched_p2p_lookup_ret_miss");
    rig_close(req);
}

static void test_frame_over_the_limit_cuts_its_sender_off(void **state)
{
    struct rig *rig = *state;
    void *dealer = rig_dealer(rig);
    void *big = rig_push(rig);
    static const uint8_t zeros[5000];
    uint8_t bytes[1024];
    void *push;

    rig_send(big, 0, zeros, sizeof(zeros));
    send_golden(dealer, 1, "register_p2p");
    (void)rig_receive(dealer, bytes, sizeof(bytes));
    push = rig_push(rig);
    send_golden(push, 0, "batched_kv_operation");
    rig_wait(rig, CONTROLLER_COUNT_KEY_OPS, 2);
    assert_int_equal(controller_server_count(rig_server(rig), CONTROLLER_COUNT_PULL_FRAMES), 1);
    rig_close(dealer);
    rig_close(push);
    rig_close(big);
}

/* ---- addresses ---- */

static void test_heartbeat_address(void **state)
{
    char text[CONTROLLER_ADDRESS_ROOM];
    char own[CONTROLLER_ADDRESS_ROOM];

    (void)state;
    controller_bind_address_for("10.1.2.3", 8082, rig_text("10.1.2.3"), text, sizeof(text));
    assert_string_equal(text, "10.1.2.3:8082"); /* as it was given, whoever asks */
    controller_bind_address_for("::1", 8082, rig_text("x"), text, sizeof(text));
    assert_string_equal(text, "[::1]:8082");
    controller_bind_address_for("0.0.0.0", 8082, rig_text("nobody"), own, sizeof(own));
    assert_null(strstr(own, "0.0.0.0"));
    assert_null(strstr(own, "://"));
    *strrchr(own, ':') = '\0';
    controller_bind_address_for("*", 8082, rig_text(own), text, sizeof(text));
    assert_string_equal(text, "127.0.0.1:8082"); /* a neighbour on this machine */
}

static void test_wide_address_wants_consent(void **state)
{
    struct kvl_err err = {.size = sizeof(err)};

    (void)state;
    assert_int_equal(controller_bind_check("0.0.0.0", 0, &err), -EINVAL);
    assert_non_null(strstr(err.text, "allow_remote = yes"));
    assert_int_equal(controller_bind_check("*", 0, &err), -EINVAL);
    assert_int_equal(controller_bind_check("::", 0, &err), -EINVAL);
    assert_int_equal(controller_bind_check("192.168.1.1", 0, &err), -EINVAL);
    assert_int_equal(controller_bind_check("0.0.0.0", 1, &err), 0);
    assert_int_equal(controller_bind_check("127.0.0.5", 0, &err), 0);
    assert_int_equal(controller_bind_check("::1", 0, &err), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_golden_life_of_a_worker, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_frames_lose_only_themselves, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors_are_answered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_answers_keep_the_order_of_requests, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_req_client, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_frame_over_the_limit_cuts_its_sender_off,
                                        set_up_small_frames, tear_down),
        cmocka_unit_test(test_heartbeat_address),
        cmocka_unit_test(test_wide_address_wants_consent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
