/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of HTTP requests. What is refused is told in JSON that we can read ourselves; what is
 * taken lies within the body or its memory. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "controller_http_body.h"
#include "utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct record {
    struct kvl_text name;
    struct controller_ids ids;
    struct controller_position place;
    int flag;
};

static const struct controller_field fields[] = {
    {"name", CONTROLLER_FIELD_TEXT, 0, offsetof(struct record, name)},
    {"ids", CONTROLLER_FIELD_INTS, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct record, ids)},
    {"place", CONTROLLER_FIELD_PLACE, CONTROLLER_FIELD_OPTIONAL, offsetof(struct record, place)},
    {"flag", CONTROLLER_FIELD_BOOL, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct record, flag)},
    {NULL, CONTROLLER_FIELD_TEXT, 0, 0},
};

static void check(int ok)
{
    if (!ok) {
        abort();
    }
}

static void check_text(const struct kvl_text *text)
{
    for (uint32_t i = 0; i < text->length;) {
        size_t step = kvl_utf8_sequence(text->text + i, text->length - i);

        check(step > 0);
        i += (uint32_t)step;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct controller_body body = {0};
    struct controller_text refusal = {0};
    struct controller_json_error error;
    struct controller_json value;
    struct record record = {0};
    int r = controller_body_read(fields, (const char *)data, size, &body, &record, &refusal);

    if (r == 0) {
        check(controller_json_check((const char *)data, size, &value, &error) == 0);
        controller_json_copy(&refusal, &value);
        check(controller_json_check(refusal.at, refusal.used, &value, &error) == 0);
        check_text(&record.name);
        check_text(&record.place.first);
        check_text(&record.place.location);
        check(record.flag >= -1 && record.flag <= 1);
        check(record.ids.count <= size);
    } else if (r == -EPROTO) {
        check(controller_json_check(refusal.at, refusal.used, &value, &error) == 0);
    } else {
        check(r == -EILSEQ);
    }
    controller_text_fini(&refusal);
    controller_body_fini(&body);
    return 0;
}
