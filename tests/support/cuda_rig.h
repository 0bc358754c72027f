/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cuda_rig.h
 * What tests over the fake CUDA driver share: the driver opened, a current context, and peers, each
 * another process of the same machine: the test program itself, started anew in a role. Failures
 * end the process.
 *
 * The test passes the path of the fake in KVL_FAKE_CUDA.
 */
#ifndef KVL_CUDA_RIG_H
#define KVL_CUDA_RIG_H

#include <sys/types.h>

#include "cuda_ipc_api.h"
#include "fake_cuda.h"

struct cuda_rig {
    struct cuda_ipc_api api;
    const struct fake_cuda_control *control;
    cuda_context context; /* of device 0, retained and current */
};

/** Ends the process with a line on stderr unless `cond` holds; for peers, where cmocka is not. */
#define CUDA_RIG_CHECK(cond)                                                                       \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            cuda_rig_die(__FILE__, __LINE__, #cond);                                               \
        }                                                                                          \
    } while (0)

void cuda_rig_die(const char *file, int line, const char *what) __attribute__((noreturn));

/** The path of the fake. */
const char *cuda_rig_path(void);

/**
 * Makes a state file for this process and the peers it starts, and removes it when it ends. Before
 * the first call of the driver.
 */
void cuda_rig_machine(void);

/** Opens the fake and makes a context of device 0 current. */
void cuda_rig_open(struct cuda_rig *rig);
/** Lets go of the context, and checks that nothing of the driver is left over. */
void cuda_rig_close(struct cuda_rig *rig);

/** A stream that does not wait for the legacy one, and memory of the current device. */
cuda_stream cuda_rig_stream(const struct cuda_rig *rig);
cuda_ptr cuda_rig_memory(const struct cuda_rig *rig, size_t bytes);

/** Waits until `done(ctx)` is true; dies after a while. */
void cuda_rig_until(int (*done)(void *ctx), void *ctx);

/* ---- peers ---- */

struct cuda_rig_role {
    const char *name;
    int (*run)(int fd); /* returns the exit status */
};

struct cuda_rig_peer {
    pid_t pid;
    int fd; /* to the peer's */
};

/** First thing of main(): runs a role and ends when this process was started as a peer. */
void cuda_rig_main(int argc, char **argv, const struct cuda_rig_role *roles, size_t count);

void cuda_rig_start(struct cuda_rig_peer *peer, const char *role);
/** Waits for the end of a peer, which must be a good one. */
void cuda_rig_end(struct cuda_rig_peer *peer);
/** Kills a peer as a crash would, and waits until it is gone. */
void cuda_rig_kill(struct cuda_rig_peer *peer);

/** Exactly `bytes` bytes over a peer's socket; dies when they do not come. */
void cuda_rig_send(int fd, const void *data, size_t bytes);
void cuda_rig_recv(int fd, void *data_out, size_t bytes);
/** One byte either way, to wait for each other. */
void cuda_rig_step(int fd);
void cuda_rig_await(int fd);
/** A descriptor. The receiver owns its copy. */
void cuda_rig_send_fd(int fd, int passed);
int cuda_rig_recv_fd(int fd);

#endif /* KVL_CUDA_RIG_H */
