/* SPDX-License-Identifier: Apache-2.0 */
#include "tcp_remote_access.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

/* Room for any entry; a longer one is none. */
#define ENTRY_BYTES 64u

/* Cuts the next entry off a list, without blanks around it. @return 1; 0 at the end; -EINVAL. */
static int access_next(const char **text, char *entry_out)
{
    const char *at = *text + strspn(*text, " \t,");
    size_t length = strcspn(at, ",");

    *text = at + length;
    while (length > 0 && (at[length - 1] == ' ' || at[length - 1] == '\t')) {
        length--;
    }
    if (length == 0) {
        return 0;
    }
    snprintf(entry_out, ENTRY_BYTES, "%.*s", (int)length, at);
    return length < ENTRY_BYTES ? 1 : -EINVAL;
}

static int access_number(const char *text, uint64_t max, uint64_t *value_out)
{
    uint64_t value = 0;

    if (*text == '\0') {
        return -EINVAL;
    }
    for (; *text != '\0'; text++) {
        if (*text < '0' || *text > '9') {
            return -EINVAL;
        }
        value = value * 10 + (uint64_t)(*text - '0');
        if (value > max) {
            return -EINVAL;
        }
    }
    *value_out = value;
    return 0;
}

/* IPv4 in its IPv6 dress becomes plain IPv4: `::` listeners see their IPv4 peers so. */
static void access_unmap(struct tcp_remote_net *net)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

    if (net->is_v4 || net->bits < 96 || memcmp(net->address, mapped, sizeof(mapped)) != 0) {
        return;
    }
    memmove(net->address, net->address + 12, 4);
    memset(net->address + 4, 0, 12);
    net->bits = (uint8_t)(net->bits - 96);
    net->is_v4 = true;
}

static bool access_same_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned rest = bits % 8;

    return memcmp(a, b, bits / 8) == 0 &&
           (rest == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - rest)) == 0);
}

static bool access_is_clear_beyond(const struct tcp_remote_net *net)
{
    unsigned size = net->is_v4 ? 32 : 128;

    for (unsigned bit = net->bits; bit < size; bit++) {
        if ((net->address[bit / 8] >> (7 - bit % 8) & 1) != 0) {
            return false;
        }
    }
    return true;
}

static int access_parse_net(char *entry, struct tcp_remote_net *net_out)
{
    struct tcp_remote_net net = {0};
    char *slash = strchr(entry, '/');
    uint64_t bits = 0;

    if (slash != NULL) {
        *slash = '\0';
    }
    net.is_v4 = inet_pton(AF_INET, entry, net.address) == 1;
    if (!net.is_v4 && inet_pton(AF_INET6, entry, net.address) != 1) {
        return -EINVAL;
    }
    bits = net.is_v4 ? 32 : 128;
    if (slash != NULL && access_number(slash + 1, bits, &bits) < 0) {
        return -EINVAL;
    }
    net.bits = (uint8_t)bits;
    access_unmap(&net);
    if (!access_is_clear_beyond(&net)) {
        return -EINVAL;
    }
    *net_out = net;
    return 0;
}

int tcp_remote_nets_parse(const char *text, struct tcp_remote_nets *nets_out, char *bad_out,
                          size_t bad_size)
{
    struct tcp_remote_nets nets = {.count = 0};
    char entry[ENTRY_BYTES];
    int r;

    while ((r = access_next(&text, entry)) != 0) {
        snprintf(bad_out, bad_size, "%s", entry);
        if (r > 0 && nets.count == TCP_REMOTE_NETS_MAX) {
            return -E2BIG;
        }
        if (r < 0 || access_parse_net(entry, &nets.nets[nets.count]) < 0) {
            return -EINVAL;
        }
        nets.count++;
    }
    *nets_out = nets;
    return 0;
}

int tcp_remote_uids_parse(const char *text, struct tcp_remote_access *access_out, char *bad_out,
                          size_t bad_size)
{
    uid_t uids[TCP_REMOTE_UIDS_MAX] = {0};
    char entry[ENTRY_BYTES];
    size_t count = 0;
    uint64_t uid = 0;
    int r;

    while ((r = access_next(&text, entry)) != 0) {
        snprintf(bad_out, bad_size, "%s", entry);
        if (r > 0 && count == TCP_REMOTE_UIDS_MAX) {
            return -E2BIG;
        }
        if (r < 0 || access_number(entry, UINT32_MAX - 1, &uid) < 0) {
            return -EINVAL;
        }
        uids[count++] = (uid_t)uid;
    }
    memcpy(access_out->uids, uids, sizeof(uids));
    access_out->uid_count = count;
    return 0;
}

/* @return false for an address of another kind. */
static bool access_net_of(const struct kvl_sock_addr *addr, struct tcp_remote_net *net_out)
{
    struct tcp_remote_net net = {0};
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (addr->sa.ss_family == AF_INET) {
        memcpy(&v4, &addr->sa, sizeof(v4));
        memcpy(net.address, &v4.sin_addr, 4);
        net.bits = 32;
        net.is_v4 = true;
    } else if (addr->sa.ss_family == AF_INET6) {
        memcpy(&v6, &addr->sa, sizeof(v6));
        memcpy(net.address, &v6.sin6_addr, 16);
        net.bits = 128;
    } else {
        return false;
    }
    access_unmap(&net);
    *net_out = net;
    return true;
}

static bool access_find(const struct tcp_remote_nets *nets, const struct tcp_remote_net *host)
{
    for (size_t i = 0; i < nets->count; i++) {
        const struct tcp_remote_net *net = &nets->nets[i];

        if (net->is_v4 == host->is_v4 && access_same_bits(net->address, host->address, net->bits)) {
            return true;
        }
    }
    return false;
}

bool tcp_remote_access_allows(const struct tcp_remote_access *access,
                              const struct kvl_sock_addr *addr)
{
    struct tcp_remote_net host;

    if (!access_net_of(addr, &host)) {
        return true;
    }
    return !access_find(&access->deny, &host) &&
           (access->allow.count == 0 || access_find(&access->allow, &host));
}

bool tcp_remote_access_allows_uid(const struct tcp_remote_access *access, uid_t own, uid_t uid)
{
    bool found = uid == 0 || uid == own;

    for (size_t i = 0; i < access->uid_count && !found; i++) {
        found = access->uids[i] == uid;
    }
    return found;
}
