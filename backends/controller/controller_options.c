/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "controller_bind.h"
#include "setting.h"
#include "sock.h"

#define DAY_MS (24ll * 3600 * 1000)
#define PORT_MAX 65535
#define SEED_MAX 4294967295ll
/* One string, and values inside values that nobody reads. */
#define TEXT_MAX (64u * 1024)
#define DEPTH_MAX 32u

const struct kvl_option controller_option_table[CONTROLLER_OPTION_COUNT] = {
    {"role", KVL_OPTION_ENUM, 0, "controller", "controller|worker", 0, 0,
     "controller: workers report to us; worker: we report to a controller"},

    {"host", KVL_OPTION_STRING, 0, "127.0.0.1", NULL, 0, 0,
     "address that workers reach us at; 0.0.0.0 or * = all of this machine"},
    {"pull_port", KVL_OPTION_INT, 0, "8300", NULL, 0, PORT_MAX,
     "for events of workers; 0 lets the kernel pick"},
    {"reply_port", KVL_OPTION_INT, 0, "8400", NULL, 0, PORT_MAX,
     "for questions of workers; 0 lets the kernel pick"},
    {"heartbeat_port", KVL_OPTION_INT, 0, "0", NULL, -1, PORT_MAX,
     "for heartbeats; 0 = none, -1 lets the kernel pick"},
    {"http", KVL_OPTION_BOOL, 0, "yes", NULL, 0, 0, "serve the HTTP API"},
    {"http_host", KVL_OPTION_STRING, 0, "", NULL, 0, 0, "its address; unset = host"},
    {"http_port", KVL_OPTION_INT, 0, "9000", NULL, 0, PORT_MAX, "0 lets the kernel pick"},
    {"allow_remote", KVL_OPTION_BOOL, 0, "no", NULL, 0, 0,
     "bind beyond loopback too; nobody is asked for a password"},
    {"health_check_interval", KVL_OPTION_DURATION, 0, "0", NULL, 0, DAY_MS,
     "how often silent workers are looked for; 0 = never"},
    {"lmcache_worker_timeout", KVL_OPTION_DURATION, 0, "300s", NULL, 1000, DAY_MS,
     "a worker that sent heartbeats and is silent for so long is taken out"},
    {"control_timeout", KVL_OPTION_DURATION, 0, "30s", NULL, 10, 3600 * 1000,
     "longest wait for the answers of workers to one call"},
    {"chunk_size", KVL_OPTION_INT, 0, "256", NULL, 1, 1 << 20, "tokens of a chunk, as workers cut"},
    {"hash_seed", KVL_OPTION_INT, 0, "", NULL, 0, SEED_MAX,
     "PYTHONHASHSEED of workers with vLLM; unset = workers without vLLM"},
    {"hash_sip", KVL_OPTION_ENUM, 0, "13", "13|24", 0, 0,
     "SipHash of the workers' Python: 13 from 3.11 on, 24 before"},
    {"hash_extra", KVL_OPTION_ENUM, 0, "empty", "empty|none", 0, 0,
     "third part of what workers hash: () or None"},
    {"none_hash", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "NONE_HASH of the workers, in place of hash_seed"},
    {"snapshot", KVL_OPTION_PATH, 0, "", NULL, 0, 0,
     "file that keeps who holds what across a restart"},
    {"snapshot_interval", KVL_OPTION_DURATION, 0, "60s", NULL, 0, DAY_MS,
     "how often it is written; 0 = at the end only"},
    {"max_frame", KVL_OPTION_SIZE, 0, "64MiB", NULL, 4096, 1 << 30,
     "largest frame; a peer that sends more is cut off"},
    {"max_list", KVL_OPTION_INT, 0, "1048576", NULL, 1024, 1 << 27,
     "longest list in a message; more is a bad frame"},
    {"max_batches", KVL_OPTION_INT, 0, "65536", NULL, 1, 1 << 20,
     "most batches of one full sync; more are refused"},
    {"announce_host", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "address in the URLs that workers are told; unset = host"},
    {"replica_port", KVL_OPTION_INT, 0, "0", NULL, -1, PORT_MAX,
     "for standbys; 0 = none, -1 lets the kernel pick"},
    {"replica_buffer", KVL_OPTION_SIZE, 0, "64MiB", NULL, 1 << 16, 1ll << 36,
     "what standbys may be behind; one that falls behind further begins anew"},
    {"replica_dir", KVL_OPTION_PATH, 0, "/tmp", NULL, 0, 0,
     "folder for the saved registry on its way to a standby"},
    {"standby_of", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "host:port of the replica socket of a controller to follow; unset = none"},
    {"standby_takeover", KVL_OPTION_DURATION, 0, "5s", NULL, 2000, DAY_MS,
     "a standby whose primary is silent for so long is on its own"},

    {"instance_id", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "role worker: name of this engine; the same for all its ranks"},
    {"worker_id", KVL_OPTION_INT, 0, "0", NULL, 0, 1 << 20, "role worker: our rank"},
    {"controller_pull_url", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "role worker: host:port for events"},
    {"controller_reply_url", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "role worker: host:port for questions"},
    {"worker_port", KVL_OPTION_INT, 0, "0", NULL, 0, PORT_MAX,
     "role worker: for control calls; 0 lets the kernel pick"},
    {"ip", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "role worker: address the controller is told; unset = found"},
    {"peer_init_url", KVL_OPTION_STRING, 0, "", NULL, 0, 0,
     "role worker: host:port where peers ask for chunks; unset = of the channel beside it"},
    {"location", KVL_OPTION_STRING, 0, "LocalCPUBackend", NULL, 0, 0,
     "role worker: name of the own store"},
    {"heartbeat_delay", KVL_OPTION_DURATION, 0, "10s", NULL, 0, DAY_MS,
     "role worker: from the registration to the first heartbeat"},
    {"heartbeat_time", KVL_OPTION_DURATION, 0, "10s", NULL, 10, DAY_MS,
     "role worker: between heartbeats"},
    {"batch_size", KVL_OPTION_INT, 0, "50", NULL, 1, 65536, "role worker: events of one message"},
    {"batch_timeout", KVL_OPTION_DURATION, 0, "10ms", NULL, 0, 60 * 1000,
     "role worker: longest wait of an event for its message"},
    {"recv_timeout", KVL_OPTION_DURATION, 0, "30s", NULL, 10, 3600 * 1000,
     "role worker: longest wait for an answer"},
    {"send_timeout", KVL_OPTION_DURATION, 0, "10s", NULL, 10, 3600 * 1000,
     "role worker: longest wait until a message can be sent"},
    {"sync_batch_size", KVL_OPTION_INT, 0, "2000", NULL, 1, 1 << 20,
     "role worker: keys of one batch of a full sync"},
    {"sync_startup_delay", KVL_OPTION_DURATION, 0, "5s", NULL, 0, 3600 * 1000,
     "role worker: a full sync begins after a random part of it"},
    {"pin_time", KVL_OPTION_DURATION, 0, "300s", NULL, 1, DAY_MS,
     "role worker: how long chunks stay that the controller pinned"},
    {"pin_budget", KVL_OPTION_SIZE, 0, "256MiB", NULL, 0, 0,
     "role worker: most bytes that are pinned at a time"},
};

/* ---- role controller ---- */

static int options_none_hash(const struct kvl_host *host, struct controller_options *options,
                             struct kvl_err *err)
{
    const char *text = kvl_setting_get(host, "none_hash").text;
    struct kvl_setting seed = kvl_setting_get(host, "hash_seed");
    enum controller_sip sip =
        kvl_setting_get(host, "hash_sip").number == 0 ? CONTROLLER_SIP13 : CONTROLLER_SIP24;
    char *end;

    if (text[0] == '\0') {
        options->hashing.none_hash =
            seed.text[0] != '\0' ? controller_hash_none(sip, (uint32_t)seed.number) : 0;
        return 0;
    }
    if (seed.text[0] != '\0') {
        return kvl_fail(err, -EINVAL,
                        "controller: hash_seed and none_hash say the same thing, give one");
    }
    errno = 0;
    options->hashing.none_hash = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0') {
        return kvl_fail(err, -EINVAL, "controller: none_hash '%s' is no signed 64-bit integer",
                        text);
    }
    return 0;
}

static void options_read_replica(const struct kvl_host *host, struct controller_options *options)
{
    options->announce_host = kvl_setting_get(host, "announce_host").text;
    options->replica_port = (int32_t)kvl_setting_get(host, "replica_port").number;
    options->replica_buffer = (size_t)kvl_setting_get(host, "replica_buffer").number;
    options->replica_dir = kvl_setting_get(host, "replica_dir").text;
    options->standby_of = kvl_setting_get(host, "standby_of").text;
    options->standby_takeover_ms = (uint64_t)kvl_setting_get(host, "standby_takeover").number;
}

static int options_read_controller(const struct kvl_host *host, struct controller_options *options,
                                   struct kvl_err *err)
{
    struct kvl_sock_name primary;

    options->host = kvl_setting_get(host, "host").text;
    options->pull_port = (int32_t)kvl_setting_get(host, "pull_port").number;
    options->reply_port = (int32_t)kvl_setting_get(host, "reply_port").number;
    options->heartbeat_port = (int32_t)kvl_setting_get(host, "heartbeat_port").number;
    options->http = kvl_setting_get(host, "http").number != 0;
    options->http_host = kvl_setting_get(host, "http_host").text;
    options->http_port = (int32_t)kvl_setting_get(host, "http_port").number;
    options->allow_remote = kvl_setting_get(host, "allow_remote").number != 0;
    options->health_check_interval_ms =
        (uint64_t)kvl_setting_get(host, "health_check_interval").number;
    options->worker_timeout_ms = (uint64_t)kvl_setting_get(host, "lmcache_worker_timeout").number;
    options->control_timeout_ms = (uint64_t)kvl_setting_get(host, "control_timeout").number;
    options->hashing.chunk_size = (uint32_t)kvl_setting_get(host, "chunk_size").number;
    options->hashing.extra = kvl_setting_get(host, "hash_extra").number == 0
                                 ? CONTROLLER_EXTRA_EMPTY
                                 : CONTROLLER_EXTRA_NONE;
    options->snapshot = kvl_setting_get(host, "snapshot").text;
    options->snapshot_interval_ms = (uint64_t)kvl_setting_get(host, "snapshot_interval").number;
    options->limits = (struct controller_limits){
        .frame_bytes = (uint32_t)kvl_setting_get(host, "max_frame").number,
        .list_items = (uint32_t)kvl_setting_get(host, "max_list").number,
        .text_bytes = TEXT_MAX,
        .depth = DEPTH_MAX,
    };
    options->batch_count_max = (uint64_t)kvl_setting_get(host, "max_batches").number;
    options_read_replica(host, options);
    if (options->health_check_interval_ms != 0 && options->health_check_interval_ms < 1000) {
        return kvl_fail(err, -EINVAL,
                        "controller: health_check_interval is 0 or at least 1s, not %" PRIu64 " ms",
                        options->health_check_interval_ms);
    }
    if (options->standby_of[0] != '\0' && kvl_sock_parse(options->standby_of, &primary) < 0) {
        return kvl_fail(err, -EINVAL, "controller: standby_of '%s' is no host:port",
                        options->standby_of);
    }
    if (controller_bind_check(options->host, options->allow_remote, err) < 0) {
        return -EINVAL;
    }
    return options_none_hash(host, options, err);
}

int controller_options_read(const struct kvl_host *host, struct controller_options *options_out,
                            struct kvl_err *err)
{
    struct controller_options options = {
        .role = (enum controller_role_name)kvl_setting_get(host, "role").number,
        .host = "",
        .http_host = "",
        .snapshot = "",
        .announce_host = "",
        .replica_dir = "",
        .standby_of = "",
    };
    int r = options_read_controller(host, &options, err);

    if (r == 0 && options.role == CONTROLLER_ROLE_WORKER) {
        r = controller_worker_options_read(host, &options.worker, err);
        options.worker.hashing = options.hashing;
        options.worker.limits = options.limits;
    }
    if (r == 0) {
        *options_out = options;
    }
    return r;
}
