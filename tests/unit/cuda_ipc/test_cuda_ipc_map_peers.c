/* SPDX-License-Identifier: Apache-2.0 */
/* Mapped memory among processes that come and go, fork, and do not see the same devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "share_rig.h"

#define BYTES 65536u
#define IMPORTER "importer"

struct fixture {
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    struct cuda_ipc_map *map;
    struct share_peer peer;
    struct kvl_err err;
};

/* ---- a peer that imports ---- */

/** What it found. */
struct finding {
    int32_t r;
    uint32_t is_filled;
    char text[512];
};

static int importer_run(int fd)
{
    struct finding finding = {.r = 0};
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_ref ref = {.base = 0};
    struct cuda_ipc_place place;
    struct cuda_ipc_map *map;
    struct share_made made;
    struct cuda_rig rig;
    uint8_t fill;

    cuda_rig_open(&rig);
    share_place_init(&rig, 0, &place);
    CUDA_RIG_CHECK(cuda_ipc_map_open(&rig.api, 0, 0, &map, NULL) == 0);
    share_recv(fd, &made);
    cuda_rig_recv(fd, &fill, sizeof(fill));
    finding.r = cuda_ipc_map_acquire(map, &place, &made.share, made.fd, &ref, &err);
    if (finding.r == 0) {
        finding.is_filled = (uint32_t)share_is_filled(&rig, ref.base, BYTES, fill);
    }
    memcpy(finding.text, err.text, sizeof(finding.text));
    cuda_rig_send(fd, &finding, sizeof(finding));

    cuda_rig_await(fd);
    cuda_ipc_map_release(&ref);
    cuda_ipc_map_close(map);
    if (made.fd >= 0) {
        close(made.fd);
    }
    share_place_fini(&place);
    cuda_rig_close(&rig);
    return 0;
}

static void ask(const struct cuda_rig_peer *importer, const struct cuda_ipc_share *share,
                int passed, uint8_t fill, struct finding *finding)
{
    share_send(importer->fd, share, passed);
    cuda_rig_send(importer->fd, &fill, sizeof(fill));
    cuda_rig_recv(importer->fd, finding, sizeof(*finding));
}

static void let_go(struct cuda_rig_peer *importer)
{
    cuda_rig_step(importer->fd);
    cuda_rig_end(importer);
}

/* ---- fixture ---- */

static int set_up(void **state)
{
    static struct fixture f;

    cuda_rig_open(&f.rig);
    share_place_init(&f.rig, 0, &f.place);
    share_start(&f.peer);
    assert_int_equal(cuda_ipc_map_open(&f.rig.api, 0, 0, &f.map, NULL), 0);
    f.err = (struct kvl_err){.size = sizeof(f.err)};
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    cuda_ipc_map_close(f->map);
    if (f->peer.peer.fd >= 0) {
        share_end(&f->peer);
    }
    share_place_fini(&f->place);
    cuda_rig_close(&f->rig);
    return 0;
}

static uint32_t imports(const struct fixture *f)
{
    struct fake_cuda_live live;

    f->rig.control->live(&live);
    return live.imports + live.vmm_maps;
}

/* ---- three processes ---- */

static void test_three_processes(void **state)
{
    static const uint32_t ways[] = {CUDA_IPC_EXPORT_LEGACY, CUDA_IPC_EXPORT_FD};
    struct fixture *f = *state;

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct cuda_ipc_ref ref = {.base = 0};
        struct cuda_rig_peer importer;
        struct share_made made;
        struct finding finding;

        share_make(&f->peer, ways[i], 0, BYTES, 0x61, &made);
        cuda_rig_start(&importer, IMPORTER);
        ask(&importer, &made.share, made.fd, 0x61, &finding);
        assert_int_equal(finding.r, 0);
        assert_true(finding.is_filled);
        assert_int_equal(
            cuda_ipc_map_acquire(f->map, &f->place, &made.share, made.fd, &ref, &f->err), 0);
        assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x61));
        let_go(&importer);
        assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x61));
        cuda_ipc_map_release(&ref);
        if (made.fd >= 0) {
            close(made.fd);
        }
    }
}

/* ---- death ---- */

static void test_exporter_killed(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref used = {.base = 0};
    struct cuda_ipc_ref ref = {.base = 0};
    struct cuda_ipc_map_stats stats;
    struct share_made made[2];

    for (int i = 0; i < 2; i++) {
        share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 0, BYTES, (uint8_t)(0x62 + i), &made[i]);
        assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made[i].share, -1, &ref, &f->err),
                         0);
        cuda_ipc_map_release(&ref);
    }
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made[0].share, -1, &used, &f->err),
                     0);
    cuda_rig_kill(&f->peer.peer);

    /* the one in use goes on, the other is closed at once, neither is found again */
    cuda_ipc_map_drop(&made[0].share.who);
    assert_int_equal(imports(f), 1);
    assert_true(share_is_filled(&f->rig, used.base, BYTES, 0x62));
    assert_true(cuda_ipc_map_acquire(f->map, &f->place, &made[1].share, -1, &ref, &f->err) < 0);
    assert_non_null(strstr(f->err.text, "ended"));
    cuda_ipc_map_release(&used);
    assert_int_equal(imports(f), 0);
    assert_true(cuda_ipc_map_acquire(f->map, &f->place, &made[0].share, -1, &ref, &f->err) < 0);
    cuda_ipc_map_get_stats(&stats);
    assert_int_equal(stats.entries, 0);
}

static void test_importer_killed(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;
    struct cuda_rig_peer importer;
    struct finding finding;

    assert_int_equal(
        cuda_ipc_export_create(&f->place, BYTES, CUDA_IPC_EXPORT_LEGACY, &export, &f->err), 0);
    cuda_rig_start(&importer, IMPORTER);
    ask(&importer, cuda_ipc_export_share(export), -1, 0, &finding);
    assert_int_equal(finding.r, 0);
    cuda_rig_kill(&importer);
    cuda_ipc_export_destroy(export);
}

/* A name that was given again: another process, though perhaps with the same pid. */
static void test_another_start_time_is_another_process(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {.base = 0};
    struct cuda_ipc_map_stats before;
    struct cuda_ipc_map_stats after;
    struct share_made made;

    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 0, BYTES, 0x64, &made);
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made.share, -1, &ref, &f->err), 0);
    cuda_ipc_map_release(&ref);
    cuda_ipc_map_get_stats(&before);
    made.share.who.start_time++;
    cuda_ipc_map_drop(&made.share.who); /* the other one stays */
    assert_int_equal(imports(f), 1);
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made.share, -1, &ref, &f->err), 0);
    cuda_ipc_map_release(&ref);
    cuda_ipc_map_get_stats(&after);
    assert_int_equal(after.misses - before.misses, 1);
    assert_int_equal(after.dropped - before.dropped, 0);
}

/* ---- fork ---- */

static int child_is_inert(struct fixture *f, const struct share_made *made,
                          struct cuda_ipc_ref *ref)
{
    struct cuda_ipc_map_stats stats;
    struct cuda_ipc_ref other = {.base = 0};
    struct cuda_ipc_map *map;

    if (cuda_ipc_map_acquire(f->map, &f->place, &made->share, -1, &other, &f->err) != -ECHILD ||
        cuda_ipc_map_open(&f->rig.api, 0, 0, &map, &f->err) != -ECHILD) {
        return 0;
    }
    cuda_ipc_map_get_stats(&stats);
    cuda_ipc_map_drop(&made->share.who);
    cuda_ipc_map_release(ref);
    cuda_ipc_map_close(f->map);
    return stats.entries == 0;
}

static void test_child_of_a_fork_touches_nothing(void **state)
{
    struct fixture *f = *state;
    uint64_t calls = f->rig.control->calls("cuIpcCloseMemHandle");
    struct cuda_ipc_ref ref = {.base = 0};
    struct share_made made;
    int status = -1;
    pid_t pid;

    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 0, BYTES, 0x65, &made);
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made.share, -1, &ref, &f->err), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int is_inert = child_is_inert(f, &made, &ref);

        _exit(is_inert && f->rig.control->calls("cuIpcCloseMemHandle") == calls ? 0 : 1);
    }
    assert_true(waitpid(pid, &status, 0) == pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x65));
    cuda_ipc_map_release(&ref);
}

/* ---- devices ---- */

/* The driver reads these variables when it starts, so they are set for one peer at a time. */
static void start_with(struct cuda_rig_peer *importer, const char *name, const char *value)
{
    assert_int_equal(setenv(name, value, 1), 0);
    cuda_rig_start(importer, IMPORTER);
    assert_int_equal(unsetenv(name), 0);
}

static void test_memory_of_another_visible_device(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {.base = 0};
    struct share_made made;

    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 1, BYTES, 0x66, &made);
    assert_memory_not_equal(&made.share.uuid, &f->place.uuid, sizeof(f->place.uuid));
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made.share, -1, &ref, &f->err), 0);
    assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x66));
    cuda_ipc_map_release(&ref);
}

static void test_device_that_is_not_visible(void **state)
{
    struct fixture *f = *state;
    struct cuda_rig_peer importer;
    struct share_made made;
    struct finding finding;

    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 1, BYTES, 0x67, &made);
    start_with(&importer, "CUDA_VISIBLE_DEVICES", "0");
    ask(&importer, &made.share, -1, 0x67, &finding);
    assert_int_equal(finding.r, -ENODEV);
    assert_non_null(strstr(finding.text, "CUDA_VISIBLE_DEVICES"));
    assert_non_null(strstr(finding.text, "GPU-"));
    let_go(&importer);

    /* the same device under another ordinal is found by its UUID */
    start_with(&importer, "CUDA_VISIBLE_DEVICES", "1");
    ask(&importer, &made.share, -1, 0x67, &finding);
    assert_int_equal(finding.r, 0);
    assert_true(finding.is_filled);
    let_go(&importer);
}

static void test_devices_that_cannot_reach_each_other(void **state)
{
    struct fixture *f = *state;
    struct cuda_rig_peer importer;
    struct share_made made;
    struct finding finding;

    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 1, BYTES, 0x68, &made);
    start_with(&importer, "KVLANE_FAKE_CUDA_PEERS", "0");
    ask(&importer, &made.share, -1, 0x68, &finding);
    assert_int_equal(finding.r, -ENOTSUP);
    assert_non_null(strstr(finding.text, "reach"));
    let_go(&importer);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {
        {SHARE_EXPORTER, share_exporter_run},
        {IMPORTER, importer_run},
    };
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_three_processes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_exporter_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_importer_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_start_time_is_another_process, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_child_of_a_fork_touches_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory_of_another_visible_device, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_device_that_is_not_visible, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_devices_that_cannot_reach_each_other, set_up,
                                        tear_down),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    if (setenv("KVLANE_FAKE_CUDA_DEVICES", "2", 1) < 0) {
        return 1;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
