#include "validate/rollout.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"

/* -- the beginning -------------------------------------------------------------------------------
 */

static int
memory_begin(const struct sight *t, struct validate_memory *ret, struct err *e)
{
    uint8_t run[(VALIDATE_RUN_BYTES - 1) / 2];

    *ret = (struct validate_memory){ .tried = TRIED_OPEN };
    TRY(random_bytes(run, sizeof(run), e));
    hex_text(span_of(run, sizeof(run)), ret->run);
    rfc3339_s(unix_s(), ret->at);
    memcpy(ret->roots, t->roots_digest, DIGEST_BYTES);
    return 0;
}

int
rollout_begin(struct session *s, struct sight *t, struct err *e)
{
    CLEANUP(json_decrefp) json_t *patch = NULL;
    struct validate_memory m;
    struct err again;

    TRY(memory_begin(t, &m, e));
    TRY(validate_memory_patch(&m, m.at, t->deployment, &patch, e));
    int r = session_patch(s, patch, e);
    if (r == -(int)E_CONFLICT && sight_take_deployment(s, t, &again) == 0 &&
        strcmp(t->memory.run, m.run) == 0)
        return 0; /* it was sent twice, and the first one did it */
    if (r == 0)
        t->memory = m;
    return r;
}

/* -- the rollout ---------------------------------------------------------------------------------
 */

struct attempt { /* one restart that is seen to its end */
    char run[VALIDATE_RUN_BYTES];
    uint64_t until_ms;
};

/* What is seen from now on would be said of another try, or the Deployment was made anew. */
static int
is_still_ours(const struct sight *t, const struct attempt *a, struct err *e)
{
    if (strcmp(t->memory.run, a->run) == 0)
        return 0;
    return err_set(e, E_CONFLICT, "the deployment was restarted again or made anew meanwhile");
}

/* r: 0 done; ROLLOUT_BAD. */
static int
wait_rolled(struct session *s, struct sight *t, const struct attempt *a, struct err *ret_why,
            struct err *e)
{
    char words[VALIDATE_WHY_BYTES], said[VALIDATE_WHY_BYTES] = "";

    for (;;) {
        enum validate_rollout now = ROLLOUT_UNDER_WAY;

        if (sight_take_deployment(s, t, e) == 0) {
            TRY(is_still_ours(t, a, e));
            now = validate_rollout_read(t->deployment, words);
        } else if (kube_session_may_ask_again(e)) {
            (void)snprintf(words, sizeof(words), "%.*s", (int)sizeof(words) - 1, e->msg);
        } else {
            return err_result(e);
        }
        if (strcmp(words, said) != 0)
            session_say(s, "%s", words);
        memcpy(said, words, sizeof(said));
        if (now == ROLLOUT_DONE)
            return 0;
        if (now == ROLLOUT_FAILED || mono_ms() >= a->until_ms) {
            (void)err_set(ret_why, now == ROLLOUT_FAILED ? E_STATE : E_TIMEOUT, "%s%s",
                          now == ROLLOUT_FAILED ? "" : "no end in time: ", words);
            return ROLLOUT_BAD;
        }
        kube_session_pause(&s->kube, VALIDATE_POLL_MS);
    }
}

/* -- the proof -----------------------------------------------------------------------------------
 */

/* What is not as the Secret says; false: all is. */
static bool
differs(const struct sight *t, char ret[VALIDATE_WHY_BYTES])
{
    const struct validate_facts *f = &t->facts;

    if (f->pods_n == 0)
        (void)snprintf(ret, VALIDATE_WHY_BYTES, "istiod has no pod");
    for (size_t i = 0; i < f->pods_n; i++) {
        const struct validate_pod *p = &f->pods[i];

        if (p->is_seen && !p->lacks_root && memcmp(p->root_id, f->signer_root, DIGEST_BYTES) == 0)
            continue;
        (void)snprintf(ret, VALIDATE_WHY_BYTES, "pod %.120s %s%.200s", p->name,
                       p->is_seen ? p->lacks_root ? "has not loaded the Secret's roots"
                                                  : "signs under another root than the Secret's"
                                  : "cannot be looked at: ",
                       p->is_seen ? "" : p->why);
        return true;
    }
    if (f->pods_n > 0 && !f->is_same_text)
        (void)snprintf(ret, VALIDATE_WHY_BYTES,
                       "the ConfigMap does not have the Secret's roots yet");
    return f->pods_n == 0 || !f->is_same_text;
}

/* The Secret has other roots than those that it was restarted for: no pod proves these any more. */
static bool
is_overtaken(const struct sight *t)
{
    return memcmp(t->memory.roots, t->roots_digest, DIGEST_BYTES) != 0;
}

static int
look_again(struct session *s, struct sight *t, struct err *e)
{
    TRY(sight_take_secret(s, t, e)); /* it may have another intermediate by now */
    return sight_take_loaded(s, t, e);
}

/* r: 0 proved, or overtaken; ROLLOUT_BAD. */
static int
wait_proved(struct session *s, struct sight *t, const struct attempt *a, struct err *ret_why,
            struct err *e)
{
    char words[VALIDATE_WHY_BYTES];

    for (;;) {
        if (look_again(s, t, e) < 0) {
            if (!kube_session_may_ask_again(e))
                return err_result(e);
            (void)snprintf(words, sizeof(words), "%.*s", (int)sizeof(words) - 1, e->msg);
        } else if (is_overtaken(t) || !differs(t, words)) {
            return 0;
        }
        if (mono_ms() >= a->until_ms) {
            (void)err_set(ret_why, E_STATE, "it was rolled out, but %s", words);
            return ROLLOUT_BAD;
        }
        kube_session_pause(&s->kube, VALIDATE_POLL_MS);
    }
}

/* -- the end -------------------------------------------------------------------------------------
 */

/* Writes how the try ended, unless another one has begun since. */
static int
memory_end(struct session *s, struct sight *t, const char *run, enum validate_tried how,
           const char *why, struct err *e)
{
    for (size_t i = 0;; i++) {
        CLEANUP(json_decrefp) json_t *patch = NULL;

        TRY(sight_take_deployment(s, t, e));
        if (strcmp(t->memory.run, run) != 0 || t->memory.tried != TRIED_OPEN)
            return 0;
        t->memory.tried = how;
        (void)snprintf(t->memory.why, sizeof(t->memory.why), "%s", why);
        TRY(validate_memory_patch(&t->memory, NULL, t->deployment, &patch, e));
        int r = session_patch(s, patch, e);
        if (r == 0)
            return 0;
        if (r != -(int)E_CONFLICT || i == VALIDATE_RACES_MAX)
            return r;
    }
}

int
rollout_forget(struct session *s, struct sight *t, struct err *e)
{
    char run[VALIDATE_RUN_BYTES];

    memcpy(run, t->memory.run, sizeof(run));
    return memory_end(s, t, run, TRIED_NONE, "the Secret has changed since", e);
}

int
rollout_end(struct session *s, struct sight *t, struct err *ret_why, struct err *e)
{
    struct attempt a = { .until_ms = mono_ms() + s->conf->timeout_ms };
    char why[VALIDATE_WHY_BYTES] = "";
    struct err unread;
    int r;

    ret_why->code = E_NONE;
    memcpy(a.run, t->memory.run, sizeof(a.run));
    r = TRY(wait_rolled(s, t, &a, ret_why, e));
    if (r == 0)
        r = TRY(wait_proved(s, t, &a, ret_why, e));
    else if (sight_take_secret(s, t, &unread) < 0)
        session_say(s, "%s", unread.msg); /* it failed, whatever the Secret is by now */
    if (is_overtaken(t)) {
        TRY(rollout_forget(s, t, e));
        return err_set(e, E_CONFLICT, "the Secret has changed since the deployment was restarted");
    }
    if (r == ROLLOUT_BAD)
        (void)snprintf(why, sizeof(why), "%.*s", (int)sizeof(why) - 1, ret_why->msg);
    TRY(memory_end(s, t, a.run, r == 0 ? TRIED_DONE : TRIED_FAILED, why, e));
    if (r == ROLLOUT_BAD)
        session_event(s, t->deployment, true, "RootRestartFailed", ret_why->msg);
    else
        session_event(s, t->deployment, false, "RootRestarted",
                      "restarted for the roots of its Secret; every pod was seen to serve them");
    return r;
}
