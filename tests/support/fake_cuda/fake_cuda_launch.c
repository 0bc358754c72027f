/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Modules, their functions, and launches.
 */
#include <stdlib.h>
#include <string.h>

#include "fake_cuda_kernels.h"
#include "fake_cuda_objects.h"

#define MODULE_TAG 0x3d00000000000000ull
#define FUNCTION_TAG 0xf000000000000000ull
#define FATBIN_MAGIC 0xba55ed50u
#define THREADS_MAX 1024u

struct fake_module {
    struct fake_module *next;
    uint64_t id;
    cuda_context context;
    char *text; /* of PTX; NULL for binaries */
};

struct fake_function {
    struct fake_function *next;
    uint64_t id;
    uint64_t module;
    const struct fake_cuda_kernel *kernel;
};

/* Pins of a launch, given back when it ends. */
struct launch_pin {
    struct launch_pin *next;
    struct fake_pin pin;
};

struct launch_op {
    struct fake_op op;
    struct fake_cuda_launch launch;
    const struct fake_cuda_kernel *kernel;
    uint64_t values[]; /* copies of the parameters */
};

static struct {
    struct fake_module *modules;
    struct fake_function *functions;
} launches;

/* ---- modules ---- */

static cuda_result module_read(const void *image, char **text_out)
{
    uint32_t magic;

    *text_out = NULL;
    memcpy(&magic, image, sizeof(magic));
    if (magic == FATBIN_MAGIC || memcmp(image, "\177ELF", 4) == 0) {
        return CUDA_OK;
    }
    if (strstr(image, ".version") == NULL) {
        return CUDA_E_INVALID_IMAGE;
    }
    *text_out = strdup(image);
    return *text_out == NULL ? CUDA_E_OUT_OF_MEMORY : CUDA_OK;
}

cuda_result cuModuleLoadData(cuda_module *module_out, const void *image)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_module *module;

    if (code != CUDA_OK) {
        return code;
    }
    if (image == NULL) {
        return CUDA_E_INVALID_VALUE;
    }
    module = calloc(1, sizeof(*module));
    if (module == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    code = module_read(image, &module->text);
    if (code != CUDA_OK) {
        free(module);
        return code;
    }
    fake_lock();
    module->id = MODULE_TAG | fake_new_id();
    module->context = fake_current();
    module->next = launches.modules;
    launches.modules = module;
    fake_unlock();
    *module_out = (cuda_module)(uintptr_t)module->id;
    return CUDA_OK;
}

static struct fake_module **module_find(cuda_module handle)
{
    struct fake_module **at = &launches.modules;

    while (*at != NULL && (*at)->id != (uintptr_t)handle) {
        at = &(*at)->next;
    }
    return at;
}

static void module_drop_functions(uint64_t id)
{
    struct fake_function **at = &launches.functions;

    while (*at != NULL) {
        struct fake_function *function = *at;

        if (function->module == id) {
            *at = function->next;
            free(function);
        } else {
            at = &function->next;
        }
    }
}

static void module_end(struct fake_module **at)
{
    struct fake_module *module = *at;

    *at = module->next;
    module_drop_functions(module->id);
    free(module->text);
    free(module);
}

void fake_module_end_all(cuda_context context)
{
    struct fake_module **at = &launches.modules;

    while (*at != NULL) {
        if ((*at)->context == context) {
            module_end(at);
        } else {
            at = &(*at)->next;
        }
    }
}

cuda_result cuModuleUnload(cuda_module handle)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    struct fake_module **at;

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    at = module_find(handle);
    if (*at == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else {
        module_end(at);
    }
    fake_unlock();
    return code;
}

static cuda_result module_function(cuda_function *function_out, cuda_module handle,
                                   const char *name)
{
    const struct fake_module *module = *module_find(handle);
    const struct fake_cuda_kernel *kernel = fake_cuda_kernel_find(name);
    struct fake_function *function;

    if (module == NULL) {
        return CUDA_E_INVALID_HANDLE;
    }
    if (kernel == NULL || (module->text != NULL && strstr(module->text, name) == NULL)) {
        return CUDA_E_NOT_FOUND;
    }
    function = calloc(1, sizeof(*function));
    if (function == NULL) {
        return CUDA_E_OUT_OF_MEMORY;
    }
    function->id = FUNCTION_TAG | fake_new_id();
    function->module = module->id;
    function->kernel = kernel;
    function->next = launches.functions;
    launches.functions = function;
    *function_out = (cuda_function)(uintptr_t)function->id;
    return CUDA_OK;
}

cuda_result cuModuleGetFunction(cuda_function *function_out, cuda_module handle, const char *name)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        fake_lock();
        code = module_function(function_out, handle, name);
        fake_unlock();
    }
    return code;
}

uint32_t fake_module_count(void)
{
    uint32_t count = 0;

    for (const struct fake_module *module = launches.modules; module != NULL;
         module = module->next) {
        count++;
    }
    return count;
}

static const struct fake_function *function_find(cuda_function handle)
{
    const struct fake_function *function = launches.functions;

    while (function != NULL && function->id != (uintptr_t)handle) {
        function = function->next;
    }
    return function;
}

cuda_result cuFuncSetAttribute(cuda_function handle, unsigned int attr, int value)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    if (function_find(handle) == NULL) {
        code = CUDA_E_INVALID_HANDLE;
    } else if (attr != CUDA_FUNC_MAX_DYNAMIC_SHARED || value < 0) {
        code = CUDA_E_INVALID_VALUE;
    }
    fake_unlock();
    return code;
}

/* ---- launches ---- */

void *fake_cuda_at(struct fake_cuda_launch *launch, cuda_ptr ptr, size_t bytes, int write)
{
    struct launch_pin *pin = calloc(1, sizeof(*pin));
    cuda_result code = CUDA_E_OUT_OF_MEMORY;

    if (pin != NULL) {
        fake_lock();
        code = fake_range_pin(launch->context, ptr, bytes, write, &pin->pin);
        if (code == CUDA_OK && pin->pin.place == FAKE_PAGEABLE) {
            code = CUDA_E_ILLEGAL_ADDRESS; /* a kernel does not reach it */
        }
        fake_unlock();
    }
    if (code != CUDA_OK) {
        free(pin);
        return NULL;
    }
    pin->next = launch->pins;
    launch->pins = pin;
    return pin->pin.host;
}

static cuda_result launch_run(struct fake_op *op)
{
    struct launch_op *work = (struct launch_op *)op;
    cuda_result code = work->kernel->run(&work->launch);
    struct launch_pin *pin = work->launch.pins;

    fake_lock();
    while (pin != NULL) {
        struct launch_pin *next = pin->next;

        fake_range_unpin(&pin->pin);
        free(pin);
        pin = next;
    }
    fake_unlock();
    return code;
}

static void launch_drop(struct fake_op *op)
{
    free(op);
}

static struct launch_op *launch_create(const struct fake_cuda_kernel *kernel, void **params)
{
    struct launch_op *work;
    size_t words = 0;

    for (uint32_t i = 0; i < kernel->param_count; i++) {
        words += (kernel->param_bytes[i] + 7) / 8;
    }
    work = calloc(1, sizeof(*work) + words * sizeof(work->values[0]));
    if (work == NULL) {
        return NULL;
    }
    words = 0;
    work->op.run = launch_run;
    work->op.drop = launch_drop;
    work->kernel = kernel;
    for (uint32_t i = 0; i < kernel->param_count; i++) {
        memcpy(&work->values[words], params[i], kernel->param_bytes[i]);
        work->launch.params[i] = &work->values[words];
        words += (kernel->param_bytes[i] + 7) / 8;
    }
    return work;
}

cuda_result cuLaunchKernel(cuda_function handle, unsigned int grid_x, unsigned int grid_y,
                           unsigned int grid_z, unsigned int block_x, unsigned int block_y,
                           unsigned int block_z, unsigned int shared_bytes, cuda_stream stream,
                           void **params, void **extra)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);
    const struct fake_function *function;
    struct fake_stream *target;
    struct launch_op *work;

    if (code != CUDA_OK) {
        return code;
    }
    if (extra != NULL || params == NULL || grid_x == 0 || grid_y == 0 || grid_z == 0 ||
        block_x == 0 || block_y == 0 || block_z == 0 || grid_y > 65535 || grid_z > 65535 ||
        (uint64_t)block_x * block_y * block_z > THREADS_MAX) {
        return CUDA_E_INVALID_VALUE;
    }
    fake_lock();
    function = function_find(handle);
    target = fake_stream_find(stream);
    if (function == NULL || target == NULL || target->context != fake_current()) {
        fake_unlock();
        return CUDA_E_INVALID_HANDLE;
    }
    work = launch_create(function->kernel, params);
    if (work != NULL) {
        work->launch.context = target->context;
        work->launch.shared_bytes = shared_bytes;
        memcpy(work->launch.grid, (const uint32_t[]){grid_x, grid_y, grid_z}, 12);
        memcpy(work->launch.block, (const uint32_t[]){block_x, block_y, block_z}, 12);
        fake_stream_push(target, &work->op);
    }
    fake_unlock();
    return work == NULL ? CUDA_E_OUT_OF_MEMORY : CUDA_OK;
}
