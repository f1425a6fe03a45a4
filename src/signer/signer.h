/* signer.h - the process that holds the intermediates' keys, and how the CA asks it to sign. Layer:
 * signer.
 *
 * A child of the CA's process, from the same binary: no network, no files, one socket pair for
 * control and one for each worker (a lane). The CA hands over an open file with the key, never its
 * bytes, and the child judges each TBSCertificate again before it signs (leaf_tbs_lint, lifetime,
 * the signer's end): it does not trust its parent. With a PKCS#11 token no file and no process has
 * the key: the child asks the token to sign (signer/token.h). Whatever ends the child, calls are
 * answered with PEER and another child is started with a growing pause; it knows no key until it is
 * told again. Source: design.md invariant 4; style.md 3.4.
 */
#ifndef SIGNER_SIGNER_H
#define SIGNER_SIGNER_H

#include "base/err.h"
#include "net/loop.h"
#include "pki/leaf.h"

struct signer_process;
struct signer;
struct signer_lane;

enum {
    SIGNER_LANES_MAX = 64,
    SIGNER_LANE_CALLS = 1024,       /* calls under way on one lane */
    SIGNER_KEYS_MAX = 32,           /* loaded at one time */
    SIGNER_PATIENCE_MS = 10 * 1000, /* without an answer for so long the child is replaced */
    SIGNER_RESTART_MIN_MS = 100,
    SIGNER_RESTART_MAX_MS = 5000,
    SIGNER_SERVER_LIFE_S = 30 * 86400, /* a server's leaf lives no longer */
    SIGNER_BACKDATE_S = 300,           /* nor any leaf's start lies further back than its life */
    SIGNER_CLOCK_S = 60,               /* two readings of the clock */
    SIGNER_JWT_LIFE_S = 300,           /* of a JWT-SVID, from the signing on */
    SIGNER_JWT_AUDIENCES = 8,
    SIGNER_JWT_AUDIENCE_BYTES = 256, /* with its NUL */
    SIGNER_JWT_MAX_BYTES = 8 * 1024, /* of a token */
    SIGNER_CRL_LIFE_S = 30 * 86400,  /* a revocation list outlives a new leaf by no more */
};

/* -- the child (its whole life) --
 *
 * Every program that makes a signer_process calls this first in main: it returns at once, except in
 * the child, where it never does. */
void signer_child_run(int argc, char *const argv[]);

/* -- the process: control thread -- */

/* What can be told of a token's URI without the token. Errors: INVAL (which part, what to write).
 */
MUST_USE int signer_uri_check(const char *uri, struct err *e);

struct signer_process_conf {
    struct loop *loop; /* the control loop */
    size_t lanes;      /* 1..SIGNER_LANES_MAX */
    int64_t
        max_life_s; /* no leaf of a workload lives longer; the child is told once, at its start */
    const char
        *trust_domain;     /* of JWT-SVIDs, told once too; NULL: none is made. Borrowed, as are: */
    const char *token_uri; /* RFC 7512: the keys are in this PKCS#11 token; NULL: they come as
                              files */
    const char *reads; /* the one folder in which the token's module may read files; NULL: none */
    /* The child has come (again) or gone: load what is in use. May be NULL. */
    void (*on_state)(bool is_up, void *arg);
    void *arg;
};
/* Starts the child and waits until its doors are shut. Errors: SYS, PEER (it says why), NOMEM.
 * Blocks: a moment. */
MUST_USE int signer_process_new(const struct signer_process_conf *conf, struct signer_process **ret,
                                struct err *e);
/* Ends the child; its lanes are freed before. NULL is fine. */
void signer_process_free(struct signer_process *p);
DEFINE_CLEANUP(struct signer_process, signer_process_free)

struct signer_status {
    bool is_up;
    int pid; /* 0: none runs */
    unsigned restarts;
    int landlock_abi;    /* 0: this kernel has no Landlock; seccomp alone bars files */
    bool memory_locked;  /* all of its memory; the key's own pages are locked in any case */
    const char *trouble; /* why the last one ended; "" */
    const char *token;   /* "LABEL (MAKER MODEL, serial N)"; "" where keys come as files */
};
struct signer_status signer_process_status(const struct signer_process *p);

/* -- signers: one certificate and its key -- */

/* Has the child read the key from `key_fd` (borrowed, read from its start) and prove that it is the
 * certificate's; or, with a token, find the certificate's key there and prove it (`key_fd` is not
 * looked at). Errors: as key_from_pem and DENIED, with "ca-key.pem: " in front; NOTFOUND (not in
 * the token); PEER, TIMEOUT (no child), LIMIT. Control thread; blocks until the child has answered.
 * Owner: caller. */
MUST_USE int signer_load(struct signer_process *p, const struct cert *cert, int key_fd,
                         struct signer **ret, struct err *e);
/* Has the child make a P-256 key, write it to `key_fd` (PEM, synced) and sign a root of its own
 * with it. Errors: as root_make; PEER. Control thread. */
MUST_USE int signer_make_root(struct signer_process *p, const char *subject, uint64_t days,
                              int key_fd, struct cert **ret, struct err *e);
/* Any thread. The last reference has the child wipe the key. */
struct signer *signer_ref(struct signer *s);
void signer_unref(struct signer *s); /* NULL is fine */
DEFINE_CLEANUP(struct signer, signer_unref)
/* What leaf_tbs, leaf_finish and leaf_lint need; borrowed. It has no key. */
const struct leaf_template *signer_template(const struct signer *s);
/* Signs on the control channel and waits. Control thread. Errors: DENIED (the child refuses: which
 * rule), PEER, TIMEOUT. */
MUST_USE int signer_sign_wait(struct signer *s, struct span tbs, uint8_t ret[SIGNATURE_MAX_BYTES],
                              size_t *ret_n, struct err *e);

/* Signs a TBSCertList of this signer and waits. Control thread. Errors: DENIED (the child refuses:
 * which rule), PEER, TIMEOUT, NOTFOUND (a new child does not know this signer), SYS. */
MUST_USE int signer_sign_crl(struct signer *s, struct span tbs, uint8_t ret[SIGNATURE_MAX_BYTES],
                             size_t *ret_n, struct err *e);

/* -- lanes: one for each loop that signs -- */

/* On the control thread, before the loop runs. At most conf.lanes in the life of a process. */
MUST_USE int signer_lane_new(struct signer_process *p, struct loop *loop, struct signer_lane **ret,
                             struct err *e);
/* When its loop has stopped and before that is freed; calls under way are forgotten. NULL is fine.
 */
void signer_lane_free(struct signer_lane *l);

/* `why` NULL: `signature` (borrowed for the call) covers the TBS. Codes that time mends: PEER,
 * NOTFOUND (a new child does not know this signer yet), LIMIT (too many calls under way). */
typedef void signer_done_fn(struct span signature, const struct err *why, void *arg);
/* Signs one TBSCertificate (copied). Exactly one call of done, on the lane's loop; it may come
 * before signer_sign returns. What is asked in one turn of the loop goes out in one write. */
void signer_sign(struct signer_lane *l, struct signer *s, struct span tbs, signer_done_fn *done,
                 void *arg);

/* What a JWT-SVID says; the child writes and signs it, with its own times. */
struct signer_jwt {
    const char *kid;     /* of the signer's key: its thumbprint */
    const char *subject; /* a SPIFFE id of the trust domain */
    const char *audiences[SIGNER_JWT_AUDIENCES];
    size_t audiences_n;
};
/* The same for a JWT-SVID: done's `signature` is the whole token in compact form. Codes besides:
 * DENIED (subject or audience: which rule), INVAL (Ed25519), LIMIT (too long). */
void signer_jwt_sign(struct signer_lane *l, struct signer *s, const struct signer_jwt *q,
                     signer_done_fn *done, void *arg);

#endif
