#include "validate/decide.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"

bool
validate_set_has(const struct validate_set *s, const uint8_t id[DIGEST_BYTES])
{
    for (size_t i = 0; i < s->n; i++)
        if (memcmp(s->ids[i], id, DIGEST_BYTES) == 0)
            return true;
    return false;
}

bool
validate_set_contains(const struct validate_set *big, const struct validate_set *small)
{
    for (size_t i = 0; i < small->n; i++)
        if (!validate_set_has(big, small->ids[i]))
            return false;
    return true;
}

const char *
validate_kind_name(enum validate_kind k)
{
    static const char *const names[VALIDATE__N] = {
        [VALIDATE_NOTHING] = "nothing", [VALIDATE_WAIT] = "wait", [VALIDATE_RESTART] = "restart",
        [VALIDATE_RESUME] = "resume",   [VALIDATE_HELD] = "held", [VALIDATE_BLOCKED] = "blocked",
    };

    return names[k];
}

static void say(struct validate_verdict *v, enum validate_kind kind, const char *fmt, ...)
    PRINTF(3, 4);

static void
say(struct validate_verdict *v, enum validate_kind kind, const char *fmt, ...)
{
    va_list ap;

    v->kind = kind;
    va_start(ap, fmt);
    (void)vsnprintf(v->why, sizeof(v->why), fmt, ap);
    va_end(ap);
}

struct id_text {
    char text[17]; /* the first 8 bytes, as mesh status shows them */
};

static struct id_text
id_text(const uint8_t id[DIGEST_BYTES])
{
    struct id_text t;

    hex_text(span_of(id, 8), t.text);
    return t;
}

/* -- what is certain -----------------------------------------------------------------------------
 */

/* Every workload has asked istiod anew since `t`: its leaf's life has passed, or its pod is
 * younger.
 */
static bool
all_renewed_since(const struct validate_facts *f, int64_t t)
{
    if (t <= 0)
        return false;
    return f->now - t >= f->leaf_life_s + f->skew_s ||
           (f->workloads_since > 0 && f->workloads_since > t + f->skew_s);
}

/* When that will be so by itself, for people. */
static void
time_text(const struct validate_facts *f, int64_t t, char ret[RFC3339_BYTES])
{
    rfc3339_s(t + f->leaf_life_s + f->skew_s, ret);
}

static const struct validate_pod *
unseen_pod(const struct validate_facts *f)
{
    for (size_t i = 0; i < f->pods_n; i++)
        if (!f->pods[i].is_seen)
            return &f->pods[i];
    return NULL;
}

/* Rule 2: the Secret's intermediate may sign when every workload trusts its root. r: true it may.
 */
static bool
signer_is_trusted(const struct validate_facts *f, struct validate_verdict *v)
{
    bool signs_now = f->pods_n > 0;
    char until[RFC3339_BYTES];

    if (!validate_set_has(&f->loaded, f->signer_root)) {
        say(v, VALIDATE_HELD,
            "the Secret's intermediate is under root %s, which no workload trusts yet: first write "
            "old and new root with the old intermediate",
            id_text(f->signer_root).text);
        return false;
    }
    for (size_t i = 0; i < f->pods_n; i++)
        signs_now = signs_now && f->pods[i].is_seen &&
                    memcmp(f->pods[i].root_id, f->signer_root, DIGEST_BYTES) == 0;
    if (signs_now || all_renewed_since(f, f->map_changed))
        return true;
    if (f->map_changed == 0) {
        say(v, VALIDATE_HELD,
            "the Secret's intermediate is under root %s, and nothing says how long the ConfigMap "
            "has had that root",
            id_text(f->signer_root).text);
        return false;
    }
    time_text(f, f->map_changed, until);
    say(v, VALIDATE_HELD,
        "the Secret's intermediate is under root %s, which workloads that have not renewed since "
        "the ConfigMap changed do not trust: wait until %s, or restart them",
        id_text(f->signer_root).text, until);
    return false;
}

/* Rule 3: a root may go when nothing in use chains to it. r: true it may. */
static bool
old_roots_may_go(const struct validate_facts *f, struct validate_verdict *v)
{
    const struct validate_pod *unseen = unseen_pod(f);
    char until[RFC3339_BYTES];
    int64_t since = 0;

    for (size_t i = 0; i < f->pods_n; i++) {
        const struct validate_pod *p = &f->pods[i];

        if (p->is_seen && !validate_set_has(&f->wanted, p->root_id)) {
            say(v, VALIDATE_HELD,
                "%s still signs under root %s, which the Secret leaves out: write old and new root "
                "with the new intermediate first",
                p->name, id_text(p->root_id).text);
            return false;
        }
        since = p->since > since ? p->since : since;
    }
    if (validate_set_contains(&f->wanted, &f->loaded))
        return true;
    if (unseen != NULL || f->pods_n == 0) {
        say(v, VALIDATE_HELD, "a root goes, and what istiod signs under is not known: %s%s%s",
            unseen == NULL ? "it has no pod" : unseen->name, unseen == NULL ? "" : ": ",
            unseen == NULL ? "" : unseen->why);
        return false;
    }
    if (all_renewed_since(f, since))
        return true;
    time_text(f, since, until);
    say(v, VALIDATE_HELD,
        "a root goes, and leaves under it may be in use until %s: wait, or restart the workloads "
        "that are older than istiod's last change",
        until);
    return false;
}

/* -- the verdict ---------------------------------------------------------------------------------
 */

/* A pod that has other roots than are published; NULL: none. A hot istiod goes on naming those that
 * it started with. */
static const struct validate_pod *
stale_pod(const struct validate_facts *f)
{
    for (size_t i = 0; i < f->pods_n && !f->takes_roots_hot; i++)
        if (f->pods[i].lacks_root || (f->pods[i].has_other && f->tried != TRIED_DONE))
            return &f->pods[i];
    return NULL;
}

/* A restart cannot be now, whatever it is for. */
static bool
is_blocked(const struct validate_facts *f, struct validate_verdict *v)
{
    if (f->is_going)
        say(v, VALIDATE_BLOCKED, "the deployment is being deleted");
    else if (f->is_paused)
        say(v, VALIDATE_BLOCKED, "the deployment is paused: kubectl rollout resume");
    else if (f->tried == TRIED_FAILED && !f->is_forced)
        say(v, VALIDATE_BLOCKED,
            "the restart for these very roots has failed before and is not repeated: mend what it "
            "says, then --force, or change the Secret");
    else
        return false;
    return true;
}

/* It takes a wider or narrower set by itself, within the time of kubelet and its own. */
static bool
is_taken_hot(const struct validate_facts *f, struct validate_verdict *v)
{
    bool one_holds_other = validate_set_contains(&f->wanted, &f->loaded) ||
                           validate_set_contains(&f->loaded, &f->wanted);

    if (f->hot_compares_text && !f->is_text_within)
        return false;
    if (!f->takes_roots_hot || !one_holds_other || f->now - f->secret_changed >= f->hot_wait_s)
        return false;
    say(v, VALIDATE_WAIT,
        "istiod takes these roots without a restart (ISTIO_MULTIROOT_MESH); none is done");
    return true;
}

void
validate_decide(const struct validate_facts *f, struct validate_verdict *ret)
{
    const struct validate_pod *stale = stale_pod(f);

    *ret = (struct validate_verdict){ .kind = VALIDATE_NOTHING };
    if (f->tried == TRIED_OPEN && !f->is_paused && !f->is_going) {
        say(ret, VALIDATE_RESUME, "a restart for these roots was begun: it is seen to its end");
        return;
    }
    if (f->is_same_text && stale == NULL) {
        say(ret, VALIDATE_NOTHING, "istiod publishes the roots that the Secret has");
        return;
    }
    if (f->is_rolling && f->tried != TRIED_FAILED && !f->is_going) {
        say(ret, VALIDATE_WAIT, "a rollout of the deployment is under way: look again after it");
        return;
    }
    if (is_blocked(f, ret) || is_taken_hot(f, ret))
        return;
    if (!signer_is_trusted(f, ret) || !old_roots_may_go(f, ret)) {
        if (!f->is_forced)
            return;
        ret->kind = VALIDATE_RESTART;
        ret->is_unsafe = true; /* why: what is risked */
        return;
    }
    if (f->is_same_text)
        say(ret, VALIDATE_RESTART, "%s started with other roots than are published", stale->name);
    else
        say(ret, VALIDATE_RESTART, "%s",
            f->takes_roots_hot ? "istiod has not taken the roots by itself in its time"
                               : "istiod takes other roots by a restart only");
}
