/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file plugin.h
 * Engine <-> core. An engine opens libkvlane.so with dlopen, asks kvlane_plugin_v1() for the table,
 * and opens an instance; the INI file says which backends it gets. Any number of instances may be
 * open in one process; the entry may be called any number of times.
 *
 *   lookup   how many leading chunks of this request are there, and where?
 *   load     bring them into my memory
 *   save     keep these chunks and share them
 *
 * lookup, load, save and remove take a batch and work in two ways:
 * - op_out == NULL: the call waits for the end, at most until the batch's deadline.
 * - op_out != NULL: the call never waits for I/O. When all could be answered from this process it
 *   returns 0 and *op_out is 0; else it returns -EINPROGRESS and *op_out names the operation, which
 *   wait() must end exactly once. Batch and keys are borrowed for the call; memory behind `sg` of a
 *   load until wait() has ended the operation. save has read host memory when it returns, and
 *   memory of a device (since 1.2) when wait() has ended the operation.
 *
 * The return value of such a call is that of the operation as a whole: 0, or a real failure.
 * A miss is none: it is -ENOENT in item_status. A failing backend never fails the call: a load ends
 * as a miss of some items, and a save has succeeded once the own store took it. A load or lookup
 * that is cut off at its deadline returns -ETIMEDOUT, with what was done until then in the items.
 *
 * Threads: every function may be called from any thread and several at once; close only after all
 * other calls on that instance have returned. After fork() the child gets -ECHILD from every call
 * on an instance of its parent and must open its own.
 */
#ifndef KVL_PLUGIN_H
#define KVL_PLUGIN_H

#include <kvlane/channel.h>
#include <kvlane/io.h>
#include <kvlane/log.h>
#include <kvlane/watch.h>

KVL_EXTERN_C_BEGIN

#define KVL_PLUGIN_MAGIC 0x504c564bu /* "KVLP" */
#define KVL_PLUGIN_ABI_MAJOR 1u
#define KVL_PLUGIN_ABI_MINOR 2u

/** Name of the one exported symbol, for dlsym. */
#define KVL_PLUGIN_ENTRY "kvlane_plugin_v1"

/** Environment variable that names the INI file when open() is given none. Ignored in setuid. */
#define KVL_CONFIG_ENV "KVLANE_CONFIG"

/** Where a chunk was found. Backends follow from KVL_LOCATION_BACKEND in the order of the file. */
#define KVL_LOCATION_NONE 0u
#define KVL_LOCATION_LOCAL 1u /* own store, registry name "LocalCPUBackend" */
#define KVL_LOCATION_BACKEND 2u

struct kvl_instance;
struct kvl_ipc_ops; /* kvlane/ipc.h */

/** arena_fd is set. */
#define KVL_OPEN_ARENA_FD (1u << 0)

struct kvl_open_params {
    uint32_t size; /* sizeof(struct kvl_open_params) of the engine */
    uint32_t flags; /* KVL_OPEN_ */
    const char *config_path; /* INI file; or NULL */
    const char *config_text; /* INI text instead of a file; or NULL */
    /* Both NULL: the file named by KVLANE_CONFIG, else -EINVAL. */
    const char *const *overrides; /* "section.key=value", applied after the file */
    uint32_t override_count;
    uint32_t reserved; /* 0 */
    kvl_log_fn log; /* NULL = lines on stderr */
    void *log_ctx;
    /* Memory for the store, aligned to 4096, valid until close; NULL = the plugin maps its own. It
     * takes the place of `[store] max_bytes`. */
    void *arena;
    uint64_t arena_bytes;
    /* Since 1.1, with KVL_OPEN_ARENA_FD: the memfd (made with MFD_ALLOW_SEALING) that `arena` maps
     * from its beginning, so that backends can show the store to engines on the same host. It is
     * sealed against changes of its size; the descriptor itself stays the engine's. */
    int32_t arena_fd;
    uint32_t reserved2; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_open_params) == 80, "append fields, bump the minor version");

/** Outcome of an operation. The caller sets size, item_count and the arrays it wants filled. */
struct kvl_result {
    uint32_t size; /* sizeof(struct kvl_result) of the caller */
    int32_t status; /* as returned */
    uint32_t matched; /* lookup, load: leading items found or loaded; save: items stored */
    uint32_t item_count; /* in: entries the arrays hold; out: items of the batch */
    uint64_t bytes; /* payload loaded or saved */
    int32_t *item_status; /* NULL, or one errno per chunk */
    uint8_t *item_location; /* NULL, or one KVL_LOCATION_ per chunk: lookup, load */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_result) == 40, "append fields, bump the minor version");

struct kvl_plugin {
    /* The first five fields are frozen for ever. */
    uint32_t magic; /* KVL_PLUGIN_MAGIC */
    uint32_t size; /* sizeof(struct kvl_plugin) of the plugin */
    uint32_t abi_major; /* KVL_PLUGIN_ABI_MAJOR */
    uint32_t abi_minor; /* KVL_PLUGIN_ABI_MINOR */
    uint64_t flags; /* 0 */

    const char *version; /* of the plugin */
    const char *build_id; /* tells two builds apart */

    /* ---- life ---- */

    /**
     * Validates an INI file as open() would, including the options of the backends it names, and
     * starts nothing. All errors are listed in err->text and logged, one line each: file, line,
     * key, value, what was expected. @return 0; -EINVAL; -ENOENT, -EACCES file or module.
     */
    int (*check)(const struct kvl_open_params *params, struct kvl_err *err);

    /**
     * Reads the INI file, loads and creates the backends it names. No thread, no connection.
     * @return 0; -EINVAL, -ENOENT, -EACCES, -ELIBACC, -ELIBBAD, -ENODEV, -ENOMEM with err->text.
     */
    int (*open)(const struct kvl_open_params *params, struct kvl_instance **instance_out,
                struct kvl_err *err);

    /**
     * Starts threads and connections. Implied by the first call that needs them; calling it early
     * shows errors early. Safe to call twice. @return 0; the failure of a backend that the file
     * requires, with err->text.
     */
    int (*start)(struct kvl_instance *instance, struct kvl_err *err);

    /**
     * Ends the instance: new calls get -ECANCELED, accepted work is drained until the deadline,
     * backends stop, all memory goes back. Operations not yet ended by wait() are ended.
     * Takes NULL. @return 0; -ETIMEDOUT when work was cut off at the deadline; -EBUSY when leases
     * were still out at the deadline (their memory stays valid and is never freed).
     */
    int (*close)(struct kvl_instance *instance, uint64_t deadline_ms);

    /* ---- find and move ---- */

    /**
     * Looks for chunks: own store, then registry, then the backends that can answer, in the order
     * of the file, each asked for what is still unknown. No side effect on eviction order.
     * result->matched is the length of the leading run.
     */
    int (*lookup)(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out);

    /**
     * Brings chunks into the memory behind `sg` or `blocks`; without either, into the own store
     * only. Items that fail at one holder are tried at the next. Only items with status 0 have
     * valid bytes; of the others nothing may be assumed. Every byte is checked where a checksum is
     * known; a chunk that fails the check is dropped and counts as a miss (-EBADMSG).
     *
     * Into memory of a device (since 1.2) holders that work on that memory themselves and are known
     * to have the chunk come before the own store; what others bring passes through it. A chunk
     * that is here and cannot be copied there ends with that failure.
     */
    int (*load)(struct kvl_instance *instance, const struct kvl_batch *batch,
                struct kvl_result *result, uint64_t *op_out);

    /**
     * Stores chunks in the own store, then sends them to each backend with `put_to = yes`. Host
     * memory is free when the call returns, memory of a device when the operation has ended: until
     * then it is read, and a chunk that was not read by the deadline is stored nowhere
     * (-ETIMEDOUT). Item status 0: the own store or a backend has it. Items are stored last to
     * first, so that the head of a prefix is evicted last. Operations on one key that are under way
     * at the same time take effect in any order.
     */
    int (*save)(struct kvl_instance *instance, const struct kvl_batch *batch,
                struct kvl_result *result, uint64_t *op_out);

    /**
     * Takes chunks out of the own store and of every backend that can remove. Item status 0: it
     * was somewhere; -ENOENT.
     */
    int (*remove)(struct kvl_instance *instance, const struct kvl_batch *batch,
                  struct kvl_result *result, uint64_t *op_out);

    /**
     * Waits for an operation and ends it. deadline_ms 0 looks once. @return -EINPROGRESS when it
     * is not done at that time (the operation goes on; call again), else its outcome;
     * -EINVAL for an unknown or ended operation.
     */
    int (*wait)(struct kvl_instance *instance, uint64_t op, uint64_t deadline_ms,
                struct kvl_result *result);

    /** Asks to end an operation early: the rest becomes -ECANCELED. wait() still ends it. */
    int (*cancel)(struct kvl_instance *instance, uint64_t op);

    /* ---- the own store without a copy ---- */

    /** Leases a chunk of the own store. Never blocks. @return 0; -ENOENT; -EBADMSG. */
    int (*get)(struct kvl_instance *instance, const struct kvl_key *key, struct kvl_view *view_out);

    /** Gives a lease back. @return 0; -EINVAL for one that is not out. */
    int (*release)(struct kvl_instance *instance, uint64_t lease);

    /* ---- watch ---- */

    /**
     * Lists the chunks at a location (size 0 where it does not say). May wait until the deadline.
     * @return 0; -ENOTSUP; -EINVAL no such location; -ETIMEDOUT; what `fn` returned.
     */
    int (*list)(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms,
                kvl_key_fn fn, void *ctx);

    /** Asks a location whether it works, over its transport. May wait. @return 0; -ENOTSUP; .. */
    int (*probe)(struct kvl_instance *instance, uint32_t location, uint64_t deadline_ms);

    /**
     * Name, state and address of a location, KVL_LOCATION_LOCAL upwards. Does not block.
     * @return 0; -EINVAL past the last.
     */
    int (*health)(struct kvl_instance *instance, uint32_t location, struct kvl_health *health_out);

    /** Calls `fn` per counter: `store_`, `core_`, `registry_`, `<section>_...`. Does not block. */
    int (*stats)(struct kvl_instance *instance, kvl_stat_fn fn, void *ctx);

    /**
     * Reads the INI file again and takes over what can change under load: log_level, deadline,
     * max_chunks, put_to, and the options that backends mark as reloadable. With an error in the
     * file nothing changes. What differs and needs a restart is left as it is and logged.
     * @param restart_out  NULL, or how many differences need a restart
     * @return 0; -EINVAL and all errors in err->text; what a backend answered.
     */
    int (*reload)(struct kvl_instance *instance, const struct kvl_open_params *params,
                  uint32_t *restart_out, struct kvl_err *err);

    /* ---- since 1.1: peer channels ---- */

    /**
     * The channel functions of the backend in an INI section, and the `self` for their open. Starts
     * the instance. Every channel must be closed before close().
     * @param section  as in the INI file; NULL = the first backend that has them
     * @return 0; -ENOENT no such section; -ENOTSUP it has no channels; the failure of start.
     */
    int (*channels)(struct kvl_instance *instance, const char *section,
                    const struct kvl_channel_ops **ops_out, void **self_out);

    /* ---- since 1.2: paged KV caches, memory of devices ---- */

    /**
     * Takes note of a paged KV cache, in host memory or in that of a device, so that batches can
     * name its blocks. Starts the instance. May block. The memory must stay until unregister_kv.
     * Host memory needs no backend. A cache in the memory of another process (`kvcache`) ends with
     * that process: batches that name it are -ENODEV from then on, until unregister_kv.
     * @return 0 and a number for `kvl_batch.kv`, never 0; -EINVAL; -ENOTSUP no backend serves that
     *         kind of memory; what the backend answered. err->text on failure.
     */
    int (*register_kv)(struct kvl_instance *instance, const struct kvl_kv *kv, uint64_t *kv_out,
                       struct kvl_err *err);

    /**
     * Forgets it. @return 0; -EINVAL unknown; -EBUSY an operation that names it has not ended, or
     * ended early and a copy it left behind has not: ask again.
     */
    int (*unregister_kv)(struct kvl_instance *instance, uint64_t kv);

    /**
     * Waits until the first `layers` layers of all chunks of a load are in the engine's memory, so
     * that it can compute with them while the rest arrives. Any number of calls, also from other
     * threads than the one that then ends the operation; while that one does not wait, the load is
     * moved on from here. What a chunk is worth is known only when wait() has ended the operation:
     * a chunk that is lost half way is told there, and then no other holder is asked for it, since
     * the engine may have computed with what was there. deadline_ms 0 looks once.
     * @return 0, also when the load is over; -EINPROGRESS at the deadline; -EINVAL unknown, or no
     *         load.
     */
    int (*wait_layers)(struct kvl_instance *instance, uint64_t op, uint32_t layers,
                       uint64_t deadline_ms);

    /**
     * Codecs of LMCache's types for memory shared between processes, of the backend in an INI
     * section. They are pure and stay valid; the backend may have been left out for want of a
     * device. @param section  NULL = the first that has them
     * @return 0; -ENOENT no such section; -ENOTSUP.
     */
    int (*ipc)(struct kvl_instance *instance, const char *section,
               const struct kvl_ipc_ops **ops_out);
};
KVL_STATIC_ASSERT(sizeof(struct kvl_plugin) == 216, "append slots, bump the minor version");

/** Type of the entry. Re-entrant, no side effect, the same answer each time. */
typedef const struct kvl_plugin *(*kvl_plugin_entry_fn)(void);

KVL_EXPORT const struct kvl_plugin *kvlane_plugin_v1(void);

KVL_EXTERN_C_END

#endif /* KVL_PLUGIN_H */
