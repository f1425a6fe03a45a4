/* test_cluster.c - bound tokens and node proxies against a cluster that changes under them. */
#include "unit.h"

#include <string.h>

#include "base/clock.h"
#include "identity/cluster.h"

static struct err e;

/* A cluster of one account, the proxy's pod and a workload's pod, each of which a test may bend. */
static struct fake {
    bool account_absent, pod_absent, other_absent;
    enum err_code fails; /* of every call */
    struct cluster_account account;
    struct cluster_pod pod, other;
} now;

static const struct fake usual = {
    .account = { .uid = "u-sa" },
    .pod = { .ns = "istio-system",
             .name = "ztunnel-1",
             .sa = "ztunnel",
             .node = "n1",
             .uid = "u-pod" },
    .other = { .ns = "shop", .name = "cart-1", .sa = "cart", .node = "n1", .uid = "u-cart" },
};

static int
failing(struct err *why)
{
    return err_set(why, now.fails, "the watch is not in step");
}

static int
get_pod(void *self, const char *ns, const char *name, struct cluster_pod *ret, struct err *why)
{
    (void)self;
    if (now.fails != E_NONE)
        return failing(why);
    if (now.pod_absent || strcmp(ns, now.pod.ns) != 0 || strcmp(name, now.pod.name) != 0)
        return CLUSTER_ABSENT;
    *ret = now.pod;
    return 0;
}

static int
get_account(void *self, const char *ns, const char *name, struct cluster_account *ret,
            struct err *why)
{
    (void)self;
    if (now.fails != E_NONE)
        return failing(why);
    if (now.account_absent || strcmp(ns, "istio-system") != 0 || strcmp(name, "ztunnel") != 0)
        return CLUSTER_ABSENT;
    *ret = now.account;
    return 0;
}

static int
runs_on(void *self, const char *node, const char *ns, const char *sa, struct err *why)
{
    const struct cluster_pod *p = &now.other;

    (void)self;
    if (now.fails != E_NONE)
        return failing(why);
    return !now.other_absent && strcmp(node, p->node) == 0 && strcmp(ns, p->ns) == 0 &&
                   strcmp(sa, p->sa) == 0
               ? 0
               : CLUSTER_ABSENT;
}

static const struct cluster cluster = { get_pod, get_account, runs_on, NULL };

static struct jwt_claims
bound(void)
{
    return (struct jwt_claims){ .is_kubernetes = true,
                                .k8s_namespace = "istio-system",
                                .k8s_service_account = "ztunnel",
                                .k8s_sa_uid = "u-sa",
                                .k8s_pod = "ztunnel-1",
                                .k8s_pod_uid = "u-pod",
                                .k8s_node = "n1" };
}

/* One change to the token or the cluster at a time; the same token is good again afterwards. */
static void
kubernetes_bound_tokens(void **state)
{
    static const struct {
        const char *what;
        enum { TOKEN, CLUSTER } where;
        const char *text; /* for the member at `at` */
        size_t at;
        int64_t deleted_ago_s; /* != 0: of the member at `at` */
        const char *reason;    /* NULL: good */
    } rows[] = {
#define AT(member)   offsetof(struct jwt_claims, member)
#define FAKE(member) offsetof(struct fake, member)
        { "as it was", CLUSTER, NULL, 0, 0, NULL },
        { "account recreated", CLUSTER, "u-new", FAKE(account.uid), 0, "account_uid" },
        { "pod recreated under its name", CLUSTER, "u-new", FAKE(pod.uid), 0, "pod_uid" },
        { "pod runs as another account", CLUSTER, "default", FAKE(pod.sa), 0, "pod_account" },
        { "pod deleted long ago, object still there", CLUSTER, NULL, FAKE(pod.deleted_s),
          CLUSTER_DELETED_GRACE_S, "pod_gone" },
        { "pod in its grace", CLUSTER, NULL, FAKE(pod.deleted_s), CLUSTER_DELETED_GRACE_S - 1,
          NULL },
        { "pod to be deleted", CLUSTER, NULL, FAKE(pod.deleted_s), -30, NULL },
        { "account deleted", CLUSTER, NULL, FAKE(account.deleted_s), CLUSTER_DELETED_GRACE_S,
          "account_gone" },
        { "no UID of the account", TOKEN, "", AT(k8s_sa_uid), 0, "unbound" },
        { "no account", TOKEN, "", AT(k8s_service_account), 0, "unbound" },
        { "no UID of the pod", TOKEN, "", AT(k8s_pod_uid), 0, "unbound" },
        { "no name of the pod", TOKEN, "", AT(k8s_pod), 0, "unbound" },
        { "bound to a Secret", TOKEN, "s", AT(k8s_secret), 0, "unbound" },
        { "another namespace", TOKEN, "shop", AT(k8s_namespace), 0, "account_gone" },
        { "UID in other letters", TOKEN, "U-POD", AT(k8s_pod_uid), 0, "pod_uid" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct jwt_claims t = bound();
        const char *reason = "";

        now = usual;
        char *at = (rows[i].where == TOKEN ? (char *)&t : (char *)&now) + rows[i].at;
        int64_t when;
        int r;
        do { /* again when a second went by meanwhile */
            when = unix_s() - rows[i].deleted_ago_s;
            if (rows[i].deleted_ago_s != 0)
                memcpy(at, &when, sizeof(when));
            else if (rows[i].text != NULL)
                memcpy(at, rows[i].text, strlen(rows[i].text) + 1);
            r = cluster_check_bound(&cluster, &t, &reason, &e);
        } while (when != unix_s() - rows[i].deleted_ago_s);
        if (rows[i].reason == NULL ? r != 0 : r != -E_AUTH || strcmp(reason, rows[i].reason) != 0)
            fail_msg("%s: r %d reason %s (%s)", rows[i].what, r, reason, e.msg);
    }
}

static void
what_is_gone_and_comes_back(void **state)
{
    struct jwt_claims t = bound();
    const char *reason = "";

    (void)state;
    now = usual;
    assert_ok(cluster_check_bound(&cluster, &t, &reason, &e));
    now.pod_absent = true;
    assert_err(cluster_check_bound(&cluster, &t, &reason, &e), E_AUTH, "ztunnel-1 is not there");
    assert_string_equal(reason, "pod_gone");
    now.account_absent = true;
    assert_err(cluster_check_bound(&cluster, &t, &reason, &e), E_AUTH, "service account");
    assert_string_equal(reason, "account_gone");
    now = usual;
    assert_ok(cluster_check_bound(&cluster, &t, &reason, &e));
    /* bound to a service account alone, as `kubectl create token` makes them */
    t.k8s_pod[0] = t.k8s_pod_uid[0] = t.k8s_node[0] = '\0';
    now.pod_absent = true;
    assert_ok(cluster_check_bound(&cluster, &t, &reason, &e));
    memcpy(t.k8s_node, "n1", 3); /* and to a Node alone: not looked up, so refused */
    assert_err(cluster_check_bound(&cluster, &t, &reason, &e), E_AUTH, "Node");
    t.is_kubernetes = false; /* an issuer outside Kubernetes has no pods */
    assert_ok(cluster_check_bound(&cluster, &t, &reason, &e));
}

/* peers.md 5a 1: whatever the port fails with, it is no yes, and "come again" (or no memory). */
static void
peers_5a_1_a_port_that_fails(void **state)
{
    struct jwt_claims t = bound();
    struct node_proxy p = { "istio-system", "ztunnel", "ztunnel-1", "u-pod" };
    const char *const accounts[] = { "istio-system/ztunnel" };
    struct node_rule rule = { accounts, 1, "cluster.local", &cluster };
    struct spiffe_id id;

    (void)state;
    for (int code = E_NOMEM; code < E__MAX; code++) {
        const char *reason = "";

        now = usual;
        now.fails = (enum err_code)code;
        assert_int_equal(cluster_check_bound(&cluster, &t, &reason, &e),
                         code == E_NOMEM ? -E_NOMEM : -E_BUSY);
        assert_string_equal(reason, "cluster_unknown");
        assert_int_equal(
            node_rule_check(&rule, &p, span_str("spiffe://cluster.local/ns/shop/sa/cart"), &id, &e),
            -code);
    }
}

static void
specs_3_4_steps_0_to_6(void **state)
{
    static const char good[] = "spiffe://cluster.local/ns/shop/sa/cart";
    static const struct {
        const char *what, *ns, *sa, *pod, *uid, *wanted;
        bool no_cluster, pod_absent, other_absent, is_over;
        const char *other_node, *pod_sa;
        const char *words; /* NULL: allowed */
    } rows[] = {
#define ZT "istio-system", "ztunnel", "ztunnel-1", "u-pod"
        { "allowed", ZT, good, .words = NULL },
        { "0: no cluster", ZT, good, .no_cluster = true, .words = "is not configured" },
        { "1: another account", "istio-system", "other", "ztunnel-1", "u-pod", good,
          .words = "caller (istio-system/other) is not allowed to impersonate" },
        { "1: another namespace", "shop", "ztunnel", "ztunnel-1", "u-pod", good,
          .words = "is not allowed to impersonate" },
        { "1: a certificate, so nobody", "", "", "", "", good,
          .words = "is not allowed to impersonate" },
        { "2: not a SPIFFE id", ZT, "cart", .words = "failed to validate impersonated identity" },
        { "2: dots", ZT, "spiffe://cluster.local/ns/shop/sa/..",
          .words = "failed to validate impersonated identity" },
        { "2: a percent escape", ZT, "spiffe://cluster.local/ns/shop/sa/car%74",
          .words = "failed to validate impersonated identity" },
        { "2: a wildcard", ZT, "spiffe://cluster.local/ns/shop/sa/*",
          .words = "failed to validate impersonated identity" },
        { "2: another trust domain", ZT, "spiffe://other.local/ns/shop/sa/cart",
          .words = "another trust domain" },
        { "2: trust domain in capitals", ZT, "spiffe://CLUSTER.LOCAL/ns/shop/sa/cart",
          .words = "failed to validate impersonated identity" },
        { "3: no such pod", ZT, good, .pod_absent = true, .words = "not found" },
        { "3: the pod is over", ZT, good, .is_over = true, .words = "not found" },
        { "3: a token that is bound to no pod", "istio-system", "ztunnel", "", "", good,
          .words = "no token that is bound to a pod" },
        { "3: name without UID", "istio-system", "ztunnel", "ztunnel-1", "", good,
          .words = "no token that is bound to a pod" },
        { "4: another UID", "istio-system", "ztunnel", "ztunnel-1", "u-old", good,
          .words = "pod found, but UID does not match: u-pod vs u-old" },
        { "5: the pod runs as another account", ZT, good, .pod_sa = "default",
          .words = "pod found, but ServiceAccount does not match: default vs ztunnel" },
        { "6: the workload is on another node", ZT, good, .other_node = "n2",
          .words = "no instances of \"shop/cart\" found on node \"n1\"" },
        { "6: no such workload", ZT, "spiffe://cluster.local/ns/shop/sa/pay",
          .words = "no instances of" },
    };
    static const char *const accounts[] = { "kube-system/proxy", "istio-system/ztunnel" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct node_rule rule = { accounts, 2, "cluster.local",
                                  rows[i].no_cluster ? NULL : &cluster };
        struct node_proxy p = { "", "", "", "" };
        struct spiffe_id id;
        char text[SPIFFE_ID_BYTES];

        now = usual;
        now.pod_absent = rows[i].pod_absent;
        now.pod.is_over = rows[i].is_over;
        if (rows[i].other_node != NULL)
            memcpy(now.other.node, rows[i].other_node, strlen(rows[i].other_node) + 1);
        if (rows[i].pod_sa != NULL)
            memcpy(now.pod.sa, rows[i].pod_sa, strlen(rows[i].pod_sa) + 1);
        (void)snprintf(p.ns, sizeof(p.ns), "%s", rows[i].ns);
        (void)snprintf(p.sa, sizeof(p.sa), "%s", rows[i].sa);
        (void)snprintf(p.pod, sizeof(p.pod), "%s", rows[i].pod);
        (void)snprintf(p.pod_uid, sizeof(p.pod_uid), "%s", rows[i].uid);
        int r = node_rule_check(&rule, &p, span_str(rows[i].wanted), &id, &e);
        if (rows[i].words == NULL) {
            assert_ok(r);
            spiffe_text(&id, text);
            assert_string_equal(text, good);
            continue;
        }
        if (r != -E_AUTH || strstr(e.msg, rows[i].words) == NULL)
            fail_msg("%s: r %d %s", rows[i].what, r, e.msg);
    }
}

static void
accounts_have_their_form(void **state)
{
    static const char *const good[] = { "istio-system/ztunnel", "a/b.c" };
    static const char *const bad[] = { "",    "/",   "a",   "a/",   "/b",   "a/b/c",
                                       "A/b", "a/*", "*/b", "a /b", "a.b/c" };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_ok(node_account_check(good[i], &e));
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_err(node_account_check(bad[i], &e), E_PARSE, "want NAMESPACE/SERVICEACCOUNT");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kubernetes_bound_tokens),
        cmocka_unit_test(what_is_gone_and_comes_back),
        cmocka_unit_test(peers_5a_1_a_port_that_fails),
        cmocka_unit_test(specs_3_4_steps_0_to_6),
        cmocka_unit_test(accounts_have_their_form),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
