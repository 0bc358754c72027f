/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include "table.h"

static void test_handles_name_one_life(void **state)
{
    struct kvl_table table;
    uint64_t first;
    uint64_t second;
    int a;
    int b;

    (void)state;
    kvl_table_init(&table);
    assert_int_equal(kvl_table_add(&table, &a, &first), 0);
    assert_int_not_equal(first, 0);
    assert_ptr_equal(kvl_table_get(&table, first), &a);
    kvl_table_drop(&table, first);
    assert_null(kvl_table_get(&table, first));
    assert_int_equal(kvl_table_add(&table, &b, &second), 0);
    assert_int_equal((uint32_t)first, (uint32_t)second); /* same place, another life */
    assert_null(kvl_table_get(&table, first));
    assert_ptr_equal(kvl_table_get(&table, second), &b);
    kvl_table_drop(&table, first); /* ignored */
    assert_ptr_equal(kvl_table_any(&table), &b);
    kvl_table_fini(&table);
}

static void test_many_objects(void **state)
{
    struct kvl_table table;
    static uint64_t handles[5000];

    (void)state;
    kvl_table_init(&table);
    for (int i = 0; i < 5000; i++) {
        assert_int_equal(kvl_table_add(&table, &handles[i], &handles[i]), 0);
    }
    for (int i = 0; i < 5000; i++) {
        assert_ptr_equal(kvl_table_get(&table, handles[i]), &handles[i]);
        kvl_table_drop(&table, handles[i]);
    }
    assert_int_equal(table.count, 0);
    assert_null(kvl_table_any(&table));
    assert_null(kvl_table_get(&table, UINT64_MAX));
    kvl_table_fini(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handles_name_one_life),
        cmocka_unit_test(test_many_objects),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
