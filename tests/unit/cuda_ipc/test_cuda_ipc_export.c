/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that others can map: the ways to make it, and what the engine owns. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "share_rig.h"

#define MIB (1u << 20)
#define SEGMENT (2u * MIB) /* granularity of the fake */

struct fixture {
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    struct kvl_err err;
};

static int set_up(void **state)
{
    static struct fixture f;

    cuda_rig_open(&f.rig);
    share_place_init(&f.rig, 0, &f.place);
    f.err = (struct kvl_err){.size = sizeof(f.err)};
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    f->rig.control->fail_calls(NULL);
    share_place_fini(&f->place);
    cuda_rig_close(&f->rig);
    return 0;
}

static struct cuda_ipc_export *create(struct fixture *f, uint32_t ways)
{
    struct cuda_ipc_export *export = NULL;

    assert_int_equal(cuda_ipc_export_create(&f->place, MIB, ways, &export, &f->err), 0);
    return export;
}

/* ---- ways ---- */

static void test_legacy_comes_first(void **state)
{
    static const uint8_t zeros[64];
    struct fixture *f = *state;
    struct cuda_ipc_export *export = create(f, CUDA_IPC_EXPORT_ALL);
    const struct cuda_ipc_share *share = cuda_ipc_export_share(export);
    struct cuda_ipc_who self;

    cuda_ipc_who_self(&self);
    assert_int_equal(share->type, CUDA_IPC_SHARE_LEGACY);
    assert_true(share->base == cuda_ipc_export_base(export) && share->base != 0);
    assert_int_equal(share->length, MIB);
    assert_int_equal(cuda_ipc_export_bytes(export), MIB);
    assert_true(share->buffer_id != 0);
    assert_true(cuda_ipc_who_equal(&share->who, &self));
    assert_true(self.pid_namespace != 0 && self.start_time != 0);
    assert_memory_equal(&share->uuid, &f->place.uuid, sizeof(share->uuid));
    assert_memory_not_equal(share->handle, zeros, sizeof(zeros));
    assert_int_equal(cuda_ipc_export_fd(export), -1);
    assert_string_equal(cuda_ipc_export_cause(export), "");
    cuda_ipc_export_destroy(export);
}

static void test_descriptor_where_legacy_cannot(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export;

    f->rig.control->fail_calls("cuIpcGetMemHandle=801");
    export = create(f, CUDA_IPC_EXPORT_ALL);
    assert_int_equal(cuda_ipc_export_share(export)->type, CUDA_IPC_SHARE_FD);
    assert_true(cuda_ipc_export_fd(export) >= 0);
    assert_true(fcntl(cuda_ipc_export_fd(export), F_GETFD) & FD_CLOEXEC);
    assert_int_equal(cuda_ipc_export_bytes(export), SEGMENT);
    assert_non_null(strstr(cuda_ipc_export_cause(export), "cuIpcGetMemHandle"));
    cuda_ipc_export_destroy(export);
}

static void test_private_where_nothing_can(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export;

    f->rig.control->fail_calls("cuIpcGetMemHandle=801,cuMemCreate=801");
    export = create(f, CUDA_IPC_EXPORT_ALL);
    assert_int_equal(cuda_ipc_export_share(export)->type, CUDA_IPC_SHARE_NONE);
    assert_non_null(strstr(cuda_ipc_export_cause(export), "cuIpcGetMemHandle"));
    assert_non_null(strstr(cuda_ipc_export_cause(export), "cuMemCreate"));
    cuda_ipc_export_destroy(export);
}

static void test_no_way_names_every_cause(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;

    f->rig.control->fail_calls("cuIpcGetMemHandle=801,cuMemCreate=801");
    assert_int_equal(cuda_ipc_export_create(&f->place, MIB,
                                            CUDA_IPC_EXPORT_LEGACY | CUDA_IPC_EXPORT_FD, &export,
                                            &f->err),
                     -ENOTSUP);
    assert_null(export);
    assert_non_null(strstr(f->err.text, "cuIpcGetMemHandle"));
    assert_non_null(strstr(f->err.text, "cuMemCreate"));
    assert_int_equal(cuda_ipc_export_create(&f->place, MIB, 0, &export, &f->err), -EINVAL);
    assert_int_equal(cuda_ipc_export_create(&f->place, 0, CUDA_IPC_EXPORT_ALL, &export, &f->err),
                     -EINVAL);
}

static void test_full_device_is_not_tried_again(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;
    uint64_t before = f->rig.control->calls("cuMemCreate");

    f->rig.control->fail_calls("cuMemAlloc=2");
    assert_int_equal(cuda_ipc_export_create(&f->place, MIB, CUDA_IPC_EXPORT_ALL, &export, &f->err),
                     -ENOMEM);
    assert_true(f->rig.control->calls("cuMemCreate") == before);
    assert_int_equal(f->err.code, -ENOMEM);
}

/* Each call of the driver may fail: the sentence names it, and nothing is left over. */
static void test_every_call_may_fail(void **state)
{
    static const struct {
        uint32_t way;
        const char *call;
    } cases[] = {
        {CUDA_IPC_EXPORT_LEGACY, "cuMemAlloc"},
        {CUDA_IPC_EXPORT_LEGACY, "cuIpcGetMemHandle"},
        {CUDA_IPC_EXPORT_LEGACY, "cuDevicePrimaryCtxRetain"},
        {CUDA_IPC_EXPORT_LEGACY, "cuCtxPushCurrent"},
        {CUDA_IPC_EXPORT_FD, "cuMemGetAllocationGranularity"},
        {CUDA_IPC_EXPORT_FD, "cuMemCreate"},
        {CUDA_IPC_EXPORT_FD, "cuMemExportToShareableHandle"},
        {CUDA_IPC_EXPORT_FD, "cuMemAddressReserve"},
        {CUDA_IPC_EXPORT_FD, "cuMemMap"},
        {CUDA_IPC_EXPORT_FD, "cuMemSetAccess"},
        {CUDA_IPC_EXPORT_PRIVATE, "cuMemAlloc"},
    };
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cuda_ipc_export *export = NULL;
        char rule[64];

        snprintf(rule, sizeof(rule), "%s=999:1", cases[i].call);
        assert_int_equal(f->rig.control->fail_calls(rule), 0);
        assert_int_equal(cuda_ipc_export_create(&f->place, MIB, cases[i].way, &export, &f->err),
                         -EIO);
        assert_null(export);
        assert_non_null(strstr(f->err.text, cases[i].call));
        assert_null(strchr(f->err.text, '\n'));
    }
}

/* ---- memory of the engine ---- */

static void test_wrap_tells_the_whole_allocation(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;
    uint64_t offset = 0;
    cuda_ptr ptr;

    assert_int_equal(f->rig.api.mem_alloc(&ptr, MIB), CUDA_OK);
    assert_int_equal(cuda_ipc_export_wrap(&f->place, ptr + 4096, 8192, &export, &offset, &f->err),
                     0);
    assert_int_equal(offset, 4096);
    assert_true(cuda_ipc_export_base(export) == ptr);
    assert_int_equal(cuda_ipc_export_bytes(export), MIB);
    assert_int_equal(cuda_ipc_export_share(export)->type, CUDA_IPC_SHARE_LEGACY);
    assert_int_equal(cuda_ipc_export_check(export), 0);

    /* the address may be given again, but what is there is another buffer */
    assert_int_equal(f->rig.api.mem_free(ptr), CUDA_OK);
    assert_int_equal(cuda_ipc_export_check(export), -ESTALE);
    assert_int_equal(f->rig.api.mem_alloc(&ptr, MIB), CUDA_OK);
    assert_int_equal(cuda_ipc_export_check(export), -ESTALE);
    cuda_ipc_export_destroy(export);
    assert_int_equal(f->rig.api.mem_free(ptr), CUDA_OK);
}

static void test_wrap_refuses_what_is_not_there(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;
    uint64_t offset = 7;
    char plain[64];
    cuda_ptr ptr;

    assert_int_equal(f->rig.api.mem_alloc(&ptr, MIB), CUDA_OK);
    assert_int_equal(cuda_ipc_export_wrap(&f->place, ptr, MIB + 1, &export, &offset, &f->err),
                     -EINVAL);
    assert_int_equal(cuda_ipc_export_wrap(&f->place, ptr + 1, MIB, &export, &offset, &f->err),
                     -EINVAL);
    assert_int_equal(cuda_ipc_export_wrap(&f->place, ptr, UINT64_MAX, &export, &offset, &f->err),
                     -EINVAL);
    assert_int_equal(
        cuda_ipc_export_wrap(&f->place, (cuda_ptr)(uintptr_t)plain, 1, &export, &offset, &f->err),
        -EINVAL);
    assert_null(export);
    assert_int_equal(offset, 7);
    assert_int_equal(f->rig.api.mem_free(ptr), CUDA_OK);
}

/** Virtual memory as an expandable allocator makes it: `count` segments in a row. */
static cuda_ptr expand(struct fixture *f, uint32_t count, unsigned int types)
{
    const struct cuda_mem_prop prop = {
        .type = CUDA_MEM_PINNED,
        .handle_types = types,
        .location = {.type = CUDA_LOCATION_DEVICE, .id = f->place.device},
    };
    const struct cuda_access access = {
        .location = {.type = CUDA_LOCATION_DEVICE, .id = f->place.device},
        .flags = CUDA_ACCESS_READ_WRITE,
    };
    cuda_ptr base = 0;

    assert_int_equal(f->rig.api.mem_address_reserve(&base, (size_t)count * SEGMENT, 0, 0, 0),
                     CUDA_OK);
    for (uint32_t i = 0; i < count; i++) {
        cuda_mem mem = 0;

        assert_int_equal(f->rig.api.mem_create(&mem, SEGMENT, &prop, 0), CUDA_OK);
        assert_int_equal(f->rig.api.mem_map(base + i * SEGMENT, SEGMENT, 0, mem, 0), CUDA_OK);
        assert_int_equal(f->rig.api.mem_release(mem), CUDA_OK);
    }
    assert_int_equal(f->rig.api.mem_set_access(base, (size_t)count * SEGMENT, &access, 1), CUDA_OK);
    return base;
}

static void shrink(struct fixture *f, cuda_ptr base, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        assert_int_equal(f->rig.api.mem_unmap(base + i * SEGMENT, SEGMENT), CUDA_OK);
    }
    assert_int_equal(f->rig.api.mem_address_free(base, (size_t)count * SEGMENT), CUDA_OK);
}

static void test_wrap_takes_virtual_memory_with_descriptors(void **state)
{
    struct fixture *f = *state;
    cuda_ptr base = expand(f, 2, CUDA_HANDLE_FD);
    struct cuda_ipc_export *export = NULL;
    uint64_t offset = 0;

    assert_int_equal(
        cuda_ipc_export_wrap(&f->place, base + SEGMENT + 256, 512, &export, &offset, &f->err), 0);
    assert_int_equal(cuda_ipc_export_share(export)->type, CUDA_IPC_SHARE_FD);
    assert_true(cuda_ipc_export_base(export) == base + SEGMENT);
    assert_int_equal(offset, 256);
    assert_true(cuda_ipc_export_fd(export) >= 0);
    cuda_ipc_export_destroy(export);
    shrink(f, base, 2);
}

static void test_wrap_names_expandable_segments(void **state)
{
    struct fixture *f = *state;
    cuda_ptr sealed = expand(f, 1, CUDA_HANDLE_NONE);
    cuda_ptr open = expand(f, 2, CUDA_HANDLE_FD);
    struct cuda_ipc_export *export = NULL;
    uint64_t offset;

    assert_int_equal(cuda_ipc_export_wrap(&f->place, sealed, 64, &export, &offset, &f->err),
                     -ENOTSUP);
    assert_non_null(strstr(f->err.text, "expandable_segments:True"));
    assert_int_equal(cuda_ipc_export_wrap(&f->place, open, SEGMENT + 1, &export, &offset, &f->err),
                     -ENOTSUP);
    assert_non_null(strstr(f->err.text, "expandable_segments:True"));
    assert_null(export);
    shrink(f, sealed, 1);
    shrink(f, open, 2);
}

static void test_wrap_calls_may_fail(void **state)
{
    static const char *const calls[] = {"cuMemRetainAllocationHandle",
                                        "cuMemExportToShareableHandle", "cuMemGetAddressRange"};
    struct fixture *f = *state;
    cuda_ptr base = expand(f, 1, CUDA_HANDLE_FD);

    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
        struct cuda_ipc_export *export = NULL;
        uint64_t offset;
        char rule[64];

        snprintf(rule, sizeof(rule), "%s=999:1", calls[i]);
        f->rig.control->fail_calls(rule);
        assert_int_equal(cuda_ipc_export_wrap(&f->place, base, 64, &export, &offset, &f->err),
                         -EIO);
        assert_non_null(strstr(f->err.text, calls[i]));
    }
    shrink(f, base, 1);
}

/* ---- the list ---- */

static void test_borrow_wants_the_whole_record(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = create(f, CUDA_IPC_EXPORT_LEGACY);
    struct cuda_ipc_share share = *cuda_ipc_export_share(export);
    struct cuda_ipc_export *found = NULL;
    struct fake_cuda_live live;

    assert_int_equal(cuda_ipc_export_borrow(&share, &found), 0);
    assert_ptr_equal(found, export);
    share.length++;
    assert_int_equal(cuda_ipc_export_borrow(&share, &found), -ENOENT);
    share.length--;

    /* destroyed, it is found no more, but its memory stays for who borrowed it */
    cuda_ipc_export_destroy(export);
    assert_int_equal(cuda_ipc_export_borrow(&share, &found), -ENOENT);
    f->rig.control->live(&live);
    assert_int_equal(live.allocations, 1);
    cuda_ipc_export_return(found);
    f->rig.control->live(&live);
    assert_int_equal(live.allocations, 0);
}

static void test_context_of_the_thread_stays(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export;
    cuda_context context = (cuda_context)(uintptr_t)1;

    assert_int_equal(f->rig.api.ctx_set_current(NULL), CUDA_OK);
    export = create(f, CUDA_IPC_EXPORT_FD);
    cuda_ipc_export_destroy(export);
    export = create(f, CUDA_IPC_EXPORT_LEGACY);
    assert_int_equal(cuda_ipc_export_check(export), 0);
    cuda_ipc_export_destroy(export);
    assert_int_equal(f->rig.api.ctx_get_current(&context), CUDA_OK);
    assert_null(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_legacy_comes_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_descriptor_where_legacy_cannot, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_private_where_nothing_can, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_way_names_every_cause, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_device_is_not_tried_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_every_call_may_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrap_tells_the_whole_allocation, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrap_refuses_what_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrap_takes_virtual_memory_with_descriptors, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_wrap_names_expandable_segments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrap_calls_may_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_borrow_wants_the_whole_record, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_context_of_the_thread_stays, set_up, tear_down),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
