/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A server with a disk below it, under load, then at rest; then it ends and another takes over its
 * folder. After SIGTERM everything that was there is there again, in the version that it had. After
 * SIGKILL what comes back is some complete version: memory is gone, the disk is not.
 */
#include "soak.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int restart_end(struct soak_slot *slot, struct soak_server *server, int signal_number,
                       int expected)
{
    int status = soak_server_end(server, signal_number);

    if (status != expected) {
        soak_error(slot, "the server ended with %d", status);
        return -1;
    }
    return 0;
}

static int restart_begin(struct soak_shared *shared, struct soak_server *server,
                         const struct soak_setup *setup)
{
    if (soak_server_start(server, setup) < 0) {
        return -1;
    }
    shared->port = server->port;
    return 0;
}

/* Another version than the last one, or one that was not there, would be old bytes come back. */
static void restart_compare(struct soak_shared *shared, struct soak_slot *slot,
                            const uint64_t *before, const uint64_t *after)
{
    for (uint32_t key = 0; key < shared->keys; key++) {
        if (after[key] != before[key]) {
            soak_error(slot, "key %u after SIGTERM: version %llx, it was %llx", key,
                       (unsigned long long)after[key], (unsigned long long)before[key]);
            return;
        }
    }
}

static int restart_try(struct soak_shared *shared, struct soak_slot *slot,
                       struct soak_server *server, const struct soak_setup *setup, uint64_t *before,
                       uint64_t *after, struct soak_restart *result)
{
    /* The first one finds the server still busy below: what waits for a remove is a miss. */
    int found = soak_lm_sweep(shared, slot, before);

    found = found < 0 ? found : soak_lm_sweep(shared, slot, before);
    if (found < 0 || restart_end(slot, server, SIGTERM, 0) < 0) {
        return -1;
    }
    result->before = (uint64_t)found;
    if (restart_begin(shared, server, setup) < 0) {
        return -1;
    }
    found = soak_lm_sweep(shared, slot, after);
    if (found < 0 || restart_end(slot, server, SIGKILL, 128 + SIGKILL) < 0) {
        return -1;
    }
    result->after_term = (uint64_t)found;
    restart_compare(shared, slot, before, after);
    if (restart_begin(shared, server, setup) < 0) {
        return -1;
    }
    found = soak_lm_sweep(shared, slot, after);
    result->after_kill = found < 0 ? 0 : (uint64_t)found;
    return found < 0 ? -1 : restart_end(slot, server, SIGTERM, 0);
}

void soak_restart_run(struct soak_shared *shared, struct soak_slot *slot,
                      struct soak_server *server, const struct soak_setup *setup, uint64_t seconds,
                      soak_load_fn load, void *load_ctx, struct soak_restart *result_out)
{
    uint64_t *before = calloc(shared->keys, sizeof(*before));
    uint64_t *after = calloc(shared->keys, sizeof(*after));

    *result_out = (struct soak_restart){0};
    if (before == NULL || after == NULL || restart_begin(shared, server, setup) < 0) {
        result_out->failed = true;
    } else {
        load(load_ctx, seconds);
        result_out->failed =
            restart_try(shared, slot, server, setup, before, after, result_out) < 0;
    }
    (void)soak_server_end(server, SIGKILL);
    free(before);
    free(after);
}
