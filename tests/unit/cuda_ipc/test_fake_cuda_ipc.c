/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake driver in two processes: memory, events, virtual memory, and what happens when the owner
 * of any of them goes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_rig.h"

#define BYTES 10000u

/** What the exporter says of itself. */
struct offer {
    struct cuda_ipc_mem_handle memory;
    struct cuda_ipc_event_handle event;
    cuda_ptr base;
};

/** What it is told. */
enum order {
    EXIT, /* with everything freed */
    RELEASE_STREAM, /* the one that it holds from the start */
    FREE_MEMORY,
    DESTROY_EVENT,
    FREE_AND_ALLOC, /* and sends the new handle */
    SAY_BYTE, /* sends the first byte of its memory */
    LEAK, /* exits with everything as it is */
};

/* ---- the other process ---- */

struct exporter {
    struct cuda_rig rig;
    cuda_ptr memory;
    cuda_stream stream;
    cuda_event event;
};

/* Its memory is 'o' until the held stream makes it 'n' and records the event. */
static void exporter_open(struct exporter *e, struct offer *offer)
{
    const struct cuda_ipc_api *api = &e->rig.api;
    char bytes[BYTES];

    cuda_rig_open(&e->rig);
    CUDA_RIG_CHECK(api->mem_alloc(&e->memory, BYTES) == CUDA_OK);
    CUDA_RIG_CHECK(api->stream_create_with_priority(&e->stream, 0, 0) == CUDA_OK);
    CUDA_RIG_CHECK(api->event_create(&e->event, CUDA_EVENT_INTERPROCESS |
                                                    CUDA_EVENT_DISABLE_TIMING) == CUDA_OK);
    memset(bytes, 'o', sizeof(bytes));
    CUDA_RIG_CHECK(e->rig.control->poke(e->memory, bytes, sizeof(bytes)) == 0);
    e->rig.control->hold(e->stream);
    memset(bytes, 'n', sizeof(bytes));
    CUDA_RIG_CHECK(api->memcpy_htod_async(e->memory, bytes, BYTES, e->stream) == CUDA_OK);
    CUDA_RIG_CHECK(api->event_record(e->event, e->stream) == CUDA_OK);

    memset(offer, 0, sizeof(*offer));
    CUDA_RIG_CHECK(api->ipc_get_mem_handle(&offer->memory, e->memory) == CUDA_OK);
    CUDA_RIG_CHECK(api->ipc_get_event_handle(&offer->event, e->event) == CUDA_OK);
    offer->base = e->memory;
}

static void exporter_obey(struct exporter *e, int fd, enum order order)
{
    const struct cuda_ipc_api *api = &e->rig.api;
    struct cuda_ipc_mem_handle handle;
    char byte;

    switch (order) {
    case RELEASE_STREAM:
        e->rig.control->release(e->stream);
        break;
    case FREE_MEMORY:
        CUDA_RIG_CHECK(api->mem_free(e->memory) == CUDA_OK);
        e->memory = 0;
        break;
    case DESTROY_EVENT:
        CUDA_RIG_CHECK(api->event_destroy(e->event) == CUDA_OK);
        e->event = NULL;
        break;
    case FREE_AND_ALLOC:
        CUDA_RIG_CHECK(api->stream_synchronize(e->stream) == CUDA_OK);
        CUDA_RIG_CHECK(api->mem_free(e->memory) == CUDA_OK);
        CUDA_RIG_CHECK(api->mem_alloc(&e->memory, BYTES) == CUDA_OK);
        CUDA_RIG_CHECK(api->ipc_get_mem_handle(&handle, e->memory) == CUDA_OK);
        cuda_rig_send(fd, &handle, sizeof(handle));
        break;
    case SAY_BYTE:
        CUDA_RIG_CHECK(e->rig.control->peek(&byte, e->memory, 1) == 0);
        cuda_rig_send(fd, &byte, 1);
        break;
    case EXIT:
    case LEAK:
        break;
    }
    cuda_rig_step(fd);
}

static void exporter_close(struct exporter *e)
{
    const struct cuda_ipc_api *api = &e->rig.api;

    e->rig.control->release(e->stream);
    CUDA_RIG_CHECK(api->stream_synchronize(e->stream) == CUDA_OK);
    CUDA_RIG_CHECK(api->stream_destroy(e->stream) == CUDA_OK);
    CUDA_RIG_CHECK(e->event == NULL || api->event_destroy(e->event) == CUDA_OK);
    CUDA_RIG_CHECK(api->mem_free(e->memory) == CUDA_OK);
    cuda_rig_close(&e->rig);
}

static int run_exporter(int fd)
{
    struct exporter exporter;
    struct offer offer;
    enum order order = LEAK;

    exporter_open(&exporter, &offer);
    cuda_rig_send(fd, &offer, sizeof(offer));
    do {
        cuda_rig_recv(fd, &order, sizeof(order));
        exporter_obey(&exporter, fd, order);
    } while (order != EXIT && order != LEAK);
    if (order == EXIT) {
        exporter_close(&exporter);
    }
    return 0;
}

/* Virtual memory that goes over the socket as a descriptor. */
static int run_vmm_exporter(int fd)
{
    const struct cuda_mem_prop prop = {.type = CUDA_MEM_PINNED,
                                       .handle_types = CUDA_HANDLE_FD,
                                       .location = {.type = CUDA_LOCATION_DEVICE}};
    struct cuda_rig rig;
    cuda_mem mem;
    size_t step;
    cuda_ptr base;
    int passed;

    cuda_rig_open(&rig);
    CUDA_RIG_CHECK(rig.api.mem_get_allocation_granularity(&step, &prop, 0) == CUDA_OK);
    CUDA_RIG_CHECK(rig.api.mem_create(&mem, step, &prop, 0) == CUDA_OK);
    CUDA_RIG_CHECK(rig.api.mem_address_reserve(&base, step, 0, 0, 0) == CUDA_OK);
    CUDA_RIG_CHECK(rig.api.mem_map(base, step, 0, mem, 0) == CUDA_OK);
    CUDA_RIG_CHECK(rig.control->poke(base, "shared", 7) == 0);
    CUDA_RIG_CHECK(rig.api.mem_export_to_shareable_handle(&passed, mem, CUDA_HANDLE_FD, 0) ==
                   CUDA_OK);
    cuda_rig_send_fd(fd, passed);
    close(passed);
    cuda_rig_await(fd);
    return 0;
}

/* ---- this process ---- */

static struct cuda_rig rig;
static struct cuda_rig_peer peer;
static struct offer offer;

static int open_both(void **state)
{
    (void)state;
    cuda_rig_open(&rig);
    cuda_rig_start(&peer, "exporter");
    cuda_rig_recv(peer.fd, &offer, sizeof(offer));
    return 0;
}

static int open_alone(void **state)
{
    (void)state;
    cuda_rig_open(&rig);
    return 0;
}

static int close_rig(void **state)
{
    (void)state;
    cuda_rig_close(&rig);
    return 0;
}

static void tell(enum order order)
{
    cuda_rig_send(peer.fd, &order, sizeof(order));
    cuda_rig_await(peer.fd);
}

static cuda_ptr open_memory(void)
{
    cuda_ptr base;

    assert_int_equal(rig.api.ipc_open_mem_handle(&base, offer.memory, CUDA_IPC_LAZY_PEER_ACCESS),
                     CUDA_OK);
    return base;
}

static cuda_event open_event(void)
{
    cuda_event event;

    assert_int_equal(rig.api.ipc_open_event_handle(&event, offer.event), CUDA_OK);
    return event;
}

static char first_byte(cuda_ptr base)
{
    char byte;

    assert_int_equal(rig.control->peek(&byte, base, 1), 0);
    return byte;
}

static void test_memory_is_shared(void **state)
{
    struct cuda_ipc_mem_handle handle;
    cuda_ptr base = open_memory();
    cuda_ptr found;
    size_t bytes;
    int capable;
    char byte;
    enum order order = SAY_BYTE;

    (void)state;
    assert_true(base != offer.base);
    assert_int_equal(first_byte(base), 'o');
    assert_int_equal(rig.control->poke(base, "x", 1), 0);
    cuda_rig_send(peer.fd, &order, sizeof(order));
    cuda_rig_recv(peer.fd, &byte, 1);
    cuda_rig_await(peer.fd);
    assert_int_equal(byte, 'x');

    assert_int_equal(rig.api.mem_get_address_range(&found, &bytes, base + 77), CUDA_OK);
    assert_true(found == base);
    assert_int_equal(bytes, BYTES);
    assert_int_equal(rig.api.pointer_get_attribute(&capable, CUDA_POINTER_LEGACY_IPC_CAPABLE, base),
                     CUDA_OK);
    assert_int_equal(capable, 0);
    assert_int_equal(rig.api.ipc_get_mem_handle(&handle, base), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.mem_free(base), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_opening_again_counts(void **state)
{
    struct fake_cuda_live live;
    cuda_ptr base = open_memory();
    char byte;

    (void)state;
    assert_true(open_memory() == base);
    rig.control->live(&live);
    assert_int_equal(live.imports, 2);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    assert_int_equal(rig.control->peek(&byte, base, 1), 0);
    assert_int_equal(rig.api.ipc_close_mem_handle(base + 1), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    assert_true(rig.control->peek(&byte, base, 1) < 0);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_E_INVALID_VALUE);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_bad_handles_are_refused(void **state)
{
    struct cuda_ipc_mem_handle mine;
    struct cuda_ipc_mem_handle bad;
    cuda_ptr ptr;
    cuda_ptr base;

    (void)state;
    assert_int_equal(rig.api.ipc_open_mem_handle(&base, offer.memory, 0), CUDA_E_INVALID_VALUE);
    for (size_t i = 0; i < sizeof(bad.bytes); i++) {
        bad = offer.memory;
        bad.bytes[i] ^= 1;
        assert_int_not_equal(rig.api.ipc_open_mem_handle(&base, bad, 1), CUDA_OK);
    }
    /* one's own */
    assert_int_equal(rig.api.mem_alloc(&ptr, 8), CUDA_OK);
    assert_int_equal(rig.api.ipc_get_mem_handle(&mine, ptr), CUDA_OK);
    assert_int_equal(rig.api.ipc_open_mem_handle(&base, mine, 1), CUDA_E_INVALID_CONTEXT);
    assert_int_equal(rig.api.mem_free(ptr), CUDA_OK);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_an_event_orders_two_processes(void **state)
{
    cuda_event event = open_event();
    cuda_ptr base = open_memory();
    cuda_stream stream;
    void *host;

    (void)state;
    assert_int_equal(rig.api.stream_create_with_priority(&stream, 0, 0), CUDA_OK);
    assert_int_equal(rig.api.mem_host_alloc(&host, 1, 0), CUDA_OK);
    assert_int_equal(rig.api.event_query(event), CUDA_E_NOT_READY);
    assert_int_equal(rig.api.stream_wait_event(stream, event, 0), CUDA_OK);
    assert_int_equal(rig.api.memcpy_dtoh_async(host, base, 1, stream), CUDA_OK);
    assert_int_equal(rig.api.stream_query(stream), CUDA_E_NOT_READY);
    tell(RELEASE_STREAM);
    assert_int_equal(rig.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(*(char *)host, 'n');
    assert_int_equal(rig.api.event_synchronize(event), CUDA_OK);
    assert_int_equal(rig.api.event_query(event), CUDA_OK);

    assert_int_equal(rig.api.event_destroy(event), CUDA_OK);
    assert_int_equal(rig.api.mem_free_host(host), CUDA_OK);
    assert_int_equal(rig.api.stream_destroy(stream), CUDA_OK);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_memory_freed_by_its_owner(void **state)
{
    cuda_ptr base = open_memory();
    cuda_ptr again;
    void *host;

    (void)state;
    assert_int_equal(rig.api.mem_host_alloc(&host, 1, 0), CUDA_OK);
    tell(FREE_MEMORY);
    assert_int_equal(rig.api.memcpy_dtoh_async(host, base, 1, NULL), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.ipc_open_mem_handle(&again, offer.memory, 1), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    assert_int_equal(rig.api.mem_free_host(host), CUDA_OK);
    tell(LEAK);
    cuda_rig_end(&peer);
}

static void test_event_destroyed_by_its_owner(void **state)
{
    cuda_event event = open_event();
    cuda_event again;
    cuda_stream stream;

    (void)state;
    assert_int_equal(rig.api.stream_create_with_priority(&stream, 0, 0), CUDA_OK);
    tell(DESTROY_EVENT);
    assert_int_equal(rig.api.stream_wait_event(stream, event, 0), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.event_query(event), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.ipc_open_event_handle(&again, offer.event), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.event_destroy(event), CUDA_OK);
    assert_int_equal(rig.api.stream_destroy(stream), CUDA_OK);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_a_new_allocation_has_a_new_handle(void **state)
{
    struct cuda_ipc_mem_handle handle;
    cuda_ptr base = open_memory();
    cuda_ptr fresh;
    enum order order = FREE_AND_ALLOC;

    (void)state;
    tell(RELEASE_STREAM);
    cuda_rig_send(peer.fd, &order, sizeof(order));
    cuda_rig_recv(peer.fd, &handle, sizeof(handle));
    cuda_rig_await(peer.fd);
    assert_memory_not_equal(&handle, &offer.memory, sizeof(handle));
    assert_int_equal(rig.api.ipc_open_mem_handle(&fresh, handle, 1), CUDA_OK);
    assert_true(fresh != base);
    assert_int_equal(rig.api.ipc_close_mem_handle(fresh), CUDA_OK);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
    tell(EXIT);
    cuda_rig_end(&peer);
}

static void test_owner_that_is_killed(void **state)
{
    cuda_event event = open_event();
    cuda_ptr base = open_memory();
    cuda_stream stream;
    cuda_ptr again;
    size_t free_bytes;
    size_t total;
    void *host;

    (void)state;
    assert_int_equal(rig.api.stream_create_with_priority(&stream, 0, 0), CUDA_OK);
    assert_int_equal(rig.api.mem_host_alloc(&host, 1, 0), CUDA_OK);
    assert_int_equal(rig.api.stream_wait_event(stream, event, 0), CUDA_OK);
    assert_int_equal(rig.api.mem_get_info(&free_bytes, &total), CUDA_OK);
    assert_int_equal(free_bytes, total - BYTES);
    cuda_rig_kill(&peer);
    /* the mapping stays good, and nobody waits for ever */
    assert_int_equal(rig.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(rig.api.event_query(event), CUDA_OK);
    assert_int_equal(rig.api.memcpy_dtoh_async(host, base, 1, stream), CUDA_OK);
    assert_int_equal(rig.api.stream_synchronize(stream), CUDA_OK);
    assert_int_equal(*(char *)host, 'o');
    /* but it cannot be opened, and its bytes are free */
    assert_int_equal(rig.api.mem_get_info(&free_bytes, &total), CUDA_OK);
    assert_int_equal(free_bytes, total);
    assert_int_equal(rig.api.ipc_open_mem_handle(&again, offer.memory, 1), CUDA_E_INVALID_VALUE);

    assert_int_equal(rig.api.event_destroy(event), CUDA_OK);
    assert_int_equal(rig.api.mem_free_host(host), CUDA_OK);
    assert_int_equal(rig.api.stream_destroy(stream), CUDA_OK);
    assert_int_equal(rig.api.ipc_close_mem_handle(base), CUDA_OK);
}

static void test_virtual_memory_by_descriptor(void **state)
{
    const struct cuda_access access = {.location = {.type = CUDA_LOCATION_DEVICE},
                                       .flags = CUDA_ACCESS_READ};
    struct cuda_mem_prop prop;
    size_t step = 2u << 20;
    cuda_mem mem;
    cuda_ptr base;
    char text[7] = "";
    int fd;

    (void)state;
    cuda_rig_start(&peer, "vmm_exporter");
    fd = cuda_rig_recv_fd(peer.fd);
    assert_int_equal(
        rig.api.mem_import_from_shareable_handle(&mem, (void *)(intptr_t)fd, CUDA_HANDLE_FD),
        CUDA_OK);
    close(fd);
    assert_int_equal(rig.api.mem_get_allocation_properties_from_handle(&prop, mem), CUDA_OK);
    assert_int_equal(prop.handle_types, CUDA_HANDLE_FD);
    /* the memory lives as long as anybody has it */
    cuda_rig_step(peer.fd);
    cuda_rig_end(&peer);
    assert_int_equal(rig.api.mem_address_reserve(&base, step, 0, 0, 0), CUDA_OK);
    assert_int_equal(rig.api.mem_map(base, step, 0, mem, 0), CUDA_OK);
    assert_int_equal(rig.api.mem_release(mem), CUDA_OK);
    assert_int_equal(rig.api.mem_set_access(base, step, &access, 1), CUDA_OK);
    assert_int_equal(rig.api.memcpy_dtoh_async(text, base, 7, NULL), CUDA_OK);
    assert_string_equal(text, "shared");
    assert_int_equal(rig.api.memcpy_htod_async(base, "w", 1, NULL), CUDA_E_INVALID_VALUE);
    assert_int_equal(rig.api.mem_unmap(base, step), CUDA_OK);
    assert_int_equal(rig.api.mem_address_free(base, step), CUDA_OK);

    /* a descriptor of something else */
    assert_int_equal(
        rig.api.mem_import_from_shareable_handle(&mem, (void *)(intptr_t)0, CUDA_HANDLE_FD),
        CUDA_E_INVALID_VALUE);
}

int main(int argc, char **argv)
{
    static const struct cuda_rig_role roles[] = {
        {"exporter", run_exporter},
        {"vmm_exporter", run_vmm_exporter},
    };
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_both, close_rig)
    const struct CMUnitTest tests[] = {
        TEST(test_memory_is_shared),
        TEST(test_opening_again_counts),
        TEST(test_bad_handles_are_refused),
        TEST(test_an_event_orders_two_processes),
        TEST(test_memory_freed_by_its_owner),
        TEST(test_event_destroyed_by_its_owner),
        TEST(test_a_new_allocation_has_a_new_handle),
        TEST(test_owner_that_is_killed),
        cmocka_unit_test_setup_teardown(test_virtual_memory_by_descriptor, open_alone, close_rig),
    };

    cuda_rig_main(argc, argv, roles, sizeof(roles) / sizeof(roles[0]));
    cuda_rig_machine();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
