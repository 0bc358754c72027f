/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file metrics_page.h
 * What each route answers, from what host->stats and host->health say. No socket here.
 */
#ifndef KVL_METRICS_PAGE_H
#define KVL_METRICS_PAGE_H

#include <kvlane/host.h>

#include "metrics_text.h"

/** What a page is made from. */
struct metrics_view {
    const struct kvl_host *host; /* borrowed */
    const char *prefix;
    const char *needs; /* "" = the own store and what serves it */
    bool stopping;
};

/** Every counter, in the text format 0.0.4 of Prometheus. @return 200; 500. */
unsigned metrics_page_metrics(const struct metrics_view *view, struct metrics_text *text);

/** JSON of every location. @return 200; 503 when a needed one is down, or on the way out; 500. */
unsigned metrics_page_health(const struct metrics_view *view, struct metrics_text *text);

/** Which routes there are. @return 200; 500. */
unsigned metrics_page_index(const struct metrics_view *view, struct metrics_text *text);

/** The first name in `needs` that no location has; NULL when all are there. Uses `name_out`. */
const char *metrics_page_unknown_need(const struct metrics_view *view, char *name_out, size_t size);

#endif /* KVL_METRICS_PAGE_H */
