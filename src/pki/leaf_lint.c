/* leaf_lint.c - reads a finished leaf back with the DER reader and holds it against what was asked.
 *
 * It shares constants with the writer, not code: a slip of the writer does not leave the process.
 */
#include "pki/der.h"
#include "pki/leaf_template.h"

enum { SPIFFE_NAME_MAX_BYTES = 2048, DNS_NAME_MAX_BYTES = 253 };

static int
bad(struct err *e, const char *rule)
{
    return err_set(e, E_DENIED, "leaf lint: %s", rule);
}

/* The serial asked for, as the minimal positive integer that must be there. */
static bool
serial_fits(const struct leaf_request *q, struct span got)
{
    static const uint8_t one = 1;
    struct span want = span_of(q->serial, sizeof(q->serial));

    while (want.n > 0 && want.p[0] == 0)
        want = span_skip(want, 1);
    return span_eq(got, want.n == 0 ? span_of(&one, 1) : want);
}

static int
san_lint(struct span value, const struct leaf_request *q, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);

    for (size_t i = 0; i < q->sans_n; i++) {
        uint8_t want_tag, tag, ip[16];
        struct span want, got = der_any(&c, &tag, NULL);

        if (leaf_san(q->sans[i], &want_tag, &want, ip, e) < 0)
            return bad(e, "a name was asked for that is none");
        if (tag != want_tag || !span_eq(got, want))
            return bad(e, "names are those of the caller's identity, no others");
    }
    return der_done(&c) && der_done(&all) ? 0 : bad(e, "there is a name too many");
}

/* One extension: OID, critical or not, and its value; false when it is not the next. */
static bool
extension_take(struct der *c, const uint8_t oid[3], bool critical, struct span *ret_value)
{
    struct der x = der_enter(c, DER_SEQUENCE);
    struct span got = der_oid(&x);
    bool is_critical = der_default_false(&x);

    *ret_value = der_take(&x, DER_OCTET_STRING);
    return der_done(&x) && is_critical == critical && span_eq(got, span_of(oid, 3));
}

/* All but the names, which come last: their extension's value in *ret_names. */
static int
extensions_lint(const struct leaf_template *t, struct span spki, struct der c,
                struct span *ret_names, struct err *e)
{
    struct span whole, value;

    whole = der_take_whole(&c, DER_SEQUENCE);
    if (!span_eq(whole, leaf_key_usage(spki)))
        return bad(e, "key usage is critical digitalSignature, for RSA keyEncipherment too");
    whole = der_take_whole(&c, DER_SEQUENCE);
    if (!span_eq(whole, span_of(leaf_ext_eku, leaf_ext_eku_n)))
        return bad(e, "extended key usage is serverAuth, clientAuth");
    whole = der_take_whole(&c, DER_SEQUENCE);
    if (!span_eq(whole, span_of(leaf_ext_basic, leaf_ext_basic_n)))
        return bad(e, "basic constraints are critical and empty");
    if (t->ski_n > 0) {
        bool is_aki = extension_take(&c, leaf_oid_aki, false, &value);
        struct der all = der_of(value), seq = der_enter(&all, DER_SEQUENCE);
        struct span id = der_take(&seq, DER_CONTEXT);

        if (!is_aki || !der_done(&seq) || !der_done(&all) ||
            !span_eq(id, span_of(t->ski, t->ski_n)))
            return bad(e, "authority key identifier is the signer's (RFC 5280 4.2.1.1)");
    }
    if (!extension_take(&c, leaf_oid_san, true, ret_names))
        return bad(e, "subject alternative name is critical and last");
    return der_done(&c) ? 0 : bad(e, "there is an extension too many");
}

static int
tbs_lint(const struct leaf_template *t, struct der c, const struct leaf_request *q, struct err *e)
{
    struct der version = der_enter(&c, DER_CONTEXT_CONSTRUCTED);
    struct span v = der_uint(&version), serial = der_uint(&c);

    if (!der_done(&version) || v.n != 1 || v.p[0] != 2)
        return bad(e, "version is 3");
    if (!serial_fits(q, serial))
        return bad(e, "serial is the random one, positive (RFC 5280 4.1.2.2)");
    if (!span_eq(der_take_whole(&c, DER_SEQUENCE), t->algorithm))
        return bad(e, "signature algorithm is the signer's");
    if (!span_eq(der_take_whole(&c, DER_SEQUENCE), span_of(t->issuer, t->issuer_n)))
        return bad(e, "issuer is the signer's subject");
    struct der times = der_enter(&c, DER_SEQUENCE);
    int64_t from = der_time(&times), to = der_time(&times);
    if (!der_done(&times) || from != q->not_before || to != q->not_after)
        return bad(e, "validity is what was granted (RFC 5280 4.1.2.5)");
    if (der_take(&c, DER_SEQUENCE).n != 0 || c.bad)
        return bad(e, "subject is empty");
    if (!span_eq(der_take_whole(&c, DER_SEQUENCE), q->spki))
        return bad(e, "public key is the caller's");
    struct der wrap = der_enter(&c, DER_CONTEXT_CONSTRUCTED | 3);
    struct der extensions = der_enter(&wrap, DER_SEQUENCE);
    if (!der_done(&c) || !der_done(&wrap))
        return bad(e, "something follows the extensions");
    struct span names;
    TRY(extensions_lint(t, q->spki, extensions, &names, e));
    return san_lint(names, q, e);
}

int
leaf_lint(const struct leaf_template *t, const struct leaf_request *q, struct span der,
          struct err *e)
{
    struct der all = der_of(der), c = der_enter(&all, DER_SEQUENCE);
    struct der tbs = der_enter(&c, DER_SEQUENCE);
    struct span algorithm = der_take_whole(&c, DER_SEQUENCE), signature = der_bits(&c);

    if (!der_done(&c) || !der_done(&all) || signature.n == 0)
        return bad(e, "it is one certificate and nothing else");
    if (!span_eq(algorithm, t->algorithm))
        return bad(e, "signature algorithm is the signer's, twice the same (RFC 5280 4.1.1.2)");
    return tbs_lint(t, tbs, q, e);
}

/* -- a TBSCertificate of unknown origin -- */

static bool
name_is_plain(struct span s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] >= 0x7f)
            return false;
    return s.n > 0;
}

static bool
name_fits(uint8_t tag, struct span s, enum leaf_profile profile)
{
    if (profile == LEAF_WORKLOAD)
        return tag == (DER_CONTEXT | 6) && s.n <= SPIFFE_NAME_MAX_BYTES && name_is_plain(s) &&
               span_starts(s, "spiffe://");
    if (tag == (DER_CONTEXT | 7))
        return s.n == 4 || s.n == 16;
    return tag == (DER_CONTEXT | 2) && s.n <= DNS_NAME_MAX_BYTES && name_is_plain(s);
}

static int
names_lint(struct span value, enum leaf_profile *ret, struct err *e)
{
    struct der all = der_of(value), c = der_enter(&all, DER_SEQUENCE);
    enum leaf_profile profile = der_peek(&c) == (DER_CONTEXT | 6) ? LEAF_WORKLOAD : LEAF_SERVER;
    size_t n = 0;

    for (; !der_at_end(&c) && n <= LEAF_SANS_MAX; n++) {
        uint8_t tag;
        struct span s = der_any(&c, &tag, NULL);

        if (c.bad || !name_fits(tag, s, profile))
            return bad(e, "names are one SPIFFE id, or DNS names and IP addresses");
    }
    if (!der_done(&c) || !der_done(&all) || n == 0 ||
        n > (profile == LEAF_WORKLOAD ? 1 : (size_t)LEAF_SANS_MAX))
        return bad(e, "a workload has one name, a server 1 to 8");
    *ret = profile;
    return 0;
}

int
leaf_tbs_lint(const struct leaf_template *t, struct span tbs, struct leaf_facts *ret, struct err *e)
{
    struct der all = der_of(tbs), c = der_enter(&all, DER_SEQUENCE);
    struct der version = der_enter(&c, DER_CONTEXT_CONSTRUCTED);
    struct span v = der_uint(&version), serial = der_uint(&c), spki, names;
    struct leaf_facts f;

    if (!der_done(&all) || !der_done(&version) || v.n != 1 || v.p[0] != 2)
        return bad(e, "it is one TBSCertificate of version 3");
    if (serial.n == 0 || serial.n > LEAF_SERIAL_BYTES || (serial.n == 1 && serial.p[0] == 0))
        return bad(e, "serial is positive, 16 bytes at most (RFC 5280 4.1.2.2)");
    if (!span_eq(der_take_whole(&c, DER_SEQUENCE), t->algorithm))
        return bad(e, "signature algorithm is the signer's");
    if (!span_eq(der_take_whole(&c, DER_SEQUENCE), span_of(t->issuer, t->issuer_n)))
        return bad(e, "issuer is the signer's subject");
    struct der times = der_enter(&c, DER_SEQUENCE);
    f.not_before = der_time(&times);
    f.not_after = der_time(&times);
    if (!der_done(&times) || f.not_after <= f.not_before)
        return bad(e, "validity ends after it starts (RFC 5280 4.1.2.5)");
    if (der_take(&c, DER_SEQUENCE).n != 0 || c.bad)
        return bad(e, "subject is empty");
    spki = der_take_whole(&c, DER_SEQUENCE);
    struct der wrap = der_enter(&c, DER_CONTEXT_CONSTRUCTED | 3);
    struct der extensions = der_enter(&wrap, DER_SEQUENCE);
    if (!der_done(&c) || !der_done(&wrap))
        return bad(e, "something follows the extensions");
    if (spki_check(spki, e) < 0)
        return bad(e, "public key is one that a request may have");
    TRY(extensions_lint(t, spki, extensions, &names, e));
    TRY(names_lint(names, &f.profile, e));
    *ret = f;
    return 0;
}
