/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KVL_KEEPERS_H
#define KVL_KEEPERS_H

#include <kvlane/host.h>

/** 1 when some backend of the instance keeps chunks itself (KVL_CAP_HELD), running or not. */
int kvl_has_keepers(const struct kvl_host *host);

#endif /* KVL_KEEPERS_H */
