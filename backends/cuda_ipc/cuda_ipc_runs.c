/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_runs.h"

#include <stdlib.h>

/* Runs of the own class looked at for one that is large enough. */
#define RUNS_LOOK 32u

static uint32_t runs_class(uint64_t bytes)
{
    return 63u - (uint32_t)__builtin_clzll(bytes);
}

static void runs_enlist(struct cuda_ipc_runs *runs, struct cuda_ipc_run *run)
{
    struct cuda_ipc_run **head = &runs->classes[runs_class(run->bytes)];

    run->owner = NULL;
    run->class_prev = NULL;
    run->class_next = *head;
    if (*head != NULL) {
        (*head)->class_prev = run;
    }
    *head = run;
}

static void runs_unlist(struct cuda_ipc_runs *runs, struct cuda_ipc_run *run)
{
    if (run->class_next != NULL) {
        run->class_next->class_prev = run->class_prev;
    }
    if (run->class_prev != NULL) {
        run->class_prev->class_next = run->class_next;
    } else {
        runs->classes[runs_class(run->bytes)] = run->class_next;
    }
}

struct cuda_ipc_run *cuda_ipc_runs_add(struct cuda_ipc_runs *runs, uint32_t segment, uint64_t bytes)
{
    struct cuda_ipc_run *run = calloc(1, sizeof(*run));

    if (run != NULL) {
        run->segment = segment;
        run->bytes = bytes;
        runs_enlist(runs, run);
    }
    return run;
}

void cuda_ipc_runs_drop(struct cuda_ipc_runs *runs, struct cuda_ipc_run *first)
{
    while (first != NULL) {
        struct cuda_ipc_run *after = first->after;

        if (first->owner == NULL) {
            runs_unlist(runs, first);
        }
        free(first);
        first = after;
    }
}

static struct cuda_ipc_run *runs_find(const struct cuda_ipc_runs *runs, uint64_t bytes)
{
    const uint32_t class = runs_class(bytes);
    struct cuda_ipc_run *run = runs->classes[class];
    struct cuda_ipc_run *best = NULL;

    for (uint32_t i = 0; i < RUNS_LOOK && run != NULL; i++, run = run->class_next) {
        if (run->bytes >= bytes && (best == NULL || run->bytes < best->bytes)) {
            best = run;
        }
    }
    for (uint32_t c = class + 1; best == NULL && c < CUDA_IPC_RUNS_CLASSES; c++) {
        best = runs->classes[c];
    }
    return best;
}

struct cuda_ipc_run *cuda_ipc_runs_take(struct cuda_ipc_runs *runs, uint64_t bytes, void *owner)
{
    struct cuda_ipc_run *run = runs_find(runs, bytes);
    struct cuda_ipc_run *rest;

    if (run == NULL) {
        return NULL;
    }
    if (run->bytes > bytes) {
        rest = calloc(1, sizeof(*rest));
        if (rest == NULL) {
            return NULL;
        }
        runs_unlist(runs, run);
        *rest = (struct cuda_ipc_run){
            .before = run,
            .after = run->after,
            .segment = run->segment,
            .offset = run->offset + bytes,
            .bytes = run->bytes - bytes,
        };
        if (rest->after != NULL) {
            rest->after->before = rest;
        }
        run->after = rest;
        run->bytes = bytes;
        runs_enlist(runs, rest);
    } else {
        runs_unlist(runs, run);
    }
    run->owner = owner;
    return run;
}

/* Takes the run behind `run`, which is in no class, into it. */
static void runs_join(struct cuda_ipc_run *run)
{
    struct cuda_ipc_run *after = run->after;

    run->bytes += after->bytes;
    run->after = after->after;
    if (run->after != NULL) {
        run->after->before = run;
    }
    free(after);
}

void cuda_ipc_runs_give(struct cuda_ipc_runs *runs, struct cuda_ipc_run *run)
{
    struct cuda_ipc_run *before = run->before;

    if (run->after != NULL && run->after->owner == NULL) {
        runs_unlist(runs, run->after);
        runs_join(run);
    }
    if (before != NULL && before->owner == NULL) {
        runs_unlist(runs, before);
        runs_join(before);
        run = before;
    }
    runs_enlist(runs, run);
}
