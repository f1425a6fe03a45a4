/* scene.h - what a CA under test needs, made afresh in a folder of its own: keys, a set of four
 * files, an issuer's key set, tokens of several workloads, CSRs. */
#ifndef BENCH_SCENE_H
#define BENCH_SCENE_H

#include "base/buf.h"
#include "pki/pki.h"

enum { SCENE_CALLERS = 64, SCENE_TOKEN_BYTES = 4096 };

extern const char scene_issuer[];

struct scene_caller {
    char identity[128];
    struct buf token;   /* "Bearer ..." */
    struct buf request; /* IstioCertificateRequest with this caller's CSR */
};

struct scene {
    char dir[64], ca_dir[96], jwks[96];
    struct key *root_key, *ca_key, *leaf_key, *token_key;
    struct cert *root, *ca;
    struct roots *roots;
    struct buf csr; /* PEM, of the first caller */
    struct scene_caller callers[SCENE_CALLERS];
};

/* `ca_kind` of root and intermediate, `leaf_kind` of the workloads' keys. After a failure too,
 * scene_done. */
MUST_USE int scene_make(enum key_kind ca_kind, enum key_kind leaf_kind, struct scene *ret,
                        struct err *e);
void scene_done(struct scene *s); /* removes the folder */

#endif
