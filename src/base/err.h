/* err.h - the one error type. Layer: base. Thread: caller's stack, never shared.
 *
 * Every fallible function returns int and takes `struct err *e` last (never NULL):
 *   r < 0   failed; *e holds the cause; the value is -(enum err_code)
 *   r == 0  done
 *   r > 0   an outcome the header documents (not found, would block, duplicate);
 *           the caller must act on it and must not pass it on
 *
 * A code says what the caller can do, not where it broke; one row for each in err_map.c.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdbool.h>

#include "base/attr.h"

/* clang-format off */
enum err_code {
    E_NONE,
    E_NOMEM,     /* out of memory */
    E_SYS,       /* the operating system refused; errno in `sys` */
    E_INVAL,     /* the caller's argument or flag is wrong */
    E_PARSE,     /* bytes that do not follow their format */
    E_AUTH,      /* who is calling is not known: no, bad or expired credentials */
    E_DENIED,    /* the caller is known and may not do this; or the data breaks a rule of trust */
    E_NOTFOUND,  /* the named thing does not exist */
    E_EXISTS,    /* the named thing exists already and is not overwritten */
    E_LIMIT,     /* a documented bound was reached */
    E_STATE,     /* not now: the thing is in a state that forbids it */
    E_CONFLICT,  /* somebody else changed it first: read again, decide again */
    E_PEER,      /* the other side broke the protocol, or went away */
    E_BUSY,      /* the other side asks to come back later (429, 503) */
    E_TIMEOUT,   /* no answer in time */
    E_CRYPTO,    /* a cryptographic operation failed, or a signature is wrong */
    E__MAX
};
/* clang-format on */

enum { ERR_MSG_BYTES = 512 };

struct err {
    enum err_code code;
    int sys;          /* errno at the origin, 0 if none */
    const char *file; /* origin, static storage */
    int line;
    unsigned retry_after_s;  /* E_BUSY: the seconds the peer asked for, 0 if it did not say */
    char msg[ERR_MSG_BYTES]; /* UTF-8: "outer: inner: cause", no secrets, no newline */
};

/* Records a failure at its origin. Yields -code so that callers can `return err_set(...)`. */
#define err_set(e, code, ...)                                                                      \
    (err_set_at((e), (code), 0, __FILE__, __LINE__, __VA_ARGS__), -(int)(code))
#define err_sys(e, no, ...)                                                                        \
    (err_set_at((e), E_SYS, (no), __FILE__, __LINE__, __VA_ARGS__), -(int)E_SYS)
#define err_nomem(e) err_set((e), E_NOMEM, "out of memory")
void err_set_at(struct err *e, enum err_code code, int sys, const char *file, int line,
                const char *fmt, ...) PRINTF(6, 7);

/* Puts what the caller was doing in front of the message; drops the context, never the cause,
 * when the two do not fit. Yields -e->code. */
#define err_wrap(e, ...) (err_wrap_at((e), __VA_ARGS__), err_result(e))
void err_wrap_at(struct err *e, const char *fmt, ...) PRINTF(2, 3);

/* -e->code of a failure that is recorded already; negative even if a caller forgot to record it. */
static inline int
err_result(const struct err *e)
{
    int code = (int)e->code;

    return code > 0 ? -code : -(int)E_SYS;
}

/* What a code means to each kind of caller. Source: specs/istio-ca.md 1.5, gRPC status codes. */
struct err_meaning {
    const char *name; /* "denied"; in logs, JSON and metrics */
    const char *what; /* "refused"; for `meshroot --help` */
    int exit_status;  /* of the command: stable, documented in `meshroot --help` */
    int http_status;
    int grpc_code;
    bool retryable; /* the same call may succeed later without anyone changing anything */
};
const struct err_meaning *err_meaning(enum err_code code);

#endif
