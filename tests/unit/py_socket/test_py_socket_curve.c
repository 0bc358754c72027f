/* SPDX-License-Identifier: Apache-2.0 */
/* Who gets in with which CURVE keys. */
#include "link_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

static char server_secret[41];
static char server_public[41];
static char friend_secret[41];
static char friend_public[41];
static char stranger_secret[41];
static char stranger_public[41];

static struct rig target;
static struct rig initiator;

static int make_keys(void **state)
{
    (void)state;
    if (!zmq_has("curve")) {
        print_message("this libzmq has no CURVE\n");
        exit(77);
    }
    return zmq_curve_keypair(server_public, server_secret) |
           zmq_curve_keypair(friend_public, friend_secret) |
           zmq_curve_keypair(stranger_public, stranger_secret);
}

static void start(struct rig *rig, const char *const *pairs)
{
    rig_open(rig, pairs);
    rig_link(rig, "127.0.0.1:0", "127.0.0.1:7777", 0);
}

/* A handshake with a target that lets in only `friend`, or whoever knows its key when NULL. */
static int shake(const char *peer_keys, const char *secret, const char *server_key,
                 uint64_t timeout_ms)
{
    const char *const target_pairs[] = {"curve_secret_key", server_secret, "curve_peer_keys",
                                        peer_keys, NULL};
    const char *const pairs[] = {"curve_secret_key", secret, "curve_server_keys", server_key, NULL};
    int r;

    start(&target, target_pairs);
    start(&initiator, secret == NULL ? NULL : pairs);
    r = rig_shake(&initiator, py_socket_link_url(target.link), timeout_ms);
    assert_int_equal(target.counters.peers_now, r == 0);
    return r;
}

static void end(void)
{
    rig_close(&initiator);
    rig_close(&target);
}

static void test_one_pair_of_keys_for_all(void **state)
{
    (void)state;
    assert_int_equal(shake("", server_secret, "", 5000), 0);
    end();
    assert_int_equal(shake(server_public, server_secret, "", 5000), 0);
    end();
}

static void test_whoever_knows_our_key(void **state)
{
    (void)state;
    assert_int_equal(shake("", friend_secret, server_public, 5000), 0);
    assert_int_equal(target.counters.curve_denied, 0);
    end();
}

static void test_allowed_key(void **state)
{
    (void)state;
    assert_int_equal(shake(friend_public, friend_secret, server_public, 5000), 0);
    end();
}

static void test_other_key_is_told_so_at_once(void **state)
{
    uint64_t begun = rig_now();

    (void)state;
    assert_int_equal(shake(friend_public, stranger_secret, server_public, 10000), -EACCES);
    assert_true(rig_now() - begun < 5000);
    assert_int_equal(initiator.counters.handshakes_out_denied, 1);
    assert_true(target.counters.curve_denied >= 1);
    end();
}

static void test_wrong_key_of_the_server(void **state)
{
    (void)state;
    assert_int_equal(shake("", friend_secret, stranger_public, 500), -EACCES);
    end();
}

static void test_only_one_side_uses_curve(void **state)
{
    const char *const curve[] = {"curve_secret_key", server_secret, NULL};

    (void)state;
    assert_int_equal(shake("", NULL, NULL, 10000), -EACCES);
    end();
    start(&target, NULL);
    start(&initiator, curve);
    assert_int_equal(rig_shake(&initiator, py_socket_link_url(target.link), 10000), -EACCES);
    end();
}

static void test_a_raw_client_with_the_right_keys(void **state)
{
    const char *const pairs[] = {"curve_secret_key", server_secret, "curve_peer_keys",
                                 friend_public, NULL};
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    start(&target, pairs);
    assert_int_equal(zmq_setsockopt(req, ZMQ_CURVE_SERVERKEY, server_public, 41), 0);
    assert_int_equal(zmq_setsockopt(req, ZMQ_CURVE_PUBLICKEY, friend_public, 41), 0);
    assert_int_equal(zmq_setsockopt(req, ZMQ_CURVE_SECRETKEY, friend_secret, 41), 0);
    raw_connect(req, py_socket_link_url(target.link));
    raw_hello(req, "127.0.0.1:5555", 7, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    raw_close(req);
    rig_close(&target);
    raw_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_pair_of_keys_for_all),
        cmocka_unit_test(test_whoever_knows_our_key),
        cmocka_unit_test(test_allowed_key),
        cmocka_unit_test(test_other_key_is_told_so_at_once),
        cmocka_unit_test(test_wrong_key_of_the_server),
        cmocka_unit_test(test_only_one_side_uses_curve),
        cmocka_unit_test(test_a_raw_client_with_the_right_keys),
    };

    return cmocka_run_group_tests(tests, make_keys, NULL);
}
