/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <stdlib.h>

#include "stats.h"

static void near(uint64_t value, uint64_t wanted)
{
    assert_in_range(value, wanted - wanted / 8 - 1, wanted + wanted / 8 + 1);
}

static void test_quantiles_are_off_by_an_eighth_at_most(void **state)
{
    struct kvl_hist *hist = calloc(1, sizeof(*hist));

    (void)state;
    assert_int_equal(kvl_hist_quantile(hist, 500), 0);
    for (uint64_t i = 1; i <= 100000; i++) {
        kvl_hist_add(hist, i);
    }
    near(kvl_hist_quantile(hist, 500), 50000);
    near(kvl_hist_quantile(hist, 990), 99000);
    near(kvl_hist_quantile(hist, 1), 100);
    free(hist);
}

static void test_every_value_has_a_place(void **state)
{
    struct kvl_hist *hist = calloc(1, sizeof(*hist));

    (void)state;
    kvl_hist_add(hist, UINT64_MAX);
    near(kvl_hist_quantile(hist, 500) / 16, UINT64_MAX / 16);
    kvl_hist_add(hist, 0);
    assert_int_equal(kvl_hist_quantile(hist, 1), 0);
    free(hist);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantiles_are_off_by_an_eighth_at_most),
        cmocka_unit_test(test_every_value_has_a_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
