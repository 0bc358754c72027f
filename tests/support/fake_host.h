/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file fake_host.h
 * A small host for backend tests: settings from pairs of texts, a real little store, threads, and
 * a record of every completion. Everything is thread-safe.
 */
#ifndef KVL_FAKE_HOST_H
#define KVL_FAKE_HOST_H

#include <kvlane/backend.h>

#define FAKE_ITEMS_MAX 4096u

struct fake_host;

struct fake_result {
    int32_t status;
    uint64_t bytes;
    uint32_t item_count;
    int32_t items[FAKE_ITEMS_MAX];
};

/**
 * Makes a host for one instance.
 * @param pairs  name, value, .., NULL; checked against the option table; a bad one aborts the test
 */
struct fake_host *fake_host_create(const struct kvl_backend_desc *desc, const char *const *pairs);
void fake_host_destroy(struct fake_host *fake);
const struct kvl_host *fake_host_table(struct fake_host *fake);

/** Waits for the completion of a cookie. @return 0; -ETIMEDOUT after 20 s, so that tests end. */
int fake_host_wait(struct fake_host *fake, uint64_t cookie, struct fake_result *result_out);

/** How often a cookie was completed, and all together. */
uint32_t fake_host_completions(struct fake_host *fake, uint64_t cookie);
uint32_t fake_host_completions_all(struct fake_host *fake);

/** The memory read_target gave for an item; NULL when it was not asked. */
const void *fake_host_target(struct fake_host *fake, uint64_t cookie, uint32_t item,
                             struct kvl_chunk *found_out);
/** What read_target answers from now on. */
void fake_host_set_target_code(struct fake_host *fake, int code);

/** 1 when list_add brought the key. */
int fake_host_listed(struct fake_host *fake, const char *key);
uint32_t fake_host_listed_count(struct fake_host *fake);

/** The store. */
void fake_host_put(struct fake_host *fake, const char *key, const void *bytes, size_t length,
                   const struct kvl_attrs *attrs);
int fake_host_has(struct fake_host *fake, const void *key, size_t length);
uint32_t fake_host_stored(struct fake_host *fake);
/** Flips a bit of a stored chunk. */
void fake_host_flip(struct fake_host *fake, const char *key, size_t at);
/** What store_reserve answers from now on. */
void fake_host_set_reserve_code(struct fake_host *fake, int code);
/** Waits until so many chunks have been committed since the start. @return 0; -ETIMEDOUT. */
int fake_host_wait_commits(struct fake_host *fake, uint32_t count);
/** The same for handles ended by store_abort, and for store_remove calls. */
int fake_host_wait_aborts(struct fake_host *fake, uint32_t count);
int fake_host_wait_removes(struct fake_host *fake, uint32_t count);
/** The same for store_reserve calls that gave room, and for leases given back. */
int fake_host_wait_reserves(struct fake_host *fake, uint32_t count);
int fake_host_wait_releases(struct fake_host *fake, uint32_t count);

/** The next store_events call says that events were lost. */
void fake_host_lose_events(struct fake_host *fake);
/** What store_events answers from now on when it is not 0. */
void fake_host_set_events_code(struct fake_host *fake, int code);

struct fake_offer {
    char backend[64];
    char peer[256];
    uint8_t bytes[KVL_OFFER_MAX];
    uint32_t length;
    uint32_t is_same_host;
};

/** What host->offers has from now on, on behalf of `backend`. */
void fake_host_set_offer(struct fake_host *fake, const char *backend, const void *bytes,
                         uint32_t length);
/** @param last_out  what host->offered was given last. @return how often it was called. */
uint32_t fake_host_offered(struct fake_host *fake, struct fake_offer *last_out);

/** A chunk comes into memory of a GPU, and goes again; told by store_events, listed by held. */
void fake_host_hold(struct fake_host *fake, const char *key, uint64_t bytes);
void fake_host_drop(struct fake_host *fake, const char *key);

/** 1 when the backend has told of that chunk, and not that it went. */
int fake_host_holds(struct fake_host *fake, const char *key);
/** What the backend has peers told. @param bytes_out  KVL_OFFER_MAX. @return its length. */
uint32_t fake_host_offer(struct fake_host *fake, void *bytes_out);
/** The last that progress was told. @return how often it was called. */
uint32_t fake_host_progress(struct fake_host *fake, uint64_t *cookie_out, uint32_t *layers_out);
/** What store_range answers, before start; the caller's memory. */
void fake_host_set_range(struct fake_host *fake, void *base, uint64_t bytes);

/** Leases and handles that are out, threads not joined. All 0 after stop. */
uint32_t fake_host_leaks(struct fake_host *fake);

#endif /* KVL_FAKE_HOST_H */
