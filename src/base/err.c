#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

void
err_set_at(struct err *e, enum err_code code, int sys, const char *file, int line, const char *fmt,
           ...)
{
    va_list ap;
    char msg[ERR_MSG_BYTES]; /* an argument may be e->msg itself */

    va_start(ap, fmt);
    (void)vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    *e = (struct err){ .code = code, .sys = sys, .file = file, .line = line };
    if (sys != 0)
        (void)snprintf(e->msg, sizeof(e->msg), "%.*s: %s", ERR_MSG_BYTES / 2 + 128, msg,
                       strerrordesc_np(sys));
    else
        memcpy(e->msg, msg, sizeof(msg));
    for (char *p = e->msg; *p != '\0'; p++)
        if ((unsigned char)*p < 0x20)
            *p = ' ';
    utf8_repair(e->msg); /* a peer may have a say in it, and it may be cut: status pages show it */
}

void
err_wrap_at(struct err *e, const char *fmt, ...)
{
    char ctx[sizeof(e->msg)];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(ctx, sizeof(ctx), fmt, ap);
    va_end(ap);
    size_t have = strlen(e->msg);
    if (n > 0 && (size_t)n + 2 + have < sizeof(e->msg)) {
        memmove(e->msg + n + 2, e->msg, have + 1);
        memcpy(e->msg, ctx, (size_t)n);
        memcpy(e->msg + n, ": ", 2);
        utf8_repair(e->msg);
    }
}
