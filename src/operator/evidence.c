/* evidence.c - what the gates are told.
 *
 * Of our CA: every replica's own word (ca/evidence.h). Replicas are the CA's pods; one that was
 * there and is not answers for its leaves still, so it is waited for until they have ended.
 *
 * Of a stock istiod and its sidecars, which say none: istiod writes into istio-ca-root-cert what it
 * has loaded. So a set that has lain in every ConfigMap for gates.mountWait, unopposed, is loaded;
 * and what has lain there for gates.stockWait, as long as the longest leaf lives, is what every
 * sidecar that has a leaf trusts, and no leaf is older. Source: specs/istio-ca.md 6.1, 6.6;
 * ARCHITECTURE.md "On Kubernetes".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/courier.h"
#include "ca/evidence.h"
#include "obs/log.h"
#include "operator/room.h"

enum {
    PODS_EVERY_MS = 3000,
    HOST_BYTES = 64,
    SEEN_STEP_S = 600, /* the status is not written anew for less */
};

struct replica {
    struct plugin *plugin;
    char name[EVIDENCE_NAME_BYTES], host[HOST_BYTES];
    char said[EVIDENCE_NAME_BYTES]; /* under which name rotation knows it; "" not */
    struct evidence_client *client; /* NULL: its pod is not there */
    struct courier_stop *stop;      /* that client's; NULL: nothing is carried to and from it */
    int64_t seen;                   /* unix seconds; its pod was there then */
    int64_t until;                  /* the last of its leaves ends then; 0: none is known */
    char ledger[2 * LEDGER_ID_BYTES + 1]; /* which one it has; "": it has not said */
    int64_t lost; /* it had another one: leaves that nobody knows have ended then; 0: it had not */
    bool is_listed;
};

struct evidence {
    struct plugin *plugin;
    struct kube_call *call;
    uint64_t look_at;
    uint64_t asked_at, listed_at; /* the generation that the Secrets held when the list was asked
                                     for: of the one under way, of the last that came */
    bool is_known, too_many;
    struct courier *courier; /* of what they revoke */
    struct replica replica[EVIDENCE_REPLICAS_MAX];
    size_t n;
    struct roots *roots;         /* that the clients believe; owned */
    char trouble[PROBLEM_BYTES]; /* why the pods are not all known; "" */
};

/* -- our CA's replicas ---------------------------------------------------------------------------
 */

static void
replica_lost(struct replica *r)
{
    if (r->said[0] != '\0' && r->plugin->rotate != NULL)
        rotate_replica_gone(r->plugin->rotate, r->said);
    r->said[0] = '\0';
}

static void
on_lost(struct evidence_client *c, const struct err *why, void *arg)
{
    struct replica *r = arg;

    (void)c;
    log_warn("operator", "CA replica %s is not known: %s", r->name, why->msg);
    replica_lost(r);
}

static void
see_end(const struct ledger_workload *w, void *arg)
{
    int64_t *until = arg;

    if (w->last_not_after > *until)
        *until = w->last_not_after;
}

/* A leaf may be asked for that lives longer than the default. In steps, as `seen`. */
static void
until_note(struct replica *r, struct evidence_client *c)
{
    int64_t until = 0;

    evidence_client_workloads(c, see_end, &until);
    if (until <= 0 || until > INT64_MAX - SEEN_STEP_S)
        return;
    until += SEEN_STEP_S - until % SEEN_STEP_S;
    if (until > r->until)
        r->until = until;
}

/* The pod came back without its volume: what it knew of its leaves is gone, the leaves are not.
 * They live as long as it told, and the last of them may be from just now. */
static void
ledger_note(struct replica *r, const struct evidence_loaded *l)
{
    static const uint8_t none[LEDGER_ID_BYTES];
    int64_t end = unix_s() + (int64_t)(r->plugin->spec.ttl_ms / 1000) + SEEN_STEP_S;
    char id[sizeof(r->ledger)], note[EVENT_NOTE_BYTES], at[RFC3339_BYTES];

    hex_text(span_of(l->ledger_id, LEDGER_ID_BYTES), id);
    if (memcmp(l->ledger_id, none, LEDGER_ID_BYTES) == 0 || strcmp(id, r->ledger) == 0)
        return;
    if (r->ledger[0] != '\0') {
        r->lost = r->lost > end ? r->lost : end;
        r->lost = r->lost > r->until ? r->lost : r->until;
        r->until = 0;
        rfc3339_s(r->lost, at);
        (void)snprintf(note, sizeof(note),
                       "CA pod %s has lost its ledger: leaves that it gave before count as in use "
                       "until %s; keep its volume (the chart's ca.persistence)",
                       r->name, at);
        log_warn("operator", "%s", note);
        plugin_event(r->plugin, true, "LedgerLost", note);
    }
    memcpy(r->ledger, id, sizeof(id));
}

/* The pod's name, not the one that it says: two cannot pass for one. */
static void
on_evidence(struct evidence_client *c, void *arg)
{
    struct replica *r = arg;
    const struct evidence_loaded *l = evidence_client_loaded(c);

    if (l == NULL || l->generation == 0 || r->plugin->rotate == NULL)
        return;
    ledger_note(r, l);
    until_note(r, c);
    (void)snprintf(r->said, sizeof(r->said), "%s", r->name);
    rotate_replica_ids(r->plugin->rotate, r->said, l->generation, l->roots, l->roots_n,
                       l->signer_id);
    rotate_poke(r->plugin->rotate);
}

static void
replica_close(struct replica *r)
{
    replica_lost(r);
    if (r->client != NULL)
        istiod_tls_unask(r->plugin, r->client);
    courier_part(STEAL(r->stop));
    evidence_client_free(STEAL(r->client));
}

static void
replica_open(struct replica *r, struct roots *roots)
{
    const struct operator_conf *c = &r->plugin->op->conf;
    struct evidence_conf conf = { .host = r->host,
                                  .port = c->ca_port,
                                  .verify_name = c->ca_name,
                                  .roots = roots,
                                  .token_file = c->token_file,
                                  .on_change = on_evidence,
                                  .on_lost = on_lost,
                                  .arg = r };
    struct err e;

    if (r->client != NULL || r->host[0] == '\0' || roots == NULL || c->token_file == NULL)
        return;
    if (evidence_client_new(r->plugin->op->loop, &conf, &r->client, &e) < 0) {
        log_warn("operator", "CA replica %s is not asked: %s", r->name, e.msg);
        return;
    }
    const struct courier_port port = evidence_client_courier_port(r->client);
    if (courier_join(r->plugin->evidence->courier, &port, r->name, &r->stop, &e) < 0)
        log_warn("operator", "revocations are not carried to and from CA replica %s: %s", r->name,
                 e.msg);
}

static struct replica *
replica_get(struct evidence *v, const char *name)
{
    for (size_t i = 0; i < v->n; i++)
        if (strcmp(v->replica[i].name, name) == 0)
            return &v->replica[i];
    if (v->n == EVIDENCE_REPLICAS_MAX || strlen(name) >= EVIDENCE_NAME_BYTES)
        return NULL;
    struct replica *r = &v->replica[v->n++];
    *r = (struct replica){ .plugin = v->plugin };
    (void)snprintf(r->name, sizeof(r->name), "%s", name);
    return r;
}

static void
pod_take(struct evidence *v, const json_t *pod)
{
    const char *phase = kube_object_text(pod, "status.phase");
    const char *ip = kube_object_text(pod, "status.podIP");
    struct replica *r;

    if (strcmp(phase, "Succeeded") == 0 || strcmp(phase, "Failed") == 0 || strlen(ip) >= HOST_BYTES)
        return;
    r = replica_get(v, kube_object_name(pod));
    if (r == NULL) {
        if (!v->too_many)
            (void)snprintf(v->trouble, sizeof(v->trouble),
                           "CA pod %.80s is not followed, for there are more than %d, and no gate "
                           "opens on what is not known; run fewer replicas",
                           kube_object_name(pod), (int)EVIDENCE_REPLICAS_MAX);
        v->too_many = true;
        return;
    }
    if (strcmp(r->host, ip) != 0) { /* another pod of that name */
        replica_close(r);
        (void)snprintf(r->host, sizeof(r->host), "%s", ip);
    }
    r->is_listed = true;
    if (unix_s() - r->seen >= SEEN_STEP_S || r->seen > unix_s())
        r->seen = unix_s();
    replica_open(r, v->roots);
}

/* Its leaves have ended: nobody has to answer for them. Moves the last one, which is opened anew.
 */
static void
replica_forget(struct evidence *v, size_t i)
{
    struct replica *last = &v->replica[v->n - 1];

    replica_close(&v->replica[i]);
    replica_close(last);
    v->replica[i] = *last;
    v->n--;
}

static void
on_pods(const json_t *body, const struct err *why, void *arg)
{
    struct evidence *v = arg;
    bool was_too_many = v->too_many;
    const json_t *pod;
    size_t i;

    v->call = NULL;
    v->trouble[0] = '\0';
    if (why != NULL) {
        (void)snprintf(v->trouble, sizeof(v->trouble), "the CA's pods are not known: %.500s",
                       why->msg);
        v->is_known = false;
        return;
    }
    v->too_many = false;
    for (i = 0; i < v->n; i++)
        v->replica[i].is_listed = false;
    json_array_foreach(json_object_get(body, "items"), i, pod)
        pod_take(v, pod);
    for (i = v->n; i-- > 0;) {
        struct replica *r = &v->replica[i];
        if (!r->is_listed && r->client != NULL) {
            replica_close(r);
            r->host[0] = '\0';
        }
        if (!r->is_listed && unix_s() > r->until && unix_s() > r->lost &&
            unix_s() - r->seen > (int64_t)(v->plugin->spec.ttl_ms / 1000) + SEEN_STEP_S)
            replica_forget(v, i);
    }
    v->is_known = !v->too_many;
    v->listed_at = v->asked_at;
    if (v->too_many && !was_too_many)
        plugin_event(v->plugin, true, "TooManyReplicas", v->trouble);
}

const char *
evidence_lacks(const struct plugin *p)
{
    return p->evidence == NULL || p->evidence->trouble[0] == '\0' ? NULL : p->evidence->trouble;
}

bool
evidence_is_told(const struct plugin *p)
{
    const struct evidence *v = p->evidence;

    if (p->roots_generation == 0 || (p->spec.to_istiod && !spread_state(p->spread).is_whole))
        return false;
    if (!p->spec.to_meshroot)
        return true;
    if (v == NULL || !v->is_known)
        return false;
    for (size_t i = 0; i < v->n; i++)
        if (v->replica[i].client != NULL && v->replica[i].said[0] == '\0')
            return false;
    return true;
}

/* Those that the status tells of from before. */
static void
replicas_recall(struct plugin *p)
{
    const json_t *o;
    size_t i;

    json_array_foreach(p->replicas_told, i, o) {
        const char *name = json_string_value(json_object_get(o, "name"));
        const char *seen = json_string_value(json_object_get(o, "lastSeen"));
        const char *until = json_string_value(json_object_get(o, "leavesEnd"));
        const char *lost = json_string_value(json_object_get(o, "lostLeavesEnd"));
        const char *ledger = json_string_value(json_object_get(o, "ledger"));
        struct replica *r = name == NULL ? NULL : replica_get(p->evidence, name);
        struct err e;

        if (r != NULL && (seen == NULL || rfc3339_parse(span_str(seen), &r->seen, &e) < 0))
            r->seen = unix_s();
        if (r != NULL && (until == NULL || rfc3339_parse(span_str(until), &r->until, &e) < 0))
            r->until = 0;
        if (r != NULL && (lost == NULL || rfc3339_parse(span_str(lost), &r->lost, &e) < 0))
            r->lost = 0;
        if (r != NULL && ledger != NULL && strlen(ledger) < sizeof(r->ledger))
            memcpy(r->ledger, ledger, strlen(ledger) + 1);
    }
}

static void
replicas_look(struct plugin *p)
{
    CLEANUP(str_freep) char *all = NULL, *path = NULL;
    struct evidence *v = p->evidence;
    struct err e;

    if (v == NULL) {
        v = calloc(1, sizeof(*v));
        if (v == NULL)
            return;
        v->plugin = p;
        if (courier_new(p->op->loop, &v->courier, &e) < 0) {
            log_warn("operator", "the CA's replicas are not asked: %s", e.msg);
            free(v);
            return;
        }
        p->evidence = v;
        replicas_recall(p);
    }
    if (p->roots != v->roots) {
        roots_unref(v->roots);
        v->roots = p->roots == NULL ? NULL : roots_ref(p->roots);
        for (size_t i = 0; i < v->n; i++)
            if (v->replica[i].client != NULL &&
                evidence_client_set_roots(v->replica[i].client, v->roots, &e) < 0)
                log_warn("operator", "CA replica %s: %s", v->replica[i].name, e.msg);
    }
    if (v->call == NULL && (mono_ms() >= v->look_at || v->asked_at != sets_generation(p->sets))) {
        v->look_at = mono_ms() + PODS_EVERY_MS;
        v->asked_at = sets_generation(p->sets);
        if (kube_path(&kube_pod, p->op->conf.ca_namespace, NULL, NULL, &all, &e) < 0 ||
            str_format(&path, &e, "%s?labelSelector=%s", all, p->op->conf.ca_pods) < 0 ||
            kube_get(p->op->conf.kube, path, 0, on_pods, v, &v->call, &e) < 0)
            log_warn("operator", "the CA's pods are not asked for: %s", e.msg);
    }
}

json_t *
evidence_replicas(const struct plugin *p)
{
    const struct evidence *v = p->evidence;
    json_t *list = v == NULL ? json_deep_copy(p->replicas_told) : NULL;

    if (list == NULL)
        list = json_array();
    for (size_t i = 0; v != NULL && i < v->n; i++) {
        const struct replica *r = &v->replica[i];
        char at[RFC3339_BYTES], until[RFC3339_BYTES], lost[RFC3339_BYTES];
        rfc3339_s(r->seen, at);
        rfc3339_s(r->until, until);
        rfc3339_s(r->lost, lost);
        json_t *one = json_pack("{s:s, s:s, s:s*, s:s*, s:s*}", "name", r->name, "lastSeen", at,
                                "leavesEnd", r->until > 0 ? until : NULL, "ledger",
                                r->ledger[0] != '\0' ? r->ledger : NULL, "lostLeavesEnd",
                                r->lost > 0 ? lost : NULL);
        if (json_array_append_new(list, one) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* -- a stock istiod ------------------------------------------------------------------------------
 */

static const char ISTIOD[] = "istiod";
static const char SIDECARS[] = "stock sidecars";

/* A clock that is set forward opens no gate, as long as who saw it begin is here. */
static bool
has_lain(const struct plugin *p, uint64_t ms)
{
    const struct distribution *d = &p->dist;

    return d->generation != 0 && d->generation == p->roots_generation &&
           unix_s() - d->since >= (int64_t)((ms + 999) / 1000) &&
           (d->since_ms == 0 || mono_ms() - d->since_ms >= ms);
}

/* The generation in every ConfigMap and every Secret, since when. */
static void
distribution_look(struct plugin *p)
{
    struct spread_state s = spread_state(p->spread);

    if (p->roots_generation == 0)
        return;
    if (p->dist.generation > p->roots_generation || p->dist.settled > p->roots_generation)
        p->dist = (struct distribution){ .generation = 0 }; /* of another count */
    if (p->dist.overwritten != s.overwritten)
        p->dist.generation = 0; /* another set lay there, also while nobody looked */
    p->dist.overwritten = s.overwritten;
    if (!s.is_whole || s.done != s.namespaces || sets_generation(p->sets) != p->roots_generation)
        return; /* a namespace that was made just now has nobody in it */
    if (p->dist.generation != p->roots_generation) {
        p->dist.generation = p->roots_generation;
        p->dist.since = unix_s();
        p->dist.since_ms = mono_ms();
    }
    if (p->dist.settled < p->dist.generation && has_lain(p, p->spec.stock_wait_ms))
        p->dist.settled = p->dist.generation;
}

static void
istiod_look(struct plugin *p)
{
    if (has_lain(p, p->spec.mount_wait_ms))
        rotate_replica(p->rotate, ISTIOD, p->dist.generation, p->roots, p->signer_id);
}

/* A replica that signs with the plan's set. */
static struct evidence_client *
client_of_plan(const struct plugin *p)
{
    for (size_t i = 0; p->evidence != NULL && i < p->evidence->n; i++) {
        struct evidence_client *c = p->evidence->replica[i].client;
        const struct evidence_loaded *l = c == NULL ? NULL : evidence_client_loaded(c);

        if (l != NULL && l->generation == p->roots_generation)
            return c;
    }
    return NULL;
}

/* Pods that are not known may be any number; and one that was made after they were listed, and
 * before the set was written, has mounted the set of before. */
static size_t
replicas_expected(const struct plugin *p)
{
    const struct evidence *v = p->evidence;
    bool is_known = v != NULL && v->is_known && v->listed_at >= p->roots_generation;
    size_t n = p->spec.to_istiod ? 1 : 0;

    if (p->spec.to_meshroot)
        n += !is_known ? EVIDENCE_REPLICAS_MAX + 1 : v->n == 0 ? 1 : v->n;
    return n;
}

void
evidence_tick(struct plugin *p)
{
    if (p->spread == NULL || p->rotate == NULL)
        return;
    distribution_look(p);
    if (p->spec.to_istiod)
        istiod_look(p);
    if (p->spec.to_meshroot) {
        replicas_look(p);
        istiod_tls_tick(p, client_of_plan(p));
    }
    rotate_expect(p->rotate, replicas_expected(p));
    rotate_poke(p->rotate);
}

/* One for all of them: what holds for each. */
static void
sidecars_tell(struct plugin *p, ledger_workload_fn *fn, void *arg)
{
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    bool settled = has_lain(p, p->spec.stock_wait_ms);
    struct ledger_workload w = { .identity = SIDECARS,
                                 .instance = "",
                                 .min_row_generation =
                                     settled ? p->dist.generation : p->dist.settled,
                                 .leaves_n = 1,
                                 .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])roots,
                                 .last_not_after =
                                     p->dist.since + (int64_t)(p->spec.stock_wait_ms / 1000) };

    if (p->roots == NULL)
        return;
    if (settled) {
        memcpy(roots[0], p->signer_root, DIGEST_BYTES);
        w.leaf_roots_n = 1;
    } else {
        for (size_t i = 0; i < roots_count(p->roots) && i < ROOTS_MAX; i++)
            memcpy(roots[w.leaf_roots_n++], cert_id(roots_at(p->roots, i)), DIGEST_BYTES);
    }
    fn(&w, arg);
}

/* Leaves that nobody knows any more may be under any root, and trust what was there before. */
static void
lost_tell(struct plugin *p, const struct replica *r, ledger_workload_fn *fn, void *arg)
{
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    char who[EVIDENCE_NAME_BYTES + 40];
    struct ledger_workload w = { .identity = who,
                                 .instance = "",
                                 .leaves_n = 1,
                                 .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])roots,
                                 .last_not_after = r->lost };

    if (p->roots == NULL || r->lost == 0 || unix_s() > r->lost)
        return;
    (void)snprintf(who, sizeof(who), "leaves of the lost ledger of %s", r->name);
    for (size_t i = 0; i < roots_count(p->roots) && i < ROOTS_MAX; i++)
        memcpy(roots[w.leaf_roots_n++], cert_id(roots_at(p->roots, i)), DIGEST_BYTES);
    fn(&w, arg);
}

struct telling {
    struct plugin *plugin;
    ledger_workload_fn *fn;
    void *arg;
};

static void
tell_one(const struct ledger_workload *w, void *arg)
{
    struct telling *t = arg;

    if (!istiod_tls_tells(t->plugin, w, t->fn, t->arg))
        t->fn(w, t->arg);
}

/* What a workload said to one replica holds for all. */
static void
replicas_tell(struct plugin *p, ledger_workload_fn *fn, void *arg)
{
    struct evidence_teller tellers[EVIDENCE_REPLICAS_MAX];
    struct telling t = { p, fn, arg };
    size_t n = 0;

    for (size_t i = 0; i < p->evidence->n; i++)
        if (p->evidence->replica[i].client != NULL)
            tellers[n++] = evidence_client_teller(p->evidence->replica[i].client);
    evidence_merge(tellers, n, tell_one, &t);
    for (size_t i = 0; i < p->evidence->n; i++)
        lost_tell(p, &p->evidence->replica[i], fn, arg);
}

void
evidence_workloads(void *plugin, ledger_workload_fn *fn, void *arg)
{
    struct plugin *p = plugin;

    if (p->spec.to_istiod)
        sidecars_tell(p, fn, arg);
    if (p->evidence != NULL)
        replicas_tell(p, fn, arg);
}

void
evidence_end(struct plugin *p)
{
    struct evidence *v = STEAL(p->evidence);

    istiod_tls_end(p);
    if (v == NULL)
        return;
    kube_cancel(v->call);
    courier_free(v->courier);
    for (size_t i = 0; i < v->n; i++)
        evidence_client_free(v->replica[i].client);
    roots_unref(v->roots);
    free(v);
}
