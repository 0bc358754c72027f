/* SPDX-License-Identifier: Apache-2.0 */
#include "route.h"

#include <errno.h>
#include <stdlib.h>

#include "host.h"

/* The keys that every backend section has, whatever the backend. */
static const struct kvl_option core_options[] = {
    {.name = "required",
     .type = KVL_OPTION_ENUM,
     .value = "yes",
     .choices = "no|yes|auto",
     .help = "yes: refuse to open without it; no: warn and go on; auto: skip it quietly"},
    {.name = "put_to",
     .type = KVL_OPTION_BOOL,
     .value = "no",
     .help = "send saved chunks there"},
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

static int read_settings(const struct kvl_route_context *context,
                         const struct kvl_config_section *section, struct kvl_backend *backend)
{
    struct kvl_settings both[2] = {
        {.options = core_options,
         .option_count = sizeof(core_options) / sizeof(core_options[0])},
        {.options = backend->module.desc.options,
         .option_count = backend->module.desc.option_count},
    };
    int r = kvl_config_apply(context->config, section, both, 2);

    if (r == 0) {
        backend->put_to = kvl_settings_get(&both[0], "put_to")->number != 0;
    }
    kvl_settings_fini(&both[0]);
    backend->settings = both[1];
    return r;
}

/* The backend's own check, or its create. Not called when the file has errors already. */
static int make_instance(const struct kvl_route_context *context, struct kvl_backend *backend,
                         const struct kvl_config_section *section, int create,
                         struct kvl_err *err)
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
    return 0;
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
    backend->log =
        kvl_log_make(context->log, context->log_ctx, backend->name, context->log_level);
    backend->store = context->store;
    backend->flights = context->flights;
    kvl_host_init(backend);
    read_required(section, backend);
    r = kvl_module_init(&backend->module, context->module_path, word, err);
    if (r == 0) {
        r = read_settings(context, section, backend);
        if (r < 0) {
            kvl_err_set(err, r, 0, "%s: cannot read its settings: %s", backend->name,
                        strerror(-r));
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

void kvl_backend_destroy(struct kvl_backend *backend)
{
    if (backend == NULL) {
        return;
    }
    if (kvl_backend_is_running(backend)) {
        backend->module.ops.stop(backend->self);
    }
    if (backend->self != NULL) {
        backend->module.ops.destroy(backend->self);
    }
    kvl_settings_fini(&backend->settings);
    kvl_module_fini(&backend->module);
    free(backend);
}
