/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
    const char *word;
    uint64_t factor;
};

static const struct unit byte_units[] = {
    {"", 1},
    {"K", 1ull << 10},
    {"KiB", 1ull << 10},
    {"M", 1ull << 20},
    {"MiB", 1ull << 20},
    {"G", 1ull << 30},
    {"GiB", 1ull << 30},
    {"T", 1ull << 40},
    {"TiB", 1ull << 40},
};

static const struct unit time_units[] = {
    {"", 1}, {"ms", 1}, {"s", 1000}, {"m", 60 * 1000}, {"h", 60 * 60 * 1000},
};

void cli_error(const char *fmt, ...)
{
    char text[2048];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    fprintf(stderr, "kvlane: %s\n", text);
}

/* Own loop instead of strtoull: that one takes signs, spaces and a 0x. */
static int parse_digits(const char *text, uint64_t *out, const char **rest_out)
{
    uint64_t value = 0;
    const char *at = text;

    for (; *at >= '0' && *at <= '9'; at++) {
        uint64_t digit = (uint64_t)(*at - '0');

        if (value > (UINT64_MAX - digit) / 10) {
            return -EINVAL;
        }
        value = value * 10 + digit;
    }
    if (at == text) {
        return -EINVAL;
    }
    *out = value;
    *rest_out = at;
    return 0;
}

static int parse_with_unit(const char *text, const struct unit *units, size_t count, uint64_t *out)
{
    const char *rest;
    uint64_t value;

    if (parse_digits(text, &value, &rest) < 0) {
        return -EINVAL;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(rest, units[i].word) == 0 && value <= UINT64_MAX / units[i].factor) {
            *out = value * units[i].factor;
            return 0;
        }
    }
    return -EINVAL;
}

int cli_parse_count(const char *text, uint64_t *out)
{
    return parse_with_unit(text, byte_units, 1, out);
}

int cli_parse_bytes(const char *text, uint64_t *out)
{
    return parse_with_unit(text, byte_units, sizeof(byte_units) / sizeof(byte_units[0]), out);
}

int cli_parse_time(const char *text, uint64_t *out)
{
    return parse_with_unit(text, time_units, sizeof(time_units) / sizeof(time_units[0]), out);
}

/* ---- the options every command with a plugin has ---- */

enum common_id { COMMON_CONFIG, COMMON_SET, COMMON_PLUGIN, COMMON_LOG, COMMON_TIMEOUT, COMMON_N };

static const struct cli_option common_options[COMMON_N] = {
    [COMMON_CONFIG] = {.name = "config",
                       .metavar = "FILE",
                       .help = "INI file; else the one named by KVLANE_CONFIG",
                       .type = CLI_TEXT},
    [COMMON_SET] = {.name = "set",
                    .metavar = "SECTION.KEY=VALUE",
                    .help = "applied after the file; may be repeated",
                    .type = CLI_TEXT},
    [COMMON_PLUGIN] = {.name = "plugin",
                       .metavar = "PATH",
                       .help = "libkvlane.so; else the one this program came with",
                       .type = CLI_TEXT},
    [COMMON_LOG] = {.name = "log",
                    .metavar = "LEVEL",
                    .help = "off, error, warn, info, debug or trace",
                    .type = CLI_TEXT},
    [COMMON_TIMEOUT] = {.name = "timeout",
                        .metavar = "DURATION",
                        .help = "longest wait of one operation: 500ms, 10s, 2m",
                        .type = CLI_TIME,
                        .min = 1,
                        .max = 24ull * 3600 * 1000},
};

static bool log_level_known(const char *word)
{
    static const char *const words[] = {"off", "error", "warn", "info", "debug", "trace"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(word, words[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* The table is constant and knows no targets, so the values find their way here. */
static int common_take(struct cli_common *common, enum common_id id, const char *value)
{
    const char *dot = strchr(value, '.');
    const char *equals = strchr(value, '=');

    switch (id) {
    case COMMON_CONFIG:
        common->config = value;
        return 0;
    case COMMON_PLUGIN:
        common->plugin = value;
        return 0;
    case COMMON_LOG:
        common->log = value;
        return log_level_known(value) ? 0 : -EINVAL;
    case COMMON_TIMEOUT:
        return cli_parse_time(value, &common->timeout_ms);
    case COMMON_SET:
        if (dot == NULL || equals == NULL || dot > equals || common->set_count == CLI_MAX_SETS) {
            return -EINVAL;
        }
        common->sets[common->set_count++] = value;
        return 0;
    case COMMON_N:
        break;
    }
    return -EINVAL;
}

/* ---- help ---- */

static void print_option(const struct cli_option *option)
{
    char left[64];

    (void)snprintf(left, sizeof(left), "--%s%s%s", option->name, option->metavar ? " " : "",
                   option->metavar ? option->metavar : "");
    printf("  %-26s %s\n", left, option->help);
}

static void print_help(const struct cli_usage *usage)
{
    printf("usage: kvlane %s [OPTIONS]%s%s\n\n%s\n\noptions:\n", usage->command,
           *usage->args ? " " : "", usage->args, usage->about);
    for (size_t i = 0; i < usage->option_count; i++) {
        print_option(&usage->options[i]);
    }
    for (size_t i = 0; usage->common != NULL && i < COMMON_N; i++) {
        print_option(&common_options[i]);
    }
    printf("  %-26s %s\n", "--help", "this text");
    printf("\nexit codes: 0 ok, 1 negative answer, 2 usage, 3 bad configuration or input file,\n"
           "            4 peer or backend failure, 5 system or internal error\n");
}

/* ---- parsing ---- */

static int usage_error(const struct cli_usage *usage, const char *what, const char *arg)
{
    cli_error("%s: %s '%s'; see: kvlane %s --help", usage->command, what, arg, usage->command);
    return CLI_USAGE;
}

static const struct cli_option *find_option(const struct cli_option *table, size_t count,
                                            const char *name, size_t length)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(table[i].name) == length && memcmp(table[i].name, name, length) == 0) {
            return &table[i];
        }
    }
    return NULL;
}

static int take_number(const struct cli_option *option, const char *value)
{
    uint64_t number;
    int r;

    if (option->type == CLI_COUNT) {
        r = cli_parse_count(value, &number);
    } else if (option->type == CLI_BYTES) {
        r = cli_parse_bytes(value, &number);
    } else {
        r = cli_parse_time(value, &number);
    }
    if (r < 0) {
        return r;
    }
    if ((option->min != 0 || option->max != 0) && (number < option->min || number > option->max)) {
        return -ERANGE;
    }
    *(uint64_t *)option->target = number;
    return 0;
}

static int take_value(const struct cli_usage *usage, const struct cli_option *option,
                      const char *value)
{
    char what[160];
    int r;

    if (option >= common_options && option < common_options + COMMON_N) {
        r = common_take(usage->common, (enum common_id)(option - common_options), value);
    } else if (option->type == CLI_TEXT) {
        *(const char **)option->target = value;
        r = 0;
    } else {
        r = take_number(option, value);
    }
    if (r == -ERANGE) {
        (void)snprintf(what, sizeof(what), "--%s must be %llu to %llu, not", option->name,
                       (unsigned long long)option->min, (unsigned long long)option->max);
        return usage_error(usage, what, value);
    }
    if (r < 0) {
        (void)snprintf(what, sizeof(what), "--%s wants %s (%s), not", option->name, option->metavar,
                       option->help);
        return usage_error(usage, what, value);
    }
    return CLI_GO;
}

/* One option at argv[*at]; steps over its value. */
static int parse_option(const struct cli_usage *usage, int argc, char **argv, int *at)
{
    const char *name = argv[*at] + 2;
    const char *equals = strchr(name, '=');
    size_t length = equals != NULL ? (size_t)(equals - name) : strlen(name);
    const struct cli_option *option =
        find_option(usage->options, usage->option_count, name, length);

    if (option == NULL && usage->common != NULL) {
        option = find_option(common_options, COMMON_N, name, length);
    }
    if (option == NULL) {
        return usage_error(usage, "unknown option", argv[*at]);
    }
    if (option->type == CLI_FLAG) {
        if (equals != NULL) {
            return usage_error(usage, "no value goes with", argv[*at]);
        }
        *(bool *)option->target = true;
        return CLI_GO;
    }
    if (equals != NULL) {
        return take_value(usage, option, equals + 1);
    }
    if (*at + 1 >= argc) {
        return usage_error(usage, "a value is missing after", argv[*at]);
    }
    return take_value(usage, option, argv[++*at]);
}

int cli_parse(const struct cli_usage *usage, int argc, char **argv, int *count_out)
{
    bool only_args = false;
    int count = 0;

    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        int r;

        if (only_args || arg[0] != '-' || arg[1] == '\0') {
            argv[count++] = argv[i];
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_args = true;
            continue;
        }
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(usage);
            return CLI_OK;
        }
        r = arg[1] == '-' ? parse_option(usage, argc, argv, &i)
                          : usage_error(usage, "unknown option", arg);
        if (r != CLI_GO) {
            return r;
        }
    }
    if (count < usage->min_args) {
        return usage_error(usage, "arguments are missing:", usage->args);
    }
    if (count > usage->max_args) {
        return usage_error(usage, "unexpected argument", argv[usage->max_args]);
    }
    *count_out = count;
    return CLI_GO;
}
