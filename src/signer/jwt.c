/* jwt.c - the child writes JWT-SVIDs itself: it is told whose and for whom, never what to sign. So
 * nothing has to be read back, header and claims are exactly these, and the times are the child's
 * own. What is signed begins with base64url's "eyJ", a TBSCertificate and a TBSCertList with DER's
 * 0x30: one can never be taken for the other.
 * Source: SPIFFE JWT-SVID 2, 3; RFC 7515 3.1, 7.1; RFC 7518 3.3, 3.4.
 */
#include <inttypes.h>
#include <openssl/ecdsa.h>

#include "base/clock.h"
#include "base/str.h"
#include "signer/ipc.h"

enum { KID_BYTES = 43, SUBJECT_MAX_BYTES = 511, HEADER_MAX_BYTES = 128, NUMBER_MAX_BYTES = 66 };

/* By kind of key, as leaf_sign signs with it. Ed25519 is not among JWT-SVID's algorithms. */
static const struct alg {
    const char *name;
    int number_bytes; /* of r and of s; 0: the signature is as it comes */
} algs[KEY__N] = {
    [KEY_P256] = { "ES256", 32 },     [KEY_P384] = { "ES384", 48 },
    [KEY_P521] = { "ES512", 66 },     [KEY_RSA2048] = { "RS256", 0 },
    [KEY_RSA3072] = { "RS256", 0 },   [KEY_RSA4096] = { "RS256", 0 },
    [KEY_RSA_OTHER] = { "RS256", 0 },
};

struct ask { /* borrowed from the request */
    struct span kid, subject, audiences[SIGNER_JWT_AUDIENCES];
    size_t audiences_n;
};

static bool
all_of(struct span s, const char *also)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (!plain && (c == '\0' || strchr(also, c) == NULL))
            return false;
    }
    return s.n > 0;
}

/* SPIFFE-ID 2.2: segments that are not empty, "." or "..". */
static bool
path_ok(struct span path)
{
    for (struct span segment; path.p != NULL;) {
        if (!span_cut(&path, '/', &segment) || !all_of(segment, "-._") ||
            span_eq_str(segment, ".") || span_eq_str(segment, ".."))
            return false;
    }
    return true;
}

static int
subject_check(struct span subject, const char *trust_domain, struct err *e)
{
    static const char scheme[] = "spiffe://";
    size_t head = sizeof(scheme) - 1, td = strlen(trust_domain);

    if (td > 0 && subject.n <= SUBJECT_MAX_BYTES && subject.n > head + td + 1 &&
        span_starts(subject, scheme) && memcmp(subject.p + head, trust_domain, td) == 0 &&
        subject.p[head + td] == '/' && path_ok(span_skip(subject, head + td + 1)))
        return 0;
    return err_set(e, E_DENIED, "a JWT-SVID for what is no SPIFFE id of this trust domain");
}

/* What needs no escape in JSON, and harms no log. */
static bool
audience_ok(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == '"' || s.p[i] == '\\')
            return false;
    return s.n > 0 && s.n < SIGNER_JWT_AUDIENCE_BYTES;
}

static int
ask_read(struct span body, const char *trust_domain, struct ask *ret, struct err *e)
{
    struct ask q = { .audiences_n = 0 };
    bool is_whole = body.n > 0 && body.p[body.n - 1] == '\0';

    if (!is_whole || !span_cut(&body, '\0', &q.kid) || !span_cut(&body, '\0', &q.subject))
        return err_set(e, E_PARSE, "a JWT request of bad form");
    while (body.n > 0) {
        if (q.audiences_n == SIGNER_JWT_AUDIENCES)
            return err_set(e, E_LIMIT, "more than %d audiences", SIGNER_JWT_AUDIENCES);
        (void)span_cut(&body, '\0', &q.audiences[q.audiences_n]);
        if (!audience_ok(q.audiences[q.audiences_n++]))
            return err_set(e, E_DENIED,
                           "an audience is 1 to %d printable ASCII characters without space, quote "
                           "and backslash",
                           SIGNER_JWT_AUDIENCE_BYTES - 1);
    }
    if (q.audiences_n == 0)
        return err_set(e, E_DENIED, "a JWT-SVID names at least one audience (JWT-SVID 3.2)");
    if (q.kid.n != KID_BYTES || !all_of(q.kid, "-_"))
        return err_set(e, E_DENIED, "a key id that is no thumbprint");
    TRY(subject_check(q.subject, trust_domain, e));
    *ret = q;
    return 0;
}

static int
claims_write(const struct ask *q, int64_t now, int64_t end, struct buf *out, struct err *e)
{
    TRY(buf_add_str(out, "{\"aud\":[", e));
    for (size_t i = 0; i < q->audiences_n; i++)
        TRY(buf_addf(out, e, "%s\"%.*s\"", i == 0 ? "" : ",", SPAN_ARG(q->audiences[i])));
    return buf_addf(out, e, "],\"exp\":%" PRId64 ",\"iat\":%" PRId64 ",\"sub\":\"%.*s\"}", end, now,
                    SPAN_ARG(q->subject));
}

static int
input_write(const struct ask *q, const struct alg *alg, int64_t now, int64_t end, struct buf *out,
            struct err *e)
{
    CLEANUP(buf_done)
    struct buf header = BUF_INIT(HEADER_MAX_BYTES), claims = BUF_INIT(SIGNER_JWT_MAX_BYTES);

    TRY(buf_addf(&header, e, "{\"alg\":\"%s\",\"kid\":\"%.*s\",\"typ\":\"JWT\"}", alg->name,
                 SPAN_ARG(q->kid)));
    TRY(claims_write(q, now, end, &claims, e));
    TRY(base64url_add(out, buf_span(&header), e));
    TRY(buf_add_byte(out, '.', e));
    return base64url_add(out, buf_span(&claims), e);
}

/* RFC 7518 3.4: r and s one after the other, each as long as the order. */
static int
raw_of_der(struct span der, int number_bytes, uint8_t ret[2 * NUMBER_MAX_BYTES], struct err *e)
{
    const uint8_t *p = der.p;
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &p, (long)der.n);
    bool ok = sig != NULL &&
              BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret, number_bytes) == number_bytes &&
              BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret + number_bytes, number_bytes) == number_bytes;

    ECDSA_SIG_free(sig);
    return ok ? 0 : err_set(e, E_CRYPTO, "a signature of bad form");
}

static int
signature_write(const struct alg *alg, struct span signature, struct buf *out, struct err *e)
{
    uint8_t raw[2 * NUMBER_MAX_BYTES];

    TRY(buf_add_byte(out, '.', e));
    if (alg->number_bytes == 0)
        return base64url_add(out, signature, e);
    TRY(raw_of_der(signature, alg->number_bytes, raw, e));
    return base64url_add(out, span_of(raw, 2 * (size_t)alg->number_bytes), e);
}

int
jwt_make(const struct ipc_table *t, const struct ipc_held *h, struct span body, struct buf *out,
         struct err *e)
{
    const struct alg *alg = &algs[h->kind];
    uint8_t signature[SIGNATURE_MAX_BYTES];
    int64_t now = unix_s(), end = now + SIGNER_JWT_LIFE_S;
    size_t n;
    struct ask q;

    if (alg->name == NULL)
        return err_set(e, E_INVAL, "JWT-SVIDs cannot be signed with this kind of key (%s)",
                       key_kind_name(h->kind));
    TRY(ask_read(body, t->trust_domain, &q, e));
    end = end > h->not_after ? h->not_after : end;
    if (end <= now)
        return err_set(e, E_DENIED, "the signer has expired");
    TRY(input_write(&q, alg, now, end, out, e));
    TRY(held_sign(t, h, buf_span(out), signature, &n, e));
    return signature_write(alg, span_of(signature, n), out, e);
}
