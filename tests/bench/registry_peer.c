/* SPDX-License-Identifier: Apache-2.0 */
#include "registry_peer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int peer_line(struct registry_peer *peer, FILE *file)
{
    char key[32];
    char value[32];
    const struct {
        const char *key;
        double *value;
    } fields[] = {{"admit_ops_s", &peer->admit_ops_s},
                  {"find_1_ns", &peer->find_1_ns},
                  {"miss_1_ns", &peer->miss_1_ns},
                  {"find_100_ns", &peer->find_100_ns},
                  {"remove_ns", &peer->remove_ns}};

    if (fscanf(file, "%31s %31s", key, value) != 2) {
        return 0;
    }
    if (strcmp(key, "peer") == 0) {
        (void)snprintf(peer->name, sizeof(peer->name), "%s", value);
    }
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        if (strcmp(key, fields[i].key) == 0) {
            *fields[i].value = strtod(value, NULL);
        }
    }
    return 1;
}

int registry_peer_run(struct registry_peer *peer, uint64_t count, uint64_t each)
{
    const char *python = getenv("KVL_LMCACHE_PYTHON");
    char command[1024];
    FILE *file;

    *peer = (struct registry_peer){.name = ""};
    python = python != NULL ? python : KVL_VENV_PYTHON;
    if (access(python, X_OK) != 0) {
        python = "python3";
    }
    (void)snprintf(command, sizeof(command), "'%s' '%s' %llu %llu 2>/dev/null", python,
                   KVL_REGISTRY_PEER, (unsigned long long)count, (unsigned long long)each);
    file = popen(command, "re");
    while (file != NULL && peer_line(peer, file)) {
    }
    if (file == NULL || pclose(file) != 0 || peer->remove_ns <= 0) {
        return -ENOENT;
    }
    printf("%-12s %4llu x %-8llu %12.2f %12.0f %12.0f %12.0f %12.3f\n", peer->name,
           (unsigned long long)count, (unsigned long long)each, peer->admit_ops_s * 1e-6,
           peer->find_1_ns, peer->miss_1_ns, peer->find_100_ns, peer->remove_ns * 1e-6);
    return 0;
}
