/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIST_FIRST_BYTES ((size_t)64 * 1024)

struct list_text {
    struct tcp_remote_server *server;
    char *text;
    size_t bytes;
    size_t reserved;
};

static int list_grow(struct list_text *list)
{
    size_t more = list->reserved == 0 ? LIST_FIRST_BYTES : list->reserved;
    char *text;

    if (!tcp_remote_server_take_list(list->server, more)) {
        return -ENOMEM;
    }
    text = realloc(list->text, list->reserved + more);
    if (text == NULL) {
        tcp_remote_server_give_list(list->server, more);
        return -ENOMEM;
    }
    list->text = text;
    list->reserved += more;
    return 0;
}

static int list_add(void *ctx, const struct kvl_key *key, uint64_t bytes)
{
    struct list_text *list = ctx;
    size_t need = list->bytes + (list->bytes > 0) + key->length;

    (void)bytes;
    if (memchr(key->text, '\n', key->length) != NULL) {
        return 0;
    }
    if (need > INT32_MAX) {
        return 1;
    }
    while (need > list->reserved) {
        int r = list_grow(list);

        if (r < 0) {
            return r;
        }
    }
    if (list->bytes > 0) {
        list->text[list->bytes++] = '\n';
    }
    memcpy(list->text + list->bytes, key->text, key->length);
    list->bytes += key->length;
    return 0;
}

int tcp_remote_list_make(struct tcp_remote_server *server, char **text_out, size_t *bytes_out,
                         size_t *reserved_out)
{
    struct list_text list = {.server = server};
    const struct kvl_host *host = tcp_remote_server_host(server);
    int r = host->store_list(host, list_add, &list);

    if (r < 0) {
        free(list.text);
        tcp_remote_server_give_list(server, list.reserved);
        return r;
    }
    *text_out = list.text;
    *bytes_out = list.bytes;
    *reserved_out = list.reserved;
    return 0;
}
