/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_quiet.h
 * Log lines that outsiders can cause: a few at a time, and text from outside made harmless.
 */
#ifndef KVL_CONTROLLER_QUIET_H
#define KVL_CONTROLLER_QUIET_H

#include <kvlane/host.h>

/** One kind of line. Zeroed to begin with; not for several threads at once. */
struct controller_quiet {
    uint64_t window_ms; /* when the present window began */
    uint32_t lines; /* in it */
    uint64_t held; /* left out in it */
};

/**
 * May one more line of this kind be written? Some of each 10 s may; how many were left out is told
 * when the next window begins. @return 1; 0.
 */
int controller_quiet_may(struct controller_quiet *quiet, const struct kvl_host *host,
                         const char *about);

/** Room for text made by controller_quiet_text. */
#define CONTROLLER_SHOWN_ROOM 72u

/** Copies text from outside for a log line or an error: printable, cut to what is readable. */
void controller_quiet_text(struct kvl_text text, char shown_out[CONTROLLER_SHOWN_ROOM]);

#endif /* KVL_CONTROLLER_QUIET_H */
