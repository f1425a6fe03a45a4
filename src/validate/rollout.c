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

/* r: 0 done; ROLLOUT_BAD. */
static int
wait_rolled(struct session *s, struct sight *t, uint64_t until_ms, struct err *ret_why,
            struct err *e)
{
    char words[VALIDATE_WHY_BYTES], said[VALIDATE_WHY_BYTES] = "";

    for (;;) {
        enum validate_rollout now = ROLLOUT_UNDER_WAY;

        if (sight_take_deployment(s, t, e) == 0)
            now = validate_rollout_read(t->deployment, words);
        else if (session_may_ask_again(e))
            (void)snprintf(words, sizeof(words), "%.*s", (int)sizeof(words) - 1, e->msg);
        else
            return err_result(e);
        if (strcmp(words, said) != 0)
            session_say(s, "%s", words);
        memcpy(said, words, sizeof(said));
        if (now == ROLLOUT_DONE)
            return 0;
        if (now == ROLLOUT_FAILED || mono_ms() >= until_ms) {
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

static int
wait_proved(struct session *s, struct sight *t, uint64_t until_ms, struct err *ret_why,
            struct err *e)
{
    char words[VALIDATE_WHY_BYTES];

    for (;;) {
        if (sight_take_loaded(s, t, e) < 0) {
            if (!session_may_ask_again(e))
                return err_result(e);
            (void)snprintf(words, sizeof(words), "%.*s", (int)sizeof(words) - 1, e->msg);
        } else if (!differs(t, words))
            return 0;
        if (mono_ms() >= until_ms) {
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
memory_end(struct session *s, struct sight *t, enum validate_tried how, const char *why,
           struct err *e)
{
    char run[VALIDATE_RUN_BYTES];

    memcpy(run, t->memory.run, sizeof(run));
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
rollout_end(struct session *s, struct sight *t, struct err *ret_why, struct err *e)
{
    uint64_t until_ms = mono_ms() + s->conf->timeout_ms;
    char why[VALIDATE_WHY_BYTES] = "";
    int r;

    ret_why->code = E_NONE;
    r = TRY(wait_rolled(s, t, until_ms, ret_why, e));
    if (r == 0)
        r = TRY(wait_proved(s, t, until_ms, ret_why, e));
    if (r == ROLLOUT_BAD)
        (void)snprintf(why, sizeof(why), "%.*s", (int)sizeof(why) - 1, ret_why->msg);
    TRY(memory_end(s, t, r == 0 ? TRIED_DONE : TRIED_FAILED, why, e));
    if (r == ROLLOUT_BAD)
        session_event(s, t->deployment, true, "RootRestartFailed", ret_why->msg);
    else
        session_event(s, t->deployment, false, "RootRestarted",
                      "restarted for the roots of its Secret; every pod was seen to serve them");
    return r;
}
