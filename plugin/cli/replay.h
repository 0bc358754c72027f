/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file replay.h
 * What the driving process of replay and its engine processes tell each other.
 */
#ifndef KVL_REPLAY_H
#define KVL_REPLAY_H

#include "util.h"

/* Messages: INIT -> READY, PEERS -> READY where engines ask each other, then REQUEST -> DONE for
 * each request, then FINISH -> REPORT. */
#define REPLAY_INIT 1u /* struct replay_init, then INI text with its terminator or nothing */
#define REPLAY_READY 2u /* struct replay_ready */
#define REPLAY_REQUEST 3u /* uint64_t ids[] */
#define REPLAY_DONE 4u /* struct replay_done */
#define REPLAY_FINISH 5u
#define REPLAY_REPORT 6u /* struct replay_report */
#define REPLAY_PEERS 7u /* text with its terminator: value of py_socket's option `peers` */

#define REPLAY_ADDRESS_ROOM 200

#define REPLAY_PATH_ROOM 256

struct replay_init {
    uint64_t block_bytes; /* 0 = metadata only */
    uint32_t on_gpu; /* 1 = blocks are in the memory of a GPU */
    uint32_t reserved;
    char driver[REPLAY_PATH_ROOM]; /* library of the CUDA driver; "" = the system's */
};

struct replay_ready {
    int32_t exit_code;
    uint32_t reserved;
    char peer_address[REPLAY_ADDRESS_ROOM]; /* of py_socket; "" = there is none */
};

struct replay_done {
    uint64_t errors; /* so far */
};

struct replay_counts {
    uint64_t requests;
    uint64_t blocks; /* looked up */
    uint64_t hits_own; /* of the prefix, in the own store */
    uint64_t hits_engine; /* of the prefix, only in another engine's memory or what is below, or on
                             a GPU */
    uint64_t hits_remote; /* of the prefix, only at a server or in another section's place */
    uint64_t lost; /* found by lookup, gone or refused at load: recomputed */
    uint64_t saved;
    uint64_t not_saved;
    uint64_t bytes_loaded;
    uint64_t bytes_saved;
    uint64_t bytes_engine; /* of bytes_loaded, what came from other engines */
    uint64_t bytes_gpu; /* of bytes_loaded, what came from the memory of a GPU */
    uint64_t bytes_remote; /* of bytes_loaded, what came from other places */
    uint64_t load_ns;
    uint64_t save_ns;
    uint64_t wrong_blocks; /* came back with other bytes than were saved */
    uint64_t failed_ops; /* calls that returned a failure */
};

struct replay_report {
    struct replay_counts counts;
    uint64_t peak_rss; /* without what is mapped of other engines' memory */
    uint64_t peer_rss; /* that */
    uint64_t budget; /* 0 = not known */
    struct hist lookup;
    struct hist load;
};

/** One process of the run, for the table. */
struct replay_process {
    char name[32];
    uint64_t peak_rss;
    uint64_t peer_rss; /* on top: memory of other engines, which is in their peaks */
    uint64_t budget;
};

/** Memory a process may use on top of its budget. */
#define REPLAY_SLACK (32ull << 20)

/** Adds one engine's report to the sum. */
void replay_merge(struct replay_report *sum, const struct replay_report *one);

/** Prints the table. `seconds` is the time of the whole run. */
void replay_print(const struct replay_report *sum, bool metadata_only, double seconds);

/** Prints budget and peak of each process; true when all that have a budget kept it. */
bool replay_print_memory(const struct replay_process *processes, uint32_t count);

#endif /* KVL_REPLAY_H */
