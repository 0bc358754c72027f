/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <errno.h>
#include <unistd.h>

static const char *const level_texts[] = {"off", "error", "warn", "info", "debug", "trace"};

/* One write per line, so that lines of several threads and processes do not mix. */
static void log_stderr(void *ctx, int32_t level, const char *component, const char *file,
                       int32_t line, const char *text)
{
    char out[KVL_LOG_LINE + 64];
    int n;

    (void)ctx;
    (void)file;
    (void)line;
    (void)component; /* the text begins with it */
    n = snprintf(out, sizeof(out), "kvlane: %s: %s\n", kvl_log_level_text(level), text);
    if (n > 0) {
        size_t len = (size_t)n < sizeof(out) ? (size_t)n : sizeof(out) - 1;

        if (write(STDERR_FILENO, out, len) < 0) {
            return; /* nowhere left to say so */
        }
    }
}

struct kvl_log kvl_log_make(kvl_log_fn fn, void *ctx, const char *component, int level)
{
    return (struct kvl_log){
        .write = fn != NULL ? fn : log_stderr,
        .ctx = ctx,
        .component = component,
        .level = level,
    };
}

int kvl_log_level_from_text(const char *text)
{
    for (int i = 0; i < (int)(sizeof(level_texts) / sizeof(level_texts[0])); i++) {
        if (strcmp(text, level_texts[i]) == 0) {
            return i;
        }
    }
    return -EINVAL;
}

const char *kvl_log_level_text(int level)
{
    if (level < 0 || level >= (int)(sizeof(level_texts) / sizeof(level_texts[0]))) {
        return "?";
    }
    return level_texts[level];
}
