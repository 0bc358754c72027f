/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file watch.h
 * Counters and health as text on a Unix socket: whoever connects gets lines and an end.
 *
 *   <counter> <value>
 *   health <section> <down|degraded|ok> <address or -> <sentence>
 *
 * Only root and the user of this process are answered.
 */
#ifndef KVL_PLUGIN_WATCH_H
#define KVL_PLUGIN_WATCH_H

#include <kvlane/io.h>

struct kvl_instance;
struct kvl_watch;

/**
 * Listens at `path` (mode 0600). A socket that a dead process left there is replaced.
 * @return 0; -EADDRINUSE somebody answers there; what the system says, and err->text.
 */
int kvl_watch_start(struct kvl_instance *instance, const char *path, struct kvl_watch **watch_out,
                    struct kvl_err *err);

/** Wakes and joins the thread, removes the socket. Takes NULL. */
void kvl_watch_stop(struct kvl_watch *watch);

#endif /* KVL_PLUGIN_WATCH_H */
