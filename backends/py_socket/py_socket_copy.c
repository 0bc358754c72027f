/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* Blocks of one page from several pages at once would use more of the memory's banks, but measured
 * the same here; one run of cache lines is what the prefetcher knows best. */
#define LINE 64u

__attribute__((target("avx2"))) static void copy_stream_avx2(uint8_t *to, const uint8_t *from,
                                                             size_t lines)
{
    for (size_t i = 0; i < lines; i++) {
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)(from + i * LINE));
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(from + i * LINE + 32));

        _mm256_stream_si256((__m256i *)(void *)(to + i * LINE), a);
        _mm256_stream_si256((__m256i *)(void *)(to + i * LINE + 32), b);
    }
    _mm_sfence();
}

static void copy_stream_sse2(uint8_t *to, const uint8_t *from, size_t lines)
{
    for (size_t i = 0; i < lines; i++) {
        for (size_t j = 0; j < LINE; j += 16) {
            const void *at = from + i * LINE + j;

            _mm_stream_si128((__m128i *)(void *)(to + i * LINE + j),
                             _mm_loadu_si128((const __m128i *)at));
        }
    }
    _mm_sfence();
}

void py_socket_copy(void *to, const void *from, size_t bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    size_t head;
    size_t lines;

    if (bytes < PY_SOCKET_COPY_STREAM) {
        memcpy(to, from, bytes);
        return;
    }
    head = (LINE - (uintptr_t)out % LINE) % LINE;
    lines = (bytes - head) / LINE;
    memcpy(out, in, head);
    if (__builtin_cpu_supports("avx2")) {
        copy_stream_avx2(out + head, in + head, lines);
    } else {
        copy_stream_sse2(out + head, in + head, lines);
    }
    head += lines * LINE;
    memcpy(out + head, in + head, bytes - head);
}

#else

void py_socket_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

#endif
