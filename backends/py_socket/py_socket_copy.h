/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file py_socket_copy.h
 * memcpy for transfers between mapped buffers: large copies go past the caches.
 */
#ifndef KVL_PY_SOCKET_COPY_H
#define KVL_PY_SOCKET_COPY_H

#include <stddef.h>

/** From how many bytes on stores bypass the caches. */
#define PY_SOCKET_COPY_STREAM ((size_t)64 * 1024)

/**
 * Copies as memcpy. The ranges must not overlap.
 * All stores are visible to other threads that see anything the caller stores afterwards.
 */
void py_socket_copy(void *to, const void *from, size_t bytes);

#endif /* KVL_PY_SOCKET_COPY_H */
