/* SPDX-License-Identifier: Apache-2.0 */
/* Handshakes between links and with raw peers, over loopback. */
#include "link_rig.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <zmq.h>

static struct rig target;
static struct rig initiator;

static int set_up(void **state)
{
    (void)state;
    rig_start(&target);
    rig_start(&initiator);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    rig_close(&initiator);
    rig_close(&target);
    raw_end();
    return 0;
}

/* ---- two links ---- */

static void test_both_sides_know_each_other(void **state)
{
    const char *url = py_socket_link_url(target.link);
    const char *own = py_socket_link_url(initiator.link);
    struct py_socket_peer *there;
    struct py_socket_peer *here;
    uint8_t token[PY_SOCKET_TOKEN];

    (void)state;
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    there = py_socket_peers_find(py_socket_link_peers(initiator.link), url);
    here = py_socket_peers_find(py_socket_link_peers(target.link), own);
    assert_non_null(there);
    assert_non_null(here);
    assert_int_equal(there->version, 1);
    assert_string_equal(there->offer.tcp, "127.0.0.1:9");
    assert_true(there->offer.incarnation == py_socket_link_incarnation(target.link));
    assert_true(here->offer.incarnation == py_socket_link_incarnation(initiator.link));

    /* the token that each was given is the one by which the other knows it */
    py_socket_peers_token(py_socket_link_peers(initiator.link), there, token);
    py_socket_peer_release(here);
    here = py_socket_peers_find_token(py_socket_link_peers(target.link), token);
    assert_non_null(here);
    assert_string_equal(here->id, own);
    py_socket_peers_token(py_socket_link_peers(target.link), here, token);
    py_socket_peer_release(there);
    there = py_socket_peers_find_token(py_socket_link_peers(initiator.link), token);
    assert_non_null(there);
    assert_string_equal(there->id, url);
    token[0] ^= 1;
    assert_null(py_socket_peers_find_token(py_socket_link_peers(initiator.link), token));
    py_socket_peer_release(here);
    py_socket_peer_release(there);
    assert_int_equal(target.ups, 1);
    assert_int_equal(initiator.ups, 1);
}

static void is_offered(const struct rig *rig, uint32_t count, const char *bytes, const char *peer)
{
    struct fake_offer last;

    assert_int_equal(fake_host_offered(rig->fake, &last), count);
    assert_string_equal(last.backend, "other");
    assert_string_equal(last.peer, peer);
    assert_int_equal(last.length, strlen(bytes));
    assert_memory_equal(last.bytes, bytes, last.length);
    assert_int_equal(last.is_same_host, 1);
}

static void test_backends_are_told_what_the_other_side_offers(void **state)
{
    const char *url = py_socket_link_url(target.link);
    const char *own = py_socket_link_url(initiator.link);
    struct py_socket_peer *lost;

    (void)state;
    fake_host_set_offer(initiator.fake, "other", "of the initiator", 16);
    fake_host_set_offer(target.fake, "other", "of the target", 13);
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    is_offered(&initiator, 1, "of the target", url);
    is_offered(&target, 1, "of the initiator", own);
    /* known peers are not told again, those that are greeted anew are */
    fake_host_set_offer(target.fake, "other", "of the target, later", 20);
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    assert_int_equal(fake_host_offered(initiator.fake, NULL), 1);
    lost = py_socket_peers_find(py_socket_link_peers(initiator.link), url);
    py_socket_link_forget(initiator.link, lost);
    py_socket_peer_release(lost);
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    is_offered(&initiator, 2, "of the target, later", url);
    is_offered(&target, 2, "of the initiator", own);
    /* who offers nothing any more says nothing */
    fake_host_set_offer(initiator.fake, "other", "", 0);
    assert_int_equal(rig_shake(&target, own, 5000), 0);
    assert_int_equal(fake_host_offered(target.fake, NULL), 2);
}

/* What a peer without a boot id, or of another, offers is not of this machine. */
static void test_offers_of_strangers(void **state)
{
    const struct py_socket_notes notes = {
        .notes = {{.backend = {.text = "other", .length = 5}, .bytes = "here", .length = 4}},
        .count = 1,
    };
    struct py_socket_offer offer = raw_offer(11);
    struct py_socket_msg msg;
    struct fake_offer last;
    struct kvl_pack_out out;
    uint8_t bytes[2048];
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    fake_host_set_offer(target.fake, "other", "of the target", 13);
    raw_connect(req, py_socket_link_url(target.link));
    raw_hello(req, "127.0.0.1:5555", 0, &msg); /* Python's */
    assert_int_equal(msg.notes.count, 0);
    assert_int_equal(fake_host_offered(target.fake, NULL), 0);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_request(&out, "127.0.0.1:5555", &offer, &notes);
    raw_ask(req, bytes, out.length, &msg);
    assert_int_equal(msg.notes.count, 1);
    assert_int_equal(fake_host_offered(target.fake, &last), 1);
    assert_int_equal(last.is_same_host, 0);
    /* of one that is refused nothing is passed on */
    snprintf(offer.boot_id, sizeof(offer.boot_id), "ffffffff-0000-4000-8000-00112233aabb");
    offer.min_version = PY_SOCKET_VERSION + 1;
    offer.version = PY_SOCKET_VERSION + 1;
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_request(&out, "127.0.0.1:5556", &offer, &notes);
    raw_ask(req, bytes, out.length, &msg);
    assert_false(raw_text_is(&msg.text, "ok"));
    assert_int_equal(fake_host_offered(target.fake, NULL), 1);
    offer.min_version = 1;
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_request(&out, "127.0.0.1:5556", &offer, &notes);
    raw_ask(req, bytes, out.length, &msg);
    assert_int_equal(fake_host_offered(target.fake, &last), 2);
    assert_int_equal(last.is_same_host, 0);
    assert_string_equal(last.peer, "127.0.0.1:5556");
    raw_close(req);
}

static void test_known_peer_is_cheap(void **state)
{
    (void)state;
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
    assert_int_equal(target.counters.handshakes_in, 1);
}

static void test_both_keep_valid_tokens_when_one_forgets(void **state)
{
    const char *names[2] = {py_socket_link_url(target.link), py_socket_link_url(initiator.link)};
    struct py_socket_peers *peers[2] = {py_socket_link_peers(target.link),
                                        py_socket_link_peers(initiator.link)};
    struct py_socket_peer *lost;

    (void)state;
    assert_int_equal(rig_shake(&initiator, names[0], 5000), 0);
    lost = py_socket_peers_find(peers[1], names[0]);
    py_socket_link_forget(initiator.link, lost);
    py_socket_peer_release(lost);
    assert_int_equal(rig_shake(&initiator, names[0], 5000), 0);
    assert_int_equal(rig_shake(&target, names[1], 5000), 0);
    for (int side = 0; side < 2; side++) {
        struct py_socket_peer *peer = py_socket_peers_find(peers[side], names[1 - side]);
        struct py_socket_peer *back;
        uint8_t token[PY_SOCKET_TOKEN];

        assert_non_null(peer);
        py_socket_peers_token(peers[side], peer, token);
        back = py_socket_peers_find_token(peers[1 - side], token);
        assert_non_null(back);
        assert_string_equal(back->id, names[side]);
        py_socket_peer_release(back);
        py_socket_peer_release(peer);
    }
}

/* One side of two that call each other at the same moment. */
static void test_token_of_an_answer_wins(void **state)
{
    struct py_socket_peers *peers;
    struct py_socket_offer offer = raw_offer(7);
    struct py_socket_hello called = {.id = "a:1", .url = "a:1", .version = 1, .offer = &offer};
    struct py_socket_hello answered = called;
    uint8_t own[PY_SOCKET_TOKEN] = "ours";
    uint8_t token[PY_SOCKET_TOKEN];
    struct py_socket_learned first;
    struct py_socket_learned again;

    (void)state;
    assert_int_equal(py_socket_peers_create(4, &peers), 0);
    memset(offer.token, 'c', sizeof(offer.token));
    assert_int_equal(py_socket_peers_learn(peers, &called, &first), 0);
    assert_false(py_socket_peers_is_settled(peers, first.peer)); /* our answer may be on its way */

    answered.token = own;
    memset(offer.token, 'a', sizeof(offer.token));
    assert_int_equal(py_socket_peers_learn(peers, &answered, &again), 0);
    assert_ptr_equal(again.peer, first.peer);
    assert_true(py_socket_peers_is_settled(peers, first.peer));
    py_socket_peer_release(again.peer);

    memset(offer.token, 'd', sizeof(offer.token));
    assert_int_equal(py_socket_peers_learn(peers, &called, &again), 0);
    py_socket_peers_token(peers, first.peer, token);
    assert_int_equal(token[0], 'a');
    assert_false(py_socket_peers_is_settled(peers, first.peer)); /* it may have forgotten us */
    py_socket_peer_release(again.peer);
    py_socket_peer_release(first.peer);
    py_socket_peers_destroy(peers);
}

static void test_side_message(void **state)
{
    struct py_socket_call call = {
        .what = PY_SOCKET_CALL_INIT | PY_SOCKET_CALL_SIDE,
        .url = py_socket_link_url(target.link),
    };
    char reply[KVL_CHANNEL_URL_ROOM] = "";

    (void)state;
    assert_int_equal(py_socket_link_call_wait(initiator.link, &call, reply), 0);
    assert_string_equal(reply, "127.0.0.1:7777");
    reply[0] = '\0';
    assert_int_equal(py_socket_link_call_wait(initiator.link, &call, reply), 0);
    assert_string_equal(reply, "127.0.0.1:7777");
    assert_int_equal(target.counters.side_messages_in, 1); /* it was known */

    call.what = PY_SOCKET_CALL_SIDE;
    assert_int_equal(py_socket_link_call_wait(initiator.link, &call, reply), 0);
    assert_int_equal(target.counters.side_messages_in, 2); /* alone it always asks */
}

static void test_side_message_before_any_handshake(void **state)
{
    const struct py_socket_call call = {.what = PY_SOCKET_CALL_SIDE,
                                        .url = py_socket_link_url(target.link)};
    char reply[KVL_CHANNEL_URL_ROOM] = "";

    (void)state;
    assert_int_equal(py_socket_link_call_wait(initiator.link, &call, reply), 0);
    assert_string_equal(reply, "127.0.0.1:7777");
    assert_int_equal(target.counters.peers_now, 0);
}

static void test_forms_of_a_url(void **state)
{
    const char *url = py_socket_link_url(target.link);
    const char *port = strrchr(url, ':') + 1;
    char text[64];

    (void)state;
    snprintf(text, sizeof(text), "tcp://%s", url);
    assert_int_equal(rig_shake(&initiator, text, 5000), 0);
    assert_int_equal(rig_shake(&initiator, port, 5000), 0);
    assert_int_equal(target.counters.handshakes_in, 1); /* all the same peer */
    assert_int_equal(rig_shake(&initiator, "http://x", 5000), -EINVAL);
    assert_int_equal(rig_shake(&initiator, "127.0.0.1:0", 5000), -EINVAL);
    assert_int_equal(rig_shake(&initiator, "", 5000), -EINVAL);
}

static void test_a_link_without_url_initiates(void **state)
{
    struct py_socket_peer *peer;

    (void)state;
    rig_unlink(&initiator);
    initiator.ups = 0;
    initiator.gones = 0;
    rig_link(&initiator, NULL, NULL, 0);
    assert_string_equal(py_socket_link_url(initiator.link), "");
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
    assert_int_equal(target.counters.peers_now, 1);
    peer =
        py_socket_peers_find(py_socket_link_peers(initiator.link), py_socket_link_url(target.link));
    assert_non_null(peer);
    py_socket_peer_release(peer);
}

static void test_named_peer_and_name_of_our_own(void **state)
{
    const struct py_socket_call call = {
        .what = PY_SOCKET_CALL_INIT,
        .local_id = "rank-3",
        .peer_id = "decode-0",
        .url = py_socket_link_url(target.link),
    };
    struct py_socket_peer *peer;

    (void)state;
    rig_unlink(&initiator);
    initiator.ups = 0;
    initiator.gones = 0;
    rig_link(&initiator, NULL, NULL, 0);
    assert_int_equal(py_socket_link_call_wait(initiator.link, &call, NULL), 0);
    peer = py_socket_peers_find(py_socket_link_peers(initiator.link), "decode-0");
    assert_non_null(peer);
    assert_string_equal(peer->url, py_socket_link_url(target.link));
    py_socket_peer_release(peer);
    peer = py_socket_peers_find(py_socket_link_peers(target.link), "rank-3");
    assert_non_null(peer);
    py_socket_peer_release(peer);
}

static void test_forgotten_peer_does_the_handshake_again(void **state)
{
    const char *url = py_socket_link_url(target.link);
    struct py_socket_peer *peer;

    (void)state;
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    peer = py_socket_peers_find(py_socket_link_peers(initiator.link), url);
    py_socket_link_forget(initiator.link, peer);
    py_socket_link_forget(initiator.link, peer);
    rig_wait_gones(&initiator, 1);
    assert_int_equal(peer->gone, -ENOTCONN);
    py_socket_peer_release(peer);
    assert_null(py_socket_peers_find(py_socket_link_peers(initiator.link), url));
    assert_int_equal(rig_shake(&initiator, url, 5000), 0);
    assert_int_equal(target.counters.handshakes_in, 2);
    assert_int_equal(target.counters.peers_now, 1); /* the same incarnation of us */
    assert_int_equal(target.gones, 0);
}

static void test_restarted_peer_replaces_itself(void **state)
{
    char url[KVL_CHANNEL_URL_ROOM];
    uint64_t old = py_socket_link_incarnation(initiator.link);

    (void)state;
    snprintf(url, sizeof(url), "%s", py_socket_link_url(initiator.link));
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
    rig_unlink(&initiator);
    initiator.ups = 0;
    initiator.gones = 0;
    rig_link(&initiator, url, NULL, 0);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
    rig_wait_gones(&target, 1);
    assert_int_equal(target.last_gone, -ESTALE);
    assert_true(target.last_gone_incarnation == old);
    assert_int_equal(target.ups, 2);
    assert_int_equal(target.counters.peers_now, 1);
    assert_int_equal(target.counters.peers_replaced, 1);
}

static void test_fingerprints_must_not_differ(void **state)
{
    const char *const llama[] = {"fingerprint", "llama/fp16", NULL};
    const char *const qwen[] = {"fingerprint", "qwen/bf16", NULL};

    (void)state;
    rig_close(&initiator);
    rig_close(&target);
    rig_open(&target, llama);
    rig_link(&target, "127.0.0.1:0", NULL, 0);
    rig_open(&initiator, qwen);
    rig_link(&initiator, "127.0.0.1:0", NULL, 0);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), -EPROTO);
    assert_int_equal(initiator.counters.handshakes_out_refused, 1);
    assert_int_equal(target.counters.handshakes_in_refused, 1);
    assert_int_equal(target.counters.peers_now, 0);

    rig_close(&initiator);
    rig_open(&initiator, NULL); /* any */
    rig_link(&initiator, "127.0.0.1:0", NULL, 0);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
}

static void test_with_itself(void **state)
{
    (void)state;
    assert_int_equal(rig_shake(&target, py_socket_link_url(target.link), 5000), 0);
}

/* ---- async ---- */

struct ended {
    uint32_t count;
    int status;
    char side[KVL_CHANNEL_URL_ROOM];
};

static void on_end(void *ctx, int status, const char *side_reply)
{
    struct ended *ended = ctx;

    ended->count++;
    ended->status = status;
    snprintf(ended->side, sizeof(ended->side), "%s", side_reply);
}

static void make_async(struct rig *rig)
{
    rig_unlink(rig);
    rig->ups = 0;
    rig->gones = 0;
    rig_link(rig, "127.0.0.1:0", "127.0.0.1:8888", 1);
}

static void test_async_both_sides_by_their_descriptors(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT | PY_SOCKET_CALL_SIDE};
    struct ended ended = {0};
    uint64_t begun = rig_now();

    (void)state;
    make_async(&target);
    make_async(&initiator);
    call.url = py_socket_link_url(target.link);
    assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended, NULL, NULL), 0);
    while (ended.count == 0) {
        struct pollfd fds[2] = {
            {.fd = py_socket_link_fd(target.link), .events = POLLIN},
            {.fd = py_socket_link_fd(initiator.link), .events = POLLIN},
        };

        /* nothing but the descriptors says when to poll */
        assert_true(poll(fds, 2, RIG_PATIENCE_MS) > 0);
        if (fds[0].revents != 0) {
            py_socket_link_poll(target.link);
        }
        if (fds[1].revents != 0) {
            py_socket_link_poll(initiator.link);
        }
        assert_true(rig_now() - begun < RIG_PATIENCE_MS);
    }
    assert_int_equal(ended.status, 0);
    assert_string_equal(ended.side, "127.0.0.1:8888");
    assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended, NULL, NULL),
                     -EALREADY);
    assert_int_equal(ended.count, 1);
}

/* What the target shows on a data connection must be known after the first of two answers. */
static void on_end_token_is_known(void *ctx, int status, const char *side_reply)
{
    const char *own = py_socket_link_url(initiator.link);
    struct py_socket_peer *here = py_socket_peers_find(py_socket_link_peers(target.link), own);
    struct py_socket_peer *there;
    uint8_t token[PY_SOCKET_TOKEN];

    assert_non_null(here);
    py_socket_peers_token(py_socket_link_peers(target.link), here, token);
    there = py_socket_peers_find_token(py_socket_link_peers(initiator.link), token);
    assert_non_null(there);
    py_socket_peer_release(there);
    py_socket_peer_release(here);
    on_end(ctx, status, side_reply);
}

static void test_async_calls_at_once_give_one_token(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT,
                                  .url = py_socket_link_url(target.link)};
    struct ended ended = {0};

    (void)state;
    make_async(&initiator);
    for (uint32_t round = 1; round <= 20; round++) { /* which answer comes first is chance */
        struct py_socket_peer *peer;

        for (int i = 0; i < 2; i++) {
            assert_int_equal(py_socket_link_call(initiator.link, &call, on_end_token_is_known,
                                                 &ended, NULL, NULL),
                             0);
        }
        rig_wait(&initiator, &initiator.counters.handshakes_out, 2 * (uint64_t)round);
        assert_int_equal(ended.count, 2 * round);
        assert_int_equal(ended.status, 0);
        peer = py_socket_peers_find(py_socket_link_peers(initiator.link), call.url);
        py_socket_link_forget(initiator.link, peer);
        py_socket_peer_release(peer);
    }
}

static void test_async_deadline_makes_the_descriptor_readable(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT, .deadline_ms = rig_now() + 100};
    struct ended ended = {0};
    char url[KVL_CHANNEL_URL_ROOM];
    void *silent = raw_socket(ZMQ_REP);
    uint64_t begun = rig_now();

    (void)state;
    raw_bind(silent, url);
    call.url = url;
    make_async(&initiator);
    assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended, NULL, NULL), 0);
    while (ended.count == 0) {
        struct pollfd fd = {.fd = py_socket_link_fd(initiator.link), .events = POLLIN};

        assert_int_equal(poll(&fd, 1, RIG_PATIENCE_MS), 1);
        py_socket_link_poll(initiator.link);
    }
    assert_int_equal(ended.status, -ETIMEDOUT);
    assert_true(rig_now() - begun < 2000);
    raw_close(silent);
}

static void test_async_blocking_call_drives_itself(void **state)
{
    (void)state;
    make_async(&initiator);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 5000), 0);
}

static void *shake_thread(void *arg)
{
    const struct py_socket_call call = {.what = PY_SOCKET_CALL_SIDE, .url = arg};

    return (void *)(intptr_t)py_socket_link_call_wait(initiator.link, &call, NULL);
}

static void test_async_blocking_calls_of_several_threads(void **state)
{
    char url[KVL_CHANNEL_URL_ROOM];
    pthread_t threads[8];

    (void)state;
    snprintf(url, sizeof(url), "%s", py_socket_link_url(target.link));
    make_async(&initiator);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, shake_thread, url), 0);
    }
    for (int i = 0; i < 8; i++) {
        void *status;

        pthread_join(threads[i], &status);
        assert_null(status);
    }
    assert_int_equal(target.counters.side_messages_in, 8);
}

/* ---- raw peers talk to us ---- */

static void test_python_peer_is_answered_as_python_does(void **state)
{
    /* 82 type PySocketInitResponse status ok */
    static const char wanted[] = "\x82\xa4type\xb4PySocketInitResponse\xa6status\xa2ok";
    uint8_t bytes[256];
    struct kvl_pack_out out;
    uint8_t answer[256];
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(req, py_socket_link_url(target.link));
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_request(&out, "127.0.0.1:5555", NULL, NULL);
    raw_send(req, bytes, out.length);
    assert_int_equal(raw_recv(req, answer, sizeof(answer)), sizeof(wanted) - 1);
    assert_memory_equal(answer, wanted, sizeof(wanted) - 1);
    assert_int_equal(target.counters.peers_now, 1);
    raw_close(req);
}

static void test_replaced_by_another_kind(void **state)
{
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(req, py_socket_link_url(target.link));
    raw_hello(req, "127.0.0.1:5555", 11, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    assert_int_equal(msg.offer.version, 1);
    raw_hello(req, "tcp://127.0.0.1:5555", 11, &msg); /* the same one */
    assert_int_equal(target.counters.peers_now, 1);
    raw_hello(req, "5555", 12, &msg);
    assert_int_equal(target.counters.peers_replaced, 1);
    assert_true(target.last_gone_incarnation == 11);
    raw_hello(req, "127.0.0.1:5555", 0, &msg);
    assert_int_equal(msg.offer.version, 0);
    assert_int_equal(target.counters.peers_replaced, 2);
    assert_int_equal(target.counters.peers_now, 1);
    raw_close(req);
}

static void test_garbage_is_answered(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        const char *reason;
    } bad[] = {
        {"", 0, "not a map"},
        {"\xc1", 1, "not a map"},
        {"\x81", 1, "a key that is no string, or cut off"},
        {"\xdf\xff\xff\xff\xff", 5, "too many keys"},
        {"\x80", 1, "type: missing"},
        {"\x80\x80", 2, "bytes left over"},
        {"\x81\xa4type\x05", 7, "type: not a string"},
        {"\x81\xa4type\xa3"
         "Foo",
         10, "type: unknown"},
        {"\x81\xa4type\xb3PySocketInitRequest", 26, "peer_init_url: missing"},
        {"\x82\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xc0", 41,
         "peer_init_url: not a string"},
        {"\x82\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa0", 41, "peer_init_url: empty"},
        {"\x82\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa2\xff\xff", 43,
         "peer_init_url: not UTF-8"},
        {"\x82\xa4type\xb3PySocketInitRequest\xadpeer_init_url\xa3"
         "a b",
         44, "peer_init_url: blanks or control characters"},
        {"\x82\xa4type\xabP2PErrorMsg\xaa"
         "error_code\x01",
         30, "unexpected P2PErrorMsg"},
    };
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(req, py_socket_link_url(target.link));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        raw_ask(req, bad[i].bytes, bad[i].length, &msg);
        assert_int_equal(msg.type, PY_SOCKET_INIT_RESPONSE);
        if (!raw_text_is(&msg.text, bad[i].reason)) {
            fail_msg("case %zu: %.*s", i, (int)msg.text.length, msg.text.text);
        }
        assert_int_equal(target.counters.frames_bad, i + 1);
    }
    raw_hello(req, "127.0.0.1:5555", 7, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    raw_close(req);
}

static void test_several_frames_are_one_bad_message(void **state)
{
    uint8_t answer[512];
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(req, py_socket_link_url(target.link));
    for (int i = 0; i < 100; i++) {
        assert_int_equal(zmq_send(req, "x", 1, ZMQ_SNDMORE), 1);
    }
    raw_send(req, "x", 1);
    (void)raw_recv(req, answer, sizeof(answer));
    raw_hello(req, "127.0.0.1:5555", 7, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    raw_close(req);
}

static void test_huge_frame_costs_only_its_sender(void **state)
{
    size_t length = PY_SOCKET_INIT_BYTES + 1;
    uint8_t *huge = calloc(1, length);
    struct py_socket_msg msg;
    void *bad = raw_socket(ZMQ_REQ);
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(bad, py_socket_link_url(target.link));
    raw_connect(req, py_socket_link_url(target.link));
    raw_send(bad, huge, length);
    raw_hello(req, "127.0.0.1:5555", 7, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    raw_close(bad);
    raw_close(req);
    free(huge);
}

/* Not even ZMQ: some bytes, and then nothing for ever. */
static void test_silent_connections_hold_nobody_up(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct py_socket_msg msg;
    int fds[32];
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    address.sin_port =
        htons((uint16_t)strtoul(strrchr(py_socket_link_url(target.link), ':') + 1, NULL, 10));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < 32; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fds[i], (struct sockaddr *)&address, sizeof(address)), 0);
        if (i % 2 == 0) {
            assert_int_equal(send(fds[i], "GET / HTTP/1.1\r\n", 16, MSG_NOSIGNAL), 16);
        }
    }
    raw_connect(req, py_socket_link_url(target.link));
    raw_hello(req, "127.0.0.1:5555", 7, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    for (int i = 0; i < 32; i++) {
        close(fds[i]);
    }
    raw_close(req);
}

static void test_too_many_peers_push_out_the_oldest(void **state)
{
    const char *const few[] = {"max_peers", "4", NULL};
    struct py_socket_peers *peers;
    struct py_socket_peer *kept;
    struct py_socket_peer *held[3];
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);
    char name[32];

    (void)state;
    rig_close(&target);
    rig_open(&target, few);
    rig_link(&target, "127.0.0.1:0", NULL, 0);
    peers = py_socket_link_peers(target.link);
    raw_connect(req, py_socket_link_url(target.link));
    raw_hello(req, "10.0.0.1:1", 100, &msg);
    kept = py_socket_peers_find(peers, "10.0.0.1:1"); /* in use: it stays */
    for (unsigned i = 2; i < 50; i++) {
        snprintf(name, sizeof(name), "10.0.0.1:%u", i);
        raw_hello(req, name, 100 + i, &msg);
        assert_true(raw_text_is(&msg.text, "ok"));
    }
    assert_int_equal(py_socket_peers_count(peers), 4);
    assert_int_equal(atomic_load(&kept->gone), 0);
    assert_int_equal(target.last_gone, -ENOTCONN);

    for (unsigned i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "10.0.0.1:%u", 47 + i);
        held[i] = py_socket_peers_find(peers, name);
        assert_non_null(held[i]);
    }
    raw_hello(req, "10.0.0.1:60", 160, &msg);
    assert_true(raw_text_is(&msg.text, "too many peers"));
    for (unsigned i = 0; i < 3; i++) {
        py_socket_peer_release(held[i]);
    }
    py_socket_peer_release(kept);
    raw_close(req);
}

/* ---- we talk to raw peers ---- */

static void test_refusal_ends_the_call(void **state)
{
    const struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT, .url = NULL};
    struct py_socket_call now = call;
    struct ended ended = {0};
    struct kvl_pack_out out;
    char url[KVL_CHANNEL_URL_ROOM];
    uint8_t bytes[1024];
    void *rep = raw_socket(ZMQ_REP);

    (void)state;
    raw_bind(rep, url);
    now.url = url;
    make_async(&initiator);
    assert_int_equal(py_socket_link_call(initiator.link, &now, on_end, &ended, NULL, NULL), 0);
    rig_wait(&initiator, &initiator.counters.channels_now, 1);
    while (zmq_recv(rep, bytes, sizeof(bytes), ZMQ_DONTWAIT) < 0) {
        py_socket_link_poll(initiator.link);
    }
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_response(&out, "not today", NULL, NULL);
    raw_send(rep, bytes, out.length);
    rig_wait(&initiator, &initiator.counters.handshakes_out_refused, 1);
    assert_int_equal(ended.status, -EPROTO);
    raw_close(rep);
}

struct answerer {
    void *rep;
    const void *bytes;
    size_t length;
};

static void *answer_thread(void *arg)
{
    struct answerer *answerer = arg;
    uint8_t bytes[1024];

    (void)zmq_recv(answerer->rep, bytes, sizeof(bytes), 0);
    (void)zmq_send(answerer->rep, answerer->bytes, answerer->length, 0);
    return NULL;
}

static void test_nonsense_ends_the_call(void **state)
{
    static const char ok_and_more[] = "\x82\xa4type\xb4PySocketInitResponse\xa6status\xa2ok\x01";
    const struct {
        const void *bytes;
        size_t length;
    } answers[] = {{"", 0},
                   {"ok", 2},
                   {ok_and_more, sizeof(ok_and_more) - 1},
                   {"\x81\xa4type\xaeP2PInitSideMsg", 21}};

    (void)state;
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        struct answerer answerer = {raw_socket(ZMQ_REP), answers[i].bytes, answers[i].length};
        char url[KVL_CHANNEL_URL_ROOM];
        pthread_t thread;

        raw_bind(answerer.rep, url);
        assert_int_equal(pthread_create(&thread, NULL, answer_thread, &answerer), 0);
        assert_int_equal(rig_shake(&initiator, url, 5000), -EPROTO);
        assert_int_equal(initiator.counters.handshakes_out_bad, i + 1);
        pthread_join(thread, NULL);
        raw_close(answerer.rep);
    }
}

static void test_dead_and_silent_peers_end_at_the_deadline(void **state)
{
    char url[KVL_CHANNEL_URL_ROOM];
    void *silent = raw_socket(ZMQ_REP);
    uint64_t begun = rig_now();

    (void)state;
    raw_bind(silent, url);
    assert_int_equal(rig_shake(&initiator, url, 200), -ETIMEDOUT);
    raw_close(silent);
    assert_int_equal(rig_shake(&initiator, "127.0.0.1:1", 200), -ETIMEDOUT);
    assert_int_equal(rig_shake(&initiator, "127.0.0.1:1", 0), -ETIMEDOUT);
    assert_true(rig_now() - begun >= 400);
    assert_int_equal(initiator.counters.handshakes_out_timeout, 3);
}

/* The first one takes the request with it; the answer is due from the one after it. */
static void test_lost_request_is_sent_again(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT};
    struct ended ended = {0};
    char url[KVL_CHANNEL_URL_ROOM];
    uint8_t bytes[1024];
    void *rep = raw_socket(ZMQ_REP);
    uint64_t begun = rig_now();

    (void)state;
    raw_bind(rep, url);
    call.url = url;
    call.deadline_ms = rig_now() + RIG_PATIENCE_MS;
    make_async(&initiator);
    assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended, NULL, NULL), 0);
    while (zmq_recv(rep, bytes, sizeof(bytes), ZMQ_DONTWAIT) < 0) {
        py_socket_link_poll(initiator.link);
    }
    raw_close(rep);
    raw_end();
    rig_unlink(&target);
    target.ups = 0;
    target.gones = 0;
    rig_link(&target, url, NULL, 0);
    rig_wait(&initiator, &initiator.counters.handshakes_out, 1);
    assert_int_equal(ended.status, 0);
    assert_true(rig_now() - begun < 900); /* the loss is seen, not waited for */
    assert_true(initiator.counters.handshakes_retried >= 1);
}

static void test_slow_peer_is_waited_for(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT};
    struct ended ended = {0};
    char url[KVL_CHANNEL_URL_ROOM];
    uint8_t bytes[1024];
    struct kvl_pack_out out;
    void *router = raw_socket(ZMQ_ROUTER); /* keeps requests apart, answers when it likes */
    uint64_t begun = rig_now();

    (void)state;
    raw_bind(router, url);
    call.url = url;
    call.deadline_ms = rig_now() + RIG_PATIENCE_MS;
    make_async(&initiator);
    assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended, NULL, NULL), 0);
    /* the first attempt ends after a second; the answer to it is of no use any more */
    rig_wait(&initiator, &initiator.counters.handshakes_retried, 1);
    assert_true(rig_now() - begun >= 900);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_init_response(&out, "ok", NULL, NULL);
    while (ended.count == 0) {
        uint8_t name[64];
        uint8_t frame[1024];
        int n = zmq_recv(router, name, sizeof(name), ZMQ_DONTWAIT);

        if (n > 0) {
            (void)zmq_recv(router, frame, sizeof(frame), 0);
            (void)zmq_recv(router, frame, sizeof(frame), 0);
            (void)zmq_send(router, name, (size_t)n, ZMQ_SNDMORE);
            (void)zmq_send(router, "", 0, ZMQ_SNDMORE);
            (void)zmq_send(router, bytes, out.length, 0);
        }
        py_socket_link_poll(initiator.link);
        assert_true(rig_now() - begun < RIG_PATIENCE_MS);
    }
    assert_int_equal(ended.status, 0);
    raw_close(router);
}

static void test_cancel_and_close_while_a_peer_is_silent(void **state)
{
    struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT};
    struct ended ended[200] = {{0}};
    char url[KVL_CHANNEL_URL_ROOM];
    void *silent = raw_socket(ZMQ_REP);
    uint64_t number;

    (void)state;
    raw_bind(silent, url);
    call.url = url;
    call.deadline_ms = rig_now() + 3600 * 1000;
    make_async(&initiator);
    for (int i = 0; i < 200; i++) { /* more than have sockets at a time */
        assert_int_equal(
            py_socket_link_call(initiator.link, &call, on_end, &ended[i], &number, NULL), 0);
        if (i == 0 || i == 199) {
            py_socket_link_cancel(initiator.link, number);
        }
        py_socket_link_poll(initiator.link);
    }
    py_socket_link_poll(initiator.link);
    assert_int_equal(ended[0].count, 1);
    assert_int_equal(ended[199].count, 1);
    assert_int_equal(ended[1].count, 0);
    py_socket_link_cancel(initiator.link, number);
    rig_unlink(&initiator);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(ended[i].count, 1);
        assert_int_equal(ended[i].status, -ECANCELED);
    }
    raw_close(silent);
}

/* ---- many ---- */

static void test_many_handshakes_leave_no_descriptors(void **state)
{
    const struct py_socket_call call = {.what = PY_SOCKET_CALL_SIDE,
                                        .url = py_socket_link_url(target.link)};
    uint32_t before = 0;
    uint64_t begun = rig_now();

    (void)state;
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(py_socket_link_call_wait(initiator.link, &call, NULL), 0);
        if (i == 20) {
            before = rig_descriptors();
        }
    }
    print_message("1000 side messages with a connection each: %llu ms\n",
                  (unsigned long long)(rig_now() - begun));
    /* libzmq closes sockets a little later, in a thread of its own */
    while (rig_descriptors() > before + 20) {
        assert_true(rig_now() - begun < RIG_PATIENCE_MS * 3);
    }
}

static void test_many_handshakes_at_once(void **state)
{
    static struct ended ended[1000];
    const struct py_socket_call call = {.what = PY_SOCKET_CALL_INIT | PY_SOCKET_CALL_SIDE,
                                        .url = py_socket_link_url(target.link),
                                        .deadline_ms = rig_now() + RIG_PATIENCE_MS};

    (void)state;
    memset(ended, 0, sizeof(ended));
    rig_unlink(&initiator);
    initiator.ups = 0;
    initiator.gones = 0;
    rig_link(&initiator, "127.0.0.1:0", NULL, 1);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(py_socket_link_call(initiator.link, &call, on_end, &ended[i], NULL, NULL),
                         0);
    }
    rig_wait(&initiator, &initiator.counters.handshakes_out, 1000);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(ended[i].count, 1);
        assert_int_equal(ended[i].status, 0);
        assert_string_equal(ended[i].side, "127.0.0.1:7777");
    }
    assert_int_equal(initiator.ups, 1);
    assert_int_equal(target.ups, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_both_sides_know_each_other),
        TEST(test_backends_are_told_what_the_other_side_offers),
        TEST(test_offers_of_strangers),
        TEST(test_known_peer_is_cheap),
        TEST(test_both_keep_valid_tokens_when_one_forgets),
        TEST(test_token_of_an_answer_wins),
        TEST(test_side_message),
        TEST(test_side_message_before_any_handshake),
        TEST(test_forms_of_a_url),
        TEST(test_a_link_without_url_initiates),
        TEST(test_named_peer_and_name_of_our_own),
        TEST(test_forgotten_peer_does_the_handshake_again),
        TEST(test_restarted_peer_replaces_itself),
        TEST(test_fingerprints_must_not_differ),
        TEST(test_with_itself),
        TEST(test_async_both_sides_by_their_descriptors),
        TEST(test_async_calls_at_once_give_one_token),
        TEST(test_async_deadline_makes_the_descriptor_readable),
        TEST(test_async_blocking_call_drives_itself),
        TEST(test_async_blocking_calls_of_several_threads),
        TEST(test_python_peer_is_answered_as_python_does),
        TEST(test_replaced_by_another_kind),
        TEST(test_garbage_is_answered),
        TEST(test_several_frames_are_one_bad_message),
        TEST(test_huge_frame_costs_only_its_sender),
        TEST(test_silent_connections_hold_nobody_up),
        TEST(test_too_many_peers_push_out_the_oldest),
        TEST(test_refusal_ends_the_call),
        TEST(test_nonsense_ends_the_call),
        TEST(test_dead_and_silent_peers_end_at_the_deadline),
        TEST(test_lost_request_is_sent_again),
        TEST(test_slow_peer_is_waited_for),
        TEST(test_cancel_and_close_while_a_peer_is_silent),
        TEST(test_many_handshakes_leave_no_descriptors),
        TEST(test_many_handshakes_at_once),
    };

    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
