/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transfers between two processes: what the data plane of py_socket makes of one memcpy and of
 * loopback TCP, which are measured in turns with it.
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "peer_rig.h"
#include "ps_raw.h"

#define KIB ((uint64_t)1024)
#define MIB (1024 * KIB)
#define FLIGHT_MAX 4u
#define SCATTER_MAX 64u
#define CASES 80u

enum way { WAY_MEMCPY, WAY_RAW_READ, WAY_RAW_WRITE, WAY_READ, WAY_WRITE };

struct load {
    enum way way;
    struct rig_peer *peer;
    const char *url;
    int raw_fd;
    uint8_t *from; /* memcpy */
    uint8_t *to;
    uint64_t length; /* of a piece */
    uint32_t pieces;
    uint32_t flight;
    uint64_t at; /* own memory */
    uint64_t remote; /* page of the peer */
    char text[64];
};

static const struct kvl_channel_ops *ops(void)
{
    return kvlane_backend_v1()->ops->channels;
}

static void die(const char *what, int code)
{
    fprintf(stderr, "bench_py_socket: %s: %s\n", what, strerror(-code));
    exit(1);
}

/* ---- one unit of work ---- */

static void run_memcpy(struct load *load)
{
    struct iovec iov[SCATTER_MAX];
    uint64_t at = load->at;

    (void)ps_raw_pieces(load->from, RIG_BYTES, &at, load->length, load->pieces, iov);
    for (uint32_t i = 0; i < load->pieces; i++) {
        memcpy(load->to + ((uint8_t *)iov[i].iov_base - load->from), iov[i].iov_base, load->length);
    }
    load->at = at;
}

static void run_raw(struct load *load, uint64_t n)
{
    const struct ps_raw_request request = {.kind = load->way == WAY_RAW_READ ? PS_RAW_READ
                                                                             : PS_RAW_WRITE,
                                           .length = load->length,
                                           .count = load->pieces};
    struct iovec iov[SCATTER_MAX];
    uint64_t asked = 0;

    for (uint64_t done = 0; done < n; done++) {
        (void)ps_raw_pieces(load->to, RIG_BYTES, &load->at, load->length, load->pieces, iov);
        if (load->way == WAY_RAW_WRITE) {
            ps_raw_write(load->raw_fd, &request, iov, load->pieces);
            continue;
        }
        for (; asked < n && asked < done + load->flight; asked++) {
            ps_raw_send(load->raw_fd, &request);
        }
        ps_raw_receive(load->raw_fd, iov, load->pieces);
    }
}

static uint64_t begin(struct load *load)
{
    struct iovec iov[SCATTER_MAX];
    struct kvl_span spans[SCATTER_MAX];
    uint64_t indexes[SCATTER_MAX];
    uint64_t op = 0;
    uint32_t kind = load->way == WAY_READ ? KVL_TRANSFER_READ : KVL_TRANSFER_WRITE;
    int r;

    (void)ps_raw_pieces(load->peer->buffer, RIG_BYTES, &load->at, load->length, load->pieces, iov);
    for (uint32_t i = 0; i < load->pieces; i++) {
        uint64_t at = (uint64_t)((uint8_t *)iov[i].iov_base - load->peer->buffer);

        spans[i] = (struct kvl_span){.addr = iov[i].iov_base, .length = load->length};
        indexes[i] = at / RIG_PAGE;
    }
    r = rig_submit(load->peer, kind, load->url, spans, indexes, load->pieces, KVL_NEVER, &op);
    if (r < 0) {
        die("submit", r);
    }
    return op;
}

static void run_ours(struct load *load, uint64_t n)
{
    uint64_t flight[FLIGHT_MAX];
    uint64_t begun = 0;

    for (uint64_t done = 0; done < n; done++) {
        int r;

        for (; begun < n && begun < done + load->flight; begun++) {
            flight[begun % FLIGHT_MAX] = begin(load);
        }
        r = ops()->wait(load->peer->channel, flight[done % FLIGHT_MAX], KVL_NEVER, NULL);
        if (r < 0) {
            die("transfer", r);
        }
    }
}

static void run(void *ctx, uint64_t n)
{
    struct load *load = ctx;

    if (load->way == WAY_MEMCPY) {
        for (uint64_t i = 0; i < n; i++) {
            run_memcpy(load);
        }
    } else if (load->way == WAY_RAW_READ || load->way == WAY_RAW_WRITE) {
        run_raw(load, n);
    } else {
        run_ours(load, n);
    }
}

/* ---- the other process ---- */

static int raw_child(int out)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    uint8_t *memory =
        mmap(NULL, RIG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED || bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(fd, 8) < 0 || getsockname(fd, (struct sockaddr *)&addr, &size) < 0) {
        return 1;
    }
    memset(memory, 1, RIG_BYTES);
    dprintf(out, "%u\n", ntohs(addr.sin_port));
    ps_raw_serve(fd, memory, RIG_BYTES);
    return 0;
}

static uint16_t raw_spawn(pid_t *pid_out)
{
    char text[16] = "";
    char number[16];
    int out[2];

    if (pipe(out) < 0) {
        die("pipe", 0);
    }
    *pid_out = fork();
    if (*pid_out == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(number, sizeof(number), "%d", out[1]);
        execl("/proc/self/exe", "raw", "--raw", number, (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    if (read(out[0], text, sizeof(text) - 1) <= 0) {
        die("no raw peer", 0);
    }
    close(out[0]);
    return (uint16_t)strtoul(text, NULL, 10);
}

/* ---- time ---- */

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double handshake_ms(const char *const *pairs, const char *url, int rounds)
{
    double total = 0;

    for (int i = 0; i < rounds; i++) {
        const struct rig_setup setup = {.pairs = pairs, .bytes = RIG_PAGE};
        struct rig_peer peer = {0};
        double before;

        rig_start(&peer, &setup);
        before = now_s();
        rig_connect(&peer, url);
        total += now_s() - before;
        rig_stop(&peer);
    }
    return total * 1000 / rounds;
}

/* ---- cases ---- */

struct table {
    struct bench_case cases[CASES];
    struct load loads[CASES];
    uint32_t count;
};

static struct load *add(struct table *table, const char *what, enum way way, uint64_t length,
                        uint32_t pieces, uint32_t flight)
{
    struct load *load = &table->loads[table->count];
    uint64_t bytes = length * pieces;

    *load = (struct load){
        .way = way, .length = length, .pieces = pieces, .flight = flight, .raw_fd = -1};
    snprintf(load->text, sizeof(load->text), "%-10s %3u x %6llu KiB, %u in flight", what, pieces,
             (unsigned long long)(length / KIB), flight);
    table->cases[table->count++] =
        (struct bench_case){.text = load->text, .fn = run, .ctx = load, .n = 48 * MIB / bytes + 1};
    return load;
}

struct world {
    struct rig_peer shm;
    struct rig_peer tcp;
    struct rig_child shm_child;
    struct rig_child tcp_child;
    uint8_t *from;
    uint8_t *to;
    int raw_fd;
};

static void add_all(struct table *table, struct world *world, uint64_t length, uint32_t pieces)
{
    static const struct {
        const char *what;
        enum way way;
        int shm;
        uint32_t flight;
    } ways[] = {
        {"memcpy", WAY_MEMCPY, 0, 1},   {"shm read", WAY_READ, 1, 1},
        {"shm write", WAY_WRITE, 1, 1}, {"raw read", WAY_RAW_READ, 0, 1},
        {"tcp read", WAY_READ, 0, 1},   {"raw read", WAY_RAW_READ, 0, 4},
        {"tcp read", WAY_READ, 0, 4},   {"raw write", WAY_RAW_WRITE, 0, 1},
        {"tcp write", WAY_WRITE, 0, 1}, {"tcp write", WAY_WRITE, 0, 4},
    };

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        struct load *load = add(table, ways[i].what, ways[i].way, length, pieces, ways[i].flight);

        load->from = world->from;
        load->to = world->to;
        load->raw_fd = world->raw_fd;
        load->peer = ways[i].shm ? &world->shm : &world->tcp;
        load->url = ways[i].shm ? world->shm_child.url : world->tcp_child.url;
    }
}

static double ns_of(const struct table *table, const char *what, uint64_t length, uint32_t pieces,
                    uint32_t flight)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct load *load = &table->loads[i];

        if (strncmp(load->text, what, strlen(what)) == 0 && load->length == length &&
            load->pieces == pieces && load->flight == flight) {
            return table->cases[i].ns;
        }
    }
    return -1;
}

static void print_rates(const struct table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        const struct load *load = &table->loads[i];

        printf("%-44s %8.2f GB/s\n", load->text,
               (double)(load->length * load->pieces) / table->cases[i].ns);
    }
    printf("\n");
}

static double small_read_us(struct world *world, int rounds)
{
    const struct kvl_span span = {.addr = world->shm.buffer, .length = 4096};
    uint64_t index = 3;
    double before = now_s();

    for (int i = 0; i < rounds; i++) {
        if (rig_move(&world->shm, KVL_TRANSFER_READ, world->shm_child.url, &span, &index, 1,
                     NULL) != 0) {
            die("small read", 0);
        }
        index = (index + 7) % (RIG_BYTES / RIG_PAGE);
    }
    return (now_s() - before) * 1e6 / rounds;
}

/* The worst of the sizes from 256 KiB on, of both depths. */
static double worst(const struct table *table, const char *ours, const char *raw, uint32_t depths)
{
    static const uint64_t lengths[] = {256 * KIB, MIB, 4 * MIB, 16 * MIB};
    double least = 1e9;

    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        for (uint32_t flight = 1; flight <= depths; flight += 3) {
            double ratio = ns_of(table, raw, lengths[i], 1, flight) /
                           ns_of(table, ours, lengths[i], 1, flight);

            least = ratio < least ? ratio : least;
        }
    }
    return least;
}

static void *touched(void)
{
    uint8_t *memory =
        mmap(NULL, RIG_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        die("mmap", 0);
    }
    memset(memory, 1, RIG_BYTES);
    return memory;
}

static void world_start(struct world *world, pid_t *raw_pid)
{
    const struct rig_setup shm = {0};
    const struct rig_setup tcp = {.pairs = rig_tcp};

    rig_spawn(&world->shm_child, "shm", NULL);
    rig_spawn(&world->tcp_child, "tcp", NULL);
    world->raw_fd = ps_raw_connect(raw_spawn(raw_pid));
    world->from = touched();
    world->to = touched();
    rig_start(&world->shm, &shm);
    rig_start(&world->tcp, &tcp);
    rig_fill(world->shm.buffer, RIG_BYTES, 1);
    rig_fill(world->tcp.buffer, RIG_BYTES, 1);
    rig_connect(&world->shm, world->shm_child.url);
    rig_connect(&world->tcp, world->tcp_child.url);
}

int main(int argc, char **argv)
{
    static const uint64_t lengths[] = {64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB};
    static struct table table;
    static struct world world;
    struct bench bench;
    pid_t raw_pid;
    int r = rig_child_main(argc, argv);

    if (r >= 0) {
        return r;
    }
    if (argc == 3 && strcmp(argv[1], "--raw") == 0) {
        return raw_child((int)strtol(argv[2], NULL, 10));
    }
    bench_init(&bench, "py_socket", argc, argv);
    world_start(&world, &raw_pid);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        add_all(&table, &world, lengths[i], 1);
    }
    add_all(&table, &world, 64 * KIB, SCATTER_MAX);
    bench_run(&bench, table.cases, table.count, 0);
    print_rates(&table);
    bench_add(&bench, "read_tcp_vs_raw", worst(&table, "tcp read", "raw read", 4));
    bench_add(&bench, "write_tcp_vs_raw", worst(&table, "tcp write", "raw write", 1));
    bench_add(&bench, "read_shm_vs_memcpy", worst(&table, "shm read", "memcpy", 1));
    bench_add(&bench, "scattered64k_tcp_vs_raw",
              ns_of(&table, "raw read", 64 * KIB, SCATTER_MAX, 1) /
                  ns_of(&table, "tcp read", 64 * KIB, SCATTER_MAX, 1));
    bench_add(&bench, "handshake_ms", handshake_ms(NULL, world.shm_child.url, 20));
    bench_add(&bench, "handshake_tcp_ms", handshake_ms(rig_tcp, world.tcp_child.url, 20));
    bench_add(&bench, "small_read_us", small_read_us(&world, bench.quick ? 1000 : 200000));
    rig_stop(&world.shm);
    rig_stop(&world.tcp);
    rig_kill(&world.shm_child);
    rig_kill(&world.tcp_child);
    (void)kill(raw_pid, SIGKILL);
    (void)waitpid(raw_pid, NULL, 0);
    return bench_end(&bench);
}
