/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file bench.h
 * What every benchmark prints: a table, then one last line `NAME: key=value ...`, and with
 * `--json FILE` the same numbers. Cases are measured in turns, round after round, so that a
 * reference and what is compared with it see the same machine; the median of the rounds counts.
 */
#ifndef KVL_TESTS_BENCH_H
#define KVL_TESTS_BENCH_H

#include <stdint.h>

#define BENCH_ROUNDS 15
#define BENCH_VALUES 32

/** Does the work `n` times. */
typedef void (*bench_fn)(void *ctx, uint64_t n);

struct bench_case {
    const char *text; /* for the table */
    bench_fn fn;
    void *ctx;
    uint64_t n; /* calls in one round */
    double ns; /* out: median time of one call */
    double spread; /* out: (slowest - fastest round) / median */
    double rounds[BENCH_ROUNDS];
};

struct bench_value {
    const char *key;
    double value; /* negative = could not be measured here */
};

struct bench {
    const char *name;
    const char *json; /* file name, or NULL */
    int quick; /* --quick: one short round, to see that it works */
    uint32_t count;
    struct bench_value values[BENCH_VALUES];
};

/** Reads `--json FILE` and `--quick`. Ends the program on anything else. */
void bench_init(struct bench *bench, const char *name, int argc, char **argv);

/** Measures all cases and prints their table. Ratios are against cases[reference]. */
void bench_run(const struct bench *bench, struct bench_case *cases, uint32_t count,
               uint32_t reference);

/** Adds a number to the last line. A negative one is printed as n/a. */
void bench_add(struct bench *bench, const char *key, double value);

/** Prints the last line, writes the file. @return exit status. */
int bench_end(const struct bench *bench);

/** Allocations of this process so far; negative when they cannot be counted (sanitizers). */
int64_t bench_allocs(void);

/**
 * Calls fn(ctx, 1) `n` times and counts the calls that entered the kernel.
 * @return -1 when this kernel cannot tell.
 */
int64_t bench_calls_with_syscall(bench_fn fn, void *ctx, uint64_t n);

#endif /* KVL_TESTS_BENCH_H */
