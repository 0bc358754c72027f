/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <stdlib.h>
#include <string.h>

#include "evict.h"

#define MANY 1000

static struct kvl_evict_node nodes[MANY];
static int busy[MANY];

static struct kvl_evict_node *node_of(void *ctx, uint32_t index)
{
    (void)ctx;
    return &nodes[index];
}

static uint64_t weight_of(void *ctx, uint32_t index)
{
    (void)ctx;
    (void)index;
    return 10;
}

static uint64_t hash_of(void *ctx, uint32_t index)
{
    (void)ctx;
    return (uint64_t)(index + 1) * 0x9e3779b97f4a7c15ull;
}

static int is_busy(void *ctx, uint32_t index)
{
    (void)ctx;
    return busy[index];
}

static struct kvl_evict make(enum kvl_evict_policy policy)
{
    struct kvl_evict evict = {
        .node = node_of,
        .weight = weight_of,
        .hash = hash_of,
        .is_busy = is_busy,
    };

    memset(busy, 0, sizeof(busy));
    assert_int_equal(kvl_evict_init(&evict, policy), 0);
    return evict;
}

static uint32_t evict_next(struct kvl_evict *evict)
{
    uint32_t at = kvl_evict_victim(evict, KVL_EVICT_ALL);

    if (at != KVL_EVICT_NONE) {
        kvl_evict_drop(evict, at);
    }
    return at;
}

static void test_lru_is_strict(void **state)
{
    struct kvl_evict evict = make(KVL_EVICT_LRU);

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        kvl_evict_add(&evict, i);
    }
    kvl_evict_touch(&evict, 0);
    busy[1] = 1;
    assert_int_equal(evict_next(&evict), 2);
    assert_int_equal(evict_next(&evict), 3);
    assert_int_equal(evict_next(&evict), 0);
    assert_int_equal(evict_next(&evict), KVL_EVICT_NONE); /* the busy one */
    busy[1] = 0;
    assert_int_equal(evict_next(&evict), 1);
    assert_int_equal(evict_next(&evict), KVL_EVICT_NONE);
    kvl_evict_fini(&evict);
}

static void test_s3fifo_keeps_what_was_used_through_a_scan(void **state)
{
    struct kvl_evict evict = make(KVL_EVICT_S3FIFO);
    uint32_t kept = 0;

    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        kvl_evict_add(&evict, i);
        kvl_evict_touch(&evict, i);
    }
    for (uint32_t i = 100; i < MANY; i++) { /* a scan: each used once */
        (void)evict_next(&evict);
        kvl_evict_add(&evict, i);
    }
    for (uint32_t at = KVL_EVICT_NONE; (at = kvl_evict_ahead(&evict, at)) != KVL_EVICT_NONE;) {
        kept += at < 100;
    }
    assert_true(kept >= 45); /* their half; least recently used would keep none */
    assert_int_equal(evict.count, 100);
    kvl_evict_fini(&evict);
}

static void test_s3fifo_remembers_who_left_too_early(void **state)
{
    struct kvl_evict evict = make(KVL_EVICT_S3FIFO);

    (void)state;
    for (uint32_t i = 0; i < 10; i++) {
        kvl_evict_add(&evict, i);
    }
    assert_int_equal(evict_next(&evict), 0);
    kvl_evict_add(&evict, 0); /* back again: among those that stay */
    assert_int_equal(nodes[0].queue, 1);
    kvl_evict_fini(&evict);
}

static void test_s3fifo_ends_when_all_are_busy(void **state)
{
    struct kvl_evict evict = make(KVL_EVICT_S3FIFO);

    (void)state;
    for (uint32_t i = 0; i < 50; i++) {
        kvl_evict_add(&evict, i);
        kvl_evict_touch(&evict, i);
        busy[i] = 1;
    }
    assert_int_equal(evict_next(&evict), KVL_EVICT_NONE);
    busy[17] = 0;
    assert_int_equal(evict_next(&evict), 17);
    assert_int_equal(evict.count, 49);
    kvl_evict_fini(&evict);
}

/* Whatever happens, every entry is in exactly one queue and the weights add up. */
static void test_random_use_keeps_the_books(void **state)
{
    (void)state;
    for (int policy = KVL_EVICT_LRU; policy <= KVL_EVICT_S3FIFO; policy++) {
        struct kvl_evict evict = make((enum kvl_evict_policy)policy);
        int inside[MANY] = {0};
        uint32_t count = 0;
        unsigned seed = 1;

        for (int round = 0; round < 50000; round++) {
            uint32_t i = (uint32_t)rand_r(&seed) % MANY;
            uint32_t seen = 0;

            if (!inside[i]) {
                kvl_evict_add(&evict, i);
                inside[i] = 1;
                count++;
            } else if (round % 4 == 0) {
                uint32_t out = evict_next(&evict);

                assert_true(out < MANY && inside[out]);
                inside[out] = 0;
                count--;
            } else {
                kvl_evict_touch(&evict, i);
            }
            if (round % 5000 == 0) {
                for (uint32_t at = KVL_EVICT_NONE;
                     (at = kvl_evict_ahead(&evict, at)) != KVL_EVICT_NONE; seen++) {
                    assert_true(inside[at]);
                }
                assert_int_equal(seen, count);
            }
        }
        assert_int_equal(evict.queues[0].weight + evict.queues[1].weight, 10 * (uint64_t)count);
        kvl_evict_fini(&evict);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lru_is_strict),
        cmocka_unit_test(test_s3fifo_keeps_what_was_used_through_a_scan),
        cmocka_unit_test(test_s3fifo_remembers_who_left_too_early),
        cmocka_unit_test(test_s3fifo_ends_when_all_are_busy),
        cmocka_unit_test(test_random_use_keeps_the_books),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
