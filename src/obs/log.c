#include "obs/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/str.h"

enum { LINE_MAX_BYTES = 64 * 1024 };

static struct {
    int fd;
    enum log_level min;
    bool json;
} conf = { STDOUT_FILENO, LOG_INFO, false };

static const char *const names[] = {
    [LOG_DEBUG] = "debug",
    [LOG_INFO] = "info",
    [LOG_WARN] = "warn",
    [LOG_ERROR] = "error",
};

const char *
log_level_name(enum log_level level)
{
    return names[level];
}

void
log_setup(int fd, enum log_level min, bool json)
{
    conf.fd = fd;
    conf.min = min;
    conf.json = json;
}

bool
log_enabled(enum log_level level)
{
    return level >= conf.min;
}

static int
json_string(struct buf *b, const char *s, struct err *e)
{
    TRY(buf_add_byte(b, '"', e));
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\')
            TRY(buf_addf(b, e, "\\%c", c));
        else if (c == '\n')
            TRY(buf_add_str(b, "\\n", e));
        else if (c < 0x20 || c == 0x7f)
            TRY(buf_addf(b, e, "\\u%04x", c));
        else
            TRY(buf_add_byte(b, c, e));
    }
    return buf_add_byte(b, '"', e);
}

static int
json_member(struct buf *b, const char *key, const char *value, struct err *e)
{
    TRY(buf_addf(b, e, "%s\"%s\":", b->n == 0 ? "{" : ",", key));
    return json_string(b, value, e);
}

static int
line_json(struct buf *b, enum log_level level, const char *scope, const struct log_label *labels,
          const char *msg, struct err *e)
{
    char now[RFC3339_BYTES];

    rfc3339_us(unix_us(), now);
    TRY(json_member(b, "level", names[level], e));
    TRY(json_member(b, "time", now, e));
    if (scope[0] != '\0')
        TRY(json_member(b, "scope", scope, e));
    TRY(json_member(b, "msg", msg, e));
    for (; labels != NULL && labels->key != NULL; labels++)
        if (labels->value != NULL)
            TRY(json_member(b, labels->key, labels->value, e));
    return buf_add_str(b, "}\n", e);
}

/* A peer may choose a label's text or part of a message: control characters never reach the line,
 * and what is quoted does not end its quotes. */
static int
text_clean(struct buf *b, const char *s, bool quoted, struct err *e)
{
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        bool ok = (c >= 0x20 && c != 0x7f) || c == '\t';

        if (quoted && (c == '"' || c == '\\'))
            TRY(buf_add_byte(b, '\\', e));
        TRY(buf_add_byte(b, ok ? c : '?', e));
    }
    return 0;
}

static int
line_text(struct buf *b, enum log_level level, const char *scope, const struct log_label *labels,
          const char *msg, struct err *e)
{
    char now[RFC3339_BYTES];
    const char *sep = "\t";

    rfc3339_us(unix_us(), now);
    TRY(buf_addf(b, e, "%s\t%s\t%s%s", now, names[level], scope, scope[0] == '\0' ? "" : "\t"));
    TRY(text_clean(b, msg, false, e));
    for (; labels != NULL && labels->key != NULL; labels++) {
        if (labels->value == NULL)
            continue;
        bool quote = labels->value[0] == '\0' || strpbrk(labels->value, " \t\n\"=") != NULL;

        TRY(buf_addf(b, e, "%s%s=%s", sep, labels->key, quote ? "\"" : ""));
        TRY(text_clean(b, labels->value, quote, e));
        TRY(buf_add_str(b, quote ? "\"" : "", e));
        sep = " ";
    }
    return buf_add_byte(b, '\n', e);
}

void
log_write(enum log_level level, const char *scope, const struct log_label *labels, const char *fmt,
          ...)
{
    struct buf b = BUF_INIT(LINE_MAX_BYTES);
    struct err e = { 0 };
    char *msg = NULL;
    va_list ap;

    if (!log_enabled(level))
        return;
    va_start(ap, fmt);
    int n = vasprintf(&msg, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    int r = conf.json ? line_json(&b, level, scope, labels, msg, &e)
                      : line_text(&b, level, scope, labels, msg, &e);
    if (r == 0)
        (void)!write(conf.fd, b.p, b.n); /* a full pipe or a closed terminal must not stop a CA */
    buf_done(&b);
    free(msg);
}

bool
log_brake(struct log_brake *b, const char *scope, uint64_t now_ms)
{
    uint64_t turn = now_ms / LOG_BRAKE_MS + 1, was = atomic_load(&b->turn);

    if (was < turn && atomic_compare_exchange_strong(&b->turn, &was, turn)) {
        unsigned left_out = atomic_exchange(&b->left_out, 0);

        atomic_store(&b->lines, 0);
        if (left_out > 0)
            log_warn(scope, "%u lines like the next one were left out", left_out);
    }
    if (atomic_fetch_add(&b->lines, 1) < LOG_BRAKE_LINES)
        return true;
    (void)atomic_fetch_add(&b->left_out, 1);
    return false;
}
