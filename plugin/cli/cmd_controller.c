/* SPDX-License-Identifier: Apache-2.0 */
/*
 * LMCache's `lmcache_controller` with its flags and environment, as a section of the plugin. What
 * is given goes over the INI file: flag, then environment, then file, then default.
 */
#include "cli.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "explain.h"
#include "serve.h"

#define OVERRIDES_MAX 8u
#define OVERRIDE_ROOM 320u

/* A flag or variable, and what becomes of it. */
struct setting {
    const char *flag;
    const char *variable;
    int (*take)(struct serve *serve, const struct setting *setting, const char *value);
    const char *key; /* of the INI section; NULL = several */
};

static char override_texts[OVERRIDES_MAX][OVERRIDE_ROOM];
static const char *overrides[OVERRIDES_MAX];

static int setting_add(struct serve *serve, const char *key, const char *value, const char *unit)
{
    uint32_t i = serve->setup.extra_count;
    int n;

    if (i == OVERRIDES_MAX) {
        return CLI_USAGE;
    }
    n = snprintf(override_texts[i], OVERRIDE_ROOM, "controller.%s=%s%s", key, value, unit);
    if (n < 0 || n >= (int)OVERRIDE_ROOM) {
        return CLI_USAGE;
    }
    overrides[i] = override_texts[i];
    serve->setup.extra = overrides;
    serve->setup.extra_count++;
    return CLI_GO;
}

static int take_text(struct serve *serve, const struct setting *setting, const char *value)
{
    return setting_add(serve, setting->key, value, "");
}

/* Whole seconds; -1 is how LMCache says off. */
static int take_seconds(struct serve *serve, const struct setting *setting, const char *value)
{
    uint64_t seconds = 0;

    if (strcmp(value, "-1") != 0 && cli_parse_count(value, &seconds) < 0) {
        return CLI_USAGE;
    }
    return setting_add(serve, setting->key, strcmp(value, "-1") == 0 ? "0" : value, "s");
}

/* ---- {"pull": 8300, "reply": 8400, "heartbeat": 8082} ---- */

static const char *ports_blanks(const char *at)
{
    while (isspace((unsigned char)*at)) {
        at++;
    }
    return at;
}

/* Steps over `mark` and the blanks around it; NULL when something else stands there. */
static const char *ports_mark(const char *at, char mark)
{
    at = ports_blanks(at);
    return *at == mark ? ports_blanks(at + 1) : NULL;
}

/* Reads one `"name": number`. @return what follows; NULL when it is none. */
static const char *ports_entry(const char *at, char name_out[16], char number_out[8])
{
    size_t length;

    if (*at != '"') {
        return NULL;
    }
    length = strcspn(++at, "\"");
    if (at[length] != '"' || length >= 16) {
        return NULL;
    }
    memcpy(name_out, at, length);
    name_out[length] = '\0';
    at = ports_mark(at + length + 1, ':');
    if (at == NULL) {
        return NULL;
    }
    length = strspn(at, "0123456789");
    if (length == 0 || length >= 8) {
        return NULL;
    }
    memcpy(number_out, at, length);
    number_out[length] = '\0';
    return ports_blanks(at + length);
}

/* All three are taken over together: a map without heartbeat means that there is none. */
static int take_ports(struct serve *serve, const struct setting *setting, const char *value)
{
    static const char *const names[] = {"pull", "reply", "heartbeat"};
    static const char *const keys[] = {"pull_port", "reply_port", "heartbeat_port"};
    char numbers[3][8] = {"", "", "0"};
    const char *at = ports_mark(value, '{');

    (void)setting;
    while (at != NULL && *at != '}') {
        char name[16];
        char number[8];
        size_t i;

        at = ports_entry(at, name, number);
        for (i = 0; at != NULL && i < 3 && strcmp(name, names[i]) != 0; i++) {
        }
        if (at == NULL || i == 3) {
            return CLI_USAGE;
        }
        memcpy(numbers[i], number, sizeof(number));
        if (*at != '}') {
            at = ports_mark(at, ',');
        }
    }
    if (at == NULL || *ports_blanks(at + 1) != '\0' || numbers[0][0] == '\0' ||
        numbers[1][0] == '\0') {
        return CLI_USAGE;
    }
    for (size_t i = 0; i < 3; i++) {
        if (setting_add(serve, keys[i], numbers[i], "") != CLI_GO) {
            return CLI_USAGE;
        }
    }
    return CLI_GO;
}

/* ---- settings ---- */

static const struct setting settings[] = {
    {"host", "LMCACHE_CONTROLLER_CONTROLLER_HOST", take_text, "host"},
    {"port", "LMCACHE_CONTROLLER_CONTROLLER_PORT", take_text, "http_port"},
    {"monitor-ports", "LMCACHE_CONTROLLER_CONTROLLER_MONITOR_PORTS", take_ports, NULL},
    {"health-check-interval", "LMCACHE_CONTROLLER_HEALTH_CHECK_INTERVAL", take_seconds,
     "health_check_interval"},
    {"lmcache-worker-timeout", "LMCACHE_CONTROLLER_LMCACHE_WORKER_TIMEOUT", take_seconds,
     "lmcache_worker_timeout"},
};
#define SETTING_COUNT (sizeof(settings) / sizeof(settings[0]))

struct flags {
    const char *values[SETTING_COUNT]; /* NULL = not given */
    bool allow_remote;
};

static int settings_take(struct serve *serve, const struct flags *flags)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        const char *flag = flags->values[i];
        const char *value = flag != NULL ? flag : getenv(settings[i].variable);

        if (value == NULL || (flag == NULL && value[0] == '\0')) {
            continue;
        }
        if (settings[i].take(serve, &settings[i], value) != CLI_GO) {
            cli_error("controller: cannot use '%s' given with %s%s; see: kvlane controller --help",
                      value, flag != NULL ? "--" : "",
                      flag != NULL ? settings[i].flag : settings[i].variable);
            return CLI_USAGE;
        }
    }
    return flags->allow_remote ? setting_add(serve, "allow_remote", "yes", "") : CLI_GO;
}

static int controller_parse(struct serve *serve, struct flags *flags, int argc, char **argv)
{
    struct cli_option options[SETTING_COUNT + 1 + SERVE_OPTION_COUNT] = {
        {"host", "ADDRESS", "for workers and HTTP (127.0.0.1)", CLI_TEXT, &flags->values[0], 0, 0},
        {"port", "N", "of the HTTP API (9000)", CLI_TEXT, &flags->values[1], 0, 0},
        {"monitor-ports", "JSON", "for workers ({\"pull\": 8300, \"reply\": 8400}); and heartbeat",
         CLI_TEXT, &flags->values[2], 0, 0},
        {"health-check-interval", "SECONDS", "look for silent workers; -1 = never (-1)", CLI_TEXT,
         &flags->values[3], 0, 0},
        {"lmcache-worker-timeout", "SECONDS", "take out a worker silent for so long (300)",
         CLI_TEXT, &flags->values[4], 0, 0},
        {"allow-remote", NULL, "bind beyond loopback; nobody is asked for a password", CLI_FLAG,
         &flags->allow_remote, 0, 0},
    };
    const struct cli_usage usage = {
        .command = "controller",
        .args = "",
        .about = "Runs LMCache's cache controller until SIGTERM or SIGINT. Prints a line when it "
                 "can be\nreached: ready: controller ADDRESSES. Flags go over the variables "
                 "LMCACHE_CONTROLLER_...,\nthese over the section [controller] of the INI file.\n\n"
                 "With --explain KEYS [--instance ID] [--url HOST:PORT] it asks a running one why "
                 "a\nlookup finds nothing; see: kvlane controller --explain= --help",
        .options = options,
        .option_count = sizeof(options) / sizeof(options[0]),
        .common = &serve->common,
    };
    int count;

    serve_options(serve, options + SETTING_COUNT + 1);
    return cli_parse(&usage, argc, argv, &count);
}

/* A fleet opens three connections per worker, more than a shell's usual limit takes. */
static void controller_raise_files(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int cmd_controller(int argc, char **argv)
{
    struct serve serve = {.command = "controller", .word = "controller"};
    struct flags flags = {0};
    int r;

    if (explain_wanted(argc, argv)) {
        return explain_run(argc, argv);
    }
    r = controller_parse(&serve, &flags, argc, argv);
    if (r == CLI_GO) {
        r = settings_take(&serve, &flags);
    }
    if (r != CLI_GO) {
        return r;
    }
    if (serve.common.config == NULL && getenv("KVLANE_CONFIG") == NULL) {
        serve.setup.config_text = "[controller]\n";
    }
    controller_raise_files();
    return serve_run(&serve);
}
