/* SPDX-License-Identifier: Apache-2.0 */
#include "worker_rig.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

uint64_t rig_now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void rig_nap(void)
{
    const struct timespec pause = {.tv_nsec = 2000000};

    nanosleep(&pause, NULL);
}

void rig_set(struct rig *rig, const char *name, const char *value)
{
    for (uint32_t i = 0; i < rig->pair_count; i += 2) {
        if (strcmp(rig->pairs[i], name) == 0) {
            rig->pairs[i + 1] = value;
            return;
        }
    }
    assert_true(rig->pair_count + 3 < RIG_PAIRS);
    rig->pairs[rig->pair_count++] = name;
    rig->pairs[rig->pair_count++] = value;
}

struct rig *rig_make(const char *pull_url, const char *reply_url)
{
    struct rig *rig = calloc(1, sizeof(*rig));

    rig->desc = kvlane_backend_v1();
    rig_set(rig, "role", "worker");
    rig_set(rig, "instance_id", "engine");
    rig_set(rig, "worker_id", "3");
    rig_set(rig, "controller_pull_url", pull_url);
    rig_set(rig, "controller_reply_url", reply_url);
    rig_set(rig, "heartbeat_delay", "50");
    rig_set(rig, "heartbeat_time", "50");
    rig_set(rig, "recv_timeout", "1s");
    rig_set(rig, "send_timeout", "1s");
    rig_set(rig, "sync_startup_delay", "0");
    return rig;
}

void rig_create(struct rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};

    rig->fake = fake_host_create(rig->desc, rig->pairs);
    if (rig->desc->ops->create(fake_host_table(rig->fake), &rig->self, &err) != 0) {
        fail_msg("create: %s", err.text);
    }
}

void rig_start(struct rig *rig)
{
    struct kvl_err err = {.size = sizeof(err)};

    if (rig->desc->ops->start(rig->self, &err) != 0) {
        fail_msg("start: %s", err.text);
    }
}

void rig_end(struct rig *rig)
{
    rig->desc->ops->quiesce(rig->self);
    rig->desc->ops->stop(rig->self);
    rig->desc->ops->stop(rig->self); /* again is harmless */
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    rig->desc->ops->destroy(rig->self);
    fake_host_destroy(rig->fake);
    free(rig);
}

static void rig_key(int64_t hash, char *out, size_t room)
{
    (void)snprintf(out, room, "model@1@0@%s%llx@half", hash < 0 ? "-" : "",
                   (unsigned long long)(hash < 0 ? 0 - (uint64_t)hash : (uint64_t)hash));
}

void rig_put(struct rig *rig, int64_t hash)
{
    static const struct kvl_attrs attrs = {.fmt = KVL_FMT_KV_2LTD, .shape = {2, 4, 256, 8}};
    char key[KVL_KEY_MAX + 1];

    rig_key(hash, key, sizeof(key));
    fake_host_put(rig->fake, key, "0123456789abcdef", 16, &attrs);
}

void rig_remove(struct rig *rig, int64_t hash)
{
    const struct kvl_host *host = fake_host_table(rig->fake);
    char text[KVL_KEY_MAX + 1];
    struct kvl_key key;

    rig_key(hash, text, sizeof(text));
    key = kvl_key_from_text(text);
    (void)host->store_remove(host, &key);
}

void rig_hold(struct rig *rig, int64_t hash)
{
    char key[KVL_KEY_MAX + 1];

    rig_key(hash, key, sizeof(key));
    fake_host_hold(rig->fake, key, 16);
}

void rig_drop(struct rig *rig, int64_t hash)
{
    char key[KVL_KEY_MAX + 1];

    rig_key(hash, key, sizeof(key));
    fake_host_drop(rig->fake, key);
}

uint32_t rig_health(struct rig *rig, struct kvl_health *health_out)
{
    struct kvl_health health = {.size = sizeof(health)};

    rig->desc->ops->get_health(rig->self, &health);
    if (health_out != NULL) {
        *health_out = health;
    }
    return health.state;
}

struct stat_search {
    const char *name;
    uint64_t value;
    bool found;
};

static void rig_stat_look(void *ctx, const char *name, uint64_t value)
{
    struct stat_search *search = ctx;

    if (strcmp(name, search->name) == 0) {
        search->value = value;
        search->found = true;
    }
}

uint64_t rig_stat(struct rig *rig, const char *name)
{
    struct stat_search search = {.name = name};

    rig->desc->ops->get_stats(rig->self, rig_stat_look, &search);
    assert_true(search.found);
    return search.value;
}

uint32_t rig_descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    uint32_t count = 0;

    assert_non_null(folder);
    while (readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}
