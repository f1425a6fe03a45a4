#include "cmd/callers.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "identity/jwks_source.h"

/* "ISS" or "ISS=JWKS": the key set's URL may hold '=', the issuer's may not. */
static int
issuer_split(const char *text, struct ca_issuer *ret, char **keep, struct err *e)
{
    const char *eq = strchr(text, '=');

    if (eq == text || (eq != NULL && eq[1] == '\0'))
        return err_set(
            e, E_INVAL,
            "--issuer %s: want ISSUER=JWKS, such as https://issuer.example=/etc/jwks.json", text);
    TRY(str_dup(span_of(text, eq == NULL ? strlen(text) : (size_t)(eq - text)), keep, e));
    *ret = (struct ca_issuer){ .issuer = *keep, .jwks = eq == NULL ? NULL : eq + 1 };
    if (eq == NULL && discovery_issuer_check(*keep, e) < 0)
        return err_wrap(e, "--issuer");
    return 0;
}

static int
issuer_ca_set(struct ca_callers *who, const char *text, struct err *e)
{
    const char *eq = strchr(text, '=');
    struct span issuer = span_of(text, eq == NULL ? 0 : (size_t)(eq - text));

    for (size_t i = 0; i < who->issuers_n; i++)
        if (eq != NULL && eq[1] != '\0' && span_eq_str(issuer, who->issuers[i].issuer)) {
            who->issuers[i].ca_file = eq + 1;
            return 0;
        }
    return err_set(e, E_INVAL,
                   "--issuer-ca-file %s: want ISSUER=FILE, with an issuer that --issuer names",
                   text);
}

static int
issuers_fill(const struct caller_flags *f, struct callers *ret, struct err *e)
{
    struct ca_callers *who = &ret->who;

    if (f->issuers.n > CA_JWKS_MAX)
        return err_set(e, E_INVAL, "--issuer: at most %d of them", (int)CA_JWKS_MAX);
    for (; who->issuers_n < f->issuers.n; who->issuers_n++)
        TRY(issuer_split(f->issuers.v[who->issuers_n], &who->issuers[who->issuers_n],
                         &ret->kept[who->issuers_n], e));
    for (size_t i = 0; i < f->issuer_ca_files.n; i++)
        TRY(issuer_ca_set(who, f->issuer_ca_files.v[i], e));
    return 0;
}

/* -- the API server ------------------------------------------------------------------------------
 */

static bool
wants_kube(const struct caller_flags *f, const struct ca_callers *who)
{
    bool wanted =
        f->token_review || f->watch_pods || f->kube.server != NULL || f->kube.kubeconfig != NULL;

    for (size_t i = 0; i < who->issuers_n; i++)
        wanted = wanted ||
                 (who->issuers[i].jwks != NULL && strcmp(who->issuers[i].jwks, "kubernetes") == 0);
    return wanted;
}

static int
kube_fill(const struct caller_flags *f, struct callers *ret, struct err *e)
{
    if (!wants_kube(f, &ret->who))
        return 0;
    ret->who.token_review = f->token_review;
    ret->who.kube = &ret->kube;
    return kube_flags_fill(&f->kube, &ret->kube, e);
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

/* Accounts, "NS/SA". */
static int
accounts_fill(const char *flag, const struct opt_list *given, const char **ret, size_t max,
              size_t *ret_n, struct err *e)
{
    TRY(list_fill(flag, given, ret, max, ret_n, e));
    for (size_t i = 0; i < *ret_n; i++)
        if (node_account_check(ret[i], e) < 0) {
            e->code = E_INVAL;
            return err_wrap(e, "--%s", flag);
        }
    return 0;
}

static int
nodes_fill(const struct caller_flags *f, struct ca_callers *who, struct err *e)
{
    TRY(accounts_fill("trusted-node-account", &f->node_accounts, who->node_accounts,
                      CA_NODE_ACCOUNTS_MAX, &who->node_accounts_n, e));
    who->pods_file = f->pods_file;
    who->pods_max_stale_ms = f->watch_pods ? f->cluster_max_stale_ms : 0;
    if (f->watch_pods && f->pods_file != NULL)
        return err_set(e, E_INVAL, "either --watch-pods or --pods-file");
    if (who->node_accounts_n > 0 && who->pods_file == NULL && !f->watch_pods)
        return err_set(e, E_INVAL,
                       "--trusted-node-account needs to know which pods are on which node: add "
                       "--watch-pods or --pods-file");
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

    TRY(issuers_fill(f, ret, e));
    TRY(kube_fill(f, ret, e));
    who->audiences[0] = "istio-ca";
    TRY(list_fill("audience", &f->audiences, who->audiences, JWT_AUDIENCES - 1, &n, e));
    TRY(list_fill("dns-name", f->dns_names.n > 0 ? &f->dns_names : &usual, who->dns_names,
                  CA_DNS_MAX, &who->dns_names_n, e));
    TRY(list_fill("cert-signer", &f->cert_signers, who->cert_signers, CA_CERT_SIGNERS_MAX,
                  &who->cert_signers_n, e));
    TRY(accounts_fill("evidence-reader", &f->evidence_readers, who->evidence_readers,
                      CA_EVIDENCE_READERS_MAX, &who->evidence_readers_n, e));
    TRY(accounts_fill("revocation-courier", &f->couriers, who->couriers, CA_COURIERS_MAX,
                      &who->couriers_n, e));
    TRY(accounts_fill("serving-account", &f->serving_accounts, who->serving_accounts,
                      CA_SERVING_ACCOUNTS_MAX, &who->serving_accounts_n, e));
    TRY(list_fill("serving-name", &f->serving_names, who->serving_names, CA_SERVING_NAMES_MAX,
                  &who->serving_names_n, e));
    if ((who->serving_accounts_n > 0) != (who->serving_names_n > 0))
        return err_set(e, E_INVAL,
                       "--serving-account and --serving-name go together: who may have a "
                       "certificate, and with which names");
    return nodes_fill(f, who, e);
}

void
callers_done(struct callers *c)
{
    for (size_t i = 0; i < CA_JWKS_MAX; i++)
        free(STEAL(c->kept[i]));
    kube_conf_done(&c->kube);
}
