/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_PLUGIN_LOG_H
#define KVL_PLUGIN_LOG_H

#include <kvlane/log.h>

/** The engine's sink, or stderr when it gave none. Valid as long as `fn` and `ctx` are. */
struct kvl_log kvl_log_make(kvl_log_fn fn, void *ctx, const char *component, int level);

/** "warn" -> KVL_LOG_WARN. @return the level, or -EINVAL. */
int kvl_log_level_from_text(const char *text);

/** KVL_LOG_WARN -> "warn". */
const char *kvl_log_level_text(int level);

#endif /* KVL_PLUGIN_LOG_H */
