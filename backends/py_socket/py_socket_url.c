/* SPDX-License-Identifier: Apache-2.0 */
#include "py_socket_url.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SCHEME "tcp://"

int py_socket_url_parse(const char *text, struct kvl_sock_name *name_out)
{
    char url[KVL_CHANNEL_URL_ROOM];
    int n;
    int r;

    if (strncmp(text, SCHEME, strlen(SCHEME)) == 0) {
        text += strlen(SCHEME);
    }
    /* kvl_sock_parse knows more than this wire does */
    if (strchr(text, '/') != NULL || strncmp(text, "unix:", 5) == 0) {
        return -EINVAL;
    }
    if (text[0] != '\0' && text[strspn(text, "0123456789")] == '\0') {
        n = snprintf(url, sizeof(url), "127.0.0.1:%s", text);
    } else if (strncmp(text, "*:", 2) == 0) {
        n = snprintf(url, sizeof(url), "0.0.0.0%s", text + 1);
    } else {
        n = snprintf(url, sizeof(url), "%s", text);
    }
    if (n < 0 || (size_t)n >= sizeof(url)) {
        return -ENAMETOOLONG;
    }
    r = kvl_sock_parse(url, name_out);
    return r < 0 && r != -ENAMETOOLONG ? -EINVAL : r;
}

int py_socket_url_print(const char *host, uint16_t port, char *url_out)
{
    int is_v6 = strchr(host, ':') != NULL;
    char url[KVL_CHANNEL_URL_ROOM];
    int n = snprintf(url, sizeof(url), "%s%s%s:%u", is_v6 ? "[" : "", host, is_v6 ? "]" : "",
                     (unsigned)port);

    if (n < 0 || (size_t)n >= sizeof(url)) {
        return -ENAMETOOLONG;
    }
    memcpy(url_out, url, (size_t)n + 1);
    return 0;
}

int py_socket_url_normal(const char *text, char *url_out)
{
    struct kvl_sock_name name;
    int r = py_socket_url_parse(text, &name);

    if (r < 0) {
        return r;
    }
    return name.port == 0 ? -EINVAL : py_socket_url_print(name.host, name.port, url_out);
}

int py_socket_url_is_wildcard(const char *host)
{
    return strcmp(host, "0.0.0.0") == 0 || strcmp(host, "::") == 0;
}
