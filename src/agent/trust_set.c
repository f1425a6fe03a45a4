/* trust_set.c - see trust_set.h. */
#include "agent/trust_set.h"

#include <string.h>

#include "agent/plan.h"

static int
roots_of(const Meshroot__V1__TrustSet *m, struct roots **ret, struct err *e)
{
    struct cert *certs[ROOTS_MAX];
    size_t n = 0;
    int r = 0;

    if (m->n_roots == 0 || m->n_roots > ROOTS_MAX)
        return err_set(e, E_LIMIT, "a trust set of %zu roots, want 1..%d", m->n_roots,
                       (int)ROOTS_MAX);
    for (; n < m->n_roots && r == 0; n += r == 0)
        r = cert_from_der(span_of(m->roots[n].data, m->roots[n].len), &certs[n], e);
    if (r == 0)
        r = roots_from_certs(certs, n, ret, e);
    for (size_t i = 0; i < n; i++)
        cert_unref(certs[i]);
    return r;
}

static int
lists_of(const Meshroot__V1__TrustSet *m, struct crls **ret, struct err *e)
{
    struct crl *all[CRLS_MAX];
    size_t n = 0;
    int r = 0;

    if (m->n_crls + m->n_bare_lists == 0)
        return 0;
    if (m->n_crls > CRLS_MAX || m->n_bare_lists > CRLS_MAX - m->n_crls)
        return err_set(e, E_LIMIT, "more than %d revocation lists", CRLS_MAX);
    for (size_t i = 0; i < m->n_crls && r == 0; i++, n += r == 0)
        r = crl_from_der(span_of(m->crls[i].data, m->crls[i].len), &all[n], e);
    for (size_t i = 0; i < m->n_bare_lists && r == 0; i++, n += r == 0)
        r = crl_from_tbs(span_of(m->bare_lists[i].data, m->bare_lists[i].len), &all[n], e);
    if (r == 0)
        r = crls_new(all, n, ret, e);
    while (n > 0)
        crl_unref(all[--n]);
    return r;
}

int
trust_set_take(const Meshroot__V1__TrustSet *m, const struct creds *held, struct creds **ret,
               struct err *ret_lists, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    CLEANUP(crls_unrefp) struct crls *crls = NULL;
    struct err why = { 0 };

    if (plan_generation(held->generation, m->generation) == PLAN_DROP)
        return TRUST_SET_OLD;
    TRY(roots_of(m, &roots, e));
    int r = lists_of(m, &crls, &why);
    if (r == 0)
        r = creds_lists_check(held, roots, crls, &why);
    if (r < 0) { /* those of before stay */
        crls_unref(crls);
        crls = held->crls == NULL ? NULL : crls_ref(held->crls);
    }
    bool is_same = m->generation == held->generation && roots_equal(roots, held->roots) &&
                   crls_equal(crls, held->crls);
    if (!is_same)
        TRY(creds_with_roots(held, roots, crls, m->generation, ret, e));
    *ret_lists = why;
    return is_same ? TRUST_SET_SAME : 0;
}

/* While there are lists, they go ahead: an Envoy that has lists refuses a leaf of a signer whose
 * list it has not got yet. */
bool
trust_set_renewal(const Meshroot__V1__TrustSet *m, const struct creds *held, uint64_t *ret_from_ms,
                  uint64_t *ret_to_ms)
{
    if (m->signer_id.len != DIGEST_BYTES || m->renew_window_ms == 0 ||
        memcmp(held->signer_id, m->signer_id.data, DIGEST_BYTES) == 0)
        return false;
    *ret_from_ms = m->n_crls > 0 ? LISTS_AHEAD_MS : 0;
    *ret_to_ms = *ret_from_ms + (m->renew_window_ms < RENEW_WINDOW_MAX_MS ? m->renew_window_ms
                                                                          : RENEW_WINDOW_MAX_MS);
    return true;
}
