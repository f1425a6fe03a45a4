#include "validate/sight.h"

#include <string.h>

#include "base/clock.h"
#include "net/json.h"
#include "net/tls_probe.h"
#include "pki/bundle.h"

void
sight_done(struct sight *t)
{
    json_decref(STEAL(t->deployment));
    roots_unref(STEAL(t->wanted));
    roots_unref(STEAL(t->loaded));
    roots_unref(STEAL(t->all));
    buf_done(&t->wanted_text);
}

static void
set_fill(const struct roots *r, struct validate_set *ret)
{
    ret->n = roots_count(r); /* at most ROOTS_MAX */
    for (size_t i = 0; i < ret->n; i++)
        memcpy(ret->ids[i], cert_id(roots_at(r, i)), DIGEST_BYTES);
}

/* -- the Secret ----------------------------------------------------------------------------------
 */

static int
parts_check(const json_t *data, struct err *e)
{
    size_t there = 0;
    const char *missing = NULL;

    for (size_t i = 0; i < PART__N; i++)
        if (json_string_length(json_object_get(data, bundle_file_names[i])) > 0)
            there++;
        else
            missing = bundle_file_names[i];
    if (there == PART__N)
        return 0;
    if (there == 0 && json_object_get(data, "tls.crt") != NULL)
        return err_set(e, E_STATE,
                       "it has tls.crt, tls.key and ca.crt; only the four keys of Istio's own form "
                       "are read");
    return err_set(e, E_STATE,
                   "it is half: \"%s\" is missing or empty, and istiod would not start with it",
                   missing);
}

static int
parts_take(const json_t *secret, struct sight *t, struct err *e)
{
    CLEANUP(buf_done) struct buf cert = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_done) struct buf chain = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(bundle_unrefp) struct bundle *bundle = NULL;

    TRY(parts_check(json_object_get(secret, "data"), e));
    buf_done(&t->wanted_text);
    t->wanted_text = BUF_INIT(PEM_MAX_BYTES);
    TRY(kube_secret_get(secret, bundle_file_names[PART_ROOT_CERT], &t->wanted_text, e));
    TRY(kube_secret_get(secret, bundle_file_names[PART_CA_CERT], &cert, e));
    TRY(kube_secret_get(secret, bundle_file_names[PART_CERT_CHAIN], &chain, e));
    const struct span parts[PART__N] = { [PART_ROOT_CERT] = buf_span(&t->wanted_text),
                                         [PART_CA_CERT] = buf_span(&cert),
                                         [PART_CERT_CHAIN] = buf_span(&chain) };
    TRY(bundle_new_public(parts, &bundle, e));
    digest(buf_span(&t->wanted_text), t->roots_digest);
    roots_unref(STEAL(t->wanted));
    t->wanted = roots_ref(bundle_roots(bundle));
    set_fill(t->wanted, &t->facts.wanted);
    memcpy(t->facts.signer_root, cert_id(bundle_signer_root(bundle)), DIGEST_BYTES);
    t->facts.secret_changed = validate_data_changed(secret);
    return 0;
}

int
sight_take_secret(struct session *s, struct sight *t, struct err *e)
{
    CLEANUP(json_wipe_freep) json_t *secret = NULL;

    TRY(session_get(s, &kube_secret, s->conf->secret, &secret, e));
    if (parts_take(secret, t, e) < 0)
        return err_wrap(e, "Secret %s in namespace %s", s->conf->secret, s->conf->ns);
    return 0;
}

/* -- what istiod publishes -----------------------------------------------------------------------
 */

static int
map_read(const json_t *map, struct sight *t, struct err *e)
{
    const json_t *v =
        json_object_get(json_object_get(map, "data"), bundle_file_names[PART_ROOT_CERT]);
    struct span text = span_of(json_string_value(v), json_string_length(v));
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    struct span wanted = buf_span(&t->wanted_text);

    if (!json_is_string(v))
        return err_set(e, E_STATE, "it has no \"%s\"", bundle_file_names[PART_ROOT_CERT]);
    TRY(roots_from_pem(text, &roots, e));
    roots_unref(STEAL(t->all));
    TRY(roots_union(roots, t->wanted, &t->all, e));
    roots_unref(STEAL(t->loaded));
    t->loaded = STEAL(roots);
    set_fill(t->loaded, &t->facts.loaded);
    t->facts.is_same_text = span_eq(text, wanted);
    t->facts.is_text_within = memmem(text.p, text.n, wanted.p, wanted.n) != NULL ||
                              memmem(wanted.p, wanted.n, text.p, text.n) != NULL;
    t->facts.map_changed = validate_data_changed(map);
    return 0;
}

static int
map_take(struct session *s, struct sight *t, struct err *e)
{
    CLEANUP(json_decrefp) json_t *map = NULL;

    if (session_get(s, &kube_config_map, s->conf->config_map, &map, e) < 0)
        return e->code == E_NOTFOUND ? err_wrap(e, "istiod has not published its roots")
                                     : err_result(e);
    if (map_read(map, t, e) < 0)
        return err_wrap(e, "ConfigMap %s in namespace %s", s->conf->config_map, s->conf->ns);
    return 0;
}

/* -- istiod's pods -------------------------------------------------------------------------------
 */

static bool
has_ended(const json_t *pod)
{
    const char *phase = kube_object_text(pod, "status.phase");

    return strcmp(phase, "Succeeded") == 0 || strcmp(phase, "Failed") == 0;
}

/* What a pod's names of client CAs say of the roots that it started with; no name says nothing. */
static void
names_judge(const struct sight *t, const struct tls_seen *seen, struct validate_pod *p)
{
    bool is_wanted[TLS_SEEN_NAMES] = { false };

    for (size_t i = 0; i < roots_count(t->wanted) && seen->names_n > 0; i++) {
        uint8_t name[DIGEST_BYTES];
        bool is_named = false;

        digest(cert_subject_der(roots_at(t->wanted, i)), name);
        for (size_t k = 0; k < seen->names_n; k++)
            if (memcmp(name, seen->names[k], DIGEST_BYTES) == 0)
                is_named = is_wanted[k] = true;
        p->lacks_root = p->lacks_root || !is_named;
    }
    for (size_t k = 0; k < seen->names_n; k++)
        p->has_other = p->has_other || !is_wanted[k];
}

static int
pod_dial(const struct session *s, const struct sight *t, const char *ip, struct validate_pod *p,
         struct err *e)
{
    CLEANUP(tls_seen_done) struct tls_seen seen = { .leaf = NULL };
    char name[HOST_BYTES];
    struct tls_probe_conf conf = {
        .to = { .port = s->conf->port }, .name = s->conf->server_name, .roots = t->all, .alpn = "h2"
    };

    if (ip[0] == '\0')
        return err_set(e, E_STATE, "it has no address yet");
    (void)snprintf(conf.to.host, sizeof(conf.to.host), "%s", ip);
    (void)snprintf(name, sizeof(name), "istiod.%.200s.svc", s->conf->ns);
    if (conf.name == NULL)
        conf.name = name;
    TRY(tls_probe(&conf, &seen, e));
    p->is_seen = true;
    names_judge(t, &seen, p);
    p->since = cert_not_before(seen.leaf) + VALIDATE_BACKDATE_S;
    memcpy(p->root_id, seen.root_id, DIGEST_BYTES);
    return 0;
}

static int
on_pod(const json_t *pod, void *arg, struct err *e)
{
    struct sight *t = arg;
    struct validate_facts *f = &t->facts;

    if (kube_object_is_going(pod) || has_ended(pod) ||
        TRY(validate_is_its_pod(t->deployment, pod, e)) == VALIDATE_NOT_ITS)
        return 0;
    for (size_t i = 0; i < f->pods_n; i++) /* a list may begin again */
        if (strcmp(t->pods[i].name, kube_object_name(pod)) == 0)
            return 0;
    if (f->pods_n == VALIDATE_PODS_MAX)
        return err_set(e, E_LIMIT, "istiod has more than %d pods", VALIDATE_PODS_MAX);
    (void)snprintf(t->ips[f->pods_n], HOST_BYTES, "%s", kube_object_text(pod, "status.podIP"));
    struct validate_pod *p = &t->pods[f->pods_n++];
    *p = (struct validate_pod){ .is_seen = false };
    (void)snprintf(p->name, sizeof(p->name), "%s", kube_object_name(pod));
    return 0;
}

static int
pods_take(struct session *s, struct sight *t, struct err *e)
{
    struct err why;

    t->facts.pods = t->pods;
    t->facts.pods_n = 0;
    TRY(session_list(s, &kube_pod, s->conf->ns, on_pod, t, e));
    for (size_t i = 0; i < t->facts.pods_n; i++)
        if (pod_dial(s, t, t->ips[i], &t->pods[i], &why) < 0)
            (void)snprintf(t->pods[i].why, sizeof(t->pods[i].why), "%.*s",
                           (int)sizeof(t->pods[i].why) - 1, why.msg);
    return 0;
}

/* -- workloads -----------------------------------------------------------------------------------
 */

struct workloads {
    struct validate_facts *facts;
    const char *config_map;
};

/* The API server's clock dates all of them: kubelets' may differ. */
static int
on_workload(const json_t *pod, void *arg, struct err *e)
{
    const struct workloads *w = arg;
    struct validate_facts *f = w->facts;
    int64_t made;

    if (has_ended(pod) || !validate_is_workload(pod, w->config_map))
        return 0;
    if (rfc3339_parse(span_str(kube_object_text(pod, "metadata.creationTimestamp")), &made, e) < 0)
        return err_wrap(e, "pod %s in namespace %s", kube_object_name(pod), kube_object_ns(pod));
    f->workloads_since = made < f->workloads_since ? made : f->workloads_since;
    return 0;
}

int
sight_take_workloads(struct session *s, struct sight *t, struct err *e)
{
    struct workloads w = { &t->facts, s->conf->config_map };

    t->facts.workloads_since = t->facts.now;
    if (session_list(s, &kube_pod, NULL, on_workload, &w, e) < 0) {
        t->facts.workloads_since = 0;
        return err_result(e);
    }
    return 0;
}

/* -- all of it -----------------------------------------------------------------------------------
 */

int
sight_take_deployment(struct session *s, struct sight *t, struct err *e)
{
    char words[VALIDATE_WHY_BYTES];

    json_decref(STEAL(t->deployment));
    TRY(session_get(s, &kube_deployment, s->conf->deployment, &t->deployment, e));
    TRY(validate_istiod_read(t->deployment, &t->istiod, e));
    validate_memory_read(t->deployment, &t->memory);
    t->facts.takes_roots_hot = t->istiod.takes_roots_hot;
    t->facts.hot_compares_text = t->istiod.hot_compares_text;
    t->facts.is_going = kube_object_is_going(t->deployment);
    t->facts.is_paused = validate_is_paused(t->deployment);
    t->facts.is_rolling = validate_rollout_read(t->deployment, words) == ROLLOUT_UNDER_WAY;
    return 0;
}

int
sight_take_loaded(struct session *s, struct sight *t, struct err *e)
{
    TRY(map_take(s, t, e));
    return pods_take(s, t, e);
}

int
sight_take(struct session *s, struct sight *ret, struct err *e)
{
    CLEANUP(sight_done) struct sight t = { .deployment = NULL };
    const struct validate_conf *c = s->conf;

    t.facts = (struct validate_facts){ .now = unix_s(),
                                       .leaf_life_s = (int64_t)(c->leaf_life_ms / 1000),
                                       .hot_wait_s = (int64_t)(c->hot_wait_ms / 1000),
                                       .skew_s = (int64_t)(c->skew_ms / 1000),
                                       .is_forced = c->is_forced };
    TRY(sight_take_deployment(s, &t, e));
    TRY(sight_take_secret(s, &t, e));
    TRY(sight_take_loaded(s, &t, e));
    if (memcmp(t.memory.roots, t.roots_digest, DIGEST_BYTES) == 0)
        t.facts.tried = t.memory.tried;
    sight_done(ret);
    *ret = t;
    ret->facts.pods = ret->pods;
    t = (struct sight){ .deployment = NULL };
    return 0;
}
