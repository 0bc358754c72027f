/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every call goes through: counting, errors on demand, and whether it may be made at all.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fake_cuda_core.h"
#include "fake_cuda_driver.h"

#define RULES_MAX 32u
#define CALLS_MAX 160u
#define CAPTURE_GLOBAL 0u /* CU_STREAM_CAPTURE_MODE_GLOBAL, what every thread begins with */
#define CAPTURE_RELAXED 2u

struct fake_rule {
    char name[64];
    cuda_result code;
    uint64_t nth; /* 0: each call */
    uint64_t seen;
};

static struct {
    pthread_mutex_t lock;
    uint64_t counts[CALLS_MAX]; /* by export */
    struct fake_rule rules[RULES_MAX];
    uint32_t rule_count;
} calls = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local int call_forbidden;
static _Thread_local unsigned int call_capture_mode; /* CUstreamCaptureMode */

static size_t call_base(const char *name)
{
    const char *suffix = strstr(name, "_v");

    return suffix == NULL ? strlen(name) : (size_t)(suffix - name);
}

static int call_is(const char *name, size_t base, const char *wanted)
{
    return strlen(wanted) == base && memcmp(name, wanted, base) == 0;
}

static int64_t call_index(const char *name)
{
    size_t base = call_base(name);

    for (uint32_t i = 0; i < fake_export_count && i < CALLS_MAX; i++) {
        if (call_is(name, base, fake_exports[i].name)) {
            return i;
        }
    }
    return -1;
}

uint64_t fake_calls(const char *name)
{
    int64_t index = call_index(name);
    uint64_t count = 0;

    pthread_mutex_lock(&calls.lock);
    if (index >= 0) {
        count = calls.counts[index];
    }
    pthread_mutex_unlock(&calls.lock);
    return count;
}

static cuda_result call_count(const char *name)
{
    int64_t index = call_index(name);
    size_t base = call_base(name);
    cuda_result code = CUDA_OK;

    pthread_mutex_lock(&calls.lock);
    if (index >= 0) {
        calls.counts[index]++;
    }
    for (uint32_t i = 0; i < calls.rule_count; i++) {
        struct fake_rule *rule = &calls.rules[i];

        if (!call_is(name, base, rule->name)) {
            continue;
        }
        rule->seen++;
        if (code == CUDA_OK && (rule->nth == 0 || rule->nth == rule->seen)) {
            code = rule->code;
        }
    }
    pthread_mutex_unlock(&calls.lock);
    return code;
}

static int call_rule(const char *text, size_t length, struct fake_rule *rule_out)
{
    struct fake_rule rule = {.nth = 0};
    char copy[128];
    int used = 0;

    if (length >= sizeof(copy)) {
        return -EINVAL;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    if (sscanf(copy, "%63[A-Za-z0-9]=%u%n", rule.name, &rule.code, &used) != 2 || used == 0) {
        return -EINVAL;
    }
    if (copy[used] == ':') {
        char *end;

        rule.nth = strtoull(copy + used + 1, &end, 10);
        if (rule.nth == 0 || *end != '\0') {
            return -EINVAL;
        }
    } else if (copy[used] != '\0') {
        return -EINVAL;
    }
    if (call_index(rule.name) < 0) {
        return -EINVAL;
    }
    *rule_out = rule;
    return 0;
}

int fake_fail_rules(const char *text)
{
    struct fake_rule rules[RULES_MAX];
    uint32_t count = 0;

    while (text != NULL && text[0] != '\0') {
        size_t length = strcspn(text, ",");

        if (count == RULES_MAX || call_rule(text, length, &rules[count]) < 0) {
            return -EINVAL;
        }
        count++;
        text += length + (text[length] == ',');
    }
    pthread_mutex_lock(&calls.lock);
    memcpy(calls.rules, rules, count * sizeof(rules[0]));
    calls.rule_count = count;
    pthread_mutex_unlock(&calls.lock);
    return 0;
}

int fake_listed(const char *list, const char *name)
{
    size_t base = strlen(name);

    while (list != NULL && list[0] != '\0') {
        size_t length = strcspn(list, ",");

        if (length == base && memcmp(list, name, base) == 0) {
            return 1;
        }
        list += length + (list[length] == ',');
    }
    return 0;
}

int fake_version(void)
{
    const char *text = getenv("KVLANE_FAKE_CUDA_VERSION");

    return text == NULL || text[0] == '\0' ? 13000 : (int)strtol(text, NULL, 10);
}

static int call_stub(void)
{
    const char *text = getenv("KVLANE_FAKE_CUDA_STUB");

    return text != NULL && strcmp(text, "1") == 0;
}

void fake_forbid_calls(int forbidden)
{
    call_forbidden = forbidden;
}

/* Not seen by a capture, so none of them may be made beside one; others only go into streams. */
static int call_is_unsafe(const char *name)
{
    static const char *const names[] = {
        "cuMemAlloc",        "cuMemFree",           "cuMemHostAlloc",     "cuMemFreeHost",
        "cuMemHostRegister", "cuMemHostUnregister", "cuStreamQuery",      "cuStreamSynchronize",
        "cuEventQuery",      "cuEventSynchronize",  "cuIpcOpenMemHandle", "cuIpcCloseMemHandle",
        "cuModuleLoadData",  "cuModuleUnload",      "cuMemCreate",        "cuMemMap",
        "cuMemUnmap",        "cuMemSetAccess",
    };
    size_t base = call_base(name);

    for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (call_is(name, base, names[i])) {
            return 1;
        }
    }
    return 0;
}

cuda_result cuThreadExchangeStreamCaptureMode(unsigned int *mode)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);
    unsigned int before = call_capture_mode;

    if (code == CUDA_OK && *mode > CAPTURE_RELAXED) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        call_capture_mode = *mode;
        *mode = before;
    }
    return code;
}

static cuda_result call_allowed(const char *name, enum fake_need need)
{
    cuda_context context;
    cuda_result code;

    if (need == FAKE_NOTHING) {
        return CUDA_OK;
    }
    fake_lock();
    context = fake_current();
    if (fake.pid == 0) {
        code = CUDA_E_NOT_INITIALIZED;
    } else if (need == FAKE_DRIVER) {
        code = CUDA_OK;
    } else if (context == NULL) {
        code = CUDA_E_INVALID_CONTEXT;
    } else if (context->retained == 0) {
        code = CUDA_E_CONTEXT_IS_DESTROYED;
    } else {
        code = context->error;
    }
    if (code == CUDA_OK && fake.capturing && call_capture_mode == CAPTURE_GLOBAL &&
        call_is_unsafe(name)) {
        fake.capture_broken++;
        code = CUDA_E_STREAM_CAPTURE_UNSUPPORTED;
    }
    fake_unlock();
    return code;
}

cuda_result fake_enter(const char *name, enum fake_need need)
{
    int32_t pid = __atomic_load_n(&fake.pid, __ATOMIC_ACQUIRE);
    cuda_result code;

    if (call_stub()) {
        return CUDA_E_STUB_LIBRARY;
    }
    /* a forked child has the parent's objects, none of its driver, and perhaps its locked locks */
    if (pid != 0 && pid != getpid()) {
        return CUDA_E_NOT_INITIALIZED;
    }
    code = call_count(name);
    if (code == CUDA_OK && call_forbidden) {
        code = CUDA_E_NOT_PERMITTED;
    }
    return code != CUDA_OK ? code : call_allowed(name, need);
}
