/* SPDX-License-Identifier: Apache-2.0 */
#include "demo.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "util.h"

#define TEXT_LIMIT (16u << 20)

static const char *const documents[] = {
    "README.md",         "include/kvlane/plugin.h",  "backends/tcp_remote/README.md",
    "config/kvlane.ini", "include/kvlane/backend.h", "include/kvlane/host.h",
    "LICENSE",           "include/kvlane/io.h",
};

/* Where no document of the project is at hand, as after an installation. */
static const char *const builtin[] = {
    "An engine that serves a language model keeps, for every token it has seen, one key and one "
    "value per layer. ",
    "They depend on all tokens before them and on nothing else, so two requests that begin alike "
    "have the same ones. ",
    "Computing them is most of the work between a prompt and its first answer. ",
    "Keeping them is cheap, moving them is cheaper than computing them again, ",
    "and a wrong bit in them is a wrong word in the answer. ",
};

int demo_prompt_read(struct demo_prompt *prompt, const char *path, uint32_t tokens)
{
    const char *name = strrchr(path, '/');
    uint8_t *data;
    size_t size;
    int r = util_read_file(path, TEXT_LIMIT, &data, &size);

    if (r < 0) {
        return r;
    }
    if (size <= 2 * (size_t)DEMO_CHUNK_TOKENS) {
        free(data);
        return -ENODATA;
    }
    memset(prompt, 0, sizeof(*prompt));
    (void)snprintf(prompt->name, sizeof(prompt->name), "%s", name != NULL ? name + 1 : path);
    prompt->token_count = size < tokens ? (uint32_t)size : tokens;
    memcpy(prompt->tokens, data, prompt->token_count);
    free(data);
    return 0;
}

/* Each built-in prompt begins with another sentence, so that they share no prefix. */
static void prompt_builtin(struct demo_prompt *prompt, uint32_t number, uint32_t tokens)
{
    const uint32_t sentences = sizeof(builtin) / sizeof(builtin[0]);
    uint32_t length = 0;

    memset(prompt, 0, sizeof(*prompt));
    (void)snprintf(prompt->name, sizeof(prompt->name), "built-in text %u", number + 1);
    for (uint32_t turn = 0; length < tokens; turn++) {
        char line[256];
        int n = snprintf(line, sizeof(line), "%u. %s", number + turn,
                         builtin[(number + turn * (turn + 1) / 2) % sentences]);

        for (int i = 0; i < n && length < tokens; i++) {
            prompt->tokens[length++] = (uint8_t)line[i];
        }
    }
    prompt->token_count = tokens;
}

/* The project's folder: the working directory, or that of the build tree this program lies in. */
static int document_path(char *path_out, size_t size, uint32_t place, const char *document)
{
    char self[PATH_MAX];
    ssize_t n;
    char *slash;
    int length;

    if (place == 0) {
        length = snprintf(path_out, size, "%s", document);
        return length > 0 && (size_t)length < size ? 0 : -ENAMETOOLONG;
    }
    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0) {
        return -ENOENT;
    }
    self[n] = '\0';
    slash = strrchr(self, '/');
    if (slash != NULL) {
        *slash = '\0';
    }
    length = snprintf(path_out, size, "%s/../../../%s", self, document);
    return length > 0 && (size_t)length < size ? 0 : -ENAMETOOLONG;
}

void demo_prompts_find(struct demo_prompt *prompts, uint32_t count, uint32_t tokens)
{
    const uint32_t known = sizeof(documents) / sizeof(documents[0]);
    uint32_t found = 0;

    for (uint32_t i = 0; i < known && found < count; i++) {
        for (uint32_t place = 0; place < 2; place++) {
            char path[PATH_MAX];

            if (document_path(path, sizeof(path), place, documents[i]) == 0 &&
                demo_prompt_read(&prompts[found], path, tokens) == 0) {
                found++;
                break;
            }
        }
    }
    for (; found < count; found++) {
        prompt_builtin(&prompts[found], found, tokens);
    }
}

/* ---- INI ---- */

/* One line without spaces around it; returns the start of the next line. */
static const char *next_line(const char *at, char *line_out, size_t size)
{
    size_t length = strcspn(at, "\n");
    const char *next = at + length + (at[length] == '\n');

    while (length > 0 && isspace((unsigned char)*at)) {
        at++;
        length--;
    }
    while (length > 0 && isspace((unsigned char)at[length - 1])) {
        length--;
    }
    (void)snprintf(line_out, size, "%.*s", (int)length, at);
    return next;
}

/* True for "key = value" with these two words. A comment may follow the value. */
static bool line_says(const char *line, const char *key, const char *value)
{
    size_t length = strlen(key);

    if (strncmp(line, key, length) != 0) {
        return false;
    }
    line += length;
    line += strspn(line, " \t");
    if (*line++ != '=') {
        return false;
    }
    line += strspn(line, " \t");
    length = strlen(value);
    return strncmp(line, value, length) == 0 && strchr(" \t;#", line[length]) != NULL;
}

bool demo_config_client(const char *text, char *section_out, size_t size)
{
    char section[64] = "";
    char line[512];
    bool server = false;
    bool ours = false;

    for (;;) {
        bool end = *text == '\0';

        text = end ? text : next_line(text, line, sizeof(line));
        if (end || line[0] == '[') {
            /* A section without a role is a client: that is the default. */
            if (ours && !server) {
                (void)snprintf(section_out, size, "%s", section);
                return true;
            }
            if (end) {
                return false;
            }
            (void)snprintf(section, sizeof(section), "%.*s", (int)strcspn(line + 1, "]"), line + 1);
            ours = strcmp(section, "tcp_remote") == 0 || strncmp(section, "tcp_remote:", 11) == 0;
            server = false;
        } else if (line_says(line, "role", "server")) {
            server = true;
        }
    }
}
