/* pod_list.c - Kubernetes' JSON of pods and service accounts, as sorted arrays. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "identity/pod_item.h"
#include "identity/pods_file.h"

struct account {
    char ns[K8S_NAME_BYTES], name[K8S_NAME_BYTES];
    struct cluster_account is;
};

struct pod_list {
    struct cluster_pod *pods;           /* owned; by namespace, name */
    const struct cluster_pod **by_node; /* owned; those that run, by node, namespace, account */
    struct account *accounts;           /* owned; by namespace, name */
    size_t pods_n, by_node_n, accounts_n;
};

/* -- order ---------------------------------------------------------------------------------------
 */

static int
names_compare(const char *a1, const char *a2, const char *b1, const char *b2)
{
    int r = strcmp(a1, b1);

    return r != 0 ? r : strcmp(a2, b2);
}

static int
pod_compare(const void *a, const void *b)
{
    const struct cluster_pod *x = a, *y = b;

    return names_compare(x->ns, x->name, y->ns, y->name);
}

static int
account_compare(const void *a, const void *b)
{
    const struct account *x = a, *y = b;

    return names_compare(x->ns, x->name, y->ns, y->name);
}

static int
node_compare(const void *a, const void *b)
{
    const struct cluster_pod *x, *y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    int r = strcmp(x->node, y->node);
    return r != 0 ? r : names_compare(x->ns, x->sa, y->ns, y->sa);
}

/* -- reading -------------------------------------------------------------------------------------
 */

/* An object inside another; NULL when absent. */
static int
inner(const json_t *o, const char *name, const json_t **ret, struct err *e)
{
    const json_t *v = json_object_get(o, name);

    if (v != NULL && !json_is_object(v) && !json_is_null(v))
        return err_set(e, E_PARSE, "\"%s\" is not an object", name);
    *ret = json_is_object(v) ? v : NULL;
    return 0;
}

static int
name_read(const json_t *o, const char *name, bool (*ok)(struct span), bool may_lack, char *ret,
          struct err *e)
{
    TRY(json_text_copy(o, name, ret, K8S_NAME_BYTES, e));
    if (ret[0] == '\0' ? !may_lack : !ok(span_str(ret)))
        return err_set(e, E_PARSE, "\"%s\" is not a name", name);
    return 0;
}

struct meta {
    char ns[K8S_NAME_BYTES], name[K8S_NAME_BYTES], uid[K8S_UID_BYTES];
    int64_t deleted_s;
};

static int
meta_read(const json_t *item, struct meta *ret, struct err *e)
{
    const json_t *m = NULL;
    struct span deleted;

    TRY(inner(item, "metadata", &m, e));
    TRY(name_read(m, "namespace", k8s_label_ok, false, ret->ns, e));
    TRY(name_read(m, "name", k8s_subdomain_ok, false, ret->name, e));
    TRY(json_text_copy(m, "uid", ret->uid, sizeof(ret->uid), e));
    if (ret->uid[0] == '\0')
        return err_set(e, E_PARSE, "no \"uid\"");
    if (TRY(json_text(m, "deletionTimestamp", &deleted, e)) != JSON_MEMBER_ABSENT &&
        rfc3339_parse(deleted, &ret->deleted_s, e) < 0)
        return err_wrap(e, "\"deletionTimestamp\"");
    return 0;
}

int
pod_item_read(const json_t *item, struct cluster_pod *ret, struct err *e)
{
    const json_t *spec = NULL, *status = NULL;
    struct cluster_pod p = { .deleted_s = 0 };
    struct meta m = { .deleted_s = 0 };
    char phase[32] = "";

    TRY(meta_read(item, &m, e));
    TRY(inner(item, "spec", &spec, e));
    TRY(inner(item, "status", &status, e));
    memcpy(p.ns, m.ns, sizeof(p.ns));
    memcpy(p.name, m.name, sizeof(p.name));
    memcpy(p.uid, m.uid, sizeof(p.uid));
    p.deleted_s = m.deleted_s;
    TRY(name_read(spec, "serviceAccountName", k8s_subdomain_ok, true, p.sa, e));
    TRY(name_read(spec, "nodeName", k8s_subdomain_ok, true, p.node, e)); /* not scheduled yet */
    TRY(json_text_copy(status, "phase", phase, sizeof(phase), e));
    p.is_over = strcmp(phase, "Failed") == 0 || strcmp(phase, "Succeeded") == 0;
    *ret = p;
    return 0;
}

int
account_item_read(const json_t *item, char ret_ns[K8S_NAME_BYTES], char ret_name[K8S_NAME_BYTES],
                  struct cluster_account *ret, struct err *e)
{
    struct meta m = { .deleted_s = 0 };

    TRY(meta_read(item, &m, e));
    memcpy(ret_ns, m.ns, sizeof(m.ns));
    memcpy(ret_name, m.name, sizeof(m.name));
    memcpy(ret->uid, m.uid, sizeof(ret->uid));
    ret->deleted_s = m.deleted_s;
    return 0;
}

static int
pod_read(struct pod_list *l, const json_t *item, struct err *e)
{
    TRY(pod_item_read(item, &l->pods[l->pods_n], e));
    l->pods_n++;
    return 0;
}

static int
account_read(struct pod_list *l, const json_t *item, struct err *e)
{
    struct account *a = &l->accounts[l->accounts_n];

    TRY(account_item_read(item, a->ns, a->name, &a->is, e));
    l->accounts_n++;
    return 0;
}

/* The items of a PodList name no kind of their own when an API server sent it; kubectl's do. */
static int
item_read(struct pod_list *l, const json_t *item, const char *list_kind, struct err *e)
{
    char kind[64] = "";

    if (!json_is_object(item))
        return err_set(e, E_PARSE, "not an object");
    TRY(json_text_copy(item, "kind", kind, sizeof(kind), e));
    if (strcmp(kind, "Pod") == 0 || (kind[0] == '\0' && strcmp(list_kind, "PodList") == 0))
        return pod_read(l, item, e);
    if (strcmp(kind, "ServiceAccount") == 0 ||
        (kind[0] == '\0' && strcmp(list_kind, "ServiceAccountList") == 0))
        return account_read(l, item, e);
    return 0;
}

/* Sorts; the same name twice is two answers to one question, so it is refused. */
static int
list_finish(struct pod_list *l, struct err *e)
{
    qsort(l->pods, l->pods_n, sizeof(*l->pods), pod_compare);
    qsort(l->accounts, l->accounts_n, sizeof(*l->accounts), account_compare);
    for (size_t i = 1; i < l->pods_n; i++)
        if (pod_compare(&l->pods[i - 1], &l->pods[i]) == 0)
            return err_set(e, E_PARSE, "pod %s/%.128s is there twice", l->pods[i].ns,
                           l->pods[i].name);
    for (size_t i = 1; i < l->accounts_n; i++)
        if (account_compare(&l->accounts[i - 1], &l->accounts[i]) == 0)
            return err_set(e, E_PARSE, "service account %s/%.128s is there twice",
                           l->accounts[i].ns, l->accounts[i].name);
    for (size_t i = 0; i < l->pods_n; i++)
        if (l->pods[i].node[0] != '\0' && !l->pods[i].is_over)
            l->by_node[l->by_node_n++] = &l->pods[i];
    qsort(l->by_node, l->by_node_n, sizeof(const struct cluster_pod *), node_compare);
    return 0;
}

static int
items_read(const json_t *doc, struct pod_list *l, struct err *e)
{
    const json_t *items = json_object_get(doc, "items"), *item;
    char kind[64] = "";
    size_t i;

    TRY(json_text_copy(doc, "kind", kind, sizeof(kind), e));
    size_t n = json_array_size(items);
    if (!json_is_array(items) || (strcmp(kind, "List") != 0 && strcmp(kind, "PodList") != 0 &&
                                  strcmp(kind, "ServiceAccountList") != 0))
        return err_set(e, E_PARSE,
                       "want the List that \"kubectl get pods,serviceaccounts -A -o json\" prints");
    if (n > PODS_FILE_MAX_ITEMS)
        return err_set(e, E_LIMIT, "%zu items, at most %d are taken", n, PODS_FILE_MAX_ITEMS);
    l->pods = calloc(n + 1, sizeof(*l->pods));
    l->by_node = calloc(n + 1, sizeof(const struct cluster_pod *));
    l->accounts = calloc(n + 1, sizeof(*l->accounts));
    if (l->pods == NULL || l->by_node == NULL || l->accounts == NULL)
        return err_nomem(e);
    json_array_foreach(items, i, item)
        if (item_read(l, item, kind, e) < 0)
            return err_wrap(e, "item %zu", i + 1);
    return list_finish(l, e);
}

int
pod_list_from_json(struct span json, struct pod_list **ret, struct err *e)
{
    CLEANUP(json_decrefp) json_t *doc = NULL;
    CLEANUP(pod_list_freep) struct pod_list *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    TRY(json_object_parse(json, JSON_MAX_DEPTH, &doc, e));
    TRY(items_read(doc, l, e));
    *ret = STEAL(l);
    return 0;
}

void
pod_list_free(struct pod_list *l)
{
    if (l == NULL)
        return;
    free(l->pods);
    free(l->by_node);
    free(l->accounts);
    free(l);
}

/* -- questions -----------------------------------------------------------------------------------
 */

size_t
pod_list_pods(const struct pod_list *l)
{
    return l->pods_n;
}

/* False for a name that does not fit, which no object has. */
static bool
key_fill(char to[K8S_NAME_BYTES], const char *from)
{
    size_t n = strlen(from);

    if (n >= K8S_NAME_BYTES)
        return false;
    memcpy(to, from, n + 1);
    return true;
}

const struct cluster_pod *
pod_list_pod(const struct pod_list *l, const char *ns, const char *name)
{
    struct cluster_pod key = { .deleted_s = 0 };

    if (!key_fill(key.ns, ns) || !key_fill(key.name, name))
        return NULL;
    return bsearch(&key, l->pods, l->pods_n, sizeof(key), pod_compare);
}

const struct cluster_account *
pod_list_account(const struct pod_list *l, const char *ns, const char *name)
{
    struct account key = { .ns = "" };

    if (!key_fill(key.ns, ns) || !key_fill(key.name, name))
        return NULL;
    const struct account *a =
        bsearch(&key, l->accounts, l->accounts_n, sizeof(key), account_compare);
    return a == NULL ? NULL : &a->is;
}

bool
pod_list_runs_on(const struct pod_list *l, const char *node, const char *ns, const char *sa)
{
    struct cluster_pod key = { .deleted_s = 0 };
    const struct cluster_pod *want = &key;
    size_t lo = 0, hi = l->by_node_n;

    if (!key_fill(key.node, node) || !key_fill(key.ns, ns) || !key_fill(key.sa, sa))
        return false;
    while (lo < hi) { /* the first that is not before it */
        size_t mid = lo + (hi - lo) / 2;

        if (node_compare(&l->by_node[mid], &want) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo < l->by_node_n && node_compare(&l->by_node[lo], &want) == 0; lo++)
        if (!cluster_is_deleted(l->by_node[lo]->deleted_s))
            return true;
    return false;
}
