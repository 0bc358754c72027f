/* SPDX-License-Identifier: Apache-2.0 */
#include "option.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#define NAME_MAX_LEN 63

struct unit {
    const char *text;
    int64_t factor;
};

static const struct unit size_units[] = {
    {"", 1},
    {"B", 1},
    {"K", 1024},
    {"KiB", 1024},
    {"M", 1024 * 1024},
    {"MiB", 1024 * 1024},
    {"G", 1024 * 1024 * 1024},
    {"GiB", 1024 * 1024 * 1024},
    {"T", 1024ll * 1024 * 1024 * 1024},
    {"TiB", 1024ll * 1024 * 1024 * 1024},
};

static const struct unit duration_units[] = {
    {"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000},
};

static const struct unit no_units[] = {{"", 1}};

static int parse_number(const char *text, const struct unit *units, size_t unit_count,
                        int64_t *number_out)
{
    char *end;
    long long value;

    errno = 0;
    value = strtoll(text, &end, 10);
    if (end == text || errno != 0) {
        return -EINVAL;
    }
    while (*end == ' ') {
        end++;
    }
    for (size_t i = 0; i < unit_count; i++) {
        if (strcasecmp(end, units[i].text) == 0) {
            int64_t out;

            if (__builtin_mul_overflow((int64_t)value, units[i].factor, &out)) {
                return -EINVAL;
            }
            *number_out = out;
            return 0;
        }
    }
    return -EINVAL;
}

static int parse_bool(const char *text, int64_t *number_out)
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcasecmp(text, words[i]) == 0) {
            *number_out = (int64_t)(i & 1);
            return 0;
        }
    }
    return -EINVAL;
}

static int parse_enum(const char *choices, const char *text, int64_t *number_out)
{
    size_t length = strlen(text);
    int64_t index = 0;

    for (const char *at = choices; at != NULL && *at != '\0'; index++) {
        size_t n = strcspn(at, "|");

        if (n == length && strncmp(at, text, n) == 0) {
            *number_out = index;
            return 0;
        }
        at += n;
        at += *at == '|';
    }
    return -EINVAL;
}

static int parse_value(const struct kvl_option *option, const char *text, int64_t *number_out)
{
    switch (option->type) {
    case KVL_OPTION_BOOL:
        return parse_bool(text, number_out);
    case KVL_OPTION_INT:
        return parse_number(text, no_units, 1, number_out);
    case KVL_OPTION_SIZE:
        return parse_number(text, size_units, sizeof(size_units) / sizeof(size_units[0]),
                            number_out);
    case KVL_OPTION_DURATION:
        return parse_number(text, duration_units,
                            sizeof(duration_units) / sizeof(duration_units[0]), number_out);
    case KVL_OPTION_ENUM:
        return parse_enum(option->choices, text, number_out);
    case KVL_OPTION_PATH:
        *number_out = 0;
        return text[0] == '/' ? 0 : -EINVAL;
    default:
        *number_out = 0;
        return 0;
    }
}

static void describe(const struct kvl_option *option, char *out, size_t size)
{
    static const char *const what[] = {
        [KVL_OPTION_BOOL] = "yes or no",
        [KVL_OPTION_INT] = "an integer",
        [KVL_OPTION_SIZE] = "a size such as 64MiB",
        [KVL_OPTION_DURATION] = "a duration such as 500ms or 10s",
        [KVL_OPTION_ENUM] = "one of ",
        [KVL_OPTION_STRING] = "text",
        [KVL_OPTION_PATH] = "an absolute path",
        [KVL_OPTION_SECRET] = "text",
    };
    const char *unit = option->type == KVL_OPTION_DURATION ? " ms"
                       : option->type == KVL_OPTION_SIZE   ? " bytes"
                                                           : "";

    if (option->type >= sizeof(what) / sizeof(what[0]) || what[option->type] == NULL) {
        snprintf(out, size, "a value of a type this build does not know");
    } else if (option->type == KVL_OPTION_ENUM) {
        snprintf(out, size, "one of %s", option->choices);
    } else if (option->min != 0 || option->max != 0) {
        snprintf(out, size, "%s from %" PRId64 " to %" PRId64 "%s", what[option->type], option->min,
                 option->max, unit);
    } else {
        snprintf(out, size, "%s", what[option->type]);
    }
}

int kvl_option_parse(const struct kvl_option *option, const char *text, int64_t *number_out,
                     char *why_out, size_t why_size)
{
    int64_t number;
    int r = parse_value(option, text, &number);

    if (r == 0 && (option->min != 0 || option->max != 0) &&
        (number < option->min || number > option->max)) {
        r = -EINVAL;
    }
    if (r < 0) {
        describe(option, why_out, why_size);
        return r;
    }
    *number_out = number;
    return 0;
}

int kvl_option_find(const struct kvl_option *options, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++) {
        if (strcmp(options[i].name, name) == 0) {
            return (int)i;
        }
    }
    return -ENOENT;
}

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;

    return m < c ? m : c;
}

unsigned kvl_name_distance(const char *a, const char *b)
{
    unsigned rows[3][NAME_MAX_LEN + 2];
    size_t na = strlen(a);
    size_t nb = strlen(b);

    if (na > NAME_MAX_LEN || nb > NAME_MAX_LEN) {
        return UINT32_MAX;
    }
    for (size_t j = 0; j <= nb; j++) {
        rows[0][j] = (unsigned)j;
    }
    for (size_t i = 1; i <= na; i++) {
        unsigned *now = rows[i % 3];
        const unsigned *up = rows[(i + 2) % 3];
        const unsigned *up2 = rows[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            now[j] = min3(up[j] + 1, now[j - 1] + 1, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                up2[j - 2] + 1 < now[j]) {
                now[j] = up2[j - 2] + 1;
            }
        }
    }
    return rows[na % 3][nb];
}

const char *kvl_name_nearest(const char *name, const char *const *names, size_t count)
{
    const char *best = NULL;
    unsigned best_distance = (unsigned)strlen(name) / 3 + 2;

    for (size_t i = 0; i < count; i++) {
        unsigned d = kvl_name_distance(name, names[i]);

        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    return best;
}
