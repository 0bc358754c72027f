/* SPDX-License-Identifier: Apache-2.0 */
#include "watch.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core.h"
#include "thread.h"

#define TEXT_MAX (256u << 10)
#define SEND_TIMEOUT_MS 2000

struct kvl_watch {
    struct kvl_instance *instance; /* borrowed, outlives us */
    struct sockaddr_un address;
    pthread_t thread;
    int listener;
    int wake;
};

struct text {
    char *at;
    size_t used;
};

static void add_line(struct text *text, const char *fmt, ...) KVL_PRINTF(2, 3);

static void add_line(struct text *text, const char *fmt, ...)
{
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text->at + text->used, TEXT_MAX - text->used, fmt, args);
    va_end(args);
    if (n > 0 && (size_t)n < TEXT_MAX - text->used) {
        text->used += (size_t)n;
    }
}

static void add_counter(void *ctx, const char *name, uint64_t value)
{
    add_line(ctx, "%s %llu\n", name, (unsigned long long)value);
}

static void add_health(struct kvl_instance *instance, struct text *text)
{
    static const char *const states[] = {"down", "degraded", "ok"};
    struct kvl_health health = {.size = sizeof(health)};

    for (uint32_t location = KVL_LOCATION_LOCAL; kvl_core_health(instance, location, &health) == 0;
         location++) {
        add_line(text, "health %s %s %s %s\n", health.name,
                 health.state < 3 ? states[health.state] : "?",
                 health.address[0] != '\0' ? health.address : "-", health.text);
    }
}

static int peer_ok(int fd)
{
    struct ucred peer;
    socklen_t length = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
           (peer.uid == 0 || peer.uid == geteuid());
}

static void serve_one(struct kvl_watch *watch, int fd)
{
    const struct timeval limit = {.tv_sec = SEND_TIMEOUT_MS / 1000};
    struct text text = {.at = malloc(TEXT_MAX)};
    size_t sent = 0;

    if (text.at == NULL || !peer_ok(fd)) {
        free(text.at);
        return;
    }
    kvl_core_stats(watch->instance, add_counter, &text);
    add_health(watch->instance, &text);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    while (sent < text.used) {
        ssize_t n = send(fd, text.at + sent, text.used - sent, MSG_NOSIGNAL);

        if (n <= 0) {
            break; /* gone or slow: its loss */
        }
        sent += (size_t)n;
    }
    free(text.at);
}

static void *watch_main(void *arg)
{
    struct kvl_watch *watch = arg;
    struct pollfd fds[2] = {
        {.fd = watch->listener, .events = POLLIN},
        {.fd = watch->wake, .events = POLLIN},
    };

    for (;;) {
        int fd;

        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            return NULL;
        }
        if (fds[1].revents != 0) {
            return NULL;
        }
        fd = accept4(watch->listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) {
            serve_one(watch, fd);
            close(fd);
        }
    }
}

/* A socket file outlives its process; one that nobody answers is in the way. */
static int remove_dead(const struct sockaddr_un *address)
{
    struct stat st;
    int fd;
    int r;

    if (lstat(address->sun_path, &st) < 0) {
        return 0;
    }
    if (!S_ISSOCK(st.st_mode)) {
        return -EEXIST;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    r = connect(fd, (const struct sockaddr *)address, sizeof(*address));
    close(fd);
    if (r == 0) {
        return -EADDRINUSE;
    }
    return unlink(address->sun_path) < 0 ? -errno : 0;
}

static int listen_at(struct kvl_watch *watch, const char *path)
{
    int r;

    watch->address.sun_family = AF_UNIX;
    if ((size_t)snprintf(watch->address.sun_path, sizeof(watch->address.sun_path), "%s", path) >=
        sizeof(watch->address.sun_path)) {
        return -ENAMETOOLONG;
    }
    r = remove_dead(&watch->address);
    if (r < 0) {
        return r;
    }
    watch->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (watch->listener < 0) {
        return -errno;
    }
    /* Before bind gives it a name, so that no other user connects in between. */
    if (fchmod(watch->listener, 0600) < 0 ||
        bind(watch->listener, (const struct sockaddr *)&watch->address, sizeof(watch->address)) <
            0 ||
        chmod(path, 0600) < 0 || listen(watch->listener, 8) < 0) {
        return -errno;
    }
    return 0;
}

int kvl_watch_start(struct kvl_instance *instance, const char *path, struct kvl_watch **watch_out,
                    struct kvl_err *err)
{
    struct kvl_watch *watch = calloc(1, sizeof(*watch));
    int r;

    if (watch == NULL) {
        return kvl_err_set(err, -ENOMEM, 0, "watch: no memory");
    }
    watch->instance = instance;
    watch->listener = -1;
    watch->wake = eventfd(0, EFD_CLOEXEC);
    r = watch->wake < 0 ? -errno : listen_at(watch, path);
    if (r == 0) {
        r = kvl_thread_create("kvl-watch", watch_main, watch, &watch->thread);
    }
    if (r < 0) {
        kvl_err_set(err, r, -r, "watch: cannot listen at stats_socket '%s': %s", path,
                    strerror(-r));
        if (watch->listener >= 0) {
            close(watch->listener);
        }
        if (watch->wake >= 0) {
            close(watch->wake);
        }
        free(watch);
        return r;
    }
    *watch_out = watch;
    return 0;
}

void kvl_watch_stop(struct kvl_watch *watch)
{
    const uint64_t one = 1;

    if (watch == NULL) {
        return;
    }
    while (write(watch->wake, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    pthread_join(watch->thread, NULL);
    close(watch->listener);
    close(watch->wake);
    (void)unlink(watch->address.sun_path);
    free(watch);
}
