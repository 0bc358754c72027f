/* SPDX-License-Identifier: Apache-2.0 */
#include "setting.h"

#include <stdarg.h>
#include <stdio.h>

int kvl_fail(struct kvl_err *err, int code, const char *fmt, ...)
{
    va_list args;
    int n;

    if (err == NULL || err->size < sizeof(*err)) {
        return code;
    }
    err->code = code;
    err->os_errno = -code;
    va_start(args, fmt);
    n = vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    if (n < 0) {
        err->text[0] = '\0';
    }
    return code;
}

struct kvl_setting kvl_setting_get(const struct kvl_host *host, const char *name)
{
    struct kvl_setting setting = {.text = ""};

    if (host->setting(host, name, &setting) < 0 || setting.text == NULL) {
        setting.text = "";
    }
    return setting;
}

int64_t kvl_setting_number(const struct kvl_host *host, const char *name)
{
    return kvl_setting_get(host, name).number;
}

const char *kvl_setting_text(const struct kvl_host *host, const char *name)
{
    return kvl_setting_get(host, name).text;
}
