/* SPDX-License-Identifier: Apache-2.0 */
#include "exposition.h"

#include <stdio.h>
#include <string.h>

#include "metrics_names.h"
#include "metrics_options.h"
#include "metrics_page.h"

static struct kvl_host host;
static struct metrics_view view = {.host = &host, .prefix = "kvlane", .needs = ""};

static int set_up(void **state)
{
    (void)state;
    exposition_fake(&host);
    exposition_set_state(KVL_HEALTH_OK);
    view = (struct metrics_view){.host = &host, .prefix = "kvlane", .needs = ""};
    return 0;
}

static void test_page_is_legal_and_complete(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    assert_int_equal(metrics_page_metrics(&view, &text), 200);
    assert_true(exposition_check(text.at) >= 18);
    assert_int_equal(exposition_value(text.at, "kvlane_store_chunks"), 3);
    assert_int_equal(exposition_value(text.at, "kvlane_store_hits_total"), 7);
    assert_int_equal(exposition_value(text.at, "kvlane_store_unheard_of_total"), 8);
    assert_int_equal(exposition_value(text.at, "kvlane_core_lookup_p50_ns"), 250);
    assert_int_equal(exposition_value(text.at, "kvlane_nobody_knows_total"), 15);
    metrics_text_fini(&text);
}

static void test_sections_are_labels(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    assert_int_equal(metrics_page_metrics(&view, &text), 200);
    assert_int_equal(
        exposition_value(text.at, "kvlane_backend_in_flight{section=\"tcp_remote:serve\"}"), 1);
    assert_int_equal(exposition_value(text.at, "kvlane_backend_in_flight{section=\"tcp_remote\"}"),
                     5);
    assert_int_equal(
        exposition_value(text.at, "kvlane_backend_failures_total{section=\"tcp_remote:serve\"}"),
        2);
    assert_int_equal(
        exposition_value(text.at, "kvlane_tcp_remote_connections{section=\"tcp_remote:serve\"}"),
        4);
    assert_true(exposition_value(
                    text.at, "kvlane_tcp_remote_bytes_in_total{section=\"tcp_remote:serve\"}") ==
                UINT64_MAX);
    assert_int_equal(
        exposition_value(text.at, "kvlane_location_state{section=\"LocalCPUBackend\"}"), 2);
    assert_int_equal(exposition_value(text.at, "kvlane_location_state{section=\"tcp_remote\"}"), 1);
    metrics_text_fini(&text);
}

/* Two sections whose counters look alike: one of them is shown, and the page stays legal. */
static void test_a_series_comes_once(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    assert_int_equal(metrics_page_metrics(&view, &text), 200);
    assert_int_equal(exposition_value(text.at, "kvlane_backend_in_flight{section=\"odd:a-b\"}"),
                     12);
    assert_int_equal(
        exposition_value(text.at, "kvlane_odd_we_ird_na_me_total{section=\"odd:a-b\"}"), 14);
    metrics_text_fini(&text);
}

static void test_prefix(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    view.prefix = "other";
    assert_int_equal(metrics_page_metrics(&view, &text), 200);
    exposition_check(text.at);
    assert_null(strstr(text.at, "\nkvlane"));
    assert_int_equal(exposition_value(text.at, "other_store_chunks"), 3);
    metrics_text_fini(&text);
}

static unsigned health_status(const char **word)
{
    static char copy[8192];
    struct metrics_text text = {0};
    unsigned status = metrics_page_health(&view, &text);

    snprintf(copy, sizeof(copy), "%s", text.at);
    metrics_text_fini(&text);
    *word = copy;
    return status;
}

static void test_health_follows_what_is_needed(void **state)
{
    const char *page;

    (void)state;
    assert_int_equal(health_status(&page), 200); /* tcp_remote is degraded */
    assert_non_null(strstr(page, "\"status\": \"degraded\""));
    exposition_set_state(KVL_HEALTH_DOWN);
    assert_int_equal(health_status(&page), 503);
    assert_non_null(strstr(page, "\"status\": \"down\""));
    view.needs = "LocalCPUBackend";
    assert_int_equal(health_status(&page), 200);
    assert_non_null(strstr(page, "\"status\": \"degraded\""));
    view.needs = " tcp_remote , tcp_remote:serve";
    assert_int_equal(health_status(&page), 503);
    exposition_set_state(KVL_HEALTH_OK);
    assert_int_equal(health_status(&page), 200);
    view.stopping = true;
    assert_int_equal(health_status(&page), 503);
}

static void test_health_escapes(void **state)
{
    const char *page;

    (void)state;
    health_status(&page);
    assert_non_null(strstr(page, "\"say \\\"\\\\\\u000a\\u0001?\xc3\xa9\""));
}

static void test_needs_must_exist(void **state)
{
    char name[64];

    (void)state;
    assert_null(metrics_page_unknown_need(&view, name, sizeof(name)));
    view.needs = "tcp_remote, LocalCPUBackend,odd:a-b,";
    assert_null(metrics_page_unknown_need(&view, name, sizeof(name)));
    view.needs = "tcp_remote, nobody";
    assert_string_equal(metrics_page_unknown_need(&view, name, sizeof(name)), "nobody");
}

static void test_labels_are_escaped(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    metrics_text_add_label(&text, "a\"b\\c\nd\x01\xff");
    assert_string_equal(text.at, "a\\\"b\\\\c\\nd.?");
    metrics_text_fini(&text);
}

static void test_text_is_bounded(void **state)
{
    struct metrics_text text = {0};

    (void)state;
    for (int i = 0; i < 1000 && !text.failed; i++) {
        metrics_text_add(&text, "%8192d", i);
    }
    assert_true(text.failed);
    assert_true(text.size <= METRICS_TEXT_MAX);
    metrics_text_fini(&text);
}

static void test_lists(void **state)
{
    (void)state;
    assert_true(metrics_list_has("a, b ,c", "b"));
    assert_true(metrics_list_has("a, b ,c", "c"));
    assert_false(metrics_list_has("a, b ,c", "d"));
    assert_false(metrics_list_has("aa,bb", "a"));
    assert_false(metrics_list_has(" , ,", ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_page_is_legal_and_complete, set_up),
        cmocka_unit_test_setup(test_sections_are_labels, set_up),
        cmocka_unit_test_setup(test_a_series_comes_once, set_up),
        cmocka_unit_test_setup(test_prefix, set_up),
        cmocka_unit_test_setup(test_health_follows_what_is_needed, set_up),
        cmocka_unit_test_setup(test_health_escapes, set_up),
        cmocka_unit_test_setup(test_needs_must_exist, set_up),
        cmocka_unit_test(test_labels_are_escaped),
        cmocka_unit_test(test_text_is_bounded),
        cmocka_unit_test(test_lists),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
