/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file setting.h
 * How a backend reads its settings and says why it cannot go on.
 */
#ifndef KVL_SETTING_H
#define KVL_SETTING_H

#include <kvlane/host.h>

/** Fills `err` as far as its size reaches. `err` may be NULL. @return `code`. */
int kvl_fail(struct kvl_err *err, int code, const char *fmt, ...) KVL_PRINTF(3, 4);

/** A setting of the option table; an unknown one is 0 and "". The text is never NULL. */
struct kvl_setting kvl_setting_get(const struct kvl_host *host, const char *name);
int64_t kvl_setting_number(const struct kvl_host *host, const char *name);
const char *kvl_setting_text(const struct kvl_host *host, const char *name);

#endif /* KVL_SETTING_H */
