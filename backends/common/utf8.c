/* SPDX-License-Identifier: Apache-2.0 */
#include "utf8.h"

size_t kvl_utf8_sequence(const void *text, size_t left)
{
    const uint8_t *at = text;
    const uint8_t lead = at[0];
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint8_t low = 0x80;
    uint8_t high = 0xbf;

    if (lead < 0x80) {
        return 1;
    }
    if (lead < 0xc2 || lead > 0xf4 || left < length) {
        return 0;
    }
    if (lead == 0xe0) {
        low = 0xa0; /* overlong below */
    } else if (lead == 0xed) {
        high = 0x9f; /* surrogates above */
    } else if (lead == 0xf0) {
        low = 0x90; /* overlong below */
    } else if (lead == 0xf4) {
        high = 0x8f; /* beyond U+10FFFF */
    }
    if (at[1] < low || at[1] > high) {
        return 0;
    }
    for (size_t i = 2; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    return length;
}
