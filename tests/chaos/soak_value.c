/* SPDX-License-Identifier: Apache-2.0 */
#include "soak.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAGIC 0x6b61732e65756c76ull
#define VERSION_SLOT_SHIFT 40

/* What the first bytes of a value say about the rest. */
struct value_head {
    uint64_t magic;
    uint64_t key;
    uint64_t version;
    uint64_t size;
};

static uint64_t value_mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static inline uint64_t value_word(uint64_t seed, uint64_t at)
{
    uint64_t word = (seed ^ at) * 0x9e3779b97f4a7c15ull;

    return word ^ (word >> 29);
}

void soak_key_text(uint32_t key, char text_out[SOAK_KEY_TEXT])
{
    (void)snprintf(text_out, SOAK_KEY_TEXT, "soak/model-8b@1@0@%016" PRIx64 "@bfloat16",
                   value_mix(key));
}

bool soak_key_is_fixed(uint32_t key)
{
    return key % 4 == 0;
}

/* As many small ones as large ones: the exponent is even, from 1 KiB to 16 MiB. */
uint64_t soak_value_size(uint32_t key, uint64_t version)
{
    uint64_t random = value_mix(key * 7919ull + (soak_key_is_fixed(key) ? 0 : version));
    uint64_t base = (uint64_t)SOAK_VALUE_MIN << (random % 14);
    uint64_t size = base + (random >> 20) % base;

    return size < SOAK_VALUE_MAX ? size : SOAK_VALUE_MAX;
}

uint64_t soak_version_begin(struct soak_slot *slot)
{
    uint64_t count = atomic_fetch_add(&slot->versions, 1) + 1;

    return (uint64_t)(slot->index + 1) << VERSION_SLOT_SHIFT | count;
}

struct kvl_attrs soak_value_attrs(uint32_t key, uint64_t version)
{
    struct kvl_attrs attrs = {
        .fmt = KVL_FMT_KV_2LTD,
        .dtype = KVL_DTYPE_BFLOAT16,
        .shape = {(int32_t)key + 1, (int32_t)(version & 0xffff) + 1, 3, 4},
    };

    if (soak_key_is_fixed(key)) {
        attrs.shape[1] = 2; /* an engine says beforehand what it expects */
    }
    return attrs;
}

static uint64_t value_seed(uint32_t key, uint64_t version)
{
    return value_mix(value_mix(key) ^ version);
}

void soak_value_fill(uint32_t key, uint64_t version, void *data_out)
{
    uint64_t size = soak_value_size(key, version);
    uint64_t seed = value_seed(key, version);
    struct value_head head = {MAGIC, key, version, size};
    uint8_t *data = data_out;
    uint64_t at;

    memcpy(data, &head, sizeof(head));
    for (at = sizeof(head); at + 8 <= size; at += 8) {
        uint64_t word = value_word(seed, at);

        memcpy(data + at, &word, 8);
    }
    for (; at < size; at++) {
        data[at] = (uint8_t)value_word(seed, at);
    }
}

/* The first byte that is wrong, or size. */
static uint64_t value_differs(const uint8_t *data, uint64_t size, uint64_t seed)
{
    uint64_t at;

    for (at = sizeof(struct value_head); at + 8 <= size; at += 8) {
        uint64_t word;

        memcpy(&word, data + at, 8);
        if (word != value_word(seed, at)) {
            return at;
        }
    }
    for (; at < size; at++) {
        if (data[at] != (uint8_t)value_word(seed, at)) {
            return at;
        }
    }
    return size;
}

static bool value_was_begun(const struct soak_shared *shared, uint64_t version)
{
    uint64_t slot = version >> VERSION_SLOT_SHIFT;
    uint64_t count = version & ((1ull << VERSION_SLOT_SHIFT) - 1);

    return slot >= 1 && slot <= SOAK_SLOTS && count >= 1 &&
           count <= atomic_load(&shared->slots[slot - 1].versions);
}

bool soak_value_check(const struct soak_shared *shared, struct soak_slot *slot, uint32_t key,
                      const void *data, uint64_t size, const struct kvl_attrs *attrs,
                      uint64_t *version_out)
{
    struct value_head head = {0};
    struct kvl_attrs expected;
    uint64_t wrong;

    if (size >= sizeof(head)) {
        memcpy(&head, data, sizeof(head));
    }
    if (head.magic != MAGIC || head.key != key || head.size != size ||
        !value_was_begun(shared, head.version) || size != soak_value_size(key, head.version)) {
        soak_error(slot,
                   "key %u: %" PRIu64 " bytes that say key %" PRIu64 ", version %" PRIx64
                   ", size %" PRIu64,
                   key, size, head.key, head.version, head.size);
        return false;
    }
    expected = soak_value_attrs(key, head.version);
    if (attrs != NULL && memcmp(attrs, &expected, sizeof(expected)) != 0) {
        soak_error(slot, "key %u version %" PRIx64 ": attributes of another version", key,
                   head.version);
        return false;
    }
    wrong = value_differs(data, size, value_seed(key, head.version));
    if (wrong != size) {
        soak_error(slot, "key %u version %" PRIx64 ": byte %" PRIu64 " of %" PRIu64 " is wrong",
                   key, head.version, wrong, size);
        return false;
    }
    *version_out = head.version;
    return true;
}
