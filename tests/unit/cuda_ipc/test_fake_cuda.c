/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver in one process: contexts, memory, counting, errors on demand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cuda_rig.h"

#define KIB 1024u

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

/* ---- contexts ---- */

static void test_calls_need_a_context(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    cuda_stream stream;
    cuda_event event;
    cuda_ptr ptr;

    assert_int_equal(api->ctx_set_current(NULL), CUDA_OK);
    assert_int_equal(api->mem_alloc(&ptr, 1), CUDA_E_INVALID_CONTEXT);
    assert_int_equal(api->stream_create_with_priority(&stream, 0, 0), CUDA_E_INVALID_CONTEXT);
    assert_int_equal(api->event_create(&event, 0), CUDA_E_INVALID_CONTEXT);
    assert_int_equal(api->ctx_set_current((cuda_context)(uintptr_t)1), CUDA_E_INVALID_CONTEXT);
    assert_int_equal(cuda_ipc_api_enter(api, rig->context), 0);
    assert_int_equal(api->mem_alloc(&ptr, 1), CUDA_OK);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
}

static void test_end_of_a_context_takes_all_with_it(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    struct fake_cuda_live live;
    cuda_event event;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_ptr ptr = cuda_rig_memory(rig, 64);

    assert_int_equal(api->event_create(&event, 0), CUDA_OK);
    rig->control->hold(stream);
    assert_int_equal(api->memcpy_dtod_async(ptr, ptr + 32, 32, stream), CUDA_OK);
    assert_int_equal(api->device_primary_ctx_release(0), CUDA_OK);
    rig->control->live(&live);
    assert_int_equal(live.streams + live.events + live.allocations + live.contexts, 0);
    assert_int_equal(api->mem_alloc(&ptr, 64), CUDA_E_CONTEXT_IS_DESTROYED);
    /* as the teardown expects it */
    cuda_rig_open(*state);
    assert_int_equal(api->event_query(event), CUDA_E_INVALID_HANDLE);
    assert_int_equal(api->stream_query(stream), CUDA_E_INVALID_HANDLE);
}

static void test_a_forked_child_has_no_driver(void **state)
{
    const struct cuda_rig *rig = *state;
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        int count;
        cuda_result code = rig->api.device_get_count(&count);

        _exit(code == CUDA_E_NOT_INITIALIZED && rig->api.init(0) == code ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- memory ---- */

static void test_device_memory_is_not_for_the_cpu(void **state)
{
    const struct cuda_rig *rig = *state;
    cuda_ptr ptr = cuda_rig_memory(rig, 64);
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL); /* sanitizers would report it and exit */
        signal(SIGBUS, SIG_DFL);
        *(volatile char *)(uintptr_t)ptr = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);
}

static void test_memory_is_limited(void **state)
{
    const struct cuda_rig *rig = *state;
    size_t free_bytes;
    size_t total;
    cuda_ptr ptr;
    cuda_ptr rest;

    assert_int_equal(rig->api.mem_get_info(&free_bytes, &total), CUDA_OK);
    assert_int_equal(free_bytes, total);
    ptr = cuda_rig_memory(rig, total / 2);
    assert_int_equal(rig->api.mem_alloc(&rest, total / 2 + 1), CUDA_E_OUT_OF_MEMORY);
    assert_int_equal(rig->api.mem_get_info(&free_bytes, &total), CUDA_OK);
    assert_int_equal(free_bytes, total / 2);
    assert_int_equal(rig->api.mem_alloc(&rest, total / 2), CUDA_OK);
    assert_int_equal(rig->api.mem_free(rest), CUDA_OK);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig->api.mem_alloc(&ptr, 0), CUDA_E_INVALID_VALUE);
}

static void test_attributes_of_device_memory(void **state)
{
    const struct cuda_rig *rig = *state;
    cuda_ptr ptr = cuda_rig_memory(rig, 4 * KIB);
    unsigned long long id = 0;
    unsigned long long other = 0;
    size_t size = 0;
    int capable = 0;
    uint32_t type = 0;
    unsigned int attrs[] = {CUDA_POINTER_RANGE_SIZE, CUDA_POINTER_LEGACY_IPC_CAPABLE,
                            CUDA_POINTER_MEMORY_TYPE};
    void *values[] = {&size, &capable, &type};

    assert_int_equal(rig->api.pointer_get_attributes(3, attrs, values, ptr + 5), CUDA_OK);
    assert_int_equal(size, 4 * KIB);
    assert_int_equal(capable, 1);
    assert_int_equal(type, CUDA_MEMORY_DEVICE);
    assert_int_equal(rig->api.pointer_get_attribute(&id, CUDA_POINTER_BUFFER_ID, ptr), CUDA_OK);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);

    /* also when it gets the same address again */
    ptr = cuda_rig_memory(rig, 4 * KIB);
    assert_int_equal(rig->api.pointer_get_attribute(&other, CUDA_POINTER_BUFFER_ID, ptr), CUDA_OK);
    assert_true(id != other);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);

    assert_int_equal(rig->api.pointer_get_attribute(&id, CUDA_POINTER_BUFFER_ID, ptr),
                     CUDA_E_INVALID_VALUE);
    assert_int_equal(rig->api.pointer_get_attributes(3, attrs, values, ptr), CUDA_OK);
    assert_int_equal(size, 0);
}

static void test_pinned_memory(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    static char plain[8 * KIB];
    unsigned int type;
    void *pinned;
    cuda_ptr ptr;

    assert_int_equal(api->mem_host_alloc(&pinned, 100, CUDA_HOST_PORTABLE), CUDA_OK);
    assert_int_equal(api->mem_host_get_device_pointer(&ptr, pinned, 0), CUDA_OK);
    assert_int_equal(api->pointer_get_attribute(&type, CUDA_POINTER_MEMORY_TYPE, ptr), CUDA_OK);
    assert_int_equal(type, CUDA_MEMORY_HOST);
    assert_int_equal(api->mem_free_host(pinned), CUDA_OK);
    assert_int_equal(api->mem_free_host(pinned), CUDA_E_INVALID_VALUE);

    assert_int_equal(api->mem_host_register(plain, 4 * KIB, CUDA_HOST_PORTABLE), CUDA_OK);
    assert_int_equal(api->mem_host_register(plain + KIB, 8, 0),
                     CUDA_E_HOST_MEMORY_ALREADY_REGISTERED);
    assert_int_equal(api->mem_host_unregister(plain + KIB), CUDA_E_HOST_MEMORY_NOT_REGISTERED);
    /* half of it is pinned */
    ptr = cuda_rig_memory(rig, 8 * KIB);
    assert_int_equal(api->memcpy_htod_async(ptr, plain, 8 * KIB, NULL), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_free(ptr), CUDA_OK);
    assert_int_equal(api->mem_host_unregister(plain), CUDA_OK);
}

static void test_virtual_memory_is_made_of_parts(void **state)
{
    const struct cuda_rig *rig = *state;
    const struct cuda_ipc_api *api = &rig->api;
    const struct cuda_mem_prop prop = {.type = CUDA_MEM_PINNED,
                                       .handle_types = CUDA_HANDLE_FD,
                                       .location = {.type = CUDA_LOCATION_DEVICE}};
    const struct cuda_access access = {.location = prop.location, .flags = CUDA_ACCESS_READ_WRITE};
    struct cuda_ipc_mem_handle handle;
    cuda_stream stream = cuda_rig_stream(rig);
    cuda_mem parts[2];
    cuda_mem again;
    size_t step;
    cuda_ptr base;
    int capable;
    char text[6] = "";

    assert_int_equal(api->mem_get_allocation_granularity(&step, &prop, 0), CUDA_OK);
    assert_int_equal(api->mem_create(&parts[0], step + 1, &prop, 0), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_address_reserve(&base, 4 * step, 0, 0, 0), CUDA_OK);
    for (int i = 0; i < 2; i++) {
        cuda_ptr at = base + (cuda_ptr)i * step;

        assert_int_equal(api->mem_create(&parts[i], step, &prop, 0), CUDA_OK);
        assert_int_equal(api->mem_map(at, step, 0, parts[i], 0), CUDA_OK);
        assert_int_equal(api->mem_map(at, step, 0, parts[i], 0), CUDA_E_INVALID_VALUE);
        assert_int_equal(api->mem_release(parts[i]), CUDA_OK);
        assert_int_equal(api->mem_release(parts[i]), CUDA_E_INVALID_VALUE);
    }
    /* no access yet */
    assert_int_equal(api->memcpy_htod_async(base, "hello", 6, stream), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_set_access(base, 2 * step, &access, 1), CUDA_OK);
    /* over the seam */
    assert_int_equal(api->memcpy_htod_async(base + step - 3, "hello", 6, stream), CUDA_OK);
    assert_int_equal(api->memcpy_dtoh_async(text, base + step - 3, 6, stream), CUDA_OK);
    assert_string_equal(text, "hello");
    assert_int_equal(api->memcpy_htod_async(base + 2 * step - 3, "hello", 6, stream),
                     CUDA_E_INVALID_VALUE);

    assert_int_equal(api->pointer_get_attribute(&capable, CUDA_POINTER_LEGACY_IPC_CAPABLE, base),
                     CUDA_OK);
    assert_int_equal(capable, 0);
    assert_int_equal(api->ipc_get_mem_handle(&handle, base), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_retain_allocation_handle(&again, (void *)(uintptr_t)(base + step)),
                     CUDA_OK);
    assert_int_equal(again, parts[1]);
    assert_int_equal(api->mem_release(again), CUDA_OK);

    assert_int_equal(api->mem_address_free(base, 4 * step), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_unmap(base + 1, step), CUDA_E_INVALID_VALUE);
    assert_int_equal(api->mem_unmap(base, 2 * step), CUDA_OK);
    assert_int_equal(api->mem_address_free(base, 4 * step), CUDA_OK);
    assert_int_equal(api->stream_destroy(stream), CUDA_OK);
}

/* ---- control ---- */

static void test_calls_are_counted_and_fail_on_demand(void **state)
{
    const struct cuda_rig *rig = *state;
    uint64_t before = rig->control->calls("cuMemAlloc");
    cuda_ptr ptr;

    assert_int_equal(rig->control->fail_calls("cuMemAlloc=2:2,cuMemFree=999"), 0);
    ptr = cuda_rig_memory(rig, 8);
    assert_int_equal(rig->api.mem_alloc(&ptr, 8), CUDA_E_OUT_OF_MEMORY);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_E_UNKNOWN);
    assert_int_equal(rig->control->calls("cuMemAlloc"), before + 2);
    assert_true(rig->control->fail_calls("cuNoSuch=1") < 0);
    assert_true(rig->control->fail_calls("cuMemAlloc") < 0);
    assert_true(rig->control->fail_calls("cuMemAlloc=1:0") < 0);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_E_UNKNOWN);
    assert_int_equal(rig->control->fail_calls(""), 0);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);
}

static void test_live_objects_are_counted(void **state)
{
    const struct cuda_rig *rig = *state;
    struct fake_cuda_live live;
    cuda_ptr ptr = cuda_rig_memory(rig, 8);

    rig->control->live(&live);
    assert_int_equal(live.allocations, 1);
    assert_int_equal(live.contexts, 1);
    assert_int_equal(live.streams, 0);
    assert_int_equal(rig->api.mem_free(ptr), CUDA_OK);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_rig, close_rig)
    const struct CMUnitTest tests[] = {
        TEST(test_calls_need_a_context),
        TEST(test_end_of_a_context_takes_all_with_it),
        TEST(test_a_forked_child_has_no_driver),
        TEST(test_device_memory_is_not_for_the_cpu),
        TEST(test_memory_is_limited),
        TEST(test_attributes_of_device_memory),
        TEST(test_pinned_memory),
        TEST(test_virtual_memory_is_made_of_parts),
        TEST(test_calls_are_counted_and_fail_on_demand),
        TEST(test_live_objects_are_counted),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
