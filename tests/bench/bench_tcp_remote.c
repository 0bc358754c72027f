/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The remote store against what else could take its place, in turns within one run: a bare C
 * responder (tcp_raw.h), LMCache's Python server, Redis. The load is that of LMCache's own client,
 * unmodified (tcp_load.h), and for the columns `client` our own (tcp_client.h).
 *
 * A ratio is against the bare responder in the same round; the median of the rounds counts.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "tcp_client.h"
#include "tcp_load.h"
#include "tcp_peers.h"

#define WORKING_SET ((size_t)256 << 20)
#define ROUNDS_MAX 15u
#define LIST_MAX 8u
#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
/* Below this the aims say nothing: there the wake-up counts, not the bytes. */
#define AIM_BYTES (256 * KIB)

enum { RAW, KVLANE, UNIX, CLIENT, PYTHON, REDIS, TARGETS };

static const char *const target_names[TARGETS] = {
    "raw", "kvlane", "unix", "client", "python", "redis",
};

struct numbers {
    size_t values[LIST_MAX];
    size_t count;
};

static struct {
    struct bench bench;
    struct numbers sizes;
    struct numbers conns;
    uint32_t rounds;
    uint32_t run_ms;
    bool only[TARGETS]; /* --only: measure these */
    const char *parts; /* --parts: these tables */
    struct tcp_peer peers[TARGETS]; /* UNIX and CLIENT use that of KVLANE */
    struct tcp_client *clients[TCP_LOAD_CONNS_MAX + 1]; /* by connections, made when needed */
    double cpu_s[TARGETS];
    double cpu_gb[TARGETS];
    int failures;
} bench;

/* ---- arguments ---- */

static void numbers_read(struct numbers *list, const char *text)
{
    list->count = 0;
    while (*text != '\0' && list->count < LIST_MAX) {
        char *end;
        size_t value = strtoul(text, &end, 10);

        value *= *end == 'K' ? KIB : *end == 'M' ? MIB : 1;
        end += *end == 'K' || *end == 'M';
        if (end == text || value == 0 || value > WORKING_SET || (*end != ',' && *end != '\0')) {
            fprintf(stderr, "bad number in '%s'\n", text);
            exit(2);
        }
        list->values[list->count++] = value;
        text = *end == ',' ? end + 1 : end;
    }
}

static void only_read(const char *text)
{
    for (int t = 0; t < TARGETS; t++) {
        bench.only[t] = t == RAW || t == KVLANE || strstr(text, target_names[t]) != NULL;
    }
}

/* Takes what is ours out of argv and leaves the rest to bench_init(). */
static void read_arguments(int argc, char **argv)
{
    struct numbers number = {0};
    int kept = 1;

    numbers_read(&bench.sizes, "64K,256K,1M,4M,16M");
    numbers_read(&bench.conns, "1,4,16");
    only_read("unix client python redis");
    bench.parts = "put get both exist loaded";
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--sizes") == 0) {
            numbers_read(&bench.sizes, value);
        } else if (strcmp(argv[i], "--conns") == 0) {
            numbers_read(&bench.conns, value);
        } else if (strcmp(argv[i], "--only") == 0) {
            only_read(value);
        } else if (strcmp(argv[i], "--parts") == 0) {
            bench.parts = value;
        } else if (strcmp(argv[i], "--rounds") == 0) {
            numbers_read(&number, value);
            bench.rounds = (uint32_t)number.values[0];
        } else if (strcmp(argv[i], "--ms") == 0) {
            numbers_read(&number, value);
            bench.run_ms = (uint32_t)number.values[0];
        } else {
            argv[kept++] = argv[i];
            continue;
        }
        i++;
    }
    bench_init(&bench.bench, "tcp_remote", kept, argv);
    if (bench.bench.quick) {
        numbers_read(&bench.sizes, "256K,4M");
        numbers_read(&bench.conns, "4");
    }
    bench.rounds = bench.bench.quick ? 1 : bench.rounds > 0 ? bench.rounds : 3;
    bench.rounds = bench.rounds < ROUNDS_MAX ? bench.rounds : ROUNDS_MAX;
    bench.run_ms = bench.bench.quick ? 20 : bench.run_ms > 0 ? bench.run_ms : 150;
}

/* ---- peers ---- */

static const struct tcp_peer *peer_of(int target)
{
    return &bench.peers[target == UNIX || target == CLIENT ? KVLANE : target];
}

static bool is_there(int target)
{
    return bench.only[target] && peer_of(target)->pid > 0;
}

static void start_peers(void)
{
    static const enum tcp_peer_kind kinds[TARGETS] = {
        [RAW] = TCP_PEER_RAW,
        [KVLANE] = TCP_PEER_KVLANE,
        [PYTHON] = TCP_PEER_PYTHON,
        [REDIS] = TCP_PEER_REDIS,
    };

    for (int t = 0; t < TARGETS; t++) {
        if (t == UNIX || t == CLIENT || !bench.only[t]) {
            continue;
        }
        if (tcp_peer_start(&bench.peers[t], kinds[t], WORKING_SET) < 0) {
            printf("%s: not here, n/a\n", target_names[t]);
            bench.failures += t == RAW || t == KVLANE;
        }
    }
}

static struct tcp_client *client_for(uint32_t conns)
{
    struct sockaddr_storage addr = bench.peers[KVLANE].addr;
    static char urls[TCP_LOAD_CONNS_MAX + 1][64]; /* the host gives out what it was given */
    char *url = urls[conns];
    uint8_t port[2];

    if (bench.clients[conns] == NULL) {
        memcpy(port, (const uint8_t *)&addr + 2, sizeof(port)); /* sin_port, in network order */
        snprintf(url, sizeof(urls[0]), "lm://127.0.0.1:%u", (unsigned)(port[0] << 8 | port[1]));
        bench.clients[conns] = tcp_client_open(KVL_TCP_REMOTE_MODULE, url, conns);
    }
    return bench.clients[conns];
}

static void stop_peers(void)
{
    for (size_t i = 0; i <= TCP_LOAD_CONNS_MAX; i++) {
        tcp_client_close(bench.clients[i]);
    }
    for (int t = 0; t < TARGETS; t++) {
        tcp_peer_stop(&bench.peers[t]);
    }
}

/* ---- one measurement ---- */

static struct tcp_load load_for(int target, enum tcp_load_kind kind, size_t size, uint32_t conns)
{
    const struct tcp_peer *peer = peer_of(target);
    uint32_t keys = (uint32_t)(WORKING_SET / size);

    return (struct tcp_load){
        .wire = target == REDIS ? TCP_LOAD_RESP : TCP_LOAD_LM,
        .addr = target == UNIX ? peer->local : peer->addr,
        .addr_length = target == UNIX ? peer->local_length : peer->addr_length,
        .kind = kind,
        .size = size,
        .conns = conns,
        .keys = keys < 4096 ? keys : 4096,
        .run_ms = bench.run_ms,
    };
}

static struct tcp_load_result measure(int target, enum tcp_load_kind kind, size_t size,
                                      uint32_t conns)
{
    struct tcp_load load = load_for(target, kind, size, conns);
    struct tcp_load_result result = {0};
    double cpu = tcp_peer_cpu(peer_of(target));
    int r;

    if (kind == TCP_LOAD_PUT_EXIST && !bench.bench.quick) {
        load.run_ms *= 4; /* a new connection is acknowledged at once for a while: no stall */
    }
    if (target == CLIENT) {
        struct tcp_client *client = client_for(conns);

        r = client != NULL ? tcp_client_run(client, &load, &result) : -1;
    } else {
        r = tcp_load_run(&load, &result);
    }
    if (r < 0) {
        fprintf(stderr, "%s failed with %u connections and %zu bytes\n", target_names[target],
                (unsigned)conns, size);
        bench.failures++;
    }
    if (size >= AIM_BYTES) {
        /* the warm-up before the clock counts on one side only: the figure is a little high */
        bench.cpu_s[target] += tcp_peer_cpu(peer_of(target)) - cpu;
        bench.cpu_gb[target] += (double)result.ops * (double)size / 1e9;
    }
    return result;
}

static void fill(size_t size)
{
    for (int t = 0; t < TARGETS; t++) {
        struct tcp_load load = load_for(t, TCP_LOAD_PUT, size, 1);
        struct tcp_load_result ignored;

        if (is_there(t) && t != UNIX && t != CLIENT) {
            load.run_ms = 0;
            bench.failures += tcp_load_run(&load, &ignored) < 0;
        }
    }
}

static int order_doubles(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, uint32_t count)
{
    qsort(values, count, sizeof(*values), order_doubles);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* What a cell of a table holds per target; negative = not there. */
struct cell {
    double rate[TARGETS]; /* GB/s, or operations per second */
    double ratio[TARGETS];
    double p50_us[TARGETS];
    double p99_us[TARGETS];
};

/* Measures targets in turns; `skip` holds those that make no sense here. */
static struct cell measure_cell(enum tcp_load_kind kind, size_t size, uint32_t conns, uint32_t skip)
{
    double all[4][TARGETS][ROUNDS_MAX];
    struct cell cell;

    for (uint32_t round = 0; round < bench.rounds; round++) {
        for (int t = 0; t < TARGETS; t++) {
            struct tcp_load_result result;

            if (!is_there(t) || (skip >> t & 1) != 0) {
                continue;
            }
            result = measure(t, kind, size, conns);
            all[0][t][round] = kind < TCP_LOAD_EXIST ? result.gb_per_s : result.ops_per_s;
            all[1][t][round] = all[0][t][round] / all[0][RAW][round];
            all[2][t][round] = result.p50_us;
            all[3][t][round] = result.p99_us;
        }
    }
    for (int t = 0; t < TARGETS; t++) {
        bool there = is_there(t) && (skip >> t & 1) == 0;

        cell.rate[t] = there ? median(all[0][t], bench.rounds) : -1;
        cell.ratio[t] = there ? median(all[1][t], bench.rounds) : -1;
        cell.p50_us[t] = there ? median(all[2][t], bench.rounds) : -1;
        cell.p99_us[t] = there ? median(all[3][t], bench.rounds) : -1;
    }
    return cell;
}

/* ---- tables ---- */

static const char *size_text(size_t size, char *out, size_t room)
{
    snprintf(out, room, size >= MIB ? "%zuM" : "%zuK", size >= MIB ? size / MIB : size / KIB);
    return out;
}

static void print_value(int decimals, double value)
{
    char text[32];

    snprintf(text, sizeof(text), "%.*f", decimals, value);
    printf(" %10s", value < 0 ? "n/a" : text);
}

static void print_head(const char *title, const char *unit)
{
    printf("%-16s %10s", title, unit);
    for (int t = KVLANE; t < TARGETS; t++) {
        printf(" %10s", target_names[t]);
    }
    printf("\n");
}

/* Worst ratio over the sizes that count, by target and number of connections. */
static double worst[2][TARGETS][TCP_LOAD_CONNS_MAX + 1];

static void note_worst(enum tcp_load_kind kind, const struct cell *cell, size_t size,
                       uint32_t conns)
{
    for (int t = 0; t < TARGETS && size >= AIM_BYTES; t++) {
        double *least = &worst[kind][t][conns];

        *least = *least == 0 || cell->ratio[t] < *least ? cell->ratio[t] : *least;
    }
}

static double worst_of(enum tcp_load_kind kind, int target, uint32_t conns)
{
    double least = worst[kind][target][conns];

    return least == 0 ? -1 : least;
}

static void bulk_table(enum tcp_load_kind kind)
{
    char text[16];

    print_head(kind == TCP_LOAD_PUT ? "PUT" : "GET", "raw GB/s");
    for (size_t s = 0; s < bench.sizes.count; s++) {
        fill(bench.sizes.values[s]);
        for (size_t c = 0; c < bench.conns.count; c++) {
            size_t size = bench.sizes.values[s];
            uint32_t conns = (uint32_t)bench.conns.values[c];
            struct cell cell = measure_cell(kind, size, conns, 0);

            printf("%5s x %-8u", size_text(size, text, sizeof(text)), (unsigned)conns);
            print_value(2, cell.rate[RAW]);
            for (int t = KVLANE; t < TARGETS; t++) {
                print_value(2, cell.ratio[t]);
            }
            printf("\n");
            (void)fflush(stdout);
            note_worst(kind, &cell, size, conns);
        }
    }
    printf("ratios to raw; client: our own, confirmed PUTs\n\n");
}

static void print_rates(const char *title, const struct cell *cell)
{
    printf("%-16s", title);
    for (int t = RAW; t < TARGETS; t++) {
        print_value(0, cell->rate[t]);
    }
    printf("\n%-16s", "  p50 us");
    for (int t = RAW; t < TARGETS; t++) {
        print_value(0, cell->p50_us[t]);
    }
    printf("\n%-16s", "  p99 us");
    for (int t = RAW; t < TARGETS; t++) {
        print_value(0, cell->p99_us[t]);
    }
    printf("\n");
    (void)fflush(stdout);
}

static double quotient(double a, double b)
{
    return a < 0 || b <= 0 ? -1 : a / b;
}

static void put_exist_table(double *p99_ms_out, double *rate_vs_python_out)
{
    static const size_t sizes[] = {64 * KIB, MIB};
    char title[48];
    char text[16];

    print_head("PUT, then EXIST", "raw");
    for (size_t s = 0; s < 2; s++) {
        for (size_t c = 0; c < bench.conns.count; c++) {
            uint32_t conns = bench.bench.quick ? 1 : (uint32_t)bench.conns.values[c];
            /* the bare responder does not ask for early ACKs and stalls as Python does */
            struct cell cell =
                measure_cell(TCP_LOAD_PUT_EXIST, sizes[s], conns, 1u << CLIENT | 1u << REDIS);

            snprintf(title, sizeof(title), "%s x %u, per s",
                     size_text(sizes[s], text, sizeof(text)), (unsigned)conns);
            print_rates(title, &cell);
            if (conns == 1 && s == 0) {
                *rate_vs_python_out = quotient(cell.rate[KVLANE], cell.rate[PYTHON]);
            } else if (conns == 1) {
                *p99_ms_out = cell.p99_us[KVLANE] / 1000;
            }
        }
    }
    printf("\n");
}

static void exist_table(double *vs_redis_out, double *vs_python_out)
{
    struct cell cell;
    char title[48];

    fill(64 * KIB);
    print_head("EXIST", "raw");
    for (size_t c = 0; c < bench.conns.count; c++) {
        uint32_t conns = (uint32_t)bench.conns.values[c];

        cell = measure_cell(TCP_LOAD_EXIST, 64 * KIB, conns, 0);
        snprintf(title, sizeof(title), "x %u, per s", (unsigned)conns);
        print_rates(title, &cell);
        if (conns == 16 || bench.bench.quick) {
            *vs_redis_out = quotient(cell.rate[KVLANE], cell.rate[REDIS]);
            *vs_python_out = quotient(cell.rate[KVLANE], cell.rate[PYTHON]);
        }
    }
    printf("client: keys, in batches of 64; no latency\n\n");
}

static void loaded_table(double *p99_ms_out, double *vs_python_out)
{
    double p99[TARGETS][ROUNDS_MAX];
    double rate[TARGETS][ROUNDS_MAX];
    struct cell cell = {0};

    for (uint32_t round = 0; round < bench.rounds; round++) {
        for (int t = 0; t < TARGETS; t++) {
            struct tcp_load front = load_for(t, TCP_LOAD_EXIST, 64 * KIB, 1);
            struct tcp_load back = load_for(t, TCP_LOAD_PUT, 4 * MIB, 4);
            struct tcp_load_result results[2] = {0};

            if (!is_there(t) || t == UNIX || t == CLIENT) {
                continue;
            }
            front.first_key = 2048; /* not those that are overwritten beside it */
            front.keys = 1024;
            front.run_ms *= 3;
            bench.failures += tcp_load_run_beside(&front, &back, &results[0], &results[1]) < 0;
            p99[t][round] = results[0].p99_us;
            rate[t][round] = results[1].gb_per_s;
        }
    }
    printf("%-16s", "EXIST beside 4 streams of PUT 4M\n");
    print_head("", "raw");
    for (int t = 0; t < TARGETS; t++) {
        bool there = is_there(t) && t != UNIX && t != CLIENT;

        cell.p99_us[t] = there ? median(p99[t], bench.rounds) : -1;
        cell.rate[t] = there ? median(rate[t], bench.rounds) : -1;
    }
    printf("%-16s", "EXIST p99 us");
    for (int t = RAW; t < TARGETS; t++) {
        print_value(0, cell.p99_us[t]);
    }
    printf("\n%-16s", "PUT GB/s");
    for (int t = RAW; t < TARGETS; t++) {
        print_value(2, cell.rate[t]);
    }
    printf("\n\n");
    *p99_ms_out = cell.p99_us[KVLANE] / 1000;
    *vs_python_out = quotient(cell.p99_us[KVLANE], cell.p99_us[PYTHON]);
}

static double cpu_table(void)
{
    double figures[TARGETS];

    print_head("server CPU", "raw");
    printf("%-16s", "s per GB");
    for (int t = RAW; t < TARGETS; t++) {
        figures[t] = bench.cpu_gb[t] > 0 ? bench.cpu_s[t] / bench.cpu_gb[t] : -1;
        print_value(3, figures[t]);
    }
    printf("\n\n");
    return figures[KVLANE];
}

/* ---- the end ---- */

struct aim {
    const char *key;
    double value;
    double limit;
    bool is_most; /* else at least */
    const char *text;
};

static double lesser(double a, double b)
{
    return a < b ? a : b;
}

static void print_aims(const struct aim *aims, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct aim *aim = &aims[i];
        bool reached = aim->is_most ? aim->value <= aim->limit : aim->value >= aim->limit;

        if (aim->text == NULL) {
            continue;
        }
        printf("%-7s %-22s %9.3g   aim: %s %.3g, %s\n",
               aim->value < 0 ? "n/a"
               : reached      ? "reached"
                              : "missed",
               aim->key, aim->value, aim->is_most ? "at most" : "at least", aim->limit, aim->text);
    }
    printf("\n");
}

static bool has_part(const char *word)
{
    return strstr(bench.parts, word) != NULL;
}

int main(int argc, char **argv)
{
    double pe_p99, pe_rate, ex_redis, ex_python, loaded, loaded_python, cpu;

    read_arguments(argc, argv);
    start_peers();
    if (bench.failures > 0) {
        stop_peers();
        return 1;
    }
    pe_p99 = pe_rate = ex_redis = ex_python = loaded = loaded_python = -1;
    if (has_part("put")) {
        bulk_table(TCP_LOAD_PUT);
    }
    if (has_part("get")) {
        bulk_table(TCP_LOAD_GET);
    }
    cpu = cpu_table();
    if (has_part("both")) {
        put_exist_table(&pe_p99, &pe_rate);
    }
    if (has_part("exist")) {
        exist_table(&ex_redis, &ex_python);
    }
    if (has_part("loaded")) {
        loaded_table(&loaded, &loaded_python);
    }

    const struct aim aims[] = {
        {"put_x4", worst_of(TCP_LOAD_PUT, KVLANE, 4), 0.95, false, "of raw TCP"},
        {"get_x4", worst_of(TCP_LOAD_GET, KVLANE, 4), 0.95, false, "of raw TCP"},
        {"put_x16", worst_of(TCP_LOAD_PUT, KVLANE, 16), 0.95, false, "of raw TCP"},
        {"get_x16", worst_of(TCP_LOAD_GET, KVLANE, 16), 0.95, false, "of raw TCP"},
        {"putexist_1m_p99_ms", pe_p99, 1, true, "ms"},
        {"exist_x16_vs_redis", ex_redis, 1.1, false, "of Redis"},
        {"exist_loaded_p99_ms", loaded, 0, false, NULL},
        {"cpu_s_per_gb", cpu, 0, false, NULL},
        {"putexist_64k_vs_py", pe_rate, 100, false, "times Python's rate"},
        {"exist_x16_vs_py", ex_python, 3.5, false, "of Python"},
        {"exist_loaded_vs_py", loaded_python, 0.25, true, "of Python's p99"},
        {"unix_x4", lesser(worst_of(TCP_LOAD_PUT, UNIX, 4), worst_of(TCP_LOAD_GET, UNIX, 4)), 1.4,
         false, "of raw TCP"},
        {"client_x4", lesser(worst_of(TCP_LOAD_PUT, CLIENT, 4), worst_of(TCP_LOAD_GET, CLIENT, 4)),
         0.95, false, "of raw TCP"},
    };
    size_t count = sizeof(aims) / sizeof(aims[0]);

    print_aims(aims, count);
    for (size_t i = 0; i < count; i++) {
        bench_add(&bench.bench, aims[i].key, aims[i].value);
    }
    stop_peers();
    return bench.failures > 0 ? 1 : bench_end(&bench.bench);
}
