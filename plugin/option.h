/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_OPTION_H
#define KVL_PLUGIN_OPTION_H

#include <kvlane/backend.h>

/**
 * Reads a value in the words of the INI file against its option.
 * @param why_out  on failure: what was expected, e.g. "an integer from 1 to 64"
 * @return 0; -EINVAL.
 */
int kvl_option_parse(const struct kvl_option *option, const char *text, int64_t *number_out,
                     char *why_out, size_t why_size);

/** Finds an option by name. @return its index, or -ENOENT. */
int kvl_option_find(const struct kvl_option *options, uint32_t count, const char *name);

/**
 * How far two names are apart, in edits (insert, delete, replace, swap neighbours).
 * Names longer than 63 bytes are as far apart as can be.
 */
unsigned kvl_name_distance(const char *a, const char *b);

/** The nearest of `count` names when it is near enough to be a slip of the hand, else NULL. */
const char *kvl_name_nearest(const char *name, const char *const *names, size_t count);

#endif /* KVL_PLUGIN_OPTION_H */
