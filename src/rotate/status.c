#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "rotate/driver.h"

static json_t *
subject_json(const struct cert *c)
{
    char text[NAME_TEXT_BYTES];

    if (c == NULL)
        return json_null();
    cert_subject_text(c, text);
    return json_string(text);
}

json_t *
waits_to_json(const struct plan_step *st)
{
    json_t *list = json_array();

    for (size_t i = 0; i < st->waits_n; i++) {
        const struct plan_wait *w = &st->waits[i];
        if (json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:o}", "identity", w->identity,
                                                  "instance", w->instance, "why", w->why, "until",
                                                  json_time(w->until))) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* "2/move-signer/90ab12cd34ef5678". Generation and kind alone do not tell it from every other: the
 * vault may have turned to another set since somebody looked. So the end is of where it goes. */
void
rotate_word(const struct rotate *r, char ret[ROTATE_WORD_BYTES])
{
    enum { SHOWN_BYTES = 8 };
    const struct plan *to = &r->step.next;
    uint8_t ids[3 + ROOTS_MAX][DIGEST_BYTES], sum[DIGEST_BYTES];
    char hex[2 * SHOWN_BYTES + 1];
    size_t n = 0;

    ret[0] = '\0';
    if (r->trouble != TROUBLE_NONE || r->step.kind != STEP_HELD || r->step.hold == HOLD_ROOTS_MAX ||
        to->generation != r->plan.generation + 1)
        return; /* the last: it was looked at before the plan moved on */
    memcpy(ids[n++], to->signer.id, DIGEST_BYTES);
    memcpy(ids[n++], to->signer.root_id, DIGEST_BYTES);
    memcpy(ids[n++], to->signer.chain_id, DIGEST_BYTES);
    for (size_t i = 0; i < to->roots_n; i++)
        memcpy(ids[n++], to->roots[i].id, DIGEST_BYTES);
    digest(span_of(ids, n * DIGEST_BYTES), sum);
    hex_text(span_of(sum, SHOWN_BYTES), hex);
    (void)snprintf(ret, ROTATE_WORD_BYTES, "%" PRIu64 "/%s/%s", r->plan.generation,
                   plan_step_name(r->step.gated), hex);
    for (char *at = strchr(ret, ' '); at != NULL; at = strchr(at, ' '))
        *at = '-';
}

static json_t *
held_json(const struct rotate *r)
{
    const struct plan_step *st = &r->step;
    char word[ROTATE_WORD_BYTES];

    if (r->trouble != TROUBLE_NONE)
        return json_pack("{s:s, s:s, s:s, s:n, s:[], s:i, s:i}", "reason",
                         trouble_names[r->trouble], "detail", r->trouble_why.msg, "gated",
                         plan_step_name(STEP_NONE), "force", "waits_for", "waits_for_total", 0,
                         "workloads_waiting", 0);
    if (st->kind != STEP_HELD)
        return json_null();
    rotate_word(r, word);
    return json_pack("{s:s, s:s, s:s, s:s?, s:o, s:I, s:I}", "reason", plan_hold_name(st->hold),
                     "detail", st->detail, "gated", plan_step_name(st->gated), "force",
                     word[0] == '\0' ? NULL : word, "waits_for", waits_to_json(st),
                     "waits_for_total", (json_int_t)st->waits_total, "workloads_waiting",
                     (json_int_t)st->workloads_waiting);
}

static json_t *
versions_json(const struct sync_versions *v)
{
    json_t *j = json_object();

    for (size_t i = 0; i < PART__N; i++)
        if (json_object_set_new(j, bundle_secret_names[i], json_string(v->v[i])) < 0) {
            json_decref(j);
            return NULL;
        }
    return j;
}

/* `subject` is not in the plan: the bundle that has it may be gone from memory. */
static json_t *
signer_json(const struct plan_signer *s, const char *subject)
{
    return json_pack("{s:s?, s:o, s:o, s:o}", "subject", subject, "id", json_id(s->id), "root_id",
                     json_id(s->root_id), "versions", versions_json(&s->versions));
}

static json_t *
roots_json(const struct plan *p, const struct roots *certs)
{
    json_t *list = json_array();

    for (size_t i = 0; i < p->roots_n; i++) {
        const struct cert *c = plan_roots_find(certs, p->roots[i].id);
        if (json_array_append_new(
                list, json_pack("{s:o, s:o, s:I, s:o}", "subject", subject_json(c), "id",
                                json_id(p->roots[i].id), "since", (json_int_t)p->roots[i].since,
                                "not_after", json_time(c == NULL ? 0 : cert_not_after(c)))) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static json_t *
wanted_json(const struct rotate *r)
{
    char subject[NAME_TEXT_BYTES];

    if (r->want == NULL)
        return json_null();
    json_t *roots = json_array();
    for (size_t i = 0; i < roots_count(bundle_roots(r->want)); i++) {
        const struct cert *c = roots_at(bundle_roots(r->want), i);
        if (json_array_append_new(roots, json_pack("{s:o, s:o, s:o}", "subject", subject_json(c),
                                                   "id", json_id(cert_id(c)), "not_after",
                                                   json_time(cert_not_after(c)))) < 0) {
            json_decref(roots);
            return NULL;
        }
    }
    cert_subject_text(bundle_signer(r->want), subject);
    return json_pack("{s:o, s:o, s:o}", "roots", roots, "signer",
                     signer_json(&r->wanted.signer, subject), "since", json_time(r->want_at));
}

static json_t *
replicas_json(const struct rotate *r)
{
    json_t *list = json_array();

    for (size_t i = 0; i < r->replicas_n; i++)
        if (json_array_append_new(
                list, json_pack("{s:s, s:I, s:o}", "name", r->replicas[i].name, "generation",
                                (json_int_t)r->replicas[i].loaded.generation, "signer_id",
                                json_id(r->replicas[i].loaded.signer_id))) < 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

static json_t *
past_json(const struct rotate *r)
{
    json_t *list = json_array();
    size_t first = r->past_n > HISTORY_N ? r->past_n - HISTORY_N : 0;

    for (size_t i = first; i < r->past_n; i++) {
        const struct past *p = &r->past[i % HISTORY_N];
        if (json_array_append_new(list, json_pack("{s:o, s:I, s:s, s:s, s:s, s:b}", "time",
                                                  json_time(p->at), "generation",
                                                  (json_int_t)p->generation, "step", p->action.step,
                                                  "class", p->action.class, "reason", p->action.why,
                                                  "forced", (int)p->action.forced)) < 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

static bool
is_settled(const struct rotate *r)
{
    return r->has_plan && !r->lagging && !rotate_lists_are_pending(r) && r->commit == NULL &&
           r->trouble == TROUBLE_NONE &&
           (r->want == NULL || plan_classify(&r->plan, &r->wanted) == CLASS_NONE);
}

json_t *
rotate_status(const struct rotate *r)
{
    enum plan_class remaining =
        r->has_plan && r->want != NULL ? plan_classify(&r->plan, &r->wanted) : CLASS_NONE;
    const char *subject = r->has_plan && r->signer_subject[0] != '\0' ? r->signer_subject : NULL;

    return json_pack("{s:I, s:s, s:s, s:s, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "generation",
                     (json_int_t)rotate_generation(r), "class",
                     plan_class_name(remaining == CLASS_NONE ? CLASS_NONE : r->want_class),
                     "remaining", plan_class_name(remaining), "step",
                     r->commit != NULL ? r->commit->action.step : plan_step_name(r->step.kind),
                     "settled", (int)is_settled(r), "held", held_json(r), "roots",
                     r->has_plan ? roots_json(&r->plan, r->roots) : json_array(), "signer",
                     r->has_plan ? signer_json(&r->plan.signer, subject) : json_null(), "wanted",
                     wanted_json(r), "replicas", replicas_json(r), "lists", rotate_lists_json(r),
                     "last_steps", past_json(r));
}
