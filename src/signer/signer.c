/* signer.c - see signer.h. */
#include "signer/signer.h"

#include <stdlib.h>

struct signer {
    struct key *key; /* a reference: the template's context uses it */
    struct leaf_template *leaf;
};

int
signer_new(const struct cert *cert, struct key *key, struct signer **ret, struct err *e)
{
    if (!cert_key_matches(cert, key))
        return err_set(e, E_DENIED, "the signer's key does not match its certificate");
    CLEANUP(signer_freep) struct signer *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    s->key = key_ref(key);
    TRY(leaf_template_new(cert, key, &s->leaf, e));
    *ret = STEAL(s);
    return 0;
}

void
signer_free(struct signer *s)
{
    if (s == NULL)
        return;
    leaf_template_free(s->leaf);
    key_unref(s->key);
    free(s);
}

const struct leaf_template *
signer_template(const struct signer *s)
{
    return s->leaf;
}

void
signer_sign(struct signer *s, struct span tbs, struct loop *loop, signer_done_fn *done, void *arg)
{
    uint8_t signature[SIGNATURE_MAX_BYTES];
    size_t n;
    struct err why;

    (void)loop;
    if (leaf_sign(s->leaf, tbs, signature, &n, &why) < 0)
        done((struct span){ NULL, 0 }, &why, arg);
    else
        done(span_of(signature, n), NULL, arg);
}
