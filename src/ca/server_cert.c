/* server_cert.c - the certificate of our own listener, from the signer that signs workloads. */
#include "base/clock.h"
#include "ca/room.h"

void
ca_server_cert_done(struct ca_server_cert *c)
{
    key_unref(c->key);
    cert_unref(c->leaf);
    *c = (struct ca_server_cert){ .key = NULL };
}

static int
leaf_issue(const struct ca_view *v, const struct leaf_request *q, struct cert **ret, struct err *e)
{
    const struct leaf_template *t = signer_template(v->signer);
    uint8_t tbs[TBS_MAX_BYTES], der[LEAF_MAX_BYTES];
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t tbs_n, der_n, signature_n;

    TRY(leaf_tbs(t, q, tbs, &tbs_n, e));
    TRY(signer_sign_wait(v->signer, span_of(tbs, tbs_n), signature, &signature_n, e));
    TRY(leaf_finish(t, span_of(tbs, tbs_n), span_of(signature, signature_n), der, &der_n, e));
    TRY(leaf_lint(t, q, span_of(der, der_n), e));
    return cert_from_der(span_of(der, der_n), ret, e);
}

int
ca_server_cert_make(const struct ca_conf *conf, const struct ca_view *v, struct ca_server_cert *ret,
                    struct err *e)
{
    CLEANUP(key_unrefp) struct key *key = NULL;
    CLEANUP(buf_done) struct buf spki = BUF_INIT(LEAF_MAX_BYTES);
    int64_t now = unix_s(), end = now + CA_SERVER_LEAF_S;
    struct cert *leaf;

    TRY(key_make(KEY_P256, &key, e));
    TRY(key_spki(key, &spki, e));
    struct leaf_request q = { .profile = LEAF_SERVER,
                              .spki = buf_span(&spki),
                              .sans = conf->who.dns_names,
                              .sans_n = conf->who.dns_names_n,
                              .not_before = now - LEAF_BACKDATE_S,
                              .not_after = end < v->not_after ? end : v->not_after };
    TRY(random_bytes(q.serial, sizeof(q.serial), e));
    if (leaf_issue(v, &q, &leaf, e) < 0)
        return err_wrap(e, "the CA's own certificate");
    *ret = (struct ca_server_cert){ STEAL(key), leaf, now + (q.not_after - now) / 2 };
    return 0;
}

int
ca_server_tls(const struct ca_server_cert *c, const struct ca_view *v, struct tls_conf **ret,
              struct err *e)
{
    struct cert *chain[CHAIN_MAX];
    struct tls_conf_args a = { .is_server = true,
                               .key = c->key,
                               .leaf = c->leaf,
                               .chain = chain,
                               .roots = bundle_roots(v->bundle),
                               .rule = TLS_PEER_OPTIONAL,
                               .alpn = "h2",
                               .resumes = true };

    while (a.chain_n < bundle_chain_count(v->bundle) && a.chain_n < CHAIN_MAX) {
        chain[a.chain_n] = bundle_chain_at(v->bundle, a.chain_n);
        a.chain_n++;
    }
    return tls_conf_new(&a, ret, e);
}
