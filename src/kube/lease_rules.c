/* lease_rules.c - who may take a lease, who still has it; no I/O, no clock of its own. */
#include <string.h>

#include "kube/lease.h"
#include "net/json.h"

static int
number_read(const json_t *spec, const char *name, json_int_t *ret, struct err *e)
{
    const json_t *v = json_object_get(spec, name);

    if (v != NULL && !json_is_null(v) && !json_is_integer(v))
        return err_set(e, E_PARSE, "Lease: \"%s\" is not a whole number", name);
    *ret = json_integer_value(v);
    return 0;
}

/* null as absent: Go writes both. */
static int
text_read(const json_t *spec, const char *name, char *ret, size_t cap, struct err *e)
{
    ret[0] = '\0';
    if (json_is_null(json_object_get(spec, name)))
        return 0;
    return json_text_copy(spec, name, ret, cap, e) < 0 ? err_wrap(e, "Lease") : 0;
}

int
kube_lease_read(const json_t *o, struct kube_lease_record *ret, struct err *e)
{
    const json_t *spec = json_object_get(o, "spec");
    struct kube_lease_record r = { .duration_ms = 0 };
    json_int_t seconds, transitions;

    if (spec != NULL && !json_is_object(spec) && !json_is_null(spec))
        return err_set(e, E_PARSE, "Lease: \"spec\" is not an object");
    TRY(text_read(spec, "holderIdentity", r.holder, sizeof(r.holder), e));
    TRY(text_read(spec, "renewTime", r.renewed, sizeof(r.renewed), e));
    TRY(text_read(spec, "acquireTime", r.acquired, sizeof(r.acquired), e));
    TRY(number_read(spec, "leaseDurationSeconds", &seconds, e));
    TRY(number_read(spec, "leaseTransitions", &transitions, e));
    seconds = seconds < 1 ? 1 : seconds;
    seconds = seconds > KUBE_LEASE_DURATION_MAX_S ? KUBE_LEASE_DURATION_MAX_S : seconds;
    r.duration_ms = (uint64_t)seconds * 1000;
    r.transitions = transitions < 0 || transitions > INT32_MAX - 1 ? 0 : transitions;
    *ret = r;
    return 0;
}

static bool
is_same(const struct kube_lease_record *a, const struct kube_lease_record *b)
{
    return strcmp(a->holder, b->holder) == 0 && strcmp(a->renewed, b->renewed) == 0 &&
           strcmp(a->acquired, b->acquired) == 0 && a->transitions == b->transitions &&
           a->duration_ms == b->duration_ms;
}

static bool
is_free(const struct kube_lease_view *v, uint64_t now_ms)
{
    return v->seen.holder[0] == '\0' || now_ms - v->seen_ms >= v->seen.duration_ms;
}

enum kube_lease_move
kube_lease_judge(struct kube_lease_view *v, const struct kube_lease_record *r, uint64_t now_ms)
{
    if (r == NULL) {
        /* Deleted. Whoever had it may not know yet: the time it had is waited for. */
        bool is_taken = v->has_seen && !v->is_mine && !is_free(v, now_ms);

        return is_taken ? KUBE_LEASE_WAIT : KUBE_LEASE_CREATE;
    }
    if (!v->has_seen || !is_same(&v->seen, r)) {
        v->seen = *r;
        v->seen_ms = now_ms;
        v->has_seen = true;
        /* Another holder ends it; with our own name it is a write of ours whose answer was lost. */
        v->is_mine = v->is_mine && strcmp(r->holder, v->who) == 0;
    }
    if (v->is_mine)
        return KUBE_LEASE_TAKE;
    return is_free(v, now_ms) ? KUBE_LEASE_TAKE : KUBE_LEASE_WAIT;
}

void
kube_lease_confirm(struct kube_lease_view *v, const struct kube_lease_record *r, uint64_t sent_ms)
{
    v->seen = *r;
    v->seen_ms = sent_ms;
    v->has_seen = true;
    v->is_mine = true;
    v->held_until_ms = sent_ms + v->renew_ms;
}

bool
kube_lease_holds(const struct kube_lease_view *v, uint64_t now_ms)
{
    return v->is_mine && now_ms < v->held_until_ms;
}
