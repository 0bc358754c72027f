/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ini.h>

#include "option.h"

/* Reads ahead of inih: it cuts long lines and names without a word, tells no line numbers to its
 * handler, and shows no section that has no keys. */
struct reader {
    struct kvl_config *config;
    const char *at; /* rest of the text */
    const char *end;
    uint32_t line;
    size_t section; /* current one; SIZE_MAX before the first and in a refused one */
    int skip; /* in a section that was refused: its keys would only add noise */
    int oom;
};

int kvl_err_set(struct kvl_err *err, int code, int os_errno, const char *fmt, ...)
{
    va_list args;

    if (err != NULL && err->size >= offsetof(struct kvl_err, text) + 1) {
        err->code = code;
        err->os_errno = os_errno;
        err->backend_code = 0;
        err->retryable = code == -EAGAIN || code == -ETIMEDOUT || code == -ENOTCONN;
        va_start(args, fmt);
        vsnprintf(err->text, err->size - offsetof(struct kvl_err, text), fmt, args);
        va_end(args);
    }
    return code;
}

void kvl_config_error(struct kvl_config *config, uint32_t line, const char *fmt, ...)
{
    char text[KVL_LOG_LINE];
    size_t used = 0;
    size_t length;
    char *errors;
    va_list args;

    if (line > 0) {
        used = (size_t)snprintf(text, sizeof(text), "%s:%u: ", config->source, line);
    } else {
        used = (size_t)snprintf(text, sizeof(text), "%s: ", config->source);
    }
    used = used < sizeof(text) ? used : sizeof(text) - 1;
    va_start(args, fmt);
    vsnprintf(text + used, sizeof(text) - used, fmt, args);
    va_end(args);

    config->error_count++;
    length = strlen(text);
    errors = realloc(config->errors, config->errors_length + length + 2);
    if (errors == NULL) {
        return; /* still counted, so open() fails */
    }
    memcpy(errors + config->errors_length, text, length);
    errors[config->errors_length + length] = '\n';
    errors[config->errors_length + length + 1] = '\0';
    config->errors = errors;
    config->errors_length += length + 1;
}

const struct kvl_config_section *kvl_config_find(const struct kvl_config *config, const char *name)
{
    for (size_t i = 0; i < config->section_count; i++) {
        if (strcmp(config->sections[i].name, name) == 0) {
            return &config->sections[i];
        }
    }
    return NULL;
}

/* `word` or `word:label`: it becomes part of a file name. */
static int section_name_ok(const char *name)
{
    size_t length = strlen(name);

    if (length == 0 || length > KVL_CONFIG_NAME_MAX || name[0] == ':') {
        return 0;
    }
    return strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-:") ==
               length &&
           (strchr(name, ':') == NULL ||
            (strchr(name, ':') == strrchr(name, ':') && name[length - 1] != ':'));
}

static int add_section(struct kvl_config *config, const char *name, uint32_t line)
{
    struct kvl_config_section *sections;
    char *copy = strdup(name);

    sections = realloc(config->sections, (config->section_count + 1) * sizeof(*sections));
    if (sections != NULL) {
        config->sections = sections;
    }
    if (copy == NULL || sections == NULL) {
        free(copy);
        return -ENOMEM;
    }
    sections[config->section_count++] = (struct kvl_config_section){.name = copy, .line = line};
    return 0;
}

static int set_key(struct kvl_config_section *section, const char *name, const char *value,
                   uint32_t line)
{
    struct kvl_config_key *keys;
    char *name_copy;
    char *value_copy = strdup(value);

    if (value_copy == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < section->key_count; i++) {
        if (strcmp(section->keys[i].name, name) == 0) {
            free(section->keys[i].value);
            section->keys[i].value = value_copy;
            section->keys[i].line = line;
            return 0;
        }
    }
    keys = realloc(section->keys, (section->key_count + 1) * sizeof(*keys));
    if (keys != NULL) {
        section->keys = keys;
    }
    name_copy = strdup(name);
    if (keys == NULL || name_copy == NULL) {
        free(name_copy);
        free(value_copy);
        return -ENOMEM;
    }
    keys[section->key_count++] =
        (struct kvl_config_key){.name = name_copy, .value = value_copy, .line = line};
    return 0;
}

/* A section header, seen before inih sees it. */
static void read_section(struct reader *reader, const char *line)
{
    struct kvl_config *config = reader->config;
    const struct kvl_config_section *old;
    const char *close = strchr(line, ']');
    char name[KVL_CONFIG_NAME_MAX + 2];
    size_t length;

    reader->skip = 1;
    reader->section = SIZE_MAX;
    if (close == NULL) {
        kvl_config_error(config, reader->line, "section header '%.40s' has no ']'", line);
        return;
    }
    length = (size_t)(close - line - 1);
    snprintf(name, sizeof(name), "%.*s", (int)(length < sizeof(name) ? length : sizeof(name) - 1),
             line + 1);
    if (!section_name_ok(name)) {
        kvl_config_error(config, reader->line,
                         "section name '%s' is not 'word' or 'word:label' of at most %u letters, "
                         "digits, '_' and '-'",
                         name, KVL_CONFIG_NAME_MAX);
        return;
    }
    old = kvl_config_find(config, name);
    if (old != NULL) {
        kvl_config_error(config, reader->line,
                         "section [%s] stands already at line %u; a second instance of a backend "
                         "is [%.*s:label]",
                         name, old->line, (int)strcspn(name, ":"), name);
        return;
    }
    if (add_section(config, name, reader->line) < 0) {
        reader->oom = 1;
        return;
    }
    reader->section = config->section_count - 1;
    reader->skip = 0;
}

/* Looks at one line before inih gets it. Returns 0 when inih is not to see it. */
static int accept_line(struct reader *reader, const char *line)
{
    size_t blank = strspn(line, " \t\r");

    line += blank;
    if (*line == '\0' || *line == ';' || *line == '#') {
        return 0;
    }
    if (*line == '[') {
        read_section(reader, line);
        return 0;
    }
    if (strpbrk(line, "=:") == NULL) {
        kvl_config_error(reader->config, reader->line, "'%.60s' is not 'key = value'", line);
        return 0;
    }
    if (reader->section == SIZE_MAX && !reader->skip) {
        kvl_config_error(reader->config, reader->line, "'%.60s' stands before the first [section]",
                         line);
        return 0;
    }
    return !reader->skip;
}

/* inih's line source: gives it exactly one line per call, or an empty one. */
static char *read_line(char *out, int size, void *stream)
{
    struct reader *reader = stream;
    const char *eol;
    size_t length;

    if (reader->at >= reader->end || reader->oom) {
        return NULL;
    }
    eol = memchr(reader->at, '\n', (size_t)(reader->end - reader->at));
    eol = eol != NULL ? eol : reader->end;
    length = (size_t)(eol - reader->at);
    reader->line++;
    out[0] = '\0';
    if (length > KVL_CONFIG_LINE_MAX || length + 2 > (size_t)size) {
        kvl_config_error(reader->config, reader->line,
                         "line has %zu bytes, the longest that is read has %u", length,
                         KVL_CONFIG_LINE_MAX);
    } else if (memchr(reader->at, '\0', length) != NULL) {
        kvl_config_error(reader->config, reader->line, "line holds a zero byte; is it text?");
    } else {
        memcpy(out, reader->at, length);
        out[length] = '\0';
        if (!accept_line(reader, out)) {
            out[0] = '\0';
        }
    }
    reader->at = eol + 1;
    return out;
}

static int handle_key(void *user, const char *section, const char *name, const char *value)
{
    struct reader *reader = user;
    struct kvl_config_section *into;

    (void)section; /* ours is the one that read_section found */
    if (reader->section == SIZE_MAX) {
        return 1;
    }
    into = &reader->config->sections[reader->section];
    if (strlen(name) > KVL_CONFIG_NAME_MAX || *name == '\0') {
        kvl_config_error(reader->config, reader->line, "[%s] key '%.48s' is empty or too long",
                         into->name, name);
        return 1;
    }
    for (size_t i = 0; i < into->key_count; i++) {
        if (strcmp(into->keys[i].name, name) == 0) {
            kvl_config_error(reader->config, reader->line,
                             "[%s] %s: the key stands already at line %u", into->name, name,
                             into->keys[i].line);
            return 1;
        }
    }
    if (set_key(into, name, value, reader->line) < 0) {
        reader->oom = 1;
    }
    return 1;
}

static int parse_text(struct kvl_config *config, const char *text, size_t length)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct reader reader = {
        .config = config,
        .at = text,
        .end = text + length,
        .section = SIZE_MAX,
    };
    int r;

    if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        reader.at += 3;
    }
    /* These are variables of the copy of inih that is linked into this object, nobody else's. */
    pthread_mutex_lock(&lock);
    ini_max_line = (int)KVL_CONFIG_LINE_MAX + 3;
    ini_allow_multiline = false;
    ini_use_stack = true;
    r = ini_parse_stream(read_line, &reader, handle_key, &reader);
    pthread_mutex_unlock(&lock);
    if (r == -2 || reader.oom) {
        return -ENOMEM;
    }
    return 0;
}

static int read_file(const char *path, char **text_out, size_t *length_out, struct kvl_err *err)
{
    struct stat st;
    char *text;
    size_t used = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || fstat(fd, &st) < 0) {
        int e = errno;

        if (fd >= 0) {
            close(fd);
        }
        return kvl_err_set(err, -e, e, "config: cannot read '%s': %s", path, strerror(e));
    }
    if (!S_ISREG(st.st_mode) || st.st_size > KVL_CONFIG_FILE_MAX) {
        const int code = S_ISREG(st.st_mode) ? -EFBIG : S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;

        close(fd);
        return kvl_err_set(err, code, 0, "config: '%s' is not a regular file of at most %u bytes",
                           path, KVL_CONFIG_FILE_MAX);
    }
    text = malloc(KVL_CONFIG_FILE_MAX + 1);
    while (text != NULL && used <= KVL_CONFIG_FILE_MAX) {
        ssize_t n = read(fd, text + used, KVL_CONFIG_FILE_MAX + 1 - used);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            int e = errno;

            free(text);
            close(fd);
            return kvl_err_set(err, -e, e, "config: cannot read '%s': %s", path, strerror(e));
        }
        if (n == 0) {
            break;
        }
        used += (size_t)n;
    }
    close(fd);
    if (text == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "config: no memory for '%s'", path);
    }
    *text_out = text;
    *length_out = used;
    return 0;
}

/* "section.key=value" */
static int apply_override(struct kvl_config *config, const char *text)
{
    const char *equals = strchr(text, '=');
    const char *dot = strchr(text, '.');
    char section[KVL_CONFIG_NAME_MAX + 2];
    char key[KVL_CONFIG_NAME_MAX + 2];

    if (equals == NULL || dot == NULL || dot > equals || dot == text || dot + 1 == equals ||
        (size_t)(dot - text) > KVL_CONFIG_NAME_MAX ||
        (size_t)(equals - dot - 1) > KVL_CONFIG_NAME_MAX) {
        kvl_config_error(config, 0, "override '%.80s' is not 'section.key=value'", text);
        return 0;
    }
    snprintf(section, sizeof(section), "%.*s", (int)(dot - text), text);
    snprintf(key, sizeof(key), "%.*s", (int)(equals - dot - 1), dot + 1);
    if (!section_name_ok(section)) {
        kvl_config_error(config, 0, "override '%.80s': '%s' is no section name", text, section);
        return 0;
    }
    if (kvl_config_find(config, section) == NULL && add_section(config, section, 0) < 0) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < config->section_count; i++) {
        if (strcmp(config->sections[i].name, section) == 0) {
            return set_key(&config->sections[i], key, equals + 1, 0);
        }
    }
    return 0;
}

static int load_source(struct kvl_config *config, const char *path, const char *text,
                       struct kvl_err *err)
{
    char *file = NULL;
    size_t length = 0;
    int r;

    config->source = strdup(text != NULL ? "config_text" : path);
    if (config->source == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "config: no memory");
    }
    if (text != NULL) {
        r = parse_text(config, text, strlen(text));
    } else {
        r = read_file(path, &file, &length, err);
        if (r < 0) {
            return r;
        }
        r = parse_text(config, file, length);
        free(file);
    }
    return r < 0 ? kvl_err_set(err, r, 0, "config: no memory") : 0;
}

int kvl_config_init(struct kvl_config *config, const struct kvl_open_params *params,
                    struct kvl_err *err)
{
    const char *path = params->config_path;
    int r;

    *config = (struct kvl_config){0};
    if (path != NULL && params->config_text != NULL) {
        return kvl_err_set(err, -EINVAL, 0, "config: config_path and config_text are both given");
    }
    if (path == NULL && params->config_text == NULL) {
        path = secure_getenv(KVL_CONFIG_ENV);
        if (path == NULL || *path == '\0') {
            return kvl_err_set(err, -EINVAL, 0,
                               "config: no INI file: pass config_path or config_text, or set %s",
                               KVL_CONFIG_ENV);
        }
    }
    r = load_source(config, path, params->config_text, err);
    for (uint32_t i = 0; r == 0 && i < params->override_count; i++) {
        r = apply_override(config, params->overrides[i]);
        if (r < 0) {
            kvl_err_set(err, r, 0, "config: no memory");
        }
    }
    return r;
}

void kvl_config_fini(struct kvl_config *config)
{
    for (size_t i = 0; i < config->section_count; i++) {
        struct kvl_config_section *section = &config->sections[i];

        for (size_t k = 0; k < section->key_count; k++) {
            free(section->keys[k].name);
            free(section->keys[k].value);
        }
        free(section->keys);
        free(section->name);
    }
    free(config->sections);
    free(config->source);
    free(config->errors);
    *config = (struct kvl_config){0};
}

static const char *nearest_option(const struct kvl_settings *settings, size_t settings_count,
                                  const char *name)
{
    const char *best = NULL;

    for (size_t s = 0; s < settings_count; s++) {
        for (uint32_t i = 0; i < settings[s].option_count; i++) {
            const char *pair[2] = {settings[s].options[i].name, best};
            const char *near = kvl_name_nearest(name, pair, best != NULL ? 2 : 1);

            best = near != NULL ? near : best;
        }
    }
    return best;
}

static int store_value(struct kvl_setting *value, int64_t number, const char *text, int is_set)
{
    char *copy = strdup(text);

    if (copy == NULL) {
        return -ENOMEM;
    }
    free((void *)(uintptr_t)value->text);
    *value = (struct kvl_setting){.number = number, .text = copy, .is_set = (uint32_t)is_set};
    return 0;
}

static int apply_defaults(struct kvl_settings *settings)
{
    settings->values = calloc(settings->option_count + 1, sizeof(*settings->values));
    if (settings->values == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < settings->option_count; i++) {
        const struct kvl_option *option = &settings->options[i];
        const char *text = option->value != NULL ? option->value : "";
        int64_t number = 0;
        char why[200];

        if (*text != '\0' && kvl_option_parse(option, text, &number, why, sizeof(why)) < 0) {
            return -ELIBBAD; /* the module's own table is wrong */
        }
        if (store_value(&settings->values[i], number, text, 0) < 0) {
            return -ENOMEM;
        }
    }
    return 0;
}

/* A slip in a name must not print what was meant to be a secret. */
static int has_secret(const struct kvl_settings *settings, size_t settings_count)
{
    for (size_t s = 0; s < settings_count; s++) {
        for (uint32_t i = 0; i < settings[s].option_count; i++) {
            if (settings[s].options[i].type == KVL_OPTION_SECRET) {
                return 1;
            }
        }
    }
    return 0;
}

static int apply_key(struct kvl_config *config, const struct kvl_config_section *section,
                     const struct kvl_config_key *key, struct kvl_settings *settings,
                     size_t settings_count)
{
    const char *near;
    char why[200];
    int64_t number;

    for (size_t s = 0; s < settings_count; s++) {
        int i = kvl_option_find(settings[s].options, settings[s].option_count, key->name);

        if (i < 0) {
            continue;
        }
        if (kvl_option_parse(&settings[s].options[i], key->value, &number, why, sizeof(why)) < 0) {
            const int secret = settings[s].options[i].type == KVL_OPTION_SECRET;

            kvl_config_error(config, key->line, "[%s] %s = %.100s: expected %s", section->name,
                             key->name, secret ? "(secret)" : key->value, why);
            return 0;
        }
        return store_value(&settings[s].values[i], number, key->value, 1);
    }
    near = nearest_option(settings, settings_count, key->name);
    kvl_config_error(config, key->line, "[%s] %s = %.100s: unknown key%s%s%s", section->name,
                     key->name, has_secret(settings, settings_count) ? "(not shown)" : key->value,
                     near != NULL ? "; did you mean '" : "", near != NULL ? near : "",
                     near != NULL ? "'?" : "");
    return 0;
}

int kvl_config_apply(struct kvl_config *config, const struct kvl_config_section *section,
                     struct kvl_settings *settings, size_t settings_count)
{
    int r = 0;

    for (size_t s = 0; r == 0 && s < settings_count; s++) {
        r = apply_defaults(&settings[s]);
    }
    for (size_t k = 0; r == 0 && section != NULL && k < section->key_count; k++) {
        r = apply_key(config, section, &section->keys[k], settings, settings_count);
    }
    for (size_t s = 0; r == 0 && section != NULL && s < settings_count; s++) {
        for (uint32_t i = 0; i < settings[s].option_count; i++) {
            if ((settings[s].options[i].flags & KVL_OPTION_REQUIRED) != 0 &&
                !settings[s].values[i].is_set) {
                kvl_config_error(config, section->line, "[%s] %s: the key is required (%s)",
                                 section->name, settings[s].options[i].name,
                                 settings[s].options[i].help);
            }
        }
    }
    return r;
}

const struct kvl_setting *kvl_settings_get(const struct kvl_settings *settings, const char *name)
{
    int i = kvl_option_find(settings->options, settings->option_count, name);

    return i < 0 ? NULL : &settings->values[i];
}

void kvl_settings_fini(struct kvl_settings *settings)
{
    for (uint32_t i = 0; settings->values != NULL && i < settings->option_count; i++) {
        free((void *)(uintptr_t)settings->values[i].text);
    }
    free(settings->values);
    settings->values = NULL;
}
