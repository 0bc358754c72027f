/* SPDX-License-Identifier: Apache-2.0 */
/* The cache of mapped memory: hits, stale handles, limits, failures. Other processes export. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "share_rig.h"

#define KIB 1024u
#define BYTES (64u * KIB)

struct fixture {
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    struct cuda_ipc_map *map;
    struct share_peer peer;
    struct cuda_ipc_map_stats before;
    struct kvl_err err;
};

static int set_up(void **state)
{
    static struct fixture f;

    cuda_rig_open(&f.rig);
    share_place_init(&f.rig, 0, &f.place);
    share_start(&f.peer);
    assert_int_equal(cuda_ipc_map_open(&f.rig.api, 0, 0, &f.map, NULL), 0);
    cuda_ipc_map_get_stats(&f.before);
    f.err = (struct kvl_err){.size = sizeof(f.err)};
    *state = &f;
    return 0;
}

/* cuda_rig_close() checks that nothing stayed mapped. */
static int tear_down(void **state)
{
    struct fixture *f = *state;

    f->rig.control->fail_calls(NULL);
    cuda_ipc_map_close(f->map);
    share_end(&f->peer);
    share_place_fini(&f->place);
    cuda_rig_close(&f->rig);
    return 0;
}

static void reopen(struct fixture *f, uint32_t entries, uint64_t bytes)
{
    cuda_ipc_map_close(f->map);
    assert_int_equal(cuda_ipc_map_open(&f->rig.api, entries, bytes, &f->map, NULL), 0);
}

static void make(struct fixture *f, uint8_t fill, struct share_made *made)
{
    share_make(&f->peer, CUDA_IPC_EXPORT_LEGACY, 0, BYTES, fill, made);
}

static int acquire(struct fixture *f, const struct share_made *made, struct cuda_ipc_ref *ref)
{
    return cuda_ipc_map_acquire(f->map, &f->place, &made->share, made->fd, ref, &f->err);
}

static struct cuda_ipc_map_stats stats(void)
{
    struct cuda_ipc_map_stats now;

    cuda_ipc_map_get_stats(&now);
    return now;
}

static uint32_t imports(const struct fixture *f)
{
    struct fake_cuda_live live;

    f->rig.control->live(&live);
    return live.imports;
}

/* ---- hits ---- */

static void test_second_time_is_a_hit(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made made;
    uint64_t calls;

    make(f, 0x11, &made);
    assert_int_equal(acquire(f, &made, &a), 0);
    assert_int_equal(a.bytes, BYTES);
    assert_true(share_is_filled(&f->rig, a.base, BYTES, 0x11));

    calls = f->rig.control->calls("cuIpcOpenMemHandle");
    f->rig.control->fail_calls("cuCtxPushCurrent=999,cuMemGetAddressRange=999");
    assert_int_equal(acquire(f, &made, &b), 0);
    assert_true(b.base == a.base);
    cuda_ipc_map_release(&a);
    cuda_ipc_map_release(&b);
    assert_true(b.base == 0 && b.mapping == NULL);
    cuda_ipc_map_release(&b);

    /* unused, it is kept for the next time */
    assert_int_equal(acquire(f, &made, &a), 0);
    f->rig.control->fail_calls(NULL);
    assert_true(f->rig.control->calls("cuIpcOpenMemHandle") == calls);
    assert_int_equal(stats().hits - f->before.hits, 2);
    assert_int_equal(stats().misses - f->before.misses, 1);
    assert_int_equal(stats().in_use, 1);
    assert_int_equal(stats().bytes, BYTES);
    cuda_ipc_map_release(&a);
    assert_int_equal(imports(f), 1);
}

static void test_instances_share_a_mapping(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_map *other;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made made;

    make(f, 0x12, &made);
    assert_int_equal(cuda_ipc_map_open(&f->rig.api, 0, 0, &other, NULL), 0);
    assert_int_equal(cuda_ipc_map_acquire(other, &f->place, &made.share, -1, &a, &f->err), 0);
    assert_int_equal(acquire(f, &made, &b), 0);
    assert_true(a.base == b.base);
    cuda_ipc_map_release(&a);
    cuda_ipc_map_close(other);

    /* the instance that opened it is gone, the mapping is not */
    assert_true(share_is_filled(&f->rig, b.base, BYTES, 0x12));
    cuda_ipc_map_release(&b);
    assert_int_equal(imports(f), 1);
}

static void test_descriptor_is_asked_for_once(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made made;

    share_make(&f->peer, CUDA_IPC_EXPORT_FD, 0, BYTES, 0x13, &made);
    assert_int_equal(cuda_ipc_map_acquire(f->map, &f->place, &made.share, -1, &a, &f->err), -EBADF);
    assert_int_equal(acquire(f, &made, &a), 0);
    close(made.fd);
    made.fd = -1;
    assert_int_equal(acquire(f, &made, &b), 0);
    assert_true(a.base == b.base);
    assert_true(share_is_filled(&f->rig, a.base, BYTES, 0x13));
    cuda_ipc_map_release(&a);
    cuda_ipc_map_release(&b);
}

/* ---- stale handles ---- */

static void test_memory_made_again_is_opened_again(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made old;
    struct share_made now;

    make(f, 0x21, &old);
    assert_int_equal(acquire(f, &old, &ref), 0);
    cuda_ipc_map_release(&ref);
    share_unmake(&f->peer, &old);
    make(f, 0x22, &now);
    now.share.base = old.share.base; /* as if it were there again */

    assert_int_equal(acquire(f, &now, &ref), 0);
    assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x22));
    assert_int_equal(stats().stale - f->before.stale, 1);
    assert_int_equal(imports(f), 1);
    assert_int_equal(stats().entries, 1);
    cuda_ipc_map_release(&ref);

    /* what it was is not to be had any more */
    assert_true(acquire(f, &old, &ref) < 0);
}

static void test_stale_one_in_use_stays_until_released(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made old;
    struct share_made now;

    make(f, 0x23, &old);
    make(f, 0x24, &now);
    now.share.base = old.share.base;
    assert_int_equal(acquire(f, &old, &a), 0);
    assert_int_equal(acquire(f, &now, &b), 0);
    assert_true(share_is_filled(&f->rig, a.base, BYTES, 0x23));
    assert_true(share_is_filled(&f->rig, b.base, BYTES, 0x24));
    assert_int_equal(imports(f), 2);
    cuda_ipc_map_release(&a);
    assert_int_equal(imports(f), 1);
    cuda_ipc_map_release(&b);
}

/* A handle, a length or a buffer id alone is enough to be something else. */
static void test_every_mark_counts(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made made;
    struct share_made other;

    make(f, 0x25, &made);
    for (int mark = 0; mark < 3; mark++) {
        uint64_t misses;

        other = made;
        assert_int_equal(acquire(f, &made, &ref), 0);
        cuda_ipc_map_release(&ref);
        misses = stats().misses;
        other.share.buffer_id += mark == 0;
        other.share.length -= mark == 1;
        other.share.handle[63] ^= (uint8_t)(mark == 2);
        if (acquire(f, &other, &ref) == 0) {
            cuda_ipc_map_release(&ref);
        }
        assert_true(stats().misses == misses + 1);
    }
}

/* ---- limits ---- */

static void test_full_of_used_ones_is_an_error(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref refs[3] = {{0}};
    struct share_made made[3];

    reopen(f, 2, 0);
    for (uint8_t i = 0; i < 3; i++) {
        make(f, (uint8_t)(0x31 + i), &made[i]);
    }
    assert_int_equal(acquire(f, &made[0], &refs[0]), 0);
    assert_int_equal(acquire(f, &made[1], &refs[1]), 0);
    assert_int_equal(acquire(f, &made[2], &refs[2]), -ENOMEM);
    assert_non_null(strstr(f->err.text, "in use"));
    assert_int_equal(stats().entries, 2);
    assert_int_equal(stats().refused - f->before.refused, 1);

    cuda_ipc_map_release(&refs[0]);
    assert_int_equal(acquire(f, &made[2], &refs[2]), 0);
    assert_true(share_is_filled(&f->rig, refs[2].base, BYTES, 0x33));
    assert_int_equal(stats().evicted - f->before.evicted, 1);
    assert_int_equal(imports(f), 2);
    cuda_ipc_map_release(&refs[1]);
    cuda_ipc_map_release(&refs[2]);
}

static void test_longest_unused_goes_first(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made made[3];
    uint64_t misses;

    reopen(f, 2, 0);
    for (uint8_t i = 0; i < 3; i++) {
        make(f, i, &made[i]);
    }
    for (int i = 0; i < 2; i++) {
        assert_int_equal(acquire(f, &made[i], &ref), 0);
        cuda_ipc_map_release(&ref);
    }
    assert_int_equal(acquire(f, &made[0], &ref), 0); /* used again: 1 is the oldest now */
    cuda_ipc_map_release(&ref);
    assert_int_equal(acquire(f, &made[2], &ref), 0);
    cuda_ipc_map_release(&ref);
    misses = stats().misses;
    assert_int_equal(acquire(f, &made[0], &ref), 0);
    cuda_ipc_map_release(&ref);
    assert_true(stats().misses == misses);
    assert_int_equal(acquire(f, &made[1], &ref), 0);
    cuda_ipc_map_release(&ref);
    assert_true(stats().misses == misses + 1);
}

static void test_bytes_are_limited_too(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made made[2];
    struct cuda_ipc_map *wider;

    reopen(f, 0, 2 * BYTES - 1);
    make(f, 1, &made[0]);
    make(f, 2, &made[1]);
    assert_int_equal(acquire(f, &made[0], &a), 0);
    assert_int_equal(acquire(f, &made[1], &b), -ENOMEM);

    /* the largest wish counts */
    assert_int_equal(cuda_ipc_map_open(&f->rig.api, 0, 2 * BYTES, &wider, NULL), 0);
    assert_int_equal(acquire(f, &made[1], &b), 0);
    cuda_ipc_map_release(&a);
    cuda_ipc_map_release(&b);
    cuda_ipc_map_close(wider);
    assert_int_equal(acquire(f, &made[0], &a), 0);
    cuda_ipc_map_release(&a);
}

static void test_bare_handle_is_charged_when_open(void **state)
{
    const struct cuda_ipc_who nobody = {.pid = 0};
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made made;

    reopen(f, 0, BYTES - 1);
    make(f, 1, &made);
    assert_int_equal(
        cuda_ipc_map_acquire_bare(f->map, &f->place, &nobody, made.share.handle, &ref, &f->err),
        -ENOMEM);
    assert_int_equal(imports(f), 0);
    assert_int_equal(stats().entries, 0);
    assert_int_equal(stats().in_use, 0);
    assert_int_equal(stats().bytes, 0);
}

/* ---- what comes from torch ---- */

static void test_bare_handle_closes_with_its_last_user(void **state)
{
    const struct cuda_ipc_who nobody = {.pid = 0};
    struct fixture *f = *state;
    struct cuda_ipc_ref a = {0};
    struct cuda_ipc_ref b = {0};
    struct share_made made;

    make(f, 0x41, &made);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cuda_ipc_map_acquire_bare(f->map, &f->place, &nobody, made.share.handle,
                                                   i == 0 ? &a : &b, &f->err),
                         0);
    }
    assert_true(a.base == b.base && a.bytes == BYTES);
    assert_true(share_is_filled(&f->rig, a.base, BYTES, 0x41));
    assert_int_equal(imports(f), 1);
    cuda_ipc_map_release(&a);
    assert_int_equal(imports(f), 1);
    cuda_ipc_map_release(&b);
    assert_int_equal(imports(f), 0);
    assert_int_equal(stats().entries, 0);
}

/* ---- this very process ---- */

static void test_own_memory_is_used_as_it_is(void **state)
{
    struct fixture *f = *state;
    uint64_t calls = f->rig.control->calls("cuIpcOpenMemHandle");
    struct cuda_ipc_export *export = NULL;
    struct cuda_ipc_ref ref = {0};
    struct share_made made = {.fd = -1};
    struct share_made forged;
    struct fake_cuda_live live;

    assert_int_equal(
        cuda_ipc_export_create(&f->place, BYTES, CUDA_IPC_EXPORT_LEGACY, &export, &f->err), 0);
    made.share = *cuda_ipc_export_share(export);
    assert_int_equal(acquire(f, &made, &ref), 0);
    assert_true(ref.base == cuda_ipc_export_base(export) && ref.bytes == BYTES);
    assert_true(f->rig.control->calls("cuIpcOpenMemHandle") == calls);

    /* an address from outside is nothing to go by */
    forged = made;
    forged.share.base += 4096;
    assert_int_equal(acquire(f, &forged, &ref), -ESTALE);
    forged = made;
    forged.share.length *= 2;
    assert_int_equal(acquire(f, &forged, &ref), -ESTALE);

    /* it stays as long as it is used */
    cuda_ipc_export_destroy(export);
    f->rig.control->live(&live);
    assert_int_equal(live.allocations, 1);
    cuda_ipc_map_release(&ref);
    f->rig.control->live(&live);
    assert_int_equal(live.allocations, 0);
    assert_int_equal(acquire(f, &made, &ref), -ESTALE);
}

/* ---- failures ---- */

static void test_codes_of_open(void **state)
{
    static const struct {
        int code;
        int error;
        const char *says;
    } cases[] = {
        {1, -EINVAL, "freed"},
        {201, -EACCES, "PID namespace"},
        {205, -EIO, "container"},
        {400, -ESTALE, "freed"},
        {711, -ENOTSUP, "peers"},
        {801, -ENOTSUP, "MIG"},
        {999, -EIO, "cuIpcOpenMemHandle"},
    };
    struct fixture *f = *state;
    struct share_made made;

    make(f, 0x51, &made);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cuda_ipc_ref ref = {.base = 7};
        char rule[64];

        snprintf(rule, sizeof(rule), "cuIpcOpenMemHandle=%d", cases[i].code);
        f->rig.control->fail_calls(rule);
        assert_int_equal(acquire(f, &made, &ref), cases[i].error);
        assert_true(ref.base == 7);
        assert_non_null(strstr(f->err.text, cases[i].says));
        assert_non_null(strstr(f->err.text, "cuIpcOpenMemHandle"));
        assert_int_equal(f->err.backend_code, cases[i].code);
        assert_int_equal(stats().entries, 0);
    }
    assert_int_equal(stats().failures - f->before.failures, sizeof(cases) / sizeof(cases[0]));
}

static void test_calls_around_open_may_fail(void **state)
{
    static const char *const legacy[] = {"cuDevicePrimaryCtxRetain", "cuCtxPushCurrent"};
    static const char *const virtual[] = {"cuMemImportFromShareableHandle", "cuMemAddressReserve",
                                          "cuMemMap", "cuMemSetAccess"};
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made a;
    struct share_made b;
    char rule[64];

    make(f, 0x52, &a);
    share_make(&f->peer, CUDA_IPC_EXPORT_FD, 0, BYTES, 0x53, &b);
    for (size_t i = 0; i < sizeof(legacy) / sizeof(legacy[0]); i++) {
        snprintf(rule, sizeof(rule), "%s=999:1", legacy[i]);
        f->rig.control->fail_calls(rule);
        assert_int_equal(acquire(f, &a, &ref), -EIO);
        assert_non_null(strstr(f->err.text, legacy[i]));
    }
    for (size_t i = 0; i < sizeof(virtual) / sizeof(virtual[0]); i++) {
        snprintf(rule, sizeof(rule), "%s=999:1", virtual[i]);
        f->rig.control->fail_calls(rule);
        assert_int_equal(acquire(f, &b, &ref), -EIO);
        assert_non_null(strstr(f->err.text, virtual[i]));
    }
    assert_int_equal(stats().entries, 0);
    close(b.fd);
}

/* An engine captures CUDA graphs when it starts, while memory is being shared. */
static void test_goes_along_with_a_capture(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_export *export = NULL;
    struct cuda_ipc_ref ref = {0};
    struct share_made a;
    struct share_made b;

    make(f, 0x58, &a);
    share_make(&f->peer, CUDA_IPC_EXPORT_FD, 0, BYTES, 0x59, &b);
    f->rig.control->capture_begin();
    assert_int_equal(acquire(f, &a, &ref), 0);
    cuda_ipc_map_release(&ref);
    assert_int_equal(acquire(f, &b, &ref), 0);
    cuda_ipc_map_release(&ref);
    assert_int_equal(
        cuda_ipc_export_create(&f->place, BYTES, CUDA_IPC_EXPORT_LEGACY, &export, &f->err), 0);
    cuda_ipc_export_destroy(export);
    cuda_ipc_map_drop(&a.share.who);
    assert_int_equal(f->rig.control->capture_end(), 0);
    assert_int_equal(imports(f), 0);
    close(b.fd);
}

static void test_mapped_twice_is_cured_once(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made old;
    struct share_made now;
    struct share_made apart;

    make(f, 0x54, &old);
    make(f, 0x55, &now);
    make(f, 0x56, &apart);
    now.share.base = old.share.base + 4096; /* as if the exporter had cut its memory anew */
    apart.share.base = old.share.base + 8 * BYTES;
    assert_int_equal(acquire(f, &old, &ref), 0);
    cuda_ipc_map_release(&ref);
    assert_int_equal(acquire(f, &apart, &ref), 0);
    cuda_ipc_map_release(&ref);

    f->rig.control->fail_calls("cuIpcOpenMemHandle=208:1");
    assert_int_equal(acquire(f, &now, &ref), 0);
    assert_true(share_is_filled(&f->rig, ref.base, BYTES, 0x55));
    assert_int_equal(stats().stale - f->before.stale, 1);
    assert_int_equal(imports(f), 2);
    cuda_ipc_map_release(&ref);

    f->rig.control->fail_calls("cuIpcOpenMemHandle=208");
    assert_int_equal(acquire(f, &old, &ref), -EBUSY);
}

static void test_shorter_than_told(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_ref ref = {0};
    struct share_made made;

    make(f, 0x57, &made);
    made.share.length = BYTES + 1;
    assert_int_equal(acquire(f, &made, &ref), -EBADMSG);
    assert_int_equal(imports(f), 0);
    made.share.length = 0;
    assert_int_equal(acquire(f, &made, &ref), -EBADMSG);
    made.share.length = BYTES;
    made.share.type = CUDA_IPC_SHARE_NONE;
    assert_int_equal(acquire(f, &made, &ref), -EBADMSG);

    /* where the driver does not know, the exporter's word has to do */
    made.share.type = CUDA_IPC_SHARE_LEGACY;
    f->rig.control->fail_calls("cuMemGetAddressRange=1");
    assert_int_equal(acquire(f, &made, &ref), 0);
    assert_int_equal(ref.bytes, BYTES);
    cuda_ipc_map_release(&ref);
}

/* ---- threads ---- */

#define THREADS 4
#define ROUNDS 300

struct runner {
    struct fixture *f;
    const struct share_made *made;
    uint32_t seed;
    uint32_t done;
};

static void *run(void *arg)
{
    struct runner *runner = arg;

    for (uint32_t i = 0; i < ROUNDS; i++) {
        const struct share_made *made;
        struct cuda_ipc_ref ref = {0};
        int r;

        runner->seed = runner->seed * 1664525u + 1013904223u;
        made = &runner->made[(runner->seed >> 16) % 4];
        r = cuda_ipc_map_acquire(runner->f->map, &runner->f->place, &made->share, made->fd, &ref,
                                 NULL);
        if (r == -ENOMEM) {
            continue;
        }
        if (r < 0 || !share_is_filled(&runner->f->rig, ref.base, 16, (uint8_t)made->index)) {
            return NULL;
        }
        if (i % 32 == 0) {
            cuda_ipc_map_drop(&made->share.who);
        }
        cuda_ipc_map_release(&ref);
        runner->done++;
    }
    return NULL;
}

/* More memory than places, many threads, and now and then all are dropped. */
static void test_many_threads(void **state)
{
    struct fixture *f = *state;
    struct runner runners[THREADS];
    pthread_t threads[THREADS];
    struct share_made made[4];
    uint32_t done = 0;

    reopen(f, 3, 0);
    for (uint8_t i = 0; i < 4; i++) {
        share_make(&f->peer, i == 3 ? CUDA_IPC_EXPORT_FD : CUDA_IPC_EXPORT_LEGACY, 0, BYTES, i,
                   &made[i]);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        runners[i] = (struct runner){.f = f, .made = made, .seed = i};
        assert_int_equal(pthread_create(&threads[i], NULL, run, &runners[i]), 0);
    }
    for (uint32_t i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        done += runners[i].done;
    }
    assert_true(done > ROUNDS);
    assert_int_equal(stats().in_use, 0);
    assert_true(stats().entries <= 3);
    assert_int_equal(stats().failures, f->before.failures);
    close(made[3].fd);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {{SHARE_EXPORTER, share_exporter_run}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_second_time_is_a_hit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_instances_share_a_mapping, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_descriptor_is_asked_for_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory_made_again_is_opened_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stale_one_in_use_stays_until_released, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_every_mark_counts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_full_of_used_ones_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_longest_unused_goes_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bytes_are_limited_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bare_handle_is_charged_when_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bare_handle_closes_with_its_last_user, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_own_memory_is_used_as_it_is, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_codes_of_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_calls_around_open_may_fail, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_goes_along_with_a_capture, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mapped_twice_is_cured_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shorter_than_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_threads, set_up, tear_down),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
