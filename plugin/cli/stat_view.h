/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file stat_view.h
 * How `kvlane stat` shows a sample, and what changed since the one before.
 */
#ifndef KVL_STAT_VIEW_H
#define KVL_STAT_VIEW_H

#include "stat_sample.h"

enum stat_form {
    STAT_LIST, /* every counter, once */
    STAT_SCREEN, /* a terminal: drawn over what was there */
    STAT_LINES, /* one line each time */
    STAT_JSON, /* one object each time */
};

/** Prints to stdout. `before` may be NULL: then there are no rates. */
void stat_view_print(enum stat_form form, const struct stat_sample *now,
                     const struct stat_sample *before);

#endif /* KVL_STAT_VIEW_H */
