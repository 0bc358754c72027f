/* SPDX-License-Identifier: Apache-2.0 */
/* The decision table: one row per reason, each with the facts that lead to it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "controller_explain.h"

static struct controller_finding findings[CONTROLLER_FINDINGS];

/* A healthy fleet of two that does not have what is asked for. */
static struct controller_facts facts_of(uint32_t ids)
{
    return (struct controller_facts){
        .ids = ids,
        .hashing = {.chunk_size = 256},
        .instance = "",
        .holder = "",
        .silent_worker = "",
        .registry = {.workers = 2, .keys = 10},
        .stats = {.workers = 2, .keys = 10},
    };
}

static void assert_codes(const struct controller_facts *facts, const char *codes)
{
    unsigned count = controller_explain(facts, findings);
    char got[512] = "";

    for (unsigned i = 0; i < count; i++) {
        size_t used = strlen(got);

        (void)snprintf(got + used, sizeof(got) - used, "%s%s", i > 0 ? " " : "", findings[i].code);
        assert_true(strlen(findings[i].text) > 10);
        assert_true(strlen(findings[i].text) < sizeof(findings[i].text) - 1); /* not cut */
        assert_true(strlen(findings[i].next) < sizeof(findings[i].next) - 1);
    }
    assert_string_equal(got, codes);
}

static void test_main_reasons(void **state)
{
    struct controller_facts facts = facts_of(0);

    (void)state;
    assert_codes(&facts, "nothing_asked");
    facts = facts_of(3);
    assert_codes(&facts, "no_such_chunk");
    facts.tokens = 700;
    assert_codes(&facts, "no_such_chunk");
    assert_non_null(strstr(findings[0].next, "PYTHONHASHSEED"));
    facts.tokens = 255;
    assert_codes(&facts, "prompt_too_short");
    facts.stats.keys = 0;
    facts.tokens = 700;
    assert_codes(&facts, "nothing_announced");
    facts.stats.workers = 0;
    assert_codes(&facts, "no_workers");
    facts = facts_of(3);
    facts.held = 3;
    facts.holder = "a";
    facts.never_heartbeat = 2; /* all is found: nobody wants to read of it */
    assert_codes(&facts, "found");
}

static void test_holders_that_do_not_count(void **state)
{
    struct controller_facts facts = facts_of(3);

    (void)state;
    facts.instance = "me";
    facts.instance_known = true;
    facts.registry.holders = 2;
    facts.registry.excluded = 2;
    assert_codes(&facts, "only_the_requester");
    assert_non_null(strstr(findings[0].text, "'me'"));
    facts.registry.excluded = 1;
    facts.registry.without_url = 1;
    assert_codes(&facts, "no_peer_url");
    facts.registry.excluded = 0;
    facts.registry.silent = 1;
    assert_codes(&facts, "no_peer_url holder_silent");
    /* none of the reasons fits: it was admitted just now */
    facts.registry = (struct kvl_explain){.holders = 1};
    assert_codes(&facts, "no_such_chunk");
}

static void test_short_answers(void **state)
{
    struct controller_facts facts = facts_of(4);

    (void)state;
    facts.held = 2;
    facts.holder = "a";
    facts.registry.known = 2;
    assert_codes(&facts, "partly_held");
    assert_non_null(strstr(findings[0].next, "max_local_cpu_size"));
    facts.registry.known = 3;
    assert_codes(&facts, "split_over_holders");
    facts.held = 3;
    facts.tokens = 3 * 256 + 10;
    assert_codes(&facts, "partly_held");
    assert_non_null(strstr(findings[0].next, "10 of 256"));
}

static void test_what_makes_it_worse(void **state)
{
    struct controller_facts facts = facts_of(4);

    (void)state;
    facts.instance = "stranger";
    facts.stats.syncing = 1;
    facts.stats.silent = 1;
    facts.silent_worker = "engine/3";
    facts.silent_ms = 12345;
    facts.never_heartbeat = 2;
    facts.stats.dropped = 9;
    assert_codes(&facts, "no_such_chunk unknown_instance syncing silent_workers no_heartbeats "
                         "out_of_memory");
    assert_non_null(strstr(findings[3].text, "'engine/3' for 12 s"));
}

static void test_longest_words(void **state)
{
    struct controller_facts facts = facts_of(4);
    char name[KVL_NAME_ROOM];

    (void)state;
    memset(name, 'x', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    facts.instance = name;
    facts.silent_worker = name;
    facts.stats.silent = UINT32_MAX;
    facts.silent_ms = UINT64_MAX;
    facts.stats.dropped = UINT64_MAX;
    assert_codes(&facts, "no_such_chunk unknown_instance silent_workers out_of_memory");
    facts = facts_of(UINT32_MAX);
    facts.holder = name;
    facts.held = UINT32_MAX - 1;
    assert_codes(&facts, "partly_held");
}

static void test_other_way(void **state)
{
    struct controller_facts facts = facts_of(2);

    (void)state;
    facts.tokens = 20; /* less than a chunk of ours, but one of theirs */
    facts.has_way = true;
    facts.way = (struct controller_way){
        .hashing = {.chunk_size = 16, .extra = CONTROLLER_EXTRA_NONE, .none_hash = -5},
        .has_seed = true,
        .seed = 42,
        .sip = CONTROLLER_SIP24,
    };
    facts.way_id = (struct kvl_chunk_id){.bits = 0 - (uint64_t)17, .negative = 1};
    assert_codes(&facts, "other_hashing");
    assert_non_null(strstr(findings[0].text, "the id -17,"));
    assert_non_null(strstr(findings[0].next, "Set chunk_size = 16, hash_seed = 42, hash_sip = 24, "
                                             "hash_extra = none in section"));
}

static void test_ways(void **state)
{
    const struct controller_hashing ours = {.chunk_size = 256};
    struct controller_way way;
    char options[160];
    unsigned sizes = 0;
    uint32_t count = 0;

    (void)state;
    assert_true(controller_explain_way(&ours, 0, &way));
    controller_explain_options(&ours, &way, options, sizeof(options));
    assert_string_equal(options, ""); /* the first is our own */
    while (controller_explain_way(&ours, count, &way)) {
        sizes |= way.hashing.chunk_size;
        count++;
    }
    assert_int_equal(sizes, 16 | 32 | 64 | 128 | 256 | 512 | 1024);
    assert_true(count > 100 && count < 1000);
    assert_false(controller_explain_way(&ours, UINT32_MAX, &way));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_main_reasons),  cmocka_unit_test(test_holders_that_do_not_count),
        cmocka_unit_test(test_short_answers), cmocka_unit_test(test_what_makes_it_worse),
        cmocka_unit_test(test_longest_words), cmocka_unit_test(test_other_way),
        cmocka_unit_test(test_ways),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
