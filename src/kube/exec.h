/* exec.h - private to kube/: a credential plug-in of a kubeconfig. Layer: kube.
 *
 * Run without a shell, in a process group of its own, with nothing to read; bounded in time and
 * output. Its words on stderr go where ours go. Source: client.authentication.k8s.io/v1
 * (ExecCredential), kubeconfig's ExecConfig; v1beta1 says the same in what is used here.
 */
#ifndef KUBE_EXEC_H
#define KUBE_EXEC_H

#include "kube/kube.h"

enum {
    KUBE_EXEC_MS = 20 * 1000,        /* then its group is killed */
    KUBE_EXEC_MAX_BYTES = 64 * 1024, /* of its answer */
    KUBE_EXEC_MAX_WORDS = 64,        /* arguments; and variables */
    KUBE_EXEC_AGAIN_MS = 1000,       /* after a failure, and after a 401: not sooner */
};

/* Checks the "exec" member of a user. Errors: PARSE (names the member). */
MUST_USE int kube_exec_check(const json_t *exec, struct err *e);

struct kube_creds {                   /* owned, wiped: kube_creds_done */
    char *token, *cert_pem, *key_pem; /* or NULL */
    bool has_end;
    int64_t end_unix_s;
};
void kube_creds_done(struct kube_creds *c); /* twice is harmless */
/* What a plug-in wrote, for a configuration of that apiVersion. Errors: PARSE (the member), NOMEM.
 */
MUST_USE int kube_creds_read(struct span text, const char *api, struct kube_creds *ret,
                             struct err *e);

struct kube_exec; /* one run */
/* Exactly one call; `creds` may be taken out of (borrowed otherwise), or `why`: SYS (it cannot be
 * run), PEER (its exit status, or what it wrote), LIMIT, TIMEOUT. */
typedef void kube_exec_fn(struct kube_creds *creds, const struct err *why, void *arg);
/* Never calls back before it returns. `conf` is read until then. Errors: SYS, NOMEM. */
MUST_USE int kube_exec_start(struct loop *l, const struct kube_conf *conf, kube_exec_fn *done,
                             void *arg, struct kube_exec **ret, struct err *e);
void kube_exec_cancel(struct kube_exec *x); /* kills it; no call-back; NULL is fine */

#endif
