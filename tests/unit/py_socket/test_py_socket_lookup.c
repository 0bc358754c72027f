/* SPDX-License-Identifier: Apache-2.0 */
/* Lookup sockets: between two of ours, and with raw peers that lie, are late, or die. */
#include "link_rig.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zmq.h>

#include "py_socket_lookup.h"

/* ---- a holder of chunks ---- */

struct holder {
    int answer;
    uint32_t gets;
    uint32_t puts;
    char peer[KVL_CHANNEL_URL_ROOM];
    char first_key[64];
    uint64_t last_index;
    uint64_t last_offset;
    uint32_t count;
};

static struct rig rig;
/* The thread of the socket writes it. */
static struct holder holder;
static pthread_mutex_t holder_lock = PTHREAD_MUTEX_INITIALIZER;
static struct py_socket_lookup *server;
static struct py_socket_lookup *client;

static void holder_take(const struct py_socket_peer *peer, const struct py_socket_chunks *chunks)
{
    uint32_t last = chunks->count - 1;

    snprintf(holder.peer, sizeof(holder.peer), "%s", peer->id);
    holder.count = chunks->count;
    if (chunks->count > 0) {
        snprintf(holder.first_key, sizeof(holder.first_key), "%.*s", (int)chunks->keys[0].length,
                 chunks->keys[0].text);
        holder.last_index = chunks->mem_indexes[last];
        holder.last_offset = chunks->offsets != NULL ? chunks->offsets[last] : 0;
    }
}

static int holder_get(void *ctx, struct py_socket_peer *peer, const struct py_socket_chunks *chunks)
{
    int answer;

    (void)ctx;
    assert_null(chunks->offsets);
    pthread_mutex_lock(&holder_lock);
    holder_take(peer, chunks);
    holder.gets++;
    answer = holder.answer;
    pthread_mutex_unlock(&holder_lock);
    return answer;
}

static int holder_put(void *ctx, struct py_socket_peer *peer, const struct py_socket_chunks *chunks)
{
    int answer;

    (void)ctx;
    pthread_mutex_lock(&holder_lock);
    holder_take(peer, chunks);
    holder.puts++;
    answer = holder.answer;
    pthread_mutex_unlock(&holder_lock);
    return answer;
}

/* What it saw up to now. */
static struct holder seen(void)
{
    struct holder copy;

    pthread_mutex_lock(&holder_lock);
    copy = holder;
    pthread_mutex_unlock(&holder_lock);
    return copy;
}

static void answer_with(int answer)
{
    pthread_mutex_lock(&holder_lock);
    holder.answer = answer;
    pthread_mutex_unlock(&holder_lock);
}

static const struct py_socket_chunks_ops holder_ops = {.get = holder_get, .put = holder_put};

static struct py_socket_lookup *make(const char *bind)
{
    const struct py_socket_lookup_config config = {
        .host = rig.host,
        .options = &rig.options,
        .zmq = rig.zmq,
        .counters = &rig.counters,
        .bind = bind,
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct py_socket_lookup *lookup = NULL;

    if (py_socket_lookup_create(&config, &lookup, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return lookup;
}

static int set_up(void **state)
{
    (void)state;
    memset(&holder, 0, sizeof(holder));
    rig_start(&rig);
    server = make("127.0.0.1:0");
    client = make(NULL);
    assert_int_equal(py_socket_lookup_start(server, py_socket_link_peers(rig.link), &holder_ops),
                     0);
    assert_int_equal(py_socket_lookup_start(client, NULL, NULL), 0);
    return 0;
}

static int tear_down(void **state)
{
    uint64_t begun = rig_now();

    (void)state;
    py_socket_lookup_stop(client);
    py_socket_lookup_stop(server);
    py_socket_lookup_stop(server); /* again is harmless */
    py_socket_lookup_destroy(client);
    py_socket_lookup_destroy(server);
    rig_close(&rig);
    assert_true(rig_now() - begun < 2000);
    raw_end();
    return 0;
}

/* Makes the link's peer list know `name`. */
static void be_known(const char *name)
{
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    raw_connect(req, py_socket_link_url(rig.link));
    raw_hello(req, name, 0, &msg);
    assert_true(raw_text_is(&msg.text, "ok"));
    raw_close(req);
}

static const struct kvl_text keys[3] = {{"first", 5, 0}, {"second", 6, 0}, {"third", 5, 0}};
static const uint64_t indexes[3] = {4, 5, 600};
static const uint64_t offsets[3] = {256, 256, 100};

static struct py_socket_question question(const char *url, uint64_t timeout_ms)
{
    return (struct py_socket_question){
        .lookup_url = url,
        .own_id = "10.0.0.1:5555",
        .lookup_id = "lookup",
        .chunks = {.keys = keys, .offsets = offsets, .mem_indexes = indexes, .count = 3},
        .deadline_ms = rig_now() + timeout_ms,
    };
}

static void test_get(void **state)
{
    struct py_socket_question ask = question(py_socket_lookup_url(server), 5000);
    uint32_t hits = 77;

    (void)state;
    be_known("10.0.0.1:5555");
    answer_with(2);
    ask.chunks.offsets = NULL;
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), 0);
    assert_int_equal(hits, 2);
    assert_string_equal(seen().peer, "10.0.0.1:5555");
    assert_string_equal(seen().first_key, "first");
    assert_true(seen().last_index == 600);
    assert_int_equal(seen().count, 3);
    answer_with(0);
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), 0);
    assert_int_equal(hits, 0);
    assert_int_equal(seen().gets, 2);
    assert_int_equal(rig.counters.lookups_in, 2);
    assert_int_equal(rig.counters.lookups_out, 2);
    assert_int_equal(rig.counters.lookups_out_failed, 0);
}

static void test_put(void **state)
{
    struct py_socket_question ask = question(py_socket_lookup_url(server), 5000);
    uint32_t taken = 77;

    (void)state;
    be_known("10.0.0.1:5555");
    answer_with(3);
    assert_int_equal(py_socket_lookup_put(client, &ask, &taken), 0);
    assert_int_equal(taken, 3);
    assert_true(seen().last_offset == 100);
    answer_with(-EIO);
    assert_int_equal(py_socket_lookup_put(client, &ask, &taken), 0);
    assert_int_equal(taken, 0); /* any error */
    ask.chunks.offsets = NULL;
    assert_int_equal(py_socket_lookup_put(client, &ask, &taken), -EINVAL);
}

static void test_failures_have_codes(void **state)
{
    struct py_socket_question ask = question(py_socket_lookup_url(server), 5000);
    uint32_t hits = 77;

    (void)state;
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -ENOTCONN);
    assert_int_equal(seen().gets, 0);
    assert_int_equal(py_socket_lookup_put(client, &ask, &hits), 0);
    assert_int_equal(hits, 0); /* a put has no way to say it */
    assert_int_equal(seen().puts, 0);
    hits = 77;
    be_known("10.0.0.1:5555");
    answer_with(-ENOTSUP);
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -EREMOTEIO);
    assert_int_equal(hits, 77);
    ask.lookup_url = "nowhere";
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -EINVAL);
}

static void test_no_keys(void **state)
{
    struct py_socket_question ask = question(py_socket_lookup_url(server), 5000);
    uint32_t hits = 77;

    (void)state;
    be_known("10.0.0.1:5555");
    ask.chunks = (struct py_socket_chunks){0};
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), 0);
    assert_int_equal(hits, 0);
    assert_int_equal(seen().count, 0);
}

static void test_most_keys(void **state)
{
    static struct kvl_text many[PY_SOCKET_LIST_MAX];
    static uint64_t pages[PY_SOCKET_LIST_MAX];
    struct py_socket_question ask = question(py_socket_lookup_url(server), 15000);
    uint32_t hits = 0;

    (void)state;
    be_known("10.0.0.1:5555");
    for (uint32_t i = 0; i < PY_SOCKET_LIST_MAX; i++) {
        many[i] = keys[i % 3];
        pages[i] = i;
    }
    ask.chunks =
        (struct py_socket_chunks){.keys = many, .mem_indexes = pages, .count = PY_SOCKET_LIST_MAX};
    answer_with(PY_SOCKET_LIST_MAX);
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), 0);
    assert_int_equal(hits, PY_SOCKET_LIST_MAX);
    assert_true(seen().last_index == PY_SOCKET_LIST_MAX - 1);
    ask.chunks.count++;
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -EMSGSIZE);
}

/* ---- raw peers ask ---- */

static void test_garbage_is_answered(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
        int64_t code;
    } bad[] = {
        {"", 0, 1},
        {"\xc1", 1, 1},
        {"\x80", 1, 1},
        {"\x81\xa4type\xa3"
         "Foo",
         10, 2},
        {"\x81\xa4type\xaeP2PInitSideMsg", 21, 2},
        {"\x81\xa4type\xb6"
         "BatchedLookupAndGetMsg",
         29, 1},
    };
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    raw_connect(req, py_socket_lookup_url(server));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        raw_ask(req, bad[i].bytes, bad[i].length, &msg);
        assert_int_equal(msg.type, PY_SOCKET_P2P_ERROR);
        assert_int_equal(msg.number, bad[i].code);
    }
    raw_close(req);
    test_put(state); /* it goes on */
}

static void test_lists_of_different_lengths(void **state)
{
    static const char bytes[] = "\x85\xa4type\xb6"
                                "BatchedLookupAndGetMsg\xa9lookup_id\xa1x\xabreceiver_id\xad"
                                "10.0.0.1:5555\xa4keys\x92\xa1"
                                "a\xa1"
                                "b\xabmem_indexes\x91\x01";
    struct py_socket_msg msg;
    void *req = raw_socket(ZMQ_REQ);

    (void)state;
    be_known("10.0.0.1:5555");
    raw_connect(req, py_socket_lookup_url(server));
    raw_ask(req, bytes, sizeof(bytes) - 1, &msg);
    assert_int_equal(msg.type, PY_SOCKET_P2P_ERROR);
    assert_int_equal(msg.number, PY_SOCKET_ERROR_SERVER);
    assert_int_equal(seen().gets, 0);
    raw_close(req);
}

/* ---- we ask raw peers ---- */

struct answerer {
    void *rep;
    uint32_t ignored; /* questions before the one that is answered */
    const void *bytes;
    size_t length;
};

static void *answer_thread(void *arg)
{
    struct answerer *answerer = arg;
    uint8_t frame[4096];
    uint8_t name[64];
    int n = 0;

    for (uint32_t i = 0; i <= answerer->ignored; i++) {
        n = zmq_recv(answerer->rep, name, sizeof(name), 0);
        (void)zmq_recv(answerer->rep, frame, sizeof(frame), 0);
        (void)zmq_recv(answerer->rep, frame, sizeof(frame), 0);
    }
    if (n > 0) {
        (void)zmq_send(answerer->rep, name, (size_t)n, ZMQ_SNDMORE);
        (void)zmq_send(answerer->rep, "", 0, ZMQ_SNDMORE);
        (void)zmq_send(answerer->rep, answerer->bytes, answerer->length, 0);
    }
    return NULL;
}

/* @return what the get ended with when it is answered so. */
static int get_from(const void *bytes, size_t length, uint32_t ignored, uint64_t timeout_ms,
                    uint32_t *hits)
{
    struct answerer answerer = {raw_socket(ZMQ_ROUTER), ignored, bytes, length};
    struct py_socket_question ask;
    char url[KVL_CHANNEL_URL_ROOM];
    pthread_t thread;
    int r;

    raw_bind(answerer.rep, url);
    ask = question(url, timeout_ms);
    assert_int_equal(pthread_create(&thread, NULL, answer_thread, &answerer), 0);
    r = py_socket_lookup_get(client, &ask, hits);
    pthread_join(thread, NULL);
    raw_close(answerer.rep);
    return r;
}

static void test_nonsense_is_no_answer(void **state)
{
    uint8_t bytes[128];
    struct kvl_pack_out out;
    uint32_t hits = 77;

    (void)state;
    assert_int_equal(get_from("x", 1, 0, 5000, &hits), -EPROTO);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_lookup_put_ret(&out, 1);
    assert_int_equal(get_from(bytes, out.length, 0, 5000, &hits), -EPROTO);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_lookup_get_ret(&out, 4); /* more than were asked for */
    assert_int_equal(get_from(bytes, out.length, 0, 5000, &hits), -EPROTO);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_lookup_get_ret(&out, -1);
    assert_int_equal(get_from(bytes, out.length, 0, 5000, &hits), -EPROTO);
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_error(&out, PY_SOCKET_ERROR_UNKNOWN);
    assert_int_equal(get_from(bytes, out.length, 0, 5000, &hits), -EREMOTEIO);
    assert_int_equal(hits, 77);
}

static void test_lost_answers_are_asked_for_again(void **state)
{
    uint8_t bytes[128];
    struct kvl_pack_out out;
    uint32_t hits = 0;

    (void)state;
    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    py_socket_put_lookup_get_ret(&out, 3);
    assert_int_equal(get_from(bytes, out.length, 2, 1500, &hits), 0);
    assert_int_equal(hits, 3);
}

static void test_silent_peer_ends_at_the_deadline(void **state)
{
    struct py_socket_question ask;
    char url[KVL_CHANNEL_URL_ROOM];
    void *silent = raw_socket(ZMQ_REP);
    uint64_t begun = rig_now();
    uint32_t hits = 0;

    (void)state;
    raw_bind(silent, url);
    ask = question(url, 300);
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -ETIMEDOUT);
    raw_close(silent);
    ask = question("127.0.0.1:1", 300);
    assert_int_equal(py_socket_lookup_get(client, &ask, &hits), -ETIMEDOUT);
    assert_true(rig_now() - begun < 2000);
    assert_int_equal(rig.counters.lookups_out_failed, 2);
}

static char silent_url[KVL_CHANNEL_URL_ROOM];

static void *ask_silent(void *arg)
{
    struct py_socket_question ask = question(silent_url, 3600 * 1000);
    uint32_t hits;

    (void)arg;
    return (void *)(intptr_t)py_socket_lookup_get(client, &ask, &hits);
}

static void test_stop_ends_questions_under_way(void **state)
{
    void *silent = raw_socket(ZMQ_ROUTER);
    pthread_t threads[2]; /* the second waits for its turn */
    uint8_t frame[64];

    (void)state;
    raw_bind(silent, silent_url);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask_silent, NULL), 0);
    }
    assert_true(zmq_recv(silent, frame, sizeof(frame), 0) > 0);
    py_socket_lookup_stop(client);
    for (int i = 0; i < 2; i++) {
        void *status;

        pthread_join(threads[i], &status);
        assert_int_equal((int)(intptr_t)status, -ECANCELED);
    }
    raw_close(silent);
}

static void *ask_server(void *arg)
{
    struct py_socket_question ask = question(py_socket_lookup_url(server), 15000);

    (void)arg;
    for (int i = 0; i < 50; i++) {
        uint32_t hits = 0;

        if (py_socket_lookup_get(client, &ask, &hits) != 0 || hits != 1) {
            return &rig;
        }
    }
    return NULL;
}

static void test_several_threads_take_turns(void **state)
{
    pthread_t threads[4];

    (void)state;
    be_known("10.0.0.1:5555");
    answer_with(1);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask_server, NULL), 0);
    }
    for (int i = 0; i < 4; i++) {
        void *failed;

        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    assert_int_equal(seen().gets, 200);
}

static void test_a_taken_port_is_named(void **state)
{
    const struct py_socket_lookup_config config = {
        .host = rig.host,
        .options = &rig.options,
        .zmq = rig.zmq,
        .counters = &rig.counters,
        .bind = py_socket_lookup_url(server),
    };
    struct kvl_err err = {.size = sizeof(err)};
    struct py_socket_lookup *lookup = NULL;

    (void)state;
    assert_int_equal(py_socket_lookup_create(&config, &lookup, &err), -EADDRINUSE);
    assert_null(lookup);
    assert_non_null(strstr(err.text, py_socket_lookup_url(server)));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_get),
        TEST(test_put),
        TEST(test_failures_have_codes),
        TEST(test_no_keys),
        TEST(test_most_keys),
        TEST(test_garbage_is_answered),
        TEST(test_lists_of_different_lengths),
        TEST(test_nonsense_is_no_answer),
        TEST(test_lost_answers_are_asked_for_again),
        TEST(test_silent_peer_ends_at_the_deadline),
        TEST(test_stop_ends_questions_under_way),
        TEST(test_several_threads_take_turns),
        TEST(test_a_taken_port_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
