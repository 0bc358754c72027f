/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file notify.h
 * Tells the service manager how far we are: one datagram of lines to the socket that the variable
 * NOTIFY_SOCKET names, as sd_notify(3) describes it. Without the variable nothing happens.
 */
#ifndef KVL_NOTIFY_H
#define KVL_NOTIFY_H

/** Sends "READY=1" and the like, newlines in between. Never blocks; failures are no news. */
void notify_manager(const char *lines);

/** Sends RELOADING=1 with the time that systemd wants along with it. */
void notify_reloading(void);

#endif /* KVL_NOTIFY_H */
