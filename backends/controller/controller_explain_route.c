/* SPDX-License-Identifier: Apache-2.0 */
/* /explain: collects the facts and shows what follows from them, as JSON or as text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller_explain.h"
#include "controller_http_body.h"
#include "controller_routes.h"

#define RUNS_SHOWN 8u
#define IDS_IN_URL 1024u

struct question {
    struct controller_ids ids;
    struct controller_ids tokens;
    struct kvl_text instance;
    char instance_text[KVL_NAME_ROOM];
    struct kvl_chunk_id *own_ids; /* owned: from the URL, or from tokens */
};

struct findings {
    struct controller_facts facts;
    struct controller_finding list[CONTROLLER_FINDINGS];
    unsigned count;
    struct kvl_run runs[RUNS_SHOWN];
    int run_count;
    char holder[KVL_NAME_ROOM];
    char silent_worker[KVL_NAME_ROOM + 32];
};

static const struct controller_field explain_fields[] = {
    {"ids", CONTROLLER_FIELD_INTS, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct question, ids)},
    {"tokens", CONTROLLER_FIELD_INTS, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct question, tokens)},
    {"instance_id", CONTROLLER_FIELD_TEXT, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct question, instance)},
    {NULL, CONTROLLER_FIELD_TEXT, 0, 0},
};

/* ---- the question ---- */

static int question_id(const char *text, size_t length, struct kvl_chunk_id *id_out)
{
    char digits[24];
    char *end;

    if (length <= 2 || text[0] != '0' || (text[1] | 0x20) != 'x') {
        return controller_json_digits(text, length, id_out) == CONTROLLER_INT_OK ? 0 : -EINVAL;
    }
    if (length >= sizeof(digits)) {
        return -EINVAL;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    errno = 0;
    *id_out = (struct kvl_chunk_id){.bits = strtoull(digits + 2, &end, 16)};
    return errno == 0 && *end == '\0' && digits[2] != '-' && digits[2] != '+' ? 0 : -EINVAL;
}

/* `12,-5,0xff` */
static int question_ids(struct question *question, const char *text)
{
    uint32_t count = 0;

    question->own_ids = calloc(IDS_IN_URL, sizeof(*question->own_ids));
    if (question->own_ids == NULL) {
        return -ENOMEM;
    }
    while (*text != '\0') {
        size_t length = strcspn(text, ",");

        if (count == IDS_IN_URL || question_id(text, length, &question->own_ids[count]) < 0) {
            return -EINVAL;
        }
        count++;
        text += length;
        text += *text == ',';
    }
    question->ids = (struct controller_ids){.at = question->own_ids, .count = count, .is_set = 1};
    return 0;
}

static int question_from_url(const struct controller_request *request, struct question *question,
                             struct controller_answer *answer)
{
    const char *ids = request->query(request->query_ctx, "ids");
    const char *instance = request->query(request->query_ctx, "instance_id");
    int r = ids == NULL ? 0 : question_ids(question, ids);

    if (r == -EINVAL) {
        answer->status = 422;
        controller_body_refuse_query("ids", ids, &answer->text);
    } else if (r < 0) {
        controller_answer_detail(answer, 503, "no memory");
    }
    if (instance != NULL) {
        question->instance =
            (struct kvl_text){.text = instance, .length = (uint32_t)strlen(instance)};
    }
    return r;
}

static int question_from_body(const struct controller_request *request, struct question *question,
                              struct controller_body *body, struct controller_answer *answer)
{
    int r = controller_body_read(explain_fields, request->body, request->length, body, question,
                                 &answer->text);

    if (r == -EPROTO) {
        answer->status = 422;
    } else if (r == -EILSEQ) {
        controller_answer_detail(answer, 400, "There was an error parsing the body");
    } else if (r < 0) {
        controller_answer_detail(answer, 503, "no memory");
    }
    return r;
}

/* Tokens become ids as /lookup does it. */
static int question_hash(const struct controller_hashing *hashing, struct question *question)
{
    const struct controller_ids *tokens = &question->tokens;
    uint32_t count = controller_hash_chunks(hashing, tokens->count);

    if (tokens->count == 0) {
        return 0;
    }
    question->own_ids = calloc(count, sizeof(*question->own_ids));
    if (question->own_ids == NULL) {
        return -ENOMEM;
    }
    controller_hash_chain(hashing, tokens->at, tokens->count, question->own_ids);
    question->ids = (struct controller_ids){.at = question->own_ids, .count = count, .is_set = 1};
    return 0;
}

/* ---- the facts ---- */

static int facts_worker(void *ctx, const struct kvl_worker_info *worker)
{
    struct findings *findings = ctx;
    struct controller_facts *facts = &findings->facts;

    facts->never_heartbeat += !worker->has_heartbeat;
    facts->without_url += (worker->flags & KVL_WORKER_HAS_PEER_URL) == 0;
    facts->failed_syncs += worker->sync_state == KVL_SYNC_FAILED;
    facts->instance_known |= strcmp(worker->instance, facts->instance) == 0;
    if (worker->is_silent && worker->silent_ms >= facts->silent_ms) {
        facts->silent_ms = worker->silent_ms;
        (void)snprintf(findings->silent_worker, sizeof(findings->silent_worker), "%s/%lld",
                       worker->instance, (long long)worker->worker_id);
    }
    return 0;
}

/* Would the first chunk be found if tokens were hashed as others do? */
static void facts_ways(const struct kvl_host *host, const struct question *question,
                       struct controller_facts *facts)
{
    const struct controller_ids *tokens = &question->tokens;
    struct controller_way way;

    for (uint32_t i = 1; controller_explain_way(&facts->hashing, i, &way); i++) {
        struct kvl_chunk_id id;

        if (tokens->count < way.hashing.chunk_size) {
            continue;
        }
        controller_hash_chain(&way.hashing, tokens->at, way.hashing.chunk_size, &id);
        if (host->registry_ops->has(host->registry, &id)) {
            facts->has_way = true;
            facts->way = way;
            facts->way_id = id;
            return;
        }
    }
}

/* A worker asks for peers it can fetch from; nobody in particular asks as /lookup does. */
static void facts_runs(const struct kvl_host *host, const struct question *question,
                       struct findings *findings)
{
    struct controller_facts *facts = &findings->facts;
    const struct kvl_find find = {
        .size = sizeof(find),
        .flags = question->instance.length > 0 ? KVL_FIND_WITH_URL : 0,
        .ids = question->ids.at,
        .count = question->ids.count,
        .exclude_instance = question->instance,
    };
    struct kvl_prefix prefix;

    facts->registry.size = sizeof(facts->registry);
    (void)host->registry_ops->explain(host->registry, &find, &facts->registry);
    findings->run_count =
        host->registry_ops->find(host->registry, &find, findings->runs, RUNS_SHOWN, NULL);
    if (findings->run_count > 0) {
        facts->held = findings->runs[0].length;
        memcpy(findings->holder, findings->runs[0].instance, sizeof(findings->holder));
    }
    if (question->instance.length == 0 &&
        host->registry_ops->prefix(host->registry, find.ids, find.count, &prefix, 1) == 1) {
        facts->held = prefix.length;
        memcpy(findings->holder, prefix.instance, sizeof(findings->holder));
    }
}

static void facts_collect(const struct controller_view *view, struct question *question,
                          struct findings *findings)
{
    struct controller_facts *facts = &findings->facts;
    const struct kvl_host *host = view->host;

    (void)snprintf(question->instance_text, sizeof(question->instance_text), "%.*s",
                   (int)question->instance.length,
                   question->instance.length > 0 ? question->instance.text : "");
    facts->hashing = view->options->hashing;
    facts->ids = question->ids.count;
    facts->tokens = question->tokens.count;
    facts->instance = question->instance_text;
    facts->holder = findings->holder;
    facts->silent_worker = findings->silent_worker;
    facts->stats.size = sizeof(facts->stats);
    host->registry_ops->stats(host->registry, &facts->stats);
    (void)host->registry_ops->list_workers(host->registry, (struct kvl_text){0}, facts_worker,
                                           findings);
    if (facts->ids > 0) {
        facts_runs(host, question, findings);
    }
    if (facts->held == 0 && facts->registry.holders == 0) {
        facts_ways(host, question, facts);
    }
    findings->count = controller_explain(facts, findings->list);
}

/* ---- the answer ---- */

static void show_text(const struct findings *findings, struct controller_text *text)
{
    controller_text_add(
        text, "%u of %u chunk%s found%s%s%s.\n", findings->facts.held, findings->facts.ids,
        findings->facts.ids == 1 ? "" : "s", findings->facts.instance[0] != '\0' ? " for '" : "",
        findings->facts.instance, findings->facts.instance[0] != '\0' ? "' to fetch" : "");
    for (unsigned i = 0; i < findings->count; i++) {
        const struct controller_finding *finding = &findings->list[i];

        controller_text_add(text, "\n%s\n", finding->text);
        if (finding->next[0] != '\0') {
            controller_text_add(text, "  What to do: %s\n", finding->next);
        }
    }
    for (int i = 0; i < findings->run_count; i++) {
        const struct kvl_run *run = &findings->runs[i];

        controller_text_add(text, "%s  %u chunk%s: %s/%lld %s%s%s\n",
                            i == 0 ? "\nHolders, longest run first:\n" : "", run->length,
                            run->length == 1 ? "" : "s", run->instance, (long long)run->worker_id,
                            run->location, run->peer_url[0] != '\0' ? " at " : "", run->peer_url);
    }
}

static void show_json(const struct findings *findings, const struct question *question,
                      struct controller_text *text)
{
    const struct controller_facts *facts = &findings->facts;

    controller_text_add(text, "{\"verdict\":\"%s\",\"found\":%u,\"asked\":%u,\"tokens\":%u",
                        findings->list[0].code, facts->held, facts->ids, facts->tokens);
    controller_text_put(text, ",\"instance_id\":");
    controller_text_json0(text, facts->instance);
    controller_text_put(text, ",\"findings\":[");
    for (unsigned i = 0; i < findings->count; i++) {
        controller_text_add(text, "%s{\"code\":\"%s\",\"text\":", i > 0 ? "," : "",
                            findings->list[i].code);
        controller_text_json0(text, findings->list[i].text);
        controller_text_put(text, ",\"next\":");
        controller_text_json0(text, findings->list[i].next);
        controller_text_put(text, "}");
    }
    controller_text_put(text, "],\"holders\":[");
    for (int i = 0; i < findings->run_count; i++) {
        const struct kvl_run *run = &findings->runs[i];

        controller_text_put(text, i > 0 ? ",{\"instance_id\":" : "{\"instance_id\":");
        controller_text_json0(text, run->instance);
        controller_text_add(text, ",\"worker_id\":%lld,\"chunks\":%u,\"location\":",
                            (long long)run->worker_id, run->length);
        controller_text_json0(text, run->location);
        controller_text_put(text, ",\"peer_init_url\":");
        controller_text_json0(text, run->peer_url);
        controller_text_put(text, "}");
    }
    controller_text_put(text, "],\"first_ids\":[");
    for (uint32_t i = 0; i < question->ids.count && i < RUNS_SHOWN; i++) {
        /* as text: they do not fit into the numbers of JavaScript */
        controller_text_put(text, i > 0 ? ",\"" : "\"");
        controller_text_id(text, &question->ids.at[i]);
        controller_text_put(text, "\"");
    }
    controller_text_put(text, "]}");
}

static void route_answer(const struct controller_request *request, struct question *question,
                         struct controller_answer *answer)
{
    const char *format = request->query(request->query_ctx, "format");
    struct findings *findings;
    int r = question_hash(&request->view->options->hashing, question);

    if (r < 0) {
        controller_answer_detail(answer, 503, "no memory");
        return;
    }
    findings = calloc(1, sizeof(*findings)); /* too large for a stack that we do not know */
    if (findings == NULL) {
        controller_answer_detail(answer, 503, "no memory");
        return;
    }
    facts_collect(request->view, question, findings);
    answer->status = 200;
    if (format != NULL && strcmp(format, "text") == 0) {
        answer->media = CONTROLLER_MEDIA_TEXT;
        show_text(findings, &answer->text);
    } else {
        show_json(findings, question, &answer->text);
    }
    free(findings);
}

void controller_route_explain(const struct controller_request *request,
                              struct controller_answer *answer)
{
    struct question question = {0};
    struct controller_body body = {0};
    int r;

    answer->media = CONTROLLER_MEDIA_JSON;
    r = strcmp(request->route->method, "POST") == 0
            ? question_from_body(request, &question, &body, answer)
            : question_from_url(request, &question, answer);
    if (r == 0 && question.instance.length > KVL_NAME_MAX) {
        controller_answer_detail(answer, 400, "instance_id is longer than 255 bytes");
    } else if (r == 0 && question.ids.count > 0 && question.tokens.count > 0) {
        controller_answer_detail(answer, 400, "give ids or tokens, not both");
    } else if (r == 0) {
        route_answer(request, &question, answer);
    }
    free(question.own_ids);
    controller_body_fini(&body);
}
