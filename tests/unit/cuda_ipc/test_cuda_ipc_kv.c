/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices in use and registered KV caches, on a machine with two devices.
 */
#include "copy_rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct cuda_ipc_copy_options plain = {.method = CUDA_IPC_BATCH};

struct cache {
    struct kvl_kv kv;
    uint64_t bases[4];
};

/* Two layers of two planes, each 8 blocks of 4 tokens of 64 bytes: 2 KiB from base to end. */
static void cache_make(struct cache *cache, cuda_ptr at)
{
    for (int i = 0; i < 4; i++) {
        cache->bases[i] = at + (uint64_t)i * 2048;
    }
    cache->kv = (struct kvl_kv){
        .size = sizeof(cache->kv),
        .mem = KVL_MEM_CUDA,
        .layers = 2,
        .planes = 2,
        .block_tokens = 4,
        .block_count = 8,
        .token_bytes = 64,
        .token_stride = 64,
        .block_stride = 256,
        .bases = cache->bases,
    };
}

static void expect_refused(struct copy_rig *rig, const struct cache *cache, int code,
                           const char *word)
{
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t number = 77;

    assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache->kv, &number, &err), code);
    if (strstr(err.text, word) == NULL) {
        fail_msg("no '%s' in: %s", word, err.text);
    }
    assert_true(number == 77);
}

static void test_bad_caches_are_refused_with_the_field(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    const cuda_ptr end = rig->device_memory[0] + COPY_ARENA;
    struct cache cache;

    (void)state;
#define CASE(code, word, ...)                                                                      \
    do {                                                                                           \
        cache_make(&cache, rig->device_memory[0]);                                                 \
        __VA_ARGS__;                                                                               \
        expect_refused(rig, &cache, (code), (word));                                               \
    } while (0)
    CASE(-EINVAL, "size", cache.kv.size = 8);
    CASE(-EINVAL, "mem", cache.kv.mem = KVL_MEM_HOST);
    CASE(-EINVAL, "reserved", cache.kv.reserved = 1);
    CASE(-EINVAL, "bases", cache.kv.bases = NULL);
    CASE(-EINVAL, "layers", cache.kv.layers = 1u << 20);
    CASE(-EINVAL, "layers", cache.kv.layers = 0);
    CASE(-EINVAL, "token_stride", cache.kv.token_stride = 63);
    CASE(-EINVAL, "block_stride", cache.kv.block_stride = 255);
    CASE(-ENODEV, "no device 2", cache.kv.device = 2);
    CASE(-ENODEV, "no device -1", cache.kv.device = -1);
    CASE(-EINVAL, "lies on device 0, not on 1", cache.kv.device = 1);
    CASE(-EINVAL, "base 3", cache.bases[3] = end - 2047);
    CASE(-EINVAL, "base 2", cache.bases[2] = end);
    CASE(-EINVAL, "base 1", cache.bases[1] = (uint64_t)(uintptr_t)rig->host_memory[0]);
    CASE(-EINVAL, "base 0", cache.bases[0] = 4096);
    CASE(-EINVAL, "base 0", cache.kv.block_count = 1 + COPY_ARENA / 256);
#undef CASE
    copy_rig_close(rig);
}

static void test_the_bases_are_there_for_the_device(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_kv *kv;
    struct cache cache;
    uint64_t bases[4];
    uint64_t number;

    (void)state;
    cache_make(&cache, rig->device_memory[0]);
    cache.bases[3] = rig->device_memory[0] + COPY_ARENA - 2048;
    memcpy(bases, cache.bases, sizeof(bases));
    assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache.kv, &number, &err), 0);
    memset(&cache, 0, sizeof(cache)); /* only borrowed */
    kv = cuda_ipc_kv_get(&rig->kvs, number);
    assert_non_null(kv);
    assert_memory_equal(kv->layout.bases, bases, sizeof(bases));
    assert_int_equal(rig->cuda.control->peek(cache.bases, kv->device_bases, sizeof(bases)), 0);
    assert_memory_equal(cache.bases, bases, sizeof(bases));
    assert_int_equal(kv->alignment, 16);
    cuda_ipc_kv_put(&rig->kvs, kv);
    assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, number), 0);
    copy_rig_close(rig);
}

static void test_numbers_are_not_used_again(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t numbers[CUDA_IPC_KV_MAX];
    uint64_t again;
    struct cache cache;

    (void)state;
    cache_make(&cache, rig->device_memory[0]);
    for (uint32_t i = 0; i < CUDA_IPC_KV_MAX; i++) {
        assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache.kv, &numbers[i], &err),
                         0);
        assert_true(numbers[i] != 0);
    }
    expect_refused(rig, &cache, -ENOMEM, "no more");
    assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, numbers[5]), 0);
    assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, numbers[5]), -ENOENT);
    assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache.kv, &again, &err), 0);
    assert_true(again != numbers[5]);
    assert_null(cuda_ipc_kv_get(&rig->kvs, numbers[5]));
    assert_null(cuda_ipc_kv_get(&rig->kvs, 0));
    assert_null(cuda_ipc_kv_get(&rig->kvs, UINT64_MAX));
    copy_rig_close(rig); /* takes the rest */
}

static void test_a_cache_may_lie_in_mappings_side_by_side(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    const struct cuda_ipc_api *api = &rig->cuda.api;
    const struct cuda_mem_prop prop = {.type = CUDA_MEM_PINNED,
                                       .location = {.type = CUDA_LOCATION_DEVICE}};
    const struct cuda_access access = {.location = {.type = CUDA_LOCATION_DEVICE},
                                       .flags = CUDA_ACCESS_READ_WRITE};
    struct kvl_err err = {.size = sizeof(err)};
    struct cache cache;
    cuda_mem mems[2];
    size_t unit = 0;
    cuda_ptr at = 0;
    uint64_t number;

    (void)state;
    assert_int_equal(api->mem_get_allocation_granularity(&unit, &prop, CUDA_GRANULARITY_MINIMUM),
                     CUDA_OK);
    assert_int_equal(api->mem_address_reserve(&at, 2 * unit, 0, 0, 0), CUDA_OK);
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(api->mem_create(&mems[i], unit, &prop, 0), CUDA_OK);
        assert_int_equal(api->mem_map(at + i * unit, unit, 0, mems[i], 0), CUDA_OK);
        assert_int_equal(api->mem_set_access(at + i * unit, unit, &access, 1), CUDA_OK);
    }
    cache_make(&cache, at + unit - 3000); /* layer 1 lies in both */
    assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache.kv, &number, &err), 0);
    assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, number), 0);
    cache_make(&cache, at + 2 * unit - 8191);
    expect_refused(rig, &cache, -EINVAL, "base 3");
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(api->mem_unmap(at + i * unit, unit), CUDA_OK);
        assert_int_equal(api->mem_release(mems[i]), CUDA_OK);
    }
    assert_int_equal(api->mem_address_free(at, 2 * unit), CUDA_OK);
    copy_rig_close(rig);
}

static void test_memory_whose_extent_is_not_told_is_taken_when_known(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct kvl_err err = {.size = sizeof(err)};
    struct cache cache;
    uint64_t number;

    (void)state;
    assert_int_equal(rig->cuda.control->fail_calls("cuMemGetAddressRange=1"), 0);
    cache_make(&cache, rig->device_memory[0]);
    assert_int_equal(cuda_ipc_kvs_add(&rig->kvs, &rig->devices, &cache.kv, &number, &err), 0);
    assert_int_equal(cuda_ipc_kvs_remove(&rig->kvs, number), 0);
    cache.bases[2] = (uint64_t)(uintptr_t)rig->host_memory[0];
    expect_refused(rig, &cache, -EINVAL, "base 2");
    cache.bases[2] = 1ull << 54;
    expect_refused(rig, &cache, -EINVAL, "base 2");
    assert_int_equal(rig->cuda.control->fail_calls(NULL), 0);
    copy_rig_close(rig);
}

static void test_a_failed_upload_leaves_nothing(void **state)
{
    static const char *const rules[] = {"cuMemAlloc=2:1", "cuMemcpyHtoDAsync=1:1",
                                        "cuCtxPushCurrent=201:1"};
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct cache cache;

    (void)state;
    for (int i = 0; i < 3; i++) {
        cache_make(&cache, rig->device_memory[0]);
        assert_int_equal(rig->cuda.control->fail_calls(rules[i]), 0);
        expect_refused(rig, &cache, i == 0 ? -ENOMEM : i == 2 ? -EACCES : -EINVAL, "cuda_ipc: ");
        assert_int_equal(rig->cuda.control->fail_calls(NULL), 0);
    }
    copy_rig_close(rig);
}

/* Nobody knows then whether the copy still comes, so its target stays. */
static void test_an_upload_without_an_end_loses_the_device(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct cache cache;

    (void)state;
    cache_make(&cache, rig->device_memory[0]);
    assert_int_equal(rig->cuda.control->fail_calls("cuStreamSynchronize=1:1"), 0);
    expect_refused(rig, &cache, -EINVAL, "cuStreamSynchronize");
    assert_int_equal(rig->cuda.control->fail_calls(NULL), 0);
    expect_refused(rig, &cache, -EIO, "lost");
    assert_false(cuda_ipc_copy_is_well(rig->copy));
    copy_rig_close_lost(rig);
}

/* ---- devices ---- */

static void test_devices_are_found_by_uuid(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    struct cuda_uuid other = rig->devices.all[1].uuid;

    (void)state;
    assert_int_equal(rig->devices.count, 2);
    assert_int_equal(cuda_ipc_devices_find(&rig->devices, &rig->devices.all[0].uuid), 0);
    assert_int_equal(cuda_ipc_devices_find(&rig->devices, &other), 1);
    other.bytes[3] ^= 1;
    assert_int_equal(cuda_ipc_devices_find(&rig->devices, &other), -ENODEV);
    copy_rig_close(rig);
}

static void test_the_engines_context_comes_back(void **state)
{
    struct copy_rig *rig = copy_rig_open("13000", &plain, 0);
    const struct cuda_ipc_api *api = &rig->cuda.api;
    struct cuda_ipc_device *second;
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_stay visit;
    cuda_context current = NULL;

    (void)state;
    assert_int_equal(cuda_ipc_devices_open(&rig->devices, 1, &second, &err), 0);
    assert_int_equal(cuda_ipc_device_enter(second, &visit), 0);
    assert_int_equal(api->ctx_get_current(&current), CUDA_OK);
    assert_ptr_equal(current, second->context);
    cuda_ipc_device_leave(second, &visit);
    assert_int_equal(api->ctx_get_current(&current), CUDA_OK);
    assert_ptr_equal(current, rig->cuda.context);
    copy_rig_close(rig);
}

static void test_a_graph_that_the_engine_captures_is_not_disturbed(void **state)
{
    const struct cuda_ipc_copy_options options = {
        .image = copy_rig_image(), .stage_bytes = 4096, .calibrate = 1};
    struct copy_rig *rig = copy_rig_open("13000", &options, 1);
    struct kvl_err err = {.size = sizeof(err)};
    uint64_t seed = 69;
    void *page = aligned_alloc(4096, 4096);

    (void)state;
    rig->cuda.control->capture_begin();
    assert_int_equal(cuda_ipc_copy_open(rig->copy, 1, &err), 0);
    assert_int_equal(cuda_ipc_copy_pin(rig->copy, page, 4096, &err), 0);
    copy_case_run(rig, CUDA_IPC_SIDE_PAGED, CUDA_IPC_SIDE_HOST, 16, 0, &seed);
    copy_case_run(rig, CUDA_IPC_SIDE_DEVICE, CUDA_IPC_SIDE_RUNS, 16, 0, &seed);
    cuda_ipc_copy_stop(rig->copy);
    assert_int_equal(rig->cuda.control->capture_end(), 0);
    free(page);
    copy_rig_close(rig);
}

/* Kernels are not trusted with memory of another device; the driver's copies are. */
static void test_chunks_move_between_devices(void **state)
{
    const struct cuda_ipc_copy_options options = {.method = CUDA_IPC_KERNEL,
                                                  .image = copy_rig_image()};
    static struct copy_case c;
    uint64_t seed = 70;

    (void)state;
    for (int round = 0; round < 4; round++) {
        struct copy_rig *rig = copy_rig_open(round < 2 ? "13000" : "12040", &options, 0);
        struct kvl_err err = {.size = sizeof(err)};
        struct cuda_ipc_device *second;
        struct cuda_ipc_stay visit;
        uint64_t launches = copy_rig_stat(rig, "copy_launches");

        assert_int_equal(cuda_ipc_copy_open(rig->copy, 1, &err), 0);
        assert_int_equal(cuda_ipc_devices_open(&rig->devices, 1, &second, &err), 0);
        assert_int_equal(rig->cuda.api.mem_free(rig->device_memory[round % 2]), CUDA_OK);
        assert_int_equal(cuda_ipc_device_enter(second, &visit), 0);
        assert_int_equal(rig->cuda.api.mem_alloc(&rig->device_memory[round % 2], COPY_ARENA),
                         CUDA_OK);
        cuda_ipc_device_leave(second, &visit);

        copy_case_make(rig, &c, round % 2 == 0 ? CUDA_IPC_SIDE_DEVICE : CUDA_IPC_SIDE_PAGED,
                       round % 2 == 0 ? CUDA_IPC_SIDE_PAGED : CUDA_IPC_SIDE_DEVICE, 16, 0, &seed);
        (round % 2 == 0 ? &c.job.dst : &c.job.src)->device = 1;
        assert_int_equal(copy_case_submit(rig, &c), 0);
        assert_int_equal(copy_case_wait(&c), 0);
        assert_memory_equal(copy_case_see(rig, &c), rig->expected, COPY_ARENA);
        assert_true(copy_rig_stat(rig, "copy_launches") == launches);
        copy_case_free(rig, &c);
        copy_rig_close(rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_caches_are_refused_with_the_field),
        cmocka_unit_test(test_the_bases_are_there_for_the_device),
        cmocka_unit_test(test_numbers_are_not_used_again),
        cmocka_unit_test(test_a_cache_may_lie_in_mappings_side_by_side),
        cmocka_unit_test(test_memory_whose_extent_is_not_told_is_taken_when_known),
        cmocka_unit_test(test_a_failed_upload_leaves_nothing),
        cmocka_unit_test(test_devices_are_found_by_uuid),
        cmocka_unit_test(test_the_engines_context_comes_back),
        cmocka_unit_test(test_a_graph_that_the_engine_captures_is_not_disturbed),
        cmocka_unit_test(test_chunks_move_between_devices),
        cmocka_unit_test(test_an_upload_without_an_end_loses_the_device),
    };

    cuda_rig_machine();
    assert_int_equal(setenv("KVLANE_FAKE_CUDA_DEVICES", "2", 1), 0);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
