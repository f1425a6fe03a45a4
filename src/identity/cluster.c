/* cluster.c - the rules that ask the cluster: bound tokens, and node proxies. */
#include "identity/cluster.h"

#include <string.h>

#include "base/clock.h"
#include "base/str.h"

/* Records a refusal with its reason word. Yields -E_AUTH. */
#define refuse(reason, word, e, ...) (*(reason) = (word), err_set((e), E_AUTH, __VA_ARGS__))

bool
cluster_is_deleted(int64_t deleted_s)
{
    return deleted_s != 0 && deleted_s + CLUSTER_DELETED_GRACE_S <= unix_s();
}

/* What the port failed with is never a yes, and never a no for good. */
static int
unknown(const char **reason, struct err *e)
{
    *reason = "cluster_unknown";
    if (e->code != E_NOMEM)
        e->code = E_BUSY;
    return err_wrap(e, "token: its pod and service account cannot be looked up");
}

static int
account_check(const struct cluster *c, const struct jwt_claims *t, const char **reason,
              struct err *e)
{
    struct cluster_account a = { .deleted_s = 0 };

    if (t->k8s_service_account[0] == '\0' || t->k8s_sa_uid[0] == '\0')
        return refuse(reason, "unbound", e, "token: names no service account with its UID");
    int r = c->account(c->self, t->k8s_namespace, t->k8s_service_account, &a, e);
    if (r < 0)
        return unknown(reason, e);
    if (r != 0 || cluster_is_deleted(a.deleted_s))
        return refuse(reason, "account_gone", e, "token: service account %s/%.128s is not there",
                      t->k8s_namespace, t->k8s_service_account);
    if (strcmp(a.uid, t->k8s_sa_uid) != 0)
        return refuse(reason, "account_uid", e,
                      "token: service account %s/%.128s is another one now (UID %s, the token has "
                      "%s)",
                      t->k8s_namespace, t->k8s_service_account, a.uid, t->k8s_sa_uid);
    return 0;
}

static int
pod_check(const struct cluster *c, const struct jwt_claims *t, const char **reason, struct err *e)
{
    struct cluster_pod p = { .deleted_s = 0 };

    if (t->k8s_pod[0] == '\0' || t->k8s_pod_uid[0] == '\0')
        return refuse(reason, "unbound", e, "token: names a pod without its name or UID");
    int r = c->pod(c->self, t->k8s_namespace, t->k8s_pod, &p, e);
    if (r < 0)
        return unknown(reason, e);
    if (r != 0 || cluster_is_deleted(p.deleted_s))
        return refuse(reason, "pod_gone", e, "token: pod %s/%.128s is not there", t->k8s_namespace,
                      t->k8s_pod);
    if (strcmp(p.uid, t->k8s_pod_uid) != 0)
        return refuse(reason, "pod_uid", e,
                      "token: pod %s/%.128s is another one now (UID %s, the token has %s)",
                      t->k8s_namespace, t->k8s_pod, p.uid, t->k8s_pod_uid);
    if (strcmp(p.sa, t->k8s_service_account) != 0)
        return refuse(reason, "pod_account", e,
                      "token: pod %s/%.128s runs as %.128s, the token is of %.128s",
                      t->k8s_namespace, t->k8s_pod, p.sa, t->k8s_service_account);
    return 0;
}

int
cluster_check_bound(const struct cluster *c, const struct jwt_claims *t, const char **ret_reason,
                    struct err *e)
{
    bool has_pod = t->k8s_pod[0] != '\0' || t->k8s_pod_uid[0] != '\0';

    if (!t->is_kubernetes)
        return 0;
    if (t->k8s_secret[0] != '\0')
        return refuse(
            ret_reason, "unbound", e,
            "token: is bound to the Secret \"%.128s\", which is not looked up here; use a "
            "projected token of a pod",
            t->k8s_secret);
    if (!has_pod && t->k8s_node[0] != '\0')
        return refuse(ret_reason, "unbound", e,
                      "token: is bound to the Node \"%.128s\", which is not looked up here; use a "
                      "projected token of a pod",
                      t->k8s_node);
    TRY(account_check(c, t, ret_reason, e));
    return has_pod ? pod_check(c, t, ret_reason, e) : 0;
}

/* -- node proxies -------------------------------------------------------------------------------
 */

int
node_account_check(const char *text, struct err *e)
{
    struct span rest = span_str(text), ns, sa;

    if (!span_cut(&rest, '/', &ns) || !span_cut(&rest, '/', &sa) || rest.p != NULL ||
        !k8s_label_ok(ns) || !k8s_subdomain_ok(sa))
        return err_set(e, E_PARSE, "\"%.200s\": want NAMESPACE/SERVICEACCOUNT", text);
    return 0;
}

static bool
is_trusted(const struct node_rule *rule, const struct node_proxy *p)
{
    for (size_t i = 0; i < rule->n; i++) {
        struct span sa = span_str(rule->accounts[i]), ns;

        (void)span_cut(&sa, '/', &ns);
        if (span_eq_str(ns, p->ns) && span_eq_str(sa, p->sa))
            return true;
    }
    return false;
}

/* Steps 3 to 5: the pod that asks is the one that its token is bound to. */
static int
proxy_pod(const struct cluster *c, const struct node_proxy *caller, struct cluster_pod *ret,
          struct err *e)
{
    if (caller->pod[0] == '\0' || caller->pod_uid[0] == '\0')
        return err_set(e, E_AUTH, "caller (%s/%.128s) has no token that is bound to a pod",
                       caller->ns, caller->sa);
    int r = c->pod(c->self, caller->ns, caller->pod, ret, e);
    if (r < 0)
        return err_result(e);
    if (r != 0 || ret->is_over || cluster_is_deleted(ret->deleted_s))
        return err_set(e, E_AUTH, "pod %s/%.128s not found", caller->ns, caller->pod);
    if (strcmp(ret->uid, caller->pod_uid) != 0)
        return err_set(e, E_AUTH, "pod found, but UID does not match: %s vs %s", ret->uid,
                       caller->pod_uid);
    if (strcmp(ret->sa, caller->sa) != 0)
        return err_set(e, E_AUTH, "pod found, but ServiceAccount does not match: %.128s vs %.128s",
                       ret->sa, caller->sa);
    return 0;
}

int
node_rule_check(const struct node_rule *rule, const struct node_proxy *caller, struct span wanted,
                struct spiffe_id *ret, struct err *e)
{
    struct cluster_pod pod = { .deleted_s = 0 };
    struct spiffe_id id;

    if (rule->cluster == NULL || rule->n == 0)
        return err_set(
            e, E_AUTH,
            "impersonation not allowed, as node authorizer (CA_TRUSTED_NODE_ACCOUNTS) is "
            "not configured");
    if (!is_trusted(rule, caller))
        return err_set(e, E_AUTH, "caller (%s/%.128s) is not allowed to impersonate", caller->ns,
                       caller->sa);
    if (spiffe_parse(wanted, &id, e) < 0) {
        e->code = E_AUTH;
        return err_wrap(e, "failed to validate impersonated identity");
    }
    if (strcmp(id.trust_domain, rule->trust_domain) != 0)
        return err_set(e, E_AUTH,
                       "failed to validate impersonated identity: it is of another trust domain");
    TRY(proxy_pod(rule->cluster, caller, &pod, e));
    if (pod.node[0] == '\0')
        return err_set(e, E_AUTH, "pod %s/%.128s is on no node", caller->ns, caller->pod);
    int r = rule->cluster->runs_on(rule->cluster->self, pod.node, id.ns, id.sa, e);
    if (r < 0)
        return err_result(e);
    if (r != 0)
        return err_set(e, E_AUTH, "no instances of \"%s/%.128s\" found on node \"%.128s\"", id.ns,
                       id.sa, pod.node);
    *ret = id;
    return 0;
}
