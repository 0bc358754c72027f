/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file main.c
 * The subcommand table. kvlane is a host engine like any other: it reaches libkvlane.so through
 * dlopen and plugin.h only.
 */
#include "cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "engine.h"

struct command {
    const char *word;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL = not for people */
};

static const struct command commands[] = {
    {"serve", cmd_serve, "run the serving backends of an INI file until told to stop"},
    {"controller", cmd_controller, "LMCache's cache controller: who holds which chunk"},
    {"check", cmd_check, "check an INI file and start nothing"},
    {"put", cmd_put, "store a file as one chunk"},
    {"get", cmd_get, "fetch one chunk into a file"},
    {"exists", cmd_exists, "say where chunks are"},
    {"list", cmd_list, "list the chunks of each location"},
    {"health", cmd_health, "ask each location whether it works"},
    {"inspect", cmd_inspect, "print a key, wrapper or KV cache as LMCache sends it"},
    {"stat", cmd_stat, "counters and health of a running process"},
    {"replay", cmd_replay, "replay a request trace through the plugin"},
    {"demo", cmd_demo, "a small real engine shares its KV cache with another process"},
    {"replay-engine", cmd_replay_engine, NULL},
    {"demo-engine", cmd_demo_engine, NULL},
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static int print_overview(void)
{
    printf("usage: kvlane COMMAND [OPTIONS] [ARGUMENTS]\n\n"
           "Share KV-cache chunks between inference engines.\n\ncommands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (commands[i].about != NULL) {
            printf("  %-10s %s\n", commands[i].word, commands[i].about);
        }
    }
    printf("\n'kvlane COMMAND --help' tells more; 'kvlane --version' names both builds.\n\n"
           "exit codes:\n"
           "  0  ok\n"
           "  1  a negative answer: a key is missing, a location is not healthy, bytes differ\n"
           "  2  wrong use of the command line\n"
           "  3  bad configuration, module or input file\n"
           "  4  a peer or a backend failed\n"
           "  5  the operating system failed, or kvlane itself\n");
    return CLI_OK;
}

static int print_version(void)
{
    static const struct cli_common none;
    struct engine engine;
    int r;

    printf("kvlane %s (%s)\n", KVL_CLI_VERSION, KVL_BUILD_ID);
    r = engine_load(&engine, &none);
    if (r == CLI_OK) {
        printf("libkvlane.so %s (%s), engine ABI %u.%u\n", engine.ops.version, engine.ops.build_id,
               engine.ops.abi_major, engine.ops.abi_minor);
    }
    engine_close(&engine, 0);
    return r;
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "--help";

    /* A reader that goes away must end a write with EPIPE, not the process. */
    (void)signal(SIGPIPE, SIG_IGN);
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        (void)print_overview();
        return argc > 1 ? CLI_OK : CLI_USAGE;
    }
    if (strcmp(word, "--version") == 0) {
        return print_version();
    }
    for (size_t i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(word, commands[i].word) == 0) {
            int r = commands[i].run(argc - 1, argv + 1);

            if (fflush(stdout) != 0 && r == CLI_OK) {
                cli_error("cannot write to stdout");
                r = CLI_OS;
            }
            return r;
        }
    }
    cli_error("unknown command '%s'; see: kvlane --help", word);
    return CLI_USAGE;
}
