/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file registry.h
 * Who holds which chunk, at fleet scale: instance -> worker -> location -> set of chunk ids.
 *
 * The core keeps one registry per instance and offers it to backends through struct kvl_host. The
 * semantics are those of LMCache's cache controller (0.3.12 to 0.3.14), with its known faults left
 * out: what differs is said at each slot.
 *
 * What it says is a hint, never a promise: the owner of a chunk is asked, and a wrong hint costs
 * one question. Losing the registry loses no chunk.
 *
 * Order. Instances stand in the order of their first registration, the workers of an instance
 * likewise, and the locations of a worker in the order in which they last became non-empty.
 * "Scan order" below is instance, then worker, then location.
 *
 * Threads. Every slot may be called from any thread and several at once. Lookups take no lock that
 * an update holds while it works through its keys. What happens to one worker happens one after the
 * other: apply, sync_*, register and remove for the same worker never interleave. A lookup sees
 * each key as it was at some moment during the call; it does not see all of them at the same
 * moment. No slot calls back while it holds a lock.
 *
 * Time. Deadlines run on CLOCK_MONOTONIC, so a step of the wall clock ages nobody; only the two
 * times shown in struct kvl_worker_info are wall clock.
 *
 * Text is borrowed for the call; what is given out is copied. Names longer than KVL_NAME_MAX are
 * refused with -EMSGSIZE.
 */
#ifndef KVL_REGISTRY_H
#define KVL_REGISTRY_H

#include <kvlane/abi.h>

KVL_EXTERN_C_BEGIN

/** Longest instance id, location, address, URL or sync id, in bytes. */
#define KVL_NAME_MAX 255u
/** Bytes that hold such a name and the zero behind it. */
#define KVL_NAME_ROOM 256u

/**
 * Number of a chunk as workers and controllers write it: an integer from -2^63 to 2^64-1, in two's
 * complement. -1 and 2^64-1 have the same bits and are different chunks.
 */
struct kvl_chunk_id {
    uint64_t bits;
    uint32_t negative; /* 1 when the number is below 0 */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_chunk_id) == 16, "struct kvl_chunk_id is part of the ABI");

/** Borrowed text, not terminated. `text` may be NULL when length is 0. */
struct kvl_text {
    const char *text;
    uint32_t length;
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_text) == 16, "struct kvl_text is part of the ABI");

/** Names a worker: one rank of one engine instance. */
struct kvl_worker_name {
    struct kvl_text instance;
    int64_t worker_id;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_worker_name) == 24, "struct kvl_worker_name: part of the ABI");

/** peer_url is set; without it peers cannot fetch from the worker. */
#define KVL_WORKER_HAS_PEER_URL (1u << 0)

struct kvl_worker_desc {
    uint32_t size; /* sizeof(struct kvl_worker_desc) of the writer */
    uint32_t flags; /* KVL_WORKER_ */
    struct kvl_worker_name name;
    struct kvl_text ip;
    int64_t port; /* of its control socket */
    struct kvl_text peer_url; /* host:port */
    uint64_t incarnation; /* of its process; 0 = not known */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_worker_desc) == 80, "struct kvl_worker_desc: part of the ABI");

/* ---- key events ---- */

#define KVL_KEY_ADMIT 1u
#define KVL_KEY_EVICT 2u

struct kvl_key_op {
    struct kvl_chunk_id id;
    int64_t seq; /* of its location; counts up by one */
    uint32_t kind; /* KVL_KEY_ADMIT or KVL_KEY_EVICT */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_key_op) == 32, "struct kvl_key_op is part of the ABI");

/** The first gap in the sequence of one apply call. */
struct kvl_seq_gap {
    int64_t expected;
    int64_t actual;
    uint32_t found; /* 1 when there was one */
    uint32_t reserved;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_seq_gap) == 24, "struct kvl_seq_gap is part of the ABI");

/* ---- full sync ---- */

#define KVL_SYNC_NONE 0u
#define KVL_SYNC_SYNCING 1u
#define KVL_SYNC_COMPLETED 2u
#define KVL_SYNC_FAILED 3u

/* Why a worker is asked for a full sync; 0 = it is not. */
#define KVL_SYNC_BECAUSE_UNKNOWN 1u /* "worker_re_registered" */
#define KVL_SYNC_BECAUSE_RESTART 2u /* "controller_restart" */
#define KVL_SYNC_BECAUSE_FAILED 3u /* "sync_failed_retry" */
#define KVL_SYNC_BECAUSE_GAP 4u /* "seq_discontinuity" */

struct kvl_sync_status {
    uint32_t size; /* set by the caller */
    uint32_t is_complete; /* this sync id has completed */
    uint32_t can_exit_freeze; /* progress has reached the threshold */
    uint32_t missing_count; /* batches not yet received, also those that had no room */
    double global_progress; /* completed workers / all workers */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_sync_status) == 24, "struct kvl_sync_status: part of the ABI");

/* ---- lookups ---- */

#define KVL_FIND_WITH_URL (1u << 0) /* only holders with a peer_url */
#define KVL_FIND_SAME_WORKER (1u << 1) /* prefer holders with the worker_id of the query */
#define KVL_FIND_NEAR (1u << 2) /* among equally long runs prefer the nearest */

/* How far a holder is from the one who asks. Smaller is cheaper. */
#define KVL_DISTANCE_OWN 0u /* the asking instance itself */
#define KVL_DISTANCE_HOST 1u /* another process with the same address */
#define KVL_DISTANCE_PEER 2u /* another host */

/** Who holds the longest leading part of `ids`? */
struct kvl_find {
    uint32_t size; /* sizeof(struct kvl_find) of the writer */
    uint32_t flags; /* KVL_FIND_ */
    const struct kvl_chunk_id *ids;
    uint32_t count; /* ids */
    uint32_t reserved; /* 0 */
    struct kvl_text exclude_instance; /* empty = nobody is left out */
    struct kvl_text own_instance; /* for the distance; may be empty */
    struct kvl_text own_ip; /* likewise */
    int64_t worker_id; /* see KVL_FIND_SAME_WORKER */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_find) == 80, "struct kvl_find is part of the ABI");

/** One location of one worker and how many of the leading ids it has without a hole. */
struct kvl_run {
    char instance[KVL_NAME_ROOM];
    char location[KVL_NAME_ROOM];
    char peer_url[KVL_NAME_ROOM]; /* "" = none */
    char ip[KVL_NAME_ROOM];
    int64_t worker_id;
    uint64_t incarnation;
    uint32_t length; /* at least 1 */
    uint32_t distance; /* KVL_DISTANCE_ */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_run) == 1048, "struct kvl_run is part of the ABI");

/** One instance and the length of the prefix that its workers hold together. */
struct kvl_prefix {
    char instance[KVL_NAME_ROOM];
    char location[KVL_NAME_ROOM]; /* where the last id of the prefix is */
    uint32_t length;
    uint32_t reserved;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_prefix) == 520, "struct kvl_prefix is part of the ABI");

/** Why a lookup found less than hoped, about its first id that nobody usable holds. */
struct kvl_explain {
    uint32_t size; /* set by the caller */
    uint32_t known; /* leading ids that some usable holder has, not necessarily the same one */
    uint32_t holders; /* of the id at `known`: all */
    uint32_t excluded; /* of these, in the excluded instance */
    uint32_t without_url; /* of these, without a peer_url */
    uint32_t silent; /* of these, past their time-to-live */
    uint32_t workers; /* registered now */
    uint32_t syncing; /* of these, in a full sync: their events are dropped meanwhile */
    uint64_t keys; /* entries in the whole registry */
    uint32_t never_synced; /* workers that announced no key yet */
    uint32_t reserved;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_explain) == 48, "struct kvl_explain is part of the ABI");

/* ---- watch ---- */

struct kvl_worker_info {
    uint32_t size; /* set by the registry */
    uint32_t flags; /* KVL_WORKER_ */
    char instance[KVL_NAME_ROOM];
    char ip[KVL_NAME_ROOM];
    char peer_url[KVL_NAME_ROOM]; /* "" = none */
    int64_t worker_id;
    int64_t port;
    double registration_time; /* unix seconds */
    double last_heartbeat_time; /* unix seconds; the registration until the first one */
    uint64_t silent_ms; /* since the last message of any kind */
    uint64_t keys; /* over all locations */
    uint64_t incarnation;
    uint64_t sync_received; /* batches of the sync under way */
    uint64_t sync_expected;
    uint64_t gaps; /* sequence gaps seen */
    uint32_t sync_state; /* KVL_SYNC_ */
    uint32_t has_heartbeat; /* 1 once a heartbeat came */
    uint32_t is_silent; /* 1 past its time-to-live: not offered to lookups */
    uint32_t locations; /* that hold something now */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_worker_info) == 872, "struct kvl_worker_info: part of the ABI");

struct kvl_registry_stats {
    uint32_t size; /* set by the caller */
    uint32_t instances;
    uint32_t workers;
    uint32_t syncing;
    uint32_t completed;
    uint32_t silent;
    uint64_t keys; /* (chunk, worker, location) entries; what two hold counts twice */
    uint64_t chunks; /* different chunk ids */
    uint64_t bytes; /* of memory in use */
    uint64_t bytes_max; /* 0 = no bound */
    uint64_t dropped; /* admits refused for want of memory */
    uint64_t gaps; /* messages with a sequence gap */
    uint64_t missing_batches; /* over all syncs under way */
    double global_progress; /* completed / all workers, 0.0 without workers */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_registry_stats) == 88, "struct kvl_registry_stats: the ABI");

typedef int (*kvl_worker_fn)(void *ctx, const struct kvl_worker_info *worker);
typedef int (*kvl_chunk_id_fn)(void *ctx, const struct kvl_chunk_id *ids, uint32_t count);

struct kvl_registry; /* opaque */

/** Slots take the registry of struct kvl_host. A slot beyond `size` is absent. */
struct kvl_registry_ops {
    uint32_t size;
    uint32_t reserved;

    /* ---- workers ---- */

    /**
     * Registers a worker, or registers it anew: then all its keys go, its address and times are
     * taken over, a sync under way is dropped, its place in the order stays.
     * @param known_out  1 when it was known; may be NULL
     * @return 0; -EMSGSIZE; -ENOMEM.
     */
    int (*register_worker)(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                           uint32_t *known_out);

    /**
     * A sign of life. An unknown worker, or one with another incarnation, is registered from it.
     * @param because_out  KVL_SYNC_BECAUSE_ when the worker is to send a full sync, else 0
     * @return 0; as register_worker.
     */
    int (*heartbeat)(struct kvl_registry *registry, const struct kvl_worker_desc *desc,
                     uint32_t *because_out);

    /**
     * Takes a worker out with all its keys, and its instance with the last one. The keys are gone
     * for lookups when this returns; their memory comes back bit by bit. @return 0; -ENOENT.
     */
    int (*remove_worker)(struct kvl_registry *registry, const struct kvl_worker_name *name);

    /**
     * Removes workers that have sent heartbeats and then nothing at all for `timeout_ms`, and
     * calls `fn` for each. Workers that never sent a heartbeat stay.
     * @return how many were removed; -EINVAL.
     */
    int (*reap)(struct kvl_registry *registry, uint64_t timeout_ms, kvl_worker_fn fn, void *ctx);

    /* ---- keys ---- */

    /**
     * Applies events of one worker and location in order. A gap in `seq` is reported and counted,
     * and the events are applied all the same; the first event of a location is never a gap.
     * @param gap_out  may be NULL
     * @return 0; -ENOENT unknown worker; -EBUSY it is in a full sync: nothing was applied;
     *         -EMSGSIZE; -ENOMEM no room: what did not fit was dropped and counted, the rest done.
     */
    int (*apply)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                 struct kvl_text location, const struct kvl_key_op *ops, uint32_t count,
                 struct kvl_seq_gap *gap_out);

    /**
     * An owner said that it has these chunks no more: takes the hints away. No sequence is
     * involved. @return 0, also for what is not known; -ENOENT unknown worker.
     */
    int (*withdraw)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                    struct kvl_text location, const struct kvl_chunk_id *ids, uint32_t count);

    /** Takes all keys of a location away, of all its locations when empty. 0; -ENOENT. */
    int (*clear)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                 struct kvl_text location);

    /**
     * Gives out the keys of a location in no order, a few at a time. Slow: reads the whole
     * registry.
     * @return 0; -ENOENT; what `fn` returned when that was not 0.
     */
    int (*list_keys)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                     struct kvl_text location, kvl_chunk_id_fn fn, void *ctx);

    /* ---- full sync ---- */

    /**
     * Takes the keys of that location away, those of others stay.
     * @return 0 accepted; -ENOENT; -EBUSY another sync is under way; -EMSGSIZE too many batches.
     */
    int (*sync_start)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                      struct kvl_text location, struct kvl_text sync_id, uint64_t total_keys,
                      uint64_t batch_count);

    /**
     * @return 0; -ENOENT; -ESTALE no such sync is under way; -ERANGE batch_id outside the sync;
     *         -ENOMEM what did not fit was dropped, the batch counts as received.
     */
    int (*sync_batch)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                      struct kvl_text location, struct kvl_text sync_id, int64_t batch_id,
                      const struct kvl_chunk_id *ids, uint32_t count);

    /**
     * @param keys_out  keys received, each batch counted once; may be NULL
     * @return 0 completed; -ENOENT; -ESTALE no such sync; -EAGAIN batches are missing.
     */
    int (*sync_end)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                    struct kvl_text sync_id, uint64_t *keys_out);

    /**
     * @param missing_out  ascending ids of batches not received, of a sync under way
     * @param room         entries of missing_out
     * @return 0, also for an unknown worker or sync.
     */
    int (*sync_status)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                       struct kvl_text sync_id, struct kvl_sync_status *status_out,
                       int64_t *missing_out, uint32_t room);

    /* ---- lookups ---- */

    /** 1 when anybody holds the chunk, else 0. */
    int (*has)(struct kvl_registry *registry, const struct kvl_chunk_id *id);

    /**
     * Every location that holds ids[0], best first: same worker_id (where asked for), longest run,
     * nearest (where asked for), scan order. Silent workers are left out.
     * @param total_out  how many there are, also beyond `room`; may be NULL
     * @return entries written, 0 = nobody; -EINVAL; -ENOMEM.
     */
    int (*find)(struct kvl_registry *registry, const struct kvl_find *query,
                struct kvl_run *runs_out, uint32_t room, uint32_t *total_out);

    /**
     * Every instance that holds ids[0] in any of its workers, longest prefix first, then in the
     * order of registration. @return entries written; -ENOMEM.
     */
    int (*prefix)(struct kvl_registry *registry, const struct kvl_chunk_id *ids, uint32_t count,
                  struct kvl_prefix *out, uint32_t room);

    /** Why is the answer to this query empty or short? @return 0; -EINVAL. */
    int (*explain)(struct kvl_registry *registry, const struct kvl_find *query,
                   struct kvl_explain *out);

    /* ---- watch ---- */

    /** One worker. @return 0; -ENOENT. */
    int (*worker)(struct kvl_registry *registry, const struct kvl_worker_name *name,
                  struct kvl_worker_info *info_out);

    /**
     * Workers in scan order, of one instance unless empty. @return 0; -ENOENT; what fn returned.
     */
    int (*list_workers)(struct kvl_registry *registry, struct kvl_text instance, kvl_worker_fn fn,
                        void *ctx);

    /**
     * First instance in order that has a worker with this address.
     * @return 0 and its id, terminated, in KVL_NAME_ROOM bytes; -ENOENT.
     */
    int (*instance_by_ip)(struct kvl_registry *registry, struct kvl_text ip, char *instance_out);

    void (*stats)(struct kvl_registry *registry, struct kvl_registry_stats *stats_out);

    /* ---- upkeep ---- */

    /**
     * Gives back memory of what was removed, and times out syncs, for up to about `budget_us`.
     * Updates do some of it on their way; call this from a timer so that it happens in quiet times.
     * @return 1 when something is left to do, else 0.
     */
    int (*tidy)(struct kvl_registry *registry, uint64_t budget_us);

    /**
     * Writes everything to a file, replacing it in one step when complete. Lookups and updates go
     * on meanwhile; an update during the call may or may not be in. @return 0; -errno of the file.
     */
    int (*save)(struct kvl_registry *registry, const char *path);

    /**
     * Reads such a file into an empty registry. Its workers count as heard of now, and are not
     * asked for a full sync because of the restart. Events that the file has already may be told
     * again, from any point on: the first of a location to come is no gap when it is an old one.
     * @return 0; -EBADMSG damaged, or of another version: the registry is empty; -EBUSY it is not
     *         empty; -errno of the file; -ENOMEM.
     */
    int (*load)(struct kvl_registry *registry, const char *path);
};
KVL_STATIC_ASSERT(sizeof(struct kvl_registry_ops) == 192, "append slots, bump the minor version");

KVL_EXTERN_C_END

#endif /* KVL_REGISTRY_H */
