/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Primary contexts, and which one is current on a thread.
 */
#include "fake_cuda_objects.h"

#define STACK_MAX 16

static _Thread_local struct {
    cuda_context contexts[STACK_MAX];
    uint32_t depth;
} context_stack;

cuda_result cuDevicePrimaryCtxRetain(cuda_context *context_out, cuda_device device)
{
    cuda_result code = fake_device_enter(__func__, device);

    if (code != CUDA_OK) {
        return code;
    }
    fake_lock();
    if (fake.devices[device].context.retained++ == 0) {
        fake.devices[device].context.error = CUDA_OK;
    }
    fake_unlock();
    *context_out = &fake.devices[device].context;
    return CUDA_OK;
}

cuda_result cuDevicePrimaryCtxRelease_v2(cuda_device device)
{
    cuda_result code = fake_device_enter(__func__, device);
    cuda_context context;

    if (code != CUDA_OK) {
        return code;
    }
    context = &fake.devices[device].context;
    fake_lock();
    if (context->retained == 0) {
        code = CUDA_E_INVALID_CONTEXT;
    } else if (context->retained == 1) {
        /* everything made in it goes with it */
        fake_stream_end_all(context);
        fake_event_end_all(context);
        fake_module_end_all(context);
        fake_map_end_all(context);
        context->retained = 0;
    } else {
        context->retained--;
    }
    fake_unlock();
    return code;
}

cuda_context fake_current(void)
{
    return context_stack.depth == 0 ? NULL : context_stack.contexts[context_stack.depth - 1];
}

static int context_is_live(cuda_context context)
{
    for (int i = 0; i < fake.device_count; i++) {
        if (context == &fake.devices[i].context) {
            return context->retained > 0;
        }
    }
    return 0;
}

static cuda_result context_check(cuda_context context)
{
    int good;

    fake_lock();
    good = context_is_live(context);
    fake_unlock();
    return good ? CUDA_OK : CUDA_E_INVALID_CONTEXT;
}

cuda_result cuCtxSetCurrent(cuda_context context)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK && context != NULL) {
        code = context_check(context);
    }
    if (code != CUDA_OK) {
        return code;
    }
    if (context == NULL) {
        context_stack.depth -= context_stack.depth > 0;
        return CUDA_OK;
    }
    context_stack.depth += context_stack.depth == 0;
    context_stack.contexts[context_stack.depth - 1] = context;
    return CUDA_OK;
}

cuda_result cuCtxGetCurrent(cuda_context *context_out)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK) {
        *context_out = fake_current();
    }
    return code;
}

cuda_result cuCtxPushCurrent_v2(cuda_context context)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK) {
        code = context_check(context);
    }
    if (code == CUDA_OK && context_stack.depth == STACK_MAX) {
        code = CUDA_E_OUT_OF_MEMORY;
    }
    if (code == CUDA_OK) {
        context_stack.contexts[context_stack.depth++] = context;
    }
    return code;
}

cuda_result cuCtxPopCurrent_v2(cuda_context *context_out)
{
    cuda_result code = fake_enter(__func__, FAKE_DRIVER);

    if (code == CUDA_OK && context_stack.depth == 0) {
        code = CUDA_E_INVALID_CONTEXT;
    }
    if (code == CUDA_OK) {
        context_stack.depth--;
        if (context_out != NULL) {
            *context_out = context_stack.contexts[context_stack.depth];
        }
    }
    return code;
}

cuda_result cuCtxGetDevice(cuda_device *device_out)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        *device_out = fake_current()->ordinal;
    }
    return code;
}

cuda_result cuCtxGetStreamPriorityRange(int *least_out, int *greatest_out)
{
    cuda_result code = fake_enter(__func__, FAKE_CONTEXT);

    if (code == CUDA_OK) {
        *least_out = 0;
        *greatest_out = -5;
    }
    return code;
}
