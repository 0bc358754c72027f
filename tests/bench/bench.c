/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void bench_init(struct bench *bench, const char *name, int argc, char **argv)
{
    int i;

    *bench = (struct bench){.name = name};
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0) {
            bench->quick = 1;
        } else if (strcmp(argv[i], "--json") == 0 && i + 1 < argc) {
            bench->json = argv[++i];
        } else {
            fprintf(stderr, "usage: bench_%s [--json FILE] [--quick]\n", name);
            exit(2);
        }
    }
}

static double bench_now_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double bench_round(struct bench_case *one, uint64_t n)
{
    double before = bench_now_ns();

    one->fn(one->ctx, n);
    return (bench_now_ns() - before) / (double)n;
}

static int bench_order(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

void bench_run(const struct bench *bench, struct bench_case *cases, uint32_t count,
               uint32_t reference)
{
    int rounds = bench->quick ? 1 : BENCH_ROUNDS;
    uint32_t i;
    int round;

    for (i = 0; i < count; i++) {
        (void)bench_round(&cases[i], cases[i].n / 100 + 1); /* warm up */
    }
    for (round = 0; round < rounds; round++) {
        for (i = 0; i < count; i++) {
            cases[i].rounds[round] =
                bench_round(&cases[i], bench->quick ? cases[i].n / 100 + 1 : cases[i].n);
        }
    }
    for (i = 0; i < count; i++) {
        qsort(cases[i].rounds, (size_t)rounds, sizeof(double), bench_order);
        cases[i].ns = cases[i].rounds[rounds / 2];
        cases[i].spread = (cases[i].rounds[rounds - 1] - cases[i].rounds[0]) / cases[i].ns;
    }

    printf("%-52s %12s %9s %9s\n", bench->name, "ns per call", "ratio", "spread");
    for (i = 0; i < count; i++) {
        printf("%-52s %12.1f %9.2f %8.0f%%\n", cases[i].text, cases[i].ns,
               cases[i].ns / cases[reference].ns, 100 * cases[i].spread);
    }
    printf("ratio: against '%s'; median of %d rounds measured in turns\n\n", cases[reference].text,
           rounds);
}

void bench_add(struct bench *bench, const char *key, double value)
{
    if (bench->count == BENCH_VALUES) {
        abort();
    }
    bench->values[bench->count++] = (struct bench_value){.key = key, .value = value};
}

static int bench_write_json(const struct bench *bench)
{
    FILE *file = fopen(bench->json, "w");
    uint32_t i;
    int bad;

    if (file == NULL) {
        fprintf(stderr, "cannot write '%s'\n", bench->json);
        return 1;
    }
    fprintf(file, "{\"name\": \"%s\"", bench->name);
    for (i = 0; i < bench->count; i++) {
        if (bench->values[i].value < 0) {
            fprintf(file, ", \"%s\": null", bench->values[i].key);
        } else {
            fprintf(file, ", \"%s\": %.6g", bench->values[i].key, bench->values[i].value);
        }
    }
    fprintf(file, "}\n");
    bad = ferror(file);
    return fclose(file) != 0 || bad;
}

int bench_end(const struct bench *bench)
{
    uint32_t i;

    printf("%s:", bench->name);
    for (i = 0; i < bench->count; i++) {
        if (bench->values[i].value < 0) {
            printf(" %s=n/a", bench->values[i].key);
        } else {
            printf(" %s=%.6g", bench->values[i].key, bench->values[i].value);
        }
    }
    printf("\n");
    return bench->json != NULL ? bench_write_json(bench) : 0;
}
