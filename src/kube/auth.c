/* auth.c - a token from a file that is rotated, from the kubeconfig, or from a plug-in. */
#include "kube/auth.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "kube/exec.h"

struct kube_auth {
    struct loop *loop;
    const struct kube_conf *conf;
    loop_fn *changed;
    void *arg;
    struct buf header; /* wiped; empty: not read yet */
    uint64_t read_ms;  /* when it was */
    struct kube_exec *run;
    struct kube_creds creds;
    bool has_creds;
    uint64_t run_ms, until_ms; /* when the last run ended, and how long its credentials hold */
    struct err failed;         /* of the last run; E_NONE: it did not */
};

static int
header_set(struct kube_auth *a, struct span token, struct err *e)
{
    buf_wipe(&a->header);
    a->header = BUF_INIT(KUBE_TOKEN_MAX_BYTES + 64);
    TRY(buf_add_str(&a->header, "authorization: Bearer ", e));
    TRY(buf_add(&a->header, token, e));
    a->read_ms = mono_ms();
    return 0;
}

static int
file_token(struct kube_auth *a, struct err *e)
{
    CLEANUP(buf_wipe) struct buf raw = BUF_INIT(KUBE_TOKEN_MAX_BYTES);
    const char *path = a->conf->token_file;

    if (a->header.n > 0 && mono_ms() - a->read_ms < KUBE_TOKEN_EVERY_MS)
        return 0;
    if (TRY(file_read(path, &raw, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "no such file %s", path);
    struct span token = span_trim(buf_span(&raw));
    for (size_t i = 0; i < token.n; i++)
        if (token.p[i] <= ' ' || token.p[i] > '~')
            return err_set(e, E_PARSE, "%s does not hold a token", path);
    if (token.n == 0)
        return err_set(e, E_PARSE, "%s is empty", path);
    return header_set(a, token, e);
}

/* -- a plug-in ----------------------------------------------------------------------------------
 */

/* The wall clock says once how long they last; steps of it afterwards change nothing. */
static uint64_t
lasts_until(const struct kube_creds *c)
{
    int64_t left_s = c->end_unix_s - unix_s();

    if (!c->has_end)
        return UINT64_MAX;
    return mono_ms() + (left_s <= 0 ? 0 : (uint64_t)left_s * 1000);
}

static void
on_run_end(struct kube_creds *creds, const struct err *why, void *arg)
{
    struct kube_auth *a = arg;

    a->run = NULL;
    a->run_ms = mono_ms();
    a->failed = (struct err){ .code = E_NONE };
    if (creds == NULL)
        a->failed = *why;
    else {
        kube_creds_done(&a->creds);
        a->creds = *creds;
        *creds = (struct kube_creds){ .token = NULL };
        a->has_creds = true;
        a->until_ms = lasts_until(&a->creds);
        buf_wipe(&a->header);
        if (a->creds.token != NULL)
            (void)!header_set(a, span_str(a->creds.token), &a->failed);
        if (a->until_ms <= a->run_ms)
            (void)err_set(&a->failed, E_AUTH,
                          "what the exec plug-in gives has expired already (is a clock wrong?)");
    }
    a->changed(a->arg);
}

static bool
ran_lately(const struct kube_auth *a)
{
    return a->run_ms != 0 && mono_ms() - a->run_ms < KUBE_EXEC_AGAIN_MS;
}

static int
exec_creds(struct kube_auth *a, struct err *e)
{
    if (a->run != NULL)
        return KUBE_AUTH_WAIT;
    if (a->failed.code != E_NONE && ran_lately(a)) {
        *e = a->failed;
        return err_result(e);
    }
    if (a->failed.code == E_NONE && a->has_creds && mono_ms() < a->until_ms)
        return 0;
    if (kube_exec_start(a->loop, a->conf, on_run_end, a, &a->run, e) < 0) {
        a->failed = *e;
        a->run_ms = mono_ms();
        return err_result(e);
    }
    return KUBE_AUTH_WAIT;
}

/* -- asking -------------------------------------------------------------------------------------
 */

int
kube_auth_get(struct kube_auth *a, struct kube_auth_now *ret, struct err *e)
{
    const struct kube_conf *c = a->conf;

    if (c->exec != NULL) {
        if (TRY(exec_creds(a, e)) == KUBE_AUTH_WAIT)
            return KUBE_AUTH_WAIT;
    } else if (c->token_file != NULL) {
        if (file_token(a, e) < 0)
            return err_wrap(e, "the token for the Kubernetes API");
    } else if (c->token != NULL && a->header.n == 0)
        TRY(header_set(a, span_str(c->token), e));
    ret->header = a->header.n == 0 ? NULL : buf_text(&a->header);
    ret->cert_pem = span_str(c->exec != NULL ? a->creds.cert_pem : c->cert_pem);
    ret->key_pem = span_str(c->exec != NULL ? a->creds.key_pem : c->key_pem);
    return 0;
}

bool
kube_auth_refused(struct kube_auth *a)
{
    if (a->conf->exec != NULL) {
        if (!ran_lately(a))
            a->has_creds = false;
        return !ran_lately(a);
    }
    if (a->conf->token_file == NULL)
        return false;
    buf_wipe(&a->header); /* the file may have been rotated since it was read */
    return true;
}

int
kube_auth_new(struct loop *l, const struct kube_conf *conf, loop_fn *changed, void *arg,
              struct kube_auth **ret, struct err *e)
{
    struct kube_auth *a = calloc(1, sizeof(*a));

    if (a == NULL)
        return err_nomem(e);
    a->loop = l;
    a->conf = conf;
    a->changed = changed;
    a->arg = arg;
    *ret = a;
    return 0;
}

void
kube_auth_free(struct kube_auth *a)
{
    if (a == NULL)
        return;
    kube_exec_cancel(a->run);
    kube_creds_done(&a->creds);
    buf_wipe(&a->header);
    free(a);
}
