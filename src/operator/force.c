/* force.c - a held step that a person forces: the annotation PLUGIN_FORCE of the PluginCA.
 *
 * Its value is the word of one step, as status.held has it. Rotation compares it with what is held
 * at that moment, so a word that was used, or is of another wish of the vault's, forces nothing,
 * however often it is put there. A kill at any moment is harmless for the same reason: the word is
 * good until its step is in the plan, and never after. What came of it is said in an Event and in
 * status.lastForce, and then the annotation goes: who does not see it any more finds the answer.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "obs/log.h"
#include "operator/room.h"

enum {
    FORCE_WAIT_MS = 30 * 1000, /* for evidence after a start, and for a step that is under way */
    FORCE_AGAIN_MS = 5 * 1000,
    FORCE_NAMED = 3, /* of those at risk, in the Event */
};

static const struct metric_desc answers_total = {
    "meshroot_operator_force_total",
    "Steps that a PluginCA's annotation asked to force, by answer.", METRIC_COUNTER
};

static void
answer(struct plugin *p, bool is_forced, const char *note)
{
    struct force *f = &p->force;
    char at[RFC3339_BYTES];

    rfc3339_s(unix_s(), at);
    json_decref(f->last);
    f->last = json_pack("{s:s, s:s, s:s, s:s, s:s}", "force", f->word, "answer",
                        is_forced ? "Forced" : "ForceRefused", "message", note, "time", at,
                        "resourceVersion", f->revision);
    f->is_taken = false;
    f->is_answered = true;
    metric_add(p->op->conf.metrics, &answers_total,
               is_forced ? "answer=\"forced\"" : "answer=\"refused\"", 1);
    plugin_event(p, true, is_forced ? "Forced" : "ForceRefused", note);
}

static void
refuse(struct plugin *p, const char *why)
{
    char note[EVENT_NOTE_BYTES];

    (void)snprintf(note, sizeof(note), "%s is not forced: %.800s", p->force.word, why);
    answer(p, false, note);
}

/* "2/move-signer/...: move signer is forced past its gate; 2 were not ready: ..." */
static void
risk_note(struct force *f, const json_t *risk)
{
    const json_t *w, *at_risk = json_object_get(risk, "at_risk");
    json_int_t total = json_integer_value(json_object_get(risk, "at_risk_total"));
    char *to = f->note;
    size_t cap = sizeof(f->note), i;
    int n = snprintf(to, cap, "%s: %s is taken without its gate; %lld were not ready", f->word,
                     json_string_value(json_object_get(risk, "step")), (long long)total);

    json_array_foreach(at_risk, i, w) {
        if (i == FORCE_NAMED || n < 0 || (size_t)n >= cap)
            break;
        to += n;
        cap -= (size_t)n;
        n = snprintf(to, cap, "%s%.180s (%.100s)", i == 0 ? ": " : ", ",
                     json_string_value(json_object_get(w, "identity")),
                     json_string_value(json_object_get(w, "why")));
    }
    if (total > FORCE_NAMED && n >= 0 && (size_t)n < cap)
        (void)snprintf(to + n, cap - (size_t)n, ", and more");
}

/* r: whether it waits: the plan, the vault or the evidence is not known yet, as after a start. */
static bool
waits(const struct plugin *p, const struct err *why)
{
    bool is_early = why != NULL ? why->code == E_BUSY : p->rotate == NULL || !evidence_is_told(p);

    return is_early && mono_ms() - p->force.since_ms < FORCE_WAIT_MS;
}

/* The last answer was to this very word. */
static bool
was_answered(const struct force *f)
{
    const char *word = json_string_value(json_object_get(f->last, "force"));

    return word != NULL && strcmp(word, f->word) == 0;
}

static bool
was_forced(const struct force *f)
{
    const char *said = json_string_value(json_object_get(f->last, "answer"));
    const char *at = json_string_value(json_object_get(f->last, "time"));

    return was_answered(f) && said != NULL && at != NULL && strcmp(said, "Forced") == 0;
}

/* Whoever led before us was killed after the step was in the plan: it was forced, once, and that is
 * the answer; or after that was told, and then the annotation is to go and no more. */
static bool
was_left(struct plugin *p)
{
    struct force *f = &p->force;
    char note[EVENT_NOTE_BYTES];

    if (f->was_none)
        return false;
    if (was_forced(f)) {
        f->is_answered = true;
        return true;
    }
    if (was_answered(f) || p->rotate == NULL || !rotate_was_forced(p->rotate, f->word))
        return false;
    (void)snprintf(note, sizeof(note),
                   "%s: the step was taken without its gate, by an operator that was stopped then",
                   f->word);
    answer(p, true, note);
    return true;
}

static void
judge(struct plugin *p)
{
    struct force *f = &p->force;
    json_t *risk = NULL;
    struct err e;

    if (was_left(p))
        return;
    if (was_forced(f)) { /* put there again */
        (void)err_set(&e, E_STATE, "it was forced already, at %s",
                      json_string_value(json_object_get(f->last, "time")));
        refuse(p, e.msg);
        return;
    }
    if (waits(p, NULL))
        return;
    if (p->rotate == NULL) {
        refuse(p, p->problem.reason != NULL ? p->problem.message : "the vault is not open yet");
        return;
    }
    if (rotate_force(p->rotate, f->word, &risk, &e) < 0) {
        if (!waits(p, &e))
            refuse(p, e.msg);
        return;
    }
    risk_note(f, risk);
    json_decref(risk);
    f->is_taken = true;
}

/* The step is in the plan, or did not get there. */
static void
taken_look(struct plugin *p)
{
    struct err e;
    int done = p->rotate == NULL ? err_set(&e, E_STATE, "the PluginCA is being deleted")
                                 : rotate_forced(p->rotate, &e);

    if (done < 0)
        refuse(p, e.msg);
    else if (done == 0)
        answer(p, true, p->force.note);
}

static void
on_removed(const json_t *body, const struct err *why, void *arg)
{
    struct plugin *p = arg;
    struct force *f = &p->force;

    f->call = NULL;
    if (why == NULL) {
        f->gone = kube_revision(kube_object_version(body));
        f->was_none = true;
        f->word[0] = '\0';
        return;
    }
    if (why->code == E_CONFLICT || why->code == E_NOTFOUND)
        return; /* the watch tells how it is now */
    log_warn("operator", "annotation " PLUGIN_FORCE " of PluginCA %s/%s is not taken away: %s",
             p->spec.ns, p->spec.name, why->msg);
    f->again_at = mono_ms() + FORCE_AGAIN_MS;
}

/* Over the version that was read: a word that was put there meanwhile stays. */
static void
annotation_remove(struct plugin *p, const json_t *o)
{
    struct force *f = &p->force;
    struct err e;

    json_t *patch = json_pack("{s:{s:s, s:{s:n}}}", "metadata", "resourceVersion",
                              kube_object_version(o), "annotations", PLUGIN_FORCE);
    struct kube_write w = {
        .kind = &kube_plugin_ca, .ns = p->spec.ns, .name = p->spec.name, .object = patch
    };
    int done = patch == NULL ? err_nomem(&e)
                             : kube_patch(p->op->conf.kube, &w, on_removed, p, &f->call, &e);
    if (done < 0)
        on_removed(NULL, &e, p);
    json_decref(patch);
}

/* What is no word of ours is shown as none. */
static void
word_take(struct force *f, const char *asked)
{
    char word[ROTATE_WORD_BYTES] = "what is no word of a step";

    if (strlen(asked) < sizeof(word) &&
        strspn(asked, "abcdefghijklmnopqrstuvwxyz0123456789/-") == strlen(asked))
        memcpy(word, asked, strlen(asked) + 1);
    if (strcmp(word, f->word) == 0)
        return;
    memcpy(f->word, word, sizeof(word));
    f->since_ms = mono_ms();
    f->is_answered = false;
}

void
force_tick(struct plugin *p)
{
    struct force *f = &p->force;
    const json_t *o = plugin_object(p);

    if (f->is_taken)
        taken_look(p);
    if (f->is_taken || f->call != NULL || o == NULL ||
        kube_revision(kube_object_version(o)) < f->gone)
        return;
    const char *asked = kube_object_get_annotation(o, PLUGIN_FORCE);
    if (asked[0] == '\0') {
        f->was_none = true;
        f->word[0] = '\0';
        return;
    }
    word_take(f, asked);
    (void)snprintf(f->revision, sizeof(f->revision), "%s", kube_object_version(o));
    if (!f->is_answered)
        judge(p);
    bool is_told = p->status_call == NULL &&
                   (f->last == NULL || /* no memory for it */
                    json_equal(json_object_get(p->status, "lastForce"), f->last) == 1);
    if (f->is_answered && is_told && mono_ms() >= f->again_at)
        annotation_remove(p, o);
}

void
force_end(struct plugin *p)
{
    kube_cancel(p->force.call);
    p->force.call = NULL;
    json_decref(p->force.last);
    p->force.last = NULL;
}
