/* SPDX-License-Identifier: Apache-2.0 */
#include "controller_routes.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include "controller_http_body.h"
#include "controller_orchestrate.h"

/** A route that becomes an orchestration message. */
struct controller_order {
    enum controller_type type;
    const char *prefix; /* of the event id that we make up */
    const struct controller_field *fields;
    void (*write)(const struct controller_msg *reply, struct controller_answer *answer);
    bool waits; /* for workers */
    bool own_event_id; /* the message goes on under the id in the body */
};

void controller_answer_detail(struct controller_answer *answer, unsigned status, const char *text)
{
    controller_text_fini(&answer->text);
    answer->status = status;
    answer->media = CONTROLLER_MEDIA_JSON;
    controller_text_put(&answer->text, "{\"detail\":");
    controller_text_json0(&answer->text, text);
    controller_text_put(&answer->text, "}");
}

/* ---- fields of the bodies ---- */

#define TEXT(name)                                                                                 \
    {                                                                                              \
#name, CONTROLLER_FIELD_TEXT, 0, offsetof(struct controller_msg, name)                     \
    }
#define TOKENS(flags)                                                                              \
    {                                                                                              \
        "tokens", CONTROLLER_FIELD_INTS, flags, offsetof(struct controller_msg, ids)               \
    }
#define PLACE(name)                                                                                \
    {                                                                                              \
#name, CONTROLLER_FIELD_PLACE, 0, offsetof(struct controller_msg, name)                    \
    }
#define MAY_BE_ABSENT (CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE)
#define END                                                                                        \
    {                                                                                              \
        NULL, CONTROLLER_FIELD_TEXT, 0, 0                                                          \
    }

static const struct controller_field lookup_fields[] = {TOKENS(0), END};
static const struct controller_field query_inst_fields[] = {TEXT(event_id), TEXT(ip), END};
static const struct controller_field clear_fields[] = {TEXT(instance_id), TEXT(location), END};
static const struct controller_field pin_fields[] = {TEXT(instance_id), TEXT(location), TOKENS(0),
                                                     END};
static const struct controller_field compress_fields[] = {
    TEXT(instance_id), TEXT(method), TEXT(location), TOKENS(MAY_BE_ABSENT), END};
static const struct controller_field move_fields[] = {
    PLACE(old_position),
    PLACE(new_position),
    TOKENS(MAY_BE_ABSENT),
    {"should_copy", CONTROLLER_FIELD_BOOL, MAY_BE_ABSENT, offsetof(struct controller_msg, copy)},
    END,
};
static const struct controller_field health_fields[] = {TEXT(instance_id), END};
static const struct controller_field check_finish_fields[] = {TEXT(event_id), END};
static const struct controller_field worker_info_fields[] = {
    TEXT(instance_id),
    {"worker_ids", CONTROLLER_FIELD_INTS, MAY_BE_ABSENT | CONTROLLER_FIELD_NULL,
     offsetof(struct controller_msg, ids)},
    END,
};

/* ---- answers ---- */

static void text_of(struct controller_text *text, const struct kvl_text *value)
{
    controller_text_json(text, value->text, value->length);
}

static void write_event_id(const struct controller_msg *reply, struct controller_text *text)
{
    controller_text_put(text, "{\"event_id\":");
    text_of(text, &reply->event_id);
    controller_text_put(text, ",");
}

static void write_layout(const struct controller_msg *reply, struct controller_answer *answer)
{
    struct controller_text *text = &answer->text;

    write_event_id(reply, text);
    controller_text_put(text, "\"layout_info\":{");
    for (uint32_t i = 0; i < reply->layout_info.count; i++) {
        const struct controller_layout *layout = &reply->layout_info.at[i];

        controller_text_put(text, i > 0 ? "," : "");
        text_of(text, &layout->instance_id);
        controller_text_put(text, ":[");
        text_of(text, &layout->location);
        controller_text_put(text, ",");
        controller_text_signed(text, layout->count);
        controller_text_put(text, "]");
    }
    controller_text_put(text, "}}");
}

static void write_found_instance(const struct controller_msg *reply,
                                 struct controller_answer *answer)
{
    if (!reply->found_instance.is_set) {
        controller_answer_detail(answer, 500, "no worker with this ip is registered");
        return;
    }
    write_event_id(reply, &answer->text);
    controller_text_put(&answer->text, "\"res\":");
    text_of(&answer->text, &reply->found_instance.value);
    controller_text_put(&answer->text, "}");
}

static void write_num_tokens(const struct controller_msg *reply, struct controller_answer *answer)
{
    write_event_id(reply, &answer->text);
    controller_text_put(&answer->text, "\"num_tokens\":");
    controller_text_signed(&answer->text, reply->number);
    controller_text_put(&answer->text, "}");
}

static void write_health(const struct controller_msg *reply, struct controller_answer *answer)
{
    struct controller_text *text = &answer->text;

    write_event_id(reply, text);
    controller_text_put(text, "\"error_codes\":{");
    for (uint32_t i = 0; i < reply->error_codes.count; i++) {
        controller_text_put(text, i > 0 ? ",\"" : "\"");
        controller_text_signed(text, reply->error_codes.at[i].worker_id);
        controller_text_put(text, "\":");
        controller_text_signed(text, reply->error_codes.at[i].code);
    }
    controller_text_put(text, "}}");
}

static void write_status(const struct controller_msg *reply, struct controller_answer *answer)
{
    controller_text_put(&answer->text, "{\"status\":");
    text_of(&answer->text, &reply->error);
    controller_text_put(&answer->text, "}");
}

static void write_worker_infos(const struct controller_msg *reply, struct controller_answer *answer)
{
    struct controller_text *text = &answer->text;

    write_event_id(reply, text);
    controller_text_put(text, "\"worker_infos\":[");
    for (uint32_t i = 0; i < reply->worker_infos.count; i++) {
        const struct controller_worker_info *info = &reply->worker_infos.at[i];

        controller_text_put(text, i > 0 ? ",{\"instance_id\":" : "{\"instance_id\":");
        text_of(text, &info->instance_id);
        controller_text_put(text, ",\"worker_id\":");
        controller_text_signed(text, info->worker_id);
        controller_text_put(text, ",\"ip\":");
        text_of(text, &info->ip);
        controller_text_put(text, ",\"port\":");
        controller_text_signed(text, info->port);
        controller_text_put(text, ",\"peer_init_url\":");
        if (info->peer_init_url.is_set) {
            text_of(text, &info->peer_init_url.value);
        } else {
            controller_text_put(text, "null");
        }
        controller_text_put(text, ",\"registration_time\":");
        controller_text_real(text, info->registration_time);
        controller_text_put(text, ",\"last_heartbeat_time\":");
        controller_text_real(text, info->last_heartbeat_time);
        controller_text_put(text, "}");
    }
    controller_text_put(text, "]}");
}

/* ---- requests that become a message ---- */

/* prefix + a random UUID. */
static void order_event_id(const char *prefix, char *text_out, size_t size)
{
    unsigned char r[16];

    /* does not fail for so few bytes; an id that repeats would only confuse readers of logs */
    if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r)) {
        memset(r, 0, sizeof(r));
    }
    r[6] = (unsigned char)((r[6] & 0x0f) | 0x40);
    r[8] = (unsigned char)((r[8] & 0x3f) | 0x80);
    (void)snprintf(text_out, size,
                   "%s%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", prefix,
                   r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8], r[9], r[10], r[11], r[12],
                   r[13], r[14], r[15]);
}

/* `application/json`, `application/anything+json`, or no word about it. */
static bool order_is_json(const char *type)
{
    size_t length;

    if (type == NULL) {
        return true;
    }
    length = strcspn(type, "; ");
    return strncasecmp(type, "application/", 12) == 0 &&
           ((length == 16 && strncasecmp(type + 12, "json", 4) == 0) ||
            (length > 17 && strncasecmp(type + length - 5, "+json", 5) == 0));
}

static void order_count(const struct controller_request *request,
                        const struct controller_msg *reply)
{
    if (reply->type == CONTROLLER_LOOKUP_RET) {
        atomic_fetch_add_explicit(&request->view->counts[CONTROLLER_HTTP_LOOKUPS], 1,
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&request->view->counts[CONTROLLER_HTTP_LOOKUP_HITS],
                                  reply->layout_info.count > 0, memory_order_relaxed);
    }
}

static void order_execute(const struct controller_request *request,
                          const struct controller_msg *msg, struct controller_answer *answer)
{
    const struct controller_order *order = request->route->order;
    struct controller_msg reply = {0};
    char detail[1024];
    int r = controller_orchestrate(request->view->server, msg, request->arena, &reply);

    if (r == -ECANCELED) {
        controller_answer_detail(answer, 503, "the controller stops");
    } else if (r < 0) {
        controller_answer_detail(answer, 500, strerror(-r));
    } else if (reply.type == CONTROLLER_ERROR) {
        (void)snprintf(detail, sizeof(detail), "%.*s", (int)reply.error.length,
                       reply.error.length > 0 ? reply.error.text : "");
        controller_answer_detail(answer, 500, detail);
    } else {
        order_count(request, &reply);
        answer->status = 200;
        order->write(&reply, answer);
    }
}

static void route_order(const struct controller_request *request, struct controller_answer *answer)
{
    const struct controller_order *order = request->route->order;
    struct controller_msg msg = {.type = order->type};
    struct controller_body body = {0};
    char event_id[64];
    int r;

    answer->media = CONTROLLER_MEDIA_JSON;
    answer->status = 422;
    if (!order_is_json(request->content_type)) {
        controller_body_refuse_raw(request->body, request->length, &answer->text);
        return;
    }
    r = controller_body_read(order->fields, request->body, request->length, &body, &msg,
                             &answer->text);
    if (r == 0) {
        if (!order->own_event_id) {
            order_event_id(order->prefix, event_id, sizeof(event_id));
            msg.event_id =
                (struct kvl_text){.text = event_id, .length = (uint32_t)strlen(event_id)};
        }
        order_execute(request, &msg, answer);
    } else if (r == -EILSEQ) {
        controller_answer_detail(answer, 400, "There was an error parsing the body");
    } else if (r != -EPROTO) {
        controller_answer_detail(answer, 503, strerror(-r));
    }
    controller_body_fini(&body);
}

static const struct controller_order order_lookup = {
    .type = CONTROLLER_LOOKUP, .prefix = "Lookup", .fields = lookup_fields, .write = write_layout};
static const struct controller_order order_query_inst = {.type = CONTROLLER_QUERY_INST,
                                                         .prefix = "QueryInst",
                                                         .fields = query_inst_fields,
                                                         .write = write_found_instance};
static const struct controller_order order_clear = {.type = CONTROLLER_CLEAR,
                                                    .prefix = "Clear",
                                                    .fields = clear_fields,
                                                    .write = write_num_tokens,
                                                    .waits = true};
static const struct controller_order order_pin = {.type = CONTROLLER_PIN,
                                                  .prefix = "Pin",
                                                  .fields = pin_fields,
                                                  .write = write_num_tokens,
                                                  .waits = true};
static const struct controller_order order_compress = {.type = CONTROLLER_COMPRESS,
                                                       .prefix = "Compress",
                                                       .fields = compress_fields,
                                                       .write = write_num_tokens,
                                                       .waits = true};
static const struct controller_order order_decompress = {.type = CONTROLLER_DECOMPRESS,
                                                         .prefix = "Decompress",
                                                         .fields = compress_fields,
                                                         .write = write_num_tokens,
                                                         .waits = true};
static const struct controller_order order_move = {.type = CONTROLLER_MOVE,
                                                   .prefix = "Move",
                                                   .fields = move_fields,
                                                   .write = write_num_tokens,
                                                   .waits = true};
static const struct controller_order order_health = {.type = CONTROLLER_HEALTH,
                                                     .prefix = "health",
                                                     .fields = health_fields,
                                                     .write = write_health,
                                                     .waits = true};
static const struct controller_order order_check_finish = {.type = CONTROLLER_CHECK_FINISH,
                                                           .fields = check_finish_fields,
                                                           .write = write_status,
                                                           .own_event_id = true};
static const struct controller_order order_worker_info = {.type = CONTROLLER_QUERY_WORKER_INFO,
                                                          .prefix = "QueryWorkerInfo",
                                                          .fields = worker_info_fields,
                                                          .write = write_worker_infos};

/* ---- the others ---- */

static void route_page(const struct controller_request *request, struct controller_answer *answer)
{
    (void)request;
    answer->status = 200;
    answer->media = CONTROLLER_MEDIA_PAGE;
}

/* ---- the table ---- */

static const struct controller_route routes[] = {
    {"POST", "/lookup", route_order, &order_lookup},
    {"POST", "/query_instance", route_order, &order_query_inst},
    {"POST", "/clear", route_order, &order_clear},
    {"POST", "/pin", route_order, &order_pin},
    {"POST", "/compress", route_order, &order_compress},
    {"POST", "/decompress", route_order, &order_decompress},
    {"POST", "/move", route_order, &order_move},
    {"POST", "/health", route_order, &order_health},
    {"POST", "/check_finish", route_order, &order_check_finish},
    {"POST", "/query_worker_info", route_order, &order_worker_info},
    {"GET", "/controller/workers", controller_route_workers, NULL},
    {"GET", "/controller/key-stats", controller_route_key_stats, NULL},
    {"GET", "/controller/overview", controller_route_overview, NULL},
    {"GET", "/metrics", controller_route_metrics, NULL},
    {"GET", "/threads", controller_route_threads, NULL},
    {"GET", "/explain", controller_route_explain, NULL},
    {"POST", "/explain", controller_route_explain, NULL},
    {"GET", "/", route_page, NULL},
};

const struct controller_route *controller_route_find(const char *method, const char *path,
                                                     const char **allow_out)
{
    *allow_out = NULL;
    if (strcmp(method, "HEAD") == 0) {
        method = "GET";
    }
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (strcmp(path, routes[i].path) == 0) {
            if (strcmp(method, routes[i].method) == 0) {
                *allow_out = NULL;
                return &routes[i];
            }
            *allow_out = *allow_out == NULL ? routes[i].method : "GET, POST";
        }
    }
    return NULL;
}

int controller_route_waits(const struct controller_route *route)
{
    return route->order != NULL && route->order->waits;
}
