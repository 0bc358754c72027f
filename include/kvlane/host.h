/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file host.h
 * What the core offers a backend: struct kvl_host, passed to create(). A backend links to nothing
 * of the core; this table is its only way there. It belongs to one backend instance, outlives it,
 * and only grows; a slot beyond `size` is absent.
 *
 * Every function may be called from any thread and several at once, and none calls back into the
 * backend.
 */
#ifndef KVL_HOST_H
#define KVL_HOST_H

#include <kvlane/io.h>
#include <kvlane/log.h>
#include <kvlane/registry.h>
#include <kvlane/watch.h>

KVL_EXTERN_C_BEGIN

/** Value of a setting after the core has parsed it against the backend's option table. */
struct kvl_setting {
    int64_t number; /* bool 0/1; int; size in bytes; duration in ms; index of an enum's choice */
    const char *text; /* the value as text, "" when unset; lives as long as the backend */
    uint32_t is_set; /* 1 = stands in the INI file, 0 = the default */
    uint32_t reserved;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_setting) == 24, "struct kvl_setting is part of the ABI");

/* Where a chunk of this process lies, since 1.2; with the name of that location in registries. */
#define KVL_WHERE_HOST 0u /* own store: LocalCPUBackend */
#define KVL_WHERE_GPU 1u /* memory of a GPU, kept by a backend: LocalGPUBackend */

/** A change of the local store, as workers announce it to a controller. */
struct kvl_store_event {
    struct kvl_chunk_id id; /* as host->chunk_id gives it */
    uint64_t bytes; /* of the chunk; 0 for an evict */
    uint32_t kind; /* KVL_KEY_ADMIT or KVL_KEY_EVICT */
    uint32_t where; /* since 1.2: KVL_WHERE_ */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_store_event) == 32, "struct kvl_store_event: part of the ABI");

/**
 * The memory of the local store as other processes of this host can map it. What they may read at
 * which time is for the backend to say: a view's bytes rest while its lease is out.
 */
struct kvl_store_export {
    uint32_t size; /* set by the caller */
    int32_t fd; /* sealed memfd, opened read-only; borrowed */
    const void *base; /* of the mapping in this process; views point into it */
    uint64_t bytes;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_store_export) == 24,
                  "struct kvl_store_export: part of the ABI");

/**
 * Answer of locate: holders of the first of the ids, best first, borrowed for the call. Status 0
 * also when nobody has it; else why nobody could be asked.
 */
typedef void (*kvl_locate_fn)(void *ctx, int32_t status, const struct kvl_run *runs,
                              uint32_t count);

/** store_fetch: only ask whether somebody has the chunk, bring nothing. */
#define KVL_FETCH_LOOKUP (1u << 0)
/**
 * Since 1.2. store_fetch: only from backends that keep chunks of this process themselves
 * (KVL_CAP_HELD). For those who serve peers that would else ask one another in circles.
 */
#define KVL_FETCH_HELD (1u << 1)

/** Longest text a backend may have channels tell to peers on its behalf, in bytes. */
#define KVL_OFFER_MAX 1024u

/** What a backend tells its like in another process, since 1.2: how to reach it, for instance. */
struct kvl_offer {
    uint32_t size; /* sizeof(struct kvl_offer) of the writer */
    uint32_t is_same_host; /* 1 = the channel knows that the peer runs on this machine */
    struct kvl_text backend; /* name of the backend it comes from and goes to */
    struct kvl_text peer; /* how the channel names the peer, "" for one's own offer */
    const void *bytes; /* opaque to core and channel; at most KVL_OFFER_MAX */
    uint32_t length;
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_offer) == 56, "struct kvl_offer is part of the ABI");

/** Receives one offer, borrowed for the call. */
typedef void (*kvl_offer_fn)(void *ctx, const struct kvl_offer *offer);

/** End of a store_fetch: 0 it is in the own store now (or somebody has it); -ENOENT; why not. */
typedef void (*kvl_fetch_fn)(void *ctx, int32_t status);

struct kvl_host {
    uint32_t size; /* sizeof(struct kvl_host) of the core */
    uint32_t abi_minor; /* KVL_BACKEND_ABI_MINOR of the core */
    void *ctx; /* the core's; not for backends */
    const struct kvl_log *log; /* component = the INI section of this instance */

    /* ---- life ---- */

    /** Now, in ms of CLOCK_MONOTONIC. Never blocks. */
    uint64_t (*now_ms)(const struct kvl_host *host);

    /**
     * Reads a setting of the instance's INI section. Only from create, check, start and reload.
     * @return 0; -ENOENT when the option table has no such name.
     */
    int (*setting)(const struct kvl_host *host, const char *name, struct kvl_setting *out);

    /**
     * Starts a thread with all signals blocked and a name of up to 15 bytes. Only from start() on;
     * each must be joined before stop() returns.
     * @return 0; -EAGAIN, -ENOMEM.
     */
    int (*thread_create)(const struct kvl_host *host, const char *name, void *(*fn)(void *),
                         void *arg, uint64_t *thread_out);

    /** Waits for the end of a thread. @return 0; -ESRCH for an unknown one. */
    int (*thread_join)(const struct kvl_host *host, uint64_t thread);

    /* ---- operations the core submitted ---- */

    /**
     * Ends a batch. Exactly once for each batch whose submit returned 0, never from inside submit.
     * A second call for the same cookie is counted, logged and otherwise ignored. The record is
     * borrowed for the call.
     */
    void (*complete)(const struct kvl_host *host, const struct kvl_completion *done);

    /**
     * Asks where to put the bytes of item `item` of the read batch `cookie`, once size and
     * attributes are known. For a batch without `sg`. At most once per item.
     * @param found   bytes, attrs, and checksum when the flag says so; its key is ignored
     * @param addr_out  found->bytes of host memory, aligned to 64, ours until the completion
     * @return 0; -EBADMSG when the caller expects another size or other attributes; -EMSGSIZE over
     *         the limit; -ENOMEM no room; -ECANCELED nobody waits any more. On failure drop the
     *         payload and report that code for the item.
     */
    int (*read_target)(const struct kvl_host *host, uint64_t cookie, uint32_t item,
                       const struct kvl_chunk *found, void **addr_out);

    /**
     * Adds keys to the answer of a list operation before its completion. Borrowed for the call.
     * @return 0; -ECANCELED when nobody waits any more.
     */
    int (*list_add)(const struct kvl_host *host, uint64_t cookie, const struct kvl_key *keys,
                    uint32_t count);

    /* ---- the local store, for a backend that serves it to peers ---- */

    /**
     * Leases a chunk. Never blocks; counts as use.
     * @return 0 and a lease to give back; -ENOENT, also while its first write is under way.
     */
    int (*store_get)(const struct kvl_host *host, const struct kvl_key *key,
                     struct kvl_view *view_out);

    /** Gives a lease back. -EINVAL for one that is not out. */
    int (*store_release)(const struct kvl_host *host, uint64_t lease);

    /** 0 when the chunk is there, else -ENOENT. Counts as use. Never blocks. */
    int (*store_exists)(const struct kvl_host *host, const struct kvl_key *key);

    /**
     * Makes room for a chunk, evicting others where needed. Invisible until committed; an older
     * chunk of that key stays visible meanwhile.
     * @param chunk  key, bytes, attrs; checksum where the flag says so
     * @return 0, a handle, and chunk->bytes of memory aligned to 64 (NULL for 0 bytes);
     *         -EMSGSIZE larger than the store takes; -ENOMEM everything is in use;
     *         -EINVAL bad key.
     */
    int (*store_reserve)(const struct kvl_host *host, const struct kvl_chunk *chunk,
                         uint64_t *slot_out, void **addr_out);

    /**
     * Makes the bytes visible in one step, in place of an older chunk of that key, and ends the
     * handle whatever it returns.
     * @return 0; -EBADMSG when the checksum given to store_reserve does not match; -EINVAL.
     */
    int (*store_commit)(const struct kvl_host *host, uint64_t slot);

    /** Gives the room back, nothing is stored, and ends the handle. */
    int (*store_abort)(const struct kvl_host *host, uint64_t slot);

    /** Takes a chunk out of the store; leases on it stay valid. 0 or -ENOENT. */
    int (*store_remove)(const struct kvl_host *host, const struct kvl_key *key);

    /**
     * Calls `fn` for every chunk that was there when the call began, in no order. `fn` runs with no
     * lock held; the keys are copies. @return 0; -ENOMEM; what `fn` returned.
     */
    int (*store_list)(const struct kvl_host *host, kvl_key_fn fn, void *ctx);

    /** Largest chunk the store can take, in bytes. */
    uint64_t (*store_max_bytes)(const struct kvl_host *host);

    /**
     * Asks the other backends for a chunk that the own store has not: a disk below the memory, a
     * store further away. Never blocks. Only while running.
     * @param fn  called exactly once when 0 was returned, from another thread, no lock held; also
     *            before stop() is called, with -ECANCELED, when the instance closes
     * @return 0; -ENOENT nobody can be asked, the miss is final; -EAGAIN too many at once;
     *         -ECANCELED; -ENOMEM.
     */
    int (*store_fetch)(const struct kvl_host *host, const struct kvl_key *key, uint32_t flags,
                       kvl_fetch_fn fn, void *ctx);

    /* ---- watch, for a backend that shows the instance to people and machines ---- */

    /** Calls `fn` once per counter of the whole instance, as kvl_plugin.stats. Does not block. */
    int (*stats)(const struct kvl_host *host, kvl_stat_fn fn, void *ctx);

    /** Record of a location, as kvl_plugin.health: 1 = own store, then the backends. */
    int (*health)(const struct kvl_host *host, uint32_t location, struct kvl_health *health_out);

    /* ---- since 1.1: who holds what ---- */

    /**
     * The registry of the instance, for a backend with KVL_NEED_REGISTRY; else NULL. It is there
     * from create to destroy. Settings: section [registry] of the INI file.
     */
    const struct kvl_registry_ops *registry_ops;
    struct kvl_registry *registry;

    /**
     * Number of a chunk on the controller's wire. For keys written by LMCache the hash in the key,
     * for others the XXH3-64 of the text. @return 0; -EINVAL bad key. Never blocks.
     */
    int (*chunk_id)(const struct kvl_host *host, const struct kvl_key *key,
                    struct kvl_chunk_id *id_out);

    /**
     * Waits for changes of the local store and takes them, oldest first. One reader per instance,
     * which also starts the recording: what happened before its first call is not told, so list the
     * store after it. Blocks; only from a thread of the backend.
     * @param deadline_ms  absolute; one that has passed only takes what is there
     * @return events written; 0 at the deadline, or when store_events_wake was called; -EOVERFLOW
     *         the reader was too slow: some are lost, the rest is dropped, list the store anew;
     *         -EBUSY another backend is the reader.
     */
    int (*store_events)(const struct kvl_host *host, struct kvl_store_event *events_out,
                        uint32_t room, uint64_t deadline_ms);

    /** Makes a store_events call that waits, or else the next one, return at once. */
    void (*store_events_wake)(const struct kvl_host *host);

    /**
     * Memory of the store, for a backend with KVL_NEED_EXPORT.
     * @return 0; -ENOTSUP the memory is the engine's, or the system has no memfd.
     */
    int (*store_export)(const struct kvl_host *host, struct kvl_store_export *out);

    /**
     * Asks the backend with KVL_CAP_LOCATE (a worker of a fleet controller) who holds these chunks.
     * Never blocks.
     * @param fn  called exactly once when 0 was returned, from another thread, no lock held
     * @return 0; -ENOTSUP there is no such backend; what it answered.
     */
    int (*locate)(const struct kvl_host *host, const struct kvl_chunk_id *ids, uint32_t count,
                  uint64_t deadline_ms, kvl_locate_fn fn, void *ctx);

    /**
     * Has another engine take chunks of the own store into its store, through the backend with
     * KVL_CAP_PUSH. Blocks until the deadline; only from a thread of the backend.
     * @param peer_url    its peer_init_url
     * @param pushed_out  chunks it took; those it had already and those not here do not count
     * @return 0; -ENOTSUP there is no such backend, or the peer cannot; -ETIMEDOUT, -ENOTCONN, ..
     */
    int (*push)(const struct kvl_host *host, const char *peer_url, const struct kvl_key *keys,
                uint32_t count, uint64_t deadline_ms, uint32_t *pushed_out);

    /* ---- since 1.2 ---- */

    /**
     * Tells how far a read or scatter into registered KV blocks has come: the first `layers` layers
     * of all its chunks are in the engine's memory, so not while one of them may still be a miss.
     * Grows; the completion ends it. Never blocks.
     */
    void (*progress)(const struct kvl_host *host, uint64_t cookie, uint32_t layers);

    /**
     * The memory that views and read targets point into, for a backend that must prepare it for
     * its device. The same from start to stop. @return 0; -ENOTSUP the store has none.
     */
    int (*store_range)(const struct kvl_host *host, void **base_out, uint64_t *bytes_out);

    /**
     * Has every channel of the instance tell its peers these bytes on behalf of this backend, in
     * place of earlier ones; length 0 = nothing any more. Copied. Peers greeted before are not told
     * again. @return 0; -EMSGSIZE over KVL_OFFER_MAX; -ENOMEM.
     */
    int (*offer)(const struct kvl_host *host, const void *bytes, uint32_t length);

    /** For channels: calls `fn` for each offer of this instance's backends. No lock is held. */
    void (*offers)(const struct kvl_host *host, kvl_offer_fn fn, void *ctx);

    /** For channels: a peer's offer, given on to the backend of that name, if there is one. */
    void (*offered)(const struct kvl_host *host, const struct kvl_offer *offer);

    /**
     * A chunk that the backend keeps itself (KVL_CAP_HELD) came or went: it joins store_events.
     * @param kind  KVL_KEY_ADMIT or KVL_KEY_EVICT
     */
    void (*held_event)(const struct kvl_host *host, const struct kvl_key *key, uint64_t bytes,
                       uint32_t kind);

    /**
     * Calls `fn` for every chunk of this process that lies there: KVL_WHERE_HOST as store_list,
     * others from the backends with KVL_CAP_HELD. @return 0; -ENOMEM; what `fn` returned.
     */
    int (*held)(const struct kvl_host *host, uint32_t where, kvl_key_fn fn, void *ctx);
};

KVL_EXTERN_C_END

#endif /* KVL_HOST_H */
