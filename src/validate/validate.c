#include "validate/validate.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"
#include "validate/rollout.h"

void
validate_result_done(struct validate_result *r)
{
    json_decref(STEAL(r->report));
}

/* -- the report ----------------------------------------------------------------------------------
 */

static json_t *
set_json(const struct validate_set *s)
{
    json_t *all = json_array();

    for (size_t i = 0; i < s->n; i++)
        all = json_array_with(all, json_id(s->ids[i]));
    return all;
}

static json_t *
pods_json(const struct validate_facts *f)
{
    json_t *all = json_array();

    for (size_t i = 0; i < f->pods_n; i++) {
        const struct validate_pod *p = &f->pods[i];
        char since[RFC3339_BYTES];

        rfc3339_s(p->since, since);
        all = json_array_with(
            all, p->is_seen
                     ? json_pack("{s:s, s:b, s:o, s:s, s:b}", "name", p->name, "seen", 1, "root",
                                 json_id(p->root_id), "since", since, "stale",
                                 p->lacks_root || p->has_other)
                     : json_pack("{s:s, s:b, s:s}", "name", p->name, "seen", 0, "why", p->why));
    }
    return all;
}

static int
report_make(const struct session *s, const struct sight *t, const struct validate_verdict *v,
            json_t **ret, struct err *e)
{
    const struct validate_facts *f = &t->facts;

    *ret = json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:{s:s, s:b}, s:{s:o, s:o, s:o, s:b}, s:o}",
                     "namespace", s->conf->ns, "deployment", s->conf->deployment, "verdict",
                     validate_kind_name(v->kind), "why", v->why, "unsafe", v->is_unsafe, "dry_run",
                     s->conf->is_dry_run, "istiod", "version", t->istiod.version, "multiroot",
                     t->istiod.is_multiroot, "roots", "secret", set_json(&f->wanted), "config_map",
                     set_json(&f->loaded), "signer", json_id(f->signer_root), "same_text",
                     f->is_same_text, "pods", pods_json(f));
    return *ret == NULL ? err_nomem(e) : 0;
}

/* -- what is done --------------------------------------------------------------------------------
 */

struct run {
    struct session *s;
    struct sight *t;
    struct validate_verdict verdict;
    struct validate_result *result;
};

typedef int act_fn(struct run *r, struct err *e);

static int
do_nothing(struct run *r, struct err *e)
{
    (void)e;
    session_say(r->s, "Root certificate update not detected.");
    return 0;
}

static int
do_wait(struct run *r, struct err *e)
{
    (void)e;
    session_say(r->s, "Root certificate update detected: %s.", r->verdict.why);
    return 0;
}

static int
do_refuse(struct run *r, struct err *e)
{
    (void)e;
    (void)err_set(&r->result->why, E_STATE, "no restart: %s", r->verdict.why);
    if (r->verdict.kind == VALIDATE_HELD)
        session_event(r->s, r->t->deployment, true, "RootRestartHeld", r->verdict.why);
    return 0;
}

static int
do_resume(struct run *r, struct err *e)
{
    if (r->s->conf->is_dry_run)
        return do_wait(r, e);
    if (TRY(rollout_end(r->s, r->t, &r->result->why, e)) == ROLLOUT_BAD) {
        err_wrap_at(&r->result->why, "Deployment %s was restarted, and that failed",
                    r->s->conf->deployment);
        return 0;
    }
    session_say(r->s, "Deployment %s restarted.", r->s->conf->deployment);
    return 0;
}

static int
do_restart(struct run *r, struct err *e)
{
    const char *name = r->s->conf->deployment;

    if (r->verdict.is_unsafe)
        session_say(r->s, "Forced, at a risk: %s.", r->verdict.why);
    TRY(rollout_begin(r->s, r->t, e));
    session_say(r->s, "Root certificate update detected. Restarting deployment...");
    session_say(r->s, "deployment.apps/%s restarted%s", name,
                r->s->conf->is_dry_run ? " (server dry run)" : "");
    return r->s->conf->is_dry_run ? 0 : do_resume(r, e);
}

static act_fn *const acts[VALIDATE__N] = {
    [VALIDATE_NOTHING] = do_nothing, [VALIDATE_WAIT] = do_wait,   [VALIDATE_RESTART] = do_restart,
    [VALIDATE_RESUME] = do_resume,   [VALIDATE_HELD] = do_refuse, [VALIDATE_BLOCKED] = do_refuse,
};

static int
look(struct session *s, struct sight *t, struct validate_verdict *ret, struct err *e)
{
    TRY(sight_take(s, t, e));
    validate_decide(&t->facts, ret);
    if (ret->kind != VALIDATE_HELD || !s->conf->looks_at_workloads)
        return 0;
    TRY(sight_take_workloads(s, t, e));
    validate_decide(&t->facts, ret);
    return 0;
}

/* A try whose validator died before the Secret changed. A new restart writes over it. */
static bool
left_behind(const struct run *r)
{
    return r->t->memory.tried == TRIED_OPEN && r->t->facts.tried == TRIED_NONE &&
           r->verdict.kind != VALIDATE_RESTART && !r->s->conf->is_dry_run;
}

static int
run_once(struct session *s, struct validate_result *ret, struct err *e)
{
    CLEANUP(sight_done) struct sight t = { .deployment = NULL };
    struct run r = { .s = s, .t = &t, .result = ret };

    TRY(look(s, &t, &r.verdict, e));
    if (left_behind(&r))
        TRY(rollout_forget(s, &t, e));
    TRY(acts[r.verdict.kind](&r, e));
    return report_make(s, &t, &r.verdict, &ret->report, e);
}

int
validate_run(const struct validate_conf *conf, struct validate_result *ret, struct err *e)
{
    CLEANUP(session_close) struct session s = { .conf = conf };
    struct validate_result result = { .report = NULL };
    int r = 0;

    TRY(session_open(conf, &s, e));
    for (size_t i = 0; i < VALIDATE_RACES_MAX; i++) {
        result.why.code = E_NONE;
        r = run_once(&s, &result, e);
        if (r != -(int)E_CONFLICT)
            break; /* somebody else changed Deployment or Secret: look and judge again */
        kube_session_pause(&s.kube, random_below(VALIDATE_POLL_MS));
    }
    if (r == 0)
        *ret = result;
    return r;
}
