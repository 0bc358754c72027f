/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file route.h
 * One backend of an instance: module, settings, host table, state; and the table of all of them.
 */
#ifndef KVL_PLUGIN_ROUTE_H
#define KVL_PLUGIN_ROUTE_H

#include <kvlane/backend.h>
#include <kvlane/plugin.h>

#include <stdatomic.h>

#include "codecs.h"
#include "config.h"
#include "flight.h"
#include "log.h"
#include "module.h"
#include "offer.h"
#include "store.h"

/** Most backends of one instance: the hints keep one bit for each. */
#define KVL_ROUTE_MAX 32u

/** What is sent to a backend. In the order of the option's words. */
enum kvl_put_to { KVL_PUT_NO, KVL_PUT_YES, KVL_PUT_EVICTED };

/**
 * Whether bytes that are read stay in the own store as well. In the order of the option's words.
 */
enum kvl_keep { KVL_KEEP_AUTO, KVL_KEEP_NO, KVL_KEEP_YES };

enum kvl_required { KVL_REQUIRED_NO, KVL_REQUIRED_YES, KVL_REQUIRED_AUTO };

enum kvl_backend_state {
    KVL_BACKEND_CREATED,
    KVL_BACKEND_RUNNING,
    KVL_BACKEND_FAILED, /* start failed and the file does not require it */
    KVL_BACKEND_STOPPED,
};

/** How a backend reaches the whole instance, without knowing what that is. */
struct kvl_watcher {
    void *ctx;
    void (*stats)(void *ctx, kvl_stat_fn fn, void *fn_ctx);
    int (*health)(void *ctx, uint32_t location, struct kvl_health *health_out);
    int (*fetch)(void *ctx, const struct kvl_key *key, uint32_t flags, kvl_fetch_fn fn,
                 void *fn_ctx);
    void (*removed)(void *ctx, const struct kvl_key *key); /* a peer took it out of the store */
    int (*locate)(void *ctx, const struct kvl_chunk_id *ids, uint32_t count, uint64_t deadline_ms,
                  kvl_locate_fn fn, void *fn_ctx);
    int (*push)(void *ctx, const char *peer_url, const struct kvl_key *keys, uint32_t count,
                uint64_t deadline_ms, uint32_t *pushed_out);
    void (*offers)(void *ctx, kvl_offer_fn fn, void *fn_ctx);
    void (*offered)(void *ctx, const struct kvl_offer *offer);
    int (*held)(void *ctx, uint32_t where, kvl_key_fn fn, void *fn_ctx);
    struct kvl_registry *(*registry)(void *ctx); /* made at the first call; NULL = no memory */
};

struct kvl_backend {
    struct kvl_host host; /* what the backend sees; host.ctx is this record */
    char name[KVL_CONFIG_NAME_MAX + 1]; /* INI section */
    uint32_t index; /* place in the route; location - KVL_LOCATION_BACKEND */
    struct kvl_module module;
    struct kvl_settings settings; /* the backend's own options */
    struct kvl_settings *old_settings; /* owned; of before each reload: texts live as long as we */
    size_t old_count;
    struct kvl_log log;
    enum kvl_required required;
    atomic_int put_to; /* enum kvl_put_to */
    atomic_int keep; /* enum kvl_keep */
    uint64_t caps; /* that hold in this role */
    struct kvl_limits limits;
    struct kvl_offer_box offer; /* to channels */
    void *self;
    atomic_int state; /* enum kvl_backend_state */
    atomic_uint_fast64_t in_flight; /* batches accepted and not completed */
    atomic_uint_fast64_t overdue; /* of these, past their deadline: their memory is held back */
    atomic_uint_fast64_t late; /* completed past their deadline */
    atomic_uint_fast64_t bogus; /* completions of no batch of ours */
    atomic_uint_fast64_t failures; /* items that ended in an error other than a miss */
    struct kvl_store *store; /* borrowed from the instance, outlives us */
    struct kvl_flights *flights; /* borrowed likewise */
    const struct kvl_watcher *watcher; /* borrowed likewise */
};

/** The backends of an instance, in the order of the INI file. Fixed once open() is done. */
struct kvl_route {
    struct kvl_backend *backends[KVL_ROUTE_MAX]; /* owned */
    uint32_t count;
};

/** What a new backend gets from its instance. */
struct kvl_route_context {
    struct kvl_config *config;
    const char *module_path;
    kvl_log_fn log;
    void *log_ctx;
    int log_level;
    struct kvl_store *store;
    struct kvl_flights *flights;
    const struct kvl_watcher *watcher;
    struct kvl_codecs *codecs; /* grows by those of each section, whatever becomes of it */
};

/**
 * Loads the module of a section and checks its settings; errors of the file go into the config.
 * @param create  0 = only check (the backend's check slot is called, nothing is made)
 * @return 0 and a backend, or NULL where the section is left out by `required = no | auto`; the
 *         loader's or the backend's code with err->text.
 */
int kvl_backend_create(const struct kvl_route_context *context,
                       const struct kvl_config_section *section, int create,
                       struct kvl_backend **backend_out, struct kvl_err *err);

/** Starts it. A failure counts only when the file requires the backend. */
int kvl_backend_start(struct kvl_backend *backend, struct kvl_err *err);

/**
 * Reads the section again: checks it, and with `apply` takes over what may change.
 * @return 0; -ENOMEM; with `apply` what the backend answered, with err->text. Errors of the file go
 *         into the config; *restart_out grows by what differs and cannot change.
 */
int kvl_backend_reload(struct kvl_backend *backend, struct kvl_config *config,
                       const struct kvl_config_section *section, int apply, uint32_t *restart_out,
                       struct kvl_err *err);

/** Stops it when it runs. Its counters may still be read. */
void kvl_backend_stop(struct kvl_backend *backend);

/** Ends it from any state. Takes NULL. */
void kvl_backend_destroy(struct kvl_backend *backend);

/** True when data operations may be given to it. */
static inline int kvl_backend_is_running(const struct kvl_backend *backend)
{
    return atomic_load_explicit(&((struct kvl_backend *)(uintptr_t)backend)->state,
                                memory_order_acquire) == KVL_BACKEND_RUNNING;
}

/** True when runs in that kind of memory (KVL_MEM_) may be given to it. */
static inline int kvl_backend_takes(const struct kvl_backend *backend, uint64_t mem)
{
    const uint64_t kinds =
        backend->limits.memory != 0 ? backend->limits.memory : 1ull << KVL_MEM_HOST;

    return mem < 64 && (kinds >> mem & 1) != 0 &&
           (mem == KVL_MEM_HOST || (backend->caps & KVL_CAP_MEMORY) != 0);
}

/**
 * True when it reads into the engine's own memory of that kind and the store is not to keep what it
 * reads.
 */
static inline int kvl_backend_reads_direct(const struct kvl_backend *backend, uint64_t mem)
{
    const uint64_t cap = mem == KVL_MEM_HOST ? KVL_CAP_DIRECT : KVL_CAP_MEMORY;

    return (backend->caps & cap) != 0 && kvl_backend_takes(backend, mem) &&
           atomic_load_explicit(&((struct kvl_backend *)(uintptr_t)backend)->keep,
                                memory_order_relaxed) != KVL_KEEP_YES;
}

#endif /* KVL_PLUGIN_ROUTE_H */
