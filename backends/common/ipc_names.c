/* SPDX-License-Identifier: Apache-2.0 */
#include "ipc_names.h"

#include <string.h>

#define NAMES_COUNT(list) (sizeof(list) / sizeof((list)[0]))

static const struct {
    const char *name;
    uint32_t bytes;
} names_dtypes[] = {
    [KVL_IPC_DTYPE_FLOAT16] = {"float16", 2},
    [KVL_IPC_DTYPE_BFLOAT16] = {"bfloat16", 2},
    [KVL_IPC_DTYPE_FLOAT32] = {"float32", 4},
    [KVL_IPC_DTYPE_FLOAT64] = {"float64", 8},
    [KVL_IPC_DTYPE_FLOAT8_E4M3FN] = {"float8_e4m3fn", 1},
    [KVL_IPC_DTYPE_FLOAT8_E5M2] = {"float8_e5m2", 1},
    [KVL_IPC_DTYPE_FLOAT8_E4M3FNUZ] = {"float8_e4m3fnuz", 1},
    [KVL_IPC_DTYPE_FLOAT8_E5M2FNUZ] = {"float8_e5m2fnuz", 1},
    [KVL_IPC_DTYPE_FLOAT8_E8M0FNU] = {"float8_e8m0fnu", 1},
    [KVL_IPC_DTYPE_UINT8] = {"uint8", 1},
    [KVL_IPC_DTYPE_INT8] = {"int8", 1},
    [KVL_IPC_DTYPE_INT16] = {"int16", 2},
    [KVL_IPC_DTYPE_INT32] = {"int32", 4},
    [KVL_IPC_DTYPE_INT64] = {"int64", 8},
    [KVL_IPC_DTYPE_BOOL] = {"bool", 1},
};

/* Wrappers of LMCache after the generations that are handled; NULL = any. */
static const struct {
    const char *module;
    const char *name;
} names_later[] = {
    {KVL_IPC_WRAPPER_MODULE, "RawCudaIPCWrapper"},
    {"lmcache.v1.platform.cuda.ipc_wrapper", NULL},
    {NULL, "DeviceIPCWrapper"},
};

int kvl_ipc_bytes_are(struct kvl_ipc_bytes bytes, const char *text)
{
    const size_t length = strlen(text);

    return bytes.length == length && memcmp(bytes.at, text, length) == 0;
}

int kvl_ipc_bytes_equal(struct kvl_ipc_bytes a, struct kvl_ipc_bytes b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.at, b.at, a.length) == 0);
}

const char *kvl_ipc_dtype_name(uint32_t dtype)
{
    return dtype < NAMES_COUNT(names_dtypes) ? names_dtypes[dtype].name : NULL;
}

uint32_t kvl_ipc_dtype_bytes(uint32_t dtype)
{
    return dtype < NAMES_COUNT(names_dtypes) ? names_dtypes[dtype].bytes : 0;
}

static enum kvl_ipc_symbol names_find_torch(struct kvl_ipc_bytes name, uint32_t *dtype_out)
{
    if (kvl_ipc_bytes_are(name, KVL_IPC_TORCH_SIZE)) {
        return KVL_IPC_SYMBOL_SIZE;
    }
    for (uint32_t i = 1; i < NAMES_COUNT(names_dtypes); i++) {
        if (kvl_ipc_bytes_are(name, names_dtypes[i].name)) {
            *dtype_out = i;
            return KVL_IPC_SYMBOL_DTYPE;
        }
    }
    return KVL_IPC_SYMBOL_NONE;
}

enum kvl_ipc_symbol kvl_ipc_symbol_find(struct kvl_ipc_bytes module, struct kvl_ipc_bytes name,
                                        uint32_t *dtype_out)
{
    if (kvl_ipc_bytes_are(module, KVL_IPC_TORCH_MODULE)) {
        return names_find_torch(name, dtype_out);
    }
    if (kvl_ipc_bytes_are(module, KVL_IPC_WRAPPER_MODULE) &&
        kvl_ipc_bytes_are(name, KVL_IPC_WRAPPER_CLASS)) {
        return KVL_IPC_SYMBOL_WRAPPER;
    }
    for (size_t i = 0; i < NAMES_COUNT(names_later); i++) {
        if ((names_later[i].module == NULL || kvl_ipc_bytes_are(module, names_later[i].module)) &&
            (names_later[i].name == NULL || kvl_ipc_bytes_are(name, names_later[i].name))) {
            return KVL_IPC_SYMBOL_LATER;
        }
    }
    return KVL_IPC_SYMBOL_NONE;
}

const char *kvl_ipc_show(struct kvl_ipc_bytes text, char *out)
{
    const char *at = text.at;
    size_t length = text.length < KVL_IPC_SHOW_ROOM ? text.length : KVL_IPC_SHOW_ROOM - 1;

    for (size_t i = 0; i < length; i++) {
        out[i] = at[i];
        if (at[i] < ' ' || at[i] > '~') {
            out[i] = '?';
        }
    }
    out[length] = '\0';
    return out;
}
