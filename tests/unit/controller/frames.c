/* SPDX-License-Identifier: Apache-2.0 */
#include "frames.h"

#include <stdlib.h>
#include <string.h>

#include "pack.h"

#define FRAME_MAX 8192u

static void frame_hex(struct kvl_pack_out *out, const char *hex, size_t length)
{
    char pair[3] = {0};
    uint8_t byte;

    for (size_t i = 0; i + 1 < length; i += 2) {
        memcpy(pair, hex + i, 2);
        byte = (uint8_t)strtoul(pair, NULL, 16);
        kvl_pack_put_raw(out, &byte, 1);
    }
}

static void frame_word(struct kvl_pack_out *out, const char *word, size_t length)
{
    switch (word[0]) {
    case '{':
        kvl_pack_put_map(out, (uint32_t)strtoul(word + 1, NULL, 10));
        break;
    case '[':
        kvl_pack_put_array(out, (uint32_t)strtoul(word + 1, NULL, 10));
        break;
    case '\'':
        assert_true(word[length - 1] == '\'');
        kvl_pack_put_text(out, word + 1, (uint32_t)length - 2);
        break;
    case 'n':
        kvl_pack_put_nil(out);
        break;
    case 't':
        kvl_pack_put_bool(out, 1);
        break;
    case 'x':
        frame_hex(out, word + 1, length - 1);
        break;
    case 'f':
        if (word[1] == 'a') {
            kvl_pack_put_bool(out, 0);
        } else {
            kvl_pack_put_float(out, strtod(word + 1, NULL));
        }
        break;
    case '-':
        kvl_pack_put_i64(out, strtoll(word, NULL, 10));
        break;
    default:
        kvl_pack_put_u64(out, strtoull(word, NULL, 10));
        break;
    }
}

static struct frame frame_copy(const uint8_t *bytes, size_t length)
{
    struct frame frame = {.bytes = malloc(length > 0 ? length : 1), .length = length};

    assert_non_null(frame.bytes);
    memcpy(frame.bytes, bytes, length);
    return frame;
}

struct frame frame_of(const char *words)
{
    uint8_t bytes[FRAME_MAX];
    struct kvl_pack_out out;
    size_t length;

    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    for (words += strspn(words, " "); *words != 0; words += strspn(words, " ")) {
        length = strcspn(words, " ");
        frame_word(&out, words, length);
        words += length;
    }
    assert_false(kvl_pack_out_failed(&out));
    return frame_copy(bytes, out.length);
}

struct frame frame_of_hex(const char *hex)
{
    uint8_t bytes[FRAME_MAX];
    struct kvl_pack_out out;

    kvl_pack_out_init(&out, bytes, sizeof(bytes));
    frame_hex(&out, hex, strlen(hex));
    assert_false(kvl_pack_out_failed(&out));
    return frame_copy(bytes, out.length);
}
