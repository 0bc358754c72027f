/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file rig.h
 * What the tests of disk share: a folder of its own, an instance with its fake host that can be
 * restarted, and operations that wait for their end. Failures end the test.
 */
#ifndef KVL_RIG_H
#define KVL_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "disk_store.h"
#include "fake_host.h"

#define RIG_PAIRS_MAX 16

struct rig {
    char folder[256]; /* removed by rig_fini() */
    const char *pairs[2 * RIG_PAIRS_MAX + 3];
    struct fake_host *fake;
    struct kvl_host table; /* the fake's, with a log that counts */
    struct kvl_log log;
    atomic_int warnings;
    atomic_int infos;
    char last_warning[512]; /* one writer at a time in these tests */
    const struct kvl_backend_ops *ops;
    struct disk_store *store; /* the instance: tests may look inside */
    struct disk_io io; /* given to each instance; pwritev and preadv unless changed */
    disk_hash_fn hash; /* NULL = its own */
    uint64_t cookie;
};

/** Makes the folder; `pairs` of settings but the path, NULL at the end, must outlive the rig. */
void rig_init(struct rig *rig, const char *const *pairs);
void rig_fini(struct rig *rig);

/** @return what start() said. */
int rig_try_start(struct rig *rig, struct kvl_err *err);
void rig_start(struct rig *rig);
/** Stops and destroys the instance; checks that nothing is left over. */
void rig_stop(struct rig *rig);
void rig_restart(struct rig *rig);
/** Ends the instance as a kill would: what it would do to its files at its end is undone. */
void rig_crash(struct rig *rig);

/** One chunk, one operation, waited for. @return the item's status. */
int rig_put(struct rig *rig, const char *key, const void *bytes, size_t length);
/** Reads into memory that the host gives; compares with `bytes`. @return the item's status. */
int rig_get(struct rig *rig, const char *key, const void *bytes, size_t length);
int rig_has(struct rig *rig, const char *key);
int rig_remove(struct rig *rig, const char *key);

typedef int (*rig_submit_fn)(void *self, const struct kvl_batch *batch);
/** Submits a batch under a new cookie and waits. @return what submit said. */
int rig_batch(struct rig *rig, rig_submit_fn submit, struct kvl_batch *batch,
              struct fake_result *result_out);

uint64_t rig_stat(struct rig *rig, const char *name);
struct kvl_health rig_health(struct rig *rig);

/** Bytes that differ from seed to seed. */
void rig_fill(void *bytes_out, size_t length, uint64_t seed);

/** Files of the folder: how many end in `suffix`, and their bytes. */
uint32_t rig_files(const struct rig *rig, const char *suffix, uint64_t *bytes_out);
/** Path of the newest file that ends in .seg; its size. */
uint64_t rig_newest(const struct rig *rig, char *path_out, size_t size);
void rig_flip(const char *path, uint64_t at);
void rig_copy(const char *from, const char *to, uint64_t length);

#endif /* KVL_RIG_H */
