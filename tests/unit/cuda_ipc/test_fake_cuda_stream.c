/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Streams of the fake driver and what runs in them: events, callbacks, kernels.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_rig.h"

#define PINNED (1u << 20)
#define PINNED_COPIES 256u

static int open_rig(void **state)
{
    static struct cuda_rig rig;

    cuda_rig_open(&rig);
    *state = &rig;
    return 0;
}

static int close_rig(void **state)
{
    struct cuda_rig *rig = *state;

    rig->control->fail_calls(NULL);
    cuda_rig_close(rig);
    return 0;
}

/* ---- streams and events ---- */

static void note(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void test_streams_are_late_and_in_order(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 8);
    atomic_int noted = 0;
    char seen[4];

    assert_int_equal(rig->control->poke(ptr, "old", 4), 0);
    rig->control->hold(stream);
    assert_int_equal(api->memcpy_htod_async(ptr, "one", 4, stream), CUDA_OK);
    assert_int_equal(api->memcpy_htod_async(ptr, "two", 4, stream), CUDA_OK);
    assert_int_equal(api->launch_host_func(stream, note, &noted), CUDA_OK);
    assert_int_equal(api->stream_query(stream), CUDA_E_NOT_READY);
    assert_int_equal(rig->control->pending(stream), 3);
    assert_int_equal(rig->control->peek(seen, ptr, 4), 0);
    assert_string_equal(seen, "old");
    assert_int_equal(atomic_load(&noted), 0);
    rig->control->release(stream);
    assert_int_equal(api->stream_synchronize(stream), CUDA_OK);
    assert_int_equal(rig->control->peek(seen, ptr, 4), 0);
    assert_string_equal(seen, "two");
    assert_int_equal(atomic_load(&noted), 1);
    assert_int_equal(api->stream_query(stream), CUDA_OK);
    assert_int_equal(api->stream_destroy(stream), CUDA_OK);
    assert_int_equal(api->stream_query(stream), CUDA_E_INVALID_HANDLE);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
}

static int was_noted(void *ctx)
{
    return atomic_load((atomic_int *)ctx) > 0;
}

static void test_a_destroyed_stream_does_what_is_left(void **state)
{
    const struct cuda_rig *rig = *state;
    cuda_stream stream = cuda_rig_stream(rig);
    static atomic_int noted;
    struct fake_cuda_live live;

    rig->control->hold(stream);
    assert_int_equal(rig->api.launch_host_func(stream, note, &noted), CUDA_OK);
    assert_int_equal(rig->api.stream_destroy(stream), CUDA_OK);
    assert_int_equal(rig->api.stream_synchronize(stream), CUDA_E_INVALID_HANDLE);
    rig->control->live(&live);
    assert_int_equal(live.streams, 0);
    assert_int_equal(atomic_load(&noted), 0);
    rig->control->release(stream);
    cuda_rig_until(was_noted, &noted);
}

static void test_events_order_streams(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream first = cuda_rig_stream(rig);
    cuda_stream second = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 8);
    cuda_event event;
    char seen[4];

    assert_int_equal(api->event_create(&event, CUDA_EVENT_DISABLE_TIMING), CUDA_OK);
    assert_int_equal(api->event_query(event), CUDA_OK); /* never recorded */
    assert_int_equal(api->event_synchronize(event), CUDA_OK);
    rig->control->hold(first);
    assert_int_equal(api->memcpy_htod_async(ptr, "one", 4, first), CUDA_OK);
    assert_int_equal(api->event_record(event, first), CUDA_OK);
    assert_int_equal(api->event_query(event), CUDA_E_NOT_READY);
    assert_int_equal(api->stream_wait_event(second, event, 0), CUDA_OK);
    assert_int_equal(api->memcpy_htod_async(ptr, "two", 4, second), CUDA_OK);
    assert_int_equal(api->event_destroy(event), CUDA_OK); /* the wait stands */
    assert_int_equal(api->event_query(event), CUDA_E_INVALID_HANDLE);
    assert_int_equal(api->stream_query(second), CUDA_E_NOT_READY);
    rig->control->release(first);
    assert_int_equal(api->stream_synchronize(second), CUDA_OK);
    assert_int_equal(rig->control->peek(seen, ptr, 4), 0);
    assert_string_equal(seen, "two");
    assert_int_equal(api->stream_destroy(first), CUDA_OK);
    assert_int_equal(api->stream_destroy(second), CUDA_OK);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
}

static void test_a_wait_is_for_the_record_before_it(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream first = cuda_rig_stream(rig);
    cuda_stream second = cuda_rig_stream(rig);
    cuda_event event;

    assert_int_equal(api->event_create(&event, CUDA_EVENT_DISABLE_TIMING), CUDA_OK);
    assert_int_equal(api->event_record(event, first), CUDA_OK);
    assert_int_equal(api->stream_synchronize(first), CUDA_OK);
    assert_int_equal(api->stream_wait_event(second, event, 0), CUDA_OK);
    rig->control->hold(first);
    assert_int_equal(api->event_record(event, first), CUDA_OK);
    assert_int_equal(api->stream_synchronize(second), CUDA_OK);
    assert_int_equal(api->event_query(event), CUDA_E_NOT_READY);
    rig->control->release(first);
    assert_int_equal(api->event_synchronize(event), CUDA_OK);
    assert_int_equal(api->event_destroy(event), CUDA_OK);
    assert_int_equal(api->stream_destroy(first), CUDA_OK);
    assert_int_equal(api->stream_destroy(second), CUDA_OK);
}

static void test_flags_of_events(void **state)
{
    const struct cuda_rig *rig = *state;
    struct cuda_ipc_event_handle handle;
    cuda_event event;

    assert_int_equal(rig->api.event_create(&event, CUDA_EVENT_INTERPROCESS), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig->api.event_create(&event, CUDA_EVENT_DISABLE_TIMING), CUDA_OK);
    assert_int_equal(rig->api.ipc_get_event_handle(&handle, event), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig->api.event_destroy(event), CUDA_OK);
}

static struct cuda_rig *callback_rig;
static cuda_result callback_code;

static void call_the_driver(void *arg)
{
    callback_code = callback_rig->api.event_query(arg);
}

static void test_callbacks_must_not_call_the_driver(void **state)
{
    struct cuda_rig *rig = *state;
    cuda_stream stream = cuda_rig_stream(rig);

    callback_rig = rig;
    assert_int_equal(rig->api.launch_host_func(stream, call_the_driver, NULL), CUDA_OK);
    assert_int_equal(rig->api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(callback_code, CUDA_E_NOT_PERMITTED);
    assert_int_equal(rig->api.stream_destroy(stream), CUDA_OK);
}

static void test_memory_freed_under_a_copy_breaks_the_context(void **state)
{
    struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 64);
    atomic_int noted = 0;
    cuda_event event;

    assert_int_equal(api->event_create(&event, 0), CUDA_OK);
    rig->control->hold(stream);
    assert_int_equal(api->memcpy_htod_async(ptr, "gone", 5, stream), CUDA_OK);
    assert_int_equal(api->launch_host_func(stream, note, &noted), CUDA_OK);
    assert_int_equal(api->event_record(event, stream), CUDA_OK);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
    rig->control->release(stream);
    assert_int_equal(api->event_synchronize(event), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(api->stream_synchronize(stream), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(api->mem_alloc(&ptr, 64), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(atomic_load(&noted), 0);
    /* a new context is a sound one */
    assert_int_equal(api->device_primary_ctx_release(0), CUDA_OK);
    cuda_rig_open(rig);
    ptr = cuda_rig_memory(rig, 64);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
}

/* Nor is it plain memory of the process when its driver's hold on it ended: nothing is touched. */
static void check_gone_host(struct cuda_rig *rig, void *host, int is_registered)
{
    const struct cuda_ipc_api *api = &rig->api;
    struct cuda_copy_attrs attrs = {.src_access_order = CUDA_ORDER_STREAM};
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr dst = (cuda_ptr)(uintptr_t)host;
    cuda_ptr src = cuda_rig_memory(rig, PINNED);
    size_t bytes = PINNED;
    size_t first = 0;

    rig->control->hold(stream);
    assert_int_equal(
        api->memcpy_batch_async_13000(&dst, &src, &bytes, 1, &attrs, &first, 1, stream), CUDA_OK);
    if (is_registered) {
        assert_int_equal(api->mem_host_unregister(host), CUDA_OK);
        assert_int_equal(munmap(host, PINNED), 0);
    } else {
        assert_int_equal(api->mem_free_host(host), CUDA_OK);
    }
    rig->control->release(stream);
    assert_int_equal(api->stream_synchronize(stream), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(api->device_primary_ctx_release(0), CUDA_OK);
    cuda_rig_open(rig);
}

static void test_pinned_memory_freed_under_a_copy_breaks_the_context(void **state)
{
    struct cuda_rig *rig = *state;
    void *host;

    assert_int_equal(rig->api.mem_host_alloc(&host, PINNED, 0), CUDA_OK);
    check_gone_host(rig, host, 0);
    host = mmap(NULL, PINNED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(host != MAP_FAILED);
    assert_int_equal(rig->api.mem_host_register(host, PINNED, 0), CUDA_OK);
    check_gone_host(rig, host, 1);
}

struct freeing {
    const struct cuda_rig *rig;
    void *host;
};

static void *free_pinned(void *arg)
{
    const struct freeing *freeing = arg;

    CUDA_RIG_CHECK(cuda_ipc_api_enter(&freeing->rig->api, freeing->rig->context) == 0);
    CUDA_RIG_CHECK(freeing->rig->api.mem_free_host(freeing->host) == CUDA_OK);
    return NULL;
}

/* Taken away by another thread while a batch with many copies to it runs. */
static void test_pinned_memory_freed_while_a_batch_runs(void **state)
{
    struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;

    for (uint32_t round = 0; round < 20; round++) {
        struct cuda_copy_attrs attrs = {.src_access_order = CUDA_ORDER_STREAM};
        struct freeing freeing = {.rig = rig};
        cuda_ptr dsts[PINNED_COPIES];
        cuda_ptr srcs[PINNED_COPIES];
        size_t sizes[PINNED_COPIES];
        size_t first = 0;
        cuda_stream stream = cuda_rig_stream(rig);
        cuda_ptr src = cuda_rig_memory(rig, PINNED);
        pthread_t thread;
        cuda_result code;

        assert_int_equal(api->mem_host_alloc(&freeing.host, PINNED, 0), CUDA_OK);
        for (uint32_t i = 0; i < PINNED_COPIES; i++) {
            sizes[i] = PINNED / PINNED_COPIES;
            dsts[i] = (cuda_ptr)(uintptr_t)freeing.host + i * sizes[i];
            srcs[i] = src + i * sizes[i];
        }
        rig->control->hold(stream);
        assert_int_equal(api->memcpy_batch_async_13000(dsts, srcs, sizes, PINNED_COPIES, &attrs,
                                                       &first, 1, stream),
                         CUDA_OK);
        rig->control->release(stream);
        assert_int_equal(pthread_create(&thread, NULL, free_pinned, &freeing), 0);
        code = api->stream_synchronize(stream);
        assert_true(code == CUDA_OK || code == CUDA_E_ILLEGAL_ADDRESS);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(api->device_primary_ctx_release(0), CUDA_OK);
        cuda_rig_open(rig);
    }
}

static void test_all_streams_can_be_held(void **state)
{
    const struct cuda_rig *rig = *state;
    atomic_int noted = 0;
    cuda_stream stream;

    rig->control->hold(NULL);
    stream = cuda_rig_stream(rig); /* made later, held all the same */
    assert_int_equal(rig->api.launch_host_func(stream, note, &noted), CUDA_OK);
    assert_int_equal(rig->api.launch_host_func(NULL, note, &noted), CUDA_OK);
    assert_int_equal(rig->control->pending(NULL), 2);
    rig->control->release(NULL);
    assert_int_equal(rig->api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(rig->api.stream_synchronize(NULL), CUDA_OK);
    assert_int_equal(atomic_load(&noted), 2);
    assert_int_equal(rig->api.stream_destroy(stream), CUDA_OK);
}

static void test_a_capture_forbids_calls_beside_it(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_result (*exchange)(unsigned int *mode);
    void *symbol = dlsym(api->library, "cuThreadExchangeStreamCaptureMode");
    atomic_int noted = 0;
    unsigned int mode = 2; /* CU_STREAM_CAPTURE_MODE_RELAXED */
    cuda_ptr ptr;

    assert_non_null(symbol);
    memcpy(&exchange, &symbol, sizeof(exchange));
    rig->control->capture_begin();
    assert_int_equal(api->mem_alloc(&ptr, 8), CUDA_E_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(api->stream_query(stream), CUDA_E_STREAM_CAPTURE_UNSUPPORTED);
    assert_int_equal(api->launch_host_func(stream, note, &noted), CUDA_OK);
    assert_int_equal(rig->control->capture_end(), 2);

    rig->control->capture_begin();
    assert_int_equal(exchange(&mode), CUDA_OK);
    assert_int_equal(mode, 0);
    assert_int_equal(api->stream_synchronize(stream), CUDA_OK);
    assert_int_equal(api->mem_alloc(&ptr, 8), CUDA_OK);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
    assert_int_equal(exchange(&mode), CUDA_OK);
    assert_int_equal(mode, 2);
    assert_int_equal(rig->control->capture_end(), 0);
    assert_int_equal(api->stream_destroy(stream), CUDA_OK);
}

/* ---- kernels ---- */

static void test_kernels_run_in_streams(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    static const char image[] = ".version 7.0\n.visible .entry fake_cuda_fill()";
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 64);
    uint64_t bytes = 64;
    uint32_t value = 7;
    void *params[] = {&ptr, &bytes, &value};
    cuda_function function;
    cuda_module module;
    char seen[64];

    assert_int_equal(api->module_load_data(&module, "no image"), CUDA_E_INVALID_IMAGE);
    assert_int_equal(api->module_load_data(&module, image), CUDA_OK);
    assert_int_equal(api->module_get_function(&function, module, "other"), CUDA_E_NOT_FOUND);
    assert_int_equal(api->module_get_function(&function, module, "fake_cuda_fill"), CUDA_OK);
    rig->control->hold(stream);
    assert_int_equal(api->launch_kernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL),
                     CUDA_OK);
    value = 8; /* the values are taken at the launch */
    rig->control->release(stream);
    assert_int_equal(api->stream_synchronize(stream), CUDA_OK);
    assert_int_equal(rig->control->peek(seen, ptr, sizeof(seen)), 0);
    assert_int_equal(seen[0], 7);
    assert_int_equal(seen[63], 7);
    assert_int_equal(api->launch_kernel(function, 1, 1, 1, 2048, 1, 1, 0, stream, params, NULL),
                     CUDA_E_INVALID_VALUE);
    assert_int_equal(api->module_unload(module), CUDA_OK);
    assert_int_equal(api->launch_kernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL),
                     CUDA_E_INVALID_HANDLE);
    assert_int_equal(api->stream_destroy(stream), CUDA_OK);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
}

static void test_a_kernel_beyond_its_memory_breaks_the_context(void **state)
{
    struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 64);
    uint64_t bytes = 65;
    uint32_t value = 7;
    void *params[] = {&ptr, &bytes, &value};
    cuda_function function;
    cuda_module module;

    assert_int_equal(api->module_load_data(&module, ".version 7.0 fake_cuda_fill"), CUDA_OK);
    assert_int_equal(api->module_get_function(&function, module, "fake_cuda_fill"), CUDA_OK);
    assert_int_equal(api->launch_kernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL),
                     CUDA_OK);
    assert_int_equal(api->stream_synchronize(stream), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(api->module_unload(module), CUDA_E_ILLEGAL_ADDRESS);
    assert_int_equal(api->device_primary_ctx_release(0), CUDA_OK);
    cuda_rig_open(rig);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
        TEST(test_streams_are_late_and_in_order),
        TEST(test_a_destroyed_stream_does_what_is_left),
        TEST(test_events_order_streams),
        TEST(test_a_wait_is_for_the_record_before_it),
        TEST(test_flags_of_events),
        TEST(test_callbacks_must_not_call_the_driver),
        TEST(test_memory_freed_under_a_copy_breaks_the_context),
        TEST(test_pinned_memory_freed_under_a_copy_breaks_the_context),
        TEST(test_pinned_memory_freed_while_a_batch_runs),
        TEST(test_all_streams_can_be_held),
        TEST(test_a_capture_forbids_calls_beside_it),
        TEST(test_kernels_run_in_streams),
        TEST(test_a_kernel_beyond_its_memory_breaks_the_context),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
