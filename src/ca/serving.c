/* serving.c - meshroot.v1.Serving: the certificate of a server that is no workload, such as
 * istiod's, for an account that is named, with names that are.
 *
 * What comes is a leaf like any other: in the ledger first, under its caller's identity, judged
 * again by the signer process, which gives a server 30 days at most. Source: specs/istio-ca.md 2.1,
 * 9.
 */
#include <stdio.h>

#include "ca/room.h"
#include "meshroot.pb-c.h"

static const char method_name[] = "SignServing";

/* The flag's own text for each name asked for. r: NULL they are allowed; else the first that is
 * not. */
static const char *
names_find(const struct ca_callers *who, const Meshroot__V1__ServingRequest *m,
           const char *ret[CA_SERVING_NAMES_MAX])
{
    for (size_t i = 0; i < m->n_names; i++) {
        ret[i] = NULL;
        for (size_t k = 0; k < who->serving_names_n && ret[i] == NULL; k++)
            if (strcmp(m->names[i], who->serving_names[k]) == 0)
                ret[i] = who->serving_names[k];
        if (ret[i] == NULL)
            return m->names[i];
    }
    return NULL;
}

/* The ledger says what the leaf is for, before how its caller was known. */
static void
auth_note(struct ca_caller *c, const char *name)
{
    char auth[LEDGER_AUTH_BYTES];
    size_t room = sizeof(auth) - sizeof("serving: ") - 64; /* the name may be cut, not all of it */

    (void)snprintf(auth, sizeof(auth), "serving:%.*s %.64s", (int)room, name, c->auth);
    memcpy(c->auth, auth, sizeof(c->auth));
}

/* The default of leaves, unless it is more than a server may have. */
static int64_t
validity(const struct ca_conf *conf, int64_t asked)
{
    bool is_too_long = conf->default_ttl_ms / 1000 > SIGNER_SERVER_LIFE_S;

    return asked == 0 && is_too_long ? SIGNER_SERVER_LIFE_S : asked;
}

static void
sign(struct ca_worker *w, struct ca_call *c, const Meshroot__V1__ServingRequest *m)
{
    const char *names[CA_SERVING_NAMES_MAX];
    struct span instance = grpc_header(c->grpc, "meshroot-instance");
    char text[256];

    if (!ca_instance_is_sound(instance)) {
        ca_refuse(w, c, method_name, GRPC_INVALID_ARGUMENT,
                  "meshroot-instance must be 32 lower-case hex digits");
        return;
    }
    if (m->n_names < 1 || m->n_names > CA_SERVING_NAMES_MAX) {
        ca_refuse(w, c, method_name, GRPC_INVALID_ARGUMENT, "a server has 1 to 8 names");
        return;
    }
    if (m->validity_s < 0 || m->validity_s > SIGNER_SERVER_LIFE_S) {
        ca_refuse(w, c, method_name, GRPC_INVALID_ARGUMENT,
                  "a server's certificate lives for 30 days at most");
        return;
    }
    const char *other = names_find(&w->ca->conf.who, m, names);
    if (other != NULL) {
        bool is_plain = k8s_subdomain_ok(span_str(other));

        (void)snprintf(text, sizeof(text), "the name %.200s is not allowed here (--serving-name)",
                       is_plain ? other : "asked for");
        ca_deny(w, c, method_name, "serving_name", text);
        return;
    }
    auth_note(&c->caller, names[0]);
    const struct ca_leaf_ask a = { .method = method_name,
                                   .names = names,
                                   .names_n = m->n_names,
                                   .csr = span_str(m->csr),
                                   .validity_s = validity(&w->ca->conf, m->validity_s),
                                   .instance = instance };
    ca_issue(w, c, &a);
}

void
ca_sign_serving(struct ca_worker *w, struct ca_call *c)
{
    const struct ca_callers *who = &w->ca->conf.who;
    Meshroot__V1__ServingRequest *m;

    if (!ca_account_is(&c->caller, who->serving_accounts, who->serving_accounts_n)) {
        ca_deny(w, c, method_name, "serving_account",
                "this account may not have a server's certificate (--serving-account)");
        return;
    }
    m = meshroot__v1__serving_request__unpack(NULL, c->msg.n, c->msg.p);
    if (m == NULL) {
        ca_refuse(w, c, method_name, GRPC_INVALID_ARGUMENT, "the request is not a ServingRequest");
        return;
    }
    sign(w, c, m);
    meshroot__v1__serving_request__free_unpacked(m, NULL);
}
