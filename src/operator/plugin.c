/* plugin.c - one PluginCA in force: opens its parts in order, gives rotation its ports, retires. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/footprint.h"
#include "base/str.h"
#include "obs/log.h"
#include "operator/room.h"

enum { SELF_SIGNED_AGAIN_MS = 10 * 1000, REST_MS = 3000, LOGIN_AGAIN_MS = 5000 };

void
plugin_look_soon(struct plugin *p, uint64_t ms)
{
    timer_set(p->tick, ms);
}

void
plugin_problem(struct plugin *p, const char *reason, const struct err *why)
{
    if (p->problem.reason == NULL || strcmp(p->problem.message, why->msg) != 0)
        log_with(LOG_WARN, "operator", LABELS({ "reason", reason }), "%s", why->msg);
    p->problem.reason = reason;
    (void)snprintf(p->problem.message, sizeof(p->problem.message), "%s", why->msg);
    p->retry_ms = p->retry_ms == 0 ? RETRY_FIRST_MS : p->retry_ms * 2;
    p->retry_ms = p->retry_ms > RETRY_MAX_MS ? RETRY_MAX_MS : p->retry_ms;
    p->retry_at = mono_ms() + p->retry_ms / 2 + random_below(p->retry_ms / 2 + 1);
    plugin_look_soon(p, p->retry_at - mono_ms());
}

static void
problem_over(struct plugin *p)
{
    if (p->problem.reason != NULL)
        log_info("operator", "no longer held by %s", p->problem.reason);
    p->problem.reason = NULL;
    p->problem.message[0] = '\0';
    p->retry_ms = p->retry_at = 0;
}

const json_t *
plugin_object(const struct plugin *p)
{
    return json_object_get(p->op->objects, p->spec.name);
}

/* -- rotation's ports ----------------------------------------------------------------------------
 */

/* The trust set goes to the ConfigMaps as soon as it is the plan's: the Secret's way is longer.
 * Only the plan's: what lies in the Secret may be anybody's hand. */
static void
set_seen(struct plugin *p, const struct rotate_in_force *f)
{
    struct err e;

    if (f->generation < p->roots_generation)
        return;
    p->roots_generation = f->generation;
    if (p->roots != f->roots) {
        roots_unref(p->roots);
        p->roots = roots_ref(f->roots);
    }
    memcpy(p->signer_id, f->signer_id, DIGEST_BYTES);
    memcpy(p->signer_root, f->signer_root, DIGEST_BYTES);
    if (spread_set(p->spread, p->roots, &e) < 0)
        plugin_problem(p, "OutOfMemory", &e);
}

static void
plan_look(struct plugin *p)
{
    struct rotate_in_force f;
    struct err e;

    if (p->rotate != NULL && sets_check(p->sets, &e) == 0 && rotate_in_force(p->rotate, &f) &&
        (f.generation != p->roots_generation || f.roots != p->roots))
        set_seen(p, &f);
}

static int
target_read(void *self, struct bundle **ret, struct set_manifest *ret_m, struct err *e)
{
    struct plugin *p = self;
    struct rotate_target t = sets_port(p->sets);
    int done = t.read(t.self, ret, ret_m, e);

    if (done == 0)
        p->expires = bundle_not_after(*ret);
    return done;
}

static int
target_write(void *self, const struct bundle *b, const struct set_manifest *m, struct err *e)
{
    struct plugin *p = self;
    struct rotate_target t = sets_port(p->sets);
    struct rotate_in_force f = { .generation = m->generation, .roots = bundle_roots(b) };

    TRY(sets_check(p->sets, e));
    memcpy(f.signer_id, cert_id(bundle_signer(b)), DIGEST_BYTES);
    memcpy(f.signer_root, cert_id(bundle_signer_root(b)), DIGEST_BYTES);
    set_seen(p, &f);
    p->expires = bundle_not_after(b);
    return t.write(t.self, b, m, e);
}

static void
on_moved(const struct err *why, void *arg)
{
    struct plugin *p = arg;

    if (p->rotate != NULL)
        rotate_target_moved(p->rotate, why);
    plugin_look_soon(p, 0);
}

static void
restored(struct plugin *p, const char *note)
{
    plugin_event(p, true, "Restored", note);
    (void)snprintf(p->restored, sizeof(p->restored), "%.*s", (int)sizeof(p->restored) - 1, note);
    p->restored_at = mono_ms();
    plugin_look_soon(p, 0);
}

static void
on_secret_restored(const char *secret, const char *what, void *arg)
{
    char note[EVENT_NOTE_BYTES];

    (void)snprintf(note, sizeof(note), "%s was changed by somebody else (%s); it is put back",
                   secret, what);
    restored(arg, note);
}

static void
on_map_restored(const char *ns, const char *by, void *arg)
{
    struct plugin *p = arg;
    char note[EVENT_NOTE_BYTES];

    p->dist.generation = 0; /* who mounted it meanwhile has something else */
    (void)snprintf(note, sizeof(note),
                   "ConfigMap %s/" SPREAD_CONFIG_MAP " was changed by %s; it is put back", ns,
                   by[0] == '\0' ? "somebody else" : by);
    restored(p, note);
}

static int
fetch_pinned(void *self, const struct sync_versions *v, sync_fetched_fn *done, void *arg,
             struct err *e)
{
    struct plugin *p = self;

    if (p->sync == NULL)
        return err_set(e, E_BUSY, "the vault is not open yet");
    return sync_fetch(p->sync, v, done, arg, e);
}

static int
rotate_open(struct plugin *p, struct err *e)
{
    struct rotate_conf conf = {
        .plans = plan_map_port(p->plans),
        .target = { sets_port(p->sets).name, target_read, target_write, p },
        .workloads = evidence_workloads,
        .workloads_self = p,
        .metrics = p->op->conf.metrics,
        .hold_replacement = p->spec.hold_replacement,
        .renew_window_ms = p->spec.renew_window_ms,
        .min_life_s = (int64_t)(p->spec.ttl_ms / 1000),
        .lists_whole = p->spec.to_istiod,
        .replicas_n = 1,
        .floor = p->floor,
        .recovers = true,
        .fetch = fetch_pinned,
        .self = p,
    };

    return rotate_new(p->op->loop, &conf, &p->rotate, e);
}

/* -- the vault -----------------------------------------------------------------------------------
 */

/* The first one becomes the plan, and all namespaces trust what is in it: not before we may write
 * it where the mesh signs with it. */
static int
offer_take(struct plugin *p, struct err *e)
{
    if (p->offer == NULL)
        return 0;
    if (!plan_map_has_plan(p->plans))
        TRY(sets_first_check(p->sets, p->offer, e));
    rotate_want(p->rotate, p->offer, &p->offer_versions);
    bundle_unref(STEAL(p->offer));
    return 0;
}

static void
on_bundle(struct bundle *b, const struct sync_versions *v, void *arg)
{
    struct plugin *p = arg;

    bundle_unref(p->offer);
    p->offer = bundle_ref(b);
    p->offer_versions = *v;
    p->retry_at = 0; /* another set may do */
    plugin_look_soon(p, 0);
}

static void
on_refused(const struct err *why, void *arg)
{
    struct plugin *p = arg;

    if (why->code == E_AUTH) /* the Secret may be another one by now */
        p->login_again_at = mono_ms() + LOGIN_AGAIN_MS;
    plugin_look_soon(p, 0); /* status.c takes the words from sync_status */
}

static int
get_secret(void *self, const char *name, const char *version, vault_secret_fn *done, void *arg,
           struct err *e)
{
    return vault_get(self, name, version, done, arg, e);
}

static int
sync_open(struct plugin *p, struct err *e)
{
    struct sync_conf conf = { .get = get_secret,
                              .self = p->vault,
                              .vault_url = p->spec.vault_url,
                              .poll_ms = p->spec.poll_ms,
                              .metrics = p->op->conf.metrics,
                              .on_bundle = on_bundle,
                              .on_refused = on_refused,
                              .arg = p };

    for (size_t i = 0; i < PART__ALL; i++)
        conf.object_names[i] = p->spec.object_names[i];
    return sync_new(p->op->loop, &conf, &p->sync, e);
}

/* -- a self-signed mesh --------------------------------------------------------------------------
 */

static void
on_self_signed(const json_t *body, const struct err *why, void *arg)
{
    struct plugin *p = arg;
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    struct err e;

    p->self_call = NULL;
    p->self_signed = SELF_NOT_IN_USE;
    p->self_signed_at = mono_ms() + SELF_SIGNED_AGAIN_MS;
    if (why != NULL && why->code != E_NOTFOUND) {
        p->self_signed = SELF_UNKNOWN;
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "ApiServer", why);
        return;
    }
    if (why == NULL && kube_secret_get(body, "ca-cert.pem", &pem, &e) == 0 &&
        roots_from_pem(buf_span(&pem), &roots, &e) == 0 &&
        spread_holds(p->spread, p->spec.ns, roots)) {
        p->self_signed = SELF_IN_USE;
        (void)err_set(&e, E_STATE,
                      "the mesh runs on istiod's self-signed root (Secret %s/istio-ca-secret): "
                      "switching it in place would cut workloads off from one another. Stop it "
                      "first: scale istiod to 0, kubectl delete secret -n %s istio-ca-secret, then "
                      "start istiod when cacerts is there and restart the workloads",
                      p->spec.ns, p->spec.ns);
        plugin_problem(p, "SelfSignedInUse", &e);
    }
    buf_done(&pem);
    plugin_look_soon(p, 0);
}

/* r: whether the way is free. A mesh that has a plan, or a cacerts, is plugged in already. */
static bool
self_signed_passed(struct plugin *p)
{
    CLEANUP(str_freep) char *path = NULL;
    struct err e;

    if (!p->spec.to_istiod || plan_map_has_plan(p->plans) || sets_exist(p->sets) ||
        (p->self_signed == SELF_NOT_IN_USE && mono_ms() < p->self_signed_at))
        return true; /* istiod may start while the vault is waited for: it is asked again */
    if (p->self_signed == SELF_ASKED || !spread_state(p->spread).is_whole)
        return false;
    if (p->self_signed == SELF_IN_USE && mono_ms() < p->self_signed_at)
        return false;
    p->self_signed = SELF_ASKED;
    if (kube_path(&kube_secret, p->spec.ns, "istio-ca-secret", NULL, &path, &e) < 0 ||
        kube_get(p->op->conf.kube, path, 0, on_self_signed, p, &p->self_call, &e) < 0) {
        p->self_signed = SELF_UNKNOWN;
        plugin_problem(p, "ApiServer", &e);
    }
    return false;
}

/* -- retire --------------------------------------------------------------------------------------
 */

/* What others have there, and ours. Owner: caller; NULL: out of memory. */
static json_t *
finalizers_list(const struct plugin *p, bool has_ours)
{
    const json_t *meta = json_object_get(plugin_object(p), "metadata");
    json_t *list = json_array(), *one;
    bool is_whole = list != NULL;
    size_t i;

    json_array_foreach(json_object_get(meta, "finalizers"), i, one) {
        const char *name = json_string_value(one);

        if (name != NULL && strcmp(name, PLUGIN_FINALIZER) != 0)
            is_whole = is_whole && json_array_append(list, one) == 0;
    }
    if (has_ours)
        is_whole = is_whole && json_array_append_new(list, json_string(PLUGIN_FINALIZER)) == 0;
    if (is_whole)
        return list;
    json_decref(list);
    return NULL; /* one that is left out would be another's, taken away */
}

static void
on_finalizer(const json_t *body, const struct err *why, void *arg)
{
    struct plugin *p = arg;

    (void)body;
    p->finalizer_call = NULL;
    if (why != NULL && why->code != E_NOTFOUND && why->code != E_CONFLICT)
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "ApiServer", why);
    p->retry_at = mono_ms() + RETRY_FIRST_MS; /* the watch tells how it is now */
    plugin_look_soon(p, RETRY_FIRST_MS);
}

/* The whole list is written, over the version that was read. */
static void
finalizer_set(struct plugin *p, bool has_ours)
{
    const json_t *o = plugin_object(p);
    struct err e;

    if (p->finalizer_call != NULL || o == NULL)
        return;
    json_t *patch = json_pack("{s:{s:s, s:o}}", "metadata", "resourceVersion",
                              kube_object_version(o), "finalizers", finalizers_list(p, has_ours));
    struct kube_write w = {
        .kind = &kube_plugin_ca, .ns = p->spec.ns, .name = p->spec.name, .object = patch
    };
    if (patch == NULL)
        (void)err_nomem(&e);
    if (patch == NULL ||
        kube_patch(p->op->conf.kube, &w, on_finalizer, p, &p->finalizer_call, &e) < 0)
        plugin_problem(p, "ApiServer", &e);
    json_decref(patch);
}

static void
on_plan_retired(const struct err *why, void *arg)
{
    struct plugin *p = arg;

    if (why != NULL) {
        p->is_retiring = false;
        plugin_problem(p, "ApiServer", why);
        return;
    }
    plugin_event(p, false, "Disabled",
                 "the plugged-in CA is off: its Secrets are deleted. Restart istiod and then the "
                 "workloads to go on with a self-signed root");
    p->is_retired = true;
    plugin_look_soon(p, 0);
}

static void
on_sets_retired(const struct err *why, void *arg)
{
    struct plugin *p = arg;
    uint64_t generation = p->roots_generation;
    struct err e;

    if (why != NULL) {
        p->is_retiring = false;
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "ApiServer", why);
        return;
    }
    if (plan_map_retire(p->plans, generation, on_plan_retired, p, &e) < 0) {
        p->is_retiring = false;
        plugin_problem(p, "ApiServer", &e);
    }
}

/* Ends what drives, then takes away what is ours; roots in the ConfigMaps stay, for leaves under
 * them are in use. */
static void
retire(struct plugin *p)
{
    struct err e;

    if (p->is_retired)
        finalizer_set(p, false); /* until the watch says that the object is gone */
    if (!p->spec.has_finalizer || p->is_retiring)
        return;
    if (p->rotate != NULL && rotate_generation(p->rotate) > p->roots_generation)
        p->roots_generation = rotate_generation(p->rotate);
    rotate_free(STEAL(p->rotate));
    sync_free(STEAL(p->sync));
    bundle_unref(STEAL(p->offer));
    login_end(p);
    evidence_end(p);
    kube_cancel(STEAL(p->self_call)); /* its answer is compared with what spread knows */
    spread_free(STEAL(p->spread));
    p->is_retiring = true;
    if (sets_generation(p->sets) > p->roots_generation)
        p->roots_generation = sets_generation(p->sets);
    if (sets_retire(p->sets, on_sets_retired, p, &e) < 0) {
        p->is_retiring = false;
        plugin_problem(p, "ApiServer", &e);
    }
}

/* -- the order -----------------------------------------------------------------------------------
 */

static void
on_plan_read(const struct err *why, void *arg)
{
    struct plugin *p = arg;

    if (why != NULL)
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "ApiServer", why);
    p->plan_is_read = why == NULL;
    plugin_look_soon(p, why == NULL ? 0 : p->retry_ms);
}

/* In our own namespace: who may write ConfigMaps in the mesh's would say what all trust. The
 * mesh's name is no longer than its first dot, so no two plans share one. */
static int
plan_open(struct plugin *p, struct err *e)
{
    char name[PLUGIN_NS_BYTES + PLUGIN_NAME_BYTES];

    (void)snprintf(name, sizeof(name), "%s.%s", p->spec.ns, p->spec.name);
    return plan_map_new(p->op->loop, p->op->conf.kube, p->op->conf.ca_namespace, name, on_plan_read,
                        p, &p->plans, e);
}

static void
on_known(void *arg)
{
    plugin_look_soon(arg, 0);
}

static void
on_spread(void *arg)
{
    struct plugin *p = arg;

    plugin_look_soon(p, 0);
}

/* The vault does not know who we are: the credentials are read anew. */
static void
login_again(struct plugin *p)
{
    if (p->login_again_at == 0 || mono_ms() < p->login_again_at || p->vault == NULL)
        return;
    p->login_again_at = 0;
    sync_free(STEAL(p->sync));
    login_end(p);
}

/* r: 0 open; 1 something is awaited. */
static int
advance(struct plugin *p, struct err *e)
{
    if (!p->spec.has_finalizer) {
        finalizer_set(p, true);
        return 1;
    }
    if (p->plans == NULL)
        TRY(plan_open(p, e));
    if (!p->plan_is_read || !sets_are_known(p->sets) || !self_signed_passed(p))
        return 1;
    login_again(p);
    if (p->vault == NULL) {
        login_start(p);
        return 1;
    }
    if (p->rotate == NULL)
        TRY(rotate_open(p, e));
    if (p->sync == NULL)
        TRY(sync_open(p, e));
    if (offer_take(p, e) < 0) {
        plugin_problem(p, "NotOwned", e);
        return 1;
    }
    return 0;
}

/* A list or a rotation is over: what it took goes back, once. */
static void
rest_tick(struct plugin *p)
{
    struct spread_state s = { .is_whole = false };

    if (p->spread != NULL)
        s = spread_state(p->spread);
    bool is_busy = !s.is_whole || s.done != s.namespaces || p->rotate == NULL ||
                   sets_generation(p->sets) != rotate_generation(p->rotate);
    if (is_busy)
        p->rest_at = mono_ms() + REST_MS;
    else if (p->rest_at != 0 && mono_ms() >= p->rest_at) {
        footprint_trim();
        p->rest_at = 0;
    }
}

static void
on_tick(void *arg)
{
    struct plugin *p = arg;
    struct err e;

    plugin_look_soon(p, TICK_MS);
    if (!status_recall(p))
        return;
    if (p->spec.is_going) {
        if (mono_ms() >= p->retry_at && p->plan_is_read && sets_are_known(p->sets))
            retire(p);
        else if (p->plans == NULL && plan_open(p, &e) < 0)
            plugin_problem(p, "ApiServer", &e);
        status_tick(p);
        return;
    }
    if (mono_ms() >= p->retry_at) {
        if (p->plans != NULL && !p->plan_is_read && p->problem.reason != NULL) {
            plan_map_free(STEAL(p->plans)); /* its read failed: again */
            p->problem.reason = NULL;
        }
        int done = advance(p, &e);
        if (done < 0)
            plugin_problem(p, "Internal", &e);
        else if (done == 0 && p->problem.reason != NULL)
            problem_over(p);
    }
    plan_look(p);
    evidence_tick(p);
    if (p->spec.has_finalizer) { /* else the one write is the other's conflict */
        force_tick(p);
        status_tick(p);
    }
    rest_tick(p);
}

/* -- open, update, close -------------------------------------------------------------------------
 */

static int
sets_open(struct plugin *p, struct err *e)
{
    const struct operator_conf *c = &p->op->conf;
    char owner[PLUGIN_NS_BYTES + PLUGIN_NAME_BYTES];
    struct sets_conf conf = { .kube = c->kube,
                              .owner = owner,
                              .adopt = p->spec.adopt,
                              .metrics = c->metrics,
                              .on_known = on_known,
                              .on_moved = on_moved,
                              .on_restored = on_secret_restored,
                              .arg = p };

    (void)snprintf(owner, sizeof(owner), "%s/%s", p->spec.ns, p->spec.name);
    if (p->spec.to_istiod)
        conf.places[conf.places_n++] =
            (struct set_place){ p->spec.ns, "cacerts", false, c->istiod_pods };
    if (p->spec.to_meshroot)
        conf.places[conf.places_n++] =
            (struct set_place){ c->ca_namespace, c->ca_secret, true, c->ca_pods };
    return sets_new(p->op->loop, &conf, &p->sets, e);
}

int
plugin_new(struct mesh_operator *op, struct plugin_ca *take_spec, struct plugin **ret,
           struct err *e)
{
    struct plugin *p = calloc(1, sizeof(*p));

    if (p == NULL) {
        plugin_ca_done(take_spec);
        return err_nomem(e);
    }
    *p = (struct plugin){ .op = op, .spec = *take_spec, .ca_fd = -1 };
    memset(take_spec, 0, sizeof(*take_spec));
    struct spread_conf spread = { .kube = op->conf.kube,
                                  .selector = p->spec.selector,
                                  .metrics = op->conf.metrics,
                                  .on_change = on_spread,
                                  .on_restored = on_map_restored,
                                  .arg = p };
    int done = timer_new(op->loop, on_tick, p, &p->tick, e);
    if (done == 0)
        done = sets_open(p, e);
    if (done == 0)
        done = spread_new(op->loop, &spread, &p->spread, e);
    if (done < 0) {
        plugin_free(p);
        return done;
    }
    timer_set(p->tick, 0);
    *ret = p;
    return 0;
}

void
plugin_free(struct plugin *p)
{
    if (p == NULL)
        return;
    kube_cancel(p->self_call);
    kube_cancel(p->status_call);
    kube_cancel(p->finalizer_call);
    kube_cancel(p->recall_call);
    force_end(p);
    rotate_free(p->rotate);
    vault_client_free(STEAL(p->vault)); /* before sync, whose calls are under way in it */
    sync_free(p->sync);
    login_end(p);
    evidence_end(p);
    plan_map_free(p->plans);
    sets_free(p->sets);
    spread_free(p->spread);
    roots_unref(p->roots);
    bundle_unref(p->offer);
    timer_free(p->tick);
    json_decref(p->status);
    json_decref(p->status_there);
    json_decref(p->replicas_told);
    plugin_ca_done(&p->spec);
    free(p);
}

bool
plugin_update(struct plugin *p, struct plugin_ca *take_spec)
{
    bool same = plugin_ca_same(&p->spec, take_spec) && strcmp(p->spec.uid, take_spec->uid) == 0 &&
                json_equal(p->spec.selector, take_spec->selector) == 1;

    if (p->spec.selector == NULL && take_spec->selector == NULL)
        same = plugin_ca_same(&p->spec, take_spec) && strcmp(p->spec.uid, take_spec->uid) == 0;
    if (!same) {
        plugin_ca_done(take_spec);
        return false;
    }
    plugin_ca_done(&p->spec);
    p->spec = *take_spec;
    memset(take_spec, 0, sizeof(*take_spec));
    plugin_look_soon(p, 0);
    return true;
}
