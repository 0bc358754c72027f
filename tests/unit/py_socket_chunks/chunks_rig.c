/* SPDX-License-Identifier: Apache-2.0 */
#include "chunks_rig.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WAIT_MS 20000u
#define LINE 512

static void rig_die(const char *what, const char *why)
{
    fprintf(stderr, "chunks rig: %s: %s\n", what, why);
    abort();
}

/* ---- engines ---- */

static void node_open(struct rig_node *node, const char *ini)
{
    struct kvl_health health = {.size = sizeof(health)};

    if (engine_open(&node->engine, ini) < 0 ||
        node->engine.plugin->start(node->engine.instance, &node->engine.err) < 0) {
        rig_die(ini, node->engine.err.text);
    }
    if (node->engine.plugin->health(node->engine.instance, RIG_PEER, &health) == 0) {
        snprintf(node->url, sizeof(node->url), "%s", health.address);
    }
}

static char *vtext(const char *format, va_list args) KVL_PRINTF(1, 0);

static char *vtext(const char *format, va_list args)
{
    char *text = NULL;

    if (vasprintf(&text, format, args) < 0) {
        rig_die("ini", "no memory");
    }
    return text;
}

void rig_open(struct rig_node *node, const char *ini, ...)
{
    va_list args;
    char *text;

    va_start(args, ini);
    text = vtext(ini, args);
    va_end(args);
    node_open(node, text);
    free(text);
}

void rig_close(struct rig_node *node)
{
    int r = engine_close(&node->engine, WAIT_MS);

    if (r < 0) {
        rig_die("close", strerror(-r));
    }
}

/* The socket stays bound, so that the kernel gives the port to nobody who asks for any; who asks
 * for this one, and is content to share (SO_REUSEADDR), gets it as long as nobody listens there. */
unsigned rig_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t length = sizeof(at);
    const int yes = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
        getsockname(fd, (struct sockaddr *)&at, &length) < 0) {
        rig_die("port", strerror(errno));
    }
    return ntohs(at.sin_port);
}

/* ---- content ---- */

static uint64_t key_seed(const char *key)
{
    uint64_t seed = 0xcbf29ce484222325ull;

    for (; *key != '\0'; key++) {
        seed = (seed ^ (uint8_t)*key) * 0x100000001b3ull;
    }
    return seed;
}

static uint64_t word_at(uint64_t seed, size_t at)
{
    uint64_t x = seed + at * 0x9e3779b97f4a7c15ull;

    x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9ull;
    return x ^ (x >> 29);
}

void rig_fill(const char *key, void *bytes, size_t length)
{
    const uint64_t seed = key_seed(key);
    uint8_t *out = bytes;

    for (size_t at = 0; at < length; at += 8) {
        const uint64_t word = word_at(seed, at);

        memcpy(out + at, &word, length - at < 8 ? length - at : 8);
    }
}

size_t rig_differs(const char *key, const void *bytes, size_t length)
{
    const uint64_t seed = key_seed(key);
    const uint8_t *in = bytes;
    size_t wrong = 0;

    for (size_t at = 0; at < length; at += 8) {
        const uint64_t word = word_at(seed, at);

        wrong += memcmp(in + at, &word, length - at < 8 ? length - at : 8) != 0;
    }
    return wrong;
}

/* ---- operations ---- */

void rig_save_as(struct rig_node *node, const char *key, const char *content, size_t length,
                 const struct kvl_attrs *attrs)
{
    struct engine_batch batch;
    struct kvl_chunk *chunk;
    void *bytes = malloc(length + 1);
    int r;

    rig_fill(content, bytes, length);
    engine_batch_init(&batch, WAIT_MS);
    chunk = engine_batch_add(&batch, key, bytes, length);
    if (attrs != NULL) {
        chunk->attrs = *attrs;
    }
    batch.batch.flags = KVL_BATCH_LOCAL_ONLY | KVL_BATCH_OVERWRITE;
    r = node->engine.plugin->save(node->engine.instance, &batch.batch, &batch.result, NULL);
    if (r < 0 || batch.status[0] != 0) {
        rig_die("save", key);
    }
    free(bytes);
}

void rig_save(struct rig_node *node, const char *key, size_t length)
{
    rig_save_as(node, key, key, length, NULL);
}

static int load_at(struct rig_node *node, const char *key, void *bytes, size_t length,
                   uint64_t within_ms, uint8_t *location_out)
{
    struct engine_batch batch;
    int r;

    engine_batch_init(&batch, within_ms);
    (void)engine_batch_add(&batch, key, bytes, length);
    r = node->engine.plugin->load(node->engine.instance, &batch.batch, &batch.result, NULL);
    *location_out = batch.location[0];
    return r < 0 ? r : batch.status[0];
}

int rig_load(struct rig_node *node, const char *key, void *bytes, size_t length, uint64_t within_ms)
{
    uint8_t location;

    return load_at(node, key, bytes, length, within_ms, &location);
}

uint8_t rig_expect(struct rig_node *node, const char *key, size_t length)
{
    uint8_t *bytes = malloc(length + 1);
    uint8_t location = 0;
    int r;

    memset(bytes, 0xa5, length + 1);
    r = load_at(node, key, bytes, length, WAIT_MS, &location);
    if (r < 0) {
        rig_die(key, strerror(-r));
    }
    if (rig_differs(key, bytes, length) != 0 || bytes[length] != 0xa5) {
        rig_die(key, "wrong bytes");
    }
    free(bytes);
    return location;
}

int rig_lookup(struct rig_node *node, const char *key, uint64_t within_ms, uint64_t *took_ms_out)
{
    const uint64_t start = engine_now_ms();
    struct engine_batch batch;
    int r;

    engine_batch_init(&batch, within_ms);
    (void)engine_batch_add(&batch, key, NULL, 0);
    r = node->engine.plugin->lookup(node->engine.instance, &batch.batch, &batch.result, NULL);
    if (took_ms_out != NULL) {
        *took_ms_out = engine_now_ms() - start;
    }
    return r < 0 ? r : batch.status[0];
}

void rig_await(struct rig_node *node, const char *key, int status)
{
    const uint64_t until = engine_now_ms() + WAIT_MS;

    while (rig_lookup(node, key, WAIT_MS, NULL) != status) {
        if (engine_now_ms() > until) {
            rig_die(key, "does not come to be what it should");
        }
        (void)poll(NULL, 0, 5);
    }
}

/* ---- a folder of modules ---- */

#define MODULES 8u

static struct {
    char path[64];
    char files[MODULES][512];
    uint32_t count;
    const char *before;
} folder;

static void copy_module(const char *from, const char *to)
{
    int in = open(from, O_RDONLY | O_CLOEXEC);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    struct stat st;

    if (in < 0 || out < 0 || fstat(in, &st) < 0) {
        rig_die(from, strerror(errno));
    }
    for (off_t left = st.st_size; left > 0;) {
        ssize_t n = sendfile(out, in, NULL, (size_t)left);

        if (n <= 0) {
            rig_die(to, strerror(errno));
        }
        left -= n;
    }
    close(in);
    close(out);
}

void rig_gather(const char *const *words)
{
    char path[] = "/tmp/kvl-rig-XXXXXX";

    if (mkdtemp(path) == NULL) {
        rig_die("folder", strerror(errno));
    }
    memcpy(folder.path, path, sizeof(path));
    folder.before = getenv("KVL_MOCKS");
    folder.count = 0;
    for (; *words != NULL && folder.count < MODULES; words++) {
        char from[512];
        char to[sizeof(folder.files[0])];

        snprintf(from, sizeof(from), "%s/kvl-%s.so", folder.before, *words);
        if (access(from, R_OK) < 0) {
            snprintf(from, sizeof(from), "%s/kvl-%s.so", getenv("KVL_MOCK_FOLDER"), *words);
        }
        snprintf(to, sizeof(to), "%s/kvl-%s.so", path, *words);
        memcpy(folder.files[folder.count], to, sizeof(to));
        copy_module(from, folder.files[folder.count++]);
    }
    setenv("KVL_MOCKS", path, 1);
}

void rig_scatter(void)
{
    setenv("KVL_MOCKS", folder.before, 1);
    while (folder.count > 0) {
        (void)unlink(folder.files[--folder.count]);
    }
    (void)rmdir(folder.path);
}

/* ---- children ---- */

void rig_be_child(int argc, char **argv)
{
    struct rig_node node;
    char line[LINE];
    char key[LINE];
    size_t length;

    if (argc != 3 || strcmp(argv[1], "--child") != 0) {
        return;
    }
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    node_open(&node, argv[2]);
    printf("%s\n", node.url);
    (void)fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        if (sscanf(line, "stat %511s", key) == 1) {
            printf("%llu\n", (unsigned long long)engine_stat(&node.engine, key));
        } else if (sscanf(line, "save %511s %zu", key, &length) == 2) {
            rig_save(&node, key, length);
            printf("ok\n");
        } else {
            rig_die("child", line);
        }
        (void)fflush(stdout);
    }
    rig_close(&node);
    exit(0);
}

static void child_line(struct rig_child *child, char line[LINE])
{
    struct pollfd fd = {.fd = child->from, .events = POLLIN};
    size_t have = 0;

    while (have + 1 < LINE && (have == 0 || line[have - 1] != '\n')) {
        if (poll(&fd, 1, WAIT_MS) <= 0 || read(child->from, line + have, 1) != 1) {
            rig_die("child", "says nothing");
        }
        have++;
    }
    line[have - 1] = '\0';
}

void rig_spawn(struct rig_child *child, const char *ini, ...)
{
    int to[2];
    int from[2];
    char line[LINE];
    va_list args;
    char *text;

    va_start(args, ini);
    text = vtext(ini, args);
    va_end(args);
    if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0) {
        rig_die("pipe", strerror(errno));
    }
    child->pid = fork();
    if (child->pid == 0) {
        char name[] = "child";
        char how[] = "--child";
        char *const argv[] = {name, how, text, NULL};

        (void)dup2(to[0], 0);
        (void)dup2(from[1], 1);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    free(text);
    close(to[0]);
    close(from[1]);
    child->to = to[1];
    child->from = from[0];
    child_line(child, line);
    snprintf(child->url, sizeof(child->url), "%.199s", line);
}

void rig_child_save(struct rig_child *child, const char *key, size_t length)
{
    char line[LINE];

    if (dprintf(child->to, "save %s %zu\n", key, length) < 0) {
        rig_die("child", strerror(errno));
    }
    child_line(child, line);
}

uint64_t rig_child_stat(struct rig_child *child, const char *name)
{
    char line[LINE];

    if (dprintf(child->to, "stat %s\n", name) < 0) {
        rig_die("child", strerror(errno));
    }
    child_line(child, line);
    return strtoull(line, NULL, 10);
}

void rig_signal(struct rig_child *child, int number)
{
    int status;

    if (kill(child->pid, number) < 0 ||
        (number == SIGSTOP && waitpid(child->pid, &status, WUNTRACED) < 0)) {
        rig_die("signal", strerror(errno));
    }
}

void rig_reap(struct rig_child *child)
{
    int status;

    close(child->to);
    close(child->from);
    if (waitpid(child->pid, &status, 0) < 0) {
        rig_die("child", strerror(errno));
    }
    if (!WIFSIGNALED(status) && WEXITSTATUS(status) != 0) {
        rig_die("child", "failed");
    }
}
