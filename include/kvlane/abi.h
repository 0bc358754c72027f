/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file abi.h
 * Rules that both ABIs of kvlane share. kvlane has two surfaces, each with its own version:
 *
 *   engine  <-> core     plugin.h    kvlane_plugin_v1()
 *   core    <-> backend  backend.h   kvlane_backend_v1()
 *
 * - The number in the entry symbol is the major version; a new major gets a new symbol.
 * - Every table and every extensible record begins with its own size. Fields and slots are only
 *   ever added at the end. The reader copies as much as both sides know; what is missing is zero.
 * - All times are milliseconds of CLOCK_MONOTONIC. A deadline is an absolute time.
 * - All sizes are bytes. All integers have a fixed width; padding is spelled out.
 * - Functions return 0 or a negative errno; outputs are untouched on failure unless said otherwise.
 *
 * The layout is that of LP64 systems (x86-64, aarch64).
 */
#ifndef KVL_ABI_H
#define KVL_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define KVL_STATIC_ASSERT(cond, text) static_assert(cond, text)
#define KVL_EXTERN_C_BEGIN extern "C" {
#define KVL_EXTERN_C_END }
#else
#define KVL_STATIC_ASSERT(cond, text) _Static_assert(cond, text)
#define KVL_EXTERN_C_BEGIN
#define KVL_EXTERN_C_END
#endif

#if defined(__GNUC__)
#define KVL_EXPORT __attribute__((visibility("default")))
#define KVL_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define KVL_EXPORT
#define KVL_PRINTF(fmt, first)
#endif

/**
 * True when a table received from another binary has the slot: inside its declared size and set.
 * Needed only on a table that was not yet copied into a full one.
 */
#define KVL_HAS_OP(table, slot)                                                                    \
    ((size_t)(table)->size >= (size_t)((const char *)(&(table)->slot) - (const char *)(table)) +   \
                                  sizeof((table)->slot) &&                                         \
     (table)->slot != NULL)

/** No deadline at all. A deadline of 0 stands for the default in the INI file. */
#define KVL_NEVER UINT64_MAX

KVL_STATIC_ASSERT(sizeof(void *) == 8, "the kvlane ABI is defined for 64-bit systems");

#endif /* KVL_ABI_H */
