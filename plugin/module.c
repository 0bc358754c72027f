/* SPDX-License-Identifier: Apache-2.0 */
#include "module.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "option.h"

#define KNOWN_NEEDS (KVL_NEED_STORE | KVL_NEED_REGISTRY | KVL_NEED_EXPORT)
#define MAX_NAMES 64
#define MAX_OPTIONS 256

static int owner_ok(const struct stat *st)
{
    return st->st_uid == 0 || st->st_uid == geteuid();
}

/* Whoever can write to a folder on the way can put his own code in our place. Others cannot rename
 * what is not theirs in a sticky folder, so /tmp may be a parent, but not the folder itself. */
static int check_folder(const char *dir, struct kvl_err *err)
{
    char path[PATH_MAX];
    size_t length = strlen(dir);
    int leaf = 1;

    memcpy(path, dir, length + 1);
    while (length > 0) {
        struct stat st;

        if (stat(path, &st) < 0) {
            return kvl_err_set(err, -errno, errno, "module: cannot look at folder '%s': %s", path,
                               strerror(errno));
        }
        if (!owner_ok(&st)) {
            return kvl_err_set(err, -EACCES, 0,
                               "module: folder '%s' belongs to user %u, not to root or to us", path,
                               (unsigned)st.st_uid);
        }
        if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (leaf || (st.st_mode & S_ISVTX) == 0)) {
            return kvl_err_set(err, -EACCES, 0,
                               "module: folder '%s' is writable by group or others (mode %04o); "
                               "chmod go-w it",
                               path, (unsigned)(st.st_mode & 07777));
        }
        leaf = 0;
        while (length > 0 && path[length - 1] != '/') {
            length--;
        }
        if (length > 1) {
            length--; /* the slash, but keep that of the root */
        } else if (length == 1 && strcmp(path, "/") == 0) {
            break;
        }
        path[length] = '\0';
    }
    return 0;
}

static int check_file(const char *path, const struct stat *st, struct kvl_err *err)
{
    if (!S_ISREG(st->st_mode)) {
        return kvl_err_set(err, -EACCES, 0, "module: '%s' is not a regular file", path);
    }
    if (!owner_ok(st)) {
        return kvl_err_set(err, -EACCES, 0, "module: '%s' belongs to user %u, not to root or to us",
                           path, (unsigned)st->st_uid);
    }
    if ((st->st_mode & (S_IWGRP | S_IWOTH)) != 0) {
        return kvl_err_set(err, -EACCES, 0,
                           "module: '%s' is writable by group or others (mode %04o); chmod go-w it",
                           path, (unsigned)(st->st_mode & 07777));
    }
    return 0;
}

/* Names only, nothing is loaded: to say what the user may have meant. */
static int not_found(const char *dir, const char *word, struct kvl_err *err)
{
    char names[MAX_NAMES][NAME_MAX + 1];
    const char *list[MAX_NAMES];
    size_t count = 0;
    const char *near;
    DIR *d = opendir(dir);
    struct dirent *entry;

    while (d != NULL && count < MAX_NAMES && (entry = readdir(d)) != NULL) {
        size_t length = strlen(entry->d_name);

        if (length > 7 && strncmp(entry->d_name, "kvl-", 4) == 0 &&
            strcmp(entry->d_name + length - 3, ".so") == 0) {
            snprintf(names[count], sizeof(names[count]), "%.*s", (int)(length - 7),
                     entry->d_name + 4);
            list[count] = names[count];
            count++;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    near = kvl_name_nearest(word, list, count);
    return kvl_err_set(err, -ENOENT, ENOENT, "module: there is no 'kvl-%s.so' in '%s'%s%s%s", word,
                       dir, near != NULL ? "; did you mean [" : "", near != NULL ? near : "",
                       near != NULL ? "]?" : "");
}

/* Resolves and checks; the file is open while it is checked. */
static int find_file(struct kvl_module *module, const char *dir, const char *word,
                     struct stat *st_out, struct kvl_err *err)
{
    char folder[PATH_MAX];
    char path[PATH_MAX + NAME_MAX];
    int fd;
    int r;

    if (dir[0] != '/') {
        return kvl_err_set(err, -EACCES, 0, "module: module_path '%s' is not absolute", dir);
    }
    if (realpath(dir, folder) == NULL) {
        return kvl_err_set(err, -errno, errno, "module: module_path '%s': %s", dir,
                           strerror(errno));
    }
    r = check_folder(folder, err);
    if (r < 0) {
        return r;
    }
    snprintf(path, sizeof(path), "%s/kvl-%s.so", folder, word);
    module->path = realpath(path, NULL);
    if (module->path == NULL) {
        return errno == ENOENT
                   ? not_found(folder, word, err)
                   : kvl_err_set(err, -errno, errno, "module: '%s': %s", path, strerror(errno));
    }
    if (strncmp(module->path, folder, strlen(folder)) != 0 || module->path[strlen(folder)] != '/') {
        return kvl_err_set(err, -EACCES, 0, "module: '%s' leads out of its folder to '%s'", path,
                           module->path);
    }
    fd = open(module->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, st_out) < 0) {
        r = kvl_err_set(err, -EACCES, errno, "module: cannot open '%s': %s", module->path,
                        strerror(errno));
    } else {
        r = check_file(module->path, st_out, err);
    }
    if (fd >= 0) {
        close(fd);
    }
    return r;
}

static int load_file(struct kvl_module *module, const struct stat *checked, void **entry_out,
                     struct kvl_err *err)
{
    struct link_map *map = NULL;
    struct link_map *owner = NULL;
    struct stat now;
    Dl_info info;

    /* NODELETE: threads and thread-locals of a backend may outlive any dlclose(). */
    module->dl = dlopen(module->path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (module->dl == NULL) {
        return kvl_err_set(err, -ELIBACC, 0, "module: cannot load '%s': %s", module->path,
                           dlerror());
    }
    if (stat(module->path, &now) < 0 || now.st_dev != checked->st_dev ||
        now.st_ino != checked->st_ino) {
        return kvl_err_set(err, -EACCES, 0, "module: '%s' was replaced while it was loaded",
                           module->path);
    }
    *entry_out = dlsym(module->dl, KVL_BACKEND_ENTRY);
    if (*entry_out == NULL) {
        return kvl_err_set(err, -ELIBBAD, 0,
                           "module: '%s' is no kvlane backend: it lacks the symbol %s",
                           module->path, KVL_BACKEND_ENTRY);
    }
    /* dlsym also looks into the libraries that the module links to */
    if (dlinfo(module->dl, RTLD_DI_LINKMAP, &map) != 0 ||
        dladdr1(*entry_out, &info, (void **)&owner, RTLD_DL_LINKMAP) == 0 || owner != map) {
        return kvl_err_set(err, -ELIBBAD, 0, "module: the symbol %s of '%s' comes from '%s'",
                           KVL_BACKEND_ENTRY, module->path, owner != NULL ? owner->l_name : "?");
    }
    return 0;
}

struct cap_slot {
    uint64_t cap;
    size_t offset;
    const char *name;
};

#define SLOT(bit, slot)                                                                            \
    {                                                                                              \
        bit, offsetof(struct kvl_backend_ops, slot), #slot                                         \
    }

static const struct cap_slot slots[] = {
    SLOT(0, create),
    SLOT(0, start),
    SLOT(0, stop),
    SLOT(0, destroy),
    SLOT(KVL_CAP_READ, read),
    SLOT(KVL_CAP_WRITE, write),
    SLOT(KVL_CAP_LOOKUP, lookup),
    SLOT(KVL_CAP_REMOVE, remove),
    SLOT(KVL_CAP_LIST, list),
    SLOT(KVL_CAP_PROBE, probe),
    SLOT(KVL_CAP_CANCEL, cancel),
    SLOT(KVL_CAP_LOCATE, locate),
    SLOT(KVL_CAP_CHANNEL, channels),
    SLOT(KVL_CAP_PUSH, push),
    SLOT(KVL_CAP_DIRECT, read),
    SLOT(KVL_CAP_DIRECT, cancel),
    SLOT(KVL_CAP_MEMORY, kv_register),
    SLOT(KVL_CAP_MEMORY, kv_unregister),
    SLOT(KVL_CAP_MEMORY, gather),
    SLOT(KVL_CAP_MEMORY, scatter),
    SLOT(KVL_CAP_MEMORY, cancel),
    SLOT(KVL_CAP_CONNECT, connect),
    SLOT(KVL_CAP_HELD, held),
    SLOT(KVL_CAP_IPC, ipc),
};

static int check_slots(const struct kvl_module *module, struct kvl_err *err)
{
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        void *fn;

        memcpy(&fn, (const char *)&module->ops + slots[i].offset, sizeof(fn));
        if (fn != NULL || (slots[i].cap & module->desc.caps) != slots[i].cap) {
            continue;
        }
        return kvl_err_set(
            err, -ELIBBAD, 0,
            slots[i].cap == 0 ? "module: '%s' lacks the mandatory operation '%s' (its table has "
                                "%u bytes, this core's %zu)"
                              : "module: '%s' claims a capability but lacks its operation '%s' "
                                "(its table has %u bytes, this core's %zu)",
            module->path, slots[i].name, module->ops.size, sizeof(struct kvl_backend_ops));
    }
    return 0;
}

static int copy_options(struct kvl_module *module, struct kvl_err *err)
{
    const uint32_t count = module->desc.option_count;
    const uint32_t step = module->desc.option_size;

    if (count > MAX_OPTIONS ||
        (count > 0 && (module->desc.options == NULL || step < offsetof(struct kvl_option, help)))) {
        return kvl_err_set(err, -ELIBBAD, 0,
                           "module: '%s' has an option table of %u entries of %u "
                           "bytes that this core cannot read",
                           module->path, count, step);
    }
    module->options = calloc(count + 1, sizeof(*module->options));
    if (module->options == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "module: no memory");
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(&module->options[i], (const char *)module->desc.options + (size_t)i * step,
               step < sizeof(struct kvl_option) ? step : sizeof(struct kvl_option));
    }
    module->desc.options = module->options;
    return 0;
}

static int copy_tables(struct kvl_module *module, const struct kvl_backend_desc *desc,
                       struct kvl_err *err)
{
    const size_t head = offsetof(struct kvl_backend_desc, caps);

    if (desc == NULL || desc->magic != KVL_BACKEND_MAGIC || desc->size < head) {
        return kvl_err_set(err, -ELIBBAD, 0, "module: '%s' gives no kvlane backend description",
                           module->path);
    }
    if (desc->abi_major != KVL_BACKEND_ABI_MAJOR) {
        return kvl_err_set(err, -ELIBBAD, 0,
                           "module: '%s' is built for backend ABI %u.%u, this core offers %u.%u",
                           module->path, desc->abi_major, desc->abi_minor, KVL_BACKEND_ABI_MAJOR,
                           KVL_BACKEND_ABI_MINOR);
    }
    memcpy(&module->desc, desc, desc->size < sizeof(*desc) ? desc->size : sizeof(*desc));
    if ((module->desc.needs & ~KNOWN_NEEDS) != 0) {
        return kvl_err_set(err, -ELIBBAD, 0,
                           "module: '%s' (ABI %u.%u) needs services 0x%llx that this core (%u.%u) "
                           "does not offer",
                           module->path, desc->abi_major, desc->abi_minor,
                           (unsigned long long)(module->desc.needs & ~KNOWN_NEEDS),
                           KVL_BACKEND_ABI_MAJOR, KVL_BACKEND_ABI_MINOR);
    }
    if (module->desc.name == NULL || module->desc.ops == NULL || module->desc.ops->size < 8) {
        return kvl_err_set(err, -ELIBBAD, 0, "module: '%s' has no name or no table of operations",
                           module->path);
    }
    memcpy(&module->ops, module->desc.ops,
           module->desc.ops->size < sizeof(module->ops) ? module->desc.ops->size
                                                        : sizeof(module->ops));
    module->desc.ops = &module->ops;
    return check_slots(module, err);
}

int kvl_module_init(struct kvl_module *module, const char *dir, const char *word,
                    struct kvl_err *err)
{
    struct stat checked;
    void *entry = NULL;
    kvl_backend_entry_fn fn;
    int r;

    *module = (struct kvl_module){0};
    r = find_file(module, dir, word, &checked, err);
    if (r == 0) {
        r = load_file(module, &checked, &entry, err);
    }
    if (r == 0) {
        memcpy(&fn, &entry, sizeof(fn));
        r = copy_tables(module, fn(), err);
    }
    if (r == 0 && strcmp(module->desc.name, word) != 0) {
        r = kvl_err_set(err, -ELIBBAD, 0, "module: '%s' calls itself '%s', its file name says '%s'",
                        module->path, module->desc.name, word);
    }
    if (r == 0) {
        r = copy_options(module, err);
    }
    if (r < 0) {
        kvl_module_fini(module);
    }
    return r;
}

void kvl_module_fini(struct kvl_module *module)
{
    free(module->options);
    free(module->path);
    if (module->dl != NULL) {
        dlclose(module->dl);
    }
    *module = (struct kvl_module){0};
}

int kvl_module_default_dir(char *out, size_t size)
{
    static const char *const candidates[] = {"kvlane", "../backends"};
    char self[PATH_MAX];
    char path[PATH_MAX + 16];
    Dl_info info;
    char *slash;

    if (dladdr((const void *)&slots, &info) == 0 || realpath(info.dli_fname, self) == NULL) {
        return -ENOENT;
    }
    slash = strrchr(self, '/');
    if (slash == NULL) {
        return -ENOENT;
    }
    *slash = '\0';
    for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++) {
        char resolved[PATH_MAX];
        struct stat st;

        snprintf(path, sizeof(path), "%s/%s", self, candidates[i]);
        if (realpath(path, resolved) != NULL && stat(resolved, &st) == 0 && S_ISDIR(st.st_mode)) {
            return (size_t)snprintf(out, size, "%s", resolved) < size ? 0 : -ENAMETOOLONG;
        }
    }
    return -ENOENT;
}
