/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file mock.h
 * A well-behaved in-memory backend with one thread, and the places where a mock may misbehave.
 *
 * A mock is one file that defines `mock_fault` and the description with MOCK_BACKEND(). Its chunks
 * live on a shelf, which belongs to the process and has a name: what one instance wrote, another
 * with the same `shelf` reads, also after the first was closed. `preload` puts chunks there whose
 * bytes mock_byte() gives.
 */
#ifndef KVL_TESTS_MOCK_H
#define KVL_TESTS_MOCK_H

#include <kvlane/backend.h>

/** What goes wrong; all zero is a good backend. */
struct mock_fault {
    int create_code; /* create ends with it */
    int start_code; /* start ends with it */
    int read_code; /* each item of a read ends with it, after lookup said yes */
    int never; /* reads and writes are accepted and never completed */
    int twice; /* each batch is completed two times */
    int flip; /* reads deliver bytes with one bit changed */
    uint64_t late_ms; /* reads complete that long after their deadline, bytes and all */
    /* NULL, or told when a batch has changed the shelf: KVL_KEY_ADMIT, KVL_KEY_EVICT */
    void (*changed)(const struct kvl_host *host, const struct kvl_key *key, uint64_t bytes,
                    uint32_t kind);
};
extern const struct mock_fault mock_fault;

/** FNV-1a. Header-only: tests compute what a mock must have been told. */
static inline uint64_t mock_sum(const void *bytes, uint64_t length)
{
    uint64_t sum = 14695981039346656037ull;
    uint64_t i;

    for (i = 0; i < length; i++) {
        sum = (sum ^ ((const uint8_t *)bytes)[i]) * 1099511628211ull;
    }
    return sum;
}

/** Byte number `at` of the preloaded chunk `key`. Header-only: tests compute what to expect. */
static inline uint8_t mock_byte(const char *key, uint64_t at)
{
    uint64_t sum = 14695981039346656037ull + at;
    const char *c;

    for (c = key; *c != '\0'; c++) {
        sum = (sum ^ (uint8_t)*c) * 1099511628211ull;
    }
    return (uint8_t)(sum >> 24);
}

int mock_create(const struct kvl_host *host, void **self_out, struct kvl_err *err);
int mock_start(void *self, struct kvl_err *err);
void mock_quiesce(void *self);
void mock_stop(void *self);
void mock_destroy(void *self);
int mock_lookup(void *self, const struct kvl_batch *batch);
int mock_read(void *self, const struct kvl_batch *batch);
int mock_write(void *self, const struct kvl_batch *batch);
int mock_remove(void *self, const struct kvl_batch *batch);
int mock_list(void *self, uint64_t cookie, uint64_t deadline_ms);
int mock_probe(void *self, uint64_t cookie, uint64_t deadline_ms);
/** No byte of that batch is written any more when this returns. */
void mock_cancel(void *self, uint64_t cookie);
void mock_get_health(void *self, struct kvl_health *health_out);
void mock_get_stats(void *self, kvl_stat_fn fn, void *ctx);
/**
 * Calls `fn` for every chunk on the shelf, no lock held. @return 0; -ENOMEM; what `fn` returned.
 */
int mock_held(void *self, kvl_key_fn fn, void *ctx);

#define MOCK_CAPS                                                                                  \
    (KVL_CAP_READ | KVL_CAP_WRITE | KVL_CAP_LOOKUP | KVL_CAP_REMOVE | KVL_CAP_LIST | KVL_CAP_PROBE)

/** Options of every mock, for `.options`; MOCK_OPTIONS is for mocks that have more. */
#define MOCK_OPTION_COUNT 4u
extern const struct kvl_option mock_options[MOCK_OPTION_COUNT];

#define MOCK_OPTIONS                                                                               \
    {.name = "preload", .type = KVL_OPTION_STRING, .value = "", .help = "keys on the shelf"},      \
        {.name = "preload_bytes",                                                                  \
         .type = KVL_OPTION_SIZE,                                                                  \
         .value = "4096",                                                                          \
         .min = 1,                                                                                 \
         .max = 1 << 30,                                                                           \
         .help = "size of each of them"},                                                          \
        {.name = "shelf", .type = KVL_OPTION_STRING, .value = "", .help = "which shelf to use"},   \
    {                                                                                              \
        .name = "secret", .type = KVL_OPTION_SECRET, .value = "", .help = "must never be shown"    \
    }

/** The slots of a good table, for an initialiser. */
#define MOCK_SLOTS                                                                                 \
    .create = mock_create, .start = mock_start, .quiesce = mock_quiesce, .stop = mock_stop,        \
    .destroy = mock_destroy, .lookup = mock_lookup, .read = mock_read, .write = mock_write,        \
    .remove = mock_remove, .list = mock_list, .probe = mock_probe, .get_health = mock_get_health,  \
    .get_stats = mock_get_stats

/** The fields of a good description but for its name and table, for an initialiser. */
#define MOCK_FIELDS                                                                                \
    .magic = KVL_BACKEND_MAGIC, .size = sizeof(struct kvl_backend_desc),                           \
    .abi_major = KVL_BACKEND_ABI_MAJOR, .abi_minor = KVL_BACKEND_ABI_MINOR, .caps = MOCK_CAPS,     \
    .version = "0", .build_id = "mock", .options = mock_options,                                   \
    .option_count = MOCK_OPTION_COUNT, .option_size = sizeof(struct kvl_option)

#define MOCK_ENTRY(description)                                                                    \
    KVL_EXPORT const struct kvl_backend_desc *kvlane_backend_v1(void)                              \
    {                                                                                              \
        return (description);                                                                      \
    }

/** A good table and description under the name `word`. */
#define MOCK_BACKEND(word)                                                                         \
    static const struct kvl_backend_ops mock_ops = {                                               \
        .size = sizeof(struct kvl_backend_ops),                                                    \
        MOCK_SLOTS,                                                                                \
    };                                                                                             \
    static const struct kvl_backend_desc mock_desc = {                                             \
        MOCK_FIELDS,                                                                               \
        .name = (word),                                                                            \
        .ops = &mock_ops,                                                                          \
    };                                                                                             \
    MOCK_ENTRY(&mock_desc)

/** One that reads straight into the engine's memory and wants the store's to be shown. */
#define MOCK_DIRECT_BACKEND(word)                                                                  \
    static const struct kvl_backend_ops mock_ops = {                                               \
        .size = sizeof(struct kvl_backend_ops),                                                    \
        MOCK_SLOTS,                                                                                \
        .cancel = mock_cancel,                                                                     \
    };                                                                                             \
    static const struct kvl_backend_desc mock_desc = {                                             \
        .magic = KVL_BACKEND_MAGIC,                                                                \
        .size = sizeof(struct kvl_backend_desc),                                                   \
        .abi_major = KVL_BACKEND_ABI_MAJOR,                                                        \
        .abi_minor = KVL_BACKEND_ABI_MINOR,                                                        \
        .caps = MOCK_CAPS | KVL_CAP_CANCEL | KVL_CAP_DIRECT,                                       \
        .needs = KVL_NEED_EXPORT,                                                                  \
        .name = (word),                                                                            \
        .version = "0",                                                                            \
        .build_id = "mock",                                                                        \
        .options = mock_options,                                                                   \
        .option_count = MOCK_OPTION_COUNT,                                                         \
        .option_size = sizeof(struct kvl_option),                                                  \
        .ops = &mock_ops,                                                                          \
    };                                                                                             \
    MOCK_ENTRY(&mock_desc)

#endif /* KVL_TESTS_MOCK_H */
