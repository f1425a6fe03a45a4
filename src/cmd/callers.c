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

/* Copies the values of a repeatable flag, or the usual ones; at most `max`. */
static int
list_fill(const char *flag, const struct opt_list *given, const char **ret, size_t max,
          size_t *ret_n, struct err *e)
{
    if (given->n > max)
        return err_set(e, E_INVAL, "--%s: at most %zu of them", flag, max);
    for (size_t i = 0; i < given->n; i++)
        ret[i] = given->v[i];
    *ret_n = given->n;
    return 0;
}

static int
nodes_fill(const struct caller_flags *f, struct ca_callers *who, struct err *e)
{
    TRY(list_fill("trusted-node-account", &f->node_accounts, who->node_accounts,
                  CA_NODE_ACCOUNTS_MAX, &who->node_accounts_n, e));
    for (size_t i = 0; i < who->node_accounts_n; i++)
        if (node_account_check(who->node_accounts[i], e) < 0) {
            e->code = E_INVAL;
            return err_wrap(e, "--trusted-node-account");
        }
    who->pods_file = f->pods_file;
    if (who->node_accounts_n > 0 && who->pods_file == NULL)
        return err_set(e, E_INVAL,
                       "--trusted-node-account needs to know which pods are on which node: add "
                       "--pods-file");
    return 0;
}

int
callers_fill(const struct caller_flags *f, struct callers *ret, struct err *e)
{
    static const struct opt_list usual = {
        3, { "istiod.istio-system.svc", "localhost", "127.0.0.1" }
    };
    struct ca_callers *who = &ret->who;
    size_t n;

    if (f->issuers.n > CA_JWKS_MAX)
        return err_set(e, E_INVAL, "--issuer: at most %d of them", (int)CA_JWKS_MAX);
    for (; who->issuers_n < f->issuers.n; who->issuers_n++)
        TRY(issuer_split(f->issuers.v[who->issuers_n], &who->issuers[who->issuers_n],
                         &ret->kept[who->issuers_n], e));
    who->audiences[0] = "istio-ca";
    TRY(list_fill("audience", &f->audiences, who->audiences, JWT_AUDIENCES - 1, &n, e));
    TRY(list_fill("dns-name", f->dns_names.n > 0 ? &f->dns_names : &usual, who->dns_names,
                  CA_DNS_MAX, &who->dns_names_n, e));
    TRY(list_fill("cert-signer", &f->cert_signers, who->cert_signers, CA_CERT_SIGNERS_MAX,
                  &who->cert_signers_n, e));
    return nodes_fill(f, who, e);
}

void
callers_done(struct callers *c)
{
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        free(STEAL(c->kept[i]));
}
