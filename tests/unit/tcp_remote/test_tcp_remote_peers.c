/* SPDX-License-Identifier: Apache-2.0 */
/* Our client against peers that misbehave; the test itself is the peer. */
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct scene {
    struct rig client;
    int listen_fd;
    char url[64];
    const char *pairs[20];
    struct fake_result *result;
};

static void scene_start(struct scene *scene, const char *const *more)
{
    size_t n = 0;

    memset(scene, 0, sizeof(*scene));
    scene->listen_fd = rig_listen(scene->url, sizeof(scene->url));
    scene->pairs[n++] = "url";
    scene->pairs[n++] = scene->url;
    scene->pairs[n++] = "connections";
    scene->pairs[n++] = "1";
    scene->pairs[n++] = "backoff_min";
    scene->pairs[n++] = "1";
    scene->pairs[n++] = "backoff_max";
    scene->pairs[n++] = "2";
    while (more != NULL && *more != NULL) {
        scene->pairs[n++] = *more++;
    }
    scene->result = malloc(sizeof(*scene->result));
    rig_start(&scene->client, scene->pairs);
}

static void scene_stop(struct scene *scene)
{
    rig_stop(&scene->client);
    close(scene->listen_fd);
    free(scene->result);
}

static const struct kvl_chunk *chunk_of(const char *key, uint64_t bytes)
{
    static struct kvl_chunk chunks[8];
    static size_t next;
    struct kvl_chunk *chunk = &chunks[next++ % 8];

    *chunk = (struct kvl_chunk){
        .key = kvl_key_from_text(key), .attrs = tcp_remote_no_attrs, .bytes = bytes};
    return chunk;
}

static void submit_lookup(struct scene *scene, uint64_t cookie, const char *key,
                          uint64_t deadline_ms)
{
    const struct kvl_batch batch = {.size = sizeof(batch),
                                    .count = 1,
                                    .cookie = cookie,
                                    .deadline_ms = deadline_ms,
                                    .chunks = chunk_of(key, 0)};

    assert_int_equal(scene->client.ops->lookup(scene->client.self, &batch), 0);
}

static void submit_read(struct scene *scene, uint64_t cookie, const char *key, uint64_t deadline_ms)
{
    const struct kvl_batch batch = {.size = sizeof(batch),
                                    .count = 1,
                                    .cookie = cookie,
                                    .deadline_ms = deadline_ms,
                                    .chunks = chunk_of(key, 0)};

    assert_int_equal(scene->client.ops->read(scene->client.self, &batch), 0);
}

static void submit_write(struct scene *scene, uint64_t cookie, void *bytes, uint64_t length)
{
    const struct kvl_sg sg = {.addr = (uint64_t)(uintptr_t)bytes,
                              .length = length,
                              .count = 1,
                              .device = KVL_DEVICE_HOST};
    const uint32_t first[2] = {0, 1};
    const struct kvl_batch batch = {.size = sizeof(batch),
                                    .count = 1,
                                    .cookie = cookie,
                                    .chunks = chunk_of("k", length),
                                    .sg = &sg,
                                    .sg_first = first};

    assert_int_equal(scene->client.ops->write(scene->client.self, &batch), 0);
}

static void expect_status(struct scene *scene, uint64_t cookie, int32_t status)
{
    assert_int_equal(fake_host_wait(scene->client.fake, cookie, scene->result), 0);
    assert_int_equal(scene->result->status, status);
    assert_int_equal(fake_host_completions(scene->client.fake, cookie), 1);
}

static uint64_t soon(struct scene *scene)
{
    const struct kvl_host *host = fake_host_table(scene->client.fake);

    return host->now_ms(host) + 50;
}

static void test_a_silent_peer_costs_its_connection(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", soon(&scene));
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    expect_status(&scene, 1, -ETIMEDOUT);
    rig_expect_eof(fd);
    close(fd);
    scene_stop(&scene);
}

static void test_no_progress_is_a_limit_without_a_deadline(void **state)
{
    const char *const more[] = {"request_timeout", "50", NULL};
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, more);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", KVL_NEVER);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    expect_status(&scene, 1, -ETIMEDOUT);
    rig_expect_eof(fd);
    close(fd);
    scene_stop(&scene);
}

/* Requests behind the late one are asked again on the next connection. */
static void test_requests_behind_a_late_one_are_retried(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 9, "first", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "first");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 0); /* answered once: the peer is not away later */
    expect_status(&scene, 9, 0);
    submit_lookup(&scene, 1, "late", soon(&scene));
    submit_lookup(&scene, 2, "behind", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "late");
    rig_expect_request(fd, TCP_REMOTE_EXIST, "behind");
    expect_status(&scene, 1, -ETIMEDOUT);
    rig_expect_eof(fd);
    close(fd);
    fd = rig_accept(scene.listen_fd);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "behind");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 0);
    expect_status(&scene, 2, 0);
    close(fd);
    scene_stop(&scene);
}

static void check_bad_reply(int32_t code, int32_t length)
{
    struct scene scene;
    int fd;

    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    rig_send_reply(fd, code, length);
    expect_status(&scene, 1, -EPROTO);
    rig_expect_eof(fd);
    close(fd);
    scene_stop(&scene);
}

static void test_replies_that_break_the_protocol(void **state)
{
    (void)state;
    check_bad_reply(0x41414141, 0x41414141);
    check_bad_reply(TCP_REMOTE_SUCCESS, -1);
    check_bad_reply(TCP_REMOTE_SUCCESS, 5); /* an EXIST has no payload */
    check_bad_reply(TCP_REMOTE_FAIL, 5);
}

static void test_negative_length_of_a_get(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_read(&scene, 1, "k", 0);
    rig_expect_request(fd, TCP_REMOTE_GET, "k");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, -5);
    expect_status(&scene, 1, -EPROTO);
    close(fd);
    scene_stop(&scene);
}

static void test_bytes_nobody_asked_for(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    rig_send(fd, "garbage", 7);
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 0);
    rig_expect_eof(fd);
    close(fd);
    scene_stop(&scene);
}

static void test_half_a_reply_header(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    rig_send(fd, "half", 4);
    close(fd);
    /* never answered: the peer counts as away, and its lookup is not kept waiting */
    expect_status(&scene, 1, -ENOTCONN);
    scene_stop(&scene);
}

static void test_a_get_that_died_is_a_miss(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_read(&scene, 1, "k", 0);
    rig_expect_request(fd, TCP_REMOTE_GET, "k");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 100);
    rig_send(fd, "some", 4);
    close(fd);
    expect_status(&scene, 1, -ENOENT);
    scene_stop(&scene);
}

static void test_a_key_the_peer_chokes_on_is_tried_twice(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 9, "ok", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "ok");
    rig_send_reply(fd, TCP_REMOTE_FAIL, 0);
    expect_status(&scene, 9, -ENOENT);
    submit_lookup(&scene, 1, "poison", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "poison");
    close(fd);
    fd = rig_accept(scene.listen_fd);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "poison");
    close(fd);
    expect_status(&scene, 1, -ECONNRESET);
    scene_stop(&scene);
}

static void test_a_reply_before_the_payload_is_refused(void **state)
{
    size_t length = (size_t)64 << 20;
    uint8_t *bytes = calloc(1, length);
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_write(&scene, 1, bytes, length);
    rig_expect_request(fd, TCP_REMOTE_PUT, "k");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 0);
    expect_status(&scene, 1, -EPROTO);
    free(bytes); /* complete means that nobody looks at it any more */
    close(fd);
    scene_stop(&scene);
}

static void test_cancel_of_a_request_not_sent(void **state)
{
    size_t length = (size_t)64 << 20;
    uint8_t *bytes = calloc(1, length);
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_write(&scene, 1, bytes, length);
    rig_expect_request(fd, TCP_REMOTE_PUT, "k");
    submit_write(&scene, 2, bytes, length);
    scene.client.ops->cancel(scene.client.self, 2);
    scene.client.ops->cancel(scene.client.self, 77);
    expect_status(&scene, 2, -ECANCELED);
    assert_int_equal(fake_host_completions(scene.client.fake, 1), 0);
    close(fd);
    expect_status(&scene, 1, -ECONNRESET);
    scene_stop(&scene);
    free(bytes);
}

static void test_cancel_of_a_put_under_way_closes(void **state)
{
    size_t length = (size_t)64 << 20;
    uint8_t *bytes = calloc(1, length);
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_write(&scene, 1, bytes, length);
    rig_expect_request(fd, TCP_REMOTE_PUT, "k");
    scene.client.ops->cancel(scene.client.self, 1);
    expect_status(&scene, 1, -ECANCELED);
    free(bytes);
    close(fd);
    scene_stop(&scene);
}

/* The payload of a read that nobody wants any more goes nowhere; the connection goes on. */
static void test_cancel_of_a_read_under_way_drains(void **state)
{
    uint8_t payload[1000] = {0};
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_read(&scene, 1, "k", 0);
    rig_expect_request(fd, TCP_REMOTE_GET, "k");
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 1000);
    rig_send(fd, payload, 500);
    scene.client.ops->cancel(scene.client.self, 1);
    expect_status(&scene, 1, -ECANCELED);
    submit_lookup(&scene, 2, "next", 0);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "next");
    rig_send(fd, payload, 500);
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, 0);
    expect_status(&scene, 2, 0);
    close(fd);
    scene_stop(&scene);
}

static void test_list_nobody_answers(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    assert_int_equal(scene.client.ops->list(scene.client.self, 1, 0), 0);
    rig_expect_request(fd, TCP_REMOTE_LIST, TCP_REMOTE_HEALTH_KEY);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "kvlane-never-stored@1@0@0@half");
    rig_send_reply(fd, TCP_REMOTE_FAIL, 0); /* of the EXIST: Python is silent on LIST */
    expect_status(&scene, 1, -ENOTSUP);
    close(fd);
    scene_stop(&scene);
}

static void test_list_in_pieces(void **state)
{
    const char text[] = "one\ntwo\n\nthree";
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    assert_int_equal(scene.client.ops->list(scene.client.self, 1, 0), 0);
    rig_expect_request(fd, TCP_REMOTE_LIST, TCP_REMOTE_HEALTH_KEY);
    rig_send_reply(fd, TCP_REMOTE_SUCCESS, sizeof(text) - 1);
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        rig_send(fd, text + i, 1);
    }
    rig_send_reply(fd, TCP_REMOTE_FAIL, 0);
    expect_status(&scene, 1, 0);
    assert_int_equal(fake_host_listed_count(scene.client.fake), 3);
    assert_true(fake_host_listed(scene.client.fake, "three"));
    close(fd);
    scene_stop(&scene);
}

static void test_too_many_batches(void **state)
{
    const char *const more[] = {"max_in_flight", "1", NULL};
    const struct kvl_batch batch = {
        .size = sizeof(batch), .count = 1, .cookie = 2, .chunks = chunk_of("k", 0)};
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, more);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", 0);
    assert_int_equal(scene.client.ops->lookup(scene.client.self, &batch), -EAGAIN);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    rig_send_reply(fd, TCP_REMOTE_FAIL, 0);
    expect_status(&scene, 1, -ENOENT);
    close(fd);
    scene_stop(&scene);
}

static void test_an_absent_peer_is_no_start_failure(void **state)
{
    struct kvl_health health = {.size = sizeof(health)};
    char url[64];
    const char *const pairs[] = {"url", url, NULL};
    const struct kvl_batch batch = {
        .size = sizeof(batch), .count = 1, .cookie = 1, .chunks = chunk_of("k", 0)};
    struct fake_result *result = malloc(sizeof(*result));
    struct rig client;
    int fd = rig_listen(url, sizeof(url));
    int r;

    (void)state;
    close(fd);
    rig_start(&client, pairs);
    r = client.ops->lookup(client.self, &batch);
    if (r == 0) { /* it did not know yet */
        assert_int_equal(fake_host_wait(client.fake, 1, result), 0);
        r = result->status;
    }
    assert_int_equal(r, -ENOTCONN);
    client.ops->get_health(client.self, &health);
    assert_int_equal(health.state, KVL_HEALTH_DEGRADED);
    rig_stop(&client);
    free(result);
}

static void test_stop_does_not_wait_for_a_silent_peer(void **state)
{
    struct scene scene;
    int fd;

    (void)state;
    scene_start(&scene, NULL);
    fd = rig_accept(scene.listen_fd);
    submit_lookup(&scene, 1, "k", KVL_NEVER);
    submit_read(&scene, 2, "k", KVL_NEVER);
    rig_expect_request(fd, TCP_REMOTE_EXIST, "k");
    scene.client.ops->stop(scene.client.self);
    expect_status(&scene, 1, -ECANCELED);
    expect_status(&scene, 2, -ECANCELED);
    close(fd);
    scene_stop(&scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_silent_peer_costs_its_connection),
        cmocka_unit_test(test_no_progress_is_a_limit_without_a_deadline),
        cmocka_unit_test(test_requests_behind_a_late_one_are_retried),
        cmocka_unit_test(test_replies_that_break_the_protocol),
        cmocka_unit_test(test_negative_length_of_a_get),
        cmocka_unit_test(test_bytes_nobody_asked_for),
        cmocka_unit_test(test_half_a_reply_header),
        cmocka_unit_test(test_a_get_that_died_is_a_miss),
        cmocka_unit_test(test_a_key_the_peer_chokes_on_is_tried_twice),
        cmocka_unit_test(test_a_reply_before_the_payload_is_refused),
        cmocka_unit_test(test_cancel_of_a_request_not_sent),
        cmocka_unit_test(test_cancel_of_a_put_under_way_closes),
        cmocka_unit_test(test_cancel_of_a_read_under_way_drains),
        cmocka_unit_test(test_list_nobody_answers),
        cmocka_unit_test(test_list_in_pieces),
        cmocka_unit_test(test_too_many_batches),
        cmocka_unit_test(test_an_absent_peer_is_no_start_failure),
        cmocka_unit_test(test_stop_does_not_wait_for_a_silent_peer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
