/* SPDX-License-Identifier: Apache-2.0 */
#include "cuda_ipc_self.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BACKLOG 64
#define PATH_AT offsetof(struct sockaddr_un, sun_path)

static int self_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* 32 hexadecimal digits with dashes anywhere. */
static void self_boot(uint8_t boot_out[16])
{
    char text[64];
    const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof(text));
    uint32_t digits = 0;

    memset(boot_out, 0, 16);
    for (ssize_t i = 0; i < length && digits < 32; i++) {
        const int value = self_digit(text[i]);

        if (value >= 0) {
            boot_out[digits / 2] =
                (uint8_t)(boot_out[digits / 2] | value << (digits % 2 == 0 ? 4 : 0));
            digits++;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

int cuda_ipc_self_init(struct cuda_ipc_self *self)
{
    struct cuda_ipc_wire_peer *peer = &self->hello.peer;

    memset(self, 0, sizeof(*self));
    self->hello.version = CUDA_IPC_WIRE_VERSION;
    self->uid = geteuid();
    cuda_ipc_who_self(&peer->who);
    self_boot(self->boot);
    return getrandom(peer->instance, sizeof(peer->instance), 0) == (ssize_t)sizeof(peer->instance)
               ? 0
               : -EIO;
}

/* ---- addresses ---- */

int cuda_ipc_address_from_bytes(const uint8_t *bytes, uint32_t length,
                                struct cuda_ipc_address *address_out)
{
    struct cuda_ipc_address address = {.un = {.sun_family = AF_UNIX}};

    if (length < 2 || length > CUDA_IPC_WIRE_ADDRESS_MAX ||
        (bytes[0] != '\0' && memchr(bytes, '\0', length) != NULL) ||
        (bytes[0] != '\0' && bytes[0] != '/')) {
        return -EINVAL;
    }
    memcpy(address.un.sun_path, bytes, length);
    /* of a path the terminator belongs to it, of an abstract name every byte */
    address.length = (socklen_t)(PATH_AT + length + (bytes[0] != '\0'));
    *address_out = address;
    return 0;
}

int cuda_ipc_address_parse(const char *text, struct cuda_ipc_address *address_out)
{
    uint8_t bytes[CUDA_IPC_WIRE_ADDRESS_MAX];
    const size_t length = strlen(text);

    if (length < 2 || length > sizeof(bytes) || (text[0] != '/' && text[0] != '@')) {
        return -EINVAL;
    }
    memcpy(bytes, text, length);
    if (text[0] == '@') {
        bytes[0] = '\0';
    }
    return cuda_ipc_address_from_bytes(bytes, (uint32_t)length, address_out);
}

void cuda_ipc_address_own(const struct cuda_ipc_self *self, struct cuda_ipc_address *address_out)
{
    const uint8_t *random = self->hello.peer.instance;
    char text[64];
    int length;

    length = snprintf(text, sizeof(text), "@kvlane.cuda_ipc.%llu.%02x%02x%02x%02x%02x%02x%02x%02x",
                      (unsigned long long)self->hello.peer.who.pid, random[0], random[1], random[2],
                      random[3], random[4], random[5], random[6], random[7]);
    text[0] = '\0';
    (void)cuda_ipc_address_from_bytes((const uint8_t *)text, (uint32_t)length, address_out);
}

void cuda_ipc_address_print(const struct cuda_ipc_address *address, char *text_out, size_t size)
{
    const char *path = address->un.sun_path;
    const int length = (int)(address->length - PATH_AT);

    if (length > 1 && path[0] == '\0') {
        (void)snprintf(text_out, size, "@%.*s", length - 1, path + 1);
    } else {
        (void)snprintf(text_out, size, "%.*s", length, path);
    }
}

static int address_socket(void)
{
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    return fd < 0 ? -errno : fd;
}

int cuda_ipc_address_connect(const struct cuda_ipc_address *address, int *fd_out)
{
    const int fd = address_socket();

    if (fd < 0) {
        return fd;
    }
    if (connect(fd, (const struct sockaddr *)&address->un, address->length) < 0) {
        const int r = -errno;

        close(fd);
        return r;
    }
    *fd_out = fd;
    return 0;
}

static int address_is_dead(const struct cuda_ipc_address *address)
{
    int fd = -1;
    const int r = cuda_ipc_address_connect(address, &fd);

    if (r == 0) {
        close(fd);
    }
    return r == -ECONNREFUSED;
}

static int address_bind(int fd, const struct cuda_ipc_address *address)
{
    const struct sockaddr *sa = (const struct sockaddr *)&address->un;
    const int is_path = address->un.sun_path[0] != '\0';

    if (is_path) {
        /* the mode of the socket's inode becomes that of the path, without a gap after bind() */
        (void)fchmod(fd, S_IRUSR | S_IWUSR);
    }
    if (bind(fd, sa, address->length) == 0) {
        return 0;
    }
    if (errno != EADDRINUSE || !is_path || !address_is_dead(address)) {
        return -errno;
    }
    if (unlink(address->un.sun_path) < 0 || bind(fd, sa, address->length) < 0) {
        return -errno;
    }
    return 0;
}

int cuda_ipc_address_listen(const struct cuda_ipc_address *address, int *fd_out)
{
    const int fd = address_socket();
    int r;

    if (fd < 0) {
        return fd;
    }
    r = address_bind(fd, address);
    if (r == 0 && listen(fd, BACKLOG) < 0) {
        r = -errno;
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    *fd_out = fd;
    return 0;
}

/* ---- peers ---- */

size_t cuda_ipc_self_offer(const struct cuda_ipc_self *self, const struct cuda_ipc_address *address,
                           uint8_t *bytes_out)
{
    struct cuda_ipc_wire_offer offer = {.peer = self->hello.peer};
    const size_t length = address->length - PATH_AT;

    memcpy(offer.boot, self->boot, sizeof(offer.boot));
    /* the terminator of a path is not sent */
    offer.address_length = (uint32_t)(length - (address->un.sun_path[0] != '\0'));
    memcpy(offer.address, address->un.sun_path, offer.address_length);
    return cuda_ipc_wire_put_offer(&offer, bytes_out);
}

static int self_peer(const struct cuda_ipc_self *self, int fd, struct ucred *cred_out)
{
    socklen_t length = sizeof(*cred_out);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, cred_out, &length) < 0 ||
        length != sizeof(*cred_out)) {
        return -EIO;
    }
    return cred_out->uid == self->uid || cred_out->uid == 0 ? 0 : -EACCES;
}

int cuda_ipc_self_admits(const struct cuda_ipc_self *self, int fd)
{
    struct ucred cred;

    return self_peer(self, fd, &cred);
}

int cuda_ipc_self_check(const struct cuda_ipc_self *self, int fd,
                        const struct cuda_ipc_wire_hello *hello, int *pidfd_out)
{
    const struct cuda_ipc_who *ours = &self->hello.peer.who;
    const struct cuda_ipc_who *theirs = &hello->peer.who;
    struct ucred cred;
    uint64_t start_time;
    const int r = self_peer(self, fd, &cred);

    if (r < 0) {
        return r;
    }
    if (theirs->pid_namespace == ours->pid_namespace &&
        ((uint64_t)cred.pid != theirs->pid ||
         (cuda_ipc_who_start_time(theirs->pid, &start_time) == 0 &&
          start_time != theirs->start_time))) {
        return -EPROTO;
    }
    /* pid 0: it lives in a PID namespace that cannot be seen from here */
    *pidfd_out = cred.pid > 0 ? (int)syscall(SYS_pidfd_open, cred.pid, 0) : -1;
    return 0;
}
