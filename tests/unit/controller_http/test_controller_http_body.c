/* SPDX-License-Identifier: Apache-2.0 */
/* What LMCache's own controller says to bad bodies is replayed by tests/interop; here is what that
 * cannot show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller_http_body.h"

struct record {
    struct kvl_text name;
    struct controller_ids ids;
    struct controller_ids more;
    struct controller_position place;
    int flag;
};

static const struct controller_field fields[] = {
    {"name", CONTROLLER_FIELD_TEXT, 0, offsetof(struct record, name)},
    {"ids", CONTROLLER_FIELD_INTS, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct record, ids)},
    {"more", CONTROLLER_FIELD_INTS,
     CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE | CONTROLLER_FIELD_NULL,
     offsetof(struct record, more)},
    {"place", CONTROLLER_FIELD_PLACE, CONTROLLER_FIELD_OPTIONAL, offsetof(struct record, place)},
    {"flag", CONTROLLER_FIELD_BOOL, CONTROLLER_FIELD_OPTIONAL | CONTROLLER_FIELD_NULLABLE,
     offsetof(struct record, flag)},
    {NULL, CONTROLLER_FIELD_TEXT, 0, 0},
};

struct rig {
    struct record record;
    struct controller_body body;
    struct controller_text refusal;
    char *text;
};

static int set_up(void **state)
{
    *state = calloc(1, sizeof(struct rig));
    return 0;
}

static int tear_down(void **state)
{
    struct rig *rig = *state;

    controller_body_fini(&rig->body);
    controller_text_fini(&rig->refusal);
    free(rig->text);
    free(rig);
    return 0;
}

static int read_body(struct rig *rig, const char *json)
{
    size_t length = strlen(json);

    rig->text = malloc(length > 0 ? length : 1); /* no terminator behind it */
    memcpy(rig->text, json, length);
    return controller_body_read(fields, rig->text, length, &rig->body, &rig->record, &rig->refusal);
}

static void assert_text(const struct kvl_text *got, const char *text)
{
    assert_int_equal(got->length, strlen(text));
    assert_memory_equal(got->text, text, got->length);
}

static void test_all_fields(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(read_body(rig, "{\"flag\":\"off\",\"place\":[\"\\u0061\\\"\",\"\\u00e9\"],"
                                    "\"more\":[\"5\"],\"ids\":[-1,2.0,true],\"name\":\"x\\ny\"}"),
                     0);
    assert_text(&rig->record.name, "x\ny");
    assert_text(&rig->record.place.first, "a\"");
    assert_text(&rig->record.place.location, "\xc3\xa9");
    assert_int_equal(rig->record.ids.count, 3);
    assert_int_equal(rig->record.ids.at[0].negative, 1);
    assert_int_equal(rig->record.ids.at[1].bits, 2);
    assert_int_equal(rig->record.ids.at[2].bits, 1);
    assert_int_equal(rig->record.more.count, 1);
    assert_int_equal(rig->record.more.at[0].bits, 5);
    assert_int_equal(rig->record.flag, 0);
}

static void test_defaults(void **state)
{
    struct rig *rig = *state;

    rig->record.flag = 7;
    assert_int_equal(read_body(rig, "{\"name\":\"\"}"), 0);
    assert_int_equal(rig->record.ids.is_set, 1); /* missing is an empty list */
    assert_int_equal(rig->record.ids.count, 0);
    assert_int_equal(rig->record.more.is_set, 0); /* missing is null */
    assert_int_equal(rig->record.flag, 0);
}

static void test_null_and_duplicates(void **state)
{
    struct rig *rig = *state;

    assert_int_equal(read_body(rig, "{\"name\":\"a\",\"ids\":[1],\"flag\":null,\"ids\":null,"
                                    "\"name\":\"b\"}"),
                     0);
    assert_text(&rig->record.name, "b");
    assert_int_equal(rig->record.ids.is_set, 0);
    assert_int_equal(rig->record.flag, -1);
}

static void test_refusal_has_a_bound(void **state)
{
    struct rig *rig = *state;
    char *json = malloc(1 << 20);
    size_t used = (size_t)snprintf(json, 1 << 20, "{\"ids\":[null");

    while (used < 900000) {
        used += (size_t)snprintf(json + used, (1 << 20) - used, ",null");
    }
    (void)snprintf(json + used, (1 << 20) - used, "]}");
    assert_int_equal(read_body(rig, json), -EPROTO);
    assert_true(rig->refusal.used < 65536);
    /* the whole body is the input of a missing field; so large it is left out */
    assert_null(strstr(rig->refusal.at, "null,null"));
    assert_non_null(strstr(rig->refusal.at, "[\"body\",\"ids\",30]"));
    assert_string_equal(rig->refusal.at + rig->refusal.used - 3, "}]}");
    free(json);
}

static void test_not_utf8(void **state)
{
    assert_int_equal(read_body(*state, "{\"name\":\"\xff\"}"), -EILSEQ);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_fields, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_defaults, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_null_and_duplicates, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refusal_has_a_bound, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_not_utf8, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
