/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening the driver, in all its versions and none, and what its codes become.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_rig.h"

static const char *fake_path;
static const char *old_path;

static int open_with(const char *path, struct cuda_ipc_api *api, struct kvl_err *err)
{
    *err = (struct kvl_err){.size = sizeof(*err)};
    return cuda_ipc_api_open(path, api, err);
}

static void expect_refusal(const char *path, const char *word)
{
    struct cuda_ipc_api api;
    struct cuda_ipc_api before;
    struct kvl_err err;

    memset(&api, 0x5a, sizeof(api));
    before = api;
    assert_int_equal(open_with(path, &api, &err), -ENODEV);
    assert_int_equal(err.code, -ENODEV);
    if (strstr(err.text, word) == NULL) {
        fail_msg("'%s' is not in: %s", word, err.text);
    }
    assert_memory_equal(&api, &before, sizeof(api));
    assert_int_equal(cuda_ipc_api_open(path, &api, NULL), -ENODEV);
}

static const struct fake_cuda_control *control(void)
{
    struct cuda_ipc_api api;
    struct kvl_err err;

    assert_int_equal(open_with(fake_path, &api, &err), 0);
    return fake_cuda_of(api.library);
}

static int set_none(void **state)
{
    (void)state;
    unsetenv("KVLANE_FAKE_CUDA_VERSION");
    unsetenv("KVLANE_FAKE_CUDA_STUB");
    unsetenv("KVLANE_FAKE_CUDA_HIDE");
    return 0;
}

/* ---- refusals ---- */

static void test_absent_library_is_named(void **state)
{
    (void)state;
    expect_refusal("/nonexistent/libcuda.so.1", "/nonexistent/libcuda.so.1");
}

static void test_library_that_is_no_driver(void **state)
{
    (void)state;
    expect_refusal("libm.so.6", "no function cuDriverGetVersion");
}

static void test_stub_library_is_told_apart(void **state)
{
    struct cuda_ipc_api api;
    struct kvl_err err;

    (void)state;
    setenv("KVLANE_FAKE_CUDA_STUB", "1", 1);
    expect_refusal(fake_path, "stub");
    expect_refusal(fake_path, "CUDA_ERROR_STUB_LIBRARY (34)");
    assert_int_equal(open_with(fake_path, &api, &err), -ENODEV);
    assert_int_equal(err.backend_code, 34);
    expect_refusal(old_path, "CUDA_ERROR_STUB_LIBRARY (34)");
}

static void test_machine_without_device(void **state)
{
    const struct fake_cuda_control *fake = control();

    (void)state;
    assert_int_equal(fake->fail_calls("cuInit=100"), 0);
    expect_refusal(fake_path, "cuInit failed with CUDA_ERROR_NO_DEVICE (100)");
    expect_refusal(fake_path, "CUDA_VISIBLE_DEVICES");
    assert_int_equal(fake->fail_calls("cuInit=803"), 0);
    expect_refusal(fake_path, "(803)");
    assert_int_equal(fake->fail_calls("cuDeviceGetCount=999"), 0);
    expect_refusal(fake_path, "cuDeviceGetCount failed with CUDA_ERROR_UNKNOWN (999)");
    assert_int_equal(fake->fail_calls(NULL), 0);
}

static void test_driver_that_is_too_old(void **state)
{
    (void)state;
    setenv("KVLANE_FAKE_CUDA_VERSION", "11020", 1);
    expect_refusal(old_path, "for CUDA 11.2, too old: 11.4 is needed");
}

static void test_missing_function_is_named(void **state)
{
    (void)state;
    setenv("KVLANE_FAKE_CUDA_HIDE", "cuIpcOpenMemHandle", 1);
    expect_refusal(fake_path, "no function cuIpcOpenMemHandle");
    setenv("KVLANE_FAKE_CUDA_HIDE", "cuInit", 1);
    expect_refusal(fake_path, "no function cuInit");
}

static void test_search_that_fails(void **state)
{
    const struct fake_cuda_control *fake = control();
    struct cuda_ipc_api api;
    struct kvl_err err;

    (void)state;
    assert_int_equal(fake->fail_calls("cuGetProcAddress=999"), 0);
    expect_refusal(fake_path, "cuGetProcAddress failed");
    assert_int_equal(fake->fail_calls("cuGetProcAddress=999:20"), 0);
    assert_int_equal(open_with(fake_path, &api, &err), -ENODEV);
    assert_int_equal(err.backend_code, 999);
    assert_int_equal(open_with(fake_path, &api, &err), 0);
    assert_int_equal(fake->fail_calls(NULL), 0);
}

/* ---- versions ---- */

static void expect_version(const char *path, const char *text, int version, int has_13000,
                           int has_12080)
{
    struct cuda_ipc_api api;
    struct kvl_err err;

    setenv("KVLANE_FAKE_CUDA_VERSION", text, 1);
    assert_int_equal(open_with(path, &api, &err), 0);
    assert_int_equal(api.version, version);
    assert_true(api.device_count >= 1);
    assert_int_equal(api.memcpy_batch_async_13000 != NULL, has_13000);
    assert_int_equal(api.memcpy_batch_async_12080 != NULL, has_12080);
    assert_true(cuda_ipc_api_has_vmm(&api));
    if (has_13000) {
        assert_true((void (*)(void))api.memcpy_batch_async_13000 !=
                    (void (*)(void))api.memcpy_batch_async_12080);
    }
}

static void test_each_version_gives_its_batch(void **state)
{
    (void)state;
    expect_version(fake_path, "13000", 13000, 1, 1);
    expect_version(fake_path, "13010", 13010, 1, 1);
    /* asked for the ABI of 13.0, this one would hand out that of 12.8 */
    expect_version(fake_path, "12080", 12080, 0, 1);
    expect_version(fake_path, "12040", 12040, 0, 0);
    /* no cuGetProcAddress_v2: by dlsym, whose cuMemcpyBatchAsync is not to be trusted */
    expect_version(old_path, "11040", 11040, 0, 0);
}

static void test_functions_have_the_abi_of_the_table(void **state)
{
    struct cuda_ipc_api api;
    const char *paths[] = {fake_path, old_path};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct kvl_err err;
        cuda_context context;
        cuda_ptr ptr;
        size_t bytes;

        setenv("KVLANE_FAKE_CUDA_VERSION", i == 0 ? "13000" : "11040", 1);
        assert_int_equal(open_with(paths[i], &api, &err), 0);
        /* functions of an older ABI end the process */
        assert_int_equal(api.device_primary_ctx_retain(&context, 0), CUDA_OK);
        assert_int_equal(api.ctx_push_current(context), CUDA_OK);
        assert_int_equal(api.mem_alloc(&ptr, 5000), CUDA_OK);
        assert_int_equal(api.mem_get_address_range(NULL, &bytes, ptr + 1), CUDA_OK);
        assert_int_equal(bytes, 5000);
        assert_int_equal(api.mem_free(ptr), CUDA_OK);
        assert_int_equal(api.ctx_pop_current(NULL), CUDA_OK);
        assert_int_equal(api.device_primary_ctx_release(0), CUDA_OK);
    }
}

static void test_optional_functions_may_lack(void **state)
{
    struct cuda_ipc_api api;
    struct kvl_err err;

    (void)state;
    setenv("KVLANE_FAKE_CUDA_HIDE", "cuMemMap,cuMemcpyBatchAsync", 1);
    assert_int_equal(open_with(fake_path, &api, &err), 0);
    assert_null(api.mem_map);
    assert_non_null(api.mem_create);
    assert_false(cuda_ipc_api_has_vmm(&api));
    assert_null(api.memcpy_batch_async_13000);
    assert_null(api.memcpy_batch_async_12080);
}

/* ---- contexts ---- */

struct enter {
    const struct cuda_ipc_api *api;
    cuda_context context;
    cuda_result before;
    cuda_result after;
    int entered;
};

static void *enter_main(void *arg)
{
    struct enter *enter = arg;
    size_t free_bytes;
    size_t total;

    enter->before = enter->api->mem_get_info(&free_bytes, &total);
    enter->entered = cuda_ipc_api_enter(enter->api, enter->context);
    enter->after = enter->api->mem_get_info(&free_bytes, &total);
    return NULL;
}

static void test_enter_makes_a_context_current(void **state)
{
    struct cuda_ipc_api api;
    struct kvl_err err;
    struct enter enter = {.api = &api};
    pthread_t thread;

    (void)state;
    assert_int_equal(open_with(fake_path, &api, &err), 0);
    assert_int_equal(api.device_primary_ctx_retain(&enter.context, 0), CUDA_OK);
    assert_int_equal(pthread_create(&thread, NULL, enter_main, &enter), 0);
    pthread_join(thread, NULL);
    assert_int_equal(enter.before, CUDA_E_INVALID_CONTEXT);
    assert_int_equal(enter.entered, 0);
    assert_int_equal(enter.after, CUDA_OK);
    assert_int_equal(api.device_primary_ctx_release(0), CUDA_OK);
    assert_int_equal(cuda_ipc_api_enter(&api, enter.context), -EACCES);
}

/* ---- codes ---- */

static void test_codes_become_errno(void **state)
{
    static const struct {
        cuda_result code;
        int error;
    } rows[] = {
        {CUDA_OK, 0},
        {CUDA_E_INVALID_VALUE, -EINVAL},
        {CUDA_E_OUT_OF_MEMORY, -ENOMEM},
        {CUDA_E_STUB_LIBRARY, -ENODEV},
        {CUDA_E_NO_DEVICE, -ENODEV},
        {CUDA_E_INVALID_CONTEXT, -EACCES},
        {CUDA_E_MAP_FAILED, -EIO},
        {CUDA_E_ALREADY_MAPPED, -EBUSY},
        {CUDA_E_PEER_ACCESS_UNSUPPORTED, -ENOTSUP},
        {CUDA_E_INVALID_HANDLE, -ESTALE},
        {CUDA_E_NOT_READY, -EINPROGRESS},
        {CUDA_E_ILLEGAL_ADDRESS, -EIO},
        {CUDA_E_TOO_MANY_PEERS, -ENOTSUP},
        {CUDA_E_HOST_MEMORY_ALREADY_REGISTERED, -EBUSY},
        {CUDA_E_LAUNCH_FAILED, -EIO},
        {CUDA_E_NOT_SUPPORTED, -ENOTSUP},
        {CUDA_E_MPS_CONNECTION_FAILED, -ENOTCONN},
        {CUDA_E_UNKNOWN, -EIO},
        {4242, -EIO},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(cuda_ipc_api_errno(rows[i].code), rows[i].error);
    }
}

static void expect_text(const char *call, cuda_result code, const char *word)
{
    char text[CUDA_IPC_TEXT_MAX];

    assert_ptr_equal(cuda_ipc_api_explain(NULL, call, code, text, sizeof(text)), text);
    if (strncmp(text, call, strlen(call)) != 0 || strstr(text, word) == NULL) {
        fail_msg("'%s' is not in: %s", word, text);
    }
}

static void test_sentences_name_the_cure(void **state)
{
    (void)state;
    expect_text("cuIpcOpenMemHandle", CUDA_E_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT (201)");
    expect_text("cuIpcOpenMemHandle", CUDA_E_INVALID_CONTEXT, "PID namespace");
    expect_text("cuMemAlloc", CUDA_E_INVALID_CONTEXT, "no context");
    expect_text("cuIpcOpenMemHandle", CUDA_E_INVALID_VALUE, "freed");
    expect_text("cuIpcOpenMemHandle", CUDA_E_MAP_FAILED, "MPS");
    expect_text("cuIpcOpenMemHandle", CUDA_E_TOO_MANY_PEERS, "maximum of peers");
    expect_text("cuIpcOpenMemHandle", CUDA_E_NOT_SUPPORTED, "expandable-segments");
    expect_text("cuMemcpyAsync", 4242, "failed with code (4242)");
}

static void test_sentences_take_names_from_the_driver(void **state)
{
    struct cuda_ipc_api api;
    struct kvl_err err;
    char text[CUDA_IPC_TEXT_MAX];

    (void)state;
    assert_int_equal(open_with(fake_path, &api, &err), 0);
    cuda_ipc_api_explain(&api, "cuMemcpyAsync", 716, text, sizeof(text));
    assert_string_equal(text, "cuMemcpyAsync failed with CUDA_ERROR_MISALIGNED_ADDRESS (716)");
}

static void test_sentences_fit_the_room(void **state)
{
    char text[16];

    (void)state;
    memset(text, 'x', sizeof(text));
    cuda_ipc_api_explain(NULL, "cuIpcOpenMemHandle", CUDA_E_MAP_FAILED, text, 12);
    assert_string_equal(text, "cuIpcOpenMe");
    assert_int_equal(text[12], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent_library_is_named),
        cmocka_unit_test(test_library_that_is_no_driver),
        cmocka_unit_test_teardown(test_stub_library_is_told_apart, set_none),
        cmocka_unit_test(test_machine_without_device),
        cmocka_unit_test_teardown(test_driver_that_is_too_old, set_none),
        cmocka_unit_test_teardown(test_missing_function_is_named, set_none),
        cmocka_unit_test(test_search_that_fails),
        cmocka_unit_test_teardown(test_each_version_gives_its_batch, set_none),
        cmocka_unit_test_teardown(test_functions_have_the_abi_of_the_table, set_none),
        cmocka_unit_test_teardown(test_optional_functions_may_lack, set_none),
        cmocka_unit_test(test_enter_makes_a_context_current),
        cmocka_unit_test(test_codes_become_errno),
        cmocka_unit_test(test_sentences_name_the_cure),
        cmocka_unit_test(test_sentences_take_names_from_the_driver),
        cmocka_unit_test(test_sentences_fit_the_room),
    };

    cuda_rig_machine();
    fake_path = cuda_rig_path();
    old_path = getenv("KVL_FAKE_CUDA_OLD");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
