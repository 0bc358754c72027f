/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes each line of hex as a frame of the cache controller protocol and encodes it again. Prints
 * `0 HEX` of the new frame, or `ERRNO HEX` of the error text. For test_controller_msgspec.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller_wire.h"

/* A frame of just its length, so that a sanitizer sees the byte beyond. */
static uint8_t *read_hex(const char *line, size_t length)
{
    uint8_t *bytes = malloc(length > 0 ? length : 1);
    char pair[3] = {0};

    for (size_t i = 0; bytes != NULL && i < length; i++) {
        pair[0] = line[2 * i];
        pair[1] = line[2 * i + 1];
        bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return bytes;
}

static void print_line(int r, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;

    printf("%d ", -r);
    for (size_t i = 0; i < length; i++) {
        printf("%02x", at[i]);
    }
    printf("\n");
}

int main(void)
{
    /* Lists and texts have no limits of their own here: msgspec has none. */
    const struct controller_limits limits = {
        .frame_bytes = 1u << 30, .list_items = UINT32_MAX, .text_bytes = UINT32_MAX, .depth = 32};
    struct controller_arena *arena = NULL;
    struct controller_buf buf = {0};
    struct controller_msg msg;
    char error[4096];
    char *line = NULL;
    size_t room = 0;
    uint8_t *frame;
    ssize_t length;
    int r = controller_arena_create(&arena);

    while (r == 0 && (length = getline(&line, &room, stdin)) > 0) {
        length -= line[length - 1] == '\n';
        frame = read_hex(line, (size_t)length / 2);
        if (frame == NULL) {
            return 1;
        }
        r = controller_decode(frame, (size_t)length / 2, &limits, arena, &msg, error,
                              sizeof(error));
        buf.length = 0;
        if (r == 0) {
            r = controller_encode(&msg, &buf);
            print_line(r, buf.at, buf.length);
        } else {
            print_line(r, error, strlen(error));
        }
        free(frame);
        r = 0;
    }
    free(line);
    controller_buf_fini(&buf);
    controller_arena_destroy(arena);
    return r == 0 ? 0 : 1;
}
