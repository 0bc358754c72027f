/* SPDX-License-Identifier: Apache-2.0 */
#include "link_rig.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

void *raw_context;

/* open ones: a test that fails leaves some behind */
static void *raw_open[64];

uint64_t rig_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void rig_open(struct rig *rig, const char *const *pairs)
{
    struct kvl_err err = {.size = sizeof(err)};

    memset(rig, 0, sizeof(*rig));
    rig->fake = fake_host_create(kvlane_backend_v1(), pairs);
    rig->host = fake_host_table(rig->fake);
    if (py_socket_options_read(rig->host, &rig->options, &err) != 0 ||
        py_socket_zmq_create(rig->host, &rig->options, &rig->counters, &rig->zmq, &err) != 0) {
        fail_msg("open: %s", err.text);
    }
}

static void rig_up(void *ctx, struct py_socket_peer *peer)
{
    struct rig *rig = ctx;

    assert_int_equal(atomic_load(&peer->gone), 0);
    atomic_fetch_add(&rig->ups, 1);
}

static void rig_gone(void *ctx, struct py_socket_peer *peer)
{
    struct rig *rig = ctx;

    atomic_store(&rig->last_gone, atomic_load(&peer->gone));
    atomic_store(&rig->last_gone_incarnation, peer->offer.incarnation);
    atomic_fetch_add(&rig->gones, 1);
}

void rig_link(struct rig *rig, const char *url, const char *lookup_url, int is_async)
{
    const struct py_socket_link_config config = {
        .host = rig->host,
        .options = &rig->options,
        .zmq = rig->zmq,
        .counters = &rig->counters,
        .events = {.ctx = rig, .peer_up = rig_up, .peer_gone = rig_gone},
        .peer_init_url = url,
        .peer_lookup_url = lookup_url,
        .is_async = is_async,
    };
    const struct py_socket_offer offer = {.tcp = "127.0.0.1:9",
                                          .boot_id = "0a1b2c3d-0000-4000-8000-00112233aabb"};
    struct kvl_err err = {.size = sizeof(err)};

    if (py_socket_link_create(&config, &rig->link, &err) != 0 ||
        py_socket_link_start(rig->link, &offer, &err) != 0) {
        fail_msg("link: %s", err.text);
    }
}

void rig_unlink(struct rig *rig)
{
    uint64_t begun = rig_now();

    py_socket_link_close(rig->link);
    rig->link = NULL;
    assert_true(rig_now() - begun < 1000);
    assert_int_equal(rig->counters.channels_now, 0);
    assert_int_equal(rig->counters.peers_now, 0);
    assert_int_equal(atomic_load(&rig->ups), atomic_load(&rig->gones));
}

void rig_close(struct rig *rig)
{
    if (rig->link != NULL) {
        rig_unlink(rig);
    }
    py_socket_zmq_destroy(rig->zmq);
    py_socket_options_fini(&rig->options);
    assert_int_equal(fake_host_leaks(rig->fake), 0);
    fake_host_destroy(rig->fake);
}

void rig_start(struct rig *rig)
{
    rig_open(rig, NULL);
    rig_link(rig, "127.0.0.1:0", "127.0.0.1:7777", 0);
}

int rig_shake(struct rig *rig, const char *url, uint64_t timeout_ms)
{
    const struct py_socket_call call = {
        .what = PY_SOCKET_CALL_INIT,
        .url = url,
        .deadline_ms = rig_now() + timeout_ms,
    };

    return py_socket_link_call_wait(rig->link, &call, NULL);
}

/* One look; for links in async mode also some driving. */
static void rig_pass_time(struct rig *rig)
{
    struct pollfd ready = {.fd = py_socket_link_fd(rig->link), .events = POLLIN};

    (void)poll(&ready, ready.fd >= 0, 1);
    py_socket_link_poll(rig->link);
}

void rig_wait(struct rig *rig, const _Atomic uint64_t *counter, uint64_t value)
{
    uint64_t begun = rig_now();

    while (atomic_load(counter) < value) {
        if (rig_now() - begun > RIG_PATIENCE_MS) {
            fail_msg("a counter stays at %llu", (unsigned long long)atomic_load(counter));
        }
        rig_pass_time(rig);
    }
}

void rig_wait_gones(struct rig *rig, uint32_t value)
{
    uint64_t begun = rig_now();

    while (atomic_load(&rig->gones) < value) {
        assert_true(rig_now() - begun < RIG_PATIENCE_MS);
        rig_pass_time(rig);
    }
}

uint32_t rig_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint32_t count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL) {
        count++;
    }
    closedir(dir);
    return count;
}

/* ---- raw peers ---- */

void *raw_socket(int type)
{
    const int patience = RIG_PATIENCE_MS;
    const int zero = 0;
    void *socket;

    if (raw_context == NULL) {
        raw_context = zmq_ctx_new();
    }
    socket = zmq_socket(raw_context, type);
    assert_non_null(socket);
    for (int i = 0; i < 64; i++) {
        if (raw_open[i] == NULL) {
            raw_open[i] = socket;
            break;
        }
    }
    (void)zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof(patience));
    (void)zmq_setsockopt(socket, ZMQ_SNDTIMEO, &patience, sizeof(patience));
    (void)zmq_setsockopt(socket, ZMQ_LINGER, &zero, sizeof(zero));
    return socket;
}

void raw_connect(void *socket, const char *url)
{
    char endpoint[300];

    snprintf(endpoint, sizeof(endpoint), "tcp://%s", url);
    assert_int_equal(zmq_connect(socket, endpoint), 0);
}

void raw_bind(void *socket, char *url_out)
{
    char endpoint[300];
    size_t size = sizeof(endpoint);

    assert_int_equal(zmq_bind(socket, "tcp://127.0.0.1:*"), 0);
    assert_int_equal(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, endpoint, &size), 0);
    snprintf(url_out, KVL_CHANNEL_URL_ROOM, "%.255s", endpoint + strlen("tcp://"));
}

void raw_close(void *socket)
{
    for (int i = 0; i < 64; i++) {
        if (raw_open[i] == socket) {
            raw_open[i] = NULL;
        }
    }
    assert_int_equal(zmq_close(socket), 0);
}

void raw_end(void)
{
    for (int i = 0; i < 64; i++) {
        if (raw_open[i] != NULL) {
            (void)zmq_close(raw_open[i]);
            raw_open[i] = NULL;
        }
    }
    if (raw_context != NULL) {
        assert_int_equal(zmq_ctx_term(raw_context), 0);
        raw_context = NULL;
    }
}

void raw_send(void *socket, const void *bytes, size_t length)
{
    assert_int_equal(zmq_send(socket, bytes, length, 0), length);
}

size_t raw_recv(void *socket, void *bytes_out, size_t room)
{
    int n = zmq_recv(socket, bytes_out, room, 0);

    if (n < 0) {
        fail_msg("nothing came: %s", zmq_strerror(zmq_errno()));
    }
    assert_true((size_t)n <= room);
    return (size_t)n;
}

void raw_ask(void *req, const void *bytes, size_t length, struct py_socket_msg *msg_out)
{
    static uint8_t answer[65536];
    char reason[PY_SOCKET_REASON_ROOM];
    size_t n;

    raw_send(req, bytes, length);
    n = raw_recv(req, answer, sizeof(answer));
    if (py_socket_decode(answer, n, msg_out, reason) != 0) {
        fail_msg("the answer does not decode: %s", reason);
    }
}

struct py_socket_offer raw_offer(uint64_t incarnation)
{
    return (struct py_socket_offer){
        .version = incarnation == 0 ? 0 : 1,
        .min_version = 1,
        .incarnation = incarnation,
        .token = "0123456789abcde",
        .tcp = "127.0.0.1:1",
        .buffer_bytes = 4096,
        .align_bytes = 64,
    };
}

void raw_hello(void *req, const char *name, uint64_t incarnation, struct py_socket_msg *msg_out)
{
    const struct py_socket_offer offer = raw_offer(incarnation);
    struct kvl_pack_out out;
    uint8_t bytes[2048];

    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_request(&out, name, &offer, NULL);
    assert_false(kvl_pack_out_failed(&out));
    raw_ask(req, bytes, out.length, msg_out);
}

int raw_text_is(const struct kvl_text *text, const char *wanted)
{
    return text->length == strlen(wanted) && memcmp(text->text, wanted, text->length) == 0;
}
