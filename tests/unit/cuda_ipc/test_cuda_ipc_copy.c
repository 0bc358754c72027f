/* SPDX-License-Identifier: Apache-2.0 */
#include "copy_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const enum cuda_ipc_side_kind kinds[] = {CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_RUNS,
                                                CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_HOST};

static uint64_t now_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* Every pair of sides but host to host, a few times, with small buffers so that jobs have many
 * parts. */
static void run_all_sides(const char *version, enum cuda_ipc_method method, int pinned,
                          bool has_kernel)
{
    const struct cuda_ipc_copy_options options = {
        .method = method,
        .stage_bytes = 4096,
        .layer_bytes = 1000,
        .image = has_kernel ? copy_rig_image() : "nothing that a driver loads",
    };
    struct copy_rig *rig = copy_rig_open(version, &options, pinned);
    uint64_t seed = 10 + (uint64_t)method;

    for (uint32_t round = 0; round < 48; round++) {
        const enum cuda_ipc_side_kind to = kinds[round / 4 % 4];
        const enum cuda_ipc_side_kind from = kinds[round % 4];

        if (to != CUDA_IPC_SIDE_HOST || from != CUDA_IPC_SIDE_HOST) {
            copy_case_run(rig, to, from, 1u << sides_random(&seed, 5), sides_random(&seed, 3) == 0,
                          &seed);
        }
    }
    assert_int_equal(copy_rig_stat(rig, "copy_jobs"), 45);
    assert_int_equal(copy_rig_stat(rig, "copy_jobs_failed"), 0);
    assert_int_equal(copy_rig_stat(rig, "copy_launches") > 0,
                     has_kernel && (method == CUDA_IPC_KERNEL || method == CUDA_IPC_AUTO));
    assert_int_equal(copy_rig_stat(rig, "copy_batches") > 0,
                     strcmp(version, "12040") != 0 && method != CUDA_IPC_LOOP);
    assert_int_equal(copy_rig_stat(rig, "copy_bytes_unpinned") > 0, !pinned);
    copy_rig_close(rig);
}

static void test_kernel_moves_between_all_sides(void **state)
{
    (void)state;
    run_all_sides("13000", CUDA_IPC_KERNEL, 1, true);
    run_all_sides("12040", CUDA_IPC_KERNEL, 0, true);
}

static void test_batches_of_13_0_move_between_all_sides(void **state)
{
    (void)state;
    run_all_sides("13000", CUDA_IPC_BATCH, 1, true);
    run_all_sides("13000", CUDA_IPC_BATCH, 0, true);
}

static void test_batches_of_12_8_move_between_all_sides(void **state)
{
    (void)state;
    run_all_sides("12080", CUDA_IPC_BATCH, 1, true);
    run_all_sides("12080", CUDA_IPC_BATCH, 0, true);
}

static void test_single_copies_move_between_all_sides(void **state)
{
    (void)state;
    run_all_sides("13000", CUDA_IPC_LOOP, 1, true);
    run_all_sides("12040", CUDA_IPC_LOOP, 0, true);
}

static void test_what_is_missing_is_replaced(void **state)
{
    (void)state;
    run_all_sides("13000", CUDA_IPC_AUTO, 1, true);
    run_all_sides("13000", CUDA_IPC_AUTO, 0, false);
    run_all_sides("12040", CUDA_IPC_BATCH, 1, false);
    run_all_sides("12040", CUDA_IPC_KERNEL, 1, false);
}

static void test_a_calibration_changes_no_bytes(void **state)
{
    const struct cuda_ipc_copy_options options = {
        .stage_bytes = 65536, .calibrate = 1, .image = copy_rig_image()};
    struct copy_rig *rig = copy_rig_open("13000", &options, 1);
    uint64_t seed = 20;
    char text[512];

    (void)state;
    cuda_ipc_copy_describe(rig->copy, text, sizeof(text));
    assert_non_null(strstr(text, "copy auto"));
    assert_non_null(strstr(text, "kernel for fragments of"));
    for (uint32_t round = 0; round < 15; round++) {
        copy_case_run(rig, kinds[round / 4], kinds[round % 4], 16, 0, &seed);
    }
    copy_rig_close(rig);
}

/* More runs than a table of the kernel holds, so that parts end in the middle of spans. */
static void test_more_runs_than_a_table_holds(void **state)
{
    enum { RUNS = 6000 };
    static struct kvl_sg sg[RUNS];
    const uint32_t sg_first[] = {0, RUNS};
    const uint64_t bytes[] = {RUNS * 16};

    (void)state;
    for (uint32_t round = 0; round < 12; round++) {
        const struct cuda_ipc_copy_options options = {
            .method = CUDA_IPC_KERNEL,
            .stage_bytes = round < 4   ? 131072
                           : round < 8 ? 60000
                                       : 48128,
            .image = copy_rig_image(),
        };
        struct copy_rig *rig = copy_rig_open("13000", &options, round % 2 == 0);
        const bool has_runs_first = round / 2 % 2 == 0;
        const bool is_host = round % 4 < 3;
        static struct copy_case c;
        uint64_t seed = 25;
        struct cuda_ipc_job_side runs = {
            .kind = CUDA_IPC_SIDE_RUNS, .sg = sg, .sg_first = sg_first};
        struct cuda_ipc_job_side whole = {.kind =
                                              is_host ? CUDA_IPC_SIDE_HOST : CUDA_IPC_SIDE_DEVICE};
        const void *hosts[] = {rig->host_memory[has_runs_first ? 0 : 1]};
        const cuda_ptr addrs[] = {rig->device_memory[has_runs_first ? 0 : 1]};

        copy_case_make(rig, &c, CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
        memset(rig->expected, 0, COPY_ARENA);
        for (uint32_t i = 0; i < RUNS; i++) {
            const uint32_t at = (i * 7 % RUNS) * 40 / 8 * 8; /* 8 divides all, 16 does not */

            sg[i] = (struct kvl_sg){.mem = KVL_MEM_CUDA,
                                    .addr = rig->device_memory[has_runs_first ? 1 : 0] + at,
                                    .length = 16,
                                    .count = 1};
            memcpy(rig->expected + (has_runs_first ? i * 16 : at),
                   rig->src + (has_runs_first ? at : i * 16), 16);
        }
        whole.hosts = hosts;
        whole.addrs = addrs;
        c.job.count = 1;
        c.job.bytes = bytes;
        c.job.src = has_runs_first ? runs : whole;
        c.job.dst = has_runs_first ? whole : runs;
        assert_int_equal(copy_case_submit(rig, &c), 0);
        assert_int_equal(copy_case_wait(&c), 0);
        assert_true(copy_rig_stat(rig, "copy_parts") >= 3);
        assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
        copy_case_free(rig, &c);
        copy_rig_close(rig);
    }
}

/* ---- order ---- */

static const struct cuda_ipc_copy_options small = {
    .method = CUDA_IPC_KERNEL, .stage_bytes = 4096, .layer_bytes = 1};

static struct copy_rig *open_small(void)
{
    struct cuda_ipc_copy_options options = small;

    options.image = copy_rig_image();
    return copy_rig_open("13000", &options, 1);
}

static void test_a_job_comes_after_the_engines_stream(void **state)
{
    struct copy_rig *rig = open_small();
    const struct cuda_ipc_api *api = &rig->cuda.api;
    cuda_stream stream;
    cuda_ptr late;
    uint64_t seed = 30;

    (void)state;
    assert_int_equal(api->stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0),
                     CUDA_OK);
    assert_int_equal(api->mem_alloc(&late, COPY_ARENA), CUDA_OK);
    for (uint32_t round = 0; round < 4; round++) {
        static struct copy_case c;
        uint64_t calls;

        /* the source gets its bytes from a copy that the engine has queued and that is held up */
        copy_case_make(rig, &c, kinds[round], kinds[round % 3], 16, 0, &seed);
        assert_int_equal(rig->cuda.control->poke(late, rig->src, COPY_ARENA), 0);
        assert_int_equal(rig->cuda.control->poke(rig->device_memory[1], rig->expected, COPY_ARENA),
                         0);
        rig->cuda.control->hold(stream);
        assert_int_equal(api->memcpy_dtod_async(rig->device_memory[1], late, COPY_ARENA, stream),
                         CUDA_OK);
        c.job.stream = stream;
        calls = copy_rig_stat(rig, "copy_driver_calls");
        assert_int_equal(copy_case_submit(rig, &c), 0);
        assert_int_equal(cuda_ipc_copy_drain(rig->copy, now_ms() + 20), -ETIMEDOUT);
        assert_true(copy_rig_stat(rig, "copy_driver_calls") == calls);
        rig->cuda.control->release(stream);
        assert_int_equal(copy_case_wait(&c), 0);
        assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
        copy_case_free(rig, &c);
    }
    assert_int_equal(api->stream_destroy(stream), CUDA_OK);
    assert_int_equal(api->mem_free(late), CUDA_OK);
    copy_rig_close(rig);
}

static void test_a_job_comes_after_given_events(void **state)
{
    struct copy_rig *rig = open_small();
    const struct cuda_ipc_api *api = &rig->cuda.api;
    static struct copy_case c;
    cuda_stream streams[2];
    cuda_event events[2];
    uint64_t seed = 31;

    (void)state;
    copy_case_make(rig, &c, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(api->stream_create_with_priority(&streams[i], CUDA_STREAM_NON_BLOCKING, 0),
                         CUDA_OK);
        assert_int_equal(api->event_create(&events[i], CUDA_EVENT_DISABLE_TIMING), CUDA_OK);
        rig->cuda.control->hold(streams[i]);
        assert_int_equal(api->event_record(events[i], streams[i]), CUDA_OK);
    }
    c.job.waits = events;
    c.job.wait_count = 2;
    assert_int_equal(copy_case_submit(rig, &c), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cuda_ipc_copy_drain(rig->copy, now_ms() + 20), -ETIMEDOUT);
        assert_int_equal(copy_rig_stat(rig, "copy_parts"), 0);
        rig->cuda.control->release(streams[i]);
    }
    assert_int_equal(copy_case_wait(&c), 0);
    assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
    copy_case_free(rig, &c);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(api->stream_destroy(streams[i]), CUDA_OK);
        assert_int_equal(api->event_destroy(events[i]), CUDA_OK);
    }
    copy_rig_close(rig);
}

/* While layers arrive: those that were told are there. */
static struct copy_rig *layers_rig;
static struct copy_case layers_case;
static uint32_t layers_bad;

static void layers_check(void *ctx, uint32_t layers)
{
    struct copy_case *c = ctx;
    static uint8_t seen[COPY_ARENA];

    layers_rig->cuda.control->peek(seen, layers_rig->device_memory[0], COPY_ARENA);
    for (uint32_t chunk = 0; chunk < c->shape.count; chunk++) {
        const uint64_t slab = c->shape.bytes[chunk] / (c->shape.planes * c->shape.layers);

        for (uint64_t i = 0; i < c->shape.bytes[chunk]; i++) {
            const uint64_t at = sides_address(&c->to, &c->shape, chunk, i) - c->dst_base;

            if (i / slab % c->shape.layers < layers && seen[at] != layers_rig->expected[at]) {
                layers_bad++;
            }
        }
    }
    (void)pthread_mutex_lock(&c->end.lock);
    c->end.layers[c->end.told++] = layers;
    (void)pthread_mutex_unlock(&c->end.lock);
}

static void test_layers_are_told_in_order_when_they_are_there(void **state)
{
    static const enum cuda_ipc_side_kind from[] = {CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_HOST};
    uint64_t seed = 32;
    uint32_t told = 0;

    (void)state;
    layers_rig = open_small();
    for (uint32_t round = 0; round < 10; round++) {
        struct copy_case *c = &layers_case;

        copy_case_make(layers_rig, c, CUDA_IPC_SIDE_PAGED, from[round % 2], 8, 0, &seed);
        c->job.progress = layers_check;
        assert_int_equal(copy_case_submit(layers_rig, c), 0);
        assert_int_equal(copy_case_wait(c), 0);
        for (uint32_t i = 0; i < c->end.told; i++) {
            assert_true(i == 0 || c->end.layers[i] > c->end.layers[i - 1]);
        }
        assert_true(c->end.told > 0 && c->end.layers[c->end.told - 1] == c->shape.layers);
        told += c->end.told;
        assert_int_equal(layers_bad, 0);
        copy_case_free(layers_rig, c);
    }
    assert_true(told > 10); /* some came before the end */
    copy_rig_close(layers_rig);
}

/* ---- ends before the end ---- */

static void test_a_job_that_waits_is_cancelled_at_once(void **state)
{
    struct copy_rig *rig = open_small();
    static struct copy_case c;
    cuda_stream stream;
    uint64_t seed = 40;

    (void)state;
    assert_int_equal(
        rig->cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0), CUDA_OK);
    rig->cuda.control->hold(stream);
    for (int round = 0; round < 2; round++) {
        copy_case_make(rig, &c, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST, 16, 0, &seed);
        c.job.stream = stream;
        c.job.deadline_ms = round == 0 ? KVL_NEVER : now_ms() + 10;
        assert_int_equal(copy_case_submit(rig, &c), 0);
        if (round == 0) {
            cuda_ipc_copy_cancel(rig->copy, 77);
            cuda_ipc_copy_cancel(rig->copy, 1);
        }
        assert_int_equal(copy_case_wait(&c), round == 0 ? -ECANCELED : -ETIMEDOUT);
        assert_int_equal(c.end.items[0], c.end.status);
        assert_true(c.end.bytes == 0);
        memset(rig->expected, 0, COPY_ARENA);
        assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
        copy_case_free(rig, &c);
    }
    rig->cuda.control->release(stream);
    assert_int_equal(rig->cuda.api.stream_destroy(stream), CUDA_OK);
    copy_rig_close(rig);
}

static int parts_are_queued(void *ctx)
{
    return copy_rig_stat(ctx, "copy_parts") >= 3;
}

static void test_after_a_cancelled_job_no_byte_is_written(void **state)
{
    struct copy_rig *rig = open_small();
    static struct copy_case c;
    static uint8_t then[COPY_ARENA];
    uint64_t seed = 41;

    (void)state;
    for (int round = 0; round < 6; round++) {
        const int is_up = round % 2;
        cuda_stream lane = rig->device->streams[is_up ? CUDA_IPC_LANE_IN : CUDA_IPC_LANE_DOWN];
        const uint64_t parts = copy_rig_stat(rig, "copy_parts");

        do {
            copy_case_make(rig, &c, is_up ? CUDA_IPC_SIDE_PAGED : CUDA_IPC_SIDE_HOST,
                           is_up ? CUDA_IPC_SIDE_HOST : CUDA_IPC_SIDE_PAGED, 16, 0, &seed);
            if (c.shape.bytes[0] * c.shape.count < 40000) {
                copy_case_free(rig, &c);
                c.job.count = 0;
            }
        } while (c.job.count == 0);
        /* the buffers fill up and nothing ends */
        rig->cuda.control->hold(lane);
        assert_int_equal(copy_case_submit(rig, &c), 0);
        if (round == 0) {
            cuda_rig_until(parts_are_queued, rig);
        }
        cuda_ipc_copy_cancel(rig->copy, 1);
        assert_int_equal(cuda_ipc_copy_drain(rig->copy, now_ms() + 20), -ETIMEDOUT);
        assert_int_equal(c.end.ends, 0);
        assert_true(copy_rig_stat(rig, "copy_parts") <= parts + 6);
        rig->cuda.control->release(lane);
        assert_int_equal(copy_case_wait(&c), -ECANCELED);
        memcpy(then, copy_case_see(rig, &c), COPY_ARENA);
        assert_int_equal(rig->cuda.control->pending(lane), 0);
        assert_memory_equal(copy_case_see(rig, &c), then, COPY_ARENA);
        copy_case_free(rig, &c);
    }
    copy_rig_close(rig);
}

static void test_no_more_jobs_than_allowed(void **state)
{
    const struct cuda_ipc_copy_options options = {.method = CUDA_IPC_BATCH, .max_jobs = 2};
    struct copy_rig *rig = copy_rig_open("13000", &options, 1);
    static struct copy_case c;
    uint64_t seed = 42;

    (void)state;
    copy_case_make(rig, &c, CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
    rig->cuda.control->hold(NULL);
    assert_int_equal(copy_case_submit(rig, &c), 0);
    assert_int_equal(copy_case_submit(rig, &c), 0);
    assert_int_equal(copy_case_submit(rig, &c), -EAGAIN);
    assert_int_equal(copy_rig_stat(rig, "copy_in_flight"), 2);
    rig->cuda.control->release(NULL);
    assert_int_equal(cuda_ipc_copy_drain(rig->copy, now_ms() + 20000), 0);
    assert_int_equal(c.end.ends, 2);
    assert_int_equal(c.end.status, 0);
    copy_case_free(rig, &c);
    copy_rig_close(rig);
}

static void test_stop_ends_what_is_in_flight(void **state)
{
    struct copy_rig *rig = open_small();
    static struct copy_case c;
    cuda_stream stream;
    uint64_t seed = 43;

    (void)state;
    assert_int_equal(
        rig->cuda.api.stream_create_with_priority(&stream, CUDA_STREAM_NON_BLOCKING, 0), CUDA_OK);
    rig->cuda.control->hold(stream);
    copy_case_make(rig, &c, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST, 16, 0, &seed);
    c.job.stream = stream;
    assert_int_equal(copy_case_submit(rig, &c), 0);
    cuda_ipc_copy_stop(rig->copy);
    assert_int_equal(c.end.ends, 1);
    assert_int_equal(c.end.status, -ECANCELED);
    assert_int_equal(copy_case_submit(rig, &c), -ECANCELED);
    copy_case_free(rig, &c);
    rig->cuda.control->release(stream);
    assert_int_equal(rig->cuda.api.stream_destroy(stream), CUDA_OK);
    copy_rig_close(rig);
}

/* ---- refused ---- */

static void test_bad_jobs_queue_nothing(void **state)
{
    struct copy_rig *rig = open_small();
    static struct copy_case c;
    uint64_t seed = 50;
    uint64_t calls;
    bool is_fit;

    (void)state;
    do {
        copy_case_make(rig, &c, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_RUNS, 16, 0, &seed);
        is_fit = c.shape.count >= 3 && c.from.sg[0].length > 0;
        if (!is_fit) {
            copy_case_free(rig, &c);
        }
    } while (!is_fit);
    calls = copy_rig_stat(rig, "copy_driver_calls");
#define CASE(code, field, value)                                                                   \
    do {                                                                                           \
        __typeof__(field) keep = (field);                                                          \
        (field) = (value);                                                                         \
        assert_int_equal(copy_case_submit(rig, &c), (code));                                       \
        (field) = keep;                                                                            \
    } while (0)
    CASE(-EINVAL, c.to.blocks[1], c.to.layout.block_count);
    CASE(-EINVAL, c.to.block_first[1], c.to.block_first[1] + 1);
    CASE(-EINVAL, c.to.block_first[2], 0);
    CASE(-EINVAL, c.shape.bytes[0], c.shape.bytes[0] + 16);
    CASE(-EINVAL, c.job.count, 0);
    CASE(-EINVAL, c.job.count, KVL_BATCH_MAX + 1);
    CASE(-EINVAL, c.job.wait_count, 1);
    CASE(-EINVAL, c.job.bytes, NULL);
    CASE(-EINVAL, c.job.done, NULL);
    CASE(-EINVAL, c.job.src.sg, NULL);
    CASE(-EINVAL, c.job.src.kind, (enum cuda_ipc_side_kind)9);
    CASE(-EINVAL, c.from.sg[0].addr, rig->device_memory[1] + COPY_ARENA - 8);
    CASE(-EINVAL, c.from.sg[0].addr, 64);
    CASE(-EINVAL, c.from.sg[0].mem, KVL_MEM_HOST);
    CASE(-EINVAL, c.from.sg[0].device, 1);
    CASE(-ENOTSUP, c.job.src.kind, (c.job.dst.kind = CUDA_IPC_SIDE_HOST));
    c.job.dst.kind = CUDA_IPC_SIDE_DEVICE;
    CASE(-ENODEV, c.job.dst.device, 1);
    CASE(-ENODEV, c.job.dst.device, -1);
    c.job.dst.kind = CUDA_IPC_SIDE_PAGED;
#undef CASE
    assert_true(copy_rig_stat(rig, "copy_driver_calls") == calls);
    assert_int_equal(copy_rig_stat(rig, "copy_in_flight"), 0);
    assert_int_equal(copy_case_submit(rig, &c), 0);
    assert_int_equal(copy_case_wait(&c), 0);
    copy_case_free(rig, &c);
    copy_rig_close(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kernel_moves_between_all_sides),
        cmocka_unit_test(test_batches_of_13_0_move_between_all_sides),
        cmocka_unit_test(test_batches_of_12_8_move_between_all_sides),
        cmocka_unit_test(test_single_copies_move_between_all_sides),
        cmocka_unit_test(test_what_is_missing_is_replaced),
        cmocka_unit_test(test_a_calibration_changes_no_bytes),
        cmocka_unit_test(test_more_runs_than_a_table_holds),
        cmocka_unit_test(test_a_job_comes_after_the_engines_stream),
        cmocka_unit_test(test_a_job_comes_after_given_events),
        cmocka_unit_test(test_layers_are_told_in_order_when_they_are_there),
        cmocka_unit_test(test_a_job_that_waits_is_cancelled_at_once),
        cmocka_unit_test(test_after_a_cancelled_job_no_byte_is_written),
        cmocka_unit_test(test_no_more_jobs_than_allowed),
        cmocka_unit_test(test_stop_ends_what_is_in_flight),
        cmocka_unit_test(test_bad_jobs_queue_nothing),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
