/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file codecs.h
 * Which sections of the INI file have codecs. They outlive the backend: one that was left out for
 * want of its device has them too, since the code of a module stays mapped.
 */
#ifndef KVL_PLUGIN_CODECS_H
#define KVL_PLUGIN_CODECS_H

#include <kvlane/backend.h>

#include "config.h"

struct kvl_codecs_entry {
    char section[KVL_CONFIG_NAME_MAX + 1];
    const struct kvl_ipc_ops *ipc; /* of the module; NULL = it has none, or could not be loaded */
};

struct kvl_codecs {
    struct kvl_codecs_entry *entries; /* owned; in the order of the file */
    uint32_t count;
};

/** Takes note of a section. @return 0; -ENOMEM. */
int kvl_codecs_add(struct kvl_codecs *codecs, const char *section, const struct kvl_ipc_ops *ipc);

/** kvl_plugin.ipc. @param section  NULL = the first that has them. @return 0; -ENOENT; -ENOTSUP. */
int kvl_codecs_find(const struct kvl_codecs *codecs, const char *section,
                    const struct kvl_ipc_ops **ipc_out);

void kvl_codecs_fini(struct kvl_codecs *codecs);

#endif /* KVL_PLUGIN_CODECS_H */
