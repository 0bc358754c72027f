/* SPDX-License-Identifier: Apache-2.0 */
#include "engine.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util.h"

static const char *const level_words[] = {"off", "error", "warn", "info", "debug", "trace"};

static int32_t level_number(const char *word)
{
    for (int32_t i = 0; i <= KVL_LOG_TRACE; i++) {
        if (strcmp(word, level_words[i]) == 0) {
            return i;
        }
    }
    return KVL_LOG_TRACE;
}

static void engine_log(void *ctx, int32_t level, const char *component, const char *file,
                       int32_t line, const char *text)
{
    struct engine *engine = ctx;

    (void)file;
    (void)line;
    if (level > engine->log_level || level < KVL_LOG_ERROR || level > KVL_LOG_TRACE) {
        return;
    }
    if (level == KVL_LOG_ERROR) {
        atomic_fetch_add(&engine->errors_shown, 1);
    }
    /* One call, so that lines of several threads do not mix. Most texts name their component. */
    if (strncmp(text, component, strlen(component)) == 0 && text[strlen(component)] == ':') {
        fprintf(stderr, "%s %s\n", level_words[level], text);
    } else {
        fprintf(stderr, "%s %s: %s\n", level_words[level], component, text);
    }
}

/* ---- the shared object ---- */

/* Where a plugin may lie, seen from the folder of this executable: build tree, then installed. */
static const char *const places[] = {"../libkvlane.so", "../" KVL_CLI_LIBDIR "/libkvlane.so",
                                     "../lib/libkvlane.so"};

static int plugin_find(char *path_out, size_t size)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (n <= 0) {
        cli_error("cannot read /proc/self/exe: %s", strerror(errno));
        return CLI_OS;
    }
    self[n] = '\0';
    slash = strrchr(self, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        int length = snprintf(path_out, size, "%s/%s", self, places[i]);

        if (length > 0 && (size_t)length < size && access(path_out, R_OK) == 0) {
            return CLI_OK;
        }
    }
    cli_error("cannot find libkvlane.so near '%s'; name it with --plugin", self);
    return CLI_INPUT;
}

/* The table of a plugin may be shorter or longer than ours: copy what both know. */
static int table_take(struct engine *engine, const struct kvl_plugin *table, const char *path)
{
    const size_t needed = offsetof(struct kvl_plugin, stats) + sizeof(table->stats);

    if (table == NULL || table->magic != KVL_PLUGIN_MAGIC) {
        cli_error("'%s' is not a kvlane plugin", path);
        return CLI_INPUT;
    }
    if (table->abi_major != KVL_PLUGIN_ABI_MAJOR || table->size < needed) {
        cli_error("'%s' offers engine ABI %u.%u in %u bytes, kvlane was built for %u.%u", path,
                  table->abi_major, table->abi_minor, table->size, KVL_PLUGIN_ABI_MAJOR,
                  KVL_PLUGIN_ABI_MINOR);
        return CLI_INPUT;
    }
    memset(&engine->ops, 0, sizeof(engine->ops));
    memcpy(&engine->ops, table,
           table->size < sizeof(engine->ops) ? table->size : sizeof(engine->ops));
    return CLI_OK;
}

int engine_load(struct engine *engine, const struct cli_common *common)
{
    char path[PATH_MAX];
    kvl_plugin_entry_fn entry;
    void *symbol;
    int r;

    memset(engine, 0, sizeof(*engine));
    engine->timeout_ms = common->timeout_ms;
    engine->log_level = common->log != NULL ? level_number(common->log) : KVL_LOG_TRACE;
    if (common->plugin != NULL) {
        (void)snprintf(path, sizeof(path), "%s", common->plugin);
    } else {
        r = plugin_find(path, sizeof(path));
        if (r != CLI_OK) {
            return r;
        }
    }
    engine->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (engine->dl == NULL) {
        cli_error("cannot load the plugin: %s", dlerror());
        return CLI_INPUT;
    }
    symbol = dlsym(engine->dl, KVL_PLUGIN_ENTRY);
    if (symbol == NULL) {
        cli_error("'%s' has no symbol '%s': not a kvlane plugin", path, KVL_PLUGIN_ENTRY);
        return CLI_INPUT;
    }
    memcpy(&entry, &symbol, sizeof(entry)); /* ISO C has no cast from object to function pointer */
    return table_take(engine, entry(), path);
}

/* ---- an instance ---- */

static int code_to_exit(int r)
{
    switch (r) {
    case 0:
        return CLI_OK;
    case -EINVAL:
    case -ENOENT:
    case -EACCES:
    case -EPERM:
    case -EISDIR:
    case -ENOTDIR:
    case -ELIBACC:
    case -ELIBBAD:
    case -ENODEV:
    case -EMSGSIZE:
    case -E2BIG:
    case -EFBIG:
    case -ELOOP:
    case -ENAMETOOLONG:
        return CLI_INPUT;
    case -ENOMEM:
    case -EAGAIN:
    case -EMFILE:
    case -ENFILE:
        return CLI_OS;
    default:
        return CLI_PEER;
    }
}

int engine_failed(const char *what, int r)
{
    cli_error("%s: %s", what, strerror(-r));
    return r == -EINVAL || r == -ENOMEM || r == -ECHILD ? CLI_OS : CLI_PEER;
}

/* The causes were logged already, unless the user turned that off. */
static void err_show(struct engine *engine, const char *what, int r, struct kvl_err *err)
{
    size_t length = strnlen(err->text, sizeof(err->text));

    if (atomic_load(&engine->errors_shown) != 0) {
        cli_error("%s: refused, for what is told above", what);
        return;
    }
    while (length > 0 && err->text[length - 1] == '\n') {
        length--;
    }
    if (length > 0) {
        cli_error("%s: %.*s", what, (int)length, err->text);
    } else {
        cli_error("%s: %s", what, strerror(-r));
    }
}

enum call { CALL_CHECK, CALL_OPEN, CALL_RELOAD };

static int call_do(struct engine *engine, enum call call, const struct kvl_open_params *params,
                   struct kvl_err *err)
{
    uint32_t restart = 0;
    int r;

    switch (call) {
    case CALL_CHECK:
        return engine->ops.check(params, err);
    case CALL_OPEN:
        return engine->ops.open(params, &engine->instance, err);
    default:
        r = engine->ops.reload(engine->instance, params, &restart, err);
        engine->restart = restart;
        return r;
    }
}

/* Calls one of them with all overrides in one array. */
static int call_open(struct engine *engine, const struct engine_setup *setup, enum call call)
{
    static const char *const words[] = {"check", "open", "reload"};
    const struct cli_common *common = setup->common;
    uint32_t room = setup->extra_count + common->set_count + 1;
    const char **overrides = calloc(room, sizeof(*overrides));
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_open_params params = {.size = sizeof(params)};
    char level[64];
    uint32_t count = 0;
    int r;

    if (overrides == NULL) {
        cli_error("no memory");
        return CLI_OS;
    }
    for (uint32_t i = 0; i < setup->extra_count; i++) {
        overrides[count++] = setup->extra[i];
    }
    for (uint32_t i = 0; i < common->set_count; i++) {
        overrides[count++] = common->sets[i];
    }
    if (common->log != NULL) {
        (void)snprintf(level, sizeof(level), "kvlane.log_level=%s", common->log);
        overrides[count++] = level;
    }
    params.config_text = setup->config_text;
    params.config_path = setup->config_text == NULL ? common->config : NULL;
    params.overrides = overrides;
    params.override_count = count;
    params.log = engine_log;
    params.log_ctx = engine;
    params.arena = setup->arena;
    params.arena_bytes = setup->arena_bytes;
    if (setup->arena_fd > 0) {
        params.flags |= KVL_OPEN_ARENA_FD;
        params.arena_fd = setup->arena_fd;
    }
    r = call_do(engine, call, &params, &err);
    free(overrides);
    if (r < 0) {
        err_show(engine, words[call], r, &err);
    }
    return code_to_exit(r);
}

int engine_check(struct engine *engine, const struct engine_setup *setup)
{
    return call_open(engine, setup, CALL_CHECK);
}

int engine_open(struct engine *engine, const struct engine_setup *setup)
{
    int r = engine_load(engine, setup->common);

    if (r == CLI_OK) {
        r = call_open(engine, setup, CALL_OPEN);
    }
    return r;
}

int engine_start(struct engine *engine)
{
    struct kvl_err err = {.size = sizeof(err)};
    int r = engine->ops.start(engine->instance, &err);

    if (r < 0) {
        err_show(engine, "start", r, &err);
        return r == -ENOMEM ? CLI_OS : CLI_PEER;
    }
    return CLI_OK;
}

int engine_reload(struct engine *engine, const struct engine_setup *setup)
{
    if (engine->ops.reload == NULL) {
        cli_error("reload: this plugin cannot");
        return CLI_INPUT;
    }
    atomic_store(&engine->errors_shown, 0);
    return call_open(engine, setup, CALL_RELOAD);
}

int engine_close(struct engine *engine, uint64_t drain_ms)
{
    int r = 0;

    if (engine->instance != NULL) {
        r = engine->ops.close(engine->instance, util_now_ms() + drain_ms);
        engine->instance = NULL;
        if (r < 0) {
            cli_error("close: %s",
                      r == -ETIMEDOUT ? "work was cut off at the deadline" : strerror(-r));
        }
    }
    /* After -EBUSY memory of the plugin is still in use: leave its code where it is. */
    if (engine->dl != NULL && r == 0) {
        (void)dlclose(engine->dl);
    }
    engine->dl = NULL;
    return r == 0 ? CLI_OK : CLI_PEER;
}

uint64_t engine_deadline(const struct engine *engine)
{
    return engine->timeout_ms == 0 ? 0 : util_now_ms() + engine->timeout_ms;
}

struct kvl_batch engine_batch(const struct engine *engine, const struct kvl_chunk *chunks,
                              uint32_t count)
{
    struct kvl_batch batch = {
        .size = sizeof(batch),
        .count = count,
        .deadline_ms = engine_deadline(engine),
        .chunks = chunks,
    };

    return batch;
}

void engine_location_name(const struct engine *engine, uint32_t location, char *name_out,
                          size_t size)
{
    struct kvl_health health = {.size = sizeof(health)};

    if (location == KVL_LOCATION_NONE) {
        (void)snprintf(name_out, size, "none");
    } else if (location == KVL_LOCATION_LOCAL) {
        (void)snprintf(name_out, size, "local");
    } else if (engine->ops.health(engine->instance, location, &health) == 0) {
        (void)snprintf(name_out, size, "%.*s", (int)sizeof(health.name), health.name);
    } else {
        (void)snprintf(name_out, size, "location-%u", location);
    }
}

void engine_location_address(const struct engine *engine, const char *name, char *address_out,
                             size_t size)
{
    struct kvl_health health = {.size = sizeof(health)};

    *address_out = '\0';
    for (uint32_t at = KVL_LOCATION_BACKEND; engine->ops.health(engine->instance, at, &health) == 0;
         at++) {
        if (strcmp(health.name, name) == 0) {
            (void)snprintf(address_out, size, "%.*s", (int)sizeof(health.address), health.address);
            return;
        }
    }
}
