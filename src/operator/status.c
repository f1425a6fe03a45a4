/* status.c - what the resource says of itself: status, conditions, Events. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "obs/log.h"
#include "operator/room.h"

enum { RESTORED_SHOWN_MS = 60 * 1000, STATUS_RETRY_MS = 5000 };

/* -- Events --------------------------------------------------------------------------------------
 */

static void
on_refusal_written(const json_t *body, const struct err *why, void *arg)
{
    (void)body;
    (void)arg;
    if (why != NULL)
        log_warn("operator", "a status is not written: %s", why->msg);
}

void
plugin_event(struct plugin *p, bool is_warning, const char *reason, const char *note)
{
    json_t *about =
        json_pack("{s:s, s:s, s:{s:s, s:s, s:s}}", "apiVersion", PLUGIN_CA_API, "kind", "PluginCA",
                  "metadata", "namespace", p->spec.ns, "name", p->spec.name, "uid", p->spec.uid);

    log_with(is_warning ? LOG_WARN : LOG_INFO, "operator", LABELS({ "event", reason }), "%s", note);
    if (about != NULL)
        kube_recorder_say(p->op->recorder, about, is_warning, reason, "%s", note);
    json_decref(about);
}

/* -- conditions ----------------------------------------------------------------------------------
 */

/* "short_life" -> "ShortLife". */
static void
camel(const char *from, char *to, size_t cap)
{
    size_t n = 0;
    bool up = true;

    for (; *from != '\0' && n + 1 < cap; from++) {
        if (*from == '_' || *from == ' ' || *from == '-' || *from == ',') {
            up = true;
            continue;
        }
        to[n++] = (char)(up && *from >= 'a' && *from <= 'z' ? *from - 'a' + 'A' : *from);
        up = false;
    }
    to[n] = '\0';
}

static const json_t *
condition_of(const json_t *status, const char *type)
{
    const json_t *c;
    size_t i;

    json_array_foreach(json_object_get(status, "conditions"), i, c) {
        const char *t = json_string_value(json_object_get(c, "type"));
        if (t != NULL && strcmp(t, type) == 0)
            return c;
    }
    return NULL;
}

/* The time of the last change of its status stays. */
static void
condition_add(json_t **list, const json_t *before, int64_t revision, const char *type, bool is,
              const char *reason, const char *message)
{
    const json_t *was = condition_of(before, type);
    const char *then = json_string_value(json_object_get(was, "lastTransitionTime"));
    const char *status = is ? "True" : "False";
    const char *old = json_string_value(json_object_get(was, "status"));
    char now[RFC3339_BYTES], words[3 * PROBLEM_BYTES];

    (void)snprintf(words, sizeof(words), "%s", message);
    utf8_repair(words); /* parts of it may be cut */
    rfc3339_s(unix_s(), now);
    if (then == NULL || old == NULL || strcmp(old, status) != 0)
        then = now;
    *list = json_array_with(*list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "type", type,
                                             "status", status, "reason", reason, "message", words,
                                             "lastTransitionTime", then, "observedGeneration",
                                             (json_int_t)revision));
}

/* What the parts say, gathered once. */
struct facts {
    json_t *rotation, *sync; /* owned; NULL: not open */
    struct spread_state spread;
    uint64_t generation, in_secrets;
    const char *remaining, *held_reason, *held_detail;
    const char *tls_lacks;  /* NULL, or what istiod's certificate waits for */
    const char *pods_lack;  /* NULL, or why the CA's pods are not all known */
    const char *sync_error; /* NULL, or into the next */
    char sync_text[PROBLEM_BYTES];
    bool is_settled, is_wish_known; /* the vault was read since this start */
};

static void
facts_done(struct facts *f)
{
    json_decref(f->rotation);
    json_decref(f->sync);
}

static const char *
text(const json_t *j, const char *member)
{
    return json_string_value(json_object_get(j, member));
}

/* Without what is another one each time: else each try is news. */
static void
sync_error_take(struct facts *f)
{
    const char *said = text(f->sync, "last_error");

    if (said == NULL)
        return;
    const char *trace = strstr(said, " Trace ID: ");
    size_t n = trace == NULL ? strlen(said) : (size_t)(trace - said);
    (void)snprintf(f->sync_text, sizeof(f->sync_text), "%.*s", (int)n, said);
    f->sync_error = f->sync_text;
}

/* r: false: out of memory, and a part that is there would look like one that is not. */
static bool
facts_get(struct plugin *p, struct facts *f)
{
    memset(f, 0, sizeof(*f));
    if (p->rotate != NULL) {
        f->rotation = rotate_status(p->rotate);
        f->generation = rotate_generation(p->rotate);
        f->is_settled = json_is_true(json_object_get(f->rotation, "settled"));
        f->is_wish_known = json_is_object(json_object_get(f->rotation, "wanted"));
        f->remaining = text(f->rotation, "remaining");
        f->held_reason = text(json_object_get(f->rotation, "held"), "reason");
        f->held_detail = text(json_object_get(f->rotation, "held"), "detail");
    }
    if (p->sync != NULL) {
        f->sync = sync_status(p->sync);
        sync_error_take(f);
    }
    if (p->spread != NULL)
        f->spread = spread_state(p->spread);
    f->in_secrets = sets_generation(p->sets);
    f->tls_lacks = istiod_tls_lacks(p);
    f->pods_lack = evidence_lacks(p);
    return (p->rotate == NULL) == (f->rotation == NULL) && (p->sync == NULL) == (f->sync == NULL);
}

static void
synced_add(struct plugin *p, const struct facts *f, json_t **list)
{
    bool is = f->sync != NULL && f->sync_error == NULL &&
              json_string_value(json_object_get(f->sync, "last_success")) != NULL;
    const char *why = p->problem.reason != NULL ? p->problem.message
                      : f->sync_error != NULL   ? f->sync_error
                                                : "the vault was not read yet";

    condition_add(list, p->status, p->spec.revision, "Synced", is,
                  is                          ? "Synced"
                  : p->problem.reason != NULL ? p->problem.reason
                  : f->sync_error != NULL     ? "VaultRefused"
                                              : "Starting",
                  is ? "the vault's four secrets are a bundle" : why);
}

static void
loaded_add(struct plugin *p, const struct facts *f, json_t **list)
{
    char message[PROBLEM_BYTES], reason[64] = "Writing";
    bool is_in = f->generation != 0 && f->in_secrets == f->generation;
    bool is = is_in && f->tls_lacks == NULL;

    if (is_in && !is) {
        (void)snprintf(message, sizeof(message), "Secret %s/istiod-tls: %.400s", p->spec.ns,
                       f->tls_lacks);
        (void)snprintf(reason, sizeof(reason), "IstiodTls");
    } else if (is) {
        (void)snprintf(message, sizeof(message), "generation %" PRIu64 " is in %s", f->generation,
                       sets_port(p->sets).name);
    } else if (p->problem.reason != NULL && strcmp(p->problem.reason, "NotOwned") == 0) {
        (void)snprintf(message, sizeof(message), "%s", p->problem.message);
        (void)snprintf(reason, sizeof(reason), "NotOwned");
    } else if (f->held_reason != NULL && strcmp(f->held_reason, "target") == 0) {
        (void)snprintf(message, sizeof(message), "%s", f->held_detail);
        (void)snprintf(reason, sizeof(reason), "%s",
                       strstr(message, "somebody else") != NULL ? "NotOwned"
                       : strstr(message, "forbidden") != NULL   ? "Forbidden"
                                                                : "WriteFailed");
    } else {
        (void)snprintf(message, sizeof(message), "generation %" PRIu64 " is not in %s yet",
                       f->generation, sets_port(p->sets).name);
    }
    condition_add(list, p->status, p->spec.revision, "Loaded", is, is ? "Loaded" : reason, message);
}

static void
distributed_add(struct plugin *p, const struct facts *f, json_t **list)
{
    const struct spread_state *s = &f->spread;
    bool is = f->generation != 0 && s->is_whole && s->done == s->namespaces;
    char message[PROBLEM_BYTES + 100];

    if (s->disputed > 0)
        (void)snprintf(
            message, sizeof(message),
            "%zu of %zu namespaces hold the trust set; in %zu, such as %s, somebody else "
            "writes another one again and again (last %s, in %s): a stock istiod writes the roots "
            "that it has loaded (meshroot mesh validate restarts it when that is safe)",
            s->done, s->namespaces, s->disputed, s->disputed_ns,
            s->restored_by[0] == '\0' ? "somebody" : s->restored_by, s->restored_ns);
    else
        (void)snprintf(message, sizeof(message), "%zu of %zu namespaces hold the trust set%s%.500s",
                       s->done, s->namespaces, s->trouble[0] == '\0' ? "" : ": ", s->trouble);
    condition_add(list, p->status, p->spec.revision, "Distributed", is,
                  is                                        ? "Distributed"
                  : s->disputed > 0                         ? "SharedField"
                  : strstr(s->trouble, "forbidden") != NULL ? "Forbidden"
                  : s->trouble[0] != '\0'                   ? "ApiServer"
                                                            : "Writing",
                  message);
}

/* A gate's own words, with what else a person must know: pods that nobody follows; and where the
 * wait for those that say no word began anew, because somebody wrote another trust set. */
static void
held_words(const struct plugin *p, const struct facts *f, char *ret, size_t cap)
{
    const struct spread_state *s = &f->spread;
    char at[RFC3339_BYTES];
    int n = snprintf(ret, cap, "%s%s%.*s", f->pods_lack == NULL ? "" : f->pods_lack,
                     f->pods_lack == NULL ? "" : "; ", PROBLEM_BYTES, f->held_detail);

    if (n < 0 || (size_t)n >= cap || !p->spec.to_istiod || s->restored == 0)
        return;
    rfc3339_s(s->restored_at, at);
    (void)snprintf(ret + n, cap - (size_t)n,
                   "; the wait began anew at %s, for %s changed " SPREAD_CONFIG_MAP
                   " in namespace %s; it was put back, %zu times in all since generation %" PRIu64,
                   at, s->restored_by[0] == '\0' ? "somebody" : s->restored_by, s->restored_ns,
                   s->restored, f->generation);
}

static void
held_add(struct plugin *p, const struct facts *f, json_t **list)
{
    char reason[64] = "NotHeld", words[3 * PROBLEM_BYTES];
    const char *message = "nothing is waited for";
    bool is = true;

    if (p->problem.reason != NULL) {
        (void)snprintf(reason, sizeof(reason), "%s", p->problem.reason);
        message = p->problem.message;
    } else if (f->held_reason != NULL) {
        camel(f->held_reason, reason, sizeof(reason));
        held_words(p, f, words, sizeof(words));
        message = words;
    } else if (f->generation == 0 && f->sync_error != NULL) {
        (void)snprintf(reason, sizeof(reason), "VaultRefused");
        message = f->sync_error;
    } else {
        is = false;
    }
    condition_add(list, p->status, p->spec.revision, "Held", is, reason, message);
}

/* -- the status ----------------------------------------------------------------------------------
 */

static const char *
phase_of(const struct plugin *p, const struct facts *f)
{
    if (p->spec.is_going)
        return "Terminating";
    if (p->problem.reason != NULL || f->held_reason != NULL)
        return "Held";
    if (f->generation == 0)
        return f->sync_error != NULL ? "Held" : "Starting";
    if (!f->is_wish_known && f->sync_error == NULL)
        return "Starting"; /* in the middle of a rotation, maybe */
    return f->is_settled && f->in_secrets == f->generation && f->tls_lacks == NULL &&
                   f->spread.is_whole && f->spread.done == f->spread.namespaces
               ? "Ready"
               : "Rotating";
}

static json_t *
waits_of(const struct facts *f)
{
    json_t *list = json_array();
    const json_t *w;
    size_t i;

    json_array_foreach(json_object_get(json_object_get(f->rotation, "held"), "waits_for"), i, w) {
        char line[600];
        (void)snprintf(line, sizeof(line), "%s %s", text(w, "identity"), text(w, "why"));
        list = json_array_with(list, json_string(line));
    }
    return list;
}

/* For who would force it; a null takes away what was there. */
static json_t *
held_of(const struct facts *f)
{
    const json_t *held = json_object_get(f->rotation, "held");

    return json_is_object(held)
               ? json_pack("{s:O, s:O, s:O, s:O}", "step", json_object_get(held, "gated"), "reason",
                           json_object_get(held, "reason"), "waitsForTotal",
                           json_object_get(held, "waits_for_total"), "force",
                           json_object_get(held, "force"))
               : json_null();
}

static json_t *
roots_of(const struct facts *f)
{
    json_t *list = json_array();
    const json_t *r;
    size_t i;

    json_array_foreach(json_object_get(f->rotation, "roots"), i, r)
        list = json_array_with(
            list, json_pack("{s:O, s:O, s:O, s:O}", "subject", json_object_get(r, "subject"), "id",
                            json_object_get(r, "id"), "since", json_object_get(r, "since"),
                            "notAfter", json_object_get(r, "not_after")));
    return list;
}

/* "CN=Root A" or "CN=Root A + CN=Root B". */
static void
root_text(const json_t *roots, char *ret, size_t cap)
{
    const json_t *r;
    size_t i, n = 0;

    ret[0] = '\0';
    json_array_foreach(roots, i, r)
        if (n < cap)
            n +=
                (size_t)snprintf(ret + n, cap - n, "%s%s", i == 0 ? "" : " + ", text(r, "subject"));
    utf8_repair(ret); /* it may be cut */
}

/* r: `take_s` with them; NULL: out of memory. */
static json_t *
certificates_add(const struct plugin *p, const struct facts *f, json_t *take_s)
{
    const json_t *signer = json_object_get(f->rotation, "signer");
    const char *subject = text(signer, "subject");
    char root[1024], at[RFC3339_BYTES];
    json_t *roots = roots_of(f), *s;

    root_text(roots, root, sizeof(root));
    s = json_object_with(take_s, "roots", roots);
    s = json_object_with(s, "root", json_string(root));
    if (json_is_object(signer)) {
        s = json_object_with(s, "intermediate",
                             json_pack("{s:s, s:O}", "subject", subject == NULL ? "" : subject,
                                       "id", json_object_get(signer, "id")));
        s = json_object_with(s, "versions", json_incref(json_object_get(signer, "versions")));
    }
    if (p->expires > 0) {
        rfc3339_s(p->expires, at);
        s = json_object_with(s, "expires", json_string(at));
    }
    return s;
}

static json_t *
distribution_of(const struct plugin *p, const struct facts *f)
{
    char at[RFC3339_BYTES];

    rfc3339_s(p->dist.since, at);
    return json_pack("{s:I, s:I, s:s?, s:I, s:I}", "generation", (json_int_t)p->dist.generation,
                     "settled", (json_int_t)p->dist.settled, "since",
                     p->dist.generation > 0 ? at : NULL, "namespaces",
                     (json_int_t)f->spread.namespaces, "done", (json_int_t)f->spread.done);
}

/* Why the vault's revocation lists are not in force; NULL: they are, or there are none. */
static const char *
lists_error(const struct facts *f)
{
    const char *said = text(json_object_get(f->sync, "lists"), "error");

    return said != NULL ? said : text(json_object_get(f->rotation, "lists"), "held");
}

static json_t *
lists_of(const struct facts *f)
{
    const json_t *l = json_object_get(f->rotation, "lists");
    const char *why = lists_error(f), *end = text(l, "next_update");

    return json_pack("{s:I, s:I, s:s?, s:s?}", "lists",
                     json_integer_value(json_object_get(l, "lists")), "entries",
                     json_integer_value(json_object_get(l, "entries")), "nextUpdate", end,
                     "refused", why);
}

static json_t *
status_of(struct plugin *p, const struct facts *f)
{
    json_t *conditions = json_array();

    synced_add(p, f, &conditions);
    loaded_add(p, f, &conditions);
    distributed_add(p, f, &conditions);
    held_add(p, f, &conditions);
    json_t *s = json_pack("{s:I, s:s, s:s, s:I, s:o, s:o, s:o, s:o}", "observedGeneration",
                          (json_int_t)p->spec.revision, "mode",
                          f->generation > 0 ? "plugged-in" : "starting", "phase", phase_of(p, f),
                          "generation", (json_int_t)(f->generation > 0 ? f->generation : p->floor),
                          "distribution", distribution_of(p, f), "held", held_of(f), "waitsFor",
                          waits_of(f), "conditions", conditions);
    if (p->force.last != NULL)
        s = json_object_with(s, "lastForce", json_incref(p->force.last));
    if (p->spec.to_meshroot)
        s = json_object_with(s, "replicas", evidence_replicas(p));
    if (f->rotation != NULL)
        s = certificates_add(p, f, s);
    if (p->spec.object_names[PART_CA_CRL][0] != '\0')
        s = json_object_with(s, "revocation", lists_of(f));
    return s;
}

json_t *
status_make(struct plugin *p)
{
    CLEANUP(facts_done) struct facts f;

    if (!facts_get(p, &f))
        return NULL;
    return json_pack("{s:s, s:o, s:O?, s:O?}", "name", p->spec.name, "status", status_of(p, &f),
                     "sync", f.sync, "rotation", f.rotation);
}

/* -- what changed --------------------------------------------------------------------------------
 */

static void
step_event(struct plugin *p, const struct facts *f)
{
    const json_t *steps = json_object_get(f->rotation, "last_steps");
    const json_t *last = json_array_get(steps, json_array_size(steps) - 1);
    char note[EVENT_NOTE_BYTES], root[700];

    root_text(json_object_get(f->rotation, "roots"), root, sizeof(root));
    (void)snprintf(note, sizeof(note), "generation %" PRIu64 ": %s: %s; roots %.600s",
                   f->generation, last == NULL ? "resumed" : text(last, "step"),
                   last == NULL ? "the plan was read" : text(last, "reason"), root);
    plugin_event(p, json_is_true(json_object_get(last, "forced")), "Rotated", note);
}

/* An Event for a text that is new; "" is silent. */
static void
told(struct plugin *p, char was[PROBLEM_BYTES], const char *is, bool is_warning, const char *reason)
{
    if (is == NULL)
        is = "";
    if (strncmp(was, is, PROBLEM_BYTES - 1) == 0)
        return;
    (void)snprintf(was, PROBLEM_BYTES, "%s", is);
    if (is[0] != '\0')
        plugin_event(p, is_warning, reason, is);
}

static void
events_tick(struct plugin *p, const struct facts *f)
{
    char reason[64];

    if (f->in_secrets != 0 && f->in_secrets == f->generation &&
        p->told_generation != f->generation) {
        if (p->told_generation != 0 ||
            json_array_size(json_object_get(f->rotation, "last_steps")) > 0)
            step_event(p, f);
        p->told_generation = f->generation;
    }
    if (p->problem.reason != NULL) {
        told(p, p->told_held, p->problem.message, true, p->problem.reason);
    } else {
        camel(f->held_reason == NULL ? "" : f->held_reason, reason, sizeof(reason));
        /* counts in the words change at each look: the reason tells whether it is news */
        char key[PROBLEM_BYTES];
        (void)snprintf(key, sizeof(key), "%s/%" PRIu64, reason, f->generation);
        bool is_new = f->held_reason != NULL && strcmp(key, p->told_held) != 0;
        (void)snprintf(p->told_held, sizeof(p->told_held), "%s", f->held_reason == NULL ? "" : key);
        if (is_new)
            plugin_event(p, true, "Held", f->held_detail);
    }
    told(p, p->told_sync, f->sync_error, true, "VaultRefused");
    told(p, p->told_lists, lists_error(f), true, "ListsRefused");
}

static void
on_status(const json_t *body, const struct err *why, void *arg)
{
    struct plugin *p = arg;

    p->status_call = NULL;
    if (why == NULL) {
        json_decref(p->status_there);
        p->status_there = json_deep_copy(json_object_get(body, "status"));
        p->status_at = kube_revision(kube_object_version(body));
        return;
    }
    json_decref(p->status); /* it is not there */
    p->status = NULL;
    p->status_retry_at = mono_ms() + STATUS_RETRY_MS;
    if (why->code != E_NOTFOUND)
        log_warn("operator", "the status of PluginCA %s/%s is not written: %s", p->spec.ns,
                 p->spec.name, why->msg);
}

static int
status_write(struct mesh_operator *op, const char *ns, const char *name, json_t *status,
             kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e)
{
    json_t *o = json_pack("{s:O}", "status", status);
    struct kube_write w = {
        .kind = &kube_plugin_ca, .ns = ns, .name = name, .sub = "status", .object = o
    };
    int r = o == NULL ? err_nomem(e) : kube_patch(op->conf.kube, &w, done, arg, ret, e);

    json_decref(o);
    return r;
}

/* What the resource says from before: since when the present set lies in the ConfigMaps, the newest
 * generation, the CA's replicas. */
static void
status_read(struct plugin *p, const json_t *o)
{
    const json_t *s = json_object_get(o, "status");
    const json_t *d = json_object_get(s, "distribution");
    const char *since = text(d, "since");
    json_int_t generation = json_integer_value(json_object_get(s, "generation"));
    struct err e;
    int64_t at;

    p->status_is_read = true;
    p->status = json_deep_copy(s);
    p->status_there = json_deep_copy(s);
    p->status_at = kube_revision(kube_object_version(o));
    p->replicas_told = json_deep_copy(json_object_get(s, "replicas"));
    p->force.last = json_deep_copy(json_object_get(s, "lastForce"));
    if (generation > 0 && (uint64_t)generation <= GENERATION_TOLD_MAX)
        p->floor = (uint64_t)generation;
    if (since == NULL || rfc3339_parse(span_str(since), &at, &e) < 0 || at > unix_s())
        return;
    p->dist = (struct distribution){
        .generation = (uint64_t)json_integer_value(json_object_get(d, "generation")),
        .settled = (uint64_t)json_integer_value(json_object_get(d, "settled")),
        .since = at,
    };
}

static void
on_recalled(const json_t *body, const struct err *why, void *arg)
{
    const json_t *o = json_array_get(json_object_get(body, "items"), 0);
    struct plugin *p = arg;

    p->recall_call = NULL;
    if (why != NULL)
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "ApiServer", why);
    else if (strcmp(kube_object_uid(o), p->spec.uid) == 0)
        status_read(p, o);
    /* else it is gone, which the watch tells */
    if (p->status_is_read)
        plugin_look_soon(p, 0);
}

bool
status_recall(struct plugin *p)
{
    CLEANUP(str_freep) char *all = NULL, *path = NULL;
    struct err e;

    if (p->status_is_read || p->recall_call != NULL || mono_ms() < p->retry_at)
        return p->status_is_read;
    if (kube_path(&kube_plugin_ca, p->spec.ns, NULL, NULL, &all, &e) < 0 ||
        str_format(&path, &e, "%s?fieldSelector=metadata.name%%3D%s", all, p->spec.name) < 0 ||
        kube_get(p->op->conf.kube, path, 0, on_recalled, p, &p->recall_call, &e) < 0)
        plugin_problem(p, "ApiServer", &e);
    return false;
}

/* Since our last write somebody wrote another one: a hand, a leader of before that did not know
 * yet, a backup. What a spec that is refused was told is not of these. */
static bool
is_overwritten(const struct plugin *p)
{
    const json_t *o = plugin_object(p);

    return kube_revision(kube_object_version(o)) > p->status_at && p->op->refused[0] == '\0' &&
           json_equal(json_object_get(o, "status"), p->status_there) != 1;
}

void
status_tick(struct plugin *p)
{
    CLEANUP(facts_done) struct facts f;
    struct err e;

    if (!facts_get(p, &f))
        return; /* the next tick says it */
    events_tick(p, &f);
    if (p->status_call != NULL || p->force.call != NULL || mono_ms() < p->status_retry_at ||
        plugin_object(p) == NULL)
        return;
    json_t *s = status_of(p, &f);
    bool is_another = is_overwritten(p);
    if (s == NULL || (json_equal(s, p->status) == 1 && !is_another)) {
        json_decref(s);
        return;
    }
    if (is_another)
        p->status_retry_at = mono_ms() + STATUS_RETRY_MS; /* no faster war */
    json_decref(p->status);
    p->status = s;
    if (status_write(p->op, p->spec.ns, p->spec.name, s, on_status, p, &p->status_call, &e) < 0)
        on_status(NULL, &e, p);
}

void
status_refuse(struct mesh_operator *op, const json_t *object, const char *reason,
              const char *message)
{
    const json_t *before = json_object_get(object, "status"), *was = condition_of(before, "Held");
    const char *said = text(was, "message");
    struct err e;

    if (said != NULL && strcmp(said, message) == 0)
        return;
    json_t *conditions = json_array();
    json_int_t revision =
        json_integer_value(json_object_get(json_object_get(object, "metadata"), "generation"));
    condition_add(&conditions, before, revision, "Held", true, reason, message);
    const char *keep[] = { "Synced", "Loaded", "Distributed" };
    for (size_t i = 0; i < ARRAY_LEN(keep); i++)
        if (condition_of(before, keep[i]) != NULL)
            conditions = json_array_with(
                conditions, json_incref((json_t *)(uintptr_t)condition_of(before, keep[i])));
    json_t *s = json_pack("{s:I, s:s, s:o}", "observedGeneration", revision, "phase", "Held",
                          "conditions", conditions);
    if (s == NULL || status_write(op, kube_object_ns(object), kube_object_name(object), s,
                                  on_refusal_written, NULL, NULL, &e) < 0)
        log_debug("operator", "a status is not written");
    json_decref(s);
}
