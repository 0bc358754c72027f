/* SPDX-License-Identifier: Apache-2.0 */
#include "codecs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int kvl_codecs_add(struct kvl_codecs *codecs, const char *section, const struct kvl_ipc_ops *ipc)
{
    struct kvl_codecs_entry *entries =
        realloc(codecs->entries, (codecs->count + 1) * sizeof(*entries));

    if (entries == NULL) {
        return -ENOMEM;
    }
    codecs->entries = entries;
    entries += codecs->count++;
    snprintf(entries->section, sizeof(entries->section), "%s", section);
    entries->ipc = ipc;
    return 0;
}

int kvl_codecs_find(const struct kvl_codecs *codecs, const char *section,
                    const struct kvl_ipc_ops **ipc_out)
{
    int r = section != NULL ? -ENOENT : -ENOTSUP;

    for (uint32_t i = 0; i < codecs->count; i++) {
        const struct kvl_codecs_entry *entry = &codecs->entries[i];

        if (section != NULL && strcmp(section, entry->section) != 0) {
            continue;
        }
        if (entry->ipc != NULL) {
            *ipc_out = entry->ipc;
            return 0;
        }
        r = -ENOTSUP;
    }
    return r;
}

void kvl_codecs_fini(struct kvl_codecs *codecs)
{
    free(codecs->entries);
    *codecs = (struct kvl_codecs){0};
}
