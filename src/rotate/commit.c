/* commit.c - the plan in force, and the store that it is in first. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "obs/log.h"
#include "rotate/driver.h"

static void
plan_adopt(struct rotate *r, const struct plan *p, struct roots *take_roots, uint64_t revision)
{
    r->has_plan = true;
    r->plan = *p;
    roots_unref(r->roots);
    r->roots = take_roots;
    r->revision = revision;
}

int
rotate_plan_load(struct rotate *r, struct err *e)
{
    struct buf text = BUF_INIT(PLAN_JSON_BYTES);
    struct plan p;
    struct roots *roots = NULL;
    uint64_t revision = 0;

    int done = r->conf.plans.load(r->conf.plans.self, &text, &revision, e);
    if (done == 0) {
        done = plan_from_json(buf_span(&text), &p, &roots, e);
        if (done < 0)
            (void)err_wrap(e, "rotate/plan");
        else
            plan_adopt(r, &p, roots, revision);
        r->is_seen = false;
    } else if (done == ROTATE_ABSENT) {
        r->has_plan = false;
        r->revision = 0;
        done = 0;
    }
    buf_done(&text);
    return done;
}

static void
commit_free(struct commit *c)
{
    roots_unref(c->roots);
    bundle_unref(c->signer);
    crls_unref(c->lists);
    free(c);
}

/* "CN=Root A + CN=Root B"; what does not fit is left out of a log line. */
static void
roots_text(const struct roots *roots, struct buf *b)
{
    char subject[NAME_TEXT_BYTES];
    struct err e;

    for (size_t i = 0; i < roots_count(roots); i++) {
        cert_subject_text(roots_at(roots, i), subject);
        if (buf_addf(b, &e, "%s%s", i == 0 ? "" : " + ", subject) < 0)
            return;
    }
}

static void
remember(struct rotate *r, const struct action *a)
{
    struct buf roots = BUF_INIT(ROOTS_TEXT_BYTES);
    char generation[24];

    r->past[r->past_n++ % HISTORY_N] =
        (struct past){ .action = *a, .generation = r->plan.generation, .at = unix_s() };
    (void)snprintf(generation, sizeof(generation), "%" PRIu64, r->plan.generation);
    roots_text(r->roots, &roots);
    log_with(a->forced ? LOG_WARN : LOG_INFO, "rotate",
             LABELS({ "generation", generation }, { "class", a->class },
                    { "roots", buf_text(&roots) }, { "forced", a->forced ? "true" : NULL }),
             "%s: %s", a->step, a->why);
    buf_done(&roots);
    rotate_metrics_step(r, a);
}

static void
committed(const struct err *e, uint64_t revision, void *arg)
{
    struct commit *c = arg;
    struct rotate *r = c->r;
    struct err why;

    if (r == NULL) {
        commit_free(c);
        return;
    }
    r->commit = NULL;
    if (c->action.forced)
        r->forced = *e;
    if (e->code == E_NONE) {
        plan_adopt(r, &c->next, STEAL(c->roots), revision);
        bundle_unref(r->signer);
        r->signer = STEAL(c->signer);
        rotate_lists_committed(r, c);
        rotate_trouble_over(r);
        remember(r, &c->action);
        target_bring_up(r, true);
    } else {
        rotate_trouble(r, TROUBLE_STORE, e);
        /* Somebody else drives this plan too: theirs is in force. */
        if (e->code == E_CONFLICT && rotate_plan_load(r, &why) < 0)
            rotate_trouble(r, TROUBLE_STORE, &why);
        r->target_look_at = 0;
    }
    commit_free(c);
    rotate_metrics(r);
    rotate_look_soon(r, r->trouble == TROUBLE_NONE ? 0 : r->retry_ms);
}

int
rotate_plan_put(struct rotate *r, const struct plan *next, struct roots *roots,
                struct bundle *signer, const struct action *a, struct err *e)
{
    CLEANUP(str_freep) char *text = NULL;

    TRY(plan_to_json(next, roots, &text, e));
    struct commit *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return err_nomem(e);
    *c = (struct commit){ .r = r,
                          .next = *next,
                          .roots = roots_ref(roots),
                          .signer = signer == NULL ? NULL : bundle_ref(signer),
                          .action = *a };
    int done = r->conf.plans.save(r->conf.plans.self, span_str(text), r->revision, r->loop,
                                  committed, c, e);
    if (done < 0) {
        commit_free(c);
        return done;
    }
    r->commit = c;
    return 0;
}
