/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <stdio.h>

#include "engine.h"

/* "check FILE" reads better than "check --config FILE"; both work. */
int cmd_check(int argc, char **argv)
{
    struct cli_common common = {0};
    const struct cli_usage usage = {
        .command = "check",
        .args = "[FILE]",
        .about = "Checks an INI file, with the options of the backends it names. Every error is "
                 "told with its\nline; nothing is started.",
        .common = &common,
        .max_args = 1,
    };
    struct engine engine;
    struct engine_setup setup = {.common = &common};
    int count;
    int r = cli_parse(&usage, argc, argv, &count);

    if (r != CLI_GO) {
        return r;
    }
    if (count == 1 && common.config != NULL) {
        cli_error("check: name the file once, as argument or with --config");
        return CLI_USAGE;
    }
    if (count == 1) {
        common.config = argv[0];
    }
    r = engine_load(&engine, &common);
    if (r == CLI_OK) {
        r = engine_check(&engine, &setup);
    }
    if (r == CLI_OK) {
        printf("ok: %s\n", common.config != NULL ? common.config : "the file KVLANE_CONFIG names");
    }
    (void)engine_close(&engine, 0);
    return r;
}
