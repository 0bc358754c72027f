/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: ini_keys INI_FILE MODULE...
 * Every option of every backend stands in the INI file that documents them, in a section of the
 * backend's word, set or commented out, with its default on the same line.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include <kvlane/backend.h>

static const char *skip_blanks(const char *text)
{
    return text + strspn(text, " \t;#");
}

/* True for "[word]" and "[word:label]", also commented out. */
static int is_section(const char *line, const char *word)
{
    size_t length = strlen(word);

    line = skip_blanks(line);
    return line[0] == '[' && strncmp(line + 1, word, length) == 0 &&
           (line[1 + length] == ']' || line[1 + length] == ':');
}

/* @return 1 with its default; 0 with another value; -1 not there. */
static int find_option(FILE *ini, const char *word, const struct kvl_option *option)
{
    const char *value = option->value != NULL ? option->value : "";
    size_t length = strlen(option->name);
    int inside = 0;
    int best = -1;
    char line[4200];

    rewind(ini);
    while (fgets(line, sizeof(line), ini) != NULL) {
        const char *text = skip_blanks(line);

        if (text[0] == '[') {
            inside = is_section(line, word);
        } else if (inside && strncmp(text, option->name, length) == 0 &&
                   text[length + strspn(text + length, " \t")] == '=') {
            int same = value[0] == '\0' || strstr(text + length, value) != NULL;

            best = same > best ? same : best;
        }
    }
    return best;
}

static int check_module(FILE *ini, const char *path)
{
    kvl_backend_entry_fn entry = NULL;
    const struct kvl_backend_desc *desc;
    void *dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    int missing = 0;
    uint32_t i;

    if (dl != NULL) {
        *(void **)&entry = dlsym(dl, KVL_BACKEND_ENTRY);
    }
    if (entry == NULL) {
        fprintf(stderr, "%s: %s\n", path, dlerror());
        return 1;
    }
    desc = entry();
    for (i = 0; i < desc->option_count; i++) {
        int found = find_option(ini, desc->name, &desc->options[i]);

        if (found < 1) {
            printf("[%s] %s: %s, the default is '%s'\n", desc->name, desc->options[i].name,
                   found < 0 ? "missing" : "stands there with another default",
                   desc->options[i].value != NULL ? desc->options[i].value : "");
            missing++;
        }
    }
    printf("[%s]: %u keys, %d to mend\n", desc->name, desc->option_count, missing);
    return missing;
}

int main(int argc, char **argv)
{
    FILE *ini = argc > 1 ? fopen(argv[1], "r") : NULL;
    int missing = 0;
    int i;

    if (ini == NULL) {
        fprintf(stderr, "usage: ini_keys INI_FILE MODULE...\n");
        return 2;
    }
    for (i = 2; i < argc; i++) {
        missing += check_module(ini, argv[i]);
    }
    (void)fclose(ini);
    return missing != 0;
}
