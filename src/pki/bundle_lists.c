/* bundle_lists.c - the lists of the CAs in a bundle: which may go with it, which may follow which,
 * and what they say of it. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "pki/bundle.h"

/* -- whose -- */

/* Certificate i of all that the bundle has; NULL: that was the last. */
static struct cert *
cert_at(const struct bundle *b, size_t i)
{
    size_t n = bundle_chain_count(b);

    if (i < n)
        return bundle_chain_at(b, i);
    return i - n < roots_count(bundle_roots(b)) ? roots_at(bundle_roots(b), i - n) : NULL;
}

/* Of several with one name and key (a root that was renewed with its key), the one that fits. */
static int
signed_by_one(const struct bundle *b, const struct crl *c, struct err *e)
{
    char name[NAME_TEXT_BYTES];
    struct cert *x;
    bool is_known = false;

    for (size_t i = 0; (x = cert_at(b, i)) != NULL; i++) {
        if (!crl_is_of(c, x))
            continue;
        if (crl_verify(c, x, e) == 0)
            return 0;
        is_known = true;
    }
    if (is_known)
        return err_result(e);
    crl_issuer_text(c, name);
    return err_set(e, E_DENIED,
                   "a list of \"%s\", which is no certificate of root-cert.pem or cert-chain.pem: "
                   "leave it out, or set the certificates that it belongs to",
                   name);
}

static int
no_twin(const struct crls *s, size_t i, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    for (size_t k = 0; k < i; k++)
        if (crl_same_issuer(crls_at(s, k), crls_at(s, i))) {
            crl_issuer_text(crls_at(s, i), name);
            return err_set(e, E_DENIED, "two lists of \"%s\": keep the newer one", name);
        }
    return 0;
}

int
bundle_lists_read(const struct bundle *b, struct span pem, struct crls **ret, struct err *e)
{
    CLEANUP(crls_unrefp) struct crls *s = NULL;
    size_t bytes_n = 0;

    if (span_trim(pem).n == 0)
        return err_set(
            e, E_PARSE,
            "it is empty: set the lists again, or take it away when there are to be none");
    TRY(crls_from_pem(pem, &s, e));
    for (size_t i = 0; i < crls_count(s); i++) {
        bytes_n += crl_der(crls_at(s, i)).n;
        if (i == BUNDLE_LISTS_MAX || bytes_n > BUNDLE_LISTS_MAX_BYTES)
            return err_set(e, E_LIMIT,
                           "more than %d revocation lists, or %d bytes of them: take expired "
                           "entries out",
                           BUNDLE_LISTS_MAX, BUNDLE_LISTS_MAX_BYTES);
        if (signed_by_one(b, crls_at(s, i), e) < 0 || no_twin(s, i, e) < 0)
            return err_wrap(e, "list %zu", i + 1);
    }
    *ret = STEAL(s);
    return 0;
}

int
bundle_lists_fitting(const struct bundle *b, const struct crls *lists, struct crls **ret,
                     struct err *e)
{
    struct crl *all[BUNDLE_LISTS_MAX];
    size_t n = 0;
    struct err why;

    *ret = NULL;
    for (size_t k = 0; k < crls_count(lists) && n < ARRAY_LEN(all); k++)
        if (signed_by_one(b, crls_at(lists, k), &why) == 0)
            all[n++] = crls_at(lists, k);
    return n == 0 ? 0 : crls_new(all, n, ret, e);
}

/* -- when -- */

int
bundle_lists_check_time(const struct crls *lists, int64_t now, struct err *e)
{
    for (size_t i = 0; i < crls_count(lists); i++)
        if (crl_check_time(crls_at(lists, i), now, e) < 0)
            return err_wrap(e, "list %zu", i + 1);
    return 0;
}

int64_t
bundle_lists_end(const struct crls *lists)
{
    int64_t end = INT64_MAX;

    for (size_t i = 0; i < crls_count(lists); i++)
        if (crl_next_update(crls_at(lists, i)) < end)
            end = crl_next_update(crls_at(lists, i));
    return end;
}

/* Numbers, where both have one; else the time at which it was made. */
static int
follows(const struct crl *now, const struct crl *next, struct err *e)
{
    uint64_t a = crl_number(now), b = crl_number(next);
    char name[NAME_TEXT_BYTES], ta[RFC3339_BYTES], tb[RFC3339_BYTES];

    if (span_eq(crl_der(now), crl_der(next)))
        return 0;
    crl_issuer_text(next, name);
    if (a > 0 && b > 0 && b <= a)
        return err_set(e, E_DENIED,
                       "the list of \"%s\" goes back: its number is %" PRIu64
                       ", the one in force has %" PRIu64 "; sign one with a greater number",
                       name, b, a);
    if ((a > 0 && b > 0) || crl_this_update(next) >= crl_this_update(now))
        return 0;
    rfc3339_s(crl_this_update(now), ta);
    rfc3339_s(crl_this_update(next), tb);
    return err_set(
        e, E_DENIED,
        "the list of \"%s\" goes back: it is of %s, the one in force of %s; sign one now", name, tb,
        ta);
}

int
bundle_lists_follow(const struct crls *now, const struct crls *next, struct err *e)
{
    for (size_t i = 0; i < crls_count(now); i++)
        for (size_t k = 0; k < crls_count(next); k++)
            if (crl_same_issuer(crls_at(now, i), crls_at(next, k)))
                TRY(follows(crls_at(now, i), crls_at(next, k), e));
    return 0;
}

/* -- what -- */

static int
revoked_by(const struct cert *c, const struct crl *list, struct err *e)
{
    char name[NAME_TEXT_BYTES], issuer[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES];
    char since[RFC3339_BYTES];
    struct crl_entry x = { .serial_n = 0 };
    const char *reason;

    TRY(crl_entry_of(list, cert_serial(c), &x, e));
    reason = crl_reason_name(x.reason);
    cert_subject_text(c, name);
    cert_serial_text(c, serial);
    crl_issuer_text(list, issuer);
    rfc3339_s(x.revoked, since);
    return err_set(e, E_DENIED,
                   "\"%s\" (serial %s) is revoked by \"%s\" since %s (%s): set another "
                   "intermediate (ca-cert, ca-key, cert-chain)",
                   name, serial, issuer, since, reason == NULL ? "no known reason" : reason);
}

/* A root is no business of its own list: who has its key can say anything. */
int
bundle_lists_spare(const struct bundle *b, const struct crls *lists, struct err *e)
{
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        for (size_t k = 0; k < crls_count(lists); k++)
            if (crl_revokes(crls_at(lists, k), bundle_chain_at(b, i)))
                return revoked_by(bundle_chain_at(b, i), crls_at(lists, k), e);
    return 0;
}

static int
has_list(const struct crls *lists, const struct cert *c, struct err *e)
{
    char name[NAME_TEXT_BYTES];

    if (crls_of(lists, c) != NULL)
        return 0;
    cert_subject_text(c, name);
    return err_set(e, E_DENIED, "there is no list of \"%s\"", name);
}

int
bundle_lists_are_whole(const struct bundle *b, const struct crls *lists, struct err *e)
{
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        TRY(has_list(lists, bundle_chain_at(b, i), e));
    return has_list(lists, bundle_signer_root(b), e);
}
