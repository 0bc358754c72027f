/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvlane's controller beside LMCache's, each as a process of its own, with the same load over ZMQ:
 * key operations of four clients, and lookups of a peer while nothing and while events flow. Frames
 * are made beforehand, so that the load costs as little as it can. Without the environment that
 * `./run venv` makes there is nothing to compare with.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <zmq.h>

#include "bench.h"
#include "controller_wire.h"

#define CLIENTS 4u
#define OPS 100u /* in one message */
#define PARTS 20u /* messages in one multipart; LMCache's worker sends up to 50 */
#define WINDOW 20000u /* keys that a client holds */
#define INSTANCES 50u /* besides those of the clients */
#define HASHES 100u /* of one lookup */
#define LOOKUPS_MAX 1000u
#define FLOW 100000u /* key operations a second while lookups are measured */
#define ROUNDS 7 /* of lookups, both controllers in turn; the median counts */
#define PATIENCE_MS 60000

struct peer {
    const char *name;
    pid_t pid; /* 0 = not there */
    int pull, reply;
    uint32_t keys; /* of each instance before it begins */
    uint32_t parts; /* messages of each client */
    uint32_t lookups; /* in one round */
    void *zmq;
    void *dealer;
    double keyops_s;
    double idle[2][ROUNDS], busy[2][ROUNDS]; /* p50, p95 in us; in the end sorted */
};

static struct controller_buf *frames[CLIENTS]; /* made once, sent to all peers */
static uint32_t frame_count;

static void die(const char *what)
{
    fprintf(stderr, "bench_controller: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

static double now_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static struct kvl_text text_of(const char *text)
{
    return (struct kvl_text){.text = text, .length = (uint32_t)strlen(text)};
}

/* ---- the controllers ---- */

static int free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&addr, length) != 0 ||
        getsockname(fd, (struct sockaddr *)&addr, &length) != 0) {
        die("no free port");
    }
    close(fd);
    return ntohs(addr.sin_port);
}

/* Waits for the ready line, which both print. */
static int peer_await(struct peer *peer, int fd)
{
    FILE *out = fdopen(fd, "r");
    char line[1024];
    int found = 0;

    while (out != NULL && !found && fgets(line, sizeof(line), out) != NULL) {
        found = sscanf(line, "ready: controller pull 127.0.0.1:%d reply %d", &peer->pull,
                       &peer->reply) == 2;
    }
    if (out != NULL) {
        (void)fclose(out);
    }
    return found;
}

static void peer_start(struct peer *peer, char *const *argv)
{
    int fds[2];

    if (access(argv[0], X_OK) != 0 || pipe2(fds, O_CLOEXEC) != 0) {
        return;
    }
    peer->pid = fork();
    if (peer->pid == 0) {
        int null = open("/dev/null", O_WRONLY);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(fds[1], STDOUT_FILENO);
        (void)dup2(null, STDERR_FILENO);
        (void)execv(argv[0], argv);
        _exit(127);
    }
    close(fds[1]);
    if (!peer_await(peer, fds[0])) {
        (void)kill(peer->pid, SIGKILL);
        (void)waitpid(peer->pid, NULL, 0);
        peer->pid = 0;
    }
}

static void start_kvlane(struct peer *peer)
{
    char ini[] = "controller.pull_port=0";
    char reply[] = "controller.reply_port=0";
    char http[] = "controller.http=no";
    char program[] = KVL_PROGRAM_DEFAULT;
    char word[] = "controller";
    char set[] = "--set";
    char quiet[] = "--log=error";
    char *argv[] = {program, word, quiet, set, ini, set, reply, set, http, NULL};

    peer_start(peer, argv);
}

static void start_python(struct peer *peer)
{
    char python[] = KVL_VENV_PYTHON;
    char script[] = KVL_CONTROLLER_PEER;
    char pull[16];
    char reply[16];
    char *argv[] = {python, script, pull, reply, NULL};

    (void)snprintf(pull, sizeof(pull), "%d", free_port());
    (void)snprintf(reply, sizeof(reply), "%d", free_port());
    peer_start(peer, argv);
}

/* ---- sockets ---- */

static void *connect_to(void *zmq, int type, int port)
{
    const int patience = PATIENCE_MS;
    const int linger = PATIENCE_MS;
    char url[64];
    void *socket = zmq_socket(zmq, type);

    (void)snprintf(url, sizeof(url), "tcp://127.0.0.1:%d", port);
    if (socket == NULL || zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof(patience)) != 0 ||
        zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger)) != 0 ||
        zmq_connect(socket, url) != 0) {
        die("cannot connect");
    }
    return socket;
}

static size_t ask(void *dealer, const struct controller_buf *request, uint8_t *bytes, size_t room)
{
    int n;

    if (zmq_send(dealer, "", 0, ZMQ_SNDMORE) < 0 ||
        zmq_send(dealer, request->at, request->length, 0) < 0 ||
        zmq_recv(dealer, bytes, room, 0) < 0) {
        die("no answer");
    }
    n = zmq_recv(dealer, bytes, room, 0);
    if (n < 0 || (size_t)n > room) {
        die("no answer");
    }
    return (size_t)n;
}

static void encode(const struct controller_msg *msg, struct controller_buf *buf)
{
    buf->length = 0;
    if (controller_encode(msg, buf) < 0) {
        die("no memory");
    }
}

/* ---- the load ---- */

static void instance_name(char *name, size_t size, const char *word, uint32_t i)
{
    (void)snprintf(name, size, "%s_%u", word, i);
}

static void register_one(void *dealer, const char *name)
{
    const struct controller_msg msg = {
        .type = CONTROLLER_REGISTER,
        .instance_id = text_of(name),
        .ip = text_of("127.0.0.1"),
        .port = 8500,
        .peer_init_url = {.value = text_of("127.0.0.1:8200"), .is_set = 1},
    };
    struct controller_buf buf = {0};
    uint8_t bytes[1024];

    encode(&msg, &buf);
    (void)ask(dealer, &buf, bytes, sizeof(bytes));
    controller_buf_fini(&buf);
}

/* Spreads numbers over all bits, as hashes are. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static struct kvl_chunk_id key_of(uint32_t client, uint64_t number)
{
    return (struct kvl_chunk_id){.bits = mix(((uint64_t)(client + 1) << 40) + number)};
}

/* A cache fills up, and from then on each new key is one old one less. */
static struct kvl_key_op op_of(uint32_t client, uint64_t n)
{
    const uint64_t past = n < WINDOW ? 0 : n - WINDOW;
    const int evicts = past % 2 == 1;

    return (struct kvl_key_op){
        .id = key_of(client, n < WINDOW ? n : past / 2 + (evicts ? 0 : WINDOW)),
        .seq = (int64_t)n,
        .kind = evicts ? KVL_KEY_EVICT : KVL_KEY_ADMIT,
    };
}

/* Number of the last key that the first `ops` of them admit. */
static uint64_t last_key(uint64_t ops)
{
    return ops <= WINDOW ? ops - 1 : WINDOW + (ops - WINDOW - 1) / 2;
}

static void make_frame(uint32_t client, uint32_t frame, struct controller_buf *buf)
{
    char name[32];
    struct kvl_key_op ops[OPS];
    const struct controller_msg msg = {
        .type = CONTROLLER_KV_OPS,
        .instance_id = {.text = name},
        .location = text_of("LocalCPUBackend"),
        .operations = {.at = ops, .count = OPS},
    };
    struct controller_msg out = msg;

    instance_name(name, sizeof(name), "client", client);
    out.instance_id = text_of(name);
    for (uint32_t i = 0; i < OPS; i++) {
        ops[i] = op_of(client, (uint64_t)frame * OPS + i);
    }
    encode(&out, buf);
}

static void make_frames(uint32_t count)
{
    frame_count = count;
    for (uint32_t client = 0; client < CLIENTS; client++) {
        frames[client] = calloc(count, sizeof(*frames[client]));
        for (uint32_t i = 0; frames[client] != NULL && i < count; i++) {
            make_frame(client, i, &frames[client][i]);
        }
    }
}

static void make_lookup(struct controller_buf *buf, uint32_t owner, uint64_t first, uint32_t count)
{
    struct kvl_chunk_id ids[HASHES];
    const struct controller_msg msg = {
        .type = CONTROLLER_P2P_LOOKUP,
        .ids = {.at = ids, .count = count, .is_set = 1},
        .instance_id = text_of("asker"),
    };

    for (uint32_t i = 0; i < count; i++) {
        ids[i] = key_of(owner, first + i);
    }
    encode(&msg, buf);
}

/* 1 when somebody holds the key. */
static int is_held(void *dealer, uint32_t owner, uint64_t number)
{
    struct controller_buf buf = {0};
    uint8_t bytes[1024];
    char name[32];
    size_t n;

    make_lookup(&buf, owner, number, 1);
    n = ask(dealer, &buf, bytes, sizeof(bytes));
    controller_buf_fini(&buf);
    instance_name(name, sizeof(name), owner < CLIENTS ? "client" : "engine", owner);
    return memmem(bytes, n, name, strlen(name)) != NULL;
}

static void await_held(void *dealer, uint32_t owner, uint64_t number)
{
    const struct timespec moment = {.tv_nsec = 500000};
    double end = now_s() + PATIENCE_MS / 1000.0;

    while (!is_held(dealer, owner, number)) {
        if (now_s() > end) {
            die("events do not arrive");
        }
        nanosleep(&moment, NULL);
    }
}

/* Instances with keys for lookups to find. */
static void preload(const struct peer *peer)
{
    void *push = connect_to(peer->zmq, ZMQ_PUSH, peer->pull);
    struct controller_buf buf = {0};
    struct kvl_key_op ops[OPS];

    for (uint32_t owner = CLIENTS; owner < CLIENTS + INSTANCES; owner++) {
        char name[32];
        struct controller_msg msg = {
            .type = CONTROLLER_KV_OPS,
            .location = text_of("LocalCPUBackend"),
            .operations = {.at = ops, .count = OPS},
        };

        instance_name(name, sizeof(name), "engine", owner);
        register_one(peer->dealer, name);
        msg.instance_id = text_of(name);
        for (uint64_t number = 0; number < peer->keys; number += OPS) {
            for (uint32_t i = 0; i < OPS; i++) {
                ops[i] = (struct kvl_key_op){.id = key_of(owner, number + i),
                                             .seq = (int64_t)(number + i),
                                             .kind = KVL_KEY_ADMIT};
            }
            encode(&msg, &buf);
            if (zmq_send(push, buf.at, buf.length, 0) < 0) {
                die("cannot send");
            }
        }
        await_held(peer->dealer, owner, peer->keys - 1);
    }
    controller_buf_fini(&buf);
    (void)zmq_close(push);
}

/* ---- key operations ---- */

struct client {
    const struct peer *peer;
    uint32_t number;
    uint32_t frame; /* next to send */
    uint32_t last;
    double pace_s; /* seconds per message; 0 = as fast as it goes */
    atomic_int *stop; /* NULL = to the end */
    pthread_t thread;
};

/* The frames outlive the sockets, so nothing is copied on the way out. */
static void *client_run(void *arg)
{
    struct client *client = arg;
    void *zmq = zmq_ctx_new();
    void *push = connect_to(zmq, ZMQ_PUSH, client->peer->pull);
    const uint32_t parts = client->pace_s > 0 ? 1 : PARTS;
    double next = now_s();

    while (client->frame < client->last && (client->stop == NULL || !atomic_load(client->stop))) {
        for (uint32_t i = 0; i < parts && client->frame < client->last; i++, client->frame++) {
            const struct controller_buf *buf = &frames[client->number][client->frame];
            int more = i + 1 < parts && client->frame + 1 < client->last ? ZMQ_SNDMORE : 0;

            if (zmq_send_const(push, buf->at, buf->length, more) < 0) {
                die("cannot send");
            }
        }
        if (client->pace_s > 0) {
            struct timespec moment = {0};
            double wait;

            next += client->pace_s;
            wait = next - now_s();
            if (wait > 0) {
                moment.tv_nsec = (long)(wait * 1e9);
                nanosleep(&moment, NULL);
            }
        }
    }
    (void)zmq_close(push);
    (void)zmq_ctx_term(zmq);
    return NULL;
}

/* From the first byte sent until the last key of every client can be looked up. */
static void measure_keyops(struct peer *peer)
{
    struct client clients[CLIENTS];
    double began;

    for (uint32_t i = 0; i < CLIENTS; i++) {
        char name[32];

        instance_name(name, sizeof(name), "client", i);
        register_one(peer->dealer, name);
        clients[i] = (struct client){.peer = peer, .number = i, .last = peer->parts};
    }
    began = now_s();
    for (uint32_t i = 0; i < CLIENTS; i++) {
        (void)pthread_create(&clients[i].thread, NULL, client_run, &clients[i]);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        (void)pthread_join(clients[i].thread, NULL);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        await_held(peer->dealer, i, last_key((uint64_t)peer->parts * OPS));
    }
    peer->keyops_s = (double)peer->parts * OPS * CLIENTS / (now_s() - began);
}

/* ---- lookups ---- */

static int compare_doubles(const void *a, const void *b)
{
    const double left = *(const double *)a;
    const double right = *(const double *)b;

    return (left > right) - (left < right);
}

static void measure_lookups(const struct peer *peer, double out[2][ROUNDS], uint32_t round)
{
    static double times[LOOKUPS_MAX];
    struct controller_buf buf = {0};
    uint8_t bytes[1024];

    for (uint32_t i = 0; i < peer->lookups; i++) {
        uint32_t owner = CLIENTS + i % INSTANCES;
        uint64_t first = mix(i) % (peer->keys - HASHES);
        double began;

        make_lookup(&buf, owner, first, HASHES);
        began = now_s();
        (void)ask(peer->dealer, &buf, bytes, sizeof(bytes));
        times[i] = (now_s() - began) * 1e6;
    }
    controller_buf_fini(&buf);
    qsort(times, peer->lookups, sizeof(times[0]), compare_doubles);
    out[0][round] = times[peer->lookups / 2];
    out[1][round] = times[peer->lookups * 95 / 100];
}

static void measure_lookups_busy(struct peer *peer, uint32_t round)
{
    struct client clients[CLIENTS];
    atomic_int stop = 0;

    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = (struct client){.peer = peer,
                                     .number = i,
                                     .frame = 0,
                                     .last = frame_count,
                                     .pace_s = (double)OPS * CLIENTS / FLOW,
                                     .stop = &stop};
        (void)pthread_create(&clients[i].thread, NULL, client_run, &clients[i]);
    }
    measure_lookups(peer, peer->busy, round);
    atomic_store(&stop, 1);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        (void)pthread_join(clients[i].thread, NULL);
    }
}

/* ---- all of it ---- */

static void peer_open(struct peer *peer)
{
    peer->zmq = zmq_ctx_new();
    peer->dealer = connect_to(peer->zmq, ZMQ_DEALER, peer->reply);
    preload(peer);
}

static void peer_close(struct peer *peer)
{
    (void)zmq_close(peer->dealer);
    (void)zmq_ctx_term(peer->zmq);
    (void)kill(peer->pid, SIGKILL);
    (void)waitpid(peer->pid, NULL, 0);
}

static double median(double rounds[ROUNDS])
{
    qsort(rounds, ROUNDS, sizeof(rounds[0]), compare_doubles);
    return rounds[ROUNDS / 2];
}

static void measure(struct peer *peers, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        peer_open(&peers[i]);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < count; i++) {
            measure_lookups(&peers[i], peers[i].idle, round);
        }
        for (uint32_t i = 0; i < count; i++) {
            measure_lookups_busy(&peers[i], round);
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        measure_keyops(&peers[i]);
        peer_close(&peers[i]);
    }
}

static void print_row(struct peer *peer)
{
    printf("  %-20s %12.0f %10.0f %10.0f %10.0f %10.0f\n", peer->name, peer->keyops_s,
           median(peer->idle[0]), median(peer->idle[1]), median(peer->busy[0]),
           median(peer->busy[1]));
}

/* After print_row, which put the rounds in order. */
static double ratio(const struct peer *python, const double *ours, const double *theirs)
{
    return python->pid != 0 ? ours[ROUNDS / 2] / theirs[ROUNDS / 2] : -1;
}

static void report(struct bench *bench, struct peer *ours, struct peer *python)
{
    printf("%u clients with messages of %u key operations; lookups of %u hashes among %u keys;\n"
           "busy: beside %u key operations a second\n\n",
           CLIENTS, OPS, HASHES, INSTANCES * ours->keys, FLOW);
    printf("  %-20s %12s %10s %10s %10s %10s\n", "", "key ops/s", "idle p50", "p95 us", "busy p50",
           "p95 us");
    print_row(ours);
    if (python->pid != 0) {
        print_row(python);
    }
    bench_add(bench, "keyops_s", ours->keyops_s);
    bench_add(bench, "keyops_vs_python", python->pid != 0 ? ours->keyops_s / python->keyops_s : -1);
    bench_add(bench, "lookup_p50_us", ours->idle[0][ROUNDS / 2]);
    bench_add(bench, "lookup_p95_us", ours->idle[1][ROUNDS / 2]);
    bench_add(bench, "lookup_p95_vs_python", ratio(python, ours->idle[1], python->idle[1]));
    bench_add(bench, "busy_p50_us", ours->busy[0][ROUNDS / 2]);
    bench_add(bench, "busy_p95_us", ours->busy[1][ROUNDS / 2]);
    bench_add(bench, "busy_p95_vs_python", ratio(python, ours->busy[1], python->busy[1]));
}

int main(int argc, char **argv)
{
    struct peer peers[2] = {{.name = "kvlane"}, {.name = "LMCache (Python)"}};
    struct bench bench;

    bench_init(&bench, "controller", argc, argv);
    for (uint32_t i = 0; i < 2; i++) {
        peers[i].keys = bench.quick ? 1000 : 20000;
        peers[i].lookups = bench.quick ? 50 : 1000;
        peers[i].parts = bench.quick ? 400 : i == 0 ? 10000 : 1000;
    }
    start_kvlane(&peers[0]);
    if (peers[0].pid == 0) {
        fprintf(stderr, "bench_controller: kvlane controller does not start\n");
        return 1;
    }
    if (!bench.quick) {
        start_python(&peers[1]);
    }
    make_frames(peers[0].parts);
    measure(peers, peers[1].pid != 0 ? 2 : 1);
    report(&bench, &peers[0], &peers[1]);
    return bench_end(&bench);
}
