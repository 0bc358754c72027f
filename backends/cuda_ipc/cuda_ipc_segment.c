/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_segment.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "setting.h"

/* Numbers of all architectures since Linux 5.3 and 5.6; older libc headers lack the names. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

static int segment_fail(const struct cuda_ipc_segment_source *source, int error,
                        struct kvl_err *err)
{
    uint64_t pid = source->who.pid;

    switch (error) {
    case EPERM:
    case EACCES:
        return kvl_fail(err, -EACCES,
                        "cuda_ipc: process %" PRIu64 " uses expandable_segments:True, and its "
                        "descriptors may not be taken over (pidfd_getfd): set "
                        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False there, or allow ptrace "
                        "(CAP_SYS_PTRACE, kernel.yama.ptrace_scope=0)",
                        pid);
    case ESRCH:
        return kvl_fail(err, -ESRCH,
                        "cuda_ipc: process %" PRIu64 " has ended, or is in another PID namespace: "
                        "expandable_segments:True needs a shared one",
                        pid);
    case EBADF:
        return kvl_fail(err, -ESTALE,
                        "cuda_ipc: process %" PRIu64 " has closed its expandable segment", pid);
    case ENOSYS:
        return kvl_fail(err, -ENOTSUP,
                        "cuda_ipc: this system cannot take over descriptors (pidfd_getfd): set "
                        "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:False in process %" PRIu64,
                        pid);
    default:
        return kvl_fail(err, -error,
                        "cuda_ipc: cannot take over a descriptor of process %" PRIu64 ": %s", pid,
                        strerror(error));
    }
}

/* The descriptor of a process stays with it; only then is its start time worth anything. */
static int segment_begin(struct cuda_ipc_segment_source *source, struct kvl_err *err)
{
    uint64_t start_time = 0;
    int fd = (int)syscall(SYS_pidfd_open, (pid_t)source->who.pid, 0u);

    if (fd < 0) {
        return segment_fail(source, errno, err);
    }
    if (cuda_ipc_who_start_time(source->who.pid, &start_time) < 0 ||
        start_time != source->who.start_time) {
        close(fd);
        return segment_fail(source, ESRCH, err);
    }
    source->pidfd = fd;
    return 0;
}

int cuda_ipc_segment_fetch(void *ctx, uint32_t index, int *fd_out, struct kvl_err *err)
{
    struct cuda_ipc_segment_source *source = ctx;
    int32_t name = source->ipc->handle_fd(source->handle, index);
    int fd;

    if (source->pidfd < 0) {
        int r = segment_begin(source, err);

        if (r < 0) {
            return r;
        }
    }
    /* what it returns is close-on-exec */
    fd = (int)syscall(SYS_pidfd_getfd, source->pidfd, name, 0u);
    if (fd < 0) {
        return segment_fail(source, errno, err);
    }
    *fd_out = fd;
    return 0;
}

void cuda_ipc_segment_done(struct cuda_ipc_segment_source *source)
{
    if (source->pidfd >= 0) {
        close(source->pidfd);
        source->pidfd = -1;
    }
}
