/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file cli.h
 * What all subcommands share: exit codes, option tables, and how errors are told.
 */
#ifndef KVL_CLI_H
#define KVL_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <kvlane/abi.h>

/** Exit codes, the same for every subcommand. */
enum cli_exit {
    CLI_OK = 0,
    CLI_NO = 1, /* a negative answer: key missing, not healthy, bytes differ */
    CLI_USAGE = 2, /* the command line */
    CLI_INPUT = 3, /* an INI file, a module, a trace or another input file */
    CLI_PEER = 4, /* a peer or a backend */
    CLI_OS = 5, /* the operating system, or our own fault */
};

/** cli_parse() answers this when the command shall run. */
#define CLI_GO (-1)

#define CLI_MAX_SETS 64

/** Options of every command that opens the plugin. */
struct cli_common {
    const char *config;
    const char *plugin;
    const char *log; /* level as a word, NULL = as the INI file says */
    uint64_t timeout_ms; /* 0 = as the INI file says */
    const char *sets[CLI_MAX_SETS];
    uint32_t set_count;
};

enum cli_type {
    CLI_FLAG, /* bool */
    CLI_TEXT, /* const char * */
    CLI_COUNT, /* uint64_t, decimal */
    CLI_BYTES, /* uint64_t with K M G T or KiB MiB GiB TiB */
    CLI_TIME, /* uint64_t ms; ms s m h */
};

struct cli_option {
    const char *name; /* without the dashes */
    const char *metavar; /* NULL for a flag */
    const char *help;
    enum cli_type type;
    void *target;
    uint64_t min; /* numbers: bounds, both 0 = none */
    uint64_t max;
};

struct cli_usage {
    const char *command;
    const char *args; /* after the options, "" = none */
    const char *about;
    const struct cli_option *options;
    size_t option_count;
    struct cli_common *common; /* NULL for a command that opens no plugin */
    int min_args;
    int max_args;
};

/**
 * Parses argv[1..] by the table. Arguments that are no options are moved to the front of argv and
 * counted. Prints help or the error. @return CLI_GO, or the exit code to leave with.
 */
int cli_parse(const struct cli_usage *usage, int argc, char **argv, int *count_out);

/** Parses numbers as the options do; whole text only. @return 0; -EINVAL. */
int cli_parse_count(const char *text, uint64_t *out);
int cli_parse_bytes(const char *text, uint64_t *out);
int cli_parse_time(const char *text, uint64_t *out);

/** One line on stderr, `kvlane: text`. */
void cli_error(const char *fmt, ...) KVL_PRINTF(1, 2);

/* The subcommands; argv[0] is the word. Each returns an exit code. */
int cmd_serve(int argc, char **argv);
int cmd_controller(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_put(int argc, char **argv);
int cmd_get(int argc, char **argv);
int cmd_exists(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_health(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_replay(int argc, char **argv);
int cmd_demo(int argc, char **argv);

/* Started by replay and demo in processes of their own; not for people. */
int cmd_replay_engine(int argc, char **argv);
int cmd_demo_engine(int argc, char **argv);

#endif /* KVL_CLI_H */
