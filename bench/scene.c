/* scene.c - see scene.h. */
#include "scene.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "ca/wire.h"
#include "identity/identity.h"
#include "pki/issue.h"
#include "pki/leaf.h"
#include "sync/sync.h"

const char scene_issuer[] = "https://bench.example";

static int
set_make(struct scene *s, struct err *e)
{
    struct ca_request rq = { .subject = "O=Istio,CN=Root", .days = 3650, .path_len = -1 };
    struct ca_request iq = { .subject = "O=Istio,CN=Intermediate", .days = 365, .path_len = 0 };
    CLEANUP(bundle_unrefp) struct bundle *b = NULL;
    CLEANUP(buf_done)
    struct buf root_pem = BUF_INIT(PEM_MAX_BYTES), ca_pem = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_wipe) struct buf key_pem = BUF_INIT(PEM_MAX_BYTES);
    struct set_manifest m = { .generation = 1 };

    TRY(root_make(&rq, s->root_key, &s->root, e));
    TRY(intermediate_make(&iq, s->ca_key, s->root, s->root_key, &s->ca, e));
    TRY(cert_to_pem(s->root, &root_pem, e));
    TRY(cert_to_pem(s->ca, &ca_pem, e));
    TRY(key_to_pem(s->ca_key, &key_pem, e));
    struct span parts[PART__N] = { buf_span(&root_pem), buf_span(&ca_pem), buf_span(&key_pem),
                                   buf_span(&ca_pem) };
    TRY(bundle_new(parts, &b, e));
    TRY(set_write(s->ca_dir, b, &m, e));
    return roots_from_certs(&s->root, 1, &s->roots, e);
}

/* A bound token, of the size that a cluster's are. */
static int
caller_make(const struct scene *s, size_t i, struct scene_caller *c, struct err *e)
{
    CLEANUP(buf_done) struct buf claims = BUF_INIT(8192), csr = BUF_INIT(CSR_MAX_BYTES);

    *c = (struct scene_caller){ .token = BUF_INIT(SCENE_TOKEN_BYTES),
                                .request = BUF_INIT(2 * CSR_MAX_BYTES) };
    (void)snprintf(c->identity, sizeof(c->identity), "spiffe://cluster.local/ns/bench/sa/load%zu",
                   i);
    TRY(buf_addf(&claims, e,
                 "{\"aud\":[\"istio-ca\"],\"exp\":%" PRId64 ",\"iat\":%" PRId64
                 ",\"iss\":\"%s\",\"jti\":\"3e1c7a5e-5f0e-4b57-9d7b-0000000000%02zx\","
                 "\"kubernetes.io\":{\"namespace\":\"bench\",\"pod\":{\"name\":\"load-%zu\","
                 "\"uid\":\"5f3a4c86-1111-4c3e-8f1a-0000000000%02zx\"},\"serviceaccount\":{"
                 "\"name\":\"load%zu\",\"uid\":\"9b1d1c3a-2222-4f0e-b1c7-0000000000%02zx\"}},"
                 "\"nbf\":%" PRId64 ",\"sub\":\"system:serviceaccount:bench:load%zu\"}",
                 unix_s() + 3600, unix_s(), scene_issuer, i, i, i, i, i, unix_s(), i));
    TRY(buf_add_str(&c->token, "Bearer ", e));
    TRY(jwt_sign(s->token_key, "k1", false, buf_span(&claims), &c->token, e));
    TRY(csr_make(s->leaf_key, c->identity, &csr, e));
    return wire_answer_add(&c->request, buf_span(&csr), e); /* field 1 of both messages */
}

int
scene_make(enum key_kind ca_kind, enum key_kind leaf_kind, struct scene *s, struct err *e)
{
    CLEANUP(buf_done) struct buf jwks = BUF_INIT(8192);

    *s = (struct scene){ .dir = "/tmp/meshroot-bench-XXXXXX", .csr = BUF_INIT(CSR_MAX_BYTES) };
    if (mkdtemp(s->dir) == NULL) {
        s->dir[0] = '\0';
        return err_sys(e, errno, "cannot make a folder in /tmp");
    }
    (void)snprintf(s->ca_dir, sizeof(s->ca_dir), "%s/ca", s->dir);
    (void)snprintf(s->jwks, sizeof(s->jwks), "%s/jwks.json", s->dir);
    TRY(key_make(ca_kind, &s->root_key, e));
    TRY(key_make(ca_kind, &s->ca_key, e));
    TRY(key_make(leaf_kind, &s->leaf_key, e));
    TRY(key_make(KEY_RSA2048, &s->token_key, e)); /* as a cluster signs its tokens */
    TRY(set_make(s, e));
    TRY(jwks_of_key(s->token_key, "k1", &jwks, e));
    TRY(file_write(s->jwks, buf_span(&jwks), 0600, e));
    for (size_t i = 0; i < SCENE_CALLERS; i++)
        TRY(caller_make(s, i, &s->callers[i], e));
    return csr_make(s->leaf_key, s->callers[0].identity, &s->csr, e);
}

void
scene_done(struct scene *s)
{
    char command[128];

    key_unref(s->root_key);
    key_unref(s->ca_key);
    key_unref(s->leaf_key);
    key_unref(s->token_key);
    cert_unref(s->root);
    cert_unref(s->ca);
    roots_unref(s->roots);
    buf_done(&s->csr);
    for (size_t i = 0; i < SCENE_CALLERS; i++) {
        buf_done(&s->callers[i].token);
        buf_done(&s->callers[i].request);
    }
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", s->dir);
    if (s->dir[0] == '/' && system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", s->dir);
    *s = (struct scene){ .dir = "" };
}
