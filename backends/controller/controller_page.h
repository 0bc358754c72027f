/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file controller_page.h
 * The dashboard: controller_page.html as a constant, made by controller_page.py when building.
 */
#ifndef KVL_CONTROLLER_PAGE_H
#define KVL_CONTROLLER_PAGE_H

#include <stddef.h>

extern const unsigned char controller_page[];
extern const size_t controller_page_size;

/** Its Content-Security-Policy: only the style and the script that are in it, by their digests. */
extern const char controller_page_policy[];

#endif /* KVL_CONTROLLER_PAGE_H */
