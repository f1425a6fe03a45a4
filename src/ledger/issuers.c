/* issuers.c - the certificates that rows name by id, kept so that people can ask by subject. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "ledger/reader.h"
#include "ledger/record.h"
#include "ledger/walk.h"

static void
issuer_key(const uint8_t id[DIGEST_BYTES], char ret[ISSUER_KEY_BYTES])
{
    memcpy(ret, ISSUER_PREFIX, sizeof(ISSUER_PREFIX));
    hex_text(span_of(id, DIGEST_BYTES), ret + sizeof(ISSUER_PREFIX) - 1);
}

int
ledger_issuer_keep(struct store *s, const struct cert *c, struct err *e)
{
    char key[ISSUER_KEY_BYTES];
    struct store_op op = { .kind = STORE_PUT, .key = key, .value = cert_der(c) };

    issuer_key(cert_id(c), key);
    return store_commit(s, &op, 1, NULL, NULL, NULL, e);
}

int
issuers_put(struct store *s, const struct bundle *b, struct err *e)
{
    const struct roots *roots = bundle_roots(b);

    for (size_t i = 0; i < roots_count(roots); i++)
        TRY(ledger_issuer_keep(s, roots_at(roots, i), e));
    return ledger_issuer_keep(s, bundle_signer(b), e);
}

static int
issuer_parse(struct span der, const uint8_t id[DIGEST_BYTES], struct cert **ret, struct err *e)
{
    CLEANUP(cert_unrefp) struct cert *c = NULL;

    TRY(cert_from_der(der, &c, e));
    if (memcmp(cert_id(c), id, DIGEST_BYTES) != 0)
        return err_set(e, E_DENIED, "the certificate is not the one of this id: it was changed");
    *ret = STEAL(c);
    return 0;
}

int
ledger_issuer(struct store *s, const uint8_t id[DIGEST_BYTES], struct cert **ret, struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(STORE_VALUE_BYTES);
    char key[ISSUER_KEY_BYTES];

    issuer_key(id, key);
    if (TRY(store_get(s, key, &b, NULL, e)) == STORE_ABSENT)
        return STORE_ABSENT;
    return issuer_parse(buf_span(&b), id, ret, e) < 0 ? err_wrap(e, "%s", key) : 0;
}

struct matching {
    const char *text;
    struct issuer_ids *ids;
};

static int
issuer_match(const char *key, struct span value, uint64_t revision, void *arg, struct err *e)
{
    struct matching *m = arg;
    CLEANUP(cert_unrefp) struct cert *c = NULL;
    uint8_t id[DIGEST_BYTES];
    char subject[NAME_TEXT_BYTES];

    (void)revision;
    TRY(hex_parse(span_str(key + sizeof(ISSUER_PREFIX) - 1), id, sizeof(id), e));
    if (issuer_parse(value, id, &c, e) < 0)
        return err_wrap(e, "%s", key);
    cert_subject_text(c, subject);
    if (strstr(subject, m->text) == NULL)
        return 0;
    if (m->ids->n == LEDGER_ISSUER_MATCHES_MAX)
        return err_set(e, E_LIMIT, "more than %d issuers have \"%.60s\" in their subject",
                       (int)LEDGER_ISSUER_MATCHES_MAX, m->text);
    memcpy(m->ids->v[m->ids->n++], id, DIGEST_BYTES);
    return 0;
}

int
issuers_match(struct store *s, const char *text, struct issuer_ids *ret, struct err *e)
{
    struct matching m = { text, ret };
    size_t n = strlen(text);

    *ret = (struct issuer_ids){ .n = 0 };
    if (n >= LEDGER_ID_PREFIX_MIN && n < sizeof(ret->prefix) &&
        strspn(text, "0123456789abcdef") == n)
        memcpy(ret->prefix, text, n + 1);
    if (n > 0)
        TRY(store_list(s, ISSUER_PREFIX, NULL, SIZE_MAX, false, issuer_match, &m, e));
    if (ret->n == 0 && ret->prefix[0] == '\0')
        return err_set(e, E_NOTFOUND,
                       "no issuer has \"%.100s\" in its subject, and it is no id (at least %d "
                       "lower-case hex digits)",
                       text, (int)LEDGER_ID_PREFIX_MIN);
    return 0;
}

bool
issuer_is_in(const struct issuer_ids *ids, const uint8_t id[DIGEST_BYTES])
{
    char hex[DIGEST_TEXT_BYTES];

    for (size_t i = 0; i < ids->n; i++)
        if (memcmp(ids->v[i], id, DIGEST_BYTES) == 0)
            return true;
    if (ids->prefix[0] == '\0')
        return false;
    hex_text(span_of(id, DIGEST_BYTES), hex);
    return span_starts(span_str(hex), ids->prefix);
}
