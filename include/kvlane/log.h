/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file log.h
 * Log levels, the sink an engine may provide, and macros that check their format.
 *
 * Finished text crosses the ABI, never a format with arguments. A line that is not wanted costs one
 * comparison. Text is lower case, begins with the component, quotes values, and holds no payload.
 */
#ifndef KVL_LOG_H
#define KVL_LOG_H

#include <kvlane/abi.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

KVL_EXTERN_C_BEGIN

#define KVL_LOG_OFF 0
#define KVL_LOG_ERROR 1 /* the operation is lost */
#define KVL_LOG_WARN 2 /* we go on; the text says how */
#define KVL_LOG_INFO 3 /* a state changed, once */
#define KVL_LOG_DEBUG 4 /* per object */
#define KVL_LOG_TRACE 5 /* per chunk */

/** Longest line, with its terminator; longer text is cut and ends in "...". */
#define KVL_LOG_LINE 1024

/**
 * Takes one finished line. Called from any thread, several at once, with no lock of kvlane held.
 * Must not call back into kvlane. `text` and the rest are borrowed for the call.
 */
typedef void (*kvl_log_fn)(void *ctx, int32_t level, const char *component, const char *file,
                           int32_t line, const char *text);

/** A component's way to the sink. Made by the core; read-only to its users. */
struct kvl_log {
    kvl_log_fn write;
    void *ctx;
    const char *component;
    int32_t level; /* lines above it are dropped; may change at any time */
    uint32_t reserved; /* 0 */
};
KVL_STATIC_ASSERT(sizeof(struct kvl_log) == 32, "struct kvl_log is part of the ABI");

static inline void kvl_log_write(const struct kvl_log *log, int level, const char *file, int line,
                                 const char *fmt, ...) KVL_PRINTF(5, 6);

static inline void kvl_log_write(const struct kvl_log *log, int level, const char *file, int line,
                                 const char *fmt, ...)
{
    char text[KVL_LOG_LINE];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (n >= (int)sizeof(text)) {
        memcpy(text + sizeof(text) - 4, "...", 4);
    }
    log->write(log->ctx, level, log->component, file, line, n < 0 ? fmt : text);
}

#define kvl_log_at(log, lvl, ...)                                                                  \
    do {                                                                                           \
        const struct kvl_log *kvl_log_ = (log);                                                    \
        if (__atomic_load_n(&kvl_log_->level, __ATOMIC_RELAXED) >= (lvl)) {                        \
            kvl_log_write(kvl_log_, (lvl), __FILE__, __LINE__, __VA_ARGS__);                       \
        }                                                                                          \
    } while (0)

#define kvl_error(log, ...) kvl_log_at(log, KVL_LOG_ERROR, __VA_ARGS__)
#define kvl_warn(log, ...) kvl_log_at(log, KVL_LOG_WARN, __VA_ARGS__)
#define kvl_info(log, ...) kvl_log_at(log, KVL_LOG_INFO, __VA_ARGS__)
#define kvl_debug(log, ...) kvl_log_at(log, KVL_LOG_DEBUG, __VA_ARGS__)
#define kvl_trace(log, ...) kvl_log_at(log, KVL_LOG_TRACE, __VA_ARGS__)

KVL_EXTERN_C_END

#endif /* KVL_LOG_H */
