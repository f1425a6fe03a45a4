/* auth.h - private to kube/: who we are for the next request. Layer: kube. */
#ifndef KUBE_AUTH_H
#define KUBE_AUTH_H

#include "kube/kube.h"

struct kube_auth;
/* `conf` is borrowed. Calls changed(arg) when a plug-in has ended, whatever came of it: whoever was
 * told to wait asks again. Errors: NOMEM. */
MUST_USE int kube_auth_new(struct loop *l, const struct kube_conf *conf, loop_fn *changed,
                           void *arg, struct kube_auth **ret, struct err *e);
void kube_auth_free(struct kube_auth *a); /* NULL is fine */
DEFINE_CLEANUP(struct kube_auth, kube_auth_free)

struct kube_auth_now {             /* borrowed until the next call */
    const char *header;            /* "authorization: Bearer ..."; or NULL */
    struct span cert_pem, key_pem; /* or empty: conf's files */
};
/* r: 0; KUBE_AUTH_WAIT: a plug-in runs, `changed` is called. Errors: NOTFOUND, PARSE (the token's
 * file), as kube_exec_fn. Blocks: disk. */
enum { KUBE_AUTH_WAIT = 1 };
MUST_USE int kube_auth_get(struct kube_auth *a, struct kube_auth_now *ret, struct err *e);
/* The server answered 401. r: true when there may be something newer: ask again. */
bool kube_auth_refused(struct kube_auth *a);

#endif
