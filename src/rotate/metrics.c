#include <inttypes.h>
#include <stdio.h>

#include "obs/log.h"
#include "rotate/driver.h"

static const struct metric_desc generation = { "meshroot_rotate_generation",
                                               "Generation of the rotation plan in force.",
                                               METRIC_GAUGE };
static const struct metric_desc held = { "meshroot_rotate_held",
                                         "1 for what holds the next rotation step, by reason.",
                                         METRIC_GAUGE };
static const struct metric_desc waiting = { "meshroot_rotate_waiting_workloads",
                                            "Workloads that the held rotation step waits for.",
                                            METRIC_GAUGE };
static const struct metric_desc taken = {
    "meshroot_rotate_steps_total", "Rotation steps taken, by kind; forced ones by themselves.",
    METRIC_COUNTER
};

static void
held_set(const struct rotate *r, const char *reason)
{
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "reason=\"%s\"", reason);
    metric_set(r->conf.metrics, &held, labels, 1);
}

void
rotate_metrics(const struct rotate *r)
{
    struct metrics *m = r->conf.metrics;
    bool is_held = r->step.kind == STEP_HELD;

    metric_set(m, &generation, "", (double)rotate_generation(r));
    metric_set(m, &waiting, "", is_held ? (double)r->step.workloads_waiting : 0);
    metric_clear(m, &held);
    if (is_held)
        held_set(r, plan_hold_name(r->step.hold));
    if (r->trouble != TROUBLE_NONE)
        held_set(r, trouble_names[r->trouble]);
}

void
rotate_metrics_step(const struct rotate *r, const struct action *a)
{
    char labels[METRIC_LABELS_BYTES];

    (void)snprintf(labels, sizeof(labels), "step=\"%s\",forced=\"%s\"", a->step,
                   a->forced ? "true" : "false");
    metric_add(r->conf.metrics, &taken, labels, 1);
}

/* Once for each reason of each generation, not at each look. */
void
rotate_log_held(struct rotate *r)
{
    enum { NAMED = 3 };
    struct buf who = BUF_INIT((size_t)NAMED * sizeof(struct plan_wait));
    const struct plan_step *st = &r->step;
    char text[24];
    struct err e;

    if (r->held_generation == r->plan.generation && r->held_told == st->hold &&
        r->held_gated == st->gated)
        return;
    r->held_generation = r->plan.generation;
    r->held_told = st->hold;
    r->held_gated = st->gated;
    for (size_t i = 0; i < st->waits_n && i < NAMED; i++)
        if (buf_addf(&who, &e, "%s%s (%s)", i == 0 ? "; waits for " : ", ", st->waits[i].identity,
                     st->waits[i].why) < 0)
            break; /* the names are a help; the reason is in detail */
    (void)snprintf(text, sizeof(text), "%" PRIu64, r->plan.generation);
    bool for_a_person = st->hold == HOLD_REPLACEMENT || st->hold == HOLD_ROOTS_MAX;
    log_with(for_a_person ? LOG_WARN : LOG_INFO, "rotate",
             LABELS({ "generation", text }, { "reason", plan_hold_name(st->hold) }),
             "%s is held: %s%s%s", plan_step_name(st->gated), st->detail, buf_text(&who),
             st->waits_total > NAMED ? ", and more" : "");
    buf_done(&who);
}
