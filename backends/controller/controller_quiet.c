/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_quiet.h"

#include <inttypes.h>

#define WINDOW_MS 10000u
#define LINES 8u
#define CUT "..."

int controller_quiet_may(struct controller_quiet *quiet, const struct kvl_host *host,
                         const char *about)
{
    uint64_t now = host->now_ms(host);

    if (quiet->lines == 0 || now - quiet->window_ms >= WINDOW_MS) {
        if (quiet->held > 0) {
            kvl_warn(host->log, "controller: %" PRIu64 " more lines about %s were left out",
                     quiet->held, about);
        }
        *quiet = (struct controller_quiet){.window_ms = now};
    }
    if (quiet->lines < LINES) {
        quiet->lines++;
        return 1;
    }
    quiet->held++;
    return 0;
}

void controller_quiet_text(struct kvl_text text, char shown_out[CONTROLLER_SHOWN_ROOM])
{
    const size_t room = CONTROLLER_SHOWN_ROOM - sizeof(CUT);
    size_t length = text.length < room ? text.length : room;

    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text.text[i];

        shown_out[i] = c < 0x20 || c == 0x7f ? '?' : (char)c;
    }
    shown_out[length] = '\0';
    if (length < text.length) {
        memcpy(shown_out + length, CUT, sizeof(CUT));
    }
}
