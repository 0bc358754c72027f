/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_schema.h"

#include <string.h>

/* clang-format off */
#define FIELD(record, name_, kind_, member, has, value)                                            \
    {.name = (name_), .name_length = sizeof(name_) - 1, .kind = CONTROLLER_KIND_##kind_,           \
     .has_default = (has), .fallback = (value), .offset = offsetof(struct record, member)}

/* Required; with a default; see struct controller_field. */
#define REQ(name, kind, member) FIELD(controller_msg, name, kind, member, 0, 0)
#define DEF(name, kind, member) FIELD(controller_msg, name, kind, member, 1, 0)
#define OPT_TRUE(name, member) FIELD(controller_msg, name, OPT_BOOL, member, 1, 1)
#define OPT_FALSE(name, member) FIELD(controller_msg, name, OPT_BOOL, member, 1, 0)

#define WORKER REQ("instance_id", TEXT, instance_id), REQ("worker_id", INT, worker_id)
#define ADDRESS REQ("ip", TEXT, ip), REQ("port", INT, port)
#define LOCATION REQ("location", TEXT, location)
#define EVENT REQ("event_id", TEXT, event_id)
#define WORKER_EVENT REQ("worker_event_id", TEXT, event_id)
#define SYNC REQ("sync_id", TEXT, sync_id)
#define TOKENS REQ("tokens", IDS, ids)
#define OPT_TOKENS DEF("tokens", OPT_IDS, ids)
#define NUM_TOKENS REQ("num_tokens", INT, number)

#define FIELDS(name) static const struct controller_field name[]

FIELDS(deregister) = {WORKER, ADDRESS};
FIELDS(kv_ops) = {WORKER, LOCATION, REQ("operations", OPS, operations)};
FIELDS(sync_batch) = {WORKER, LOCATION, SYNC, REQ("batch_id", INT, number),
                      REQ("keys", IDS, ids)};
FIELDS(sync_end) = {WORKER, LOCATION, SYNC, REQ("actual_total_keys", INT, number)};
FIELDS(kv_event) = {WORKER, REQ("key", ID, key), LOCATION, DEF("seq_num", INT, seq_num)};
FIELDS(registration) = {WORKER, ADDRESS, REQ("peer_init_url", OPT_TEXT, peer_init_url)};
FIELDS(register_ret) = {DEF("extra_config", PAIRS, extra_config)};
FIELDS(heartbeat_ret) = {DEF("commands", COMMANDS, commands)};
FIELDS(p2p_lookup) = {REQ("hashes", IDS, ids), WORKER};
FIELDS(p2p_lookup_ret) = {REQ("layout_info", LAYOUTS, layout_info)};
FIELDS(sync_start) = {WORKER, LOCATION, SYNC, REQ("total_keys", INT, number),
                      REQ("batch_count", INT, batch_count)};
FIELDS(sync_start_ret) = {SYNC, REQ("accepted", BOOL, accepted),
                          DEF("error_msg", OPT_TEXT, error_msg)};
FIELDS(sync_status) = {WORKER, SYNC};
FIELDS(sync_status_ret) = {SYNC, REQ("is_complete", BOOL, accepted),
                           REQ("global_progress", FLOAT, global_progress),
                           REQ("can_exit_freeze", BOOL, can_exit_freeze),
                           DEF("missing_batches", IDS, ids)};
FIELDS(error) = {REQ("error", TEXT, error)};
FIELDS(clear_worker) = {WORKER_EVENT, LOCATION};
FIELDS(pin_worker) = {WORKER_EVENT, LOCATION, TOKENS};
FIELDS(compress_worker) = {WORKER_EVENT, REQ("method", TEXT, method), LOCATION, OPT_TOKENS};
FIELDS(move_worker) = {WORKER_EVENT, REQ("old_position", TEXT, old_position.location),
                       REQ("new_position", POSITION, new_position), OPT_TOKENS,
                       OPT_TRUE("copy", copy)};
FIELDS(worker_event) = {WORKER_EVENT};
FIELDS(num_tokens) = {NUM_TOKENS};
FIELDS(health_worker_ret) = {REQ("error_code", INT, number)};
FIELDS(status) = {REQ("status", TEXT, error)};
FIELDS(lookup) = {EVENT, TOKENS};
FIELDS(lookup_ret) = {EVENT, REQ("layout_info", LAYOUT_MAP, layout_info)};
FIELDS(query_inst) = {EVENT, REQ("ip", TEXT, ip)};
FIELDS(query_inst_ret) = {EVENT, REQ("instance_id", OPT_TEXT, found_instance)};
FIELDS(clear) = {EVENT, REQ("instance_id", TEXT, instance_id), LOCATION};
FIELDS(event_num_tokens) = {EVENT, NUM_TOKENS};
FIELDS(pin) = {EVENT, REQ("instance_id", TEXT, instance_id), LOCATION, TOKENS};
FIELDS(compress) = {EVENT, REQ("instance_id", TEXT, instance_id), REQ("method", TEXT, method),
                    LOCATION, OPT_TOKENS};
FIELDS(move) = {EVENT, REQ("old_position", POSITION, old_position),
                REQ("new_position", POSITION, new_position), OPT_TOKENS, OPT_FALSE("copy", copy)};
FIELDS(health) = {EVENT, REQ("instance_id", TEXT, instance_id)};
FIELDS(health_ret) = {EVENT, REQ("error_codes", CODES, error_codes)};
FIELDS(event) = {EVENT};
FIELDS(query_worker_info) = {EVENT, REQ("instance_id", TEXT, instance_id),
                             REQ("worker_ids", OPT_IDS, ids)};
FIELDS(query_worker_info_ret) = {EVENT, REQ("worker_infos", INFOS, worker_infos)};

FIELDS(op) = {FIELD(kvl_key_op, "op_type", OP_TYPE, kind, 0, 0),
              FIELD(kvl_key_op, "key", ID, id, 0, 0),
              FIELD(kvl_key_op, "seq_num", INT, seq, 0, 0)};
FIELDS(command) = {FIELD(controller_command, "reason", OPT_TEXT, reason, 1, 0),
                   FIELD(controller_command, "args", ARGS, args, 1, 0)};
#define INFO(name, kind, member) FIELD(controller_worker_info, name, kind, member, 0, 0)
FIELDS(info) = {INFO("instance_id", TEXT, instance_id), INFO("worker_id", INT, worker_id),
                INFO("ip", TEXT, ip), INFO("port", INT, port),
                INFO("peer_init_url", OPT_TEXT, peer_init_url),
                INFO("registration_time", FLOAT, registration_time),
                INFO("last_heartbeat_time", FLOAT, last_heartbeat_time)};

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))
#define MESSAGE(name, fields) {name, fields, COUNT(fields), sizeof(struct controller_msg)}

const struct controller_record controller_records[CONTROLLER_TYPES] = {
    [CONTROLLER_DEREGISTER] = MESSAGE("DeRegisterMsg", deregister),
    [CONTROLLER_KV_OPS] = MESSAGE("BatchedKVOperationMsg", kv_ops),
    [CONTROLLER_SYNC_BATCH] = MESSAGE("FullSyncBatchMsg", sync_batch),
    [CONTROLLER_SYNC_END] = MESSAGE("FullSyncEndMsg", sync_end),
    [CONTROLLER_KV_ADMIT] = MESSAGE("KVAdmitMsg", kv_event),
    [CONTROLLER_KV_EVICT] = MESSAGE("KVEvictMsg", kv_event),
    [CONTROLLER_REGISTER] = MESSAGE("RegisterMsg", registration),
    [CONTROLLER_REGISTER_RET] = MESSAGE("RegisterRetMsg", register_ret),
    [CONTROLLER_HEARTBEAT] = MESSAGE("HeartbeatMsg", registration),
    [CONTROLLER_HEARTBEAT_RET] = MESSAGE("HeartbeatRetMsg", heartbeat_ret),
    [CONTROLLER_P2P_LOOKUP] = MESSAGE("BatchedP2PLookupMsg", p2p_lookup),
    [CONTROLLER_P2P_LOOKUP_RET] = MESSAGE("BatchedP2PLookupRetMsg", p2p_lookup_ret),
    [CONTROLLER_SYNC_START] = MESSAGE("FullSyncStartMsg", sync_start),
    [CONTROLLER_SYNC_START_RET] = MESSAGE("FullSyncStartRetMsg", sync_start_ret),
    [CONTROLLER_SYNC_STATUS] = MESSAGE("FullSyncStatusMsg", sync_status),
    [CONTROLLER_SYNC_STATUS_RET] = MESSAGE("FullSyncStatusRetMsg", sync_status_ret),
    [CONTROLLER_ERROR] = MESSAGE("ErrorMsg", error),
    [CONTROLLER_CLEAR_WORKER] = MESSAGE("ClearWorkerMsg", clear_worker),
    [CONTROLLER_CLEAR_WORKER_RET] = MESSAGE("ClearWorkerRetMsg", num_tokens),
    [CONTROLLER_PIN_WORKER] = MESSAGE("PinWorkerMsg", pin_worker),
    [CONTROLLER_PIN_WORKER_RET] = MESSAGE("PinWorkerRetMsg", num_tokens),
    [CONTROLLER_COMPRESS_WORKER] = MESSAGE("CompressWorkerMsg", compress_worker),
    [CONTROLLER_COMPRESS_WORKER_RET] = MESSAGE("CompressWorkerRetMsg", num_tokens),
    [CONTROLLER_DECOMPRESS_WORKER] = MESSAGE("DecompressWorkerMsg", compress_worker),
    [CONTROLLER_DECOMPRESS_WORKER_RET] = MESSAGE("DecompressWorkerRetMsg", num_tokens),
    [CONTROLLER_MOVE_WORKER] = MESSAGE("MoveWorkerMsg", move_worker),
    [CONTROLLER_MOVE_WORKER_RET] = MESSAGE("MoveWorkerRetMsg", num_tokens),
    [CONTROLLER_HEALTH_WORKER] = MESSAGE("HealthWorkerMsg", worker_event),
    [CONTROLLER_HEALTH_WORKER_RET] = MESSAGE("HealthWorkerRetMsg", health_worker_ret),
    [CONTROLLER_CHECK_FINISH_WORKER] = MESSAGE("CheckFinishWorkerMsg", worker_event),
    [CONTROLLER_CHECK_FINISH_WORKER_RET] = MESSAGE("CheckFinishWorkerRetMsg", status),
    [CONTROLLER_LOOKUP] = MESSAGE("LookupMsg", lookup),
    [CONTROLLER_LOOKUP_RET] = MESSAGE("LookupRetMsg", lookup_ret),
    [CONTROLLER_QUERY_INST] = MESSAGE("QueryInstMsg", query_inst),
    [CONTROLLER_QUERY_INST_RET] = MESSAGE("QueryInstRetMsg", query_inst_ret),
    [CONTROLLER_CLEAR] = MESSAGE("ClearMsg", clear),
    [CONTROLLER_CLEAR_RET] = MESSAGE("ClearRetMsg", event_num_tokens),
    [CONTROLLER_PIN] = MESSAGE("PinMsg", pin),
    [CONTROLLER_PIN_RET] = MESSAGE("PinRetMsg", event_num_tokens),
    [CONTROLLER_COMPRESS] = MESSAGE("CompressMsg", compress),
    [CONTROLLER_COMPRESS_RET] = MESSAGE("CompressRetMsg", event_num_tokens),
    [CONTROLLER_DECOMPRESS] = MESSAGE("DecompressMsg", compress),
    [CONTROLLER_DECOMPRESS_RET] = MESSAGE("DecompressRetMsg", event_num_tokens),
    [CONTROLLER_MOVE] = MESSAGE("MoveMsg", move),
    [CONTROLLER_MOVE_RET] = MESSAGE("MoveRetMsg", event_num_tokens),
    [CONTROLLER_HEALTH] = MESSAGE("HealthMsg", health),
    [CONTROLLER_HEALTH_RET] = MESSAGE("HealthRetMsg", health_ret),
    [CONTROLLER_CHECK_FINISH] = MESSAGE("CheckFinishMsg", event),
    [CONTROLLER_CHECK_FINISH_RET] = MESSAGE("CheckFinishRetMsg", status),
    [CONTROLLER_QUERY_WORKER_INFO] = MESSAGE("QueryWorkerInfoMsg", query_worker_info),
    [CONTROLLER_QUERY_WORKER_INFO_RET] = MESSAGE("QueryWorkerInfoRetMsg", query_worker_info_ret),
};
/* clang-format on */

const struct controller_record controller_op_record = {NULL, op, COUNT(op),
                                                       sizeof(struct kvl_key_op)};
const struct controller_record controller_command_record = {NULL, command, COUNT(command),
                                                            sizeof(struct controller_command)};
const struct controller_record controller_info_record = {NULL, info, COUNT(info),
                                                         sizeof(struct controller_worker_info)};

const char *controller_type_name(enum controller_type type)
{
    return (unsigned)type < CONTROLLER_TYPES ? controller_records[type].name : NULL;
}

enum controller_type controller_type_find(struct kvl_text name)
{
    for (unsigned i = CONTROLLER_NONE + 1; i < CONTROLLER_TYPES; i++) {
        const char *known = controller_records[i].name;

        if (name.length == strlen(known) && memcmp(name.text, known, name.length) == 0) {
            return (enum controller_type)i;
        }
    }
    return CONTROLLER_NONE;
}

const struct controller_field *controller_field_find(const struct controller_record *record,
                                                     struct kvl_text name, uint32_t *hint)
{
    const struct controller_field *field;
    uint32_t at = *hint;

    for (uint32_t i = 0; i < record->count; i++, at++) {
        at = at < record->count ? at : 0;
        field = &record->fields[at];
        if (field->name_length == name.length && memcmp(field->name, name.text, name.length) == 0) {
            *hint = at + 1;
            return field;
        }
    }
    return NULL;
}

size_t controller_record_least(const struct controller_record *record)
{
    size_t bytes = 1;

    for (uint32_t i = 0; i < record->count; i++) {
        if (!record->fields[i].has_default) {
            bytes += 1u + record->fields[i].name_length + 1u;
        }
    }
    return bytes;
}
