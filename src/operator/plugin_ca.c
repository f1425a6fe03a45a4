/* plugin_ca.c - a table of fields, read strictly. Source: deploy/helm/meshroot/crds/pluginca.yaml.
 */
#include "operator/plugin_ca.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "pki/pki.h"

const struct kube_kind kube_plugin_ca = { PLUGIN_CA_API, "PluginCA", "pluginca", true };

enum field_kind {
    FIELD_TEXT,     /* char[size] */
    FIELD_SECRET,   /* char[size]: a secret's name in a vault */
    FIELD_DURATION, /* uint64_t ms, min..max */
    FIELD_FLAG,     /* bool */
    FIELD_TARGET,   /* to_istiod, to_meshroot */
    FIELD_OBJECT,   /* has members: rows of its own */
    FIELD_SELECTOR, /* json_t * */
    FIELD_PEM,      /* char * */
};

struct field {
    const char *path; /* "vault.auth.clientSecret.name" */
    enum field_kind kind;
    size_t at, size;
    const char *def; /* NULL: none, and absent is fine */
    uint64_t min, max;
};

#define AT(member)   offsetof(struct plugin_ca, member)
#define SIZE(member) sizeof(((struct plugin_ca *)0)->member)
enum { SECOND = 1000, HOUR = 3600 * SECOND };

/* clang-format off */
static const struct field fields[] = {
    { "vault", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "vault.caBundle", FIELD_PEM, AT(ca_bundle), 0, NULL, 0, 0 },
    { "vault.url", FIELD_TEXT, AT(vault_url), SIZE(vault_url), NULL, 0, 0 },
    { "vault.keyVaultID", FIELD_TEXT, AT(vault_url), SIZE(vault_url), NULL, 0, 0 },
    { "vault.auth", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "vault.auth.workloadIdentity", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "vault.auth.workloadIdentity.tenantID", FIELD_TEXT, AT(tenant), SIZE(tenant), NULL, 0, 0 },
    { "vault.auth.workloadIdentity.clientID", FIELD_TEXT, AT(client_id), SIZE(client_id), NULL, 0, 0 },
    { "vault.auth.managedIdentity", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "vault.auth.managedIdentity.clientID", FIELD_TEXT, AT(client_id), SIZE(client_id), NULL, 0, 0 },
    { "vault.auth.clientSecret", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "vault.auth.clientSecret.name", FIELD_TEXT, AT(secret), SIZE(secret), NULL, 0, 0 },
    { "objectNames", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "objectNames.rootCert", FIELD_SECRET, AT(object_names[PART_ROOT_CERT]), SECRET_NAME_BYTES, "root-cert", 0, 0 },
    { "objectNames.caCert", FIELD_SECRET, AT(object_names[PART_CA_CERT]), SECRET_NAME_BYTES, "ca-cert", 0, 0 },
    { "objectNames.caKey", FIELD_SECRET, AT(object_names[PART_CA_KEY]), SECRET_NAME_BYTES, "ca-key", 0, 0 },
    { "objectNames.certChain", FIELD_SECRET, AT(object_names[PART_CERT_CHAIN]), SECRET_NAME_BYTES, "cert-chain", 0, 0 },
    { "objectNames.caCrl", FIELD_SECRET, AT(object_names[PART_CA_CRL]), SECRET_NAME_BYTES, NULL, 0, 0 },
    { "pollInterval", FIELD_DURATION, AT(poll_ms), 0, "2m", SECOND, 24 * HOUR },
    { "target", FIELD_TARGET, 0, 0, "istiod", 0, 0 },
    { "trustDomain", FIELD_TEXT, AT(trust_domain), SIZE(trust_domain), "cluster.local", 0, 0 },
    { "namespaceSelector", FIELD_SELECTOR, AT(selector), 0, NULL, 0, 0 },
    { "ttl", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "ttl.default", FIELD_DURATION, AT(ttl_ms), 0, "24h", 60 * SECOND, UINT64_C(3650) * 24 * HOUR },
    { "ttl.renewWindow", FIELD_DURATION, AT(renew_window_ms), 0, "5m", 0, 24 * HOUR },
    { "gates", FIELD_OBJECT, 0, 0, NULL, 0, 0 },
    { "gates.holdRootReplacement", FIELD_FLAG, AT(hold_replacement), 0, NULL, 0, 0 },
    { "gates.stockWait", FIELD_DURATION, AT(stock_wait_ms), 0, "24h", 0, UINT64_C(3650) * 24 * HOUR },
    { "gates.mountWait", FIELD_DURATION, AT(mount_wait_ms), 0, "2m", 0, 24 * HOUR },
    { "adopt", FIELD_FLAG, AT(adopt), 0, NULL, 0, 0 },
};
/* clang-format on */

/* -- one field -----------------------------------------------------------------------------------
 */

static int
wrong(const struct field *f, struct err *e, const char *reason)
{
    return err_set(e, E_INVAL, "spec.%s: %s", f->path, reason);
}

static int
text_take(const struct field *f, const char *s, char *to, struct err *e)
{
    size_t n = strlen(s);

    if (n == 0)
        return wrong(f, e, "is empty; leave it out, or give a value");
    if (n >= f->size)
        return err_set(e, E_INVAL, "spec.%s: has %zu bytes; at most %zu are taken", f->path, n,
                       f->size - 1);
    for (size_t i = 0; i < n; i++)
        if (!isgraph((unsigned char)s[i]))
            return wrong(f, e, "holds a blank or a control character; take it out");
    memcpy(to, s, n + 1);
    return 0;
}

static int
secret_take(const struct field *f, const char *s, char *to, struct err *e)
{
    if (strspn(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != strlen(s))
        return wrong(f, e, "a secret's name in a vault has letters, digits and dashes only");
    return text_take(f, s, to, e);
}

static int
duration_take(const struct field *f, const char *s, char *to, struct err *e)
{
    char min[DURATION_BYTES], max[DURATION_BYTES];
    uint64_t ms;

    if (duration_ms_parse(span_str(s), &ms, e) < 0)
        return err_set(e, E_INVAL, "spec.%s: \"%.40s\" is no duration; write 90s, 2m, 24h or 90d",
                       f->path, s);
    duration_ms_text(f->min, min);
    duration_ms_text(f->max, max);
    if (ms < f->min || ms > f->max)
        return err_set(e, E_INVAL, "spec.%s: %.40s is outside %s..%s", f->path, s, min, max);
    memcpy(to, &ms, sizeof(ms));
    return 0;
}

static int
target_take(const struct field *f, const char *s, struct plugin_ca *p, struct err *e)
{
    bool both = strcmp(s, "both") == 0;

    p->to_istiod = both || strcmp(s, "istiod") == 0;
    p->to_meshroot = both || strcmp(s, "meshroot") == 0;
    return p->to_istiod || p->to_meshroot ? 0 : wrong(f, e, "is one of istiod, meshroot and both");
}

static int
pem_take(const struct field *f, const char *s, char **to, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *roots = NULL;

    if (strlen(s) > PLUGIN_CA_BUNDLE_BYTES)
        return wrong(f, e, "is longer than 64 KiB; keep only the roots of the vault");
    if (roots_from_pem(span_str(s), &roots, e) < 0) {
        e->code = e->code == E_NOMEM ? E_NOMEM : E_INVAL;
        return err_wrap(e, "spec.%s: want the roots of the vault as PEM", f->path);
    }
    free(*to);
    *to = NULL;
    return str_dup(span_str(s), to, e);
}

static int
field_take(const struct field *f, const json_t *v, struct plugin_ca *p, struct err *e)
{
    char *to = (char *)p + f->at;
    const char *s = v == NULL ? f->def : json_string_value(v);

    if (f->kind == FIELD_OBJECT || f->kind == FIELD_SELECTOR) {
        if (v != NULL && !json_is_object(v))
            return wrong(f, e, "is no object");
        if (f->kind == FIELD_SELECTOR && json_object_size(v) > 0)
            p->selector = json_deep_copy(v);
        return f->kind == FIELD_SELECTOR && json_object_size(v) > 0 && p->selector == NULL
                   ? err_nomem(e)
                   : 0;
    }
    if (f->kind == FIELD_FLAG) {
        if (v != NULL && !json_is_boolean(v))
            return wrong(f, e, "is true or false");
        *(bool *)to = json_is_true(v);
        return 0;
    }
    if (v != NULL && s == NULL)
        return wrong(f, e, "is no text");
    if (s == NULL)
        return 0;
    if (v != NULL && strlen(s) != json_string_length(v))
        return wrong(f, e, "holds a NUL; take it out");
    switch (f->kind) {
    case FIELD_TEXT:
        return text_take(f, s, to, e);
    case FIELD_SECRET:
        return secret_take(f, s, to, e);
    case FIELD_DURATION:
        return duration_take(f, s, to, e);
    case FIELD_TARGET:
        return target_take(f, s, p, e);
    case FIELD_PEM:
        return pem_take(f, s, (char **)(void *)to, e);
    case FIELD_FLAG:
    case FIELD_OBJECT:
    case FIELD_SELECTOR:
        break;
    }
    return 0;
}

/* -- the spec ------------------------------------------------------------------------------------
 */

static const json_t *
value_at(const json_t *spec, const char *path)
{
    struct span rest = span_str(path), part;
    const json_t *at = spec;
    char name[64];

    while (at != NULL && span_cut(&rest, '.', &part)) {
        (void)snprintf(name, sizeof(name), "%.*s", SPAN_ARG(part));
        at = json_object_get(at, name);
    }
    return json_is_null(at) ? NULL : at;
}

static const struct field *
field_find(const char *path)
{
    for (size_t i = 0; i < ARRAY_LEN(fields); i++)
        if (strcmp(fields[i].path, path) == 0)
            return &fields[i];
    return NULL;
}

/* Every member has a row. Depth is that of the table. */
static int
members_known(const json_t *o, const char *prefix, struct err *e)
{
    const char *name;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)o, name, v) {
        char path[160];
        (void)snprintf(path, sizeof(path), "%s%s%.100s", prefix, prefix[0] == '\0' ? "" : ".",
                       name);
        const struct field *f = field_find(path);
        if (f == NULL)
            return err_set(e, E_INVAL,
                           "spec.%s: is not known to this operator; take it out, or install the "
                           "operator that the CRD is of",
                           path);
        if (f->kind == FIELD_OBJECT)
            TRY(members_known(v, path, e));
    }
    return 0;
}

static int
vault_check(const json_t *spec, struct plugin_ca *p, struct err *e)
{
    static const char *const logins[LOGIN__N] = {
        [LOGIN_WORKLOAD] = "vault.auth.workloadIdentity",
        [LOGIN_MANAGED] = "vault.auth.managedIdentity",
        [LOGIN_SECRET] = "vault.auth.clientSecret",
    };
    char id[VAULT_URL_BYTES];
    size_t n = 0;

    if ((value_at(spec, "vault.url") != NULL) == (value_at(spec, "vault.keyVaultID") != NULL))
        return err_set(e, E_INVAL, "spec.vault: exactly one of url and keyVaultID names the vault");
    memcpy(id, p->vault_url, sizeof(id));
    if (vault_id_url(id, p->vault_url, e) < 0)
        return err_wrap(e, "spec.vault");
    for (size_t i = 0; i < LOGIN__N; i++)
        if (value_at(spec, logins[i]) != NULL) {
            p->login = (enum vault_login)i;
            n++;
        }
    if (n != 1)
        return err_set(e, E_INVAL,
                       "spec.vault.auth: exactly one of workloadIdentity, managedIdentity and "
                       "clientSecret says who asks the vault");
    if (p->login == LOGIN_WORKLOAD && (p->tenant[0] == '\0' || p->client_id[0] == '\0'))
        return err_set(e, E_INVAL, "spec.vault.auth.workloadIdentity: needs tenantID and clientID");
    if (p->login == LOGIN_SECRET && p->secret[0] == '\0')
        return err_set(e, E_INVAL,
                       "spec.vault.auth.clientSecret: needs name, a Secret beside this object with "
                       "tenant, client_id and client_secret");
    return 0;
}

static int
names_check(const struct plugin_ca *p, struct err *e)
{
    for (size_t i = 0; i < PART__ALL; i++)
        for (size_t k = i + 1; k < PART__ALL; k++)
            if (strcmp(p->object_names[i], p->object_names[k]) == 0)
                return err_set(e, E_INVAL,
                               "spec.objectNames: \"%s\" is named twice; each secret has a name of "
                               "its own",
                               p->object_names[i]);
    return 0;
}

static int
meta_read(const json_t *object, struct plugin_ca *p, struct err *e)
{
    const json_t *meta = json_object_get(object, "metadata"), *v;
    const char *name = json_string_value(json_object_get(meta, "name"));
    const char *ns = json_string_value(json_object_get(meta, "namespace"));
    const char *uid = json_string_value(json_object_get(meta, "uid"));
    size_t i;

    if (name == NULL || ns == NULL || uid == NULL || name[0] == '\0' || ns[0] == '\0' ||
        strlen(name) >= sizeof(p->name) || strlen(ns) >= sizeof(p->ns) ||
        strlen(uid) >= sizeof(p->uid))
        return err_set(e, E_INVAL, "metadata: an object needs name, namespace and uid");
    memcpy(p->name, name, strlen(name) + 1);
    memcpy(p->ns, ns, strlen(ns) + 1);
    memcpy(p->uid, uid, strlen(uid) + 1);
    p->revision = json_integer_value(json_object_get(meta, "generation"));
    p->is_going = json_object_get(meta, "deletionTimestamp") != NULL;
    json_array_foreach(json_object_get(meta, "finalizers"), i, v)
        p->has_finalizer = p->has_finalizer || (json_is_string(v) && strcmp(json_string_value(v),
                                                                            PLUGIN_FINALIZER) == 0);
    return 0;
}

int
plugin_ca_read(const json_t *object, struct plugin_ca *ret, struct err *e)
{
    CLEANUP(plugin_ca_done) struct plugin_ca p = { .poll_ms = 0 };
    const json_t *spec = json_object_get(object, "spec");
    const char *api = json_string_value(json_object_get(object, "apiVersion"));

    TRY(meta_read(object, &p, e));
    if (api != NULL && strcmp(api, PLUGIN_CA_API) != 0)
        return err_set(e, E_INVAL, "apiVersion: \"%.60s\" is not " PLUGIN_CA_API, api);
    if (!json_is_object(spec))
        return err_set(e, E_INVAL, "spec: is missing");
    TRY(members_known(spec, "", e));
    for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
        const json_t *v = value_at(spec, fields[i].path);
        /* url and keyVaultID share a place, and so do the ids of the logins: absent takes nothing
         */
        if (v != NULL || fields[i].def != NULL)
            TRY(field_take(&fields[i], v, &p, e));
    }
    TRY(vault_check(spec, &p, e));
    TRY(names_check(&p, e));
    *ret = p;
    p.selector = NULL;
    p.ca_bundle = NULL;
    return 0;
}

void
plugin_ca_done(struct plugin_ca *p)
{
    free(p->ca_bundle);
    json_decref(p->selector);
    p->ca_bundle = NULL;
    p->selector = NULL;
}

static bool
texts_eq(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool
plugin_ca_same(const struct plugin_ca *a, const struct plugin_ca *b)
{
    for (size_t i = 0; i < PART__ALL; i++)
        if (strcmp(a->object_names[i], b->object_names[i]) != 0)
            return false;
    return strcmp(a->vault_url, b->vault_url) == 0 && texts_eq(a->ca_bundle, b->ca_bundle) &&
           a->login == b->login && strcmp(a->tenant, b->tenant) == 0 &&
           strcmp(a->client_id, b->client_id) == 0 && strcmp(a->secret, b->secret) == 0 &&
           a->poll_ms == b->poll_ms && a->to_istiod == b->to_istiod &&
           a->to_meshroot == b->to_meshroot && a->ttl_ms == b->ttl_ms &&
           a->renew_window_ms == b->renew_window_ms && a->adopt == b->adopt &&
           a->hold_replacement == b->hold_replacement;
}

/* -- selectors -----------------------------------------------------------------------------------
 */

static bool
values_have(const json_t *values, const char *v)
{
    const json_t *one;
    size_t i;

    json_array_foreach(values, i, one)
        if (v != NULL && json_is_string(one) && strcmp(json_string_value(one), v) == 0)
            return true;
    return false;
}

/* An operator that is not known takes nothing: a namespace too few is seen, one too many is not. */
static bool
expression_takes(const json_t *x, const json_t *labels)
{
    const char *key = json_string_value(json_object_get(x, "key"));
    const char *op = json_string_value(json_object_get(x, "operator"));
    const json_t *values = json_object_get(x, "values");

    if (key == NULL || op == NULL)
        return false;
    const char *v = json_string_value(json_object_get(labels, key));
    if (strcmp(op, "In") == 0)
        return values_have(values, v);
    if (strcmp(op, "NotIn") == 0)
        return !values_have(values, v);
    if (strcmp(op, "Exists") == 0)
        return v != NULL;
    return strcmp(op, "DoesNotExist") == 0 && v == NULL;
}

bool
selector_takes(const json_t *selector, const json_t *labels)
{
    json_t *match = json_object_get(selector, "matchLabels"), *v;
    const json_t *x;
    const char *key;
    size_t i;

    json_object_foreach(match, key, v) {
        const char *have = json_string_value(json_object_get(labels, key));
        if (have == NULL || !json_is_string(v) || strcmp(have, json_string_value(v)) != 0)
            return false;
    }
    json_array_foreach(json_object_get(selector, "matchExpressions"), i, x)
        if (!expression_takes(x, labels))
            return false;
    return true;
}
