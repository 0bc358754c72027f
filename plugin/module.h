/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file module.h
 * From the word in the INI file to a checked copy of a backend's tables.
 */
#ifndef KVL_PLUGIN_MODULE_H
#define KVL_PLUGIN_MODULE_H

#include <kvlane/backend.h>

struct kvl_module {
    void *dl; /* never really unloaded: linked and opened NODELETE */
    char *path; /* owned; resolved */
    /* Copies: complete tables, whatever size the module's own have. */
    struct kvl_backend_desc desc;
    struct kvl_backend_ops ops;
    struct kvl_option *options; /* owned */
};

/**
 * Finds `kvl-<word>.so` in `dir`, checks folder, file, symbol and tables.
 * @param dir  absolute; it, its parents and the file must belong to root or to us and must not be
 *             writable by others
 * @return 0; -ENOENT no such file; -EACCES folder or file refused; -ELIBACC the system cannot load
 *         it; -ELIBBAD it is not a backend of this ABI; -ENOMEM. One sentence in err->text.
 */
int kvl_module_init(struct kvl_module *module, const char *dir, const char *word,
                    struct kvl_err *err);

/** Takes a half-built module. The code stays mapped. */
void kvl_module_fini(struct kvl_module *module);

/**
 * The folder used when the INI file names none: `kvlane/` beside libkvlane.so, else the `backends`
 * folder of a build tree. @return 0 and an absolute path; -ENOENT.
 */
int kvl_module_default_dir(char *out, size_t size);

#endif /* KVL_PLUGIN_MODULE_H */
