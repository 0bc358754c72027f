/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry.h
 * The registry behind kvl_host.registry: make one, set it up, and the functions of its table. What
 * each does is told in <kvlane/registry.h>; here stands only what is beyond that.
 *
 * Texts with a zero byte inside are refused with -EINVAL, since what is given out is terminated.
 */
#ifndef KVL_PLUGIN_REGISTRY_H
#define KVL_PLUGIN_REGISTRY_H

#include <kvlane/registry.h>

/** Most workers; one more is -ENOMEM. */
#define KVL_REGISTRY_WORKERS_MAX (1u << 18)
/** Most locations that one worker has ever named since it registered; one more is -ENOMEM. */
#define KVL_REGISTRY_LOCATIONS_MAX 256u
/** Most batches of a full sync. */
#define KVL_REGISTRY_BATCHES_MAX (1u << 20)

/** What may change while it runs. */
struct kvl_registry_settings {
    uint64_t sync_timeout_ms; /* a full sync without a message for longer has failed */
    uint64_t worker_ttl_ms; /* lookups leave out who is silent for longer; 0 = never */
    uint32_t sync_threshold; /* percent of workers that end the freeze of all */
    uint32_t resync_after_gap; /* 1 = a sequence gap asks for a full sync */
};

/** Where the time comes from. */
struct kvl_registry_clock {
    uint64_t (*now_ms)(void *ctx); /* never steps back */
    double (*unix_time)(void *ctx); /* only shown, never compared */
    void *ctx;
};

struct kvl_registry_params {
    uint64_t max_bytes; /* of the index; 0 = no bound */
    struct kvl_registry_settings settings;
    const struct kvl_registry_clock *clock; /* copied; NULL = the machine's */
};

/** @return 0; -ENOMEM. */
int kvl_registry_create(const struct kvl_registry_params *params,
                        struct kvl_registry **registry_out);

/** Nobody may be inside. Takes NULL. */
void kvl_registry_destroy(struct kvl_registry *registry);

/** Takes new settings over, at once. Thread-safe. */
void kvl_registry_configure(struct kvl_registry *registry,
                            const struct kvl_registry_settings *settings);

/** For kvl_host.registry_ops; the functions behind its slots follow, in their order. */
extern const struct kvl_registry_ops kvl_registry_table;

int kvl_registry_register(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                          uint32_t *known_out);
int kvl_registry_heartbeat(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                           uint32_t *because_out);
int kvl_registry_remove(struct kvl_registry *registry, const struct kvl_worker_name *name);

/** `fn` may be NULL; what it returns is not looked at. -EINVAL: the timeout is 0. */
int kvl_registry_reap(struct kvl_registry *registry, uint64_t timeout_ms, kvl_worker_fn fn,
                      void *ctx);

/** -EINVAL an op of no known kind: nothing was applied. A gap is told with -ENOMEM too. */
int kvl_registry_apply(struct kvl_registry *registry, const struct kvl_worker_name *name,
                       struct kvl_text location, const struct kvl_key_op *ops, uint32_t count,
                       struct kvl_seq_gap *gap_out);
int kvl_registry_withdraw(struct kvl_registry *registry, const struct kvl_worker_name *name,
                          struct kvl_text location, const struct kvl_chunk_id *ids, uint32_t count);
int kvl_registry_clear(struct kvl_registry *registry, const struct kvl_worker_name *name,
                       struct kvl_text location);
int kvl_registry_list_keys(struct kvl_registry *registry, const struct kvl_worker_name *name,
                           struct kvl_text location, kvl_chunk_id_fn fn, void *ctx);

int kvl_registry_sync_start(struct kvl_registry *registry, const struct kvl_worker_name *name,
                            struct kvl_text location, struct kvl_text sync_id, uint64_t total_keys,
                            uint64_t batch_count);
int kvl_registry_sync_batch(struct kvl_registry *registry, const struct kvl_worker_name *name,
                            struct kvl_text location, struct kvl_text sync_id, int64_t batch_id,
                            const struct kvl_chunk_id *ids, uint32_t count);
int kvl_registry_sync_end(struct kvl_registry *registry, const struct kvl_worker_name *name,
                          struct kvl_text sync_id, uint64_t *keys_out);
int kvl_registry_sync_status(struct kvl_registry *registry, const struct kvl_worker_name *name,
                             struct kvl_text sync_id, struct kvl_sync_status *status_out,
                             int64_t *missing_out, uint32_t room);

int kvl_registry_has(struct kvl_registry *registry, const struct kvl_chunk_id *id);
int kvl_registry_find(struct kvl_registry *registry, const struct kvl_find *query,
                      struct kvl_run *runs_out, uint32_t room, uint32_t *total_out);
int kvl_registry_prefix(struct kvl_registry *registry, const struct kvl_chunk_id *ids,
                        uint32_t count, struct kvl_prefix *out, uint32_t room);
int kvl_registry_explain(struct kvl_registry *registry, const struct kvl_find *query,
                         struct kvl_explain *out);

int kvl_registry_worker(struct kvl_registry *registry, const struct kvl_worker_name *name,
                        struct kvl_worker_info *info_out);
int kvl_registry_list_workers(struct kvl_registry *registry, struct kvl_text instance,
                              kvl_worker_fn fn, void *ctx);
int kvl_registry_instance_by_ip(struct kvl_registry *registry, struct kvl_text ip,
                                char *instance_out);
void kvl_registry_stats(struct kvl_registry *registry, struct kvl_registry_stats *stats_out);

int kvl_registry_tidy(struct kvl_registry *registry, uint64_t budget_us);
int kvl_registry_save(struct kvl_registry *registry, const char *path);

/** -ENOMEM when keys found no room: these are counted as dropped, what fits stays. */
int kvl_registry_load(struct kvl_registry *registry, const char *path);

#endif /* KVL_PLUGIN_REGISTRY_H */
