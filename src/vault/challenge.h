/* challenge.h - private to vault/: URLs and the bearer challenge as a client sees them. Thread:
 * any. Source: specs/azure.md 1.10, 7; RFC 9110 11.6.1.
 */
#ifndef VAULT_CHALLENGE_H
#define VAULT_CHALLENGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

enum {
    CHALLENGE_MAX_BYTES = 2048,
    URL_HOST_BYTES = 256,
    CHALLENGE_TENANT_BYTES = 128,
    CHALLENGE_SCOPE_BYTES = 512
};

/* "https://host[:port][/path]". */
struct origin {
    bool is_https;
    char host[URL_HOST_BYTES]; /* lower-case; IPv6 in brackets */
    uint16_t port;             /* the scheme's own when not given */
};

/* *ret_path is what follows host and port, borrowed. Errors: INVAL (says what is wrong). No user,
 * no fragment. */
MUST_USE int origin_parse(struct span url, struct origin *ret, struct span *ret_path,
                          struct err *e);
/* "https://host[:port]", the port only when it is not the scheme's own. */
enum { ORIGIN_BYTES = URL_HOST_BYTES + 16 };
void origin_text(const struct origin *o, char ret[ORIGIN_BYTES]);
bool origin_eq(const struct origin *a, const struct origin *b);
/* An IP address or localhost: no DNS name stands behind it. */
bool origin_is_bare(const struct origin *o);
bool origin_is_loopback(const struct origin *o);

struct challenge {
    struct origin authority;
    char tenant[CHALLENGE_TENANT_BYTES];
    struct origin resource;
    char scope[CHALLENGE_SCOPE_BYTES]; /* for the token request: ends in "/.default" */
};

/* `WWW-Authenticate: Bearer authorization="https://A/T", resource="https://R"`. The whole of it is
 * strict: known form, no repeats, bounded. Errors: PEER. */
MUST_USE int challenge_parse(const char *header, struct challenge *ret, struct err *e);
/* May a token for `c` go to `vault`, and our credentials to the authority? As the SDKs: the vault's
 * host and port must lie under the resource's, or be it when the vault has no DNS name (on loopback
 * anything goes). The authority must be one of Microsoft's, or on the vault's own host, or under
 * the resource's; and https, except where the vault itself is clear text on loopback. Errors:
 * DENIED. */
MUST_USE int challenge_check(const struct challenge *c, const struct origin *vault, struct err *e);
/* The authority is one of Microsoft's own. */
bool challenge_is_of_microsoft(const struct challenge *c);

#endif
