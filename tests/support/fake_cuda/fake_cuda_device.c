/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Start and end of the fake driver, the lock, and the devices.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "fake_cuda_objects.h"
#include "fake_cuda_state.h"

struct fake_all fake = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .seed = 1,
};

static pthread_once_t device_once = PTHREAD_ONCE_INIT;

/* ---- the lock ---- */

static void device_init_once(void)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&fake.changed, &attr);
    pthread_condattr_destroy(&attr);
}

void fake_lock(void)
{
    pthread_once(&device_once, device_init_once);
    pthread_mutex_lock(&fake.lock);
}

void fake_unlock(void)
{
    pthread_mutex_unlock(&fake.lock);
}

void fake_wait(uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u),
                             .tv_nsec = (long)(until_ns % 1000000000u)};

    if (until_ns == 0) {
        pthread_cond_wait(&fake.changed, &fake.lock);
    } else {
        pthread_cond_timedwait(&fake.changed, &fake.lock, &until);
    }
}

uint64_t fake_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t fake_new_id(void)
{
    return ++fake.next_id;
}

uint64_t fake_random(void)
{
    fake.seed ^= fake.seed << 13;
    fake.seed ^= fake.seed >> 7;
    fake.seed ^= fake.seed << 17;
    return fake.seed;
}

void fake_break(cuda_context context, cuda_result code)
{
    if (context->error == CUDA_OK) {
        context->error = code;
    }
}

/* ---- which devices ---- */

static uint64_t device_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);

    return text == NULL || text[0] == '\0' ? otherwise : strtoull(text, NULL, 10);
}

static int device_parse_uuid(const char *text, size_t length, struct cuda_uuid *uuid_out)
{
    static const char dashes[] = {8, 13, 18, 23};
    uint32_t at = 0;

    if (length != 36) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < sizeof(dashes); i++) {
        if (text[(int)dashes[i]] != '-') {
            return -EINVAL;
        }
    }
    for (uint32_t i = 0; i < 16; i++) {
        unsigned int byte;

        at += text[at] == '-';
        if (sscanf(text + at, "%2x", &byte) != 1) {
            return -EINVAL;
        }
        uuid_out->bytes[i] = (char)byte;
        at += 2;
    }
    return 0;
}

/* All devices of the machine, in their physical order. */
static int device_list(struct cuda_uuid *uuids_out)
{
    const char *text = getenv("KVLANE_FAKE_CUDA_DEVICES");
    int count = 0;

    if (text == NULL || strchr(text, '-') == NULL) {
        count = text == NULL || text[0] == '\0' ? 1 : (int)strtol(text, NULL, 10);
        count = count > FAKE_DEVICES_MAX ? FAKE_DEVICES_MAX : count;
        for (int i = 0; i < count; i++) {
            memcpy(uuids_out[i].bytes, "kvlane\x40\x00\x80\x00 fake", 16);
            uuids_out[i].bytes[15] = (char)i;
        }
        return count;
    }
    while (text[0] != '\0' && count < FAKE_DEVICES_MAX) {
        size_t length = strcspn(text, ",");

        if (device_parse_uuid(text, length, &uuids_out[count]) < 0) {
            break;
        }
        count++;
        text += length + (text[length] == ',');
    }
    return count;
}

/* One entry of CUDA_VISIBLE_DEVICES as a physical number, -1 for a bad one. */
static int device_visible(const char *text, size_t length, const struct cuda_uuid *uuids, int count)
{
    struct cuda_uuid uuid;
    char *end;
    long number;

    if (length > 4 && strncasecmp(text, "GPU-", 4) == 0) {
        if (device_parse_uuid(text + 4, length - 4, &uuid) < 0) {
            return -1;
        }
        for (int i = 0; i < count; i++) {
            if (memcmp(&uuids[i], &uuid, sizeof(uuid)) == 0) {
                return i;
            }
        }
        return -1;
    }
    number = strtol(text, &end, 10);
    return end != text + length || length == 0 || number < 0 || number >= count ? -1 : (int)number;
}

static void device_add(int physical, const struct cuda_uuid *uuids)
{
    struct fake_device *device = &fake.devices[fake.device_count];

    device->physical = physical;
    device->uuid = uuids[physical];
    device->context.ordinal = fake.device_count++;
}

static void device_find_all(void)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    struct cuda_uuid uuids[FAKE_DEVICES_MAX];
    int count = device_list(uuids);

    fake.device_count = 0;
    if (visible == NULL) {
        for (int i = 0; i < count; i++) {
            device_add(i, uuids);
        }
        return;
    }
    while (visible[0] != '\0' && fake.device_count < FAKE_DEVICES_MAX) {
        size_t length = strcspn(visible, ",");
        int physical = device_visible(visible, length, uuids, count);

        if (physical < 0) {
            break;
        }
        device_add(physical, uuids);
        visible += length + (visible[length] == ',');
    }
}

/* ---- start and end ---- */

static cuda_result device_start(void)
{
    device_find_all();
    if (fake.device_count == 0) {
        return CUDA_E_NO_DEVICE;
    }
    fake.memory = device_number("KVLANE_FAKE_CUDA_MEMORY", 4ull << 30);
    fake.delay_ns = device_number("KVLANE_FAKE_CUDA_DELAY_US", 300) * 1000;
    fake.no_peers =
        getenv("KVLANE_FAKE_CUDA_PEERS") != NULL && device_number("KVLANE_FAKE_CUDA_PEERS", 1) == 0;
    fake.seed = device_number("KVLANE_FAKE_CUDA_SEED", 1) * 0x9e3779b97f4a7c15u + 1;
    if (fake_state_open() < 0) {
        fprintf(stderr, "fake_cuda: the state file cannot be used\n");
        return CUDA_E_OPERATING_SYSTEM;
    }
    __atomic_store_n(&fake.pid, getpid(), __ATOMIC_RELEASE);
    return CUDA_OK;
}

/* Rules of the environment hold for the first cuInit already. */
static void device_read_rules(void)
{
    if (fake_fail_rules(getenv("KVLANE_FAKE_CUDA_FAIL")) < 0) {
        fprintf(stderr, "fake_cuda: KVLANE_FAKE_CUDA_FAIL is not understood\n");
        abort();
    }
}

cuda_result cuInit(unsigned int flags)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    cuda_result code;

    pthread_once(&once, device_read_rules);
    code = fake_enter(__func__, FAKE_NOTHING);
    if (code != CUDA_OK) {
        return code;
    }
    if (flags != 0) {
        return CUDA_E_INVALID_VALUE;
    }
    fake_lock();
    if (fake.pid == 0) {
        code = device_start();
    }
    fake_unlock();
    return code;
}

__attribute__((destructor)) static void device_end(void)
{
    if (fake.pid != 0 && fake.pid == getpid()) {
        fake_lock();
        fake_state_close();
        fake_unlock();
    }
}

cuda_result cuDriverGetVersion(int *version_out)
{
    cuda_result code = fake_enter(__func__, FAKE_NOTHING);

    if (code == CUDA_OK) {
        *version_out = fake_version();
    }
    return code;
}

/* ---- devices ---- */

cuda_result cuDeviceGetCount(int *count_out)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK) {
        *count_out = fake.device_count;
    }
    return code;
}

cuda_result fake_device_enter(const char *name, cuda_device device)
{
    cuda_result code = fake_enter(name, FAKE_DRIVER);

    if (code == CUDA_OK && (device < 0 || device >= fake.device_count)) {
        code = CUDA_E_INVALID_DEVICE;
    }
    return code;
}

cuda_result cuDeviceGet(cuda_device *device_out, int ordinal)
{
    cuda_result code = fake_device_enter(__func__, ordinal);

    if (code == CUDA_OK) {
        *device_out = ordinal;
    }
    return code;
}

cuda_result cuDeviceGetName(char *name_out, int size, cuda_device device)
{
    cuda_result code = fake_device_enter(__func__, device);

    if (code == CUDA_OK && size <= 0) {
        code = CUDA_E_INVALID_VALUE;
    }
    if (code == CUDA_OK) {
        snprintf(name_out, (size_t)size, "kvlane fake GPU %d", fake.devices[device].physical);
    }
    return code;
}

cuda_result cuDeviceGetUuid_v2(struct cuda_uuid *uuid_out, cuda_device device)
{
    cuda_result code = fake_device_enter(__func__, device);

    if (code == CUDA_OK) {
        *uuid_out = fake.devices[device].uuid;
    }
    return code;
}

cuda_result cuDeviceGetAttribute(int *value_out, unsigned int attr, cuda_device device)
{
    cuda_result code = fake_device_enter(__func__, device);

    if (code != CUDA_OK) {
        return code;
    }
    switch (attr) {
    case CUDA_DEVICE_MULTIPROCESSORS:
        *value_out = 4;
        return CUDA_OK;
    case CUDA_DEVICE_CC_MAJOR:
        *value_out = 9;
        return CUDA_OK;
    case CUDA_DEVICE_CAN_MAP_HOST:
    case CUDA_DEVICE_UNIFIED_ADDRESSING:
    case CUDA_DEVICE_VMM:
    case CUDA_DEVICE_POSIX_FD:
    case CUDA_DEVICE_IPC_EVENT:
        *value_out = 1;
        return CUDA_OK;
    case CUDA_DEVICE_CC_MINOR:
    case CUDA_DEVICE_COMPUTE_MODE:
    case CUDA_DEVICE_FABRIC:
        *value_out = 0;
        return CUDA_OK;
    default:
        return CUDA_E_INVALID_VALUE;
    }
}

cuda_result cuDeviceCanAccessPeer(int *can_out, cuda_device device, cuda_device peer)
{
    cuda_result code = fake_device_enter(__func__, device);

    if (code == CUDA_OK && (peer < 0 || peer >= fake.device_count)) {
        code = CUDA_E_INVALID_DEVICE;
    }
    if (code == CUDA_OK) {
        *can_out = device != peer && !fake.no_peers;
    }
    return code;
}
