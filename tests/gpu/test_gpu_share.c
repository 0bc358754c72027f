/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory of one process in another one, by the driver: what is mapped holds the bytes that the
 * owner wrote, by a handle of legacy IPC and by a descriptor of virtual memory; a mapping is found
 * again; and once its owner has ended it can be dropped.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "cuda_ipc_export.h"
#include "cuda_ipc_map.h"
#include "gpu_rig.h"

#define BYTES (8u << 20)
#define WORDS (BYTES / sizeof(uint64_t))

static struct gpu_rig rig;

/* ---- the process that owns the memory ---- */

static void share_send(const struct cuda_ipc_share *share, int fd)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)share, .iov_len = sizeof(*share)};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.head = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
    }
    if (sendmsg(3, &message, MSG_NOSIGNAL) != (ssize_t)sizeof(*share)) {
        gpu_rig_die("sendmsg", -errno);
    }
}

static int owner(uint32_t ways)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_export *export = NULL;
    uint64_t *words = malloc(BYTES);
    char end;

    gpu_rig_open(&rig, 1);
    if (words == NULL || cuda_ipc_export_create(&rig.place, BYTES, ways, &export, &err) < 0) {
        const struct cuda_ipc_share none = {0};

        fprintf(stderr, "%s\n", err.text);
        share_send(&none, -1);
        free(words);
        return 0;
    }
    for (uint64_t i = 0; i < WORDS; i++) {
        words[i] = i * 0x9e3779b97f4a7c15u;
    }
    gpu_rig_check(
        &rig, "cuMemcpyHtoDAsync",
        rig.api.memcpy_htod_async(cuda_ipc_export_base(export), words, BYTES, rig.stream));
    gpu_rig_wait(&rig);
    share_send(cuda_ipc_export_share(export), cuda_ipc_export_fd(export));
    (void)read(3, &end, 1);
    cuda_ipc_export_destroy(export);
    gpu_rig_close(&rig);
    free(words);
    return 0;
}

/* ---- the process that maps it ---- */

static int share_receive(int socket, struct cuda_ipc_share *share)
{
    struct iovec iov = {.iov_base = share, .iov_len = sizeof(*share)};
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &iov,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    const struct cmsghdr *head;
    int fd = -1;

    assert_int_equal(recvmsg(socket, &message, MSG_CMSG_CLOEXEC), sizeof(*share));
    head = CMSG_FIRSTHDR(&message);
    if (head != NULL) {
        memcpy(&fd, CMSG_DATA(head), sizeof(fd));
    }
    return fd;
}

static uint64_t words_wrong(const struct cuda_ipc_ref *ref)
{
    uint64_t *words = calloc(WORDS, sizeof(*words));
    uint64_t wrong = 0;

    assert_non_null(words);
    gpu_rig_check(&rig, "cuMemcpyDtoHAsync",
                  rig.api.memcpy_dtoh_async(words, ref->base, BYTES, rig.stream));
    gpu_rig_wait(&rig);
    for (uint64_t i = 0; i < WORDS; i++) {
        wrong += words[i] != i * 0x9e3779b97f4a7c15u;
    }
    free(words);
    return wrong;
}

static void mapped(const char *way, uint32_t type)
{
    struct kvl_err err = {.size = sizeof(err)};
    struct cuda_ipc_map_stats stats;
    struct cuda_ipc_share share;
    struct cuda_ipc_map *map;
    struct cuda_ipc_ref ref;
    int socket;
    const pid_t pid = gpu_rig_spawn(way, &socket);
    const int fd = share_receive(socket, &share);

    if (share.type == CUDA_IPC_SHARE_NONE) {
        gpu_rig_reap(pid, socket);
        skip(); /* this machine cannot share memory in that way: the owner has said why */
    }
    assert_int_equal(share.type, type);
    assert_int_equal(cuda_ipc_map_open(&rig.api, 0, 0, &map, &err), 0);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(cuda_ipc_map_acquire(map, &rig.place, &share, fd, &ref, &err), 0);
        assert_true(ref.bytes >= BYTES);
        assert_int_equal(words_wrong(&ref), 0);
        cuda_ipc_map_release(&ref);
    }
    cuda_ipc_map_get_stats(&stats);
    assert_int_equal(stats.entries, 1);
    assert_int_equal(stats.in_use, 0);
    gpu_rig_reap(pid, socket);
    cuda_ipc_map_drop(&share.who);
    cuda_ipc_map_get_stats(&stats);
    assert_int_equal(stats.entries, 0);
    cuda_ipc_map_close(map);
    if (fd >= 0) {
        close(fd);
    }
}

static void test_by_handle(void **state)
{
    (void)state;
    mapped("legacy", CUDA_IPC_SHARE_LEGACY);
}

static void test_by_descriptor(void **state)
{
    (void)state;
    mapped("fd", CUDA_IPC_SHARE_FD);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_handle),
        cmocka_unit_test(test_by_descriptor),
    };
    int failed;

    if (argc == 3 && strcmp(argv[1], "--peer") == 0) {
        return owner(strcmp(argv[2], "fd") == 0 ? CUDA_IPC_EXPORT_FD : CUDA_IPC_EXPORT_LEGACY);
    }
    gpu_rig_open(&rig, 1);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    gpu_rig_close(&rig);
    return failed;
}
