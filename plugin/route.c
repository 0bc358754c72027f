/* SPDX-License-Identifier: Apache-2.0 */
#include "route.h"

#include <errno.h>
#include <stdlib.h>

#include "host.h"
#include "registry.h"

/* The keys that every backend section has, whatever the backend. */
static const struct kvl_option core_options[] = {
    {.name = "required",
     .type = KVL_OPTION_ENUM,
     .value = "yes",
     .choices = "no|yes|auto",
     .help = "yes: refuse to open without it; no: warn and go on; auto: skip it quietly"},
    {.name = "put_to",
     .type = KVL_OPTION_ENUM,
     .value = "no",
     .choices = "no|yes|evicted",
     .help = "yes: send saved chunks there; evicted: send what leaves the own store"},
    {.name = "keep",
     .type = KVL_OPTION_ENUM,
     .value = "auto",
     .choices = "auto|no|yes",
     .help =
         "keep chunks read from there in the own store; auto: where they pass through it anyway"},
};

static void name_word(const char *section, char *word, size_t size)
{
    snprintf(word, size, "%.*s", (int)strcspn(section, ":"), section);
}

/* The answer to a module that cannot be had depends on what the file says of it. */
static int leave_out(const struct kvl_backend *backend, int code, const struct kvl_err *err)
{
    const int absent = code == -ENODEV || code == -ENOENT;

    if (backend->required == KVL_REQUIRED_YES) {
        return code;
    }
    if (backend->required == KVL_REQUIRED_AUTO && absent) {
        kvl_debug(&backend->log, "%s: left out: %s", backend->name, err->text);
    } else {
        kvl_warn(&backend->log, "%s: left out, going on without it: %s", backend->name, err->text);
    }
    return 0;
}

/* Settings of core and backend out of one section. The core's part is read first, since it decides
 * what a missing module means. */
static void read_required(const struct kvl_config_section *section, struct kvl_backend *backend)
{
    backend->required = KVL_REQUIRED_YES;
    for (size_t i = 0; i < section->key_count; i++) {
        const struct kvl_config_key *key = &section->keys[i];

        if (strcmp(key->name, "required") == 0 && strcmp(key->value, "no") == 0) {
            backend->required = KVL_REQUIRED_NO;
        } else if (strcmp(key->name, "required") == 0 && strcmp(key->value, "auto") == 0) {
            backend->required = KVL_REQUIRED_AUTO;
        }
    }
}

/* Core's and backend's settings out of one section, into fresh records. */
static int read_section(struct kvl_config *config, const struct kvl_config_section *section,
                        const struct kvl_backend *backend, struct kvl_settings both[2])
{
    both[0] = (struct kvl_settings){
        .options = core_options,
        .option_count = sizeof(core_options) / sizeof(core_options[0]),
    };
    both[1] = (struct kvl_settings){
        .options = backend->module.desc.options,
        .option_count = backend->module.desc.option_count,
    };
    return kvl_config_apply(config, section, both, 2);
}

static void take_core_settings(struct kvl_backend *backend, const struct kvl_settings *core)
{
    atomic_store(&backend->put_to, (int)kvl_settings_get(core, "put_to")->number);
    atomic_store(&backend->keep, (int)kvl_settings_get(core, "keep")->number);
}

static int read_settings(const struct kvl_route_context *context,
                         const struct kvl_config_section *section, struct kvl_backend *backend)
{
    struct kvl_settings both[2];
    int r = read_section(context->config, section, backend, both);

    if (r == 0) {
        take_core_settings(backend, &both[0]);
    }
    kvl_settings_fini(&both[0]);
    backend->settings = both[1];
    return r;
}

/* Keeps the old value of what cannot change, so that host->setting stays true. */
static int merge_settings(const struct kvl_backend *backend, struct kvl_settings *fresh,
                          uint32_t *restart_out)
{
    for (uint32_t i = 0; i < fresh->option_count; i++) {
        const struct kvl_option *option = &fresh->options[i];
        const struct kvl_setting *old = &backend->settings.values[i];
        char *text;

        if (strcmp(old->text, fresh->values[i].text) == 0 ||
            ((option->flags & KVL_OPTION_RELOADABLE) != 0 && backend->module.ops.reload != NULL)) {
            continue;
        }
        kvl_warn(&backend->log, "%s: the new value of '%s' needs a restart, the old one stays",
                 backend->name, option->name);
        ++*restart_out;
        text = strdup(old->text);
        if (text == NULL) {
            return -ENOMEM;
        }
        free((void *)(uintptr_t)fresh->values[i].text);
        fresh->values[i] = *old;
        fresh->values[i].text = text;
    }
    return 0;
}

/* Types and ranges are right; does the backend agree? It sees the new settings for the moment. */
static void check_settings(struct kvl_backend *backend, struct kvl_config *config,
                           const struct kvl_config_section *section,
                           const struct kvl_settings *fresh)
{
    const struct kvl_settings running = backend->settings;
    struct kvl_err err = {.size = sizeof(err)};

    if (backend->module.ops.check == NULL || config->error_count > 0) {
        return;
    }
    backend->settings = *fresh;
    if (backend->module.ops.check(&backend->host, &err) < 0) {
        kvl_config_error(config, section->line, "[%s] %s", section->name, err.text);
    }
    backend->settings = running;
}

/* Takes the new settings over; the old texts stay as long as the backend. */
static int apply_settings(struct kvl_backend *backend, struct kvl_settings both[2],
                          uint32_t *restart_out)
{
    struct kvl_settings *old;
    int r = merge_settings(backend, &both[1], restart_out);

    if (r < 0) {
        return r;
    }
    old = realloc(backend->old_settings, (backend->old_count + 1) * sizeof(*old));
    if (old == NULL) {
        return -ENOMEM;
    }
    backend->old_settings = old;
    backend->old_settings[backend->old_count++] = backend->settings;
    backend->settings = both[1];
    both[1].values = NULL;
    take_core_settings(backend, &both[0]);
    return 0;
}

int kvl_backend_reload(struct kvl_backend *backend, struct kvl_config *config,
                       const struct kvl_config_section *section, int apply, uint32_t *restart_out,
                       struct kvl_err *err)
{
    struct kvl_settings both[2];
    int r = read_section(config, section, backend, both);

    if (r == 0 && !apply) {
        check_settings(backend, config, section, &both[1]);
    } else if (r == 0) {
        r = apply_settings(backend, both, restart_out);
    }
    kvl_settings_fini(&both[0]);
    kvl_settings_fini(&both[1]);
    if (r < 0 || !apply || backend->module.ops.reload == NULL || !kvl_backend_is_running(backend)) {
        return r;
    }
    return backend->module.ops.reload(backend->self, err);
}

static int give_registry(struct kvl_backend *backend, struct kvl_err *err)
{
    if ((backend->module.desc.needs & KVL_NEED_REGISTRY) == 0) {
        return 0;
    }
    backend->host.registry = backend->watcher->registry(backend->watcher->ctx);
    if (backend->host.registry == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "%s: no memory for the registry", backend->name);
    }
    backend->host.registry_ops = &kvl_registry_table;
    return 0;
}

/* The backend's own check, or its create. Not called when the file has errors already. */
static int make_instance(const struct kvl_route_context *context, struct kvl_backend *backend,
                         const struct kvl_config_section *section, int create, struct kvl_err *err)
{
    const struct kvl_backend_ops *ops = &backend->module.ops;
    int r;

    if (ops->check != NULL) {
        r = ops->check(&backend->host, err);
        if (r < 0) {
            kvl_config_error(context->config, section->line, "[%s] %s", section->name, err->text);
            return 0;
        }
    }
    if (!create || context->config->error_count > 0) {
        return 0;
    }
    r = give_registry(backend, err);
    if (r < 0) {
        return r;
    }
    err->text[0] = '\0';
    r = ops->create(&backend->host, &backend->self, err);
    if (r < 0) {
        backend->self = NULL;
        if (err->text[0] == '\0') {
            kvl_err_set(err, r, 0, "%s: create failed: %s", backend->name, strerror(-r));
        }
        err->code = r;
        return r;
    }
    backend->limits.size = sizeof(backend->limits);
    if (ops->get_limits != NULL) {
        ops->get_limits(backend->self, &backend->limits);
    }
    backend->caps = backend->module.desc.caps;
    if (backend->limits.caps != 0) {
        backend->caps &= backend->limits.caps;
    }
    if ((backend->caps & KVL_CAP_HELD) != 0 && backend->limits.where == KVL_WHERE_HOST) {
        return kvl_err_set(err, -ELIBBAD, 0,
                           "%s: keeps chunks itself but does not say in which location",
                           backend->name);
    }
    return 0;
}

/* A module that could not be loaded is all zero. */
static const struct kvl_ipc_ops *codecs_of(const struct kvl_module *module)
{
    return (module->desc.caps & KVL_CAP_IPC) != 0 ? module->ops.ipc : NULL;
}

int kvl_backend_create(const struct kvl_route_context *context,
                       const struct kvl_config_section *section, int create,
                       struct kvl_backend **backend_out, struct kvl_err *err)
{
    struct kvl_backend *backend = calloc(1, sizeof(*backend));
    char word[KVL_CONFIG_NAME_MAX + 1];
    int r;

    *backend_out = NULL;
    if (backend == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "%s: no memory", section->name);
    }
    snprintf(backend->name, sizeof(backend->name), "%s", section->name);
    name_word(section->name, word, sizeof(word));
    backend->log = kvl_log_make(context->log, context->log_ctx, backend->name, context->log_level);
    backend->store = context->store;
    backend->flights = context->flights;
    backend->watcher = context->watcher;
    kvl_offer_box_init(&backend->offer);
    kvl_host_init(backend);
    read_required(section, backend);
    r = kvl_module_init(&backend->module, context->module_path, word, err);
    if (kvl_codecs_add(context->codecs, section->name, codecs_of(&backend->module)) < 0) {
        r = kvl_err_set(err, -ENOMEM, 0, "%s: no memory", backend->name);
    }
    if (r == 0) {
        r = read_settings(context, section, backend);
        if (r < 0) {
            kvl_err_set(err, r, 0, "%s: cannot read its settings: %s", backend->name, strerror(-r));
        }
    }
    if (r == 0) {
        r = make_instance(context, backend, section, create, err);
    }
    if (r == 0 && backend->self != NULL) {
        *backend_out = backend;
        return 0;
    }
    r = r < 0 ? leave_out(backend, r, err) : 0;
    kvl_backend_destroy(backend);
    return r;
}

int kvl_backend_start(struct kvl_backend *backend, struct kvl_err *err)
{
    int r;

    err->text[0] = '\0';
    r = backend->module.ops.start(backend->self, err);
    if (r == 0) {
        atomic_store_explicit(&backend->state, KVL_BACKEND_RUNNING, memory_order_release);
        return 0;
    }
    atomic_store_explicit(&backend->state, KVL_BACKEND_FAILED, memory_order_release);
    if (err->text[0] == '\0') {
        kvl_err_set(err, r, 0, "%s: start failed: %s", backend->name, strerror(-r));
    }
    err->code = r;
    return leave_out(backend, r, err);
}

void kvl_backend_stop(struct kvl_backend *backend)
{
    if (kvl_backend_is_running(backend)) {
        backend->module.ops.stop(backend->self);
        atomic_store_explicit(&backend->state, KVL_BACKEND_STOPPED, memory_order_release);
    }
}

void kvl_backend_destroy(struct kvl_backend *backend)
{
    if (backend == NULL) {
        return;
    }
    kvl_backend_stop(backend);
    if (backend->self != NULL) {
        backend->module.ops.destroy(backend->self);
    }
    for (size_t i = 0; i < backend->old_count; i++) {
        kvl_settings_fini(&backend->old_settings[i]);
    }
    free(backend->old_settings);
    kvl_settings_fini(&backend->settings);
    kvl_module_fini(&backend->module);
    kvl_offer_box_fini(&backend->offer);
    free(backend);
}
