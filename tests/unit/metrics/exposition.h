/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file exposition.h
 * A strict reader of the text format 0.0.4, as far as counters and gauges go, and a host with a few
 * counters and locations.
 */
#ifndef KVL_EXPOSITION_H
#define KVL_EXPOSITION_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <kvlane/backend.h>

/**
 * Fails the test unless: every sample stands behind HELP and TYPE of its name; samples of a name
 * stand together; no series comes twice; counters end in _total and gauges do not; names, labels
 * and values are legal; the last line ends.
 * @return how many samples there are
 */
unsigned exposition_check(const char *text);

/** Value of "name" or "name{labels}"; fails the test when it is not there. */
uint64_t exposition_value(const char *text, const char *series);

/** Gives `host` the stats and health of a little instance, see exposition.c. */
void exposition_fake(struct kvl_host *host);

/** State of its location "tcp_remote:serve" from now on. */
void exposition_set_state(uint32_t state);

#endif /* KVL_EXPOSITION_H */
