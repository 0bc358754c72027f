/* SPDX-License-Identifier: Apache-2.0 */
/* INI text from anywhere: sections, keys, values against option tables, overrides. */
#include <stdlib.h>
#include <string.h>

#include "config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct kvl_option options[] = {
    {.name = "flag", .type = KVL_OPTION_BOOL, .value = "no"},
    {.name = "count", .type = KVL_OPTION_INT, .value = "3", .min = 1, .max = 9},
    {.name = "bytes", .type = KVL_OPTION_SIZE, .value = "1M"},
    {.name = "wait", .type = KVL_OPTION_DURATION, .value = "1s"},
    {.name = "role", .type = KVL_OPTION_ENUM, .value = "a", .choices = "a|bb|ccc"},
    {.name = "path", .type = KVL_OPTION_PATH},
    {.name = "pass", .type = KVL_OPTION_SECRET, .flags = KVL_OPTION_REQUIRED, .help = "h"},
};

static void apply_all(struct kvl_config *config)
{
    for (size_t i = 0; i < config->section_count; i++) {
        struct kvl_settings settings = {.options = options, .option_count = 7};

        if (kvl_config_apply(config, &config->sections[i], &settings, 1) == 0) {
            const struct kvl_setting *count = kvl_settings_get(&settings, "count");

            if (count->number < 1 || count->number > 9) {
                abort();
            }
        }
        kvl_settings_fini(&settings);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    const char *overrides[1] = {text};
    struct kvl_open_params params = {
        .size = sizeof(params),
        .config_text = text,
        .overrides = overrides,
        .override_count = size < 200,
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_config config;

    if (text == NULL) {
        return 0;
    }
    memcpy(text, data, size);
    text[size] = '\0';
    if (kvl_config_init(&config, &params, &err) == 0) {
        apply_all(&config);
    }
    kvl_config_fini(&config);
    free(text);
    return 0;
}
