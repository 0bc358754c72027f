/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy engine when calls of the driver fail: each job ends once with a code, nothing leaks, and
 * the next job is right.
 */
#include "copy_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Memory first: it is made at the first need. */
static const char *const queueing[] = {
    "cuMemHostAlloc", "cuMemcpyHtoDAsync",  "cuMemcpyDtoHAsync", "cuMemcpyAsync", "cuMemcpy2DAsync",
    "cuLaunchKernel", "cuMemcpyBatchAsync", "cuStreamWaitEvent", "cuEventRecord", "cuEventQuery",
};
#define QUEUEING (sizeof(queueing) / sizeof(queueing[0]))

static const enum cuda_ipc_side_kind pairs[][2] = {
    {CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST},
    {CUDA_IPC_SIDE_HOST, CUDA_IPC_SIDE_RUNS},
    {CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_PAGED},
    {CUDA_IPC_SIDE_HOST, CUDA_IPC_SIDE_DEVICE},
};
#define PAIRS 4u

/* @return whether the job failed; in any case it ended, or was refused. */
static bool run_with_fault(struct copy_rig *rig, const char *rule, uint32_t pair, uint64_t *seed)
{
    static struct copy_case c;
    bool has_failed = true;
    int r;

    copy_case_make(rig, &c, pairs[pair][0], pairs[pair][1], 16, 0, seed);
    assert_int_equal(rig->cuda.control->fail_calls(rule), 0);
    r = copy_case_submit(rig, &c);
    if (r == 0) {
        has_failed = copy_case_wait(&c) < 0;
        assert_int_equal(c.end.items[c.shape.count - 1], c.end.status);
    }
    assert_int_equal(rig->cuda.control->fail_calls(NULL), 0);
    if (!has_failed) {
        assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
    }
    assert_int_equal(rig->cuda.control->pending(NULL), 0); /* nothing of it is under way */
    copy_case_free(rig, &c);
    return has_failed;
}

static uint32_t run_all_faults(enum cuda_ipc_method method, int pinned, uint32_t *failed)
{
    const struct cuda_ipc_copy_options options = {
        .method = method, .stage_bytes = 4096, .layer_bytes = 1000, .image = copy_rig_image()};
    struct copy_rig *rig = copy_rig_open("13000", &options, pinned);
    uint64_t seed = 60 + (uint64_t)method;
    uint32_t all = 0;

    for (uint32_t call = 0; call < QUEUEING; call++) {
        for (uint32_t round = 0; round < 8; round++) {
            char rule[64];

            (void)snprintf(rule, sizeof(rule), "%s=1:%u", queueing[call],
                           (unsigned int)(1 + round / 3));
            if (run_with_fault(rig, rule, (call + round) % PAIRS, &seed)) {
                failed[call]++;
                all++;
            }
            copy_case_run(rig, pairs[round % PAIRS][0], pairs[round % PAIRS][1], 16, 0, &seed);
        }
    }
    assert_true(cuda_ipc_copy_is_well(rig->copy));
    copy_rig_close(rig);
    return all;
}

static void test_every_call_may_fail(void **state)
{
    uint32_t failed[QUEUEING] = {0};

    (void)state;
    for (int method = CUDA_IPC_KERNEL; method < CUDA_IPC_METHODS; method++) {
        for (int pinned = 0; pinned < 2; pinned++) {
            assert_true(run_all_faults((enum cuda_ipc_method)method, pinned, failed) > 4);
        }
    }
    for (uint32_t call = 0; call < QUEUEING; call++) {
        if (failed[call] == 0) {
            fail_msg("no job came to %s", queueing[call]);
        }
    }
}

/* ---- the device is lost ---- */

static void expect_lost(struct copy_rig *rig, struct copy_case *c)
{
    char text[512];

    assert_int_equal(copy_case_submit(rig, c), -EIO);
    assert_false(cuda_ipc_copy_is_well(rig->copy));
    cuda_ipc_copy_describe(rig->copy, text, sizeof(text));
    assert_non_null(strstr(text, "LOST"));
}

static void test_a_deadly_code_loses_the_device(void **state)
{
    static const char *const rules[] = {"cuLaunchKernel=700:1", "cuEventQuery=719:1",
                                        "cuEventRecord=214:1"};
    const struct cuda_ipc_copy_options options = {
        .method = CUDA_IPC_KERNEL, .stage_bytes = 4096, .image = copy_rig_image()};
    static struct copy_case c;
    uint64_t seed = 61;

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct copy_rig *rig = copy_rig_open("13000", &options, 1);
        struct kvl_err err = {.size = sizeof(err)};

        copy_case_make(rig, &c, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST, 16, 0, &seed);
        assert_int_equal(rig->cuda.control->fail_calls(rules[i]), 0);
        assert_int_equal(copy_case_submit(rig, &c), 0);
        assert_int_equal(copy_case_wait(&c), -EIO);
        assert_int_equal(rig->cuda.control->fail_calls(NULL), 0);
        expect_lost(rig, &c);
        assert_int_equal(cuda_ipc_copy_open(rig->copy, 0, &err), -EIO);
        assert_non_null(strstr(err.text, "lost"));
        copy_case_free(rig, &c);
        copy_rig_close(rig);
    }
}

/* Memory that is freed too early: the real thing, as far as the fake goes. */
static void test_jobs_in_flight_end_when_the_context_breaks(void **state)
{
    const struct cuda_ipc_copy_options options = {.method = CUDA_IPC_BATCH};
    struct copy_rig *rig = copy_rig_open("13000", &options, 1);
    static struct copy_case c;
    uint64_t seed = 62;

    (void)state;
    copy_case_make(rig, &c, CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
    rig->cuda.control->hold(NULL);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(copy_case_submit(rig, &c), 0);
    }
    assert_int_equal(rig->cuda.api.mem_free(rig->device_memory[1]), CUDA_OK);
    rig->cuda.control->release(NULL);
    assert_int_equal(cuda_ipc_copy_drain(rig->copy, UINT64_MAX / 2000000), 0);
    assert_int_equal(c.end.ends, 3);
    assert_int_equal(c.end.status, -EIO);
    expect_lost(rig, &c);
    copy_case_free(rig, &c);
    copy_rig_close_lost(rig);
}

static void test_a_device_that_hangs_does_not_hold_up_stop(void **state)
{
    const struct cuda_ipc_copy_options options = {.method = CUDA_IPC_BATCH};
    struct copy_rig *rig = copy_rig_open("13000", &options, 1);
    static struct copy_case c;
    uint64_t seed = 63;
    struct timespec begin;
    struct timespec end;

    (void)state;
    copy_case_make(rig, &c, CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
    rig->cuda.control->hold(NULL);
    assert_int_equal(copy_case_submit(rig, &c), 0);
    (void)clock_gettime(CLOCK_MONOTONIC, &begin);
    cuda_ipc_copy_stop(rig->copy);
    (void)clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(end.tv_sec - begin.tv_sec >= 9 && end.tv_sec - begin.tv_sec < 30);
    assert_int_equal(c.end.ends, 1);
    assert_int_equal(c.end.status, -EIO);
    rig->cuda.control->release(NULL);
    copy_case_free(rig, &c);
    copy_rig_close_lost(rig);
}

/* ---- opening a device ---- */

static void test_a_device_that_cannot_be_opened_can_later(void **state)
{
    static const char *const rules[] = {
        "cuDevicePrimaryCtxRetain=2:1",
        "cuCtxPushCurrent=201:1",
        "cuStreamCreateWithPriority=2:3",
        "cuMemAlloc=2:1",
        "cuMemAlloc=2:2",
        "cuMemHostAlloc=2:1",
        "cuEventCreate=2:1",
        "cuEventCreate=2:100",
        "cuEventCreate=2:150",
    };
    const struct cuda_ipc_copy_options options = {.image = copy_rig_image(), .calibrate = 1};
    const char *const none[] = {NULL};
    static const struct kvl_backend_desc desc = {.name = "cuda_ipc"};
    struct cuda_rig rig;
    struct cuda_ipc_devices devices;
    struct cuda_ipc_copy *copy;
    struct fake_host *fake;

    (void)state;
    cuda_rig_open(&rig);
    fake = fake_host_create(&desc, none);
    for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
        struct kvl_err err = {.size = sizeof(err)};

        assert_int_equal(
            cuda_ipc_devices_init(&devices, &rig.api, fake_host_table(fake)->log, &err), 0);
        assert_int_equal(cuda_ipc_copy_create(fake_host_table(fake), &devices, &options, &copy), 0);
        assert_int_equal(rig.control->fail_calls(rules[i]), 0);
        assert_true(cuda_ipc_copy_open(copy, 0, &err) < 0);
        assert_true(strlen(err.text) > 30);
        assert_int_equal(rig.control->fail_calls(NULL), 0);
        assert_int_equal(cuda_ipc_copy_pin(copy, &devices, 8, &err), -ENODEV);
        assert_int_equal(cuda_ipc_copy_open(copy, 0, &err), 0);
        cuda_ipc_copy_stop(copy);
        assert_int_equal(cuda_ipc_copy_open(copy, 1, &err), -ENODEV);
        cuda_ipc_copy_destroy(copy);
        cuda_ipc_devices_fini(&devices);
    }
    fake_host_destroy(fake);
    cuda_rig_close(&rig);
}

static void test_kernels_that_do_not_load_are_done_without(void **state)
{
    static const char *const rules[] = {"cuModuleLoadData=209:1", "cuModuleGetFunction=500:5"};
    const struct cuda_ipc_copy_options options = {.image = copy_rig_image()};
    uint64_t seed = 64;

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct cuda_rig first; /* keeps the library, and so its rules */
        struct copy_rig *rig;
        char text[1024];

        cuda_rig_open(&first);
        assert_int_equal(first.control->fail_calls(rules[i]), 0);
        rig = copy_rig_open("13000", &options, 1);
        assert_int_equal(first.control->fail_calls(NULL), 0);
        cuda_ipc_copy_describe(rig->copy, text, sizeof(text));
        assert_non_null(strstr(text, "no kernel ("));
        copy_case_run(rig, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
        assert_int_equal(copy_rig_stat(rig, "copy_launches"), 0);
        assert_true(cuda_ipc_copy_is_well(rig->copy));
        assert_int_equal(first.api.device_primary_ctx_release(0), CUDA_OK);
        copy_rig_close(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_call_may_fail),
        cmocka_unit_test(test_a_deadly_code_loses_the_device),
        cmocka_unit_test(test_jobs_in_flight_end_when_the_context_breaks),
        cmocka_unit_test(test_a_device_that_cannot_be_opened_can_later),
        cmocka_unit_test(test_kernels_that_do_not_load_are_done_without),
        cmocka_unit_test(test_a_device_that_hangs_does_not_hold_up_stop),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
