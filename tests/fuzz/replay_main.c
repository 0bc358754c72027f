/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A main() for fuzz targets where there is no fuzzer: runs each file named, and each file in each
 * folder named, through the target once. So every corpus is also a test.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, long size)
{
    /* of just that size, so that a sanitizer sees the first byte beyond */
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    FILE *file = fopen(path, "rb");
    int r = -1;

    if (data != NULL && file != NULL && fread(data, 1, (size_t)size, file) == (size_t)size) {
        (void)LLVMFuzzerTestOneInput(data, (size_t)size);
        r = 0;
    } else {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    }
    if (file != NULL) {
        (void)fclose(file);
    }
    free(data);
    return r;
}

static int replay(const char *path, unsigned *count)
{
    struct dirent *entry;
    struct stat st;
    char *child;
    DIR *folder;
    int r = 0;

    if (stat(path, &st) != 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    if (!S_ISDIR(st.st_mode)) {
        ++*count;
        return replay_file(path, (long)st.st_size);
    }
    folder = opendir(path);
    if (folder == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.' || asprintf(&child, "%s/%s", path, entry->d_name) < 0) {
            continue;
        }
        r |= replay(child, count);
        free(child);
    }
    (void)closedir(folder);
    return r;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    int r = 0;
    int i;

    for (i = 1; i < argc; i++) {
        r |= replay(argv[i], &count);
    }
    printf("%u inputs replayed\n", count);
    return r == 0 && count > 0 ? 0 : 1;
}
