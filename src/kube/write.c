/* write.c - five verbs, one request each. */
#include "kube/write.h"

#include <ctype.h>
#include <stdlib.h>

#include "base/str.h"
#include "kube/feed.h"

/* clang-format off */
const struct kube_kind kube_secret          = { "v1", "Secret", "secrets", true };
const struct kube_kind kube_config_map      = { "v1", "ConfigMap", "configmaps", true };
const struct kube_kind kube_namespace       = { "v1", "Namespace", "namespaces", false };
const struct kube_kind kube_pod             = { "v1", "Pod", "pods", true };
const struct kube_kind kube_service         = { "v1", "Service", "services", true };
const struct kube_kind kube_service_account = { "v1", "ServiceAccount", "serviceaccounts", true };
const struct kube_kind kube_deployment      = { "apps/v1", "Deployment", "deployments", true };
const struct kube_kind kube_stateful_set    = { "apps/v1", "StatefulSet", "statefulsets", true };
const struct kube_kind kube_replica_set     = { "apps/v1", "ReplicaSet", "replicasets", true };
const struct kube_kind kube_lease           = { "coordination.k8s.io/v1", "Lease", "leases", true };
const struct kube_kind kube_event_kind      = { "v1", "Event", "events", true };
const struct kube_kind kube_access_review   = { "authorization.k8s.io/v1", "SelfSubjectAccessReview",
                                                "selfsubjectaccessreviews", false };
/* clang-format on */

/* -- paths --------------------------------------------------------------------------------------
 */

/* RFC 1123 subdomain, as names of objects are; ':' too, which RBAC's may have. */
static int
name_check(const char *name, size_t max, const char *what, struct err *e)
{
    size_t n = strlen(name);

    bool is_fine = n > 0 && n <= max && isalnum((unsigned char)name[0]);
    for (size_t i = 0; i < n; i++)
        is_fine = is_fine && (islower((unsigned char)name[i]) || isdigit((unsigned char)name[i]) ||
                              strchr("-.:", name[i]) != NULL);
    if (!is_fine || strstr(name, "..") != NULL)
        return err_set(e, E_INVAL, "\"%.100s\" is no %s: want lower-case letters, digits, '-', '.'",
                       name, what);
    return 0;
}

int
kube_path(const struct kube_kind *kind, const char *ns, const char *name, const char *sub,
          char **ret, struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(2048);
    bool is_core = strchr(kind->api, '/') == NULL;

    if (ns != NULL && !kind->is_namespaced)
        return err_set(e, E_INVAL, "a %s is in no namespace", kind->kind);
    if (ns == NULL && name != NULL && kind->is_namespaced)
        return err_set(e, E_INVAL, "%s \"%.100s\" is in no namespace", kind->kind, name);
    TRY(buf_addf(&b, e, "/%s/%s", is_core ? "api" : "apis", kind->api));
    if (ns != NULL) {
        TRY(name_check(ns, KUBE_LABEL_MAX_BYTES, "namespace", e));
        TRY(buf_addf(&b, e, "/namespaces/%s", ns));
    }
    TRY(buf_addf(&b, e, "/%s", kind->plural));
    if (name != NULL) {
        TRY(name_check(name, KUBE_NAME_MAX_BYTES, "name of an object", e));
        TRY(buf_addf(&b, e, "/%s", name));
    }
    if (sub != NULL) {
        TRY(name_check(sub, KUBE_LABEL_MAX_BYTES, "subresource", e));
        TRY(buf_addf(&b, e, "/%s", sub));
    }
    return str_dup(buf_span(&b), ret, e);
}

/* -- verbs --------------------------------------------------------------------------------------
 */

struct verb {
    const char *method, *type;
    bool is_safe, is_on_collection, is_strict, has_manager;
};
static const struct verb create = { "POST", NULL, false, true, true, true };
static const struct verb update = { "PUT", NULL, true, false, true, true };
static const struct verb apply = {
    "PATCH", "application/apply-patch+yaml", true, false, true, true
};
static const struct verb patch = {
    "PATCH", "application/merge-patch+json", true, false, true, true
};
static const struct verb removal = { "DELETE", NULL, true, false, false, false };

static const char *
or_of(const char *given, const char *meta)
{
    return given != NULL ? given : meta[0] == '\0' ? NULL : meta;
}

static int
url_make(const struct verb *v, const struct kube_write *w, struct buf *url, struct err *e)
{
    const char *ns = or_of(w->ns, kube_object_ns(w->object));
    const char *name = or_of(w->name, kube_object_name(w->object));
    const char *manager = w->manager == NULL ? "meshroot" : w->manager;
    CLEANUP(str_freep) char *path = NULL;

    if (name == NULL && !v->is_on_collection)
        return err_set(e, E_INVAL, "%s: the object has no name", w->kind->kind);
    if (ns == NULL && w->kind->is_namespaced)
        return err_set(e, E_INVAL, "%s: the object is in no namespace", w->kind->kind);
    TRY(kube_path(w->kind, ns, v->is_on_collection && w->sub == NULL ? NULL : name, w->sub, &path,
                  e));
    TRY(name_check(manager, 128, "field manager", e)); /* so that nothing needs escaping */
    TRY(buf_add_str(url, path, e));
    const char *sep = "?";
    if (v->has_manager) {
        TRY(buf_addf(url, e, "%sfieldManager=%s", sep, manager));
        sep = "&";
    }
    if (v->is_strict)
        TRY(buf_addf(url, e, "%sfieldValidation=Strict", sep));
    if (w->is_dry_run)
        TRY(buf_addf(url, e, "%sdryRun=All", sep));
    if (v == &apply)
        TRY(buf_addf(url, e, "&force=%s", w->is_forced ? "true" : "false"));
    return 0;
}

static int
body_write(const json_t *o, struct buf *out, struct err *e)
{
    char *text = json_dumps(o, JSON_COMPACT);

    if (text == NULL)
        return err_nomem(e);
    int r = buf_add_str(out, text, e);
    explicit_bzero(text, strlen(text)); /* it may hold a key */
    free(text);
    return r < 0 ? err_wrap(e, "an object for the Kubernetes API") : 0;
}

static int
verb_send(struct kube_client *c, const struct verb *v, const struct kube_write *w,
          kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e)
{
    CLEANUP(buf_wipe) struct buf body = BUF_INIT(KUBE_WRITE_MAX_BYTES);
    CLEANUP(buf_done) struct buf url = BUF_INIT(4096);

    if (!json_is_object(w->object))
        return err_set(e, E_INVAL, "%s: no object to write", w->kind->kind);
    TRY(url_make(v, w, &url, e));
    TRY(body_write(w->object, &body, e));
    struct kube_request q = { .method = v->method,
                              .path = buf_text(&url),
                              .body = buf_span(&body),
                              .type = v->type,
                              .deadline_ms = w->deadline_ms,
                              .is_safe = v->is_safe };
    return kube_send(c, &q, done, arg, ret, e);
}

int
kube_create(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
            struct kube_call **ret, struct err *e)
{
    return verb_send(c, &create, w, done, arg, ret, e);
}

int
kube_update(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
            struct kube_call **ret, struct err *e)
{
    char version[KUBE_VERSION_BYTES];

    if (kube_version_read(w->object, version, e) < 0)
        return err_set(e, E_INVAL,
                       "%s \"%.100s\": an update says what it was made from: no "
                       "metadata.resourceVersion",
                       w->kind->kind, kube_object_name(w->object));
    return verb_send(c, &update, w, done, arg, ret, e);
}

int
kube_apply(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
           struct kube_call **ret, struct err *e)
{
    return verb_send(c, &apply, w, done, arg, ret, e);
}

int
kube_patch(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
           struct kube_call **ret, struct err *e)
{
    return verb_send(c, &patch, w, done, arg, ret, e);
}

static int
set_text(json_t *o, const char *name, const char *text, struct err *e)
{
    return text != NULL && json_object_set_new(o, name, json_string(text)) != 0 ? err_nomem(e) : 0;
}

static int
delete_options(const struct kube_write *w, json_t *o, struct err *e)
{
    if (TRY(set_text(o, "propagationPolicy", w->propagation, e)) == 0 && w->is_dry_run &&
        json_object_set_new(o, "dryRun", json_pack("[s]", "All")) != 0)
        return err_nomem(e);
    if (w->uid == NULL && w->version == NULL)
        return 0;
    json_t *only = json_object();
    if (json_object_set_new(o, "preconditions", only) != 0)
        return err_nomem(e);
    TRY(set_text(only, "uid", w->uid, e));
    return set_text(only, "resourceVersion", w->version, e);
}

int
kube_delete(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
            struct kube_call **ret, struct err *e)
{
    CLEANUP(json_decrefp)
    json_t *options = json_pack("{s:s, s:s}", "apiVersion", "v1", "kind", "DeleteOptions");
    struct kube_write with = *w;

    if (options == NULL)
        return err_nomem(e);
    if (w->name == NULL)
        return err_set(e, E_INVAL, "%s: a delete names what goes", w->kind->kind);
    TRY(delete_options(w, options, e));
    with.object = options;
    with.is_dry_run = false; /* said in the options */
    return verb_send(c, &removal, &with, done, arg, ret, e);
}
