/* lease.c - the requests of an election; who may do what when is judged in lease_rules.c. */
#include "kube/lease.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "obs/log.h"

enum { RELEASE_MS = 2 * 1000, RELEASE_TRIES = 3 };

static const struct metric_desc held_gauge = {
    "meshroot_kube_lease_held",
    "1 while this process is the leader, by lease.",
    METRIC_GAUGE,
};
static const struct metric_desc changes_total = {
    "meshroot_kube_lease_changes_total",
    "How often leadership was gained or lost, by lease.",
    METRIC_COUNTER,
};

struct kube_lease {
    struct loop *loop;
    struct kube_client *client;
    struct kube_lease_conf conf;
    char *ns, *name, *who, *path; /* owned */
    struct kube_lease_view view;
    json_t *object;                   /* as it was last read or written; owned */
    struct kube_lease_record written; /* under way */
    uint64_t sent_ms;
    struct kube_call *call;       /* under way */
    struct timer *next, *give_up; /* give_up: when it is not held any more, or release is over */
    bool is_leading;              /* between gained and lost */
    bool was_refused;             /* a write was, in this round: read once more, then wait */
    loop_fn *released;            /* release */
    void *released_arg;
    unsigned tries;
    char trouble[ERR_MSG_BYTES];
};

static void read_again(struct kube_lease *l);

/* -- gained, lost -------------------------------------------------------------------------------
 */

static void
lead_set(struct kube_lease *l, bool is_leading)
{
    char labels[2 * KUBE_LEASE_HOLDER_BYTES];

    l->is_leading = is_leading;
    (void)snprintf(labels, sizeof(labels), "lease=\"%s/%s\"", l->ns, l->name);
    metric_set(l->conf.metrics, &held_gauge, labels, is_leading ? 1 : 0);
    metric_add(l->conf.metrics, &changes_total, labels, 1);
}

static void
lose(struct kube_lease *l, const struct err *why)
{
    if (!l->is_leading)
        return;
    timer_stop(l->give_up);
    lead_set(l, false);
    log_warn("kube", "lease %s/%s: not the leader any more: %s", l->ns, l->name, why->msg);
    l->conf.lost(why, l->conf.arg);
}

static void
lose_to_other(struct kube_lease *l)
{
    struct err e;

    (void)err_set(&e, E_CONFLICT, "\"%.200s\" has it", l->view.seen.holder);
    lose(l, &e);
}

static void
win(struct kube_lease *l)
{
    uint64_t now = mono_ms();

    timer_set(l->give_up, l->view.held_until_ms > now ? l->view.held_until_ms - now : 0);
    if (l->is_leading)
        return;
    lead_set(l, true);
    log_info("kube", "lease %s/%s: this is the leader, as %s", l->ns, l->name, l->who);
    l->conf.gained(l->conf.arg);
}

static void
on_give_up(void *arg)
{
    struct kube_lease *l = arg;
    struct err e;

    if (l->released != NULL) { /* it stays until its time is over */
        kube_cancel(STEAL(l->call));
        STEAL(l->released)(l->released_arg);
        return;
    }
    l->view.is_mine = false;
    (void)err_set(&e, E_TIMEOUT, "not renewed in time%s%.300s", l->trouble[0] == '\0' ? "" : ": ",
                  l->trouble);
    lose(l, &e);
}

/* -- rounds -------------------------------------------------------------------------------------
 */

static void
wait_next(struct kube_lease *l)
{
    uint64_t ms = l->conf.retry_ms;

    l->was_refused = false;
    timer_set(l->next, l->view.is_mine ? ms : ms + random_below(ms + ms / 5));
}

static void
failed(struct kube_lease *l, const struct err *why)
{
    if (strcmp(l->trouble, why->msg) != 0)
        log_warn("kube", "lease %s/%s: %s", l->ns, l->name, why->msg);
    (void)snprintf(l->trouble, sizeof(l->trouble), "%s", why->msg);
    if (l->released != NULL)
        timer_set(l->give_up, 0);
    else
        wait_next(l);
}

/* A request that hangs is given up in time for another. */
static uint64_t
deadline_ms(const struct kube_lease *l)
{
    return l->released != NULL ? RELEASE_MS : l->conf.renew_ms / 2;
}

static void
keep(struct kube_lease *l, const json_t *object)
{
    json_t *copy = json_deep_copy(object);

    json_object_del(json_object_get(copy, "metadata"), "managedFields");
    json_decref(l->object);
    l->object = copy;
}

static void
on_written(const json_t *body, const struct err *why, void *arg)
{
    struct kube_lease *l = arg;

    l->call = NULL;
    if (body == NULL) {
        bool is_changed =
            why->code == E_CONFLICT || why->code == E_EXISTS || why->code == E_NOTFOUND;

        if (is_changed && !l->was_refused) {
            l->was_refused = true;
            read_again(l);
        } else
            failed(l, why);
        return;
    }
    l->trouble[0] = '\0';
    keep(l, body);
    if (l->released != NULL) {
        timer_set(l->give_up, 0);
        return;
    }
    kube_lease_confirm(&l->view, &l->written, l->sent_ms);
    if (kube_lease_holds(&l->view, mono_ms()))
        win(l);
    wait_next(l);
}

/* -- writing ------------------------------------------------------------------------------------
 */

static int
spec_set(json_t *o, const struct kube_lease_record *r, struct err *e)
{
    json_t *spec = json_object_get(o, "spec");

    if (!json_is_object(spec)) {
        spec = json_object();
        if (json_object_set_new(o, "spec", spec) != 0)
            return err_nomem(e);
    }
    json_t *news =
        json_pack("{s:s, s:I, s:s, s:s, s:I}", "holderIdentity", r->holder, "leaseDurationSeconds",
                  (json_int_t)(r->duration_ms / 1000), "acquireTime", r->acquired, "renewTime",
                  r->renewed, "leaseTransitions", (json_int_t)r->transitions);
    int is_bad = news == NULL || json_object_update(spec, news) != 0;
    json_decref(news);
    return is_bad ? err_nomem(e) : 0;
}

/* The record as it will be: ours, or free. */
static struct kube_lease_record
record_next(const struct kube_lease *l)
{
    struct kube_lease_record r = { .duration_ms = l->conf.duration_ms };
    bool is_renewal = l->view.is_mine || l->released != NULL;

    if (l->object != NULL)
        r.transitions = l->view.seen.transitions + (is_renewal ? 0 : 1);
    (void)snprintf(r.holder, sizeof(r.holder), "%s", l->released == NULL ? l->who : "");
    if (l->released != NULL)
        r.duration_ms = 1000;
    rfc3339_us(unix_us(), r.renewed);
    memcpy(r.acquired,
           is_renewal && l->view.seen.acquired[0] != '\0' ? l->view.seen.acquired : r.renewed,
           sizeof(r.acquired));
    return r;
}

static int
write_start(struct kube_lease *l, struct err *e)
{
    bool is_new = l->object == NULL;

    if (is_new)
        TRY(kube_object_new(&kube_lease, l->ns, l->name, &l->object, e));
    l->written = record_next(l);
    if (is_new)
        l->written.transitions = 0;
    TRY(spec_set(l->object, &l->written, e));
    struct kube_write w = { .kind = &kube_lease,
                            .object = l->object,
                            .deadline_ms = deadline_ms(l) };
    l->sent_ms = mono_ms();
    return is_new ? kube_create(l->client, &w, on_written, l, &l->call, e)
                  : kube_update(l->client, &w, on_written, l, &l->call, e);
}

static void
write_or_fail(struct kube_lease *l)
{
    struct err e;

    if (write_start(l, &e) < 0)
        failed(l, &e);
}

/* -- reading ------------------------------------------------------------------------------------
 */

static void
judged(struct kube_lease *l, const struct kube_lease_record *r)
{
    enum kube_lease_move move = kube_lease_judge(&l->view, r, mono_ms());

    if (l->released != NULL) {
        if (r != NULL && strcmp(r->holder, l->who) == 0 && ++l->tries <= RELEASE_TRIES) {
            l->was_refused = false;
            write_or_fail(l);
        } else
            timer_set(l->give_up, 0); /* not ours: nothing to free */
        return;
    }
    if (!l->view.is_mine && l->is_leading)
        lose_to_other(l);
    if (move == KUBE_LEASE_WAIT)
        wait_next(l);
    else
        write_or_fail(l);
}

static void
on_read(const json_t *body, const struct err *why, void *arg)
{
    struct kube_lease *l = arg;
    struct kube_lease_record r;
    struct err e;

    l->call = NULL;
    if (body == NULL && why->code != E_NOTFOUND) {
        failed(l, why);
        return;
    }
    json_decref(STEAL(l->object));
    if (body != NULL && kube_lease_read(body, &r, &e) < 0) {
        failed(l, &e);
        return;
    }
    l->trouble[0] = '\0';
    if (body != NULL)
        keep(l, body);
    judged(l, body == NULL ? NULL : &r);
}

static void
read_again(struct kube_lease *l)
{
    struct err e;

    if (kube_get(l->client, l->path, deadline_ms(l), on_read, l, &l->call, &e) < 0)
        failed(l, &e);
}

static void
on_next(void *arg)
{
    struct kube_lease *l = arg;

    if (l->call != NULL)
        return; /* its end sets the next round */
    if (l->view.is_mine && l->object != NULL)
        write_or_fail(l); /* over what we wrote: refused when anybody else did since */
    else
        read_again(l);
}

/* -- life ---------------------------------------------------------------------------------------
 */

static int
conf_check(struct kube_lease_conf *c, struct err *e)
{
    size_t n = strlen(c->who);

    c->duration_ms = c->duration_ms == 0 ? KUBE_LEASE_DURATION_MS : c->duration_ms;
    c->renew_ms = c->renew_ms == 0 ? KUBE_LEASE_RENEW_MS : c->renew_ms;
    c->retry_ms = c->retry_ms == 0 ? KUBE_LEASE_RETRY_MS : c->retry_ms;
    if (n == 0 || n >= KUBE_LEASE_HOLDER_BYTES)
        return err_set(e, E_INVAL, "a candidate's name has 1 to %d bytes",
                       KUBE_LEASE_HOLDER_BYTES - 1);
    if (c->duration_ms % 1000 != 0 || c->duration_ms > KUBE_LEASE_DURATION_MAX_S * 1000ULL ||
        c->renew_ms >= c->duration_ms || c->retry_ms >= c->renew_ms)
        return err_set(e, E_INVAL,
                       "a lease: want retry < renew deadline < duration, the duration "
                       "in whole seconds up to %d",
                       KUBE_LEASE_DURATION_MAX_S);
    return 0;
}

int
kube_lease_new(struct loop *loop, struct kube_client *c, const struct kube_lease_conf *conf,
               struct kube_lease **ret, struct err *e)
{
    CLEANUP(kube_lease_freep) struct kube_lease *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    l->loop = loop;
    l->client = c;
    l->conf = *conf;
    TRY(conf_check(&l->conf, e));
    TRY(kube_path(&kube_lease, conf->ns, conf->name, NULL, &l->path, e));
    TRY(str_dup(span_str(conf->ns), &l->ns, e));
    TRY(str_dup(span_str(conf->name), &l->name, e));
    TRY(str_dup(span_str(conf->who), &l->who, e));
    l->view = (struct kube_lease_view){ .who = l->who, .renew_ms = l->conf.renew_ms };
    TRY(timer_new(loop, on_next, l, &l->next, e));
    TRY(timer_new(loop, on_give_up, l, &l->give_up, e));
    timer_set(l->next, 0);
    *ret = STEAL(l);
    return 0;
}

void
kube_lease_free(struct kube_lease *l)
{
    if (l == NULL)
        return;
    kube_cancel(l->call);
    timer_free(l->next);
    timer_free(l->give_up);
    json_decref(l->object);
    free(l->ns);
    free(l->name);
    free(l->who);
    free(l->path);
    free(l);
}

void
kube_lease_release(struct kube_lease *l, loop_fn *done, void *arg)
{
    bool was_leading = l->is_leading;

    if (was_leading)
        lead_set(l, false);
    timer_stop(l->next);
    kube_cancel(STEAL(l->call)); /* it may be done all the same: so what is there is read first */
    l->released = done;
    l->released_arg = arg;
    timer_set(l->give_up, was_leading ? RELEASE_MS : 0);
    if (was_leading)
        read_again(l);
}

bool
kube_lease_is_held(const struct kube_lease *l)
{
    return l->is_leading && kube_lease_holds(&l->view, mono_ms());
}

const char *
kube_lease_holder(const struct kube_lease *l)
{
    return l->view.seen.holder;
}

const char *
kube_lease_trouble(const struct kube_lease *l)
{
    return l->trouble;
}
