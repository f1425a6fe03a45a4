/* pki.h - keys, certificates, sets of roots. Layer: pki. Thread: any; objects are immutable once
 * made and reference-counted (x_ref / x_unref are atomic). OpenSSL is behind this header;
 * pki/openssl.h, for pki/, signer/ and net/tls.c only, gives the OpenSSL objects inside.
 */
#ifndef PKI_PKI_H
#define PKI_PKI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/span.h"

struct key;   /* a private key */
struct cert;  /* one certificate */
struct roots; /* a set of self-signed CA certificates: what a workload trusts */

enum {
    DIGEST_BYTES = 32,      /* SHA-256 */
    DIGEST_TEXT_BYTES = 65, /* as hex with NUL */
    SERIAL_MAX_BYTES = 20,  /* RFC 5280 4.1.2.2 */
    SERIAL_TEXT_BYTES = 41,
    NAME_TEXT_BYTES = 256,
    ROOTS_MAX = 16,
    CHAIN_MAX = 8,
    PEM_MAX_BYTES = 256 * 1024, /* of one file */
};

/* -- keys ---------------------------------------------------------------------------------------
 */

enum key_kind {
    KEY_NONE,
    KEY_P256,
    KEY_P384,
    KEY_P521,
    KEY_RSA2048,
    KEY_RSA3072,
    KEY_RSA4096,
    KEY_RSA_OTHER,
    KEY_ED25519,
    KEY__N
};
/* "p256", "p384", "rsa2048", ...; the words of --key-type. r of parse: PARSE lists the right words.
 */
const char *key_kind_name(enum key_kind k);
MUST_USE int key_kind_parse(const char *name, enum key_kind *ret, struct err *e);

/* Owner: caller, key_unref. Errors: CRYPTO, INVAL (a kind that is not made: KEY_RSA_OTHER). */
MUST_USE int key_make(enum key_kind kind, struct key **ret, struct err *e);
/* The first PEM block: EC PRIVATE KEY, RSA PRIVATE KEY or PRIVATE KEY (PKCS#8); a leading EC
 * PARAMETERS block is skipped. Errors: PARSE (encrypted, no key, other label: says which), LIMIT.
 * Source: specs/istio-ca.md 4.5. */
MUST_USE int key_from_pem(struct span pem, struct key **ret, struct err *e);
/* PKCS#8 PEM appended to `b`, which the caller wipes. */
MUST_USE int key_to_pem(const struct key *k, struct buf *b, struct err *e);
/* The same as DER: one PrivateKeyInfo. Source: RFC 5208. */
MUST_USE int key_to_pkcs8(const struct key *k, struct buf *b, struct err *e);
enum key_kind key_get_kind(const struct key *k);
struct key *key_ref(struct key *k);
void key_unref(struct key *k); /* NULL is fine */
DEFINE_CLEANUP(struct key, key_unref)

/* -- certificates -------------------------------------------------------------------------------
 */

/* Exactly one certificate. Errors: PARSE (trailing bytes too). Owner: caller, cert_unref. */
MUST_USE int cert_from_der(struct span der, struct cert **ret, struct err *e);
/* All CERTIFICATE blocks of a strict PEM text: 1..max of them, nothing but white space between or
 * after the blocks (text and a BOM before the first and CRLF are fine; other labels are not).
 * Owner: caller, each with cert_unref. Errors: PARSE (block number and reason), LIMIT. */
MUST_USE int certs_from_pem(struct span pem, struct cert **ret, size_t max, size_t *ret_n,
                            struct err *e);
MUST_USE int cert_to_pem(const struct cert *c, struct buf *b, struct err *e);
struct cert *cert_ref(struct cert *c);
void cert_unref(struct cert *c); /* NULL is fine */
DEFINE_CLEANUP(struct cert, cert_unref)

struct span cert_der(const struct cert *c);         /* borrowed */
const uint8_t *cert_id(const struct cert *c);       /* SHA-256 of the DER, 32 bytes, borrowed */
struct span cert_subject_der(const struct cert *c); /* the Name, borrowed */
struct span cert_ski(const struct cert *c);         /* empty when absent */
struct span cert_aki(const struct cert *c);         /* keyIdentifier, empty when absent */
struct span cert_serial(const struct cert *c);      /* big endian, no leading zero */
int64_t cert_not_before(const struct cert *c);      /* unix seconds */
int64_t cert_not_after(const struct cert *c);
bool cert_is_ca(const struct cert *c);   /* cA TRUE, and keyCertSign when key usage is present */
int cert_path_len(const struct cert *c); /* -1 without a constraint */
/* DER throughout, values of extensions included: OpenSSL reads more than that, Go's crypto/x509
 * does not, and what it does not read is no CA to a stock agent. Source: X.690 10, 11. */
bool cert_is_der(const struct cert *c);
bool cert_is_self_signed(const struct cert *c); /* signature verified with its own key */
/* `c` names `issuer` as its issuer (names, key identifiers), and its signature is by that key. */
bool cert_is_signed_by(const struct cert *c, const struct cert *issuer);
enum key_kind cert_key_kind(const struct cert *c);
bool cert_key_matches(const struct cert *c, const struct key *k);
/* The certificate's public key as a key without its private half: for key_spki, jwk_thumbprint and
 * the like. Owner: caller, key_unref. Errors: PARSE (a kind that is not supported), NOMEM. */
MUST_USE int cert_public_key(const struct cert *c, struct key **ret, struct err *e);
/* The one URI SAN into `ret` (borrowed). r: 0 done; CERT_NO_URI none. Errors: DENIED (more than
 * one). */
enum { CERT_NO_URI = 1 };
MUST_USE int cert_spiffe_uri(const struct cert *c, struct span *ret, struct err *e);
/* Every subject alternative name, in order; value as it stands in the certificate (4 or 16 bytes
 * for an IP address, nothing for SAN_OTHER), borrowed. i < cert_san_count. */
enum san_kind { SAN_OTHER, SAN_URI, SAN_DNS, SAN_IP, SAN_EMAIL };
struct san {
    enum san_kind kind;
    struct span value;
};
size_t cert_san_count(const struct cert *c);
struct san cert_san_at(const struct cert *c, size_t i);
/* Key usage, then extended key usage, by OpenSSL's names: "keyCertSign,cRLSign", "-" without both.
 */
enum { USAGE_TEXT_BYTES = 256 };
void cert_usage_text(const struct cert *c, char ret[USAGE_TEXT_BYTES]);
/* Names as Go prints them, which istiod's log lines use: "CN=Intermediate CA -
 * A1,O=Istio,L=cluster-A1". Source: specs/istio-ca.md 4.6. */
void cert_subject_text(const struct cert *c, char ret[NAME_TEXT_BYTES]);
void cert_issuer_text(const struct cert *c, char ret[NAME_TEXT_BYTES]);
void cert_serial_text(const struct cert *c, char ret[SERIAL_TEXT_BYTES]); /* lower-case hex */
/* istiod's line: x509 cert - Issuer: "...", Subject: "", SN: .., NotBefore: "..", NotAfter: ".." */
MUST_USE int cert_log_line(const struct cert *c, struct buf *b, struct err *e);

/* -- roots --------------------------------------------------------------------------------------
 */

/* Every certificate of a strict PEM text; each a self-signed CA. The same twice is refused.
 * Owner: caller, roots_unref. Errors: PARSE (0 certificates, garbage after a good one), DENIED (not
 * a CA, not self-signed, duplicate: names the subject and the block), LIMIT (more than ROOTS_MAX).
 */
MUST_USE int roots_from_pem(struct span pem, struct roots **ret, struct err *e);
MUST_USE int roots_from_certs(struct cert *const *certs, size_t n, struct roots **ret,
                              struct err *e); /* takes references; duplicates are dropped */
/* PEM of all, in order of their ids: equal sets give equal text. */
MUST_USE int roots_to_pem(const struct roots *r, struct buf *b, struct err *e);
MUST_USE int roots_union(const struct roots *a, const struct roots *b, struct roots **ret,
                         struct err *e);
struct roots *roots_ref(struct roots *r);
void roots_unref(struct roots *r); /* NULL is fine */
DEFINE_CLEANUP(struct roots, roots_unref)
size_t roots_count(const struct roots *r);
struct cert *roots_at(const struct roots *r, size_t i); /* borrowed; in order of ids */
bool roots_has(const struct roots *r, const uint8_t id[DIGEST_BYTES]);
bool roots_contain(const struct roots *big, const struct roots *small);
bool roots_equal(const struct roots *a, const struct roots *b);

/* Verifies a leaf and its intermediates (each borrowed, any order) up to one of the roots at wall
 * time now, for both server and client use. On success *ret_root is the root it ends in (borrowed
 * from `r`). Errors: DENIED (the reason in words: expired, unknown issuer, ...). Source: RFC
 * 5280 6.1. */
MUST_USE int roots_verify(const struct roots *r, const struct cert *leaf,
                          struct cert *const *intermediates, size_t n, struct cert **ret_root,
                          struct err *e);

/* SHA-256 (FIPS 180-4). Cannot fail: it takes no memory. */
void digest(struct span s, uint8_t ret[DIGEST_BYTES]);

#endif
