/* token.h - private to signer/: keys in a PKCS#11 token, used by the child. Layer: signer.
 *
 * The module is loaded and the token logged into before the child's doors are shut. A token that
 * does not do what it is asked is lost: the child says why and ends, and the next one loads the
 * module and logs in anew; so the PIN is wiped once it was used.
 * Source: RFC 7512 (URIs); PKCS#11 v2.40 (OASIS), base 5 and mechanisms 2.1, 2.3.
 */
#ifndef SIGNER_TOKEN_H
#define SIGNER_TOKEN_H

#include "pki/leaf.h"

struct token;

enum {
    TOKEN_SLOTS_MAX = 64,
    TOKEN_KEYS_MAX = 64, /* looked at for one certificate */
    TOKEN_PIN_MAX_BYTES = 255,
    TOKEN_NAME_BYTES = 128,
};

struct token_key { /* in the token; no byte of it is here */
    unsigned long handle;
    enum key_kind kind;
};

/* Checks what can be checked without the token: the form of the URI, module-path and pin-source.
 * Errors: INVAL (which part, and what to write). Any process. */
MUST_USE int token_uri_check(const char *uri, struct err *e);
/* Loads the module of `uri`, finds the one token that it names, opens `sessions` and logs in.
 * Errors: INVAL, NOTFOUND (no such token), DENIED (several), AUTH (the PIN: not to be tried again),
 * PEER (the module's word), SYS (the file of the PIN). Owner: caller; there is no end but the
 * process's. */
MUST_USE int token_open(const char *uri, size_t sessions, struct token **ret, struct err *e);
/* "LABEL (MANUFACTURER MODEL, serial SERIAL)". */
const char *token_name(const struct token *t);
/* The key of `cert`: proved by a signature over random bytes, which the certificate verifies.
 * Errors: NOTFOUND (the token has none for it), INVAL (a kind that tokens are not asked for), PEER
 * (lost). Thread: any. */
MUST_USE int token_key_find(struct token *t, const struct cert *cert, struct token_key *ret,
                            struct err *e);
/* As leaf_sign. Errors: PEER (lost). Thread: any; waits for a free session. */
MUST_USE int token_sign(struct token *t, const struct token_key *k, struct span bytes,
                        uint8_t ret[SIGNATURE_MAX_BYTES], size_t *ret_n, struct err *e);
/* Why the token is lost; NULL while it is not. */
const char *token_lost(const struct token *t);

#endif
