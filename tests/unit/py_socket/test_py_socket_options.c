/* SPDX-License-Identifier: Apache-2.0 */
/* What the section may say, and that a mistake is told by its name and never with a key. */
#include "link_rig.h"

#include <errno.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_url.h"

static char secret[41];
static char public[41];
static char other_secret[41];
static char other_public[41];

static int make_keys(void **state)
{
    (void)state;
    return zmq_curve_keypair(public, secret) | zmq_curve_keypair(other_public, other_secret);
}

/* @return the code; `text` must be in the sentence when there is one. */
static int check(const char *const *pairs, const char *text)
{
    struct fake_host *fake = fake_host_create(kvlane_backend_v1(), pairs);
    struct kvl_err err = {.size = sizeof(err)};
    struct py_socket_options options;
    int r = kvlane_backend_v1()->ops->check(fake_host_table(fake), &err);

    if (text != NULL && strstr(err.text, text) == NULL) {
        fail_msg("'%s' is not in: %s", text, err.text);
    }
    assert_null(strstr(err.text, secret));
    assert_int_equal(py_socket_options_read(fake_host_table(fake), &options, &err), r);
    if (r == 0) {
        py_socket_options_fini(&options);
    }
    fake_host_destroy(fake);
    return r;
}

#define REFUSED(text, ...)                                                                         \
    assert_int_equal(check((const char *const[]){__VA_ARGS__, NULL}, text), -EINVAL)
#define TAKEN(...) assert_int_equal(check((const char *const[]){__VA_ARGS__, NULL}, NULL), 0)

static void test_addresses(void **state)
{
    (void)state;
    TAKEN("bind", "127.0.0.1:7000");
    TAKEN("bind", "tcp://127.0.0.1:7000");
    TAKEN("bind", "[::1]:0");
    TAKEN("bind", "7000");
    TAKEN("lookup_bind", "127.0.0.1:7001");
    REFUSED("bind 'here'", "bind", "here");
    REFUSED("bind", "bind", "unix:/tmp/x");
    REFUSED("bind", "bind", "lm://a:1");
    REFUSED("lookup_bind '127.0.0.1:99999'", "lookup_bind", "127.0.0.1:99999");
    TAKEN("peers", "127.0.0.1:1, 7000 ,tcp://b:2,");
    REFUSED("peers: 'b'", "peers", "127.0.0.1:1, b");
    REFUSED("peers: '127.0.0.1:0'", "peers", "127.0.0.1:0");
}

static void test_loopback_only_unless_said_otherwise(void **state)
{
    (void)state;
    REFUSED("allow_remote = yes", "bind", "192.0.2.7:7000");
    REFUSED("lookup_bind '192.0.2.7:7000' is not on loopback", "lookup_bind", "192.0.2.7:7000");
    TAKEN("bind", "192.0.2.7:7000", "allow_remote", "yes");
    TAKEN("bind", "192.0.2.7:7000", "curve_secret_key", secret);
    REFUSED("advertise", "bind", "0.0.0.0:7000", "allow_remote", "yes");
    REFUSED("advertise", "bind", "*:7000", "allow_remote", "yes");
    TAKEN("bind", "*:7000", "allow_remote", "yes", "advertise", "node7");
    REFUSED("advertise 'a:1/'", "advertise", "a:1/");
}

static void test_keys_go_together(void **state)
{
    char list[200];

    (void)state;
    TAKEN("curve_secret_key", secret);
    TAKEN("curve_secret_key", secret, "curve_public_key", public);
    REFUSED("does not go with", "curve_secret_key", secret, "curve_public_key", other_public);
    REFUSED("curve_secret_key is no key", "curve_secret_key", "short");
    REFUSED("without curve_secret_key", "curve_peer_keys", public);
    REFUSED("without curve_secret_key", "curve_server_keys", public);
    snprintf(list, sizeof(list), "%s , %s", public, other_public);
    TAKEN("curve_secret_key", secret, "curve_peer_keys", list);
    list[0] = '\'';
    REFUSED("curve_peer_keys: entry 1", "curve_secret_key", secret, "curve_peer_keys", list);
    REFUSED("curve_server_keys: entry 1", "curve_secret_key", secret, "curve_server_keys", "x=y");
}

static void test_keys_of_servers(void **state)
{
    char list[200];
    struct rig rig;

    (void)state;
    snprintf(list, sizeof(list), "7000=%s", other_public);
    rig_open(&rig,
             (const char *const[]){"curve_secret_key", secret, "curve_server_keys", list, NULL});
    assert_string_equal(py_socket_options_server_key(&rig.options, "127.0.0.1:7000"), other_public);
    assert_string_equal(py_socket_options_server_key(&rig.options, "127.0.0.1:7001"), public);
    rig_close(&rig);
    rig_open(&rig, (const char *const[]){"curve_secret_key", secret, "curve_server_keys",
                                         other_public, NULL});
    assert_string_equal(py_socket_options_server_key(&rig.options, "127.0.0.1:7001"), other_public);
    rig_close(&rig);
}

static void test_urls(void **state)
{
    char url[KVL_CHANNEL_URL_ROOM];
    char longest[400] = "";

    (void)state;
    assert_int_equal(py_socket_url_normal("tcp://h:1", url), 0);
    assert_string_equal(url, "h:1");
    assert_int_equal(py_socket_url_normal("5555", url), 0);
    assert_string_equal(url, "127.0.0.1:5555");
    assert_int_equal(py_socket_url_normal("[::1]:5", url), 0);
    assert_string_equal(url, "[::1]:5");
    assert_int_equal(py_socket_url_normal("", url), -EINVAL);
    assert_int_equal(py_socket_url_normal("tcp://", url), -EINVAL);
    assert_int_equal(py_socket_url_normal("h:", url), -EINVAL);
    assert_int_equal(py_socket_url_normal(":5", url), -EINVAL);
    assert_int_equal(py_socket_url_normal("ipc://x", url), -EINVAL);
    assert_int_equal(py_socket_url_normal("99999", url), -EINVAL);
    memset(longest, 'h', sizeof(longest) - 1);
    memcpy(longest + sizeof(longest) - 3, ":1", 3);
    assert_int_equal(py_socket_url_normal(longest, url), -ENAMETOOLONG);
    assert_string_equal(url, "[::1]:5");
}

static void test_advertised_host(void **state)
{
    struct rig rig;

    (void)state;
    rig_open(&rig, (const char *const[]){"advertise", "node7", NULL});
    rig_link(&rig, "127.0.0.1:0", NULL, 0);
    assert_memory_equal(py_socket_link_url(rig.link), "node7:", 6);
    rig_close(&rig);
}

static void test_links_off_loopback_are_refused(void **state)
{
    struct rig rig;
    const struct py_socket_offer offer = {0};
    struct kvl_err err = {.size = sizeof(err)};
    struct py_socket_link_config config;

    (void)state;
    rig_open(&rig, NULL);
    config = (struct py_socket_link_config){
        .host = rig.host,
        .options = &rig.options,
        .zmq = rig.zmq,
        .counters = &rig.counters,
        .peer_init_url = "192.0.2.7:7000",
    };
    assert_int_equal(py_socket_link_create(&config, &rig.link, &err), 0);
    assert_int_equal(py_socket_link_start(rig.link, &offer, &err), -EACCES);
    assert_non_null(strstr(err.text, "allow_remote"));
    rig_unlink(&rig);
    config.peer_init_url = "nonsense";
    assert_int_equal(py_socket_link_create(&config, &rig.link, &err), 0);
    assert_int_equal(py_socket_link_start(rig.link, &offer, &err), -EINVAL);
    assert_non_null(strstr(err.text, "nonsense"));
    rig_close(&rig);
}

static void test_life_of_an_instance(void **state)
{
    const struct kvl_backend_ops *ops = kvlane_backend_v1()->ops;
    struct fake_host *fake = fake_host_create(kvlane_backend_v1(), NULL);
    struct kvl_err err = {.size = sizeof(err)};
    struct kvl_health health = {.size = sizeof(health)};
    void *self = NULL;

    (void)state;
    assert_int_equal(ops->create(fake_host_table(fake), &self, &err), 0);
    ops->get_health(self, &health);
    assert_int_equal(health.state, KVL_HEALTH_DOWN);
    assert_int_equal(ops->start(self, &err), 0);
    ops->get_health(self, &health);
    assert_int_equal(health.state, KVL_HEALTH_OK);
    ops->stop(self);
    ops->stop(self);
    ops->get_health(self, &health);
    assert_int_equal(health.state, KVL_HEALTH_DOWN);
    ops->destroy(self);
    ops->destroy(NULL);
    assert_int_equal(fake_host_leaks(fake), 0);
    fake_host_destroy(fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_loopback_only_unless_said_otherwise),
        cmocka_unit_test(test_keys_go_together),
        cmocka_unit_test(test_keys_of_servers),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_advertised_host),
        cmocka_unit_test(test_links_off_loopback_are_refused),
        cmocka_unit_test(test_life_of_an_instance),
    };

    return cmocka_run_group_tests(tests, make_keys, NULL);
}
