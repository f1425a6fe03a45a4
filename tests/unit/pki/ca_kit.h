/* ca_kit.h - certificate authorities for the tests of this room, any property bent on request. */
#ifndef TESTS_UNIT_PKI_CA_KIT_H
#define TESTS_UNIT_PKI_CA_KIT_H

#include "unit.h"

#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/issue.h"
#include "pki/openssl.h"
#include "pki/pki.h"

/* A key and its certificate. */
struct ca {
    struct key *key;
    struct cert *cert;
};

/* issuer NULL: a root. */
static inline void
ca_make(struct ca *c, const struct ca *issuer, const char *subject, int path_len)
{
    struct ca_request q = { .subject = subject, .days = 100, .path_len = path_len };
    struct err e;

    assert_ok(key_make(KEY_P256, &c->key, &e));
    if (issuer == NULL)
        assert_ok(root_make(&q, c->key, &c->cert, &e));
    else
        assert_ok(intermediate_make(&q, c->key, issuer->cert, issuer->key, &c->cert, &e));
}

static inline void
ca_done(struct ca *c)
{
    key_unref(c->key);
    cert_unref(c->cert);
    *c = (struct ca){ .key = NULL };
}

/* What issue.h refuses to make. Extensions as openssl.cnf spells them, "name=value;name=value". */
static inline struct cert *
cert_bent(const struct key *k, const char *subject_cn, const struct ca *issuer, int from_day,
          int to_day, const char *extensions)
{
    X509 *x = X509_new();
    X509_NAME *name = X509_NAME_new();
    X509V3_CTX ctx;
    struct cert *ret = NULL;
    struct err e;
    char *text = strdup(extensions), *save = NULL;

    assert_true(x != NULL && name != NULL && text != NULL);
    assert_int_equal(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8,
                                                (const unsigned char *)subject_cn, -1, -1, 0),
                     1);
    X509_set_version(x, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(x), 77);
    X509_gmtime_adj(X509_getm_notBefore(x), from_day * 86400L);
    X509_gmtime_adj(X509_getm_notAfter(x), to_day * 86400L);
    X509_set_subject_name(x, name);
    X509_set_issuer_name(x, issuer == NULL ? name : X509_get_subject_name(cert_x509(issuer->cert)));
    X509_set_pubkey(x, key_evp(k));
    X509V3_set_ctx(&ctx, issuer == NULL ? x : cert_x509(issuer->cert), x, NULL, NULL, 0);
    for (char *t = strtok_r(text, ";", &save); t != NULL; t = strtok_r(NULL, ";", &save)) {
        char *value = strchr(t, '=');
        assert_non_null(value);
        *value++ = '\0';
        X509_EXTENSION *ext = X509V3_EXT_conf(NULL, &ctx, t, value);
        assert_non_null(ext);
        X509_add_ext(x, ext, -1);
        X509_EXTENSION_free(ext);
    }
    assert_true(X509_sign(x, key_evp(issuer == NULL ? k : issuer->key), EVP_sha256()) > 0);
    X509_NAME_free(name);
    free(text);
    assert_ok(cert_from_x509(x, &ret, &e));
    return ret;
}

#define CA_EXT "basicConstraints=critical,CA:TRUE;keyUsage=critical,keyCertSign,cRLSign"

static inline void
ca_bent(struct ca *c, const struct ca *issuer, const char *cn, int from_day, int to_day,
        const char *extensions)
{
    struct err e;

    assert_ok(key_make(KEY_P256, &c->key, &e));
    c->cert = cert_bent(c->key, cn, issuer, from_day, to_day, extensions);
}

/* The PEM of several certificates, one after another; owner: caller, buf_done. */
static inline struct buf
pem_of(struct cert *const *v, size_t n)
{
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    struct err e;

    for (size_t i = 0; i < n; i++)
        assert_ok(cert_to_pem(v[i], &b, &e));
    return b;
}

static inline struct buf
pem_of_key(const struct key *k)
{
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    struct err e;

    assert_ok(key_to_pem(k, &b, &e));
    return b;
}

#endif
