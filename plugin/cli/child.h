/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file child.h
 * Engine processes of replay and demo. Each is this executable started anew (an engine must not
 * fork after it opened the plugin) and is driven by messages over a socket pair. A child ends when
 * its parent does.
 */
#ifndef KVL_CHILD_H
#define KVL_CHILD_H

#include <sys/types.h>

#include "cli.h"

struct child {
    pid_t pid; /* 0 = none */
    int fd;
};

/** Longest message. */
#define CHILD_MESSAGE_MAX (64u << 20)

/**
 * Starts `kvlane WORD --fd 3` with the common options of ours. The child's stdout is ours.
 * @return an exit code.
 */
int child_start(struct child *child, const char *word, const struct cli_common *common);

/** Closes the socket and waits; a child that does not end in 10 s is killed. Returns its exit code
 * (CLI_OS when it was killed or crashed). Takes a child that was never started. */
int child_end(struct child *child);

/**
 * Starts `kvlane serve` and waits until it can be reached.
 * @param option  "--config" and a file, or "--ini" and text
 * @param address_out  the address of its first section
 */
int child_serve(struct child *child, const struct cli_common *common, const char *option,
                const char *value, char *address_out, size_t address_size);

/** Tells a serving child to stop and waits for it. @return its exit code. */
int child_stop_server(struct child *child);

/* ---- messages ---- */

/** Sends one message. @return 0; negative errno. */
int child_send(int fd, uint32_t type, const void *data, size_t size);

/** Receives one message of exactly this type and at most `room` bytes. @return 0; -ECONNRESET when
 * the other side is gone; -EPROTO for another type; -EMSGSIZE. */
int child_receive(int fd, uint32_t type, void *data, size_t room, size_t *size_out);

/** Like child_receive() for any type. The buffer grows as needed and is the caller's to free. */
int child_receive_any(int fd, uint32_t *type_out, void **data, size_t *room, size_t *size_out);

#endif /* KVL_CHILD_H */
