/* SPDX-License-Identifier: Apache-2.0 */
/** @file worker_rig.h A worker over the fake host, with times short enough for tests. */
#ifndef KVL_TEST_WORKER_RIG_H
#define KVL_TEST_WORKER_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "fake_host.h"

#define RIG_PAIRS 64u

struct rig {
    struct fake_host *fake;
    const struct kvl_backend_desc *desc;
    void *self;
    const char *pairs[RIG_PAIRS];
    uint32_t pair_count;
};

/** @param pull_url, reply_url with or without a scheme; the record is freed by rig_end */
struct rig *rig_make(const char *pull_url, const char *reply_url);
/** A setting in place of the rig's; before rig_create. */
void rig_set(struct rig *rig, const char *name, const char *value);
/** Makes the worker; chunks can be put from now on. */
void rig_create(struct rig *rig);
/** Starts it; the test fails when that fails. */
void rig_start(struct rig *rig);
/** Stops twice, checks that nothing is left, frees. */
void rig_end(struct rig *rig);

void rig_put(struct rig *rig, int64_t hash);
void rig_remove(struct rig *rig, int64_t hash);
/** The same in memory of a GPU, kept by another backend. */
void rig_hold(struct rig *rig, int64_t hash);
void rig_drop(struct rig *rig, int64_t hash);

uint32_t rig_health(struct rig *rig, struct kvl_health *health_out);
/** A counter of the worker. The test fails when there is none of that name. */
uint64_t rig_stat(struct rig *rig, const char *name);

uint32_t rig_descriptors(void);

/** Waits for `condition`, looking again and again; the test fails after 20 s. */
#define RIG_WAIT(condition)                                                                        \
    do {                                                                                           \
        uint64_t rig_until = rig_now_ms() + 20000;                                                 \
        while (!(condition)) {                                                                     \
            if (rig_now_ms() > rig_until) {                                                        \
                fail_msg("never: %s", #condition);                                                 \
            }                                                                                      \
            rig_nap();                                                                             \
        }                                                                                          \
    } while (0)
uint64_t rig_now_ms(void);
void rig_nap(void);

#endif /* KVL_TEST_WORKER_RIG_H */
