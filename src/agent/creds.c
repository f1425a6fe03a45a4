#include "agent/creds.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "obs/log.h"

enum { SET_KEY, SET_CHAIN, SET_ROOTS, SET_META, SET_CRL, SET__N }; /* the last one may be absent */
static const char *const set_names[SET__N] = { "key.pem", "cert-chain.pem", "root-cert.pem",
                                               "meshroot.json", "ca-crl.pem" };

void
creds_free(struct creds *c)
{
    if (c == NULL)
        return;
    key_unref(c->key);
    cert_unref(c->leaf);
    for (size_t i = 0; i < c->chain_n; i++)
        cert_unref(c->chain[i]);
    roots_unref(c->roots);
    crls_unref(c->crls);
    free(c);
}

/* Takes the reference. The first certificate is the leaf; what is self-signed is not presented. */
static int
add_cert(struct creds *c, struct cert *take, struct err *e)
{
    if (c->leaf == NULL) {
        c->leaf = take;
        return 0;
    }
    if (cert_is_self_signed(take)) {
        cert_unref(take);
        return 0;
    }
    if (c->chain_n == CHAIN_MAX) {
        cert_unref(take);
        return err_set(e, E_LIMIT, "more than %d intermediates", (int)CHAIN_MAX);
    }
    c->chain[c->chain_n++] = take;
    return 0;
}

static int
add_pem(struct creds *c, struct span pem, struct err *e)
{
    struct cert *all[CHAIN_MAX + 2];
    size_t n = 0;
    int r = certs_from_pem(pem, all, ARRAY_LEN(all), &n, e);

    for (size_t i = 0; i < n; i++) {
        if (r == 0)
            r = add_cert(c, all[i], e);
        else
            cert_unref(all[i]);
    }
    return r;
}

static int
check_identity(const struct creds *c, const char *identity, struct err *e)
{
    struct span uri;
    int r = TRY(cert_spiffe_uri(c->leaf, &uri, e));

    if (r == CERT_NO_URI || !span_eq_str(uri, identity))
        return err_set(e, E_DENIED, "the leaf is for \"%.*s\", not for %s",
                       r == CERT_NO_URI || uri.n > 200 ? 0 : (int)uri.n, (const char *)uri.p,
                       identity);
    return 0;
}

/* Fills in who signed the leaf and which root it ends in. */
static int
check_chain(struct creds *c, struct err *e)
{
    struct cert *root;

    TRY(roots_verify(c->roots, c->leaf, c->chain, c->chain_n, &root, e));
    memcpy(c->leaf_root_id, cert_id(root), DIGEST_BYTES);
    memcpy(c->signer_id, cert_id(c->chain_n > 0 ? c->chain[0] : root), DIGEST_BYTES);
    return 0;
}

static int
check_all(struct creds *c, const char *identity, struct err *e)
{
    if (!cert_key_matches(c->leaf, c->key))
        return err_set(e, E_DENIED, "the leaf does not belong to our key");
    TRY(check_identity(c, identity, e));
    if (cert_not_after(c->leaf) <= unix_s())
        return err_set(e, E_DENIED, "the leaf has expired");
    TRY(check_chain(c, e));
    /* what is presented is in order (RFC 8446 4.4.2), and the signer is who signed the leaf */
    if (c->chain_n > 0 && !cert_is_signed_by(c->leaf, c->chain[0]))
        return err_set(e, E_DENIED, "the certificate after the leaf is not its issuer's");
    return 0;
}

int
creds_roots_from_pem(struct span pem, struct roots **ret, struct err *e)
{
    struct cert *all[2 * ROOTS_MAX];
    size_t n = 0;

    TRY(certs_from_pem(pem, all, ARRAY_LEN(all), &n, e));
    int r = roots_from_certs(all, n, ret, e);
    for (size_t i = 0; i < n; i++)
        cert_unref(all[i]);
    return r;
}

int
creds_from_answer(struct key *key, const char *identity, char *const *chain, size_t n,
                  struct creds **ret, struct err *e)
{
    CLEANUP(creds_freep) struct creds *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    if (n < 2)
        return err_set(e, E_PARSE,
                       "the CA's answer has %zu certificates: leaf and roots are needed", n);
    c->key = key_ref(key);
    c->received_s = unix_s();
    for (size_t i = 0; i + 1 < n; i++)
        if (add_pem(c, span_str(chain[i]), e) < 0)
            return err_wrap(e, "the CA's answer, element %zu", i + 1);
    if (creds_roots_from_pem(span_str(chain[n - 1]), &c->roots, e) < 0)
        return err_wrap(e, "the CA's answer, roots");
    if (check_all(c, identity, e) < 0)
        return err_wrap(e, "the CA's answer");
    *ret = STEAL(c);
    return 0;
}

int
creds_with_roots(const struct creds *c, struct roots *roots, struct crls *crls, uint64_t generation,
                 struct creds **ret, struct err *e)
{
    struct creds *d = calloc(1, sizeof(*d));
    struct err ignored;

    if (d == NULL)
        return err_nomem(e);
    *d = (struct creds){ .key = key_ref(c->key),
                         .leaf = cert_ref(c->leaf),
                         .chain_n = c->chain_n,
                         .received_s = c->received_s,
                         .roots = roots_ref(roots),
                         .crls = crls == NULL ? NULL : crls_ref(crls),
                         .generation = generation,
                         .leaf_generation = c->leaf_generation };
    memcpy(d->signer_id, c->signer_id, DIGEST_BYTES);
    for (size_t i = 0; i < c->chain_n; i++)
        d->chain[i] = cert_ref(c->chain[i]);
    (void)!check_chain(d, &ignored); /* the roots are the CA's to say; creds_leaf_is_trusted */
    *ret = d;
    return 0;
}

bool
creds_leaf_is_trusted(const struct creds *c)
{
    return roots_has(c->roots, c->leaf_root_id);
}

bool
creds_is_revoked(const struct creds *c)
{
    for (size_t i = 0; i < c->chain_n; i++)
        if (crls_revoke(c->crls, c->chain[i]))
            return true;
    return crls_revoke(c->crls, c->leaf);
}

/* Roots that were renewed with their key are two of one name: one of them is enough. */
static int
signed_by_its_root(const struct crl *x, const struct roots *roots, struct err *e)
{
    bool is_known = false;

    for (size_t i = 0; i < roots_count(roots); i++) {
        if (!crl_is_of(x, roots_at(roots, i)))
            continue;
        if (crl_verify(x, roots_at(roots, i), e) == 0)
            return 0;
        is_known = true;
    }
    return is_known ? err_result(e) : 0;
}

int
creds_lists_check(const struct creds *c, const struct roots *roots, const struct crls *lists,
                  struct err *e)
{
    for (size_t i = 0; i < crls_count(lists); i++) {
        const struct crl *x = crls_at(lists, i);
        char end[RFC3339_BYTES];

        if (!crl_is_signed(x))
            continue; /* believed from the CA alone, handed to nobody */
        rfc3339_s(crl_next_update(x), end);
        if (crl_next_update(x) <= unix_s())
            return err_set(e, E_DENIED, "a revocation list has expired at %s", end);
        for (size_t k = 0; k < c->chain_n; k++)
            if (crl_is_of(x, c->chain[k]))
                TRY(crl_verify(x, c->chain[k], e));
        TRY(signed_by_its_root(x, roots, e));
    }
    return 0;
}

bool
creds_trust_equal(const struct creds *a, const struct creds *b)
{
    return roots_equal(a->roots, b->roots) && crls_equal(a->crls, b->crls);
}

int
creds_crls_pem(const struct creds *c, struct buf *b, struct err *e)
{
    if (!crls_are_for_all(c->crls, c->roots))
        return 0;
    return crls_to_pem(c->crls, b, e) < 0 ? err_result(e) : 1;
}

bool
creds_lists_reach_roots(const struct creds *c)
{
    for (size_t i = 0; i < c->chain_n; i++)
        if (crls_of(c->crls, c->chain[i]) == NULL)
            return false;
    return crls_reach_roots(c->crls, c->roots);
}

/* -- files --------------------------------------------------------------------------------------
 */

static void bufs_wipe(struct buf (*bufs)[SET__N])
{
    for (size_t i = 0; i < SET__N; i++)
        buf_wipe(&(*bufs)[i]);
}

static int
meta_text(const char *identity, const struct creds *c, struct buf *b, struct err *e)
{
    char serial[SERIAL_TEXT_BYTES], end[RFC3339_BYTES];

    cert_serial_text(c->leaf, serial);
    rfc3339_s(cert_not_after(c->leaf), end);
    return buf_addf(b, e,
                    "{\"generation\": %llu, \"leaf_generation\": %llu, \"received\": %lld, "
                    "\"identity\": \"%s\", \"serial\": \"%s\", \"not_after\": \"%s\"}\n",
                    (unsigned long long)c->generation, (unsigned long long)c->leaf_generation,
                    (long long)c->received_s, identity, serial, end);
}

int
creds_write(const char *dir, const char *identity, const struct creds *c, struct err *e)
{
    CLEANUP(bufs_wipe) struct buf bufs[SET__N];
    struct fileset_file files[SET__N];

    for (size_t i = 0; i < SET__N; i++)
        bufs[i] = BUF_INIT(FILESET_MAX_FILE_BYTES);
    TRY(key_to_pem(c->key, &bufs[SET_KEY], e));
    TRY(cert_to_pem(c->leaf, &bufs[SET_CHAIN], e));
    for (size_t i = 0; i < c->chain_n; i++)
        TRY(cert_to_pem(c->chain[i], &bufs[SET_CHAIN], e));
    TRY(roots_to_pem(c->roots, &bufs[SET_ROOTS], e));
    TRY(meta_text(identity, c, &bufs[SET_META], e));
    size_t n = TRY(creds_crls_pem(c, &bufs[SET_CRL], e)) > 0 ? SET__N : SET_CRL;
    for (size_t i = 0; i < SET__N; i++)
        files[i] = (struct fileset_file){ .name = set_names[i],
                                          .mode = i == SET_KEY ? 0600 : 0644,
                                          .data = buf_span(&bufs[i]) };
    return fileset_write(dir, files, n, e);
}

static int
meta_parse(struct span text, struct creds *c, struct err *e)
{
    json_t *j = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *g = json_object_get(j, "generation"), *t = json_object_get(j, "received");
    const json_t *l = json_object_get(j, "leaf_generation"); /* not there: an agent of before */
    bool ok = json_is_integer(g) && json_integer_value(g) >= 0 && json_is_integer(t) &&
              (l == NULL || (json_is_integer(l) && json_integer_value(l) >= 0 &&
                             json_integer_value(l) <= json_integer_value(g)));

    if (ok) {
        c->generation = (uint64_t)json_integer_value(g);
        c->received_s = json_integer_value(t);
        c->leaf_generation = (uint64_t)json_integer_value(l);
    }
    json_decref(j);
    return ok ? 0 : err_set(e, E_PARSE, "%s: no sound generations", set_names[SET_META]);
}

/* A bad list never blocks a key: without one until the stream brings it again. */
static void
lists_parse(struct span pem, struct creds *c)
{
    struct err e;

    if (pem.n == 0)
        return;
    int r = crls_from_pem(pem, &c->crls, &e);
    if (r == 0)
        r = creds_lists_check(c, c->roots, c->crls, &e);
    if (r == 0)
        return;
    log_warn("agent", "%s is not used: %s", set_names[SET_CRL], e.msg);
    crls_unref(STEAL(c->crls));
}

static int
creds_parse(const struct buf *bufs, const char *identity, struct creds **ret, struct err *e)
{
    CLEANUP(creds_freep) struct creds *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    TRY(meta_parse(buf_span(&bufs[SET_META]), c, e));
    if (key_from_pem(buf_span(&bufs[SET_KEY]), &c->key, e) < 0)
        return err_wrap(e, "%s", set_names[SET_KEY]);
    if (add_pem(c, buf_span(&bufs[SET_CHAIN]), e) < 0)
        return err_wrap(e, "%s", set_names[SET_CHAIN]);
    if (roots_from_pem(buf_span(&bufs[SET_ROOTS]), &c->roots, e) < 0)
        return err_wrap(e, "%s", set_names[SET_ROOTS]);
    TRY(check_all(c, identity, e));
    lists_parse(buf_span(&bufs[SET_CRL]), c);
    *ret = STEAL(c);
    return 0;
}

int
creds_read(const char *dir, const char *identity, struct creds **ret, struct err *e)
{
    CLEANUP(bufs_wipe) struct buf bufs[SET__N];
    bool present[SET__N] = { false };

    for (size_t i = 0; i < SET__N; i++)
        bufs[i] = BUF_INIT(FILESET_MAX_FILE_BYTES);
    int r = TRY(fileset_read(dir, set_names, SET__N, bufs, present, e));
    if (r == FILE_ABSENT)
        return CREDS_ABSENT;
    for (size_t i = 0; i < SET_CRL; i++)
        if (!present[i])
            return CREDS_ABSENT;
    return creds_parse(bufs, identity, ret, e) < 0 ? err_wrap(e, "%s", dir) : 0;
}

bool
creds_exist(const char *dir)
{
    char path[PATH_MAX];

    (void)snprintf(path, sizeof(path), "%s/%s", dir, set_names[SET_CHAIN]);
    return access(path, F_OK) == 0;
}

static void
file_wipe(int dirfd, const char *name)
{
    static const char zeros[1024];
    struct stat st;
    int fd = openat(dirfd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd >= 0 && fstat(fd, &st) == 0)
        for (off_t at = 0; at < st.st_size; at += (off_t)sizeof(zeros))
            (void)!pwrite(fd, zeros,
                          (size_t)(st.st_size - at < (off_t)sizeof(zeros) ? st.st_size - at
                                                                          : (off_t)sizeof(zeros)),
                          at);
    if (fd >= 0) {
        (void)fsync(fd);
        (void)close(fd);
    }
    (void)unlinkat(dirfd, name, 0);
}

void
creds_wipe(const char *dir)
{
    DIR *d = opendir(dir);

    if (d == NULL)
        return;
    for (struct dirent *de; (de = readdir(d)) != NULL;) {
        if (strncmp(de->d_name, "..2", 3) != 0)
            continue;
        int fd = openat(dirfd(d), de->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue;
        file_wipe(fd, set_names[SET_KEY]);
        (void)close(fd);
    }
    for (size_t i = 0; i < SET__N; i++) /* links, or files written by hand */
        (void)unlinkat(dirfd(d), set_names[i], 0);
    (void)closedir(d);
}
