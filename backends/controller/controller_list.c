/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of LMCache's shared routes: workers, keys per instance, threads. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "controller_http_body.h"
#include "controller_routes.h"

void controller_text_worker(struct controller_text *text, const struct kvl_worker_info *worker)
{
    controller_text_put(text, "\"instance_id\":");
    controller_text_json0(text, worker->instance);
    controller_text_put(text, ",\"worker_id\":");
    controller_text_signed(text, worker->worker_id);
    controller_text_put(text, ",\"ip\":");
    controller_text_json0(text, worker->ip);
    controller_text_put(text, ",\"port\":");
    controller_text_signed(text, worker->port);
    controller_text_put(text, ",\"peer_init_url\":");
    if ((worker->flags & KVL_WORKER_HAS_PEER_URL) != 0) {
        controller_text_json0(text, worker->peer_url);
    } else {
        controller_text_put(text, "null");
    }
    controller_text_put(text, ",\"registration_time\":");
    controller_text_real(text, worker->registration_time);
    controller_text_put(text, ",\"last_heartbeat_time\":");
    controller_text_real(text, worker->last_heartbeat_time);
    controller_text_put(text, ",\"key_count\":");
    controller_text_unsigned(text, worker->keys);
}

/* ---- /controller/workers ---- */

struct list {
    struct controller_text *text;
    uint64_t count;
};

static int list_worker(void *ctx, const struct kvl_worker_info *worker)
{
    struct list *list = ctx;

    controller_text_put(list->text, list->count++ > 0 ? ",{" : "{");
    controller_text_worker(list->text, worker);
    controller_text_put(list->text, "}");
    return 0;
}

static void workers_one(const struct controller_request *request,
                        const struct kvl_worker_name *name, struct controller_answer *answer)
{
    const struct kvl_host *host = request->view->host;
    struct kvl_worker_info worker;
    char detail[KVL_NAME_ROOM + 64];

    if (host->registry_ops->worker(host->registry, name, &worker) < 0) {
        (void)snprintf(
            detail, sizeof(detail), "Worker (%.*s, %lld) not found",
            (int)(name->instance.length < KVL_NAME_MAX ? name->instance.length : KVL_NAME_MAX),
            name->instance.text, (long long)name->worker_id);
        controller_answer_detail(answer, 404, detail);
        return;
    }
    controller_text_put(&answer->text, "{");
    controller_text_worker(&answer->text, &worker);
    controller_text_put(&answer->text, "}");
}

static void workers_all(const struct controller_request *request, const char *instance,
                        struct controller_answer *answer)
{
    const struct kvl_host *host = request->view->host;
    struct list list = {.text = &answer->text};
    struct kvl_text name = {0};
    char detail[KVL_NAME_ROOM + 64];
    int r;

    if (instance != NULL) {
        name = (struct kvl_text){.text = instance, .length = (uint32_t)strlen(instance)};
    }
    controller_text_put(&answer->text, "{\"workers\":[");
    /* An empty name lists all; as one of an instance it is unknown. */
    r = instance != NULL && name.length == 0
            ? -ENOENT
            : host->registry_ops->list_workers(host->registry, name, list_worker, &list);
    if (instance != NULL && r < 0) {
        (void)snprintf(detail, sizeof(detail), "No workers found for instance %.255s", instance);
        controller_answer_detail(answer, 404, detail);
        return;
    }
    controller_text_put(&answer->text, "],\"total_count\":");
    controller_text_unsigned(&answer->text, list.count);
    controller_text_put(&answer->text, "}");
}

void controller_route_workers(const struct controller_request *request,
                              struct controller_answer *answer)
{
    const char *instance = request->query(request->query_ctx, "instance_id");
    const char *worker = request->query(request->query_ctx, "worker_id");
    struct kvl_chunk_id id = {0};

    answer->media = CONTROLLER_MEDIA_JSON;
    answer->status = 200;
    if (worker != NULL &&
        controller_json_digits(worker, strlen(worker), &id) != CONTROLLER_INT_OK) {
        answer->status = 422;
        controller_body_refuse_query("worker_id", worker, &answer->text);
    } else if (instance != NULL && worker != NULL && !id.negative && id.bits > INT64_MAX) {
        controller_answer_detail(answer, 404, "Worker not found: no worker has so large a number");
    } else if (instance != NULL && worker != NULL) {
        workers_one(request,
                    &(struct kvl_worker_name){
                        .instance = {.text = instance, .length = (uint32_t)strlen(instance)},
                        .worker_id = (int64_t)id.bits,
                    },
                    answer);
    } else {
        workers_all(request, instance, answer);
    }
}

/* ---- /controller/key-stats ---- */

struct key_stats {
    struct controller_text instances;
    char instance[KVL_NAME_ROOM]; /* whose workers come now */
    uint64_t keys;
    uint64_t workers;
    uint64_t total_keys;
    uint64_t total_workers;
    uint64_t total_instances;
};

static void key_stats_flush(struct key_stats *stats)
{
    if (stats->workers == 0) {
        return;
    }
    controller_text_put(&stats->instances,
                        stats->total_instances > 0 ? ",{\"instance_id\":" : "{\"instance_id\":");
    controller_text_json0(&stats->instances, stats->instance);
    controller_text_put(&stats->instances, ",\"key_count\":");
    controller_text_unsigned(&stats->instances, stats->keys);
    controller_text_put(&stats->instances, ",\"worker_count\":");
    controller_text_unsigned(&stats->instances, stats->workers);
    controller_text_put(&stats->instances, "}");
    stats->total_instances++;
    stats->total_keys += stats->keys;
    stats->total_workers += stats->workers;
    stats->keys = 0;
    stats->workers = 0;
}

/* Workers of one instance come one after the other. */
static int key_stats_worker(void *ctx, const struct kvl_worker_info *worker)
{
    struct key_stats *stats = ctx;

    if (strcmp(stats->instance, worker->instance) != 0) {
        key_stats_flush(stats);
        memcpy(stats->instance, worker->instance, sizeof(stats->instance));
    }
    stats->keys += worker->keys;
    stats->workers++;
    return 0;
}

void controller_route_key_stats(const struct controller_request *request,
                                struct controller_answer *answer)
{
    const struct kvl_host *host = request->view->host;
    struct controller_text *text = &answer->text;
    struct key_stats stats = {0};

    (void)host->registry_ops->list_workers(host->registry, (struct kvl_text){0}, key_stats_worker,
                                           &stats);
    key_stats_flush(&stats);
    answer->media = CONTROLLER_MEDIA_JSON;
    answer->status = 200;
    controller_text_put(text, "{\"total_key_count\":");
    controller_text_unsigned(text, stats.total_keys);
    controller_text_put(text, ",\"total_instance_count\":");
    controller_text_unsigned(text, stats.total_instances);
    controller_text_put(text, ",\"total_worker_count\":");
    controller_text_unsigned(text, stats.total_workers);
    controller_text_put(text, ",\"instances\":[");
    controller_text_bytes(text, stats.instances.at, stats.instances.used);
    text->failed = text->failed || stats.instances.failed;
    controller_text_put(text, "]}");
    controller_text_fini(&stats.instances);
}

/* ---- /threads ---- */

static void threads_one(struct controller_text *text, const char *task)
{
    char path[64];
    char name[32] = "";
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", task);
    file = fopen(path, "re");
    if (file == NULL) {
        return; /* it has just ended */
    }
    if (fgets(name, sizeof(name), file) != NULL) {
        name[strcspn(name, "\n")] = '\0';
        controller_text_add(text, "Thread: <%s, %s>\n", name, task);
    }
    (void)fclose(file);
}

/* Names and numbers only: what threads of an engine do is nobody's business here. */
void controller_route_threads(const struct controller_request *request,
                              struct controller_answer *answer)
{
    DIR *folder = opendir("/proc/self/task");
    const struct dirent *entry;
    unsigned count = 0;

    (void)request;
    answer->media = CONTROLLER_MEDIA_TEXT;
    answer->status = 200;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            threads_one(&answer->text, entry->d_name);
            count++;
        }
    }
    if (folder != NULL) {
        (void)closedir(folder);
    }
    controller_text_add(&answer->text, "\n=== Thread Summary ===\nTotal threads: %u\n", count);
}
