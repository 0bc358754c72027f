/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies of the fake driver: bounds, host memory of both kinds, pitches, and batches in both ABIs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cuda_rig.h"

#define COPIES 64u

struct fixture {
    struct cuda_rig rig;
    cuda_stream stream;
    cuda_ptr a; /* 4096 bytes each */
    cuda_ptr b;
};

static int open_fixture(void **state)
{
    static struct fixture fixture;

    cuda_rig_open(&fixture.rig);
    fixture.stream = cuda_rig_stream(&fixture.rig);
    fixture.a = cuda_rig_memory(&fixture.rig, 4096);
    fixture.b = cuda_rig_memory(&fixture.rig, 4096);
    *state = &fixture;
    return 0;
}

static int close_fixture(void **state)
{
    struct fixture *fixture = *state;

    CUDA_RIG_CHECK(fixture->rig.api.stream_destroy(fixture->stream) == CUDA_OK);
    CUDA_RIG_CHECK(fixture->rig.api.mem_free(fixture->a) == CUDA_OK);
    CUDA_RIG_CHECK(fixture->rig.api.mem_free(fixture->b) == CUDA_OK);
    cuda_rig_close(&fixture->rig);
    return 0;
}

static void expect_bytes(const struct fixture *f, cuda_ptr ptr, const void *bytes, size_t count)
{
    uint8_t seen[256];

    assert_true(count <= sizeof(seen));
    assert_int_equal(f->rig.control->peek(seen, ptr, count), 0);
    assert_memory_equal(seen, bytes, count);
}

/* ---- one by one ---- */

static void test_copies_stay_within_an_allocation(void **state)
{
    const struct fixture *f = *state;
    const struct cuda_ipc_api *api = &f->rig.api;
    char host[8];

    assert_int_equal(api->memcpy_dtod_async(f->a, f->b, 4096, f->stream), CUDA_OK);
    assert_int_equal(api->memcpy_dtod_async(f->a, f->b, 4097, f->stream), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_dtod_async(f->a + 4090, f->b, 8, f->stream), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_dtod_async(f->a - 1, f->b, 8, f->stream), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_dtod_async(f->a, f->b, SIZE_MAX, f->stream), CUDA_E_INVALID_VALUE);
    /* each side of the kind that the function says */
    assert_int_equal(api->memcpy_dtoh_async((void *)(uintptr_t)f->a, f->b, 8, f->stream),
                     CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_dtod_async(f->a, (cuda_ptr)(uintptr_t)host, 8, f->stream),
                     CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_async(f->a, 0, 8, f->stream), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->memcpy_dtod_async(f->a, f->b, 0, f->stream), CUDA_OK);
    assert_int_equal(api->stream_synchronize(f->stream), CUDA_OK);
}

static void test_pageable_sources_are_taken_at_once(void **state)
{
    const struct fixture *f = *state;
    char host[6] = "first";

    f->rig.control->hold(f->stream);
    assert_int_equal(f->rig.api.memcpy_htod_async(f->a, host, 6, f->stream), CUDA_OK);
    memcpy(host, "later", 6);
    f->rig.control->release(f->stream);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    expect_bytes(f, f->a, "first", 6);
}

static void test_pinned_sources_are_read_late(void **state)
{
    const struct fixture *f = *state;
    void *host;

    assert_int_equal(f->rig.api.mem_host_alloc(&host, 6, 0), CUDA_OK);
    memcpy(host, "first", 6);
    f->rig.control->hold(f->stream);
    assert_int_equal(f->rig.api.memcpy_htod_async(f->a, host, 6, f->stream), CUDA_OK);
    memcpy(host, "later", 6);
    f->rig.control->release(f->stream);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    expect_bytes(f, f->a, "later", 6);
    assert_int_equal(f->rig.api.mem_free_host(host), CUDA_OK);
}

static void test_copies_to_pageable_memory_are_done_at_return(void **state)
{
    const struct fixture *f = *state;
    char plain[6] = "";
    void *pinned;

    assert_int_equal(f->rig.api.memcpy_htod_async(f->a, "bytes", 6, f->stream), CUDA_OK);
    assert_int_equal(f->rig.api.memcpy_dtoh_async(plain, f->a, 6, f->stream), CUDA_OK);
    assert_string_equal(plain, "bytes");

    assert_int_equal(f->rig.api.mem_host_alloc(&pinned, 6, 0), CUDA_OK);
    memcpy(pinned, "empty", 6);
    f->rig.control->hold(f->stream);
    assert_int_equal(f->rig.api.memcpy_dtoh_async(pinned, f->a, 6, f->stream), CUDA_OK);
    assert_string_equal(pinned, "empty");
    f->rig.control->release(f->stream);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    assert_string_equal(pinned, "bytes");
    assert_int_equal(f->rig.api.mem_free_host(pinned), CUDA_OK);
}

static void test_rows_between_pitches(void **state)
{
    const struct fixture *f = *state;
    struct cuda_copy_2d copy = {.src_type = CUDA_MEMORY_HOST,
                                .src_host = "ab..cd..ef",
                                .src_pitch = 4,
                                .dst_type = CUDA_MEMORY_DEVICE,
                                .dst_device = f->a,
                                .dst_pitch = 3,
                                .width = 2,
                                .height = 3};

    assert_int_equal(f->rig.control->poke(f->a, "________", 8), 0);
    assert_int_equal(f->rig.api.memcpy_2d_async(&copy, f->stream), CUDA_OK);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    expect_bytes(f, f->a, "ab_cd_ef", 8);
    copy.dst_x = 1;
    copy.dst_y = 1;
    copy.height = 1;
    assert_int_equal(f->rig.api.memcpy_2d_async(&copy, f->stream), CUDA_OK);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    expect_bytes(f, f->a, "ab_cabef", 8);

    copy.height = 3;
    copy.src_pitch = 1;
    assert_int_equal(f->rig.api.memcpy_2d_async(&copy, f->stream), CUDA_E_INVALID_VALUE);
    copy.src_pitch = 4;
    copy.dst_pitch = 2000; /* the last row is outside */
    copy.dst_y = 0;
    copy.dst_x = 95;
    assert_int_equal(f->rig.api.memcpy_2d_async(&copy, f->stream), CUDA_E_INVALID_VALUE);
    copy.dst_x = 94;
    assert_int_equal(f->rig.api.memcpy_2d_async(&copy, f->stream), CUDA_OK);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
}

/* ---- batches ---- */

struct batch {
    cuda_ptr dsts[COPIES];
    cuda_ptr srcs[COPIES];
    size_t sizes[COPIES];
    size_t count;
    struct cuda_copy_attrs attrs[2];
    size_t idxs[2];
    size_t num_attrs;
};

/* Byte i of `a` goes to byte count - 1 - i of `b`. */
static struct batch reversal(const struct fixture *f)
{
    struct batch batch = {
        .count = COPIES,
        .attrs = {{.src_access_order = CUDA_ORDER_STREAM}, {.src_access_order = CUDA_ORDER_STREAM}},
        .num_attrs = 1};

    for (uint32_t i = 0; i < COPIES; i++) {
        batch.dsts[i] = f->b + COPIES - 1 - i;
        batch.srcs[i] = f->a + i;
        batch.sizes[i] = 1;
    }
    return batch;
}

static cuda_result run_13000(const struct fixture *f, struct batch *batch)
{
    return f->rig.api.memcpy_batch_async_13000(batch->dsts, batch->srcs, batch->sizes, batch->count,
                                               batch->attrs, batch->idxs, batch->num_attrs,
                                               f->stream);
}

static cuda_result run_12080(const struct fixture *f, struct batch *batch, size_t *fail_out)
{
    return f->rig.api.memcpy_batch_async_12080(batch->dsts, batch->srcs, batch->sizes, batch->count,
                                               batch->attrs, batch->idxs, batch->num_attrs,
                                               fail_out, f->stream);
}

static void test_batches_copy_in_both_abis(void **state)
{
    const struct fixture *f = *state;
    struct batch batch = reversal(f);
    uint8_t source[COPIES];
    uint8_t expected[COPIES];
    size_t failed = 77;

    for (int abi = 0; abi < 2; abi++) {
        for (uint32_t i = 0; i < COPIES; i++) {
            source[i] = (uint8_t)(i + 100u * (uint32_t)abi);
            expected[COPIES - 1 - i] = source[i];
        }
        assert_int_equal(f->rig.control->poke(f->a, source, COPIES), 0);
        assert_int_equal(abi == 0 ? run_13000(f, &batch) : run_12080(f, &batch, &failed), CUDA_OK);
        assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
        expect_bytes(f, f->b, expected, COPIES);
    }
    assert_int_equal(failed, 77);
}

static void expect_refusal(const struct fixture *f, struct batch batch, size_t item)
{
    size_t failed = 0;

    assert_int_equal(run_13000(f, &batch), CUDA_E_INVALID_VALUE);
    assert_int_equal(run_12080(f, &batch, &failed), CUDA_E_INVALID_VALUE);
    assert_true(failed == item);
    assert_int_equal(f->rig.control->pending(f->stream), 0);
}

static void test_rules_for_attributes(void **state)
{
    const struct fixture *f = *state;
    struct batch batch = reversal(f);

    batch.num_attrs = 0;
    expect_refusal(f, batch, SIZE_MAX);
    batch.num_attrs = 2; /* 0, 0: not increasing */
    expect_refusal(f, batch, SIZE_MAX);
    batch.idxs[1] = COPIES;
    expect_refusal(f, batch, SIZE_MAX);
    batch.idxs[1] = COPIES - 1;
    assert_int_equal(run_13000(f, &batch), CUDA_OK);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    batch.idxs[0] = 1;
    expect_refusal(f, batch, SIZE_MAX);
    batch.idxs[0] = 0;
    batch.attrs[1].src_access_order = 0;
    expect_refusal(f, batch, SIZE_MAX);
    batch.attrs[1].src_access_order = CUDA_ORDER_ANY + 1;
    expect_refusal(f, batch, SIZE_MAX);
    batch = reversal(f);
    batch.count = 0;
    expect_refusal(f, batch, SIZE_MAX);
}

static void test_the_legacy_stream_takes_no_batch(void **state)
{
    struct fixture f = *(struct fixture *)*state;
    struct batch batch = reversal(&f);

    f.stream = NULL;
    assert_int_equal(run_13000(&f, &batch), CUDA_E_INVALID_VALUE);
    f.stream = CUDA_STREAM_LEGACY;
    assert_int_equal(run_13000(&f, &batch), CUDA_E_INVALID_VALUE);
}

static void test_dependent_copies_are_found(void **state)
{
    const struct fixture *f = *state;
    struct batch batch = reversal(f);

    batch.dsts[5] = batch.dsts[9];
    expect_refusal(f, batch, 9); /* the later one of the two in memory order */
    batch = reversal(f);
    batch.srcs[3] = batch.dsts[60]; /* reads what another one writes */
    expect_refusal(f, batch, 3);
    batch = reversal(f);
    batch.sizes[7] = 2; /* runs into its neighbour */
    expect_refusal(f, batch, 6);
    batch = reversal(f);
    batch.srcs[1] = batch.srcs[0]; /* two may read the same */
    assert_int_equal(run_13000(f, &batch), CUDA_OK);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
}

static void test_bad_copy_of_a_batch_is_named(void **state)
{
    const struct fixture *f = *state;
    struct batch batch = reversal(f);

    batch.srcs[11] = f->a + 4096;
    expect_refusal(f, batch, 11);
}

/* Each order means what it says about the time at which a source is read. */
static void test_orders_of_access(void **state)
{
    const struct fixture *f = *state;
    struct batch batch = reversal(f);
    uint8_t old[COPIES];
    uint8_t new[COPIES];
    uint8_t seen[COPIES];
    uint32_t early = 0;

    memset(old, 'o', sizeof(old));
    memset(new, 'n', sizeof(new));
    for (uint32_t order = CUDA_ORDER_STREAM; order <= CUDA_ORDER_ANY; order++) {
        batch.attrs[0].src_access_order = order;
        assert_int_equal(f->rig.control->poke(f->a, old, sizeof(old)), 0);
        f->rig.control->hold(f->stream);
        assert_int_equal(run_13000(f, &batch), CUDA_OK);
        assert_int_equal(f->rig.control->poke(f->a, new, sizeof(new)), 0);
        f->rig.control->release(f->stream);
        assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
        if (order == CUDA_ORDER_STREAM) {
            expect_bytes(f, f->b, new, sizeof(new));
        } else if (order == CUDA_ORDER_DURING_CALL) {
            expect_bytes(f, f->b, old, sizeof(old));
        }
    }
    /* out of order, some of one and some of the other */
    assert_int_equal(f->rig.control->peek(seen, f->b, sizeof(seen)), 0);
    for (uint32_t i = 0; i < COPIES; i++) {
        early += seen[i] == 'o';
    }
    assert_in_range(early, 1, COPIES - 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_fixture, close_fixture)
    const struct CMUnitTest tests[] = {
        TEST(test_copies_stay_within_an_allocation),
        TEST(test_pageable_sources_are_taken_at_once),
        TEST(test_pinned_sources_are_read_late),
        TEST(test_copies_to_pageable_memory_are_done_at_return),
        TEST(test_rows_between_pitches),
        TEST(test_batches_copy_in_both_abis),
        TEST(test_rules_for_attributes),
        TEST(test_the_legacy_stream_takes_no_batch),
        TEST(test_dependent_copies_are_found),
        TEST(test_bad_copy_of_a_batch_is_named),
        TEST(test_orders_of_access),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
