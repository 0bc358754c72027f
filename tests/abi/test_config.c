/* SPDX-License-Identifier: Apache-2.0 */
/* What people write into INI files and leave in folders: a clear error, the right code. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine.h"

static struct engine engine;
static char folder[256]; /* ours, removed at the end */

static void assert_says(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) {
        fail_msg("'%s' should say '%s'", text, part);
    }
}

/* ---- the text of the file; its first two lines are [kvlane] and module_path ---- */

struct mistake {
    const char *ini;
    int code;
    const char *says[4];
};

static const struct mistake mistakes[] = {
    {"modul_path = /x\n", -EINVAL, {":3:", "[kvlane] modul_path", "'module_path'", NULL}},
    {"log_level = loud\n", -EINVAL, {":3:", "[kvlane] log_level = loud", NULL, NULL}},
    {"deadline = soon\n", -EINVAL, {":3:", "[kvlane] deadline = soon", NULL, NULL}},
    {"module_path = /other\n", -EINVAL, {":3:", "module_path", "line 2", NULL}},
    {"[store]\nmax_bytes = 12parsecs\n", -EINVAL, {":4:", "max_bytes = 12parsecs", NULL, NULL}},
    {"[store]\nmax_bytes = -1\n", -EINVAL, {":4:", "max_bytes = -1", NULL, NULL}},
    {"[store]\nmax_bytes = 99999999999999999999\n", -EINVAL, {":4:", "max_bytes", NULL, NULL}},
    {"[store]\nmax_byte = 1M\n", -EINVAL, {":4:", "[store] max_byte", "'max_bytes'", NULL}},
    {"[store]\nchecksum = perhaps\n", -EINVAL, {":4:", "checksum = perhaps", NULL, NULL}},
    {"[store]\nmax_bytes = 1M\n[store]\n", -EINVAL, {":5:", "[store]", "line 3", NULL}},
    {"[mock_good]\nprelod = a\n", -EINVAL, {":4:", "[mock_good] prelod", "'preload'", NULL}},
    {"[mock_good]\nzzzzzzzz = a\n", -EINVAL, {":4:", "[mock_good] zzzzzzzz", NULL, NULL}},
    {"[mock_good]\nrequired = maybe\n", -EINVAL, {":4:", "required = maybe", NULL, NULL}},
    {"[mock_good]\nput_to = perhaps\n", -EINVAL, {":4:", "put_to = perhaps", NULL, NULL}},
    {"[mock_good]\npreload_bytes = 0\n", -EINVAL, {":4:", "preload_bytes = 0", "1", NULL}},
    {"[mock_good]\npreload_bytes = 2G\n", -EINVAL, {":4:", "preload_bytes = 2G", NULL, NULL}},
    {"[mock_newer_minor]\nfirst = 10\n", -EINVAL, {":4:", "first = 10", "9", NULL}},
    {"[mock_newer_minor]\nfirst = 1x\n", -EINVAL, {":4:", "first = 1x", NULL, NULL}},
    {"[mock_good]\n[mock_good]\n", -EINVAL, {":4:", "[mock_good]", "line 3", NULL}},
    {"[mock_good]\npreload = a\npreload = b\n", -EINVAL, {":5:", "preload", "line 4", NULL}},
    {"[mock_good\n", -EINVAL, {":3:", "']'", NULL, NULL}},
    {"[mock_good]\njust words\n", -EINVAL, {":4:", "just words", NULL, NULL}},
    {"[../../evil]\n", -EINVAL, {":3:", "../../evil", NULL, NULL}},
    {"[]\n", -EINVAL, {":3:", NULL, NULL, NULL}},
    {"[mock_god]\n", -ENOENT, {"kvl-mock_god.so", "mock_good", NULL, NULL}},
};

static void test_mistakes_are_named_with_their_line(void **state)
{
    const struct mistake *m;
    size_t k;

    (void)state;
    for (m = mistakes; m < mistakes + sizeof(mistakes) / sizeof(mistakes[0]); m++) {
        int r = engine_open(&engine, m->ini);

        if (r != m->code) {
            fail_msg("open() gave %d, not %d, for '%s': %s", r, m->code, m->ini, engine.err.text);
        }
        for (k = 0; k < 4 && m->says[k] != NULL; k++) {
            assert_says(engine.err.text, m->says[k]);
            assert_true(engine_logged(&engine, m->says[k]));
        }
        assert_int_equal(engine.err.code, m->code);
        assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 1);
    }
}

static void test_all_mistakes_at_once(void **state)
{
    (void)state;
    assert_int_equal(engine_open(&engine, "log_level = loud\n[store]\nmax_byte = 1\n"
                                          "[mock_good]\nprelod = a\npreload_bytes = 0\n"),
                     -EINVAL);
    assert_says(engine.err.text, ":3:");
    assert_says(engine.err.text, ":5:");
    assert_says(engine.err.text, ":7:");
    assert_says(engine.err.text, ":8:");
    assert_int_equal(engine_lines(&engine, KVL_LOG_ERROR), 4);
}

static void test_long_lines(void **state)
{
    char ini[6000];

    (void)state;
    memset(ini, 'a', sizeof(ini));
    memcpy(ini, "[mock_good]\n#", 13);
    memcpy(ini + 12 + 4096, "\n", 2); /* 4096 bytes and the end of the line */
    assert_int_equal(engine_open(&engine, ini), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);

    memset(ini, 'a', sizeof(ini));
    memcpy(ini, "[mock_good]\npreload=", 20);
    memcpy(ini + 12 + 4097, "\n", 2);
    assert_int_equal(engine_open(&engine, ini), -EINVAL);
    assert_says(engine.err.text, ":4:");
    assert_says(engine.err.text, "4096");

    /* no end of line at all */
    ini[12 + 4097] = 'a';
    ini[sizeof(ini) - 1] = '\0';
    assert_int_equal(engine_open(&engine, ini), -EINVAL);
    assert_says(engine.err.text, ":4:");
}

static void test_secrets_are_never_shown(void **state)
{
    (void)state;
    assert_int_equal(engine_open(&engine, "log_level = trace\n[mock_good]\nsecret = hunter2\n"
                                          "preload_bytes = 0\n"),
                     -EINVAL);
    assert_null(strstr(engine.err.text, "hunter2"));
    assert_false(engine_logged(&engine, "hunter2"));
    assert_int_equal(engine_open(&engine, "log_level = trace\n[mock_good]\nsecret = hunter2\n"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
    assert_false(engine_logged(&engine, "hunter2"));
    /* a slip in the name must not print the value either */
    assert_int_equal(engine_open(&engine, "[mock_good]\nsecrt = hunter2\n"), -EINVAL);
    assert_says(engine.err.text, "'secret'");
    assert_null(strstr(engine.err.text, "hunter2"));
    assert_false(engine_logged(&engine, "hunter2"));
}

/* ---- where the text comes from ---- */

static const char *path_of(const char *name)
{
    static char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static const char *write_file(const char *name, const char *text, size_t length)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    return path;
}

static int open_params(struct kvl_open_params *params)
{
    engine_init(&engine);
    engine_catch_log(&engine, params);
    return engine.plugin->open(params, &engine.instance, &engine.err);
}

static int open_path(const char *path)
{
    struct kvl_open_params params = {.size = sizeof(params), .config_path = path};

    return open_params(&params);
}

static void test_files(void **state)
{
    static const char dos[] = "\xef\xbb\xbf; marked\r\n[store]\r\nmax_bytes = 1M\r\n";
    static char big[(1 << 20) + 2];
    const char *path;

    (void)state;
    path = write_file("good.ini", dos, sizeof(dos) - 1);
    assert_int_equal(open_path(path), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);

    path = write_file("bad.ini", "[store]\n\nmax_byte = 1M\n", 23);
    assert_int_equal(open_path(path), -EINVAL);
    assert_says(engine.err.text, "bad.ini:3:");

    path = write_file("zero.ini", "[store]\nmax_bytes\0= 1M\n", 23);
    assert_int_equal(open_path(path), -EINVAL);
    assert_says(engine.err.text, "zero.ini:2:");

    assert_int_equal(open_path(path_of("not there.ini")), -ENOENT);
    assert_says(engine.err.text, "not there.ini");
    assert_true(open_path(folder) < 0);
    assert_says(engine.err.text, folder);

    memset(big, '\n', sizeof(big));
    assert_int_equal(open_path(write_file("big.ini", big, sizeof(big))), -EFBIG);
    assert_int_equal(open_path("/dev/zero") < 0, 1);
}

static void test_an_unreadable_file(void **state)
{
    const char *path = write_file("secret.ini", "[store]\n", 8);
    int status = 0;
    pid_t child;

    (void)state;
    assert_int_equal(chmod(path, 0), 0);
    /* root may read everything, so somebody else looks */
    child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        int r;

        if (geteuid() == 0 && setresuid(65534, 65534, 65534) != 0) {
            _exit(3);
        }
        if (access(path, F_OK) != 0) {
            _exit(4); /* a folder on the way is closed to others */
        }
        r = open_path(path);
        _exit(r == -EACCES && strstr(engine.err.text, "secret.ini") != NULL ? 0 : 5);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 3 || WEXITSTATUS(status) == 4) {
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_which_source_counts(void **state)
{
    struct kvl_open_params params = {.size = sizeof(params)};

    (void)state;
    assert_int_equal(unsetenv(KVL_CONFIG_ENV), 0);
    assert_int_equal(open_params(&params), -EINVAL);
    assert_says(engine.err.text, KVL_CONFIG_ENV);

    assert_int_equal(setenv(KVL_CONFIG_ENV, write_file("env.ini", "[stor]\n", 7), 1), 0);
    assert_int_not_equal(open_params(&params), 0);
    assert_true(engine_logged(&engine, "env.ini"));
    assert_int_equal(
        setenv(KVL_CONFIG_ENV, write_file("env.ini", "[store]\nmax_bytes = 1M\n", 23), 1), 0);
    assert_int_equal(open_params(&params), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);

    /* what the caller names wins, two names are a mistake */
    params.config_text = "[store]\nmax_byte = 1\n";
    assert_int_equal(open_params(&params), -EINVAL);
    params.config_path = path_of("env.ini");
    assert_int_equal(open_params(&params), -EINVAL);
    assert_int_equal(unsetenv(KVL_CONFIG_ENV), 0);
}

static int open_with(const char *override)
{
    char ini[512];
    struct kvl_open_params params = {
        .size = sizeof(params), .config_text = ini, .overrides = &override, .override_count = 1};

    (void)snprintf(ini, sizeof(ini), "[kvlane]\nmodule_path = %s\n[mock_good]\nshelf = o\n",
                   getenv("KVL_MOCKS"));
    return open_params(&params);
}

static void test_overrides(void **state)
{
    uint8_t bytes[10];
    struct engine_batch load;

    (void)state;
    assert_int_equal(open_with("mock_good.preload_bytes=10"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
    assert_int_equal(open_with("mock_good.preload=over"), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
    assert_int_equal(open_with("mock_good.shelf=ridden"), 0);
    engine_batch_init(&load, 5000);
    (void)engine_batch_add(&load, "over", bytes, sizeof(bytes));
    assert_int_equal(engine.plugin->load(engine.instance, &load.batch, &load.result, NULL), 0);
    assert_int_equal(load.status[0], -ENOENT); /* it is on the other shelf */
    assert_int_equal(engine_close(&engine, 1000), 0);

    assert_int_equal(open_with("mock_good.prelod=a"), -EINVAL);
    assert_says(engine.err.text, "'preload'");
    assert_int_equal(open_with("nonsense"), -EINVAL);
    assert_says(engine.err.text, "section.key=value");
    assert_int_equal(open_with("mock_good.preload_bytes=0"), -EINVAL);
    assert_says(engine.err.text, "preload_bytes");
}

static void test_bad_arguments(void **state)
{
    struct kvl_open_params params = {.size = sizeof(params), .config_text = "[store]\n"};
    struct engine_batch batch;

    (void)state;
    engine_init(&engine);
    assert_int_equal(engine.plugin->open(NULL, &engine.instance, &engine.err), -EINVAL);
    assert_int_equal(engine.plugin->open(&params, NULL, &engine.err), -EINVAL);
    params.size = 0;
    assert_int_equal(engine.plugin->open(&params, &engine.instance, &engine.err), -EINVAL);
    params.size = sizeof(params);
    params.flags = 1u << 31;
    assert_int_equal(engine.plugin->open(&params, &engine.instance, &engine.err), -EINVAL);
    params.flags = 0;
    assert_int_equal(open_params(&params), 0);

    engine_batch_init(&batch, 1000);
    assert_int_equal(engine.plugin->load(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL); /* no chunk */
    (void)engine_batch_add(&batch, "", NULL, 0);
    assert_int_equal(engine.plugin->lookup(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL);
    batch.chunks[0].key = kvl_key_from_text("k");
    batch.chunks[0].key.length = KVL_KEY_MAX + 1;
    assert_int_equal(engine.plugin->lookup(engine.instance, &batch.batch, &batch.result, NULL),
                     -EINVAL);
    assert_int_equal(engine.plugin->lookup(NULL, &batch.batch, &batch.result, NULL), -EINVAL);
    assert_int_equal(engine.plugin->wait(engine.instance, 12345, 0, &batch.result), -EINVAL);
    assert_int_equal(engine.plugin->release(engine.instance, 12345), -EINVAL);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

/* ---- folders and files of modules ---- */

static void copy_module(const char *to)
{
    char from[512];
    char command[1200];

    (void)snprintf(from, sizeof(from), "%s/kvl-mock_good.so", getenv("KVL_MOCKS"));
    (void)snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
    assert_int_equal(system(command), 0);
}

static int open_from(const char *module_path)
{
    char ini[1024];
    struct kvl_open_params params = {.size = sizeof(params), .config_text = ini};

    (void)snprintf(ini, sizeof(ini), "[kvlane]\nmodule_path = %s\n[mock_good]\n", module_path);
    return open_params(&params);
}

static void test_module_path(void **state)
{
    char modules[300];
    char file[400];

    (void)state;
    (void)snprintf(modules, sizeof(modules), "%s/modules", folder);
    (void)snprintf(file, sizeof(file), "%s/kvl-mock_good.so", modules);
    assert_int_equal(mkdir(modules, 0755), 0);
    assert_int_equal(chmod(modules, 0755), 0);

    assert_int_equal(open_from(path_of("nowhere")), -ENOENT);
    assert_says(engine.err.text, "nowhere");
    assert_int_equal(open_from(modules), -ENOENT);
    assert_says(engine.err.text, modules);
    assert_int_not_equal(open_from("modules"), 0);
    assert_says(engine.err.text, "absolute");

    assert_int_equal(symlink("/etc/hostname", file), 0);
    assert_int_equal(open_from(modules), -EACCES);
    assert_says(engine.err.text, file);
    assert_int_equal(unlink(file), 0);

    (void)write_file("modules/kvl-mock_good.so", "this is no ELF", 14);
    assert_int_equal(chmod(file, 0644), 0);
    assert_int_equal(open_from(modules), -ELIBACC);
    assert_says(engine.err.text, file);
    assert_int_equal(unlink(file), 0);

    copy_module(file);
    assert_int_equal(chmod(file, 0666), 0);
    assert_int_equal(open_from(modules), -EACCES);
    assert_says(engine.err.text, file);
    assert_says(engine.err.text, "writable");
    assert_int_equal(chmod(file, 0644), 0);

    assert_int_equal(chmod(modules, 0777), 0);
    assert_int_equal(open_from(modules), -EACCES);
    assert_says(engine.err.text, modules);
    assert_says(engine.err.text, "writable");
    assert_int_equal(chmod(modules, 0755), 0);

    assert_int_equal(open_from(modules), 0);
    assert_int_equal(engine_close(&engine, 1000), 0);
}

static int setup(void **state)
{
    (void)state;
    (void)umask(022);
    (void)snprintf(folder, sizeof(folder), "/tmp/kvlane-test-XXXXXX");
    return mkdtemp(folder) == NULL || chmod(folder, 0755) != 0;
}

static int teardown(void **state)
{
    char command[400];

    (void)state;
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes_are_named_with_their_line),
        cmocka_unit_test(test_all_mistakes_at_once),
        cmocka_unit_test(test_long_lines),
        cmocka_unit_test(test_secrets_are_never_shown),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_an_unreadable_file),
        cmocka_unit_test(test_which_source_counts),
        cmocka_unit_test(test_overrides),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_module_path),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
