/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole registry against a model that is nothing but small arrays walked in order, with a long
 * random sequence of calls. Every answer must be the same, order included.
 */
#include "registry_help.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define INSTANCES 4
#define WORKERS 3
#define LOCATIONS 3
#define IDS 24
#define BATCHES 4
#define STEPS 400000

static const char *const instance_names[INSTANCES] = {"engine-0", "engine-1", "e", "engine-10"};
static const int64_t worker_ids[WORKERS] = {0, 1, -7};
static const char *const location_names[LOCATIONS] = {CPU, DISK, "x"};
static const char *const ips[] = {"10.0.0.1", "10.0.0.2"};
static const char *const urls[] = {NULL, "10.0.0.1:7000", "10.0.0.2:7000"};
static const char *const sync_ids[] = {"s0", "s1"};

/* ---- the model ---- */

struct model_location {
    int name;
    int count;
    bool has[IDS];
};

struct model_worker {
    int id; /* of worker_ids */
    int ip;
    int url;
    uint64_t incarnation;
    struct model_location store[LOCATIONS]; /* only those with keys, in order */
    int store_count;
    bool has_seq[LOCATIONS];
    int64_t seq[LOCATIONS];
    uint32_t state;
    int sync_id; /* -1 = none */
    int expected;
    bool received[BATCHES];
    uint64_t sync_keys;
    uint64_t sync_ms;
    bool has_gap;
    uint64_t gaps;
    uint64_t last_ms;
    bool has_heartbeat;
};

struct model_instance {
    int name;
    struct model_worker workers[WORKERS];
    int count;
};

struct model {
    struct model_instance instances[INSTANCES];
    int count;
    bool need_all;
    uint64_t gaps;
    uint64_t now;
    uint64_t ttl;
    uint64_t sync_timeout;
    bool resync;
};

static struct model_instance *model_instance(struct model *model, int name)
{
    for (int i = 0; i < model->count; i++) {
        if (model->instances[i].name == name) {
            return &model->instances[i];
        }
    }
    return NULL;
}

static struct model_worker *model_worker(struct model *model, int name, int id)
{
    struct model_instance *instance = model_instance(model, name);

    for (int i = 0; instance != NULL && i < instance->count; i++) {
        if (instance->workers[i].id == id) {
            return &instance->workers[i];
        }
    }
    return NULL;
}

static void model_age(const struct model *model, struct model_worker *worker)
{
    if (worker->state == KVL_SYNC_SYNCING && model->now - worker->sync_ms > model->sync_timeout) {
        worker->state = KVL_SYNC_FAILED;
    }
}

static struct model_worker *model_hear(struct model *model, int name, int id)
{
    struct model_worker *worker = model_worker(model, name, id);

    if (worker != NULL) {
        worker->last_ms = model->now;
        model_age(model, worker);
    }
    return worker;
}

static void model_clear(struct model_worker *worker, int location)
{
    for (int i = 0; i < worker->store_count; i++) {
        if (worker->store[i].name == location) {
            memmove(&worker->store[i], &worker->store[i + 1],
                    (size_t)(worker->store_count - i - 1) * sizeof(worker->store[0]));
            worker->store_count--;
            return;
        }
    }
}

static void model_admit(struct model_worker *worker, int location, int id)
{
    int i = 0;

    while (i < worker->store_count && worker->store[i].name != location) {
        i++;
    }
    if (i == worker->store_count) {
        worker->store[i] = (struct model_location){.name = location};
        worker->store_count++;
    }
    worker->store[i].count += !worker->store[i].has[id];
    worker->store[i].has[id] = true;
}

static void model_evict(struct model_worker *worker, int location, int id)
{
    for (int i = 0; i < worker->store_count; i++) {
        struct model_location *store = &worker->store[i];

        if (store->name == location) {
            store->count -= store->has[id];
            store->has[id] = false;
            if (store->count == 0) {
                model_clear(worker, location);
            }
            return;
        }
    }
}

static void model_renew(struct model *model, struct model_worker *worker, int ip, int url,
                        uint64_t incarnation)
{
    worker->ip = ip;
    worker->url = url;
    worker->incarnation = incarnation;
    worker->store_count = 0;
    memset(worker->has_seq, 0, sizeof(worker->has_seq));
    if (worker->state == KVL_SYNC_SYNCING) {
        worker->state = KVL_SYNC_NONE;
        worker->sync_id = -1;
    }
    worker->has_gap = false;
    worker->has_heartbeat = false;
    worker->last_ms = model->now;
}

/* @return true when it was known. */
static bool model_register(struct model *model, int name, int id, int ip, int url,
                           uint64_t incarnation)
{
    struct model_worker *worker = model_worker(model, name, id);
    struct model_instance *instance = model_instance(model, name);
    const bool known = worker != NULL;

    if (instance == NULL) {
        instance = &model->instances[model->count++];
        *instance = (struct model_instance){.name = name};
    }
    if (worker == NULL) {
        worker = &instance->workers[instance->count++];
        *worker = (struct model_worker){.id = id, .sync_id = -1};
    }
    model_renew(model, worker, ip, url, incarnation);
    return known;
}

static uint32_t model_heartbeat(struct model *model, int name, int id, int ip, int url,
                                uint64_t incarnation)
{
    struct model_worker *worker = model_worker(model, name, id);
    uint32_t because = KVL_SYNC_BECAUSE_UNKNOWN;

    if (worker == NULL ||
        (worker->incarnation != 0 && incarnation != 0 && worker->incarnation != incarnation)) {
        model_register(model, name, id, ip, url, incarnation);
        worker = model_worker(model, name, id);
    } else {
        model_age(model, worker);
        because = 0;
        if (model->need_all && worker->state != KVL_SYNC_SYNCING &&
            worker->state != KVL_SYNC_COMPLETED) {
            because = KVL_SYNC_BECAUSE_RESTART;
        } else if (worker->state == KVL_SYNC_FAILED) {
            because = KVL_SYNC_BECAUSE_FAILED;
        } else if (model->resync && worker->has_gap && worker->state != KVL_SYNC_SYNCING) {
            because = KVL_SYNC_BECAUSE_GAP;
        }
    }
    worker->incarnation = incarnation != 0 ? incarnation : worker->incarnation;
    worker->has_heartbeat = true;
    worker->last_ms = model->now;
    return because;
}

static bool model_remove(struct model *model, int name, int id)
{
    struct model_instance *instance = model_instance(model, name);
    const struct model_worker *worker = model_worker(model, name, id);

    if (worker == NULL) {
        return false;
    }
    memmove(&instance->workers[worker - instance->workers], worker + 1,
            (size_t)(instance->workers + instance->count - worker - 1) * sizeof(*worker));
    instance->count--;
    if (instance->count == 0) {
        memmove(instance, instance + 1,
                (size_t)(model->instances + model->count - instance - 1) * sizeof(*instance));
        model->count--;
    }
    return true;
}

static double model_progress(struct model *model, bool *reached)
{
    int all = 0;
    int completed = 0;

    for (int i = 0; i < model->count; i++) {
        for (int w = 0; w < model->instances[i].count; w++) {
            all++;
            completed += model->instances[i].workers[w].state == KVL_SYNC_COMPLETED;
        }
    }
    *reached = all > 0 && (double)completed / all >= 0.8;
    model->need_all = model->need_all && !*reached;
    return all > 0 ? (double)completed / all : 0.0;
}

static bool model_is_silent(const struct model *model, const struct model_worker *worker)
{
    return model->ttl > 0 && worker->has_heartbeat && model->now - worker->last_ms > model->ttl;
}

/* ---- both, side by side ---- */

struct pair {
    struct model model;
    struct fixture fixture;
    struct kvl_registry *registry;
    struct kvl_chunk_id ids[IDS];
    uint64_t random;
};

static uint32_t pick(struct pair *pair, uint32_t below)
{
    pair->random ^= pair->random << 13;
    pair->random ^= pair->random >> 7;
    pair->random ^= pair->random << 17;
    return (uint32_t)((pair->random >> 20) % below);
}

static struct kvl_worker_desc pick_desc(struct pair *pair, int name, int id, int *ip, int *url)
{
    struct kvl_worker_desc desc;

    *ip = (int)pick(pair, 2);
    *url = (int)pick(pair, 3);
    desc = desc_of(instance_names[name], worker_ids[id], urls[*url]);
    desc.ip = text(ips[*ip]);
    desc.incarnation = pick(pair, 8) == 0 ? 1 + pick(pair, 2) : 0;
    return desc;
}

static void do_register(struct pair *pair, int name, int id)
{
    int ip;
    int url;
    const struct kvl_worker_desc desc = pick_desc(pair, name, id, &ip, &url);
    uint32_t known;

    assert_int_equal(kvl_registry_register(pair->registry, &desc, &known), 0);
    assert_int_equal(known, model_register(&pair->model, name, id, ip, url, desc.incarnation));
}

static void do_heartbeat(struct pair *pair, int name, int id)
{
    int ip;
    int url;
    const struct kvl_worker_desc desc = pick_desc(pair, name, id, &ip, &url);
    uint32_t because;

    assert_int_equal(kvl_registry_heartbeat(pair->registry, &desc, &because), 0);
    assert_int_equal(because, model_heartbeat(&pair->model, name, id, ip, url, desc.incarnation));
}

static void do_remove(struct pair *pair, int name, int id)
{
    const struct kvl_worker_name of = name_of(instance_names[name], worker_ids[id]);

    assert_int_equal(kvl_registry_remove(pair->registry, &of),
                     model_remove(&pair->model, name, id) ? 0 : -ENOENT);
}

static int model_apply(struct model *model, int name, int id, int location,
                       const struct kvl_key_op *ops, const int *op_ids, uint32_t count,
                       struct kvl_seq_gap *gap)
{
    struct model_worker *worker = model_hear(model, name, id);

    *gap = (struct kvl_seq_gap){0};
    if (worker == NULL) {
        return -ENOENT;
    }
    if (worker->state == KVL_SYNC_SYNCING) {
        return -EBUSY;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (ops[i].kind == KVL_KEY_ADMIT) {
            model_admit(worker, location, op_ids[i]);
        } else {
            model_evict(worker, location, op_ids[i]);
        }
        if (worker->has_seq[location] && ops[i].seq != worker->seq[location] + 1 && !gap->found) {
            *gap = (struct kvl_seq_gap){worker->seq[location] + 1, ops[i].seq, 1, 0};
        }
        worker->has_seq[location] = true;
        worker->seq[location] = ops[i].seq;
    }
    worker->gaps += gap->found;
    model->gaps += gap->found;
    worker->has_gap = worker->has_gap || gap->found;
    return 0;
}

static void do_apply(struct pair *pair, int name, int id)
{
    const struct kvl_worker_name of = name_of(instance_names[name], worker_ids[id]);
    const int location = (int)pick(pair, LOCATIONS);
    const uint32_t count = pick(pair, 12);
    const uint32_t evicts = pick(pair, 5); /* of 4 */
    const struct model_worker *worker = model_worker(&pair->model, name, id);
    int64_t seq = worker != NULL && worker->has_seq[location] ? worker->seq[location] : -1;
    struct kvl_seq_gap expected;
    struct kvl_seq_gap gap = {0};
    struct kvl_key_op ops[12];
    int op_ids[12];
    int r;

    for (uint32_t i = 0; i < count; i++) {
        op_ids[i] = (int)pick(pair, IDS);
        seq += pick(pair, 40) == 0 ? 3 : 1;
        ops[i] = (struct kvl_key_op){
            .id = pair->ids[op_ids[i]],
            .seq = seq,
            .kind = pick(pair, 4) < evicts ? KVL_KEY_EVICT : KVL_KEY_ADMIT,
        };
    }
    r = model_apply(&pair->model, name, id, location, ops, op_ids, count, &expected);
    assert_int_equal(
        kvl_registry_apply(pair->registry, &of, text(location_names[location]), ops, count, &gap),
        r);
    assert_int_equal(gap.found, expected.found);
    assert_int_equal(gap.expected, expected.expected);
    assert_int_equal(gap.actual, expected.actual);
}

static void do_withdraw(struct pair *pair, int name, int id)
{
    const struct kvl_worker_name of = name_of(instance_names[name], worker_ids[id]);
    struct model_worker *worker = model_worker(&pair->model, name, id);
    const int location = (int)pick(pair, LOCATIONS);
    const int all = pick(pair, 8) == 0;
    struct kvl_chunk_id ids[6];
    int r;

    if (pick(pair, 3) == 0) {
        r = kvl_registry_clear(pair->registry, &of, text(all ? "" : location_names[location]));
        for (int i = 0; worker != NULL && i < LOCATIONS; i++) {
            if (all || i == location) {
                model_clear(worker, i);
            }
        }
    } else {
        for (int i = 0; i < 6; i++) {
            const int one = (int)pick(pair, IDS);

            ids[i] = pair->ids[one];
            if (worker != NULL) {
                model_evict(worker, location, one);
            }
        }
        r = kvl_registry_withdraw(pair->registry, &of, text(location_names[location]), ids, 6);
    }
    assert_int_equal(r, worker != NULL ? 0 : -ENOENT);
}

/* ---- full sync ---- */

static int model_start(struct model *model, struct model_worker *worker, int location, int sync_id,
                       int batches)
{
    if (worker == NULL) {
        return -ENOENT;
    }
    if (worker->state == KVL_SYNC_SYNCING && worker->sync_id != sync_id) {
        return -EBUSY;
    }
    worker->state = KVL_SYNC_SYNCING;
    worker->sync_id = sync_id;
    worker->expected = batches;
    worker->sync_keys = 0;
    worker->sync_ms = model->now;
    worker->has_gap = false;
    worker->has_seq[location] = false;
    memset(worker->received, 0, sizeof(worker->received));
    model_clear(worker, location);
    return 0;
}

static int model_missing(const struct model_worker *worker, int64_t *missing)
{
    int count = 0;

    for (int i = 0; i < worker->expected; i++) {
        if (!worker->received[i]) {
            missing[count++] = i;
        }
    }
    return count;
}

static int model_end(struct model *model, struct model_worker *worker, int sync_id)
{
    int64_t missing[BATCHES];
    bool reached;

    if (worker == NULL) {
        return -ENOENT;
    }
    if (worker->sync_id != sync_id) {
        return -ESTALE;
    }
    if (model_missing(worker, missing) > 0) {
        return worker->state == KVL_SYNC_SYNCING ? -EAGAIN : -ESTALE;
    }
    if (worker->state != KVL_SYNC_COMPLETED) {
        worker->state = KVL_SYNC_COMPLETED;
        model_progress(model, &reached);
    }
    return 0;
}

static void do_batch(struct pair *pair, const struct kvl_worker_name *of,
                     struct model_worker *worker, int location, int sync_id)
{
    const int64_t batch_id = (int64_t)pick(pair, BATCHES + 1) - (pick(pair, 30) == 0);
    const uint32_t count = pick(pair, 5);
    struct kvl_chunk_id ids[5];
    int picked[5];
    int r = 0;

    for (uint32_t i = 0; i < count; i++) {
        picked[i] = (int)pick(pair, IDS);
        ids[i] = pair->ids[picked[i]];
    }
    if (worker == NULL) {
        r = -ENOENT;
    } else if (worker->state != KVL_SYNC_SYNCING || worker->sync_id != sync_id) {
        r = -ESTALE;
    } else if (batch_id < 0 || batch_id >= worker->expected) {
        r = -ERANGE;
    } else {
        worker->sync_keys += worker->received[batch_id] ? 0 : count;
        worker->received[batch_id] = true;
        worker->sync_ms = pair->model.now;
        for (uint32_t i = 0; i < count; i++) {
            model_admit(worker, location, picked[i]);
        }
    }
    assert_int_equal(kvl_registry_sync_batch(pair->registry, of, text(location_names[location]),
                                             text(sync_ids[sync_id]), batch_id, ids, count),
                     r);
}

static void do_status(struct pair *pair, const struct kvl_worker_name *of,
                      const struct model_worker *worker, int sync_id)
{
    struct kvl_sync_status status = {.size = sizeof(status)};
    const bool is_it = worker != NULL && worker->sync_id == sync_id;
    int64_t expected[BATCHES];
    int64_t missing[BATCHES];
    const int count =
        is_it && worker->state == KVL_SYNC_SYNCING ? model_missing(worker, expected) : 0;
    bool reached;
    const double progress = model_progress(&pair->model, &reached);

    assert_int_equal(kvl_registry_sync_status(pair->registry, of, text(sync_ids[sync_id]), &status,
                                              missing, BATCHES),
                     0);
    assert_int_equal(status.is_complete, is_it && worker->state == KVL_SYNC_COMPLETED);
    assert_int_equal(status.missing_count, count);
    assert_memory_equal(missing, expected, (size_t)count * sizeof(missing[0]));
    assert_true(status.global_progress == progress);
    assert_int_equal(status.can_exit_freeze, reached);
}

static void do_sync(struct pair *pair, int name, int id)
{
    const struct kvl_worker_name of = name_of(instance_names[name], worker_ids[id]);
    struct model_worker *worker = model_hear(&pair->model, name, id);
    const int location = (int)pick(pair, LOCATIONS);
    const int sync_id = (int)pick(pair, 2);
    const int batches = (int)pick(pair, BATCHES + 1);
    uint64_t keys = 0;
    int r;

    switch (pick(pair, 6)) {
    case 0:
        r = model_start(&pair->model, worker, location, sync_id, batches);
        assert_int_equal(kvl_registry_sync_start(pair->registry, &of,
                                                 text(location_names[location]),
                                                 text(sync_ids[sync_id]), 0, (uint64_t)batches),
                         r);
        break;
    case 1:
        r = model_end(&pair->model, worker, sync_id);
        assert_int_equal(kvl_registry_sync_end(pair->registry, &of, text(sync_ids[sync_id]), &keys),
                         r);
        assert_int_equal(keys, r == 0 ? worker->sync_keys : 0);
        break;
    case 2:
        do_status(pair, &of, worker, sync_id);
        break;
    default:
        do_batch(pair, &of, worker, location, sync_id);
        break;
    }
}

/* ---- lookups ---- */

struct model_run {
    const struct model_instance *instance;
    const struct model_worker *worker;
    int location;
    uint32_t length;
    uint32_t distance;
    bool same;
};

static bool model_is_better(const struct model_run *a, const struct model_run *b, uint32_t flags)
{
    if ((flags & KVL_FIND_SAME_WORKER) != 0 && a->same != b->same) {
        return a->same;
    }
    if (a->length != b->length) {
        return a->length > b->length;
    }
    return (flags & KVL_FIND_NEAR) != 0 && a->distance < b->distance;
}

/* Each new one goes behind all that are as good: what is left is scan order. */
static void model_insert(struct model_run *runs, uint32_t count, const struct model_run *run,
                         uint32_t flags)
{
    uint32_t at = count;

    while (at > 0 && model_is_better(run, &runs[at - 1], flags)) {
        runs[at] = runs[at - 1];
        at--;
    }
    runs[at] = *run;
}

struct question {
    uint32_t flags;
    int exclude; /* of instance_names, -1 = none */
    int own;
    int own_ip;
    int worker;
    uint32_t count;
    int picked[8];
};

static uint32_t model_find(const struct model *model, const struct question *question,
                           struct model_run *runs)
{
    uint32_t count = 0;

    for (int i = 0; i < model->count; i++) {
        const struct model_instance *instance = &model->instances[i];

        for (int w = 0; w < instance->count && instance->name != question->exclude; w++) {
            const struct model_worker *worker = &instance->workers[w];

            if (((question->flags & KVL_FIND_WITH_URL) != 0 && worker->url == 0) ||
                model_is_silent(model, worker)) {
                continue;
            }
            for (int l = 0; l < worker->store_count; l++) {
                struct model_run run = {
                    .instance = instance,
                    .worker = worker,
                    .location = worker->store[l].name,
                    .same = worker->id == question->worker,
                    .distance = instance->name == question->own  ? KVL_DISTANCE_OWN
                                : worker->ip == question->own_ip ? KVL_DISTANCE_HOST
                                                                 : KVL_DISTANCE_PEER,
                };

                while (run.length < question->count &&
                       worker->store[l].has[question->picked[run.length]]) {
                    run.length++;
                }
                if (run.length > 0) {
                    model_insert(runs, count++, &run, question->flags);
                }
            }
        }
    }
    return count;
}

static void pick_question(struct pair *pair, struct question *question, struct kvl_chunk_id *ids)
{
    const int first = (int)pick(pair, IDS);
    const int step = 1 + (int)pick(pair, 3);

    *question = (struct question){
        .flags = pick(pair, 8),
        .exclude = (int)pick(pair, INSTANCES + 2) - 1, /* the last is nobody */
        .own = (int)pick(pair, INSTANCES + 1) - 1,
        .own_ip = (int)pick(pair, 3) - 1,
        .worker = (int)pick(pair, WORKERS),
        .count = pick(pair, 9),
    };
    question->exclude = question->exclude == INSTANCES ? -1 : question->exclude;
    for (uint32_t i = 0; i < question->count; i++) {
        question->picked[i] = (first + (int)i * step) % IDS;
        ids[i] = pair->ids[question->picked[i]];
    }
}

static void assert_run(const struct kvl_run *run, const struct model_run *expected)
{
    const char *url = urls[expected->worker->url];

    assert_string_equal(run->instance, instance_names[expected->instance->name]);
    assert_int_equal(run->worker_id, worker_ids[expected->worker->id]);
    assert_string_equal(run->location, location_names[expected->location]);
    assert_string_equal(run->peer_url, url != NULL ? url : "");
    assert_string_equal(run->ip, ips[expected->worker->ip]);
    assert_int_equal(run->incarnation, expected->worker->incarnation);
    assert_int_equal(run->length, expected->length);
    assert_int_equal(run->distance, expected->distance);
}

static void do_find(struct pair *pair)
{
    struct model_run expected[INSTANCES * WORKERS * LOCATIONS];
    struct kvl_run runs[INSTANCES * WORKERS * LOCATIONS];
    const uint32_t room = 1 + pick(pair, INSTANCES * WORKERS * LOCATIONS);
    struct kvl_chunk_id ids[8];
    struct question question;
    struct kvl_find query;
    uint32_t total = 0;
    uint32_t count;
    int found;

    pick_question(pair, &question, ids);
    query = (struct kvl_find){
        .size = sizeof(query),
        .flags = question.flags,
        .ids = ids,
        .count = question.count,
        .exclude_instance = text(question.exclude < 0 ? "" : instance_names[question.exclude]),
        .own_instance = text(question.own < 0 ? "" : instance_names[question.own]),
        .own_ip = text(question.own_ip < 0 ? "" : ips[question.own_ip]),
        .worker_id = worker_ids[question.worker],
    };
    count = model_find(&pair->model, &question, expected);
    found = kvl_registry_find(pair->registry, &query, runs, room, &total);
    assert_int_equal(total, count);
    assert_int_equal(found, count < room ? count : room);
    for (int i = 0; i < found; i++) {
        assert_run(&runs[i], &expected[i]);
    }
}

/* Where the instance has the id first, or -1. */
static int model_where(const struct model_instance *instance, const struct model *model, int id)
{
    for (int w = 0; w < instance->count; w++) {
        const struct model_worker *worker = &instance->workers[w];

        for (int l = 0; l < worker->store_count && !model_is_silent(model, worker); l++) {
            if (worker->store[l].has[id]) {
                return worker->store[l].name;
            }
        }
    }
    return -1;
}

static void do_prefix(struct pair *pair)
{
    const struct model *model = &pair->model;
    struct kvl_prefix out[INSTANCES];
    struct kvl_chunk_id ids[8];
    struct question question;
    uint32_t lengths[INSTANCES] = {0};
    int places[INSTANCES];
    int expected = 0;
    int found;
    int at = 0;

    pick_question(pair, &question, ids);
    for (int i = 0; i < model->count; i++) {
        int place;

        while (lengths[i] < question.count &&
               (place = model_where(&model->instances[i], model, question.picked[lengths[i]])) >=
                   0) {
            places[i] = place;
            lengths[i]++;
        }
        expected += lengths[i] > 0;
    }
    found = kvl_registry_prefix(pair->registry, ids, question.count, out, INSTANCES);
    assert_int_equal(found, expected);
    for (uint32_t length = 8; length > 0; length--) {
        for (int i = 0; i < model->count; i++) {
            if (lengths[i] == length) {
                assert_string_equal(out[at].instance, instance_names[model->instances[i].name]);
                assert_string_equal(out[at].location, location_names[places[i]]);
                assert_int_equal(out[at].length, length);
                at++;
            }
        }
    }
}

static void do_has(struct pair *pair)
{
    const int id = (int)pick(pair, IDS);
    int expected = 0;

    for (int i = 0; i < pair->model.count; i++) {
        for (int w = 0; w < pair->model.instances[i].count; w++) {
            const struct model_worker *worker = &pair->model.instances[i].workers[w];

            for (int l = 0; l < worker->store_count; l++) {
                expected = expected || worker->store[l].has[id];
            }
        }
    }
    assert_int_equal(kvl_registry_has(pair->registry, &pair->ids[id]), expected);
}

/* ---- time, and everything at once ---- */

static int count_worker(void *ctx, const struct kvl_worker_info *worker)
{
    (void)worker;
    ++*(int *)ctx;
    return 0;
}

static void do_reap(struct pair *pair)
{
    const uint64_t timeout = 400 + pick(pair, 400);
    int expected = 0;
    int told = 0;

    for (int name = 0; name < INSTANCES; name++) {
        for (int id = 0; id < WORKERS; id++) {
            const struct model_worker *worker = model_worker(&pair->model, name, id);

            if (worker != NULL && worker->has_heartbeat &&
                pair->model.now - worker->last_ms > timeout) {
                model_remove(&pair->model, name, id);
                expected++;
            }
        }
    }
    assert_int_equal(kvl_registry_reap(pair->registry, timeout, count_worker, &told), expected);
    assert_int_equal(told, expected);
}

struct listing {
    const struct pair *pair;
    int instance;
    int worker;
    uint64_t keys;
};

static int check_worker(void *ctx, const struct kvl_worker_info *info)
{
    struct listing *listing = ctx;
    const struct model *model = &listing->pair->model;
    const struct model_instance *instance = &model->instances[listing->instance];
    struct model_worker worker = instance->workers[listing->worker];
    uint64_t keys = 0;

    assert_true(listing->instance < model->count);
    model_age(model, &worker);
    for (int l = 0; l < worker.store_count; l++) {
        keys += (uint64_t)worker.store[l].count;
    }
    assert_string_equal(info->instance, instance_names[instance->name]);
    assert_int_equal(info->worker_id, worker_ids[worker.id]);
    assert_int_equal(info->keys, keys);
    assert_int_equal(info->locations, worker.store_count);
    assert_int_equal(info->sync_state, worker.state);
    assert_int_equal(info->gaps, worker.gaps);
    assert_int_equal(info->has_heartbeat, worker.has_heartbeat);
    assert_int_equal(info->is_silent, model_is_silent(model, &worker));
    assert_int_equal(info->silent_ms, model->now - worker.last_ms);
    assert_int_equal(info->incarnation, worker.incarnation);
    assert_string_equal(info->ip, ips[worker.ip]);
    listing->keys += keys;
    if (++listing->worker == instance->count) {
        listing->worker = 0;
        listing->instance++;
    }
    return 0;
}

static void do_list(struct pair *pair)
{
    struct listing listing = {.pair = pair};
    const struct kvl_registry_stats stats = stats_of(pair->registry);

    assert_int_equal(kvl_registry_list_workers(pair->registry, text(""), check_worker, &listing),
                     0);
    assert_int_equal(listing.instance, pair->model.count);
    assert_int_equal(stats.instances, pair->model.count);
    assert_int_equal(stats.keys, listing.keys);
    assert_int_equal(stats.gaps, pair->model.gaps);
    assert_int_equal(stats.dropped, 0);
}

static int count_ids(void *ctx, const struct kvl_chunk_id *ids, uint32_t count)
{
    (void)ids;
    *(uint64_t *)ctx += count;
    return 0;
}

static void do_list_keys(struct pair *pair, int name, int id)
{
    const struct kvl_worker_name of = name_of(instance_names[name], worker_ids[id]);
    const struct model_worker *worker = model_worker(&pair->model, name, id);
    const int location = (int)pick(pair, LOCATIONS);
    uint64_t expected = 0;
    uint64_t count = 0;

    for (int l = 0; worker != NULL && l < worker->store_count; l++) {
        expected += worker->store[l].name == location ? (uint64_t)worker->store[l].count : 0;
    }
    assert_int_equal(kvl_registry_list_keys(pair->registry, &of, text(location_names[location]),
                                            count_ids, &count),
                     worker != NULL ? 0 : -ENOENT);
    assert_int_equal(count, expected);
}

static void do_time(struct pair *pair)
{
    struct kvl_registry_settings settings = default_settings();

    pair->model.now += pick(pair, 60);
    pair->fixture.now_ms = pair->model.now;
    pair->fixture.unix_time += (double)pick(pair, 1000) - 500;
    if (pick(pair, 20) == 0) {
        pair->model.ttl = pick(pair, 2) * 300;
        pair->model.resync = pick(pair, 2) != 0;
        settings.worker_ttl_ms = pair->model.ttl;
        settings.resync_after_gap = pair->model.resync;
        settings.sync_timeout_ms = pair->model.sync_timeout;
        kvl_registry_configure(pair->registry, &settings);
    }
}

static void tidy_both(struct pair *pair)
{
    kvl_registry_tidy(pair->registry, pick(pair, 50));
    for (int i = 0; i < pair->model.count; i++) {
        for (int w = 0; w < pair->model.instances[i].count; w++) {
            model_age(&pair->model, &pair->model.instances[i].workers[w]);
        }
    }
}

static void step(struct pair *pair)
{
    const int name = (int)pick(pair, INSTANCES);
    const int id = (int)pick(pair, WORKERS);
    const uint32_t what = pick(pair, 100);

    if (what < 5) {
        do_register(pair, name, id);
    } else if (what < 10) {
        do_heartbeat(pair, name, id);
    } else if (what < 12) {
        do_remove(pair, name, id);
    } else if (what < 40) {
        do_apply(pair, name, id);
    } else if (what < 44) {
        do_withdraw(pair, name, id);
    } else if (what < 55) {
        do_sync(pair, name, id);
    } else if (what < 75) {
        do_find(pair);
    } else if (what < 85) {
        do_prefix(pair);
    } else if (what < 88) {
        do_has(pair);
    } else if (what < 90) {
        do_list(pair);
    } else if (what < 92) {
        do_list_keys(pair, name, id);
    } else if (what < 93) {
        do_reap(pair);
    } else if (what < 94) {
        tidy_both(pair);
    } else {
        do_time(pair);
    }
}

static void run(uint64_t seed, int steps)
{
    static struct pair pair;
    struct kvl_registry_settings settings = default_settings();

    pair = (struct pair){
        .model = {.need_all = true, .now = 5, .sync_timeout = 700},
        .fixture = {.now_ms = 5, .unix_time = 1.7e9},
        .random = seed * 0x9e3779b97f4a7c15ull + 1,
    };
    for (int i = 0; i < IDS; i++) { /* with pairs of the same bits and another sign */
        pair.ids[i] = (struct kvl_chunk_id){
            .bits = UINT64_MAX - (uint64_t)i / 2 * 0x123456789ull,
            .negative = i % 2,
        };
    }
    pair.registry = make_registry(&pair.fixture, 0);
    settings.sync_timeout_ms = pair.model.sync_timeout;
    kvl_registry_configure(pair.registry, &settings);
    for (int i = 0; i < steps; i++) {
        step(&pair);
    }
    kvl_registry_destroy(pair.registry);
}

static void test_like_the_model(void **state)
{
    const char *seed = getenv("KVL_TEST_SEED");

    (void)state;
    if (seed != NULL) {
        run(strtoull(seed, NULL, 10), STEPS * 10);
        return;
    }
    for (uint64_t i = 1; i <= 4; i++) {
        run(i, STEPS / 4);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_the_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
