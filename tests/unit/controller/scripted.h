/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file scripted.h
 * A cache controller for one worker, in a thread of its own, over real sockets: keeps what it is
 * told the way LMCache's does, and misbehaves when told to. Everything is thread-safe.
 */
#ifndef KVL_TEST_SCRIPTED_H
#define KVL_TEST_SCRIPTED_H

#include <stdbool.h>

#include "controller_wire.h"

#define SCRIPTED_KEYS 8192u

/** How it answers requests. */
enum scripted_mood {
    SCRIPTED_GOOD,
    SCRIPTED_SILENT, /* never */
    SCRIPTED_GARBAGE, /* bytes that are no message */
    SCRIPTED_ERROR, /* ErrorMsg */
    SCRIPTED_WRONG, /* a message of another type */
    SCRIPTED_TWICE, /* every answer two times */
    SCRIPTED_LIAR, /* lookups are answered with more hits than were asked for */
};

/** Who has the keys of the worker too, as lookups are told. */
#define SCRIPTED_HOLDER "neighbour"
#define SCRIPTED_HOLDER_URL "10.9.8.7:500"

struct scripted_view {
    bool known; /* the worker is registered */
    bool syncing;
    bool completed;
    uint32_t keys; /* in the own store */
    uint32_t gpu_keys; /* in memory of a GPU */
    uint32_t registers;
    uint32_t heartbeats; /* at any port */
    uint32_t heartbeats_own; /* at the port for heartbeats */
    uint32_t deregisters;
    uint32_t starts;
    uint32_t batches;
    uint32_t ends;
    uint32_t statuses;
    uint32_t ops; /* applied */
    uint32_t ops_dropped; /* because of a sync, or of an unknown worker */
    uint32_t messages; /* BatchedKVOperationMsg */
    uint32_t longest; /* most operations in one of them */
    uint32_t gaps; /* in the sequence, without the first message of a registration */
    uint32_t bad; /* frames that do not decode */
    uint32_t lookups;
    uint32_t early; /* operations that came before the first sync of a registration */
    int64_t port; /* of the worker, as registered */
    char ip[64];
    char peer_url[64]; /* "nil" */
    char sync_id[128];
};

struct scripted;

/** @param heartbeat offers a port of its own for heartbeats */
struct scripted *scripted_start(bool heartbeat);
void scripted_end(struct scripted *scripted);

/** Closes every socket and forgets everything; the ports are free until it comes back. */
void scripted_kill(struct scripted *scripted);
void scripted_revive(struct scripted *scripted);

const char *scripted_pull_url(const struct scripted *scripted);
const char *scripted_reply_url(const struct scripted *scripted);

void scripted_set_mood(struct scripted *scripted, enum scripted_mood mood);
/** The next heartbeat is answered with these commands, full_sync among them. */
void scripted_command(struct scripted *scripted, const char *first, const char *second);
/** So many batches are dropped, and End completes only when all have come. */
void scripted_lose_batches(struct scripted *scripted, uint32_t count);
/** So many batches are taken, then it is killed; for scripted_is_dead. */
void scripted_die_after_batches(struct scripted *scripted, uint32_t count);
bool scripted_is_dead(struct scripted *scripted);
/** A sync of somebody else is under way: Start is refused until the worker was deregistered. */
void scripted_be_stuck(struct scripted *scripted);

void scripted_view(struct scripted *scripted, struct scripted_view *view_out);
bool scripted_has(struct scripted *scripted, uint64_t bits, bool negative);

#endif /* KVL_TEST_SCRIPTED_H */
