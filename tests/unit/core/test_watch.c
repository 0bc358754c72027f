/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core.h"

static char folder[] = "/tmp/kvl-watch-XXXXXX";
static char path[64];
static struct kvl_err err = {.size = sizeof(err)};

static struct kvl_instance *open_one(void)
{
    struct kvl_instance *instance = NULL;
    char text[128];
    struct kvl_open_params params = {.size = sizeof(params), .config_text = text};

    snprintf(text, sizeof(text), "[kvlane]\nstats_socket = %s\nlog_level = off\n", path);
    assert_int_equal(kvl_core_open(&params, &instance, &err), 0);
    return instance;
}

static size_t ask(char *out, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t used = 0;
    ssize_t n;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    while ((n = read(fd, out + used, size - 1 - used)) > 0) {
        used += (size_t)n;
    }
    out[used] = '\0';
    close(fd);
    return used;
}

static void test_socket_answers_and_goes_away(void **state)
{
    struct kvl_instance *instance = open_one();
    char text[16384];
    struct stat st;

    (void)state;
    assert_int_equal(kvl_core_start(instance, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_true(ask(text, sizeof(text)) > 0);
    assert_non_null(strstr(text, "store_max_bytes 1073741824\n"));
    assert_non_null(strstr(text, "health LocalCPUBackend ok - 0 chunks"));
    assert_true(ask(text, sizeof(text)) > 0); /* again */
    assert_int_equal(kvl_core_close(instance, 0), 0);
    assert_int_equal(stat(path, &st), -1);
}

static void test_live_socket_is_left_alone_and_dead_one_replaced(void **state)
{
    struct kvl_instance *first = open_one();
    struct kvl_instance *second = open_one();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    (void)state;
    assert_int_equal(kvl_core_start(first, &err), 0);
    assert_int_equal(kvl_core_start(second, &err), -EADDRINUSE);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(kvl_core_close(first, 0), 0);

    /* What a killed process leaves behind. */
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd);
    assert_int_equal(kvl_core_start(second, &err), 0);
    assert_int_equal(kvl_core_close(second, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_socket_answers_and_goes_away),
        cmocka_unit_test(test_live_socket_is_left_alone_and_dead_one_replaced),
    };
    int r;

    if (mkdtemp(folder) == NULL) {
        return 1;
    }
    snprintf(path, sizeof(path), "%s/s", folder);
    r = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return r;
}
