/* log.h - log lines in istiod's format, or JSON. Layer: obs. Thread: any (one write per line).
 *
 *   2026-11-23T21:12:40.123456Z\tinfo\t[scope\t]message[\tkey=value key=value]
 *
 * Scope "" is the default scope and is not printed. Labels are given as `struct log_label`.
 * Library rooms log at debug only; a failure is logged once, at the top. Never a secret.
 * Source: specs/istio-ca.md 8.4.
 */
#ifndef OBS_LOG_H
#define OBS_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
const char *log_level_name(enum log_level level); /* "debug", "info", "warn", "error" */

struct log_label {
    const char *key, *value; /* borrowed; a NULL value leaves the label out */
};

/* Where lines go and from which level on; call before any thread starts. Defaults: stdout, info,
 * text. fd    file descriptor, borrowed */
void log_setup(int fd, enum log_level min, bool json);
bool log_enabled(enum log_level level);

/* `labels` ends with a { NULL } row; NULL for none. */
void log_write(enum log_level level, const char *scope, const struct log_label *labels,
               const char *fmt, ...) PRINTF(4, 5);

/* Without labels. */
#define log_debug(scope, ...) log_write(LOG_DEBUG, (scope), NULL, __VA_ARGS__)
#define log_info(scope, ...)  log_write(LOG_INFO, (scope), NULL, __VA_ARGS__)
#define log_warn(scope, ...)  log_write(LOG_WARN, (scope), NULL, __VA_ARGS__)
#define log_error(scope, ...) log_write(LOG_ERROR, (scope), NULL, __VA_ARGS__)
/* With labels: log_with(LOG_INFO, "ca", LABELS({ "client", peer }, { "id", id }), "issued"); */
#define LABELS(...)                                                                                \
    (const struct log_label[])                                                                     \
    {                                                                                              \
        __VA_ARGS__,                                                                               \
        {                                                                                          \
            NULL, NULL                                                                             \
        }                                                                                          \
    }
#define log_with(level, scope, labels, ...) log_write((level), (scope), (labels), __VA_ARGS__)

/* For lines that anybody can cause who reaches a port: at most LOG_BRAKE_LINES in LOG_BRAKE_MS, so
 * that nobody fills a disk. Zeroed at the start; shared by threads. */
enum { LOG_BRAKE_LINES = 100, LOG_BRAKE_MS = 10 * 1000 };
struct log_brake {
    atomic_uint_least64_t turn; /* the LOG_BRAKE_MS that is counted */
    atomic_uint lines, left_out;
};
/* True: write the line. A line before the next turn's first says how many were left out.
 *   now_ms   mono_ms() */
MUST_USE bool log_brake(struct log_brake *b, const char *scope, uint64_t now_ms);

#endif
