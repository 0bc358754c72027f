/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake machine: its devices and who sees them, PID namespaces, and the file behind it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_rig.h"

static struct cuda_rig_peer peer;

/* An environment for the peers to come, and for nobody else. */
static void start_with(const char *role, const char *const *pairs)
{
    for (int i = 0; pairs[i] != NULL; i += 2) {
        setenv(pairs[i], pairs[i + 1], 1);
    }
    cuda_rig_start(&peer, role);
    for (int i = 0; pairs[i] != NULL; i += 2) {
        unsetenv(pairs[i]);
    }
}

/* ---- which devices ---- */

/* Sends how many devices there are, and the UUIDs of the first two. */
static int run_lister(int fd)
{
    struct cuda_uuid uuids[2] = {{{0}}, {{0}}};
    struct cuda_ipc_api api;
    int count = 0;
    int can = -1;

    if (cuda_ipc_api_open(cuda_rig_path(), &api, NULL) == 0) {
        count = api.device_count;
        for (int i = 0; i < count && i < 2; i++) {
            CUDA_RIG_CHECK(api.device_get_uuid(&uuids[i], i) == CUDA_OK);
        }
        if (count > 1) {
            CUDA_RIG_CHECK(api.device_can_access_peer(&can, 0, 1) == CUDA_OK);
        }
    }
    cuda_rig_send(fd, &count, sizeof(count));
    cuda_rig_send(fd, uuids, sizeof(uuids));
    cuda_rig_send(fd, &can, sizeof(can));
    return 0;
}

static void list(const char *devices, const char *visible, int *count, struct cuda_uuid *uuids,
                 int *can)
{
    const char *pairs[] = {"KVLANE_FAKE_CUDA_DEVICES", devices, "CUDA_VISIBLE_DEVICES", visible,
                           NULL};

    if (visible == NULL) {
        pairs[2] = NULL;
    }
    start_with("lister", pairs);
    cuda_rig_recv(peer.fd, count, sizeof(*count));
    cuda_rig_recv(peer.fd, uuids, 2 * sizeof(*uuids));
    cuda_rig_recv(peer.fd, can, sizeof(*can));
    cuda_rig_end(&peer);
}

static void test_devices_come_from_the_environment(void **state)
{
    static const char two[] = "00010203-0405-0607-0809-0a0b0c0d0e0f,"
                              "ff010203-0405-0607-0809-0a0b0c0d0e0f";
    struct cuda_uuid uuids[2];
    int count;
    int can;

    (void)state;
    list("3", NULL, &count, uuids, &can);
    assert_int_equal(count, 3);
    assert_memory_not_equal(&uuids[0], &uuids[1], 16);
    assert_int_equal(can, 1);
    setenv("KVLANE_FAKE_CUDA_PEERS", "0", 1);
    list(two, NULL, &count, uuids, &can);
    unsetenv("KVLANE_FAKE_CUDA_PEERS");
    assert_int_equal(count, 2);
    assert_int_equal((unsigned char)uuids[1].bytes[0], 0xff);
    assert_int_equal(uuids[1].bytes[15], 0x0f);
    assert_int_equal(can, 0);
    list(two, "1,0", &count, uuids, &can);
    assert_int_equal(count, 2);
    assert_int_equal(uuids[1].bytes[0], 0);
    list(two, "GPU-ff010203-0405-0607-0809-0a0b0c0d0e0f", &count, uuids, &can);
    assert_int_equal(count, 1);
    assert_int_equal((unsigned char)uuids[0].bytes[0], 0xff);
    list(two, "1,7,0", &count, uuids, &can);
    assert_int_equal(count, 1);
    list(two, "", &count, uuids, &can);
    assert_int_equal(count, 0);
}

/* ---- memory of one device, used by another ---- */

/* Exports memory of its device 0 and waits. */
static int run_exporter(int fd)
{
    struct cuda_ipc_mem_handle handle;
    struct cuda_rig rig;
    cuda_ptr ptr;

    cuda_rig_open(&rig);
    CUDA_RIG_CHECK(rig.api.mem_alloc(&ptr, 64) == CUDA_OK);
    CUDA_RIG_CHECK(rig.control->poke(ptr, "bytes", 6) == 0);
    CUDA_RIG_CHECK(rig.api.ipc_get_mem_handle(&handle, ptr) == CUDA_OK);
    cuda_rig_send(fd, &handle, sizeof(handle));
    cuda_rig_await(fd);
    CUDA_RIG_CHECK(rig.api.mem_free(ptr) == CUDA_OK);
    cuda_rig_close(&rig);
    return 0;
}

/* Opens a handle in the contexts of all its devices, and sends what came of each. */
static int run_importer(int fd)
{
    struct cuda_ipc_mem_handle handle;
    struct cuda_ipc_api api;
    cuda_result codes[2] = {0, 0};
    cuda_ptr ptrs[2] = {0, 0};

    CUDA_RIG_CHECK(cuda_ipc_api_open(cuda_rig_path(), &api, NULL) == 0);
    cuda_rig_recv(fd, &handle, sizeof(handle));
    for (int i = 0; i < api.device_count && i < 2; i++) {
        cuda_context context;

        CUDA_RIG_CHECK(api.device_primary_ctx_retain(&context, i) == CUDA_OK);
        CUDA_RIG_CHECK(cuda_ipc_api_enter(&api, context) == 0);
        codes[i] = api.ipc_open_mem_handle(&ptrs[i], handle, CUDA_IPC_LAZY_PEER_ACCESS);
    }
    if (ptrs[0] != 0 && ptrs[1] != 0) {
        /* each context has its own mapping, and closes its own */
        CUDA_RIG_CHECK(ptrs[0] != ptrs[1]);
        CUDA_RIG_CHECK(api.ipc_close_mem_handle(ptrs[0]) == CUDA_E_INVALID_VALUE);
        CUDA_RIG_CHECK(api.ipc_close_mem_handle(ptrs[1]) == CUDA_OK);
    }
    cuda_rig_send(fd, codes, sizeof(codes));
    return 0;
}

static void import(const char *const *importer, const char *const *exporter, cuda_result *codes)
{
    struct cuda_ipc_mem_handle handle;
    struct cuda_rig_peer owner;

    start_with("exporter", exporter);
    owner = peer;
    cuda_rig_recv(owner.fd, &handle, sizeof(handle));
    start_with("importer", importer);
    cuda_rig_send(peer.fd, &handle, sizeof(handle));
    cuda_rig_recv(peer.fd, codes, 2 * sizeof(*codes));
    cuda_rig_end(&peer);
    cuda_rig_step(owner.fd);
    cuda_rig_end(&owner);
}

static void test_peers_reach_each_other(void **state)
{
    const char *const two[] = {"KVLANE_FAKE_CUDA_DEVICES", "2", NULL};
    const char *const apart[] = {"KVLANE_FAKE_CUDA_DEVICES", "2", "KVLANE_FAKE_CUDA_PEERS", "0",
                                 NULL};
    /* the other device, and nothing of the exporter's */
    const char *const other[] = {"KVLANE_FAKE_CUDA_DEVICES", "2", "CUDA_VISIBLE_DEVICES", "1",
                                 NULL};
    cuda_result codes[2];

    (void)state;
    import(two, two, codes);
    assert_int_equal(codes[0], CUDA_OK);
    assert_int_equal(codes[1], CUDA_OK);
    import(apart, two, codes);
    assert_int_equal(codes[0], CUDA_OK);
    assert_int_equal(codes[1], CUDA_E_PEER_ACCESS_UNSUPPORTED);
    import(other, two, codes);
    assert_int_equal(codes[0], CUDA_OK);
}

static void test_pid_namespaces_keep_apart(void **state)
{
    const char *const here[] = {NULL};
    const char *const there[] = {"KVLANE_FAKE_CUDA_PID_SPACE", "7", NULL};
    cuda_result codes[2];

    (void)state;
    import(here, there, codes);
    assert_int_equal(codes[0], CUDA_E_INVALID_CONTEXT);
    import(there, there, codes);
    assert_int_equal(codes[0], CUDA_OK);
}

/* ---- the file of a user ---- */

static char folder[] = "/tmp/kvl-fake-cuda-XXXXXX";
static char file[128];

static int make_folder(void **state)
{
    (void)state;
    CUDA_RIG_CHECK(mkdtemp(folder) != NULL);
    snprintf(file, sizeof(file), "%s/kvlane-fake-cuda-%u", folder, getuid());
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(file);
    return rmdir(folder);
}

static void test_the_file_goes_with_its_last_user(void **state)
{
    const char *const pairs[] = {"KVLANE_FAKE_CUDA_STATE", "", "XDG_RUNTIME_DIR", folder, NULL};
    const char *machine = getenv("KVLANE_FAKE_CUDA_STATE");
    struct cuda_ipc_mem_handle handle;
    struct cuda_rig_peer first;
    char copy[64];

    (void)state;
    snprintf(copy, sizeof(copy), "%s", machine);
    start_with("exporter", pairs);
    first = peer;
    cuda_rig_recv(first.fd, &handle, sizeof(handle));
    start_with("exporter", pairs);
    cuda_rig_recv(peer.fd, &handle, sizeof(handle));
    cuda_rig_step(first.fd);
    cuda_rig_end(&first);
    assert_int_equal(access(file, F_OK), 0);
    cuda_rig_kill(&peer);
    assert_int_equal(access(file, F_OK), 0);
    /* who comes next buries the dead */
    start_with("exporter", pairs);
    cuda_rig_recv(peer.fd, &handle, sizeof(handle));
    cuda_rig_step(peer.fd);
    cuda_rig_end(&peer);
    assert_int_not_equal(access(file, F_OK), 0);
    setenv("KVLANE_FAKE_CUDA_STATE", copy, 1);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {
        {"lister", run_lister},
        {"exporter", run_exporter},
        {"importer", run_importer},
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_devices_come_from_the_environment),
        cmocka_unit_test(test_peers_reach_each_other),
        cmocka_unit_test(test_pid_namespaces_keep_apart),
        cmocka_unit_test_setup_teardown(test_the_file_goes_with_its_last_user, make_folder,
                                        remove_folder),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
