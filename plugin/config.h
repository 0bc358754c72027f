/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file config.h
 * The INI file: text -> sections and keys with their lines -> typed settings. All errors of a file
 * are collected before anybody stops.
 */
#ifndef KVL_PLUGIN_CONFIG_H
#define KVL_PLUGIN_CONFIG_H

#include <kvlane/backend.h>
#include <kvlane/plugin.h>

/** Longest line of an INI file, in bytes without its end. */
#define KVL_CONFIG_LINE_MAX 4096u
/** Largest INI file. */
#define KVL_CONFIG_FILE_MAX (1u << 20)
/** Longest section or key name. */
#define KVL_CONFIG_NAME_MAX 31u

struct kvl_config_key {
    char *name; /* owned */
    char *value; /* owned */
    uint32_t line; /* 0 = from an override */
};

struct kvl_config_section {
    char *name; /* owned; `word` or `word:label` */
    uint32_t line;
    struct kvl_config_key *keys; /* owned */
    size_t key_count;
};

struct kvl_config {
    char *source; /* owned; file name, or "config_text" */
    struct kvl_config_section *sections; /* owned, in file order */
    size_t section_count;
    char *errors; /* owned; one per line */
    size_t error_count;
    size_t errors_length;
};

/** Settings of one section: one entry per option of its table. */
struct kvl_settings {
    const struct kvl_option *options; /* borrowed */
    uint32_t option_count;
    struct kvl_setting *values; /* owned; texts too */
};

/**
 * Reads file or text and overrides as `params` say. Syntax errors are in `config->errors`; the call
 * fails only when there is nothing to read.
 * @return 0; -EINVAL no source given; -ENOENT, -EACCES, -EISDIR, -EFBIG, -ENOMEM. The config is
 *         valid to fini in every case.
 */
int kvl_config_init(struct kvl_config *config, const struct kvl_open_params *params,
                    struct kvl_err *err);
void kvl_config_fini(struct kvl_config *config);

/** Section by name, or NULL. */
const struct kvl_config_section *kvl_config_find(const struct kvl_config *config, const char *name);

/** Adds an error. `line` 0 leaves the position out. */
void kvl_config_error(struct kvl_config *config, uint32_t line, const char *fmt, ...)
    KVL_PRINTF(3, 4);

/**
 * Checks the keys of a section (NULL = absent) against option tables and fills `settings` of each
 * with values and defaults. Unknown keys, bad values and missing required ones become errors.
 */
int kvl_config_apply(struct kvl_config *config, const struct kvl_config_section *section,
                     struct kvl_settings *settings, size_t settings_count);

/** The value of an option. @return NULL when the table has no such name. */
const struct kvl_setting *kvl_settings_get(const struct kvl_settings *settings, const char *name);

void kvl_settings_fini(struct kvl_settings *settings);

/** Fills an error record of the caller: code and one sentence. Takes NULL. @return code. */
int kvl_err_set(struct kvl_err *err, int code, int os_errno, const char *fmt, ...) KVL_PRINTF(4, 5);

#endif /* KVL_PLUGIN_CONFIG_H */
