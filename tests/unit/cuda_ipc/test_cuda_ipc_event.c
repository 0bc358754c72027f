/* SPDX-License-Identifier: Apache-2.0 */
/* Order between processes, in both directions, with streams that are held back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cuda_ipc_event.h"
#include "ring_rig.h"
#include "share_rig.h"

#define BYTES 65536u
#define WRITER "writer"
#define KEEPER "keeper"
#define LONG_MS 20000u

struct fixture {
    struct cuda_rig rig;
    struct cuda_ipc_place place;
    cuda_stream stream;
    struct kvl_err err;
};

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

static void fixture_open(struct fixture *f)
{
    cuda_rig_open(&f->rig);
    share_place_init(&f->rig, 0, &f->place);
    CUDA_RIG_CHECK(
        f->rig.api.stream_create_with_priority(&f->stream, CUDA_STREAM_NON_BLOCKING, 0) == CUDA_OK);
    f->err = (struct kvl_err){.size = sizeof(f->err)};
}

static void fixture_close(struct fixture *f)
{
    f->rig.control->fail_calls(NULL);
    CUDA_RIG_CHECK(f->rig.api.stream_destroy(f->stream) == CUDA_OK);
    share_place_fini(&f->place);
    cuda_rig_close(&f->rig);
}

static int set_up(void **state)
{
    static struct fixture f;

    fixture_open(&f);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_close(*state);
    return 0;
}

static void *pinned(const struct fixture *f, int fill)
{
    void *bytes = NULL;

    CUDA_RIG_CHECK(f->rig.api.mem_host_alloc(&bytes, BYTES, 0) == CUDA_OK);
    memset(bytes, fill, BYTES);
    return bytes;
}

/* ---- a peer whose memory is written, read by us, and written again ---- */

/*
 * 1. Its stream is held with a write of 0x71 on it; it sends memory and event.
 * 2. Told to, it lets the stream go.
 * 3. It gets our event, and writes 0x72 behind that.
 */
static int writer_run(int fd)
{
    struct cuda_ipc_export *export = NULL;
    struct cuda_ipc_event_handle handle;
    struct ring_rig *ring;
    struct fixture f;
    cuda_event event;
    void *first;
    void *second;

    fixture_open(&f);
    first = pinned(&f, 0x71);
    second = pinned(&f, 0x72);
    CUDA_RIG_CHECK(cuda_ipc_export_create(&f.place, BYTES, CUDA_IPC_EXPORT_LEGACY, &export, NULL) ==
                   0);
    CUDA_RIG_CHECK(ring_rig_create(&f.place, &ring, NULL) == 0);
    f.rig.control->hold(f.stream);
    CUDA_RIG_CHECK(f.rig.api.memcpy_htod_async(cuda_ipc_export_base(export), first, BYTES,
                                               f.stream) == CUDA_OK);
    CUDA_RIG_CHECK(ring_rig_record(ring, f.stream, &handle, NULL) == 0);
    share_send(fd, cuda_ipc_export_share(export), -1);
    cuda_rig_send(fd, &handle, sizeof(handle));

    cuda_rig_await(fd);
    f.rig.control->release(f.stream);

    cuda_rig_recv(fd, &handle, sizeof(handle));
    CUDA_RIG_CHECK(cuda_ipc_event_open(&f.place, &handle, &event, NULL) == 0);
    CUDA_RIG_CHECK(f.rig.api.stream_wait_event(f.stream, event, 0) == CUDA_OK);
    CUDA_RIG_CHECK(f.rig.api.memcpy_htod_async(cuda_ipc_export_base(export), second, BYTES,
                                               f.stream) == CUDA_OK);
    cuda_rig_step(fd);
    CUDA_RIG_CHECK(f.rig.api.stream_synchronize(f.stream) == CUDA_OK);
    cuda_ipc_event_close(&f.place, event);
    cuda_rig_step(fd);
    cuda_rig_await(fd);
    CUDA_RIG_CHECK(share_is_filled(&f.rig, cuda_ipc_export_base(export), BYTES, 0x72));
    ring_rig_destroy(ring);
    cuda_ipc_export_destroy(export);
    CUDA_RIG_CHECK(f.rig.api.mem_free_host(first) == CUDA_OK);
    CUDA_RIG_CHECK(f.rig.api.mem_free_host(second) == CUDA_OK);
    fixture_close(&f);
    return 0;
}

/* Both waits are needed: without either the copy holds what was there before, or after. */
static void test_reads_between_two_writes(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_event_handle handle;
    struct cuda_ipc_ref ref = {.base = 0};
    struct cuda_ipc_map *map = NULL;
    struct ring_rig *ring = NULL;
    struct cuda_rig_peer writer;
    struct share_made made;
    cuda_event event = NULL;
    void *copy = pinned(f, 0);

    cuda_rig_start(&writer, WRITER);
    assert_int_equal(cuda_ipc_map_open(&f->rig.api, 0, 0, &map, NULL), 0);
    assert_int_equal(ring_rig_create(&f->place, &ring, &f->err), 0);
    share_recv(writer.fd, &made);
    cuda_rig_recv(writer.fd, &handle, sizeof(handle));
    assert_int_equal(cuda_ipc_map_acquire(map, &f->place, &made.share, -1, &ref, &f->err), 0);
    assert_false(share_is_filled(&f->rig, ref.base, BYTES, 0x71));

    /* our read waits for the first write */
    assert_int_equal(cuda_ipc_event_open(&f->place, &handle, &event, &f->err), 0);
    assert_int_equal(f->rig.api.stream_wait_event(f->stream, event, 0), CUDA_OK);
    f->rig.control->hold(f->stream);
    assert_int_equal(f->rig.api.memcpy_dtoh_async(copy, ref.base, BYTES, f->stream), CUDA_OK);

    /* and the second write for our read, which has not begun */
    assert_int_equal(ring_rig_record(ring, f->stream, &handle, &f->err), 0);
    cuda_rig_step(writer.fd);
    cuda_rig_send(writer.fd, &handle, sizeof(handle));
    cuda_rig_await(writer.fd);
    f->rig.control->release(f->stream);
    cuda_rig_await(writer.fd);
    assert_int_equal(f->rig.api.stream_synchronize(f->stream), CUDA_OK);
    for (uint32_t i = 0; i < BYTES; i++) {
        assert_int_equal(((uint8_t *)copy)[i], 0x71);
    }

    cuda_ipc_event_close(&f->place, event);
    cuda_ipc_map_release(&ref);
    cuda_ipc_map_close(map);
    cuda_rig_step(writer.fd);
    cuda_rig_end(&writer);
    ring_rig_destroy(ring);
    assert_int_equal(f->rig.api.mem_free_host(copy), CUDA_OK);
}

/* ---- a peer with a ring ---- */

/** Records as often as told, sends the handle of the first and of the last. */
static int keeper_run(int fd)
{
    struct cuda_ipc_event_handle first = {.bytes = {0}};
    struct cuda_ipc_event_handle last = {.bytes = {0}};
    struct fake_cuda_live live;
    struct ring_rig *ring;
    struct fixture f;
    uint32_t count;

    fixture_open(&f);
    CUDA_RIG_CHECK(ring_rig_create(&f.place, &ring, NULL) == 0);
    cuda_rig_recv(fd, &count, sizeof(count));
    f.rig.control->hold(f.stream);
    for (uint32_t i = 0; i < count; i++) {
        CUDA_RIG_CHECK(ring_rig_record(ring, f.stream, i == 0 ? &first : &last, NULL) == 0);
    }
    f.rig.control->live(&live);
    CUDA_RIG_CHECK(live.events <= RING_RIG_EVENTS);
    cuda_rig_send(fd, &first, sizeof(first));
    cuda_rig_send(fd, &last, sizeof(last));
    cuda_rig_await(fd);
    f.rig.control->release(f.stream);
    cuda_rig_await(fd);
    CUDA_RIG_CHECK(f.rig.api.stream_synchronize(f.stream) == CUDA_OK);
    ring_rig_destroy(ring);
    cuda_rig_step(fd);
    cuda_rig_await(fd);
    fixture_close(&f);
    return 0;
}

static void keeper_start(struct cuda_rig_peer *keeper, uint32_t count,
                         struct cuda_ipc_event_handle *first, struct cuda_ipc_event_handle *last)
{
    cuda_rig_start(keeper, KEEPER);
    cuda_rig_send(keeper->fd, &count, sizeof(count));
    cuda_rig_recv(keeper->fd, first, sizeof(*first));
    cuda_rig_recv(keeper->fd, last, sizeof(*last));
}

/* The peer may record many more before we come to the first one. */
static void test_exported_events_stay(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_event_handle first;
    struct cuda_ipc_event_handle last;
    struct cuda_rig_peer keeper;
    cuda_event event = NULL;

    keeper_start(&keeper, RING_RIG_EVENTS, &first, &last);
    assert_memory_not_equal(&first, &last, sizeof(first));
    assert_int_equal(cuda_ipc_event_open(&f->place, &first, &event, &f->err), 0);

    /* nothing has happened while its stream is held, and we do not wait for ever */
    assert_int_equal(cuda_ipc_event_wait(&f->place, event, now_ms() + 20, &f->err), -ETIMEDOUT);
    cuda_rig_step(keeper.fd);
    assert_int_equal(cuda_ipc_event_wait(&f->place, event, now_ms() + LONG_MS, &f->err), 0);
    cuda_ipc_event_close(&f->place, event);

    cuda_rig_step(keeper.fd);
    cuda_rig_await(keeper.fd);
    assert_int_equal(cuda_ipc_event_open(&f->place, &first, &event, &f->err), -EINVAL);
    assert_non_null(strstr(f->err.text, "cuIpcOpenEventHandle"));
    cuda_rig_step(keeper.fd);
    cuda_rig_end(&keeper);
}

static void test_exporter_killed_before_its_event(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_event_handle first;
    struct cuda_ipc_event_handle last;
    struct cuda_rig_peer keeper;
    cuda_event event = NULL;
    int r;

    keeper_start(&keeper, 2, &first, &last);
    assert_int_equal(cuda_ipc_event_open(&f->place, &first, &event, &f->err), 0);
    cuda_rig_kill(&keeper);
    r = cuda_ipc_event_wait(&f->place, event, now_ms() + LONG_MS, &f->err);
    assert_true(r <= 0 && r != -ETIMEDOUT);
    cuda_ipc_event_close(&f->place, event);
}

/* ---- failures ---- */

static void test_open_and_wait_may_fail(void **state)
{
    struct fixture *f = *state;
    struct cuda_ipc_event_handle first;
    struct cuda_ipc_event_handle last;
    struct cuda_rig_peer keeper;
    cuda_event event = NULL;

    keeper_start(&keeper, 2, &first, &last);
    f->rig.control->fail_calls("cuIpcOpenEventHandle=205:1");
    assert_int_equal(cuda_ipc_event_open(&f->place, &first, &event, &f->err), -EIO);
    assert_null(event);
    assert_int_equal(cuda_ipc_event_open(&f->place, &first, &event, &f->err), 0);
    f->rig.control->fail_calls("cuEventQuery=700:1");
    assert_int_equal(cuda_ipc_event_wait(&f->place, event, now_ms() + LONG_MS, &f->err), -EIO);
    cuda_ipc_event_close(&f->place, event);
    cuda_rig_step(keeper.fd);
    cuda_rig_step(keeper.fd);
    cuda_rig_await(keeper.fd);
    cuda_rig_step(keeper.fd);
    cuda_rig_end(&keeper);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {{WRITER, writer_run}, {KEEPER, keeper_run}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_reads_between_two_writes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_exported_events_stay, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_exporter_killed_before_its_event, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_open_and_wait_may_fail, set_up, tear_down),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
