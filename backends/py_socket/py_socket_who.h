/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_who.h
 * The peers that chunks are asked from, and which of them had a chunk when it was last looked for.
 * A table of fixed size that forgets: an answer is a hint and costs one question when it is wrong.
 * Thread-safe; nothing blocks.
 */
#ifndef KVL_PY_SOCKET_WHO_H
#define KVL_PY_SOCKET_WHO_H

#include <kvlane/channel.h>

/** A peer by its peer_init_url. Lives as long as the table. */
struct py_socket_holder {
    char url[KVL_CHANNEL_URL_ROOM];
    uint32_t index;

    /* under the lock of the table */
    int is_static; /* named in the INI file */
    uint64_t quiet_until_ms; /* it could not be reached: not tried again before */
    uint64_t backoff_ms;
    int is_connecting;
};

struct py_socket_who;

int py_socket_who_create(struct py_socket_who **who_out);
void py_socket_who_destroy(struct py_socket_who *who);

/** The record of a url, made when it is new. NULL when there are too many, or without memory. */
struct py_socket_holder *py_socket_who_holder(struct py_socket_who *who, const char *url);

/** The peers of the INI file from now on; who was one before is none any more. Those that find no
 *  room are left out. */
void py_socket_who_set_static(struct py_socket_who *who, char (*urls)[KVL_CHANNEL_URL_ROOM],
                              uint32_t count);

/** The next peer of the INI file, from holder number *at_io on, which is moved behind it; NULL. */
struct py_socket_holder *py_socket_who_next_static(struct py_socket_who *who, uint32_t *at_io);

/** Whether it is worth a try now. */
int py_socket_who_may_try(struct py_socket_who *who, const struct py_socket_holder *holder,
                          uint64_t now_ms);

/** 1 when no try has failed since the last that went well. */
int py_socket_who_is_new(struct py_socket_who *who, const struct py_socket_holder *holder);

/** A try begins. @return 1; 0 when one is under way or it is too early. */
int py_socket_who_try(struct py_socket_who *who, struct py_socket_holder *holder, uint64_t now_ms);

/** How the try ended. Failures make the pause before the next one longer, up to 30 s. */
void py_socket_who_tried(struct py_socket_who *who, struct py_socket_holder *holder, int status,
                         uint64_t now_ms);

/** `holder` has the chunk with this hash of its key. */
void py_socket_who_remember(struct py_socket_who *who, uint64_t hash,
                            const struct py_socket_holder *holder);

/** `holder` has it no more. */
void py_socket_who_forget(struct py_socket_who *who, uint64_t hash,
                          const struct py_socket_holder *holder);

/** Who had it last; NULL. */
struct py_socket_holder *py_socket_who_had(struct py_socket_who *who, uint64_t hash);

#endif /* KVL_PY_SOCKET_WHO_H */
