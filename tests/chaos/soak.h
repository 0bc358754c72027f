/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file soak.h
 * Clients and pests of one `kvlane serve`, each a process of its own that may be killed at any
 * moment. What they have to say is in memory that all share, so that it outlives them.
 */
#ifndef KVL_SOAK_H
#define KVL_SOAK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <kvlane/key.h>

#define SOAK_SLOTS 16u
#define SOAK_KEYS_MAX 8192u
#define SOAK_VALUE_MIN 1024u
#define SOAK_VALUE_MAX (16u << 20)
/** Every wait of a client ends by then, or it is stuck. */
#define SOAK_STUCK_S 60

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SOAK_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SOAK_SANITIZED 1
#endif
#endif
#ifndef SOAK_SANITIZED
#define SOAK_SANITIZED 0
#endif

/** How long the server bears a peer that stops. Sanitizers stretch everything. */
#define SOAK_STALL_S (SOAK_SANITIZED ? 20 : 4)

enum soak_kind { SOAK_LM, SOAK_ENGINE, SOAK_PEST };

/** What a process does just now, so that it can be killed in the middle of it. */
enum soak_phase { SOAK_IDLE, SOAK_PUT_BODY, SOAK_GET_REPLY };

struct soak_slot {
    enum soak_kind kind;
    uint32_t index;
    _Atomic int pid; /* 0 = none */
    _Atomic int phase;
    _Atomic uint64_t versions; /* begun by this slot, also by those that were killed */
    _Atomic uint64_t ops;
    _Atomic uint64_t bytes;
    _Atomic uint64_t puts;
    _Atomic uint64_t gets;
    _Atomic uint64_t hits;
    _Atomic uint64_t errors;
    char text[200]; /* the first error */
};

struct soak_shared {
    _Atomic int stop;
    uint64_t seed;
    uint16_t port;
    uint32_t keys; /* of the key space */
    uint32_t slot_count;
    struct soak_slot slots[SOAK_SLOTS];
};

/** Notes an error of this process; the first text is kept. */
void soak_error(struct soak_slot *slot, const char *fmt, ...) KVL_PRINTF(2, 3);

uint64_t soak_now_ms(void);

/** A generator of its own for each process; any state but 0. */
uint64_t soak_random(uint64_t *state);

/* ---- keys and values (soak_value.c) ---- */

#define SOAK_KEY_TEXT 64u

void soak_key_text(uint32_t key, char text_out[SOAK_KEY_TEXT]);

/** Engines must know sizes beforehand: of every fourth key each version has the same. */
bool soak_key_is_fixed(uint32_t key);
uint64_t soak_value_size(uint32_t key, uint64_t version);

/** A new version of this slot; it counts as written from now on. */
uint64_t soak_version_begin(struct soak_slot *slot);

/** Writes size(key, version) bytes, attributes alike. */
void soak_value_fill(uint32_t key, uint64_t version, void *data_out);
struct kvl_attrs soak_value_attrs(uint32_t key, uint64_t version);

/**
 * Checks that bytes are one complete version of that key that somebody began to write.
 * @return true and the version; false after soak_error().
 */
bool soak_value_check(const struct soak_shared *shared, struct soak_slot *slot, uint32_t key,
                      const void *data, uint64_t size, const struct kvl_attrs *attrs,
                      uint64_t *version_out);

/* ---- lm:// over a blocking socket (soak_wire.c) ---- */

#define SOAK_HEADER 186u
#define SOAK_REPLY 36u

enum soak_command {
    SOAK_CMD_PUT = 1,
    SOAK_CMD_GET,
    SOAK_CMD_EXIST,
    SOAK_CMD_LIST,
    SOAK_CMD_HEALTH
};

struct soak_reply {
    int32_t code;
    int32_t length;
    struct kvl_attrs attrs;
};

/** Without TCP_NODELAY, as LMCache's client. -1 when that fails. */
int soak_connect(uint16_t port);
void soak_header(uint8_t header_out[SOAK_HEADER], int32_t command, int32_t length,
                 const struct kvl_attrs *attrs, const char *key);

/** Whole or nothing: -1 and errno; EPIPE when the server closed. */
int soak_send(int fd, const void *data, size_t size);
int soak_receive(int fd, void *data, size_t size);
int soak_receive_reply(int fd, struct soak_reply *reply_out);

/* ---- the processes; each runs until shared->stop ---- */

void soak_lm_run(struct soak_shared *shared, struct soak_slot *slot);
void soak_engine_run(struct soak_shared *shared, struct soak_slot *slot, const char *library);
void soak_pest_run(struct soak_shared *shared, struct soak_slot *slot);

/**
 * Asks for every key over one connection.
 * @param versions_out  shared->keys entries, 0 = not there; or NULL
 * @return how many are there, -1 after soak_error()
 */
int soak_lm_sweep(struct soak_shared *shared, struct soak_slot *slot, uint64_t *versions_out);

/* ---- the server (soak_server.c) ---- */

struct soak_server {
    pid_t pid;
    char folder[64];
    char socket[96];
    uint16_t port;
};

struct soak_setup {
    const char *kvlane;
    uint64_t budget;
    const char *disk; /* folder, or NULL */
    uint64_t disk_budget;
};

/** Starts one and waits until it is ready. The folder is made at first. @return 0; -1, told. */
int soak_server_start(struct soak_server *server, const struct soak_setup *setup);

/** Sends the signal and waits. @return its exit status, 128 + n when it died of a signal. */
int soak_server_end(struct soak_server *server, int signal_number);

/** Removes the folder. */
void soak_server_clean(struct soak_server *server);

/** What the stats socket says; false when it does not answer. */
bool soak_server_stats(const struct soak_server *server, char *text_out, size_t size);
uint64_t soak_stat(const char *text, const char *name);

uint64_t soak_server_rss(const struct soak_server *server);
int soak_server_fds(const struct soak_server *server);

/* ---- a restart with a disk below (soak_restart.c) ---- */

struct soak_restart {
    uint64_t before; /* chunks that were there */
    uint64_t after_term; /* that came back after SIGTERM */
    uint64_t after_kill; /* and after SIGKILL */
    bool failed;
};

/** Runs the clients of soak.c for a while through these. */
typedef void (*soak_load_fn)(void *ctx, uint64_t seconds);

void soak_restart_run(struct soak_shared *shared, struct soak_slot *slot,
                      struct soak_server *server, const struct soak_setup *setup, uint64_t seconds,
                      soak_load_fn load, void *load_ctx, struct soak_restart *result_out);

#endif /* KVL_SOAK_H */
