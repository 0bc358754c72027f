/* SPDX-License-Identifier: Apache-2.0 */
#include "keepers.h"

#define OWN_STORE 1u /* as kvl_plugin.health counts */

int kvl_has_keepers(const struct kvl_host *host)
{
    struct kvl_health health = {.size = sizeof(health)};

    if (!KVL_HAS_OP(host, held) || !KVL_HAS_OP(host, health)) {
        return 0;
    }
    for (uint32_t i = OWN_STORE + 1; host->health(host, i, &health) == 0; i++) {
        if ((health.caps & KVL_CAP_HELD) != 0) {
            return 1;
        }
        health.size = sizeof(health);
    }
    return 0;
}
