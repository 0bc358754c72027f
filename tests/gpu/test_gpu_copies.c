/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The copy engine on a device: by each method and for each page size what is gathered is what was
 * in the pages, and what is scattered is what was gathered, on the device and through pinned memory
 * of the host.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gpu_ours.h"

#define LAYERS 2u
#define COUNT 5u
#define SALT 0x3000000000000000u

static struct {
    struct gpu_rig rig;
    struct gpu_ours ours;
    struct gpu_pages pages;
    cuda_ptr device[COUNT];
    void *host[COUNT];
} all;

static void there_and_back(enum cuda_ipc_method method, uint32_t page, const struct gpu_flat *flat)
{
    struct gpu_view view;
    struct cuda_ipc_kv *kv;
    uint64_t wrong = 0;

    gpu_view_init(&all.rig, &all.pages, page, &view);
    kv = gpu_ours_kv(&all.ours, &view);
    for (uint32_t i = 0; i < COUNT; i++) {
        gpu_view_fill(&all.rig, &view, i, SALT + page);
    }
    gpu_ours_move(&all.ours, method, &view, kv, flat, 1, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        gpu_view_fill(&all.rig, &view, i, 0);
    }
    gpu_ours_move(&all.ours, method, &view, kv, flat, 0, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        wrong += gpu_view_differs(&all.rig, &view, i, SALT + page);
    }
    cuda_ipc_kv_put(&all.ours.kvs, kv);
    assert_int_equal(wrong, 0);
}

static void every_page(enum cuda_ipc_method method)
{
    const struct gpu_flat device = {.addrs = all.device};
    const struct gpu_flat host = {.hosts = all.host};

    for (uint32_t page = 16; page <= GPU_RIG_CHUNK_TOKENS; page *= 4) {
        there_and_back(method, page, &device);
        there_and_back(method, page, &host);
    }
}

static void test_auto(void **state)
{
    (void)state;
    every_page(CUDA_IPC_AUTO);
}

static void test_kernel(void **state)
{
    (void)state;
    every_page(CUDA_IPC_KERNEL);
}

static void test_batch(void **state)
{
    (void)state;
    every_page(CUDA_IPC_BATCH);
}

static void test_loop(void **state)
{
    (void)state;
    every_page(CUDA_IPC_LOOP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_auto),
        cmocka_unit_test(test_kernel),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_loop),
    };
    uint64_t bytes;
    uint8_t *host;
    cuda_ptr device;
    int failed;

    gpu_rig_open(&all.rig, LAYERS);
    bytes = gpu_rig_chunk_bytes(&all.rig);
    gpu_ours_open(&all.ours, &all.rig);
    gpu_pages_init(&all.rig, &all.pages);
    device = gpu_rig_alloc(&all.rig, COUNT * bytes);
    host = aligned_alloc(4096, COUNT * bytes);
    if (host == NULL) {
        return 1;
    }
    memset(host, 1, COUNT * bytes);
    gpu_ours_pin(&all.ours, host, COUNT * bytes);
    for (uint32_t i = 0; i < COUNT; i++) {
        all.device[i] = device + i * bytes;
        all.host[i] = host + i * bytes;
    }
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_ours_close(&all.ours);
    gpu_pages_fini(&all.rig, &all.pages);
    gpu_rig_free(&all.rig, device);
    gpu_rig_close(&all.rig);
    free(host);
    return failed;
}
