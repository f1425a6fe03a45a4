/* istiod_tls.c - istiod's own certificate, when our CA is the mesh's: Secret istiod-tls.
 *
 * A new one with each generation, and when a third of its life is left. Key and request are made
 * here, a replica that has loaded the plan's set signs (ca/evidence.h). It is a leaf in use like
 * any other; that istiod holds the newest is known by the Secret having lain for gates.mountWait.
 * Source: specs/istio-ca.md 2.1, 9.3; docs/replicas.md "istiod's certificate".
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/evidence.h"
#include "obs/log.h"
#include "operator/room.h"
#include "pki/leaf.h"

enum { LOOK_AGAIN_MS = 60 * 1000, CHAIN_CERTS = CHAIN_MAX + ROOTS_MAX };

static const char SECRET[] = "istiod-tls";

struct istiod_tls {
    struct plugin *plugin;
    char instance[INSTANCE_TEXT_BYTES], text[128];
    struct kube_call *call;
    struct key *key;                /* owned; of the request under way, */
    struct evidence_client *client; /* and who was asked; NULL: none is */
    bool is_known, exists, is_ours;
    char version[128];
    uint64_t generation, asked; /* of the one in the Secret; of the request under way */
    int64_t not_before, not_after;
    uint8_t leaf[DIGEST_BYTES];
    uint64_t since_ms; /* monotonic: that leaf lies there; 0: not known */
    uint64_t look_at;
    char why[PROBLEM_BYTES]; /* the last trouble since it was written; "": none */
};

static void
trouble(struct istiod_tls *t, const char *what, const struct err *why)
{
    (void)snprintf(t->why, sizeof(t->why), "%s: %s", what, why->msg);
    log_warn("operator", "%s: %s", t->text, t->why);
    t->look_at = mono_ms() + LOOK_AGAIN_MS / 4;
}

/* -- what is there -------------------------------------------------------------------------------
 */

static void
secret_take(struct istiod_tls *t, const json_t *o)
{
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    struct cert *c[CHAIN_CERTS] = { NULL };
    char owner[PLUGIN_NS_BYTES + PLUGIN_NAME_BYTES];
    uint8_t was[DIGEST_BYTES];
    bool is_first = !t->is_known;
    struct err e;
    size_t n = 0;

    memcpy(was, t->leaf, sizeof(was));
    memset(t->leaf, 0, sizeof(t->leaf));
    t->is_known = t->exists = true;
    t->generation = 0;
    t->not_before = t->not_after = 0;
    (void)snprintf(owner, sizeof(owner), "%s/%s", t->plugin->spec.ns, t->plugin->spec.name);
    t->is_ours = strcmp(kube_object_get_annotation(o, SETS_OWNER), owner) == 0;
    (void)snprintf(t->version, sizeof(t->version), "%s", kube_object_version(o));
    if (kube_secret_get(o, "tls.crt", &pem, &e) == 0 &&
        certs_from_pem(buf_span(&pem), c, CHAIN_CERTS, &n, &e) == 0 && n > 0 &&
        u64_parse(span_str(kube_object_get_annotation(o, SETS_GENERATION)), 1, INT64_MAX,
                  &t->generation, &e) == 0) {
        memcpy(t->leaf, cert_id(c[0]), sizeof(t->leaf));
        t->not_before = cert_not_before(c[0]);
        t->not_after = cert_not_after(c[0]);
    }
    for (size_t i = 0; i < n; i++)
        cert_unref(c[i]);
    if (is_first || memcmp(was, t->leaf, sizeof(was)) != 0)
        t->since_ms = mono_ms(); /* another one put it there: an older leader, a hand, a backup */
    buf_done(&pem);
}

static void
on_read(const json_t *body, const struct err *why, void *arg)
{
    struct istiod_tls *t = arg;

    t->call = NULL;
    if (why == NULL) {
        secret_take(t, body);
        if (!t->is_ours && !t->plugin->spec.adopt) {
            struct err e;
            (void)err_set(&e, E_DENIED, "belongs to somebody else; delete it, or adopt: true");
            trouble(t, "not touched", &e);
        }
    } else if (why->code == E_NOTFOUND) {
        t->is_known = true;
        t->exists = t->is_ours = false;
        t->generation = 0;
        t->not_after = 0;
        memset(t->leaf, 0, sizeof(t->leaf));
    } else {
        trouble(t, "not read", why);
    }
}

static void
read_start(struct istiod_tls *t)
{
    CLEANUP(str_freep) char *path = NULL;
    struct err e;

    t->look_at = mono_ms() + LOOK_AGAIN_MS;
    if (kube_path(&kube_secret, t->plugin->spec.ns, SECRET, NULL, &path, &e) < 0 ||
        kube_get(t->plugin->op->conf.kube, path, 0, on_read, t, &t->call, &e) < 0)
        trouble(t, "not read", &e);
}

/* -- a new one -----------------------------------------------------------------------------------
 */

static void
on_written(const json_t *body, const struct err *why, void *arg)
{
    struct istiod_tls *t = arg;

    t->call = NULL;
    if (why != NULL) {
        trouble(t, "not written", why);
        t->is_known = false; /* what is there decides */
        return;
    }
    secret_take(t, body);
    t->why[0] = '\0';
    log_info("operator", "generation %" PRIu64 " is in %s", t->generation, t->text);
}

static int
object_make(struct istiod_tls *t, struct span chain, struct span roots, json_t **ret, struct err *e)
{
    struct buf key = BUF_INIT(PEM_MAX_BYTES);
    char owner[PLUGIN_NS_BYTES + PLUGIN_NAME_BYTES], generation[24];
    json_t *o = NULL;

    (void)snprintf(owner, sizeof(owner), "%s/%s", t->plugin->spec.ns, t->plugin->spec.name);
    (void)snprintf(generation, sizeof(generation), "%" PRIu64, t->asked);
    TRY(kube_object_new(&kube_secret, t->plugin->spec.ns, SECRET, &o, e));
    int done = key_to_pem(t->key, &key, e);
    if (done == 0)
        done = kube_secret_set(o, "tls.key", buf_span(&key), e);
    buf_wipe(&key);
    if (done == 0)
        done = kube_secret_set(o, "tls.crt", chain, e);
    if (done == 0)
        done = kube_secret_set(o, "ca.crt", roots, e);
    if (done == 0)
        done = kube_object_annotate(o, SETS_OWNER, owner, e);
    if (done == 0)
        done = kube_object_annotate(o, SETS_GENERATION, generation, e);
    if (done == 0 && json_object_set_new(o, "type", json_string("kubernetes.io/tls")) < 0)
        done = err_nomem(e);
    if (done == 0 && t->exists)
        done = kube_object_guard(o, t->version, e);
    if (done < 0)
        json_decref(o);
    else
        *ret = o;
    return done;
}

static void
on_signed(struct span chain, struct span roots, const struct err *why, void *arg)
{
    struct istiod_tls *t = arg;
    json_t *o = NULL;
    struct err e;

    t->client = NULL;
    if (why != NULL) {
        trouble(t, "not signed", why);
    } else if (object_make(t, chain, roots, &o, &e) < 0) {
        trouble(t, "not written", &e);
    } else {
        struct kube_write w = { .kind = &kube_secret, .object = o };
        int done = t->exists
                       ? kube_update(t->plugin->op->conf.kube, &w, on_written, t, &t->call, &e)
                       : kube_create(t->plugin->op->conf.kube, &w, on_written, t, &t->call, &e);
        if (done < 0)
            trouble(t, "not written", &e);
    }
    json_decref(o); /* json_wipes_memory: the vault's client saw to it */
    key_unref(STEAL(t->key));
}

static void
sign_start(struct istiod_tls *t, struct evidence_client *c)
{
    struct plugin *p = t->plugin;
    struct buf csr = BUF_INIT(PEM_MAX_BYTES);
    char uri[PLUGIN_DOMAIN_BYTES + 128];
    struct err e;

    (void)snprintf(uri, sizeof(uri), "spiffe://%s/ns/%s/sa/meshroot-operator", p->spec.trust_domain,
                   p->op->conf.ca_namespace);
    t->look_at = mono_ms() + LOOK_AGAIN_MS;
    int done = key_make(KEY_P256, &t->key, &e);
    if (done == 0)
        done = csr_make(t->key, uri, &csr, &e);
    struct serving_request q = { .csr = buf_span(&csr),
                                 .names = p->op->conf.istiod_names,
                                 .names_n = p->op->conf.istiod_names_n,
                                 .instance = t->instance };
    if (done == 0)
        done = evidence_client_sign(c, &q, on_signed, t, &e);
    buf_done(&csr);
    t->client = done == 0 ? c : NULL;
    t->asked = p->roots_generation;
    if (done < 0) {
        key_unref(STEAL(t->key));
        trouble(t, "not signed", &e);
    }
}

static bool
is_due(const struct istiod_tls *t)
{
    int64_t life = t->not_after - (t->not_before + LEAF_BACKDATE_S);

    return t->generation != t->plugin->roots_generation || t->not_after - unix_s() < life / 3;
}

static int
istiod_tls_open(struct plugin *p, struct err *e)
{
    struct istiod_tls *t = calloc(1, sizeof(*t));
    uint8_t id[DIGEST_BYTES];
    char name[PLUGIN_NS_BYTES + 32];

    if (t == NULL)
        return err_nomem(e);
    t->plugin = p;
    (void)snprintf(name, sizeof(name), "istiod-tls %s", p->spec.ns);
    digest(span_str(name), id);
    hex_text(span_of(id, (INSTANCE_TEXT_BYTES - 1) / 2), t->instance);
    (void)snprintf(t->text, sizeof(t->text), "Secret %s/%s", p->spec.ns, SECRET);
    p->istiod_tls = t;
    return 0;
}

void
istiod_tls_tick(struct plugin *p, struct evidence_client *c)
{
    struct istiod_tls *t = p->istiod_tls;
    struct err e;

    if (p->op->conf.istiod_names_n == 0 || (t == NULL && istiod_tls_open(p, &e) < 0))
        return;
    t = p->istiod_tls;
    if (t->call != NULL || t->client != NULL)
        return;
    if (!t->is_known) {
        if (mono_ms() >= t->look_at)
            read_start(t);
    } else if (c != NULL && is_due(t) && (!t->exists || t->is_ours || p->spec.adopt)) {
        sign_start(t, c);
    } else if (mono_ms() >= t->look_at) {
        read_start(t); /* deleted, or changed by another */
    }
}

const char *
istiod_tls_lacks(const struct plugin *p)
{
    const struct istiod_tls *t = p->istiod_tls;

    if (p->op->conf.istiod_names_n == 0 || !p->spec.to_meshroot)
        return NULL;
    if (t != NULL && t->generation != 0 && t->generation == p->roots_generation)
        return NULL;
    return t != NULL && t->why[0] != '\0' ? t->why : "waits for a replica of the CA to sign it";
}

/* Its leaves carry an instance and no word comes of them: what is known of istiod stands for it. */
bool
istiod_tls_tells(const struct plugin *p, const struct ledger_workload *w, ledger_workload_fn *fn,
                 void *arg)
{
    const struct istiod_tls *t = p->istiod_tls;
    struct ledger_workload known = *w;

    if (t == NULL || strcmp(w->instance, t->instance) != 0)
        return false;
    known.can_acknowledge = false;
    if (t->generation != 0 && t->since_ms != 0 &&
        mono_ms() - t->since_ms >= p->spec.mount_wait_ms) {
        known.min_row_generation = t->generation;
        if (t->generation == p->roots_generation) {
            known.leaf_roots = (const uint8_t(*)[DIGEST_BYTES]) & p->signer_root;
            known.leaf_roots_n = 1;
        }
    }
    fn(&known, arg);
    return true;
}

void
istiod_tls_unask(struct plugin *p, const struct evidence_client *c)
{
    struct istiod_tls *t = p->istiod_tls;

    if (t == NULL || t->client != c)
        return;
    t->client = NULL;
    key_unref(STEAL(t->key));
}

void
istiod_tls_end(struct plugin *p)
{
    struct istiod_tls *t = STEAL(p->istiod_tls);

    if (t == NULL)
        return;
    kube_cancel(t->call);
    key_unref(t->key);
    free(t);
}
