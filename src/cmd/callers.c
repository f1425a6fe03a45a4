#include "cmd/callers.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"

/* "ISS=JWKS": the key set's URL may hold '=', the issuer's may not. */
static int
issuer_split(const char *text, struct ca_issuer *ret, char **keep, struct err *e)
{
    const char *eq = strchr(text, '=');

    if (eq == NULL || eq == text || eq[1] == '\0')
        return err_set(
            e, E_INVAL,
            "--issuer %s: want ISSUER=JWKS, such as https://issuer.example=/etc/jwks.json", text);
    TRY(str_dup(span_of(text, (size_t)(eq - text)), keep, e));
    *ret = (struct ca_issuer){ .issuer = *keep, .jwks = eq + 1 };
    return 0;
}

int
callers_fill(const struct caller_flags *f, struct callers *ret, struct err *e)
{
    static const char *const usual[] = { "istiod.istio-system.svc", "localhost", "127.0.0.1" };

    if (f->issuers.n > CA_JWKS_MAX || f->audiences.n >= JWT_AUDIENCES ||
        f->dns_names.n > CA_DNS_MAX)
        return err_set(e, E_INVAL, "at most %d --issuer, %d --audience, %d --dns-name",
                       (int)CA_JWKS_MAX, (int)JWT_AUDIENCES - 1, (int)CA_DNS_MAX);
    for (; ret->issuers_n < f->issuers.n; ret->issuers_n++)
        TRY(issuer_split(f->issuers.v[ret->issuers_n], &ret->issuers[ret->issuers_n],
                         &ret->kept[ret->issuers_n], e));
    ret->audiences[0] = "istio-ca";
    for (size_t i = 0; i < f->audiences.n; i++)
        ret->audiences[i] = f->audiences.v[i];
    ret->dns_names_n = f->dns_names.n > 0 ? f->dns_names.n : ARRAY_LEN(usual);
    for (size_t i = 0; i < ret->dns_names_n; i++)
        ret->dns_names[i] = f->dns_names.n > 0 ? f->dns_names.v[i] : usual[i];
    return 0;
}

void
callers_done(struct callers *c)
{
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        free(STEAL(c->kept[i]));
}
