/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file plan.h
 * The core's own sections of the INI file: their keys, and what open and reload make of them.
 */
#ifndef KVL_PLUGIN_PLAN_H
#define KVL_PLUGIN_PLAN_H

#include <limits.h>

#include "config.h"
#include "core.h"

/** Everything between the file and the instance; the file's errors are in `config`. */
struct kvl_plan {
    struct kvl_config config;
    struct kvl_settings kvlane;
    struct kvl_settings store;
    struct kvl_settings registry;
    char module_path[PATH_MAX];
};

/** True for a section that is the core's own, not a backend's. */
int kvl_plan_is_core_section(const char *name);

/** The one that was perhaps meant; NULL when none is near. */
const char *kvl_plan_near_section(const char *name);

/** Reads the file and the core's sections. @return 0, also with errors in the file; the failure. */
int kvl_plan_init(struct kvl_plan *plan, const struct kvl_open_params *params, struct kvl_err *err);

/** Hands the settings over to the instance, in place of earlier ones. */
void kvl_plan_keep(struct kvl_plan *plan, struct kvl_instance *instance);

void kvl_plan_fini(struct kvl_plan *plan);

/**
 * Logs each error of the file by itself and hands all of them to the engine.
 * @return 0 there are none; -EINVAL.
 */
int kvl_plan_report(const struct kvl_plan *plan, const struct kvl_log *log, struct kvl_err *err);

struct kvl_registry_settings kvl_plan_registry_settings(const struct kvl_plan *plan);

#endif /* KVL_PLUGIN_PLAN_H */
