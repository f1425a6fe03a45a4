/* openssl.h - for pki/, signer/, net/tls*.c and identity/jws.c only: the OpenSSL objects behind
 * pki.h. Layer: pki. All borrowed; valid as long as the object they come from. */
#ifndef PKI_OPENSSL_H
#define PKI_OPENSSL_H

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "pki/pki.h"

EVP_PKEY *key_evp(const struct key *k);
X509 *cert_x509(const struct cert *c);
X509_STORE *roots_store(const struct roots *r);

/* A new reference to a key pair or certificate that was made elsewhere. take_x is owned from the
 * call on, also on failure. Errors: PARSE (a kind that is not supported: which), NOMEM. */
MUST_USE int key_from_evp(EVP_PKEY *take_pkey, struct key **ret, struct err *e);
MUST_USE int cert_from_x509(X509 *take_x509, struct cert **ret, struct err *e);
/* cert_mark_of, of an X509 whose extensions OpenSSL has looked at. */
struct cert_mark;
void x509_mark(X509 *x, struct cert_mark *ret);
/* What kind of key that is; KEY_NONE for one that is not supported (weak, another curve). */
enum key_kind evp_kind(const EVP_PKEY *pkey);
/* The digest to sign with under a key of that kind; NULL for Ed25519. */
const EVP_MD *key_kind_md(enum key_kind k);

/* err_set, then ": " and the first reason in OpenSSL's queue, which is empty afterwards. */
#define err_openssl(e, code, ...)                                                                  \
    (err_set_at((e), (code), 0, __FILE__, __LINE__, __VA_ARGS__), err_openssl_reason(e))
int err_openssl_reason(struct err *e);

/* For CLEANUP. */
DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)
DEFINE_CLEANUP(X509, X509_free)

#endif
