/* err_map.c - one row per error code: what it means to a shell, an HTTP and a gRPC client. */
#include <assert.h>

#include "base/err.h"

/* clang-format off */
static const struct err_meaning meanings[] = {
    /*               name         what                                               exit http grpc retryable */
    [E_NONE]     = { "ok",       "done",                                            0, 200,  0, false },
    [E_NOMEM]    = { "nomem",    "out of memory",                                   10, 503,  8, true  },
    [E_SYS]      = { "sys",      "the system refused (file, disk, port)",           11, 500, 13, true  },
    [E_INVAL]    = { "inval",    "wrong usage",                                     2, 400,  3, false },
    [E_PARSE]    = { "parse",    "malformed input",                                 12, 400,  3, false },
    [E_AUTH]     = { "auth",     "not authenticated",                               13, 401, 16, false },
    [E_DENIED]   = { "denied",   "refused",                                         14, 403,  7, false },
    [E_NOTFOUND] = { "notfound", "not found",                                       3, 404,  5, false },
    [E_EXISTS]   = { "exists",   "exists already",                                  15, 409,  6, false },
    [E_LIMIT]    = { "limit",    "a limit was reached",                             16, 429,  8, true  },
    [E_STATE]    = { "state",    "wrong state; held",                               17, 409,  9, false },
    [E_CONFLICT] = { "conflict", "somebody else changed it first",                  18, 409, 10, true  },
    [E_PEER]     = { "peer",     "the other side broke the protocol or went away",  19, 502, 14, true  },
    [E_BUSY]     = { "busy",     "come back later",                                 20, 503, 14, true  },
    [E_TIMEOUT]  = { "timeout",  "no answer in time",                               21, 504, 14, true  },
    [E_CRYPTO]   = { "crypto",   "a cryptographic check failed",                    22, 500, 13, false },
};
/* clang-format on */
static_assert(ARRAY_LEN(meanings) == E__MAX, "one row per error code");

const struct err_meaning *
err_meaning(enum err_code code)
{
    return &meanings[code < E__MAX ? code : E_SYS];
}
