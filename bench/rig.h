/* rig.h - a real `meshroot up` in a folder of its own, with two hierarchies to rotate between. */
#ifndef BENCH_RIG_H
#define BENCH_RIG_H

#include <sys/types.h>

#include "pki/pki.h"

struct rig_pki { /* one root with one intermediate */
    struct key *root_key, *ca_key;
    struct cert *root, *ca;
};

struct rig {
    const char *meshroot, *issuer;
    char dir[64], state[96], log[96], ports[96], issuer_flag[192], listen[32], window[24];
    struct key *token_key;
    struct rig_pki pki[2];
    struct roots *roots; /* of both */
    pid_t pid;
    uint16_t port; /* of the CA; the same after a restart */
};

/* Keys, certificates, issuer; nothing runs yet. After a failure too, rig_done. */
MUST_USE int rig_make(const char *meshroot, enum key_kind ca_kind, uint64_t renew_window_ms,
                      struct rig *ret, struct err *e);
void rig_done(struct rig *r); /* ends it, removes the folder */

/* Starts it, and waits until it answers commands. The mesh goes on from where it was. */
MUST_USE int rig_start(struct rig *r, struct err *e);
void rig_kill(struct rig *r); /* kill -9 */
/* Enables the mesh on what the vault holds; waits until it runs. */
MUST_USE int rig_enable(struct rig *r, struct err *e);

/* The vault's root-cert: those of both, of the first, or of the second hierarchy. */
enum rig_trust { RIG_FIRST, RIG_SECOND, RIG_BOTH };
MUST_USE int rig_set_roots(struct rig *r, enum rig_trust which, struct err *e);
/* The vault's ca-cert, ca-key and cert-chain: hierarchy 0 or 1. */
MUST_USE int rig_set_signer(struct rig *r, size_t which, struct err *e);
/* Size and time of `mesh status --output json`. */
MUST_USE int rig_status(struct rig *r, double *ret_kib, double *ret_ms, struct err *e);

double rig_cpu_us(const struct rig *r); /* of both processes so far */

#endif
