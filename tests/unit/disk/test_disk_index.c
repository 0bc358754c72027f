/* SPDX-License-Identifier: Apache-2.0 */
#include "rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk_index.h"

#define MANY 20000u

static struct disk_name name_of(uint64_t i)
{
    /* few homes, so that long runs of slots form */
    return (struct disk_name){.hash = i % 97, .check = (uint32_t)i};
}

static struct disk_place place_of(uint32_t segment, uint64_t i)
{
    return (struct disk_place){.segment = segment, .unit = (uint32_t)i, .bytes = 1};
}

static void test_an_empty_one_knows_nothing(void **state)
{
    const struct disk_name name = name_of(1);
    struct disk_index index;
    struct disk_place place;

    (void)state;
    disk_index_init(&index, 1);
    assert_false(disk_index_find(&index, &name, &place));
    assert_false(disk_index_remove(&index, &name, &place));
    assert_int_equal(disk_index_places(&index, &place, 1), 0);
    disk_index_fini(&index);
}

static void test_finds_what_was_put_through_growth(void **state)
{
    struct disk_index index;
    struct disk_place place;
    struct disk_place old;

    (void)state;
    disk_index_init(&index, 1);
    for (uint64_t i = 0; i < MANY; i++) {
        const struct disk_name name = {.hash = i * 0x9e3779b97f4a7c15ull, .check = 5};

        place = place_of(1, i);
        assert_int_equal(disk_index_put(&index, &name, &place, &old), 0);
    }
    assert_int_equal(index.live, MANY);
    for (uint64_t i = 0; i < MANY; i++) {
        const struct disk_name name = {.hash = i * 0x9e3779b97f4a7c15ull, .check = 5};
        const struct disk_name other = {.hash = i * 0x9e3779b97f4a7c15ull, .check = 6};

        assert_true(disk_index_find(&index, &name, &place));
        assert_int_equal(place.unit, i);
        assert_false(disk_index_find(&index, &other, &place));
    }
    /* what the README promises */
    assert_true(index.capacity * sizeof(struct disk_slot) <= (uint64_t)MANY * 77);
    disk_index_fini(&index);
}

static void test_put_again_gives_the_old_place(void **state)
{
    const struct disk_name name = name_of(3);
    struct disk_place place = place_of(1, 10);
    struct disk_index index;
    struct disk_place old;

    (void)state;
    disk_index_init(&index, 1);
    assert_int_equal(disk_index_put(&index, &name, &place, &old), 0);
    place = place_of(2, 20);
    assert_int_equal(disk_index_put(&index, &name, &place, &old), 1);
    assert_int_equal(old.segment, 1);
    assert_int_equal(old.unit, 10);
    assert_int_equal(index.live, 1);
    disk_index_fini(&index);
}

static void test_removing_cuts_nobody_off(void **state)
{
    struct disk_index index;
    struct disk_place place;
    uint8_t there[3000];

    (void)state;
    disk_index_init(&index, 1);
    memset(there, 0, sizeof(there));
    srandom(7);
    for (int i = 0; i < 30000; i++) {
        const uint64_t k = (uint64_t)random() % sizeof(there);
        const struct disk_name name = name_of(k);
        struct disk_place old;

        if (random() % 2 == 0) {
            place = place_of(1, k);
            assert_int_equal(disk_index_put(&index, &name, &place, &old), there[k]);
            there[k] = 1;
        } else {
            assert_int_equal(disk_index_remove(&index, &name, &old), there[k]);
            there[k] = 0;
        }
    }
    for (uint64_t k = 0; k < sizeof(there); k++) {
        const struct disk_name name = name_of(k);

        assert_int_equal(disk_index_find(&index, &name, &place), there[k]);
    }
    disk_index_fini(&index);
}

static void test_the_floor_voids_and_frees(void **state)
{
    struct disk_index index;
    struct disk_place place;
    struct disk_place old;
    uint64_t capacity;

    (void)state;
    disk_index_init(&index, 1);
    for (uint32_t segment = 1; segment < 200; segment++) {
        for (uint64_t i = 0; i < 500; i++) {
            const struct disk_name name = {.hash = segment * 1000 + i, .check = 0};

            place = place_of(segment, i);
            assert_int_equal(disk_index_put(&index, &name, &place, &old), 0);
        }
        if (segment > 2) {
            disk_index_raise_floor(&index, segment - 1, 500);
        }
    }
    assert_int_equal(index.live, 1000);
    capacity = index.capacity;
    assert_true(capacity <= 4096); /* dead slots were used again */
    assert_false(disk_index_find(&index, &(struct disk_name){.hash = 197000}, &place));
    assert_true(disk_index_find(&index, &(struct disk_name){.hash = 198000}, &place));
    disk_index_fini(&index);
}

static void test_the_seed_changes_the_hash(void **state)
{
    const struct kvl_key key = kvl_key_from_text("model@1@0@1@half");
    struct disk_index a;
    struct disk_index b;

    (void)state;
    disk_index_init(&a, 1);
    disk_index_init(&b, 2);
    assert_true(disk_index_name(&a, &key).hash != disk_index_name(&b, &key).hash);
    assert_true(disk_index_name(&a, &key).hash == disk_index_name(&a, &key).hash);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_one_knows_nothing),
        cmocka_unit_test(test_finds_what_was_put_through_growth),
        cmocka_unit_test(test_put_again_gives_the_old_place),
        cmocka_unit_test(test_removing_cuts_nobody_off),
        cmocka_unit_test(test_the_floor_voids_and_frees),
        cmocka_unit_test(test_the_seed_changes_the_hash),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
