/* SPDX-License-Identifier: Apache-2.0 */
#include "cm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"

static struct kvl_config config;
static struct kvl_err err = {.size = sizeof(err)};

static int read_text(const char *text)
{
    const struct kvl_open_params params = {.size = sizeof(params), .config_text = text};

    return kvl_config_init(&config, &params, &err);
}

static int done(void **state)
{
    (void)state;
    kvl_config_fini(&config);
    return 0;
}

static const char *value_of(const char *section, const char *key)
{
    const struct kvl_config_section *found = kvl_config_find(&config, section);

    for (size_t i = 0; found != NULL && i < found->key_count; i++) {
        if (strcmp(found->keys[i].name, key) == 0) {
            return found->keys[i].value;
        }
    }
    return NULL;
}

static void test_keys_and_comments(void **state)
{
    (void)state;
    assert_int_equal(read_text("\xEF\xBB\xBF; top\n[a]\n  x = 1 ; why\r\n# no\ny: two words \n"
                               "[b:west]\nx=3"),
                     0);
    assert_int_equal(config.error_count, 0);
    assert_string_equal(value_of("a", "x"), "1");
    assert_string_equal(value_of("a", "y"), "two words");
    assert_string_equal(value_of("b:west", "x"), "3");
    assert_int_equal(kvl_config_find(&config, "b:west")->line, 6);
}

static void test_sections_without_keys_exist(void **state)
{
    (void)state;
    assert_int_equal(read_text("[a]\n[b]\n"), 0);
    assert_non_null(kvl_config_find(&config, "a"));
    assert_int_equal(config.section_count, 2);
}

static void test_all_errors_come_at_once_with_lines(void **state)
{
    (void)state;
    assert_int_equal(read_text("x = 1\n[a]\nnonsense\nk = 1\nk = 2\n[a]\nz = 1\n[b\n[sp ace]\n"),
                     0);
    assert_int_equal(config.error_count, 6);
    assert_non_null(strstr(config.errors, "config_text:1: 'x = 1' stands before"));
    assert_non_null(strstr(config.errors, "config_text:3: 'nonsense' is not 'key = value'"));
    assert_non_null(
        strstr(config.errors, "config_text:5: [a] k: the key stands already at line 4"));
    assert_non_null(strstr(config.errors, "config_text:6: section [a] stands already at line 2"));
    assert_non_null(strstr(config.errors, "config_text:8: section header '[b' has no ']'"));
    assert_non_null(strstr(config.errors, "config_text:9: section name 'sp ace'"));
}

static void test_long_lines_are_whole_or_refused(void **state)
{
    char *text = malloc(10000);
    size_t n = (size_t)snprintf(text, 10000, "[a]\nx = ");

    (void)state;
    memset(text + n, 'v', 4000);
    memcpy(text + n + 4000, "\n", 2);
    assert_int_equal(read_text(text), 0);
    assert_int_equal(config.error_count, 0);
    assert_int_equal(strlen(value_of("a", "x")), 4000);
    kvl_config_fini(&config);

    memset(text + n, 'v', 5000);
    memcpy(text + n + 5000, "\ny = 1\n", 8);
    assert_int_equal(read_text(text), 0);
    assert_int_equal(config.error_count, 1);
    assert_non_null(strstr(config.errors, "config_text:2: line has 5004 bytes"));
    assert_string_equal(value_of("a", "y"), "1"); /* and the lines after it are still read */
    free(text);
}

static void test_overrides_come_last_and_make_sections(void **state)
{
    const char *const overrides[] = {"a.x=9", "new.k=v=w", "broken"};
    const struct kvl_open_params params = {
        .size = sizeof(params),
        .config_text = "[a]\nx = 1\n",
        .overrides = overrides,
        .override_count = 3,
    };

    (void)state;
    assert_int_equal(kvl_config_init(&config, &params, &err), 0);
    assert_string_equal(value_of("a", "x"), "9");
    assert_string_equal(value_of("new", "k"), "v=w");
    assert_int_equal(config.error_count, 1);
    assert_non_null(strstr(config.errors, "override 'broken'"));
}

static void test_settings_have_types_defaults_and_bounds(void **state)
{
    static const struct kvl_option options[] = {
        {.name = "size", .type = KVL_OPTION_SIZE, .value = "1M", .min = 1, .max = 1 << 30},
        {.name = "role", .type = KVL_OPTION_ENUM, .value = "client", .choices = "client|server"},
        {.name = "url", .type = KVL_OPTION_STRING, .flags = KVL_OPTION_REQUIRED, .help = "peer"},
        {.name = "pass", .type = KVL_OPTION_SECRET},
    };
    struct kvl_settings settings = {.options = options, .option_count = 4};

    (void)state;
    assert_int_equal(read_text("[s]\nrole = server\nsiez = 3\nsize = 2G\n"), 0);
    assert_int_equal(kvl_config_apply(&config, kvl_config_find(&config, "s"), &settings, 1), 0);
    assert_int_equal(kvl_settings_get(&settings, "size")->number, 1 << 20);
    assert_int_equal(kvl_settings_get(&settings, "role")->number, 1);
    assert_int_equal(kvl_settings_get(&settings, "role")->is_set, 1);
    assert_null(kvl_settings_get(&settings, "siez"));
    assert_int_equal(config.error_count, 3);
    assert_non_null(strstr(config.errors, "config_text:3: [s] siez = (not shown): unknown key; did "
                                          "you mean 'size'?"));
    assert_non_null(strstr(config.errors, "config_text:4: [s] size = 2G: expected a size"));
    assert_non_null(strstr(config.errors, "config_text:1: [s] url: the key is required (peer)"));
    kvl_settings_fini(&settings);
}

static void test_files_that_cannot_be_read(void **state)
{
    struct kvl_open_params params = {.size = sizeof(params), .config_path = "/nonexistent/x.ini"};

    (void)state;
    assert_int_equal(kvl_config_init(&config, &params, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/x.ini"));
    kvl_config_fini(&config);
    params.config_path = "/";
    assert_int_equal(kvl_config_init(&config, &params, &err), -EISDIR);
    assert_non_null(strstr(err.text, "not a regular file"));
}

static void test_no_source_names_the_variable(void **state)
{
    const struct kvl_open_params params = {.size = sizeof(params)};

    (void)state;
    unsetenv(KVL_CONFIG_ENV);
    assert_int_equal(kvl_config_init(&config, &params, &err), -EINVAL);
    assert_non_null(strstr(err.text, KVL_CONFIG_ENV));
}

static void test_the_variable_names_the_file(void **state)
{
    char path[] = "/tmp/kvl-config-XXXXXX";
    const struct kvl_open_params params = {.size = sizeof(params)};
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "[a]\nx=5\n", 8), 8);
    close(fd);
    setenv(KVL_CONFIG_ENV, path, 1);
    assert_int_equal(kvl_config_init(&config, &params, &err), 0);
    assert_string_equal(value_of("a", "x"), "5");
    unsetenv(KVL_CONFIG_ENV);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_keys_and_comments, done),
        cmocka_unit_test_teardown(test_sections_without_keys_exist, done),
        cmocka_unit_test_teardown(test_all_errors_come_at_once_with_lines, done),
        cmocka_unit_test_teardown(test_long_lines_are_whole_or_refused, done),
        cmocka_unit_test_teardown(test_overrides_come_last_and_make_sections, done),
        cmocka_unit_test_teardown(test_settings_have_types_defaults_and_bounds, done),
        cmocka_unit_test_teardown(test_files_that_cannot_be_read, done),
        cmocka_unit_test_teardown(test_no_source_names_the_variable, done),
        cmocka_unit_test_teardown(test_the_variable_names_the_file, done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
