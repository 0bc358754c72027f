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
        cmocka_unit_test_setup_teardown(test_borrow_wants_the_whole_record, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_context_of_the_thread_stays, set_up, tear_down),
    };

    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
