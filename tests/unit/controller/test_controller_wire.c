/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller_wire.h"
#include "frames.h"
#include "pack.h"
#include "vectors.h"

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

/* The fields that follow `type` in a RegisterMsg. */
#define REGISTER_REST "'instance_id' 'a' 'worker_id' 0 'ip' '1' 'port' 1 'peer_init_url' nil"
#define KV_OPS "{5 'type' 'BatchedKVOperationMsg' 'instance_id' 'a' 'worker_id' 0 'location' 'x' "

/* One message at a time; `frame` keeps its bytes. */
struct rig {
    struct controller_arena *arena;
    struct controller_limits limits;
    struct controller_msg msg;
    struct frame frame;
    char error[256];
};

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    assert_non_null(rig);
    rig->limits = controller_default_limits;
    assert_int_equal(controller_arena_create(&rig->arena), 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;

    controller_arena_destroy(rig->arena);
    free(rig->frame.bytes);
    free(rig);
    return 0;
}

static int decode_frame(struct rig *rig, struct frame frame)
{
    free(rig->frame.bytes);
    rig->frame = frame;
    memset(rig->error, '?', sizeof(rig->error));
    return controller_decode(frame.bytes, frame.length, &rig->limits, rig->arena, &rig->msg,
                             rig->error, sizeof(rig->error));
}

static int decode(struct rig *rig, const char *words)
{
    return decode_frame(rig, frame_of(words));
}

static void expect_error(struct rig *rig, const char *words, int r, const char *error)
{
    rig->msg.type = CONTROLLER_TYPES;
    assert_int_equal(decode(rig, words), r);
    assert_string_equal(rig->error, error);
    assert_int_equal(rig->msg.type, CONTROLLER_TYPES); /* outputs only on success */
}

/* The message encodes to these bytes. */
static void expect_bytes(struct rig *rig, struct frame expected)
{
    struct controller_buf buf = {0};

    assert_int_equal(controller_encode(&rig->msg, &buf), 0);
    assert_int_equal(buf.length, expected.length);
    assert_memory_equal(buf.at, expected.bytes, expected.length);
    controller_buf_fini(&buf);
    free(expected.bytes);
}

static void expect_words(struct rig *rig, const char *words, const char *expected)
{
    assert_int_equal(decode(rig, words), 0);
    expect_bytes(rig, frame_of(expected));
}

static void expect_text(struct kvl_text text, const char *expected)
{
    assert_int_equal(text.length, strlen(expected));
    assert_memory_equal(text.text, expected, text.length);
}

static void test_golden_frames_come_back(void **state)
{
    struct rig *rig = *state;

    for (size_t i = 0; i < COUNT(vector_messages); i++) {
        assert_int_equal(decode_frame(rig, frame_of_hex(vector_messages[i].hex)), 0);
        expect_bytes(rig, frame_of_hex(vector_messages[i].hex));
    }
}

/* The JSON twin has the fields by name, so this says that hex decodes to these fields. */
static void test_golden_fields_are_the_golden_bytes(void **state)
{
    struct rig *rig = *state;
    struct frame twin;

    for (size_t i = 0; i < COUNT(vector_messages); i++) {
        twin.length = strlen(vector_messages[i].json);
        twin.bytes = malloc(twin.length);
        assert_non_null(twin.bytes);
        memcpy(twin.bytes, vector_messages[i].json, twin.length);
        assert_int_equal(decode_frame(rig, twin), 0);
        expect_bytes(rig, frame_of_hex(vector_messages[i].hex));
    }
}

static const char *vector(const char *name)
{
    for (size_t i = 0; i < COUNT(vector_messages); i++) {
        if (strcmp(vector_messages[i].name, name) == 0) {
            return vector_messages[i].hex;
        }
    }
    fail_msg("no vector %s", name);
    return NULL;
}

static void test_events_are_read_into_the_record(void **state)
{
    struct rig *rig = *state;
    const struct controller_msg *msg = &rig->msg;

    assert_int_equal(decode_frame(rig, frame_of_hex(vector("batched_kv_operation"))), 0);
    assert_int_equal(msg->type, CONTROLLER_KV_OPS);
    expect_text(msg->instance_id, "inst_a");
    expect_text(msg->location, "LocalCPUBackend");
    assert_int_equal(msg->worker_id, 0);
    assert_int_equal(msg->operations.count, 2);
    assert_int_equal(msg->operations.at[0].kind, KVL_KEY_ADMIT);
    assert_int_equal(msg->operations.at[0].id.bits, 3970174878686283145u);
    assert_int_equal(msg->operations.at[0].id.negative, 0);
    assert_int_equal(msg->operations.at[0].seq, 0);
    assert_int_equal(msg->operations.at[1].kind, KVL_KEY_EVICT);
    assert_int_equal((int64_t)msg->operations.at[1].id.bits, -5282990986457227702);
    assert_int_equal(msg->operations.at[1].id.negative, 1);
    assert_int_equal(msg->operations.at[1].seq, 1);
}

static void test_lookup_is_read_into_the_record(void **state)
{
    struct rig *rig = *state;
    const struct controller_msg *msg = &rig->msg;

    assert_int_equal(decode_frame(rig, frame_of_hex(vector("batched_p2p_lookup"))), 0);
    assert_int_equal(msg->type, CONTROLLER_P2P_LOOKUP);
    expect_text(msg->instance_id, "inst_b");
    assert_int_equal(msg->ids.count, 3);
    assert_int_equal(msg->ids.at[1].bits, UINT64_MAX);
    assert_int_equal(msg->ids.at[1].negative, 1);
    assert_int_equal(msg->ids.at[2].bits, 255);
    assert_int_equal(msg->ids.at[2].negative, 0);
}

static void test_registration_is_read_into_the_record(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(decode_frame(rig, frame_of_hex(vector("register_p2p"))), 0);
    assert_int_equal(rig->msg.type, CONTROLLER_REGISTER);
    expect_text(rig->msg.ip, "10.0.0.1");
    assert_int_equal(rig->msg.port, 8500);
    assert_true(rig->msg.peer_init_url.is_set);
    expect_text(rig->msg.peer_init_url.value, "10.0.0.1:8200");
    assert_int_equal(decode(rig, "{6 'type' 'RegisterMsg' " REGISTER_REST), 0);
    assert_false(rig->msg.peer_init_url.is_set);
}

/* Each message in canonical form, so that no field is read into the place of another. */
static const char *const canonical[] = {
    "{5 'type' 'DeRegisterMsg' 'instance_id' 'a' 'worker_id' 1 'ip' 'b' 'port' 2",
    KV_OPS "'operations' [2 {3 'op_type' 'admit' 'key' -1 'seq_num' 1 "
           "{3 'op_type' 'evict' 'key' 18446744073709551615 'seq_num' -9223372036854775808",
    "{7 'type' 'FullSyncBatchMsg' 'instance_id' 'a' 'worker_id' 1 'location' 'b' 'sync_id' 'c' "
    "'batch_id' 2 'keys' [3 -9223372036854775808 18446744073709551615 0",
    "{6 'type' 'FullSyncEndMsg' 'instance_id' 'a' 'worker_id' 1 'location' 'b' 'sync_id' 'c' "
    "'actual_total_keys' 2",
    "{6 'type' 'KVAdmitMsg' 'instance_id' 'a' 'worker_id' 1 'key' -2 'location' 'b' 'seq_num' 3",
    "{6 'type' 'KVEvictMsg' 'instance_id' 'a' 'worker_id' 1 'key' 2 'location' 'b' 'seq_num' 3",
    "{6 'type' 'RegisterMsg' 'instance_id' 'a' 'worker_id' 1 'ip' 'b' 'port' 2 'peer_init_url' 'c'",
    "{2 'type' 'RegisterRetMsg' 'extra_config' {2 'heartbeat_url' 'a:1' 'b' 'c'",
    "{6 'type' 'HeartbeatMsg' 'instance_id' 'a' 'worker_id' 1 'ip' 'b' 'port' 2 "
    "'peer_init_url' nil",
    "{2 'type' 'HeartbeatRetMsg' 'commands' [2 "
    "{3 'command_type' 'full_sync' 'reason' 'a' 'args' {1 'b' [2 1 nil "
    "{3 'command_type' 'HeartbeatCommand' 'reason' nil 'args' nil",
    "{4 'type' 'BatchedP2PLookupMsg' 'hashes' [2 1 -2 'instance_id' 'a' 'worker_id' 3",
    "{2 'type' 'BatchedP2PLookupRetMsg' 'layout_info' [2 [4 'a' 'b' 3 'c' [4 'd' 'e' 4 'f'",
    "{7 'type' 'FullSyncStartMsg' 'instance_id' 'a' 'worker_id' 1 'location' 'b' 'sync_id' 'c' "
    "'total_keys' 2 'batch_count' 3",
    "{4 'type' 'FullSyncStartRetMsg' 'sync_id' 'a' 'accepted' false 'error_msg' 'b'",
    "{4 'type' 'FullSyncStatusMsg' 'instance_id' 'a' 'worker_id' 1 'sync_id' 'b'",
    "{6 'type' 'FullSyncStatusRetMsg' 'sync_id' 'a' 'is_complete' true 'global_progress' f0.25 "
    "'can_exit_freeze' false 'missing_batches' [2 1 2",
    "{2 'type' 'ErrorMsg' 'error' 'a'",
    "{3 'type' 'ClearWorkerMsg' 'worker_event_id' 'a' 'location' 'b'",
    "{2 'type' 'ClearWorkerRetMsg' 'num_tokens' 1",
    "{4 'type' 'PinWorkerMsg' 'worker_event_id' 'a' 'location' 'b' 'tokens' [2 1 2",
    "{2 'type' 'PinWorkerRetMsg' 'num_tokens' 1",
    "{5 'type' 'CompressWorkerMsg' 'worker_event_id' 'a' 'method' 'b' 'location' 'c' 'tokens' nil",
    "{2 'type' 'CompressWorkerRetMsg' 'num_tokens' 1",
    "{5 'type' 'DecompressWorkerMsg' 'worker_event_id' 'a' 'method' 'b' 'location' 'c' "
    "'tokens' [0",
    "{2 'type' 'DecompressWorkerRetMsg' 'num_tokens' 1",
    "{6 'type' 'MoveWorkerMsg' 'worker_event_id' 'a' 'old_position' 'b' 'new_position' [2 'c' 'd' "
    "'tokens' [1 1 'copy' nil",
    "{2 'type' 'MoveWorkerRetMsg' 'num_tokens' 1",
    "{2 'type' 'HealthWorkerMsg' 'worker_event_id' 'a'",
    "{2 'type' 'HealthWorkerRetMsg' 'error_code' -1",
    "{2 'type' 'CheckFinishWorkerMsg' 'worker_event_id' 'a'",
    "{2 'type' 'CheckFinishWorkerRetMsg' 'status' 'a'",
    "{3 'type' 'LookupMsg' 'event_id' 'a' 'tokens' [2 1 2",
    "{3 'type' 'LookupRetMsg' 'event_id' 'a' 'layout_info' {2 'b' [2 'c' 1 'd' [2 'e' 2",
    "{3 'type' 'QueryInstMsg' 'event_id' 'a' 'ip' 'b'",
    "{3 'type' 'QueryInstRetMsg' 'event_id' 'a' 'instance_id' 'b'",
    "{3 'type' 'QueryInstRetMsg' 'event_id' 'a' 'instance_id' nil",
    "{4 'type' 'ClearMsg' 'event_id' 'a' 'instance_id' 'b' 'location' 'c'",
    "{3 'type' 'ClearRetMsg' 'event_id' 'a' 'num_tokens' 1",
    "{5 'type' 'PinMsg' 'event_id' 'a' 'instance_id' 'b' 'location' 'c' 'tokens' [2 1 2",
    "{3 'type' 'PinRetMsg' 'event_id' 'a' 'num_tokens' 1",
    "{6 'type' 'CompressMsg' 'event_id' 'a' 'instance_id' 'b' 'method' 'c' 'location' 'd' "
    "'tokens' nil",
    "{3 'type' 'CompressRetMsg' 'event_id' 'a' 'num_tokens' 1",
    "{6 'type' 'DecompressMsg' 'event_id' 'a' 'instance_id' 'b' 'method' 'c' 'location' 'd' "
    "'tokens' [1 1",
    "{3 'type' 'DecompressRetMsg' 'event_id' 'a' 'num_tokens' 1",
    "{6 'type' 'MoveMsg' 'event_id' 'a' 'old_position' [2 'b' 'c' 'new_position' [2 'd' 'e' "
    "'tokens' nil 'copy' true",
    "{3 'type' 'MoveRetMsg' 'event_id' 'a' 'num_tokens' 1",
    "{3 'type' 'HealthMsg' 'event_id' 'a' 'instance_id' 'b'",
    "{3 'type' 'HealthRetMsg' 'event_id' 'a' 'error_codes' {2 0 -1 1 2",
    "{2 'type' 'CheckFinishMsg' 'event_id' 'a'",
    "{2 'type' 'CheckFinishRetMsg' 'status' 'a'",
    "{4 'type' 'QueryWorkerInfoMsg' 'event_id' 'a' 'instance_id' 'b' 'worker_ids' [2 1 2",
    "{4 'type' 'QueryWorkerInfoMsg' 'event_id' 'a' 'instance_id' 'b' 'worker_ids' nil",
    "{3 'type' 'QueryWorkerInfoRetMsg' 'event_id' 'a' 'worker_infos' [1 {7 'instance_id' 'b' "
    "'worker_id' 1 'ip' 'c' 'port' 2 'peer_init_url' nil 'registration_time' f1.5 "
    "'last_heartbeat_time' f2.5",
};

static void test_all_messages_come_back(void **state)
{
    int seen[CONTROLLER_TYPES] = {0};
    struct rig *rig = *state;

    for (size_t i = 0; i < COUNT(canonical); i++) {
        expect_words(rig, canonical[i], canonical[i]);
        seen[rig->msg.type] = 1;
    }
    for (unsigned type = CONTROLLER_NONE + 1; type < CONTROLLER_TYPES; type++) {
        assert_true(seen[type]);
    }
}

/* A frame that ends anywhere is truncated, and nothing beyond is read. */
static void test_all_messages_cut_short_are_refused(void **state)
{
    struct rig *rig = *state;
    struct frame whole;
    struct frame cut;

    for (size_t i = 0; i < COUNT(canonical); i++) {
        whole = frame_of(canonical[i]);
        for (size_t length = 0; length < whole.length; length++) {
            cut = (struct frame){.bytes = malloc(length > 0 ? length : 1), .length = length};
            assert_non_null(cut.bytes);
            memcpy(cut.bytes, whole.bytes, length);
            assert_int_equal(decode_frame(rig, cut), -EPROTO);
            assert_string_equal(rig->error, "Input data was truncated");
        }
        free(whole.bytes);
    }
}

static void test_key_order_is_free(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{6 'peer_init_url' 'u' 'port' 1 'ip' '1' 'worker_id' 3 'instance_id' 'a' "
                 "'type' 'RegisterMsg'",
                 "{6 'type' 'RegisterMsg' 'instance_id' 'a' 'worker_id' 3 'ip' '1' 'port' 1 "
                 "'peer_init_url' 'u'");
    expect_words(rig,
                 "{5 'operations' [2 {3 'seq_num' 5 'key' 7 'op_type' 'evict' {3 'op_type' 'admit' "
                 "'seq_num' 6 'key' 8 'type' 'BatchedKVOperationMsg' 'location' 'x' 'worker_id' 0 "
                 "'instance_id' 'a'",
                 KV_OPS "'operations' [2 {3 'op_type' 'evict' 'key' 7 'seq_num' 5 "
                        "{3 'op_type' 'admit' 'key' 8 'seq_num' 6");
    expect_words(rig,
                 "{2 'type' 'HeartbeatRetMsg' 'commands' [1 {3 'args' nil 'reason' 'r' "
                 "'command_type' 'full_sync'",
                 "{2 'type' 'HeartbeatRetMsg' 'commands' [1 {3 'command_type' 'full_sync' "
                 "'reason' 'r' 'args' nil");
}

static void test_unknown_keys_are_passed_over(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{8 'x' {2 [1 nil {1 'type' 'y' 7 x820102c40103c7020500ff 'type' 'RegisterMsg' "
                 "'' f1.5 " REGISTER_REST,
                 "{6 'type' 'RegisterMsg' " REGISTER_REST);
    expect_words(rig,
                 KV_OPS "'operations' [1 {4 'op_type' 'admit' 'key' 1 'extra' [2 1 {1 1 1 "
                        "'seq_num' 2",
                 KV_OPS "'operations' [1 {3 'op_type' 'admit' 'key' 1 'seq_num' 2");
    /* a name that is not UTF-8 is one more unknown key */
    expect_words(rig, "{7 'type' 'RegisterMsg' xa1ff 1 " REGISTER_REST,
                 "{6 'type' 'RegisterMsg' " REGISTER_REST);
}

static void test_of_duplicates_the_last_wins(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{5 'type' 'PinWorkerMsg' 'worker_event_id' 'a' 'location' 'b' 'tokens' [2 1 2 "
                 "'tokens' [1 3",
                 "{4 'type' 'PinWorkerMsg' 'worker_event_id' 'a' 'location' 'b' 'tokens' [1 3");
    expect_words(rig,
                 "{6 'type' 'CompressWorkerMsg' 'worker_event_id' 'a' 'method' 'm' 'location' 'b' "
                 "'tokens' [2 1 2 'tokens' nil",
                 "{5 'type' 'CompressWorkerMsg' 'worker_event_id' 'a' 'method' 'm' 'location' 'b' "
                 "'tokens' nil");
    expect_words(rig, "{3 'type' 'ErrorMsg' 'error' 'a' 'type' 'ErrorMsg'",
                 "{2 'type' 'ErrorMsg' 'error' 'a'");
    expect_words(rig,
                 "{2 'type' 'RegisterRetMsg' 'extra_config' {5 'a' '1' 'b' '2' 'a' '3' 'c' '4' "
                 "'a' '5'",
                 "{2 'type' 'RegisterRetMsg' 'extra_config' {3 'a' '5' 'b' '2' 'c' '4'");
    expect_words(rig,
                 "{3 'type' 'LookupRetMsg' 'event_id' 'a' 'layout_info' {2 'b' [2 'c' 1 "
                 "'b' [2 'e' 2",
                 "{3 'type' 'LookupRetMsg' 'event_id' 'a' 'layout_info' {1 'b' [2 'e' 2");
    expect_words(rig, "{3 'type' 'HealthRetMsg' 'event_id' 'a' 'error_codes' {3 1 1 -1 2 1 3",
                 "{3 'type' 'HealthRetMsg' 'event_id' 'a' 'error_codes' {2 1 3 -1 2");
}

static void test_longer_forms_are_taken(void **state)
{
    struct rig *rig = *state;

    /* map32, str8, str16, str32, uint64, int64, array32, map16, array16 */
    expect_words(
        rig,
        "xdf00000007 xd90474797065 xda0010 x46756c6c53796e6342617463684d7367 'instance_id' "
        "xdb0000000161 'worker_id' xd30000000000000005 'location' 'b' 'sync_id' 'c' "
        "'batch_id' xcd0001 'keys' xdd00000003 xce00000002 xd1ffff xd0ff",
        "{7 'type' 'FullSyncBatchMsg' 'instance_id' 'a' 'worker_id' 5 'location' 'b' "
        "'sync_id' 'c' 'batch_id' 1 'keys' [3 2 -1 -1");
    expect_words(rig,
                 KV_OPS "'operations' xdc0001 xde0003 'op_type' 'admit' 'key' xd30000000000000001 "
                        "'seq_num' xcf0000000000000002",
                 KV_OPS "'operations' [1 {3 'op_type' 'admit' 'key' 1 'seq_num' 2");
    expect_words(rig,
                 KV_OPS "'operations' [2 {3 'op_type' 'admit' 'key' xd30000000000000001 "
                        "'seq_num' xd00a {3 'op_type' 'evict' 'key' xd1fffe 'seq_num' xcc03",
                 KV_OPS "'operations' [2 {3 'op_type' 'admit' 'key' 1 'seq_num' 10 "
                        "{3 'op_type' 'evict' 'key' -2 'seq_num' 3");
}

static void test_defaults_fill_what_is_missing(void **state)
{
    struct rig *rig = *state;

    expect_words(rig,
                 "{5 'type' 'KVAdmitMsg' 'instance_id' 'a' 'worker_id' 0 'key' 1 'location' 'x'",
                 "{6 'type' 'KVAdmitMsg' 'instance_id' 'a' 'worker_id' 0 'key' 1 'location' 'x' "
                 "'seq_num' 0");
    expect_words(rig, "{1 'type' 'RegisterRetMsg'", "{2 'type' 'RegisterRetMsg' 'extra_config' {0");
    expect_words(rig, "{1 'type' 'HeartbeatRetMsg'", "{2 'type' 'HeartbeatRetMsg' 'commands' [0");
    expect_words(rig, "{2 'type' 'HeartbeatRetMsg' 'commands' [1 {1 'command_type' 'full_sync'",
                 "{2 'type' 'HeartbeatRetMsg' 'commands' [1 {3 'command_type' 'full_sync' "
                 "'reason' nil 'args' nil");
    expect_words(rig, "{3 'type' 'FullSyncStartRetMsg' 'sync_id' 'a' 'accepted' true",
                 "{4 'type' 'FullSyncStartRetMsg' 'sync_id' 'a' 'accepted' true 'error_msg' nil");
    expect_words(rig,
                 "{4 'type' 'MoveWorkerMsg' 'worker_event_id' 'a' 'old_position' 'b' "
                 "'new_position' [2 'c' 'd'",
                 "{6 'type' 'MoveWorkerMsg' 'worker_event_id' 'a' 'old_position' 'b' "
                 "'new_position' [2 'c' 'd' 'tokens' nil 'copy' true");
    expect_words(rig,
                 "{4 'type' 'MoveMsg' 'event_id' 'a' 'old_position' [2 'b' 'c' "
                 "'new_position' [2 'c' 'd'",
                 "{6 'type' 'MoveMsg' 'event_id' 'a' 'old_position' [2 'b' 'c' "
                 "'new_position' [2 'c' 'd' 'tokens' nil 'copy' false");
}

static void test_floats_are_taken_from_ints_and_float32(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(decode(rig, "{5 'type' 'FullSyncStatusRetMsg' 'sync_id' 'a' 'is_complete' "
                                 "true 'global_progress' 1 'can_exit_freeze' true"),
                     0);
    assert_true(rig->msg.global_progress == 1.0);
    assert_int_equal(decode(rig, "{5 'type' 'FullSyncStatusRetMsg' 'sync_id' 'a' 'is_complete' "
                                 "true 'global_progress' xca3e800000 'can_exit_freeze' true"),
                     0);
    assert_true(rig->msg.global_progress == 0.25);
}

static void test_unknown_commands_leave_the_others(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(decode(rig, "{2 'type' 'HeartbeatRetMsg' 'commands' [3 "
                                 "{2 'x' 1 'command_type' 'reboot' {3 'command_type' 'dance' "
                                 "'reason' 7 'args' [1 1 {2 'command_type' 'full_sync' "
                                 "'reason' 'r'"),
                     0);
    assert_int_equal(rig->msg.commands.count, 3);
    expect_text(rig->msg.commands.at[0].command_type, "reboot");
    expect_text(rig->msg.commands.at[1].command_type, "dance");
    assert_false(rig->msg.commands.at[1].reason.is_set);
    expect_text(rig->msg.commands.at[2].command_type, "full_sync");
    expect_text(rig->msg.commands.at[2].reason.value, "r");
}

struct bad {
    const char *words;
    const char *error;
};

/* Texts as msgspec 0.19 to 0.22 have them; test_controller_msgspec.py compares many more. */
static const struct bad bad[] = {
    {"{5 'type' 'RegisterMsg' 'instance_id' 'a' 'worker_id' 0 'port' 1 'peer_init_url' nil",
     "Object missing required field `ip`"},
    {"{5 'type' 'RegisterMsg' 'instance_id' 'a' 'worker_id' 0 'ip' '1' 'port' 1",
     "Object missing required field `peer_init_url`"},
    {"{1 'ip' 'a'", "Object missing required field `type`"},
    {"{0", "Object missing required field `type`"},
    {"{2 'type' 'HeartbeatRetMsg' 'commands' [1 {0",
     "Object missing required field `command_type` - at `$.commands[0]`"},
    {KV_OPS "'operations' [1 {2 'op_type' 'admit' 'seq_num' 1",
     "Object missing required field `key` - at `$.operations[0]`"},
    {"{3 'type' 'QueryWorkerInfoRetMsg' 'event_id' 'a' 'worker_infos' [1 {0",
     "Object missing required field `instance_id` - at `$.worker_infos[0]`"},
    {"{1 'type' 'Foo'", "Invalid value 'Foo' - at `$.type`"},
    {"{1 'type' ''", "Invalid value '' - at `$.type`"},
    {"{1 'type' 'KVOperationMsg'", "Invalid value 'KVOperationMsg' - at `$.type`"},
    {"{3 'type' 'ErrorMsg' 'error' 'a' 'type' 'RegisterMsg'",
     "Invalid value 'RegisterMsg' - at `$.type`"},
    {"{1 'type' nil", "Expected `str`, got `null` - at `$.type`"},
    {"{1 nil 'type'", "Expected `str`, got `null` - at `key` in `$`"},
    {"{1 'type' xc1", "Expected `str`, got `unknown` - at `$.type`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' xa5616263", "Input data was truncated"},
    {KV_OPS "'operations' [1 {3 'op_type' xaa0a0d095c7fc2a027c3a4",
     "Invalid enum value \"\\n\\r\\t\\\\\\x7f\\xa0'\xc3\xa4\" - at `$.operations[0].op_type`"},
    {KV_OPS "'operations' [1 {3 'op_type' xa22722",
     "Invalid enum value '\\'\"' - at `$.operations[0].op_type`"},
    {"{1 'type' 3", "Expected `str`, got `int` - at `$.type`"},
    {"{6 'type' 'RegisterMsg' 'instance_id' 'a' 'worker_id' 0 'ip' '1' 'port' 'a'",
     "Expected `int`, got `str` - at `$.port`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' nil", "Expected `int`, got `None` - at `$.worker_id`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' true", "Expected `int`, got `bool` - at `$.worker_id`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' f2.0", "Expected `int`, got `float` - at `$.worker_id`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' [0", "Expected `int`, got `array` - at `$.worker_id`"},
    {"{6 'type' 'RegisterMsg' 'worker_id' {0", "Expected `int`, got `object` - at `$.worker_id`"},
    {"{6 'type' 'RegisterMsg' 'ip' xc40131", "Expected `str`, got `bytes` - at `$.ip`"},
    {"{6 'type' 'RegisterMsg' 'ip' xd40531", "Expected `str`, got `ext` - at `$.ip`"},
    {"{6 'type' 'RegisterMsg' 'peer_init_url' 1",
     "Expected `str | null`, got `int` - at `$.peer_init_url`"},
    {"{6 'type' 'RegisterMsg' 1 2", "Expected `str`, got `int` - at `key` in `$`"},
    {"{4 'type' 'BatchedP2PLookupMsg' 'hashes' [2 1 xc40820b0c0d0e0f01020",
     "Expected `int`, got `bytes` - at `$.hashes[1]`"},
    {"{4 'type' 'BatchedP2PLookupMsg' 'hashes' nil",
     "Expected `array`, got `None` - at `$.hashes`"},
    {"{5 'type' 'CompressWorkerMsg' 'tokens' 1",
     "Expected `array | null`, got `int` - at `$.tokens`"},
    {"{5 'type' 'MoveMsg' 'copy' 1", "Expected `bool | null`, got `int` - at `$.copy`"},
    {"{5 'type' 'MoveMsg' 'old_position' [1 'a'",
     "Expected `array` of length 2, got 1 - at `$.old_position`"},
    {"{5 'type' 'MoveMsg' 'old_position' [2 'a' 1",
     "Expected `str`, got `int` - at `$.old_position[1]`"},
    {"{4 'type' 'FullSyncStatusRetMsg' 'is_complete' 1",
     "Expected `bool`, got `int` - at `$.is_complete`"},
    {"{4 'type' 'FullSyncStatusRetMsg' 'global_progress' 'a'",
     "Expected `float`, got `str` - at `$.global_progress`"},
    {KV_OPS "'operations' [1 {3 'op_type' 'ADMIT'",
     "Invalid enum value 'ADMIT' - at `$.operations[0].op_type`"},
    {KV_OPS "'operations' [1 {3 'op_type' 1",
     "Expected `str`, got `int` - at `$.operations[0].op_type`"},
    {KV_OPS "'operations' [2 {3 'op_type' 'admit' 'key' 1 'seq_num' 1 {3 'op_type' 'admit' "
            "'key' 'a'",
     "Expected `int`, got `str` - at `$.operations[1].key`"},
    {"{2 'type' 'BatchedP2PLookupRetMsg' 'layout_info' [1 [3 'a' 'b' 1",
     "Expected `array` of length 4, got 3 - at `$.layout_info[0]`"},
    {"{2 'type' 'BatchedP2PLookupRetMsg' 'layout_info' [1 [4 'a' 'b' 'c' 'd'",
     "Expected `int`, got `str` - at `$.layout_info[0][2]`"},
    {"{2 'type' 'RegisterRetMsg' 'extra_config' {1 'a' 1",
     "Expected `str`, got `int` - at `$.extra_config[...]`"},
    {"{2 'type' 'RegisterRetMsg' 'extra_config' {1 1 'a'",
     "Expected `str`, got `int` - at `key` in `$.extra_config`"},
    {"{3 'type' 'LookupRetMsg' 'layout_info' {1 'a' [2 'b' 'c'",
     "Expected `int`, got `str` - at `$.layout_info[...][1]`"},
    {"{3 'type' 'HealthRetMsg' 'error_codes' {1 'a' 1",
     "Expected `int`, got `str` - at `key` in `$.error_codes`"},
    {"{2 'type' 'HeartbeatRetMsg' 'commands' [1 1",
     "Expected `object`, got `int` - at `$.commands[0]`"},
    {"{2 'type' 'HeartbeatRetMsg' 'commands' [1 {2 'command_type' 'full_sync' 'args' 1",
     "Expected `object | null`, got `int` - at `$.commands[0].args`"},
    {"{2 'type' 'HeartbeatRetMsg' 'commands' [1 {2 'command_type' 'full_sync' 'args' {1 1 1",
     "Expected `str`, got `int` - at `key` in `$.commands[0].args`"},
    {"[0", "Expected `object`, got `array`"},
    {"5", "Expected `object`, got `int`"},
    {"nil", "Expected `object`, got `None`"},
    {"", "Input data was truncated"},
    {"{2 'type' 'ErrorMsg' 'error'", "Input data was truncated"},
    {"{2 'type' 'ErrorMsg' 'error' xdbffffffff", "Input data was truncated"},
    {"{2 'type' 'ErrorMsg' 'error' 'a' nil",
     "MessagePack data is malformed: trailing characters (byte 23)"},
    {"xc1", "MessagePack data is malformed: invalid opcode '\\xc1' (byte 0)"},
    {"{2 'type' 'ErrorMsg' 'error' xc1",
     "MessagePack data is malformed: invalid opcode '\\xc1' (byte 21)"},
};

static void test_error_texts_are_those_of_msgspec(void **state)
{
    struct rig *rig = *state;

    for (size_t i = 0; i < COUNT(bad); i++) {
        expect_error(rig, bad[i].words, -EPROTO, bad[i].error);
    }
}

static void test_a_count_that_lies_takes_no_memory(void **state)
{
    struct rig *rig = *state;

    rig->limits.list_items = UINT32_MAX;
    expect_error(rig, "{2 'type' 'PinMsg' 'tokens' xddffffffff 1", -EPROTO,
                 "Input data was truncated");
    expect_error(rig, "{2 'type' 'QueryWorkerInfoRetMsg' 'worker_infos' xddffffffff {0", -EPROTO,
                 "Object missing required field `instance_id` - at `$.worker_infos[0]`");
    expect_error(rig, "{2 'type' 'RegisterRetMsg' 'extra_config' xdfffffffff 'a' 'b' 'c'", -EPROTO,
                 "Input data was truncated");
}

static void test_text_that_is_not_utf8_is_told_apart(void **state)
{
    static const char *const texts[] = {"xa1ff",   "xa180",     "xa2c0af",     "xa3eda080",
                                        "xa1c3",   "xa3e08080", "xa4f4908080", "xa4f0808080",
                                        "xa2c341", "xa3e28241"};
    struct rig *rig = *state;
    char words[64];

    for (size_t i = 0; i < COUNT(texts); i++) {
        (void)snprintf(words, sizeof(words), "{2 'type' 'ErrorMsg' 'error' %s", texts[i]);
        expect_error(rig, words, -EILSEQ, "String is not UTF-8 - at `$.error`");
    }
    expect_error(rig, "{1 'type' xa1ff", -EILSEQ, "String is not UTF-8 - at `$.type`");
    expect_words(rig, "{2 'type' 'ErrorMsg' 'error' xb0f09f9880efbfbfe0a080c280f48fbfbf",
                 "{2 'type' 'ErrorMsg' 'error' xb0f09f9880efbfbfe0a080c280f48fbfbf");
}

static void test_limits_hold(void **state)
{
    struct rig *rig = *state;

    rig->limits = (struct controller_limits){
        .frame_bytes = 100, .list_items = 3, .text_bytes = 12, .depth = 2};
    assert_int_equal(decode(rig, "{2 'type' 'PinMsg' 'tokens' [3 1 2 3"), -EPROTO);
    expect_error(rig, "{2 'type' 'PinMsg' 'tokens' [4 1 2 3 4", -EMSGSIZE,
                 "List of 4 is over the limit of 3 - at `$.tokens`");
    /* of all lists together: the memory of the first is not taken back */
    expect_error(rig, "{3 'type' 'PinMsg' 'tokens' [2 1 2 'tokens' [2 1 2", -EMSGSIZE,
                 "List of 2 is over the limit of 3 - at `$.tokens`");
    expect_error(rig, "{2 'type' 'ErrorMsg' 'error' 'thirteenchars'", -EMSGSIZE,
                 "String of 13 bytes is over the limit of 12 - at `$.error`");
    expect_words(rig, "{3 'type' 'ErrorMsg' 'error' 'a' 'x' [1 [1 1",
                 "{2 'type' 'ErrorMsg' 'error' 'a'");
    expect_error(rig, "{3 'type' 'ErrorMsg' 'error' 'a' 'x' [1 [1 [0", -EMSGSIZE,
                 "Nested deeper than 2 levels");
    rig->limits.frame_bytes = 22;
    expect_error(rig, "{2 'type' 'ErrorMsg' 'error' 'a'", -EMSGSIZE,
                 "Message of 23 bytes is over the limit of 22");
}

static void test_deep_nesting_has_a_bound_of_its_own(void **state)
{
    struct rig *rig = *state;
    uint8_t *bytes = malloc(1u << 20);

    assert_non_null(bytes);
    rig->limits.depth = UINT32_MAX;
    memset(bytes, 0x91, 1u << 20);
    bytes[0] = 0x81;
    bytes[1] = 0xa0; /* an unknown key */
    assert_int_equal(decode_frame(rig, (struct frame){.bytes = bytes, .length = 1u << 20}),
                     -EMSGSIZE);
}

/* Numbers that are no hashes are kept in 64 bits with sign. */
static void test_numbers_beyond_64_bits_with_sign_are_refused(void **state)
{
    struct rig *rig = *state;

    expect_error(rig, "{2 'type' 'RegisterMsg' 'worker_id' 9223372036854775808", -EMSGSIZE,
                 "Integer out of range - at `$.worker_id`");
    expect_error(rig,
                 KV_OPS "'operations' [1 {3 'op_type' 'admit' 'key' 1 "
                        "'seq_num' 18446744073709551615",
                 -EMSGSIZE, "Integer out of range - at `$.operations[0].seq_num`");
}

static void test_errors_are_cut_between_characters(void **state)
{
    struct rig *rig = *state;
    struct frame frame = frame_of("{1 'type' xa8c3a4c3a4c3a4c3a4");
    char error[20];

    assert_int_equal(controller_decode(frame.bytes, frame.length, &rig->limits, rig->arena,
                                       &rig->msg, error, sizeof(error)),
                     -EPROTO);
    assert_string_equal(error, "Invalid value '\xc3\xa4\xc3\xa4");
    assert_int_equal(
        controller_decode(frame.bytes, frame.length, &rig->limits, rig->arena, &rig->msg, NULL, 0),
        -EPROTO);
    free(frame.bytes);
}

/* More entries than any quick look compares, and keys that differ only at their end. */
static void test_large_maps_keep_their_order(void **state)
{
    struct rig *rig = *state;
    struct controller_pair *pairs = calloc(2000, sizeof(*pairs));
    char(*names)[24] = calloc(2000, sizeof(*names));
    struct controller_msg msg = {.type = CONTROLLER_REGISTER_RET};
    struct controller_buf buf = {0};
    struct frame frame;

    for (uint32_t i = 0; i < 2000; i++) {
        (void)snprintf(names[i], sizeof(names[i]), "key %u", i * 7919 % 1000);
        pairs[i].key = (struct kvl_text){names[i], (uint32_t)strlen(names[i]), 0};
        pairs[i].value = (struct kvl_text){i < 1000 ? "old" : "new", 3, 0};
    }
    msg.extra_config.at = pairs;
    msg.extra_config.count = 2000;
    assert_int_equal(controller_encode(&msg, &buf), 0);
    frame = (struct frame){.bytes = buf.at, .length = buf.length};
    assert_int_equal(decode_frame(rig, frame), 0);
    assert_int_equal(rig->msg.extra_config.count, 1000);
    for (uint32_t i = 0; i < 1000; i++) {
        expect_text(rig->msg.extra_config.at[i].key, names[i]);
        expect_text(rig->msg.extra_config.at[i].value, "new");
    }
    free(pairs);
    free(names);
}

static void test_encoding_appends_and_grows(void **state)
{
    struct kvl_chunk_id ids[1000];
    struct controller_msg msg = {.type = CONTROLLER_P2P_LOOKUP};
    struct controller_buf buf = {0};
    struct rig *rig = *state;
    size_t first;

    for (uint32_t i = 0; i < 1000; i++) {
        ids[i] = (struct kvl_chunk_id){.bits = UINT64_MAX - i, .negative = i % 2};
    }
    msg.ids = (struct controller_ids){.at = ids, .count = 1, .is_set = 1};
    assert_int_equal(controller_encode(&msg, &buf), 0);
    first = buf.length;
    msg.ids.count = 1000;
    assert_int_equal(controller_encode(&msg, &buf), 0);
    assert_int_equal(controller_decode(buf.at + first, buf.length - first, &rig->limits, rig->arena,
                                       &rig->msg, rig->error, sizeof(rig->error)),
                     0);
    assert_int_equal(rig->msg.ids.count, 1000);
    assert_memory_equal(rig->msg.ids.at, ids, sizeof(ids));
    controller_buf_fini(&buf);
    assert_null(buf.at);
}

static void test_what_cannot_be_written_is_refused(void **state)
{
    struct kvl_key_op op = {.kind = 3};
    struct controller_command command = {.args = {"\x81\xa1x", 3, 0}};
    struct controller_msg msg = {.type = CONTROLLER_KV_OPS};
    struct controller_buf buf = {0};

    (void)state;
    msg.operations.at = &op;
    msg.operations.count = 1;
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL);
    msg.type = CONTROLLER_HEARTBEAT_RET;
    msg.commands.at = &command;
    msg.commands.count = 1;
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL); /* half a map */
    command.args = (struct kvl_text){"\x80\x80", 2, 0};
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL); /* two */
    command.args = (struct kvl_text){"\x90", 1, 0};
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL); /* a list */
    msg.type = CONTROLLER_NONE;
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL);
    msg.type = CONTROLLER_TYPES;
    assert_int_equal(controller_encode(&msg, &buf), -EINVAL);
    assert_int_equal(buf.length, 0);
    controller_buf_fini(&buf);
    assert_null(controller_type_name(CONTROLLER_NONE));
    assert_null(controller_type_name(CONTROLLER_TYPES));
    assert_string_equal(controller_type_name(CONTROLLER_LOOKUP), "LookupMsg");
}

static void test_the_arena_gives_what_was_asked_for(void **state)
{
    struct rig *rig = *state;
    uint8_t *at;

    for (size_t round = 0; round < 3; round++) {
        for (size_t bytes = 1; bytes < (4u << 20); bytes = bytes * 3 + 1) {
            at = controller_arena_take(rig->arena, bytes);
            assert_non_null(at);
            assert_int_equal((uintptr_t)at % _Alignof(max_align_t), 0);
            memset(at, 0xa5, bytes);
        }
        controller_arena_reset(rig->arena);
    }
    assert_null(controller_arena_take(rig->arena, SIZE_MAX));
    assert_null(controller_arena_take(rig->arena, SIZE_MAX - 64));
    controller_arena_destroy(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_golden_frames_come_back),
        TEST(test_golden_fields_are_the_golden_bytes),
        TEST(test_events_are_read_into_the_record),
        TEST(test_lookup_is_read_into_the_record),
        TEST(test_registration_is_read_into_the_record),
        TEST(test_all_messages_come_back),
        TEST(test_all_messages_cut_short_are_refused),
        TEST(test_key_order_is_free),
        TEST(test_unknown_keys_are_passed_over),
        TEST(test_of_duplicates_the_last_wins),
        TEST(test_longer_forms_are_taken),
        TEST(test_defaults_fill_what_is_missing),
        TEST(test_floats_are_taken_from_ints_and_float32),
        TEST(test_unknown_commands_leave_the_others),
        TEST(test_error_texts_are_those_of_msgspec),
        TEST(test_a_count_that_lies_takes_no_memory),
        TEST(test_text_that_is_not_utf8_is_told_apart),
        TEST(test_limits_hold),
        TEST(test_deep_nesting_has_a_bound_of_its_own),
        TEST(test_numbers_beyond_64_bits_with_sign_are_refused),
        TEST(test_errors_are_cut_between_characters),
        TEST(test_large_maps_keep_their_order),
        TEST(test_encoding_appends_and_grows),
        TEST(test_what_cannot_be_written_is_refused),
        TEST(test_the_arena_gives_what_was_asked_for),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
