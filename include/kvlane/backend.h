/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file backend.h
 * Core <-> backend. A backend is a shared object `kvl-<word>.so` that exports one symbol,
 * kvlane_backend_v1(), which returns a constant description with a table of functions. Nothing runs
 * when it is loaded. It is loaded because an INI section names it: `[word]`, or `[word:label]` for
 * one of several instances.
 *
 * Life of an instance, all calls made by one thread at a time:
 *
 *   create -> start -> (data operations) -> quiesce -> drain -> stop -> destroy
 *
 * create opens nothing and starts no thread, because engines fork after they opened the plugin.
 * destroy may follow create directly.
 *
 * Data operations may be called from any thread and several at once. They never block on I/O: they
 * accept a batch and return 0, or refuse it with a code and forget it. An accepted batch ends by
 * exactly one host->complete(), from a thread of the backend, never from inside the submit call.
 * The batch record and its keys are borrowed for the submit call; the memory behind `sg` until the
 * completion. Deadlines are kept by the core also when the backend is stuck; a backend should stop
 * by itself near them, so that memory comes back.
 */
#ifndef KVL_BACKEND_H
#define KVL_BACKEND_H

#include <kvlane/channel.h>
#include <kvlane/host.h>

struct kvl_ipc_ops; /* kvlane/ipc.h */

KVL_EXTERN_C_BEGIN

#define KVL_BACKEND_MAGIC 0x424c564bu /* "KVLB" */
#define KVL_BACKEND_ABI_MAJOR 1u
#define KVL_BACKEND_ABI_MINOR 2u

/** Name of the one exported symbol, for dlsym. */
#define KVL_BACKEND_ENTRY "kvlane_backend_v1"

/* Capabilities are in watch.h: what the code can do; a bit without its slot is refused at load. */

/* ---- needs: what it demands of the core; an unknown bit is refused at load ---- */
#define KVL_NEED_STORE (1ull << 0) /* the store_ services of the host */
#define KVL_NEED_REGISTRY (1ull << 1) /* since 1.1: registry_ops and registry of the host */
#define KVL_NEED_EXPORT (1ull << 2) /* since 1.1: store_export of the host, where it can be had */

/* ---- options ---- */
#define KVL_OPTION_BOOL 1u /* yes no true false on off 1 0 */
#define KVL_OPTION_INT 2u
#define KVL_OPTION_SIZE 3u /* bytes; K M G T and KiB MiB GiB TiB are powers of 1024 */
#define KVL_OPTION_DURATION 4u /* ms when bare; ms s m h */
#define KVL_OPTION_ENUM 5u /* one of `choices` */
#define KVL_OPTION_STRING 6u
#define KVL_OPTION_PATH 7u /* absolute */
#define KVL_OPTION_SECRET 8u /* a string that is never logged or shown */

#define KVL_OPTION_REQUIRED (1u << 0)
#define KVL_OPTION_RELOADABLE (1u << 1)

/** One key of the backend's INI section. The core checks types, ranges and names. */
struct kvl_option {
    const char *name;
    uint32_t type; /* KVL_OPTION_ */
    uint32_t flags; /* KVL_OPTION_REQUIRED, .. */
    const char *value; /* the default, in the words of the INI file; NULL or "" = unset */
    const char *choices; /* enum: "client|server"; else NULL */
    int64_t min; /* int, size, duration: smallest legal value */
    int64_t max; /* and largest; both 0 = no bound */
    const char *help; /* one line */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_option) == 56, "struct kvl_option is part of the ABI");

/** What it can take and what it costs, after create. Zero = no limit, or not known. */
struct kvl_limits {
    uint32_t size; /* set by the caller */
    uint32_t max_items; /* chunks in one batch */
    uint64_t max_bytes; /* one chunk */
    uint32_t max_in_flight; /* batches; more are refused with -EAGAIN */
    uint32_t latency_us; /* typical time to a first byte */
    uint64_t bandwidth; /* bytes per second, typical */
    uint64_t caps; /* the descriptor's bits that hold in this role; 0 = all of them */
    uint32_t streams; /* batches that move at the same time: larger loads and saves are split */
    uint32_t where; /* since 1.2: KVL_WHERE_ of the chunks that `held` lists */
    uint64_t memory; /* since 1.2: bit 1 << kind per KVL_MEM_ kind; 0 = host memory only */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_limits) == 56, "struct kvl_limits is part of the ABI");

/* ---- the table ---- */

struct kvl_backend_ops {
    uint32_t size; /* sizeof(struct kvl_backend_ops) of the backend */
    uint32_t reserved; /* 0 */

    /* ---- life: mandatory except check, quiesce and drain ---- */

    /**
     * Checks settings beyond their types (an address that does not parse). Starts nothing.
     * Optional. @return 0; -EINVAL and err->text.
     */
    int (*check)(const struct kvl_host *host, struct kvl_err *err);

    /**
     * Makes an instance. No thread, no connection, no file.
     * @return 0; -ENODEV when this machine lacks the device or driver (a section with
     *         `required = auto` is then left out quietly); -EINVAL, -ENOMEM. err->text on failure.
     */
    int (*create)(const struct kvl_host *host, void **self_out, struct kvl_err *err);

    /**
     * Makes threads, sockets and connections. A peer that is away is no failure: reconnect.
     * @return 0; -EADDRINUSE, -EACCES, ... and err->text. After a failure only destroy follows.
     */
    int (*start)(void *self, struct kvl_err *err);

    /** Takes no new work (-ECANCELED), stops accepting peers. Does not block. Optional. */
    void (*quiesce)(void *self);

    /** Waits until accepted work is done. @return 0; -ETIMEDOUT at the deadline. Optional. */
    int (*drain)(void *self, uint64_t deadline_ms);

    /**
     * Wakes and joins every thread, closes connections, completes what is left with -ECANCELED.
     * Bounded in time; nothing of the instance runs afterwards.
     */
    void (*stop)(void *self);

    /** Frees. Takes NULL. Cannot fail. */
    void (*destroy)(void *self);

    /* ---- data: each goes with its capability bit ---- */
    /* All return 0 when accepted; -EAGAIN no room now; -ENOTCONN peer away; -ECANCELED stopping;
     * -ENOTSUP not in this role; -EMSGSIZE over get_limits; -EINVAL; -ENOMEM. */

    /** Which chunks are there? Item 0 or -ENOENT. Moves no bytes. */
    int (*lookup)(void *self, const struct kvl_batch *batch);

    /**
     * Brings chunks: where host->read_target says; or into `sg`, which only backends with
     * KVL_CAP_DIRECT are given. Those check size, attributes and checksum themselves against what
     * the chunk record expects.
     */
    int (*read)(void *self, const struct kvl_batch *batch);

    /**
     * Sends chunks from `sg` (since 1.2 also from `kv`, see KVL_CAP_MEMORY). Item 0 only when the
     * other side has them. Memory of a device is the engine's own: a batch that was cancelled may
     * have read anything there, so what it wrote must not be kept.
     */
    int (*write)(void *self, const struct kvl_batch *batch);

    /** Takes chunks away from the other side. */
    int (*remove)(void *self, const struct kvl_batch *batch);

    /** Lists what the other side holds, through host->list_add, then completes. */
    int (*list)(void *self, uint64_t cookie, uint64_t deadline_ms);

    /** Asks the other side whether it works, then completes. */
    int (*probe)(void *self, uint64_t cookie, uint64_t deadline_ms);

    /** Asks to end a batch early. It still completes once. Unknown cookies are ignored. */
    void (*cancel)(void *self, uint64_t cookie);

    /* ---- watch: optional; from any thread, until destroy ---- */

    /** Fills limits for this instance; after create. Does not block. */
    void (*get_limits)(void *self, struct kvl_limits *limits_out);

    /** Fills state, address and text. Does not block. */
    void (*get_health)(void *self, struct kvl_health *health_out);

    /** Calls `fn` once per counter. Does not block. */
    void (*get_stats)(void *self, kvl_stat_fn fn, void *ctx);

    /**
     * Takes over the options marked KVL_OPTION_RELOADABLE, which host->setting gives with their new
     * values; the others have not changed. Running, never together with another life call.
     * Optional: without it no option of the backend can be reloaded.
     * @return 0; a code and err->text when it goes on with what it had.
     */
    int (*reload)(void *self, struct kvl_err *err);

    /* ---- since 1.1 ---- */

    /**
     * Asks the fleet who holds these chunks: see host->locate, whose rules for `fn` hold. Goes with
     * KVL_CAP_LOCATE. @return 0 accepted; -EAGAIN, -ENOTCONN, -ECANCELED, -ENOMEM.
     */
    int (*locate)(void *self, const struct kvl_chunk_id *ids, uint32_t count, uint64_t deadline_ms,
                  kvl_locate_fn fn, void *ctx);

    /** See host->push. Goes with KVL_CAP_PUSH. From threads of other backends; may block. */
    int (*push)(void *self, const char *peer_url, const struct kvl_key *keys, uint32_t count,
                uint64_t deadline_ms, uint32_t *pushed_out);

    /** Peer channels. Goes with KVL_CAP_CHANNEL. From start to stop; the `self` is the instance. */
    const struct kvl_channel_ops *channels;

    /* ---- since 1.2: memory the core cannot touch; go with KVL_CAP_MEMORY ---- */

    /**
     * Takes note of an engine's paged KV cache. The record is borrowed for the call. May block;
     * only while running. The core has checked the record and checks block tables against it; only
     * of a kvcache it knows no layout: there sizes and block ids are the backend's to check. When
     * the process that a kvcache came from ends, the backend refuses batches with it (-ENODEV).
     * @return 0 and a number that `kvl_batch.kv` names it by; -EINVAL, -ENODEV, -ENOTSUP, -ENOMEM,
     *         -EMSGSIZE, and what opening the memory of another process fails with. err->text on
     *         failure.
     */
    int (*kv_register)(void *self, const struct kvl_kv *kv, uint64_t *kv_out, struct kvl_err *err);

    /** Forgets it. Waits for copies under way. @return 0; -EBUSY a batch with it is in flight. */
    int (*kv_unregister)(void *self, uint64_t kv);

    /**
     * Copies chunks out of the engine's memory (`kv`, or `sg` of a kind in the limits) to host
     * memory: chunk i to `to[i]`, chunks[i].bytes long, without gaps. `to` is borrowed for the
     * call, the memory until the completion. Block tables name no KVL_BLOCK_SKIP.
     * @return as for the data operations; after -EAGAIN it comes again when something has landed.
     */
    int (*gather)(void *self, const struct kvl_batch *batch, void *const *to);

    /**
     * Copies chunks from host memory into the engine's: chunk i from `from[i]`. Tells by
     * host->progress how many layers of all chunks have arrived, when it can tell.
     */
    int (*scatter)(void *self, const struct kvl_batch *batch, const void *const *from);

    /*
     * ---- since 1.2: peers ----
     *
     * Backends with KVL_CAP_CONNECT or KVL_CAP_HELD start before all others and stop after them:
     * both calls come between start and stop only, and what start offers is told to every peer.
     */

    /**
     * A peer offers something to backends of this name: see host->offer. Never blocks: it takes
     * note, and connects from a thread of its own. Borrowed for the call. Offers come again
     * whenever a peer is greeted again. Goes with KVL_CAP_CONNECT.
     */
    void (*connect)(void *self, const struct kvl_offer *offer);

    /**
     * See host->held; `where` of the limits says which location that is, not KVL_WHERE_HOST. Goes
     * with KVL_CAP_HELD. Never blocks on I/O.
     */
    int (*held)(void *self, kvl_key_fn fn, void *ctx);

    /** Codecs; pure functions, valid as soon as the module is loaded. Goes with KVL_CAP_IPC. */
    const struct kvl_ipc_ops *ipc;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_backend_ops) == 232, "append slots, bump the minor version");

struct kvl_backend_desc {
    /* The first five fields are frozen for ever. */
    uint32_t magic; /* KVL_BACKEND_MAGIC */
    uint32_t size; /* sizeof(struct kvl_backend_desc) of the backend */
    uint32_t abi_major; /* KVL_BACKEND_ABI_MAJOR */
    uint32_t abi_minor; /* KVL_BACKEND_ABI_MINOR */
    uint64_t flags; /* 0 */

    uint64_t caps; /* KVL_CAP_; bits the core does not know are ignored */
    uint64_t needs; /* KVL_NEED_; bits the core does not know are refused */
    const char *name; /* the word: as in kvl-<word>.so */
    const char *version; /* of the backend */
    const char *build_id; /* tells two builds apart */
    const struct kvl_option *options;
    uint32_t option_count;
    uint32_t option_size; /* sizeof(struct kvl_option) of the backend */
    const struct kvl_backend_ops *ops;
};
KVL_STATIC_ASSERT(sizeof(struct kvl_backend_desc) == 88, "append fields, bump the minor version");

/** Type of the entry. Re-entrant, no side effect, the same answer each time. */
typedef const struct kvl_backend_desc *(*kvl_backend_entry_fn)(void);

KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void);

KVL_EXTERN_C_END

#endif /* KVL_BACKEND_H */
