/* SPDX-License-Identifier: Apache-2.0 */
/* Replays files, and the files of folders, through a fuzz target without a fuzzer. */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    uint8_t *data = malloc(1 << 20);
    FILE *file = fopen(path, "rb");
    size_t size;

    if (data == NULL || file == NULL) {
        fprintf(stderr, "cannot replay '%s'\n", path);
        exit(2);
    }
    size = fread(data, 1, 1 << 20, file);
    fclose(file);
    (void)LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 1;
}

static int replay(const char *path)
{
    DIR *folder = opendir(path);
    char inner[4096];
    int count = 0;

    if (folder == NULL) {
        return replay_file(path);
    }
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (entry->d_name[0] != '.') {
            snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
            count += replay(inner);
        }
    }
    closedir(folder);
    return count;
}

int main(int argc, char **argv)
{
    int count = 0;

    for (int i = 1; i < argc; i++) {
        count += replay(argv[i]);
    }
    printf("%d inputs replayed\n", count);
    return count > 0 ? 0 : 1;
}
