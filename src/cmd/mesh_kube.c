#include "cmd/mesh_kube.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "cmd/mesh_session.h"
#include "net/json.h"
#include "operator/plugin_ca.h"

enum { BAR_CELLS = 30, UID_BYTES = 64, CA_FILE_MAX_BYTES = PLUGIN_CA_BUNDLE_BYTES };

bool
mesh_is_on_kube(const struct mesh_kube *k)
{
    return k->kubeconfig != NULL || k->namespace != NULL || k->context != NULL;
}

/* Of the environment, where meshroot up looks for it too: that is no word for Kubernetes. */
static bool
is_shared_with_up(const char *ca_file)
{
    const char *shared = getenv("MESHROOT_VAULT_CA_FILE");

    return shared != NULL && strcmp(ca_file, shared) == 0;
}

int
mesh_kube_flags_refuse(const struct mesh_kube *k, const struct mesh_kube_enable *s,
                       const struct mesh_kube_change *c, struct err *e)
{
    static const struct mesh_kube_enable none = { .target = "istiod" };

    s = s != NULL ? s : &none;
    const struct {
        const char *name;
        bool is_given;
    } flags[] = {
        { "dry-run", strcmp(c->dry_run, "none") != 0 },
        { "wait", c->wait },
        { "name", strcmp(k->name, "default") != 0 },
        { "vault-ca-file", s->ca_file != NULL && !is_shared_with_up(s->ca_file) },
        { "credential-secret", s->secret != NULL },
        { "workload-identity", s->workload != NULL },
        { "managed-identity", s->managed != NULL },
        { "target", strcmp(s->target, "istiod") != 0 },
        { "mesh-trust-domain", s->trust_domain != NULL },
        { "stock-wait", s->stock_wait != NULL },
        { "adopt", s->adopt },
    };

    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (flags[i].is_given)
            return err_set(e, E_INVAL,
                           "--%s is for a mesh on Kubernetes: add --namespace NAME (istiod's); "
                           "without it the mesh is that of meshroot up, and nothing was changed",
                           flags[i].name);
    return 0;
}

/* -- enable --------------------------------------------------------------------------------------
 */

static int
put(json_t *o, const char *name, const char *value, struct err *e)
{
    return value == NULL || json_object_set_new(o, name, json_string(value)) == 0
               ? 0
               : err_set(e, E_INVAL, "%s: is no UTF-8", name);
}

/* "TENANT/CLIENT". */
static int
workload_put(json_t *auth, const char *text, struct err *e)
{
    const char *slash = strchr(text, '/');

    if (slash == NULL || slash == text || slash[1] == '\0')
        return err_set(e, E_INVAL, "--workload-identity %s: want TENANT/CLIENT, two ids", text);
    json_t *w =
        json_pack("{s:s%, s:s}", "tenantID", text, (size_t)(slash - text), "clientID", slash + 1);
    return w != NULL && json_object_set_new(auth, "workloadIdentity", w) == 0 ? 0 : err_nomem(e);
}

static int
auth_put(json_t *vault, const struct mesh_kube_enable *s, struct err *e)
{
    json_t *auth = json_object();

    if (auth == NULL || json_object_set_new(vault, "auth", auth) < 0)
        return err_nomem(e);
    if ((s->secret != NULL) + (s->workload != NULL) + (s->managed != NULL) != 1)
        return err_set(e, E_INVAL,
                       "who asks the vault? One of --credential-secret, --workload-identity and "
                       "--managed-identity");
    if (s->workload != NULL)
        return workload_put(auth, s->workload, e);
    json_t *o = json_object();
    if (o == NULL ||
        json_object_set_new(auth, s->secret != NULL ? "clientSecret" : "managedIdentity", o) < 0)
        return err_nomem(e);
    if (s->secret != NULL)
        return put(o, "name", s->secret, e);
    return strcmp(s->managed, "system") == 0 ? 0 : put(o, "clientID", s->managed, e);
}

static int
vault_put(json_t *spec, const struct mesh_kube_enable *s, struct err *e)
{
    struct buf pem = BUF_INIT(CA_FILE_MAX_BYTES);
    json_t *vault = json_object();
    bool is_url = strncmp(s->vault_id, "https://", 8) == 0;

    if (vault == NULL || json_object_set_new(spec, "vault", vault) < 0)
        return err_nomem(e);
    TRY(put(vault, is_url ? "url" : "keyVaultID", s->vault_id, e));
    TRY(auth_put(vault, s, e));
    if (s->ca_file == NULL)
        return 0;
    int done = file_read(s->ca_file, &pem, e);
    if (done == FILE_ABSENT)
        done = err_set(e, E_NOTFOUND, "%s: no such file", s->ca_file);
    if (done == 0)
        done = put(vault, "caBundle", buf_text(&pem), e);
    buf_done(&pem);
    return done;
}

static int
names_put(json_t *spec, const struct mesh_kube_enable *s, struct err *e)
{
    static const char *const members[PART__ALL] = {
        [PART_ROOT_CERT] = "rootCert",   [PART_CA_CERT] = "caCert", [PART_CA_KEY] = "caKey",
        [PART_CERT_CHAIN] = "certChain", [PART_CA_CRL] = "caCrl",
    };
    json_t *names = json_object();

    if (names == NULL || json_object_set_new(spec, "objectNames", names) < 0)
        return err_nomem(e);
    for (size_t i = 0; i < PART__ALL; i++)
        TRY(put(names, members[i], s->names[i], e));
    return 0;
}

static int
spec_make(const struct mesh_kube_enable *s, json_t *spec, struct err *e)
{
    char poll[DURATION_BYTES];

    duration_ms_text(s->poll_ms, poll);
    TRY(vault_put(spec, s, e));
    TRY(names_put(spec, s, e));
    TRY(put(spec, "pollInterval", poll, e));
    TRY(put(spec, "target", s->target, e));
    TRY(put(spec, "trustDomain", s->trust_domain, e));
    json_t *gates = json_pack("{s:b}", "holdRootReplacement", (int)s->hold);
    if (gates == NULL || json_object_set_new(spec, "gates", gates) < 0 ||
        json_object_set_new(spec, "adopt", json_boolean(s->adopt)) < 0)
        return err_nomem(e);
    return put(gates, "stockWait", s->stock_wait, e);
}

/* The operator's own reader judges it before anything is sent. */
static int
object_check(const json_t *o, struct err *e)
{
    json_t *copy = json_deep_copy(o);
    struct plugin_ca p = { .poll_ms = 0 };
    int done = put(json_object_get(copy, "metadata"), "uid", "new", e);

    if (done == 0)
        done = plugin_ca_read(copy, &p, e);
    plugin_ca_done(&p);
    json_decref(copy);
    return done;
}

static int
object_make(const char *ns, const char *name, const struct mesh_kube_enable *s, json_t **ret,
            struct err *e)
{
    json_t *o = NULL, *spec = json_object();

    if (s->vault_id == NULL) {
        json_decref(spec);
        return err_set(e, E_INVAL,
                       "on Kubernetes --key-vault-id is needed: without a plugged-in CA there is "
                       "nothing to enable, istiod makes its own root");
    }
    int done = kube_object_new(&kube_plugin_ca, ns, name, &o, e);
    if (done == 0 && json_object_set(o, "spec", spec) < 0)
        done = err_nomem(e);
    if (done == 0)
        done = spec_make(s, spec, e);
    if (done == 0)
        done = object_check(o, e);
    json_decref(spec);
    if (done < 0)
        json_decref(o);
    else
        *ret = o;
    return done;
}

/* The root that istiod made for itself is what the mesh's namespace trusts. r: 1 so it is. Who may
 * not read Secrets is told by the operator, which looks again. */
static int
self_signed_in_use(struct mesh_session *s, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *own = NULL;
    CLEANUP(roots_unrefp) struct roots *trusted = NULL;
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct err none;

    if (mesh_session_get(s, &kube_secret, "cacerts", e) == 0)
        return 0; /* plugged in already */
    if (mesh_session_get(s, &kube_secret, "istio-ca-secret", e) < 0)
        return e->code == E_NOTFOUND || e->code == E_DENIED ? 0 : err_result(e);
    int done = kube_secret_get(s->body, "ca-cert.pem", &pem, &none);
    if (done == 0)
        done = roots_from_pem(buf_span(&pem), &own, &none);
    buf_done(&pem);
    if (done != 0)
        return 0;
    if (mesh_session_get(s, &kube_config_map, "istio-ca-root-cert", e) < 0)
        return e->code == E_NOTFOUND || e->code == E_DENIED ? 0 : err_result(e);
    const char *root =
        json_string_value(json_object_get(json_object_get(s->body, "data"), "root-cert.pem"));
    return root != NULL && roots_from_pem(span_str(root), &trusted, &none) == 0 &&
           roots_equal(own, trusted);
}

static int
self_signed_refuse(struct mesh_session *s, struct err *e)
{
    if (TRY(self_signed_in_use(s, e)) == 0)
        return 0;
    return err_set(e, E_STATE,
                   "the mesh runs on istiod's self-signed root (Secret %s/istio-ca-secret), and is "
                   "not switched in place: workloads would be cut off from one another. The "
                   "procedure: scale istiod to 0; kubectl delete secret -n %s istio-ca-secret; "
                   "mesh enable; start istiod when cacerts is there; restart the workloads",
                   s->ns, s->ns);
}

/* -- waiting -------------------------------------------------------------------------------------
 */

static const json_t *
condition(const json_t *status, const char *type)
{
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(status, "conditions"), i, c) {
        if (strcmp(shown_text(c, "type"), type) == 0)
            return c;
    }
    return NULL;
}

static void
bar_print(const json_t *status, char last[120])
{
    const json_t *d = json_object_get(status, "distribution");
    json_int_t all = shown_number(d, "namespaces");
    json_int_t done = shown_number(d, "done");
    int cells = all > 0 ? (int)(done * BAR_CELLS / all) : 0;
    char line[120];

    (void)snprintf(line, sizeof(line), "[%.*s%.*s] %lld of %lld namespaces, %s", cells,
                   "##############################", BAR_CELLS - cells,
                   "..............................", (long long)done, (long long)all,
                   shown_text(status, "phase"));
    if (strcmp(line, last) != 0)
        (void)fprintf(stderr, isatty(STDERR_FILENO) == 1 ? "\r%s\033[K" : "%s\n", line);
    memcpy(last, line, sizeof(line));
}

static bool
is_true(const json_t *condition)
{
    return strcmp(shown_text(condition, "status"), "True") == 0;
}

/* What no waiting mends. */
static bool
is_refused(const json_t *held)
{
    static const char *const gates[] = { "Replicas", "Trust",  "Leaves", "ApiServer",
                                         "NotHeld",  "Target", "Store",  "Signer" };

    for (size_t i = 0; i < ARRAY_LEN(gates); i++)
        if (strcmp(shown_text(held, "reason"), gates[i]) == 0)
            return false;
    return is_true(held);
}

struct enabled { /* as the API server answered */
    char uid[UID_BYTES];
    json_int_t revision;
};

/* The object that was enabled is in s->body, and stays: one of its name that is made after it is
 * another. */
static int
going_refuse(const struct mesh_session *s, const char *uid, struct err *e)
{
    if (s->body != NULL && !kube_object_is_going(s->body) &&
        strcmp(kube_object_uid(s->body), uid) == 0)
        return 0;
    return err_set(
        e, E_STATE,
        "PluginCA %s/%s is being deleted, so the mesh is not enabled: wait until the "
        "operator has taken its Secrets away (mesh disable --wait), then enable it again",
        s->ns, s->name);
}

static int
wait_ready(struct mesh_session *s, const struct enabled *mine, uint64_t timeout_ms, struct err *e)
{
    uint64_t until = mono_ms() + timeout_ms;
    char last[120] = "";

    for (;;) {
        if (mesh_session_look(s, until, e) < 0 && e->code != E_NOTFOUND)
            return err_result(e);
        TRY(going_refuse(s, mine->uid, e));
        const json_t *status = json_object_get(s->body, "status");
        const json_t *held = condition(status, "Held"), *loaded = condition(status, "Loaded");
        const json_t *synced = condition(status, "Synced");
        bool is_current = shown_number(status, "observedGeneration") >= mine->revision;

        bar_print(status, last);
        if (is_current && strcmp(shown_text(status, "phase"), "Ready") == 0 && is_true(synced))
            break;
        if (is_current && strcmp(shown_text(loaded, "reason"), "NotOwned") == 0)
            return err_set(e, E_DENIED, "%s", shown_text(loaded, "message"));
        if (is_current && is_refused(held))
            return err_set(e, E_STATE, "%s: %s", shown_text(held, "reason"),
                           shown_text(held, "message"));
        if (is_current && strcmp(shown_text(synced, "reason"), "VaultRefused") == 0)
            return err_set(e, E_STATE, "VaultRefused: %s", shown_text(synced, "message"));
        if (mono_ms() > until)
            return err_set(
                e, E_TIMEOUT,
                "not done yet; it goes on (meshroot mesh status): %s; is meshroot "
                "operator run up?",
                held == NULL
                    ? "no operator has looked at it"
                    : shown_text(is_true(held) || is_true(loaded) ? held : loaded, "message"));
        kube_session_pause(&s->kube, MESH_LOOK_MS);
    }
    if (isatty(STDERR_FILENO) == 1)
        (void)fputc('\n', stderr);
    return 0;
}

/* Until it is gone, or another one of its name is there. */
static int
wait_gone(struct mesh_session *s, const char *uid, uint64_t timeout_ms, struct err *e)
{
    uint64_t until = mono_ms() + timeout_ms;

    for (;;) {
        int done = mesh_session_look(s, until, e);
        if (done < 0)
            return e->code == E_NOTFOUND ? 0 : done;
        if (strcmp(kube_object_uid(s->body), uid) != 0)
            return 0;
        if (mono_ms() > until)
            return err_set(e, E_TIMEOUT,
                           "PluginCA %s/%s waits for the operator to take its Secrets away: is "
                           "meshroot operator run up?",
                           s->ns, s->name);
        kube_session_pause(&s->kube, MESH_LOOK_MS);
    }
}

/* -- the three commands --------------------------------------------------------------------------
 */

static int
enable_send(struct mesh_session *s, const json_t *o, const struct mesh_kube_change *c,
            struct err *e)
{
    bool dry = strcmp(c->dry_run, "server") == 0;
    struct enabled mine;

    TRY(self_signed_refuse(s, e));
    struct kube_write w = {
        .kind = &kube_plugin_ca, .object = o, .manager = "meshroot-cli", .is_dry_run = dry
    };
    if (mesh_session_write(s, kube_apply, &w, e) < 0)
        return e->code == E_NOTFOUND
                   ? err_wrap(e, "is the CRD pluginca.meshroot.io installed, and the namespace "
                                 "there?")
                   : err_result(e);
    (void)snprintf(mine.uid, sizeof(mine.uid), "%s", kube_object_uid(s->body));
    TRY(going_refuse(s, mine.uid, e));
    if (dry)
        return print_json(json_incref(s->body), e);
    mine.revision = shown_number(json_object_get(s->body, "metadata"), "generation");
    if (c->wait)
        TRY(wait_ready(s, &mine, c->timeout_ms, e));
    printf("mesh enabled: plug-in CA certificates, PluginCA %s/%s\n", s->ns, s->name);
    return 0;
}

int
mesh_kube_enable(const struct mesh_kube *k, const struct mesh_kube_enable *s,
                 const struct mesh_kube_change *c, struct err *e)
{
    CLEANUP(mesh_session_done) struct mesh_session se = { .ns = NULL };
    json_t *o = NULL;

    TRY(mesh_names_check(k, e));
    TRY(object_make(mesh_namespace(k), k->name, s, &o, e));
    int done = 0;
    if (strcmp(c->dry_run, "client") == 0)
        return print_json(o, e);
    done = mesh_session_open(k, &se, e);
    if (done == 0)
        done = enable_send(&se, o, c, e);
    json_decref(o);
    return done;
}

/* Only the one that is there now: when it is gone all the same, an answer to us was lost. */
static int
disable_send(struct mesh_session *s, bool is_dry, char ret_uid[UID_BYTES], struct err *e)
{
    struct kube_write w = {
        .kind = &kube_plugin_ca, .ns = s->ns, .name = s->name, .uid = ret_uid, .is_dry_run = is_dry
    };

    if (mesh_session_get(s, &kube_plugin_ca, s->name, e) < 0)
        return e->code == E_NOTFOUND ? err_set(e, E_NOTFOUND,
                                               "the mesh is not enabled: there is "
                                               "no PluginCA %s/%s",
                                               s->ns, s->name)
                                     : err_result(e);
    (void)snprintf(ret_uid, UID_BYTES, "%s", kube_object_uid(s->body));
    return mesh_session_write(s, kube_delete, &w, e) == 0 || e->code == E_NOTFOUND ? 0
                                                                                   : err_result(e);
}

int
mesh_kube_disable(const struct mesh_kube *k, const struct mesh_kube_change *c, struct err *e)
{
    CLEANUP(mesh_session_done) struct mesh_session s = { .ns = NULL };
    bool dry = strcmp(c->dry_run, "server") == 0;
    char uid[UID_BYTES];

    TRY(mesh_names_check(k, e));
    if (strcmp(c->dry_run, "client") == 0) {
        printf("PluginCA %s/%s would be deleted\n", mesh_namespace(k), k->name);
        return 0;
    }
    TRY(mesh_session_open(k, &s, e));
    TRY(disable_send(&s, dry, uid, e));
    if (dry) {
        printf("PluginCA %s/%s would be deleted (the API server agrees)\n", s.ns, s.name);
        return 0;
    }
    if (c->wait)
        TRY(wait_gone(&s, uid, c->timeout_ms, e));
    printf("mesh disabled: %s\n"
           "istiod goes on with a self-signed root when it is restarted, then the workloads:\n"
           "  kubectl rollout restart deployment -n %s -l app=istiod\n",
           c->wait ? "the plugged-in CA's Secrets are deleted"
                   : "the operator deletes the plugged-in CA's Secrets",
           s.ns);
    return 0;
}

static void
status_print(const json_t *o)
{
    const json_t *s = json_object_get(o, "status"), *c, *w;
    const json_t *vault = json_object_get(json_object_get(o, "spec"), "vault");
    const json_t *d = json_object_get(s, "distribution");
    size_t i;

    printf("%-14s %s/%s\n", "PluginCA", kube_object_ns(o), kube_object_name(o));
    printf("%-14s %s\n", "Mode", shown_text(s, "mode"));
    printf("%-14s %s\n", "Phase", shown_text(s, "phase"));
    printf("%-14s %lld\n", "Generation", (long long)shown_number(s, "generation"));
    printf("%-14s %s  every %s\n", "Vault",
           json_object_get(vault, "url") != NULL ? shown_text(vault, "url")
                                                 : shown_text(vault, "keyVaultID"),
           shown_text(json_object_get(o, "spec"), "pollInterval"));
    printf("%-14s %s\n", "Root", shown_text(s, "root"));
    printf("%-14s %s  until %s\n", "Intermediate",
           shown_text(json_object_get(s, "intermediate"), "subject"), shown_text(s, "expires"));
    printf("%-14s %lld of %lld\n", "Namespaces", (long long)shown_number(d, "done"),
           (long long)shown_number(d, "namespaces"));
    json_array_foreach(json_object_get(s, "conditions"), i, c)
        printf("%-14s %-6s %s: %s\n", shown_text(c, "type"), shown_text(c, "status"),
               shown_text(c, "reason"), shown_text(c, "message"));
    json_array_foreach(json_object_get(s, "waitsFor"), i, w)
        printf("%-14s %s\n", i == 0 ? "Waits for" : "", json_string_value(w));
}

int
mesh_kube_status(const struct mesh_kube *k, const char *output, struct err *e)
{
    CLEANUP(mesh_session_done) struct mesh_session s = { .ns = NULL };

    TRY(mesh_session_open(k, &s, e));
    if (mesh_session_get(&s, &kube_plugin_ca, s.name, e) < 0) {
        if (e->code != E_NOTFOUND)
            return err_result(e);
        if (strcmp(output, "json") == 0)
            printf("{\"mode\": \"disabled\"}\n");
        else
            printf("%-14s disabled: there is no PluginCA %s/%s\n", "Mode", s.ns, s.name);
        return CMD_FAILED;
    }
    if (strcmp(output, "json") == 0)
        return print_json(json_incref(s.body), e);
    status_print(s.body);
    return 0;
}
