/* SPDX-License-Identifier: Apache-2.0 */
/*
 * usage: py_socket_peer BIND LOOKUP_BIND sync|async
 * A peer of py_socket for tests: a link and a lookup socket, told by lines on stdin what to do.
 *
 *   shake URL             handshake              -> "shake CODE"
 *   shake+side URL        with a side message    -> "shake+side CODE 'REPLY'"
 *   side URL              that alone             -> "side CODE 'REPLY'"
 *   known NAME            whether it is a peer   -> "known no|python|kvlane"
 *   get URL OWN KEY..     lookup at a peer       -> "get CODE HITS"
 *   put URL OWN KEY..                            -> "put CODE READ"
 *   offered               what peers offered     -> "offered COUNT"
 *
 * "-" for BIND or LOOKUP_BIND: none. As a holder it has the keys that begin with "have".
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_host.h"
#include "py_socket_link.h"
#include "py_socket_lookup.h"

#define KEYS_MAX 16u
#define TIMEOUT_MS 10000

static struct fake_host *fake;
static struct py_socket_options options;
static struct py_socket_counters counters;
static struct py_socket_zmq *zmq;
static struct py_socket_lookup *lookup;
static struct py_socket_link *linked;

static void die(const char *what)
{
    fprintf(stderr, "py_socket_peer: %s\n", what);
    exit(1);
}

static uint64_t soon(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 + TIMEOUT_MS;
}

static int holds(const struct kvl_text *key)
{
    return key->length >= 4 && memcmp(key->text, "have", 4) == 0;
}

static int on_get(void *ctx, struct py_socket_peer *peer, const struct py_socket_chunks *chunks)
{
    int hits = 0;

    (void)ctx;
    (void)peer;
    while ((uint32_t)hits < chunks->count && holds(&chunks->keys[hits])) {
        hits++;
    }
    return hits;
}

static int on_put(void *ctx, struct py_socket_peer *peer, const struct py_socket_chunks *chunks)
{
    int taken = 0;

    (void)ctx;
    (void)peer;
    for (uint32_t i = 0; i < chunks->count; i++) {
        taken += !holds(&chunks->keys[i]);
    }
    return taken;
}

static const struct py_socket_chunks_ops chunk_ops = {.get = on_get, .put = on_put};

static void do_call(const char *word, uint32_t what, const char *url)
{
    const struct py_socket_call call = {.what = what, .url = url, .deadline_ms = soon()};
    char reply[KVL_CHANNEL_URL_ROOM] = "";
    int r = py_socket_link_call_wait(linked, &call, reply);

    if ((what & PY_SOCKET_CALL_SIDE) != 0) {
        printf("%s %d '%s'\n", word, r, reply);
    } else {
        printf("%s %d\n", word, r);
    }
}

static void do_known(const char *name)
{
    struct py_socket_peer *peer = py_socket_peers_find(py_socket_link_peers(linked), name);

    printf("known %s\n", peer == NULL ? "no" : peer->version == 0 ? "python" : "kvlane");
    py_socket_peer_release(peer);
}

static void do_ask(const char *word, char *rest)
{
    struct kvl_text keys[KEYS_MAX];
    uint64_t numbers[KEYS_MAX];
    char *save = NULL;
    char *url = strtok_r(rest, " ", &save);
    char *own = strtok_r(NULL, " ", &save);
    struct py_socket_question question = {
        .lookup_url = url,
        .own_id = own,
        .lookup_id = "of-kvlane",
        .chunks = {.keys = keys, .offsets = numbers, .mem_indexes = numbers},
        .deadline_ms = soon(),
    };
    uint32_t count = 0;
    uint32_t number = 0;
    int r;

    for (char *key = strtok_r(NULL, " ", &save); key != NULL && count < KEYS_MAX;
         key = strtok_r(NULL, " ", &save)) {
        keys[count] = (struct kvl_text){.text = key, .length = (uint32_t)strlen(key)};
        numbers[count] = 256 + count;
        count++;
    }
    if (own == NULL) {
        die("get and put need two URLs");
    }
    question.chunks.count = count;
    r = word[0] == 'g' ? py_socket_lookup_get(lookup, &question, &number)
                       : py_socket_lookup_put(lookup, &question, &number);
    printf("%s %d %u\n", word, r, number);
}

static void do_line(char *line)
{
    char *rest;

    line[strcspn(line, "\n")] = '\0';
    rest = line + strcspn(line, " ");
    if (*rest != '\0') {
        *rest++ = '\0';
    }
    if (strcmp(line, "shake") == 0) {
        do_call(line, PY_SOCKET_CALL_INIT, rest);
    } else if (strcmp(line, "shake+side") == 0) {
        do_call(line, PY_SOCKET_CALL_INIT | PY_SOCKET_CALL_SIDE, rest);
    } else if (strcmp(line, "side") == 0) {
        do_call(line, PY_SOCKET_CALL_SIDE, rest);
    } else if (strcmp(line, "known") == 0) {
        do_known(rest);
    } else if (strcmp(line, "get") == 0 || strcmp(line, "put") == 0) {
        do_ask(line, rest);
    } else if (strcmp(line, "offered") == 0) {
        printf("offered %u\n", fake_host_offered(fake, NULL));
    } else {
        die("no such order");
    }
    fflush(stdout);
}

/* Until stdin ends; an async link is driven meanwhile. */
static void serve(void)
{
    struct pollfd fds[2] = {
        {.fd = STDIN_FILENO, .events = POLLIN},
        {.fd = py_socket_link_fd(linked), .events = POLLIN},
    };
    char line[4096];

    while (poll(fds, fds[1].fd >= 0 ? 2 : 1, -1) > 0) {
        if (fds[1].fd >= 0 && fds[1].revents != 0) {
            py_socket_link_poll(linked);
        }
        if (fds[0].revents != 0) {
            if (fgets(line, sizeof(line), stdin) == NULL) {
                return;
            }
            do_line(line);
        }
    }
}

static void start(const struct kvl_host *host, char **argv)
{
    const struct py_socket_offer offer = {.tcp = "127.0.0.1:9"};
    const struct py_socket_lookup_config lookup_config = {
        .host = host,
        .options = &options,
        .zmq = zmq,
        .counters = &counters,
        .bind = strcmp(argv[2], "-") == 0 ? NULL : argv[2],
    };
    struct py_socket_link_config config = {
        .host = host,
        .options = &options,
        .zmq = zmq,
        .counters = &counters,
        .peer_init_url = strcmp(argv[1], "-") == 0 ? NULL : argv[1],
        .is_async = strcmp(argv[3], "async") == 0,
    };
    struct kvl_err err = {.size = sizeof(err)};

    if (py_socket_lookup_create(&lookup_config, &lookup, &err) < 0) {
        die(err.text);
    }
    config.peer_lookup_url = py_socket_lookup_url(lookup);
    if (py_socket_link_create(&config, &linked, &err) < 0 ||
        py_socket_link_start(linked, &offer, &err) < 0) {
        die(err.text);
    }
    if (py_socket_lookup_start(lookup, py_socket_link_peers(linked), &chunk_ops) < 0) {
        die("no thread");
    }
    printf("ready '%s' '%s'\n", py_socket_link_url(linked), py_socket_lookup_url(lookup));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct kvl_err err = {.size = sizeof(err)};
    const struct kvl_host *host;

    fake = fake_host_create(kvlane_backend_v1(), NULL);
    fake_host_set_offer(fake, "other", "for kvlane only", 15);
    host = fake_host_table(fake);
    setvbuf(stdin, NULL, _IONBF, 0); /* poll is to see what is left of it */
    if (argc != 4) {
        die("usage: py_socket_peer BIND LOOKUP_BIND sync|async");
    }
    if (py_socket_options_read(host, &options, &err) < 0 ||
        py_socket_zmq_create(host, &options, &counters, &zmq, &err) < 0) {
        die(err.text);
    }
    start(host, argv);
    serve();
    py_socket_lookup_stop(lookup);
    py_socket_lookup_destroy(lookup);
    py_socket_link_close(linked);
    py_socket_zmq_destroy(zmq);
    py_socket_options_fini(&options);
    if (fake_host_leaks(fake) != 0) {
        die("something is left over");
    }
    fake_host_destroy(fake);
    return 0;
}
