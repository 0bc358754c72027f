/* SPDX-License-Identifier: Apache-2.0 */
#include "plan.h"

#include <errno.h>
#include <stdlib.h>

#include "option.h"
#include "quota.h"

static const struct kvl_option kvlane_options[] = {
    {.name = "module_path",
     .type = KVL_OPTION_PATH,
     .help = "folder of the kvl-<backend>.so files"},
    {.name = "log_level",
     .type = KVL_OPTION_ENUM,
     .value = "info",
     .choices = "off|error|warn|info|debug|trace",
     .flags = KVL_OPTION_RELOADABLE,
     .help = "lines above it are dropped"},
    {.name = "deadline",
     .type = KVL_OPTION_DURATION,
     .value = "10s",
     .min = 1,
     .max = 3600000,
     .flags = KVL_OPTION_RELOADABLE,
     .help = "for operations that name none"},
    {.name = "instance", .type = KVL_OPTION_STRING, .help = "name of this engine, for people"},
    {.name = "stats_socket",
     .type = KVL_OPTION_PATH,
     .help = "Unix socket that answers with counters and health"},
};

static const struct kvl_option store_options[] = {
    {.name = "max_bytes",
     .type = KVL_OPTION_SIZE,
     .value = "1GiB",
     .min = 65536,
     .max = 256ll << 30,
     .help = "memory for chunks, keys and records"},
    {.name = "max_chunks",
     .type = KVL_OPTION_INT,
     .value = "0",
     .min = 0,
     .max = 1ll << 28,
     .flags = KVL_OPTION_RELOADABLE,
     .help = "most chunks; 0 = as many as fit"},
    {.name = "eviction",
     .type = KVL_OPTION_ENUM,
     .value = "lru",
     .choices = "lru|s3fifo",
     .help = "who goes first when room is needed"},
    {.name = "quota",
     .type = KVL_OPTION_SIZE,
     .value = "0",
     .min = 0,
     .max = 256ll << 30,
     .help = "most bytes of one namespace (what stands before the first '@' of a key); 0 = all"},
    {.name = "quotas",
     .type = KVL_OPTION_STRING,
     .help = "most bytes of some namespaces: name=size, name=size"},
    {.name = "checksum",
     .type = KVL_OPTION_BOOL,
     .value = "yes",
     .help = "hash chunks when they come in, check them when they go out"},
};

static const struct kvl_option registry_options[] = {
    {.name = "memory",
     .type = KVL_OPTION_SIZE,
     .value = "8GiB",
     .min = 0,
     .max = 1ll << 50,
     .help = "for who holds which chunk; 0 = no bound"},
    {.name = "sync_timeout",
     .type = KVL_OPTION_DURATION,
     .value = "300s",
     .min = 1,
     .max = 86400000,
     .flags = KVL_OPTION_RELOADABLE,
     .help = "a full sync that is quiet for longer has failed"},
    {.name = "sync_threshold",
     .type = KVL_OPTION_INT,
     .value = "80",
     .min = 1,
     .max = 100,
     .flags = KVL_OPTION_RELOADABLE,
     .help = "percent of workers with a full sync that end the freeze of all"},
    {.name = "resync_after_gap",
     .type = KVL_OPTION_BOOL,
     .value = "no",
     .flags = KVL_OPTION_RELOADABLE,
     .help = "ask for a full sync after a gap in a worker's events"},
    {.name = "worker_ttl",
     .type = KVL_OPTION_DURATION,
     .value = "0",
     .min = 0,
     .max = 86400000,
     .flags = KVL_OPTION_RELOADABLE,
     .help = "lookups leave out workers that are silent for longer; 0 = never"},
};

#define COUNT(options) ((uint32_t)(sizeof(options) / sizeof((options)[0])))

static const char *const core_sections[] = {"kvlane", "store", "registry"};

int kvl_plan_is_core_section(const char *name)
{
    for (size_t i = 0; i < COUNT(core_sections); i++) {
        if (strcmp(name, core_sections[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

const char *kvl_plan_near_section(const char *name)
{
    return kvl_name_nearest(name, core_sections, COUNT(core_sections));
}

/* A list is text to the option table; what is in it is looked at here. */
static void check_quotas(struct kvl_plan *plan)
{
    const char *list = kvl_settings_get(&plan->store, "quotas")->text;
    struct kvl_quota *scratch = calloc(1, sizeof(*scratch));
    char why[200];

    if (scratch != NULL && kvl_quota_init(scratch, 0, list, why, sizeof(why)) < 0) {
        kvl_config_error(&plan->config, 0, "[store] quotas: %s", why);
    }
    free(scratch);
}

static int plan_section(struct kvl_plan *plan, const char *name, struct kvl_settings *settings,
                        struct kvl_err *err)
{
    int r = kvl_config_apply(&plan->config, kvl_config_find(&plan->config, name), settings, 1);

    return r < 0 ? kvl_err_set(err, r, 0, "config: %s", strerror(-r)) : 0;
}

int kvl_plan_init(struct kvl_plan *plan, const struct kvl_open_params *params, struct kvl_err *err)
{
    const struct kvl_setting *path;
    int r;

    plan->kvlane =
        (struct kvl_settings){.options = kvlane_options, .option_count = COUNT(kvlane_options)};
    plan->store =
        (struct kvl_settings){.options = store_options, .option_count = COUNT(store_options)};
    plan->registry =
        (struct kvl_settings){.options = registry_options, .option_count = COUNT(registry_options)};
    r = kvl_config_init(&plan->config, params, err);
    if (r < 0) {
        return r;
    }
    r = plan_section(plan, "kvlane", &plan->kvlane, err);
    r = r == 0 ? plan_section(plan, "store", &plan->store, err) : r;
    r = r == 0 ? plan_section(plan, "registry", &plan->registry, err) : r;
    if (r < 0) {
        return r;
    }
    check_quotas(plan);
    path = kvl_settings_get(&plan->kvlane, "module_path");
    if (path->is_set) {
        snprintf(plan->module_path, sizeof(plan->module_path), "%s", path->text);
    } else if (kvl_module_default_dir(plan->module_path, sizeof(plan->module_path)) < 0) {
        snprintf(plan->module_path, sizeof(plan->module_path), "/usr/lib/kvlane");
    }
    return 0;
}

void kvl_plan_keep(struct kvl_plan *plan, struct kvl_instance *instance)
{
    kvl_settings_fini(&instance->kvlane_settings);
    kvl_settings_fini(&instance->store_settings);
    kvl_settings_fini(&instance->registry_settings);
    instance->kvlane_settings = plan->kvlane;
    instance->store_settings = plan->store;
    instance->registry_settings = plan->registry;
    instance->section_count = plan->config.section_count;
    plan->kvlane.values = NULL;
    plan->store.values = NULL;
    plan->registry.values = NULL;
}

void kvl_plan_fini(struct kvl_plan *plan)
{
    kvl_settings_fini(&plan->kvlane);
    kvl_settings_fini(&plan->store);
    kvl_settings_fini(&plan->registry);
    kvl_config_fini(&plan->config);
}

int kvl_plan_report(const struct kvl_plan *plan, const struct kvl_log *log, struct kvl_err *err)
{
    const char *at = plan->config.errors;
    size_t length = plan->config.errors_length;

    if (plan->config.error_count == 0) {
        return 0;
    }
    if (length == 0) {
        return kvl_err_set(err, -ENOMEM, 0, "config: no memory to say what is wrong");
    }
    while (at != NULL && *at != '\0') {
        int line = (int)strcspn(at, "\n");

        kvl_error(log, "config: %.*s", line, at);
        at += line + 1;
    }
    return kvl_err_set(err, -EINVAL, 0, "%.*s", (int)length - 1, plan->config.errors);
}

struct kvl_registry_settings kvl_plan_registry_settings(const struct kvl_plan *plan)
{
    const struct kvl_settings *from = &plan->registry;

    return (struct kvl_registry_settings){
        .sync_timeout_ms = (uint64_t)kvl_settings_get(from, "sync_timeout")->number,
        .worker_ttl_ms = (uint64_t)kvl_settings_get(from, "worker_ttl")->number,
        .sync_threshold = (uint32_t)kvl_settings_get(from, "sync_threshold")->number,
        .resync_after_gap = (uint32_t)kvl_settings_get(from, "resync_after_gap")->number,
    };
}
