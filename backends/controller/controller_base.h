/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_base.h
 * A whole registry on its way from a controller to its standby: a file that is gone from its folder
 * as soon as possible. Not for several threads at once. Calls block on the disk.
 */
#ifndef KVL_CONTROLLER_BASE_H
#define KVL_CONTROLLER_BASE_H

#include <kvlane/host.h>

#define CONTROLLER_BASE_PATH 512u

/**
 * Saves the registry below the folder `dir`, and takes the name away again.
 * @return 0, a descriptor to read it from, and its bytes; -errno.
 */
int controller_base_save(const struct kvl_host *host, const char *dir, int *fd_out,
                         uint64_t *bytes_out);

/** A base that is coming in. */
struct controller_base {
    int fd; /* -1 = none */
    uint64_t bytes; /* so far */
    uint64_t expected;
    char folder[CONTROLLER_BASE_PATH];
    char path[CONTROLLER_BASE_PATH + 8];
};

void controller_base_init(struct controller_base *base);

/** Makes an empty file for so many bytes, in place of one that was begun. @return 0; -errno. */
int controller_base_begin(struct controller_base *base, const char *dir, uint64_t expected);

/** @return 0; -EPROTO not what comes next, or beyond the end; -errno of the file. */
int controller_base_add(struct controller_base *base, uint64_t offset, const void *bytes,
                        size_t length);

/**
 * Replaces what the registry has with the file, and takes the file away, whatever comes of it.
 * Lookups meanwhile find less.
 * @return 0; -EPROTO the file is not complete: nothing was done; -EBADMSG damaged; -ENOMEM keys
 *         were left out for want of memory; -errno. The registry is empty after the other errors.
 */
int controller_base_load(struct controller_base *base, const struct kvl_host *host);

/** Takes the file away. Also after a load, and without a file. */
void controller_base_drop(struct controller_base *base);

#endif /* KVL_CONTROLLER_BASE_H */
