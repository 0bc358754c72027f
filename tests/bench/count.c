/* SPDX-License-Identifier: Apache-2.0 */
/* Counts what should not happen on a fast path: allocations and system calls. */
#include "bench.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* ---- allocations: our definitions come before those of libc, for every library as well ---- */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BENCH_NO_COUNT 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define BENCH_NO_COUNT 1
#endif

#ifdef BENCH_NO_COUNT

int64_t bench_allocs(void)
{
    return -1;
}

#else

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void *__libc_memalign(size_t align, size_t size);

static int64_t bench_alloc_count;

static void bench_alloc(void)
{
    __atomic_add_fetch(&bench_alloc_count, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t size)
{
    bench_alloc();
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    bench_alloc();
    return __libc_calloc(count, size);
}

void *realloc(void *old, size_t size)
{
    bench_alloc();
    return __libc_realloc(old, size);
}

void *aligned_alloc(size_t align, size_t size)
{
    bench_alloc();
    return __libc_memalign(align, size);
}

int posix_memalign(void **out, size_t align, size_t size)
{
    void *memory;

    bench_alloc();
    memory = __libc_memalign(align, size);
    if (memory == NULL) {
        return ENOMEM;
    }
    *out = memory;
    return 0;
}

int64_t bench_allocs(void)
{
    return __atomic_load_n(&bench_alloc_count, __ATOMIC_RELAXED);
}

#endif

/* ---- system calls: the kernel sends SIGSYS for each while the selector says so ---- */

#if defined(__x86_64__) && !defined(BENCH_NO_COUNT)

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#define PR_SYS_DISPATCH_ON 1
#endif
#define BENCH_ALLOW 0
#define BENCH_BLOCK 1

static volatile char bench_selector = BENCH_ALLOW;
static volatile int64_t bench_entered;

/* Counts, lets system calls pass until the next call of `fn`, and makes up for this one. */
static void bench_on_sigsys(int number, siginfo_t *info, void *context)
{
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    long r;

    (void)number;
    bench_selector = BENCH_ALLOW;
    bench_entered++;
    r = syscall(info->si_syscall, regs[REG_RDI], regs[REG_RSI], regs[REG_RDX], regs[REG_R10],
                regs[REG_R8], regs[REG_R9]);
    regs[REG_RAX] = r == -1 ? -errno : r;
}

int64_t bench_calls_with_syscall(bench_fn fn, void *ctx, uint64_t n)
{
    struct sigaction action = {.sa_sigaction = bench_on_sigsys, .sa_flags = SA_SIGINFO};
    struct sigaction before;
    uint64_t i;

    if (sigaction(SIGSYS, &action, &before) != 0) {
        return -1;
    }
    bench_entered = 0;
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &bench_selector) != 0) {
        (void)sigaction(SIGSYS, &before, NULL);
        return -1;
    }
    for (i = 0; i < n; i++) {
        bench_selector = BENCH_BLOCK;
        fn(ctx, 1);
        bench_selector = BENCH_ALLOW;
    }
    (void)prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0);
    (void)sigaction(SIGSYS, &before, NULL);
    return bench_entered;
}

#else

int64_t bench_calls_with_syscall(bench_fn fn, void *ctx, uint64_t n)
{
    (void)fn;
    (void)ctx;
    (void)n;
    return -1;
}

#endif
