/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ten thousand random operations with restarts and crashes in between, beside an array that knows
 * what should be there. The budget is never reached, so a miss is never an excuse.
 */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEYS 200u
#define OPS 10000u

struct model {
    struct rig rig;
    uint64_t seed[KEYS]; /* of the bytes; 0 = not there */
    size_t length[KEYS];
    uint64_t random;
    uint64_t next_seed;
    uint8_t bytes[8192];
};

static uint32_t pick(struct model *model, uint32_t below)
{
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    return (uint32_t)(model->random >> 20) % below;
}

static void key_text(uint32_t k, char *text_out, size_t size)
{
    /* of all lengths */
    (void)snprintf(text_out, size, "k%0*u", (int)(k % 140) + 1, k);
}

static void check(struct model *model, uint32_t k)
{
    char key[KVL_KEY_MAX + 1];

    key_text(k, key, sizeof(key));
    if (model->seed[k] == 0) {
        assert_int_equal(rig_has(&model->rig, key), -ENOENT);
        assert_int_equal(rig_get(&model->rig, key, NULL, 0), -ENOENT);
        return;
    }
    rig_fill(model->bytes, model->length[k], model->seed[k]);
    assert_int_equal(rig_has(&model->rig, key), 0);
    assert_int_equal(rig_get(&model->rig, key, model->bytes, model->length[k]), 0);
}

static void step(struct model *model)
{
    const uint32_t k = pick(model, KEYS);
    const uint32_t what = pick(model, 1000);
    char key[KVL_KEY_MAX + 1];

    key_text(k, key, sizeof(key));
    if (what < 400) {
        model->seed[k] = model->next_seed++;
        model->length[k] = pick(model, sizeof(model->bytes) + 1);
        rig_fill(model->bytes, model->length[k], model->seed[k]);
        assert_int_equal(rig_put(&model->rig, key, model->bytes, model->length[k]), 0);
    } else if (what < 450 && model->seed[k] != 0) {
        rig_fill(model->bytes, model->length[k], model->seed[k]);
        assert_int_equal(rig_put(&model->rig, key, model->bytes, model->length[k]), 0);
    } else if (what < 650) {
        assert_int_equal(rig_remove(&model->rig, key), model->seed[k] == 0 ? -ENOENT : 0);
        model->seed[k] = 0;
    } else if (what < 996) {
        check(model, k);
    } else if (what < 998) {
        rig_restart(&model->rig);
    } else {
        rig_crash(&model->rig);
        rig_start(&model->rig);
    }
}

static void test_ten_thousand_operations(void **state)
{
    static struct model model;
    uint64_t live = 0;

    (void)state;
    rig_init(&model.rig, (const char *const[]){"budget", "128M", "segment", "1M", NULL});
    rig_start(&model.rig);
    model.random = 88172645463325252ull;
    model.next_seed = 1;
    for (uint32_t i = 0; i < OPS; i++) {
        step(&model);
    }
    for (uint32_t k = 0; k < KEYS; k++) {
        check(&model, k);
        live += model.seed[k] != 0;
    }
    assert_int_equal(rig_stat(&model.rig, "chunks"), live);
    assert_int_equal(rig_stat(&model.rig, "corrupt"), 0);
    assert_int_equal(model.rig.warnings, 0);
    rig_stop(&model.rig);
    rig_fini(&model.rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ten_thousand_operations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
