/* test_set_file.c - what is written is read back; what does not belong together is refused by name.
 */
#include "unit.h"

#include <string.h>
#include <unistd.h>

#include "../pki/ca_kit.h"
#include "base/file.h"
#include "mint.h"
#include "mint_list.h"
#include "pki/bundle.h"
#include "sync/sync.h"
#include "tmpdir.h"

struct kit {
    struct mint_ca root, a1, a2;
    struct bundle *b1, *b2;
    char dir[64];
};

static struct bundle *
bundle_of(const struct mint_ca *root, const struct mint_ca *ca)
{
    struct buf text[PART__N];
    struct span parts[PART__N];
    struct bundle *b = NULL;
    struct err e = { 0 };

    for (size_t i = 0; i < PART__N; i++)
        text[i] = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(cert_to_pem(root->cert, &text[PART_ROOT_CERT], &e));
    assert_ok(cert_to_pem(ca->cert, &text[PART_CA_CERT], &e));
    assert_ok(key_to_pem(ca->key, &text[PART_CA_KEY], &e));
    assert_ok(cert_to_pem(ca->cert, &text[PART_CERT_CHAIN], &e));
    for (size_t i = 0; i < PART__N; i++)
        parts[i] = buf_span(&text[i]);
    assert_ok(bundle_new(parts, &b, &e));
    for (size_t i = 0; i < PART__N; i++)
        buf_wipe(&text[i]);
    return b;
}

static int
setup(void **state)
{
    static struct kit k;

    k = (struct kit){ .b1 = NULL };
    mint_ca(&k.root, "O=Istio,CN=Root A", NULL);
    mint_ca(&k.a1, "O=Istio,CN=A1", &k.root);
    mint_ca(&k.a2, "O=Istio,CN=A2", &k.root);
    k.b1 = bundle_of(&k.root, &k.a1);
    k.b2 = bundle_of(&k.root, &k.a2);
    tmpdir_make(k.dir);
    *state = &k;
    return 0;
}

static int
teardown(void **state)
{
    struct kit *k = *state;

    bundle_unref(k->b1);
    bundle_unref(k->b2);
    mint_ca_done(&k->a1);
    mint_ca_done(&k->a2);
    mint_ca_done(&k->root);
    tmpdir_remove(k->dir);
    return 0;
}

/* Reads the folder; `drop` is a file to pretend absent, `swap` one whose text is replaced by
 * `text`. */
static int
read_back(const struct kit *k, int drop, int swap, const char *text, struct bundle **ret,
          struct set_manifest *m, struct err *ret_e)
{
    struct err e = { 0 };
    struct buf bufs[SET_FILES];
    bool present[SET_FILES] = { false };

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(fileset_read(k->dir, set_file_names, SET_FILES, bufs, present, &e));
    if (drop >= 0) {
        present[drop] = false;
        bufs[drop].n = 0;
    }
    if (swap >= 0) {
        bufs[swap].n = 0;
        assert_ok(buf_add_str(&bufs[swap], text, &e));
    }
    int r = set_parse(bufs, present, ret, m, ret_e);
    for (size_t i = 0; i < SET_FILES; i++)
        buf_wipe(&bufs[i]);
    return r;
}

static const struct set_manifest manifest = { .generation = 7,
                                              .versions = { { "v1", "v2", "v3", "v4" } },
                                              .renew_window_ms = 2000 };

static void
test_round_trip(void **state)
{
    const struct kit *k = *state;
    struct bundle *b = NULL;
    struct set_manifest m = { 0 };
    struct err e = { 0 };

    assert_ok(set_write(k->dir, k->b1, &manifest, &e));
    assert_int_equal(read_back(k, -1, -1, NULL, &b, &m, &e), 0);
    assert_memory_equal(&m, &manifest, sizeof(m));
    assert_memory_equal(cert_id(bundle_signer(b)), cert_id(bundle_signer(k->b1)), DIGEST_BYTES);
    assert_true(roots_equal(bundle_roots(b), bundle_roots(k->b1)));
    bundle_unref(b);
}

/* The key's part may be anything: it is the signer process that reads it. */
static void
test_public(void **state)
{
    const struct kit *k = *state;
    struct buf bufs[SET_FILES], key = BUF_INIT(PEM_MAX_BYTES);
    bool present[SET_FILES] = { false };
    struct bundle *b = NULL;
    struct set_manifest m = { 0 };
    int fd = -1;
    struct err e = { 0 };

    for (size_t i = 0; i < SET_FILES; i++)
        bufs[i] = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(set_write(k->dir, k->b1, &manifest, &e));
    assert_ok(fileset_read_sealed(k->dir, set_file_names, SET_FILES, PART_CA_KEY, bufs, present,
                                  &fd, &e));
    (void)close(fd);
    assert_int_equal(set_parse_public(bufs, present, false, &b, &m, &e), 0);
    assert_memory_equal(&m, &manifest, sizeof(m));
    assert_memory_equal(cert_id(bundle_signer(b)), cert_id(bundle_signer(k->b1)), DIGEST_BYTES);
    assert_null(bundle_key(b));
    assert_err(bundle_part_pem(b, PART_CA_KEY, &key, &e), E_STATE, "without its key");
    struct bundle *same = NULL;
    assert_ok(bundle_with_roots(b, bundle_roots(b), &same, &e));
    bundle_unref(same);
    bundle_unref(b);
    present[PART_CA_KEY] = false;
    assert_err(set_parse_public(bufs, present, false, &b, &m, &e), E_DENIED, "ca-key.pem missing");
    assert_int_equal(set_parse_public(bufs, present, true, &b, &m, &e), 0); /* it is in a token */
    bundle_unref(b);
    present[PART_CERT_CHAIN] = false;
    assert_err(set_parse_public(bufs, present, true, &b, &m, &e), E_DENIED,
               "cert-chain.pem missing; a bundle is all of root-cert.pem, ca-cert.pem, cert-chain");
    for (size_t i = 0; i < SET_FILES; i++)
        present[i] = i == PART_CA_KEY;
    assert_int_equal(set_parse_public(bufs, present, true, &b, &m, &e), SET_ABSENT);
    for (size_t i = 0; i < SET_FILES; i++)
        buf_wipe(&bufs[i]);
}

static void
test_without_manifest(void **state)
{
    const struct kit *k = *state;
    struct bundle *b = NULL;
    struct set_manifest m = { .generation = 9 };
    struct err e = { 0 };

    assert_ok(set_write(k->dir, k->b1, &manifest, &e));
    assert_int_equal(read_back(k, SET_MANIFEST, -1, NULL, &b, &m, &e), 0);
    assert_int_equal(m.generation, 0);
    bundle_unref(b);
}

static void
test_refusals(void **state)
{
    const struct kit *k = *state;
    static const struct {
        int drop, swap;
        const char *text, *says;
        enum err_code code;
    } rows[] = {
        { PART_CA_KEY, -1, NULL, "ca-key.pem missing", E_DENIED },
        { PART_CERT_CHAIN, -1, NULL, "cert-chain.pem missing", E_DENIED },
        { -1, SET_MANIFEST, "[]", "want a JSON object", E_PARSE },
        { -1, SET_MANIFEST, "{", "manifest.json: line 1", E_PARSE },
        { -1, SET_MANIFEST, "{\"generation\":-1}", "generation: want a whole number", E_PARSE },
        { -1, SET_MANIFEST, "{\"generation\":1,\"generation\":2}", "manifest.json: line", E_PARSE },
        { -1, SET_MANIFEST, "{\"generation\":1,\"renew_window_ms\":0}", "versions: root-cert",
          E_PARSE },
        { -1, PART_CA_CERT, "no PEM", "ca-cert.pem", E_PARSE },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct bundle *b = NULL;
        struct set_manifest m = { .generation = 42 };
        struct err e = { 0 };

        assert_ok(set_write(k->dir, k->b1, &manifest, &e));
        assert_err(read_back(k, rows[i].drop, rows[i].swap, rows[i].text, &b, &m, &e), rows[i].code,
                   rows[i].says);
        assert_null(b);
        assert_int_equal(m.generation, 42); /* untouched */
    }
}

/* The fifth file: written and read with the others; on its own merits; absent when there is none.
 */
static void
test_lists_beside_the_set(void **state)
{
    const struct kit *k = *state;
    struct crls *lists = mint_lists(k->root.cert, k->root.key, 7, k->a2.cert);
    struct set_manifest m = manifest, got = { 0 };
    struct bundle *with = NULL, *b = NULL;
    struct err e = { 0 };
    char path[128];

    (void)snprintf(m.versions.v[PART_CA_CRL], VERSION_TEXT_BYTES, "c5");
    assert_ok(bundle_with_lists(k->b1, lists, &with, &e));
    assert_ok(set_write(k->dir, with, &m, &e));
    assert_int_equal(read_back(k, -1, -1, NULL, &b, &got, &e), 0);
    assert_true(crls_equal(bundle_lists(b), lists) && got.lists_why.code == E_NONE);
    assert_string_equal(got.versions.v[PART_CA_CRL], "c5");
    bundle_unref(b);
    b = NULL;
    assert_int_equal(read_back(k, -1, PART_CA_CRL, "garbage", &b, &got, &e), 0);
    assert_null(bundle_lists(b)); /* the four are as good as before */
    assert_int_equal(got.lists_why.code, E_PARSE);
    assert_non_null(strstr(got.lists_why.msg, "ca-crl.pem: no revocation list"));
    bundle_unref(b);
    b = NULL;
    assert_int_equal(read_back(k, -1, PART_CA_CRL, "\n", &b, &got, &e), 0); /* cut by accident */
    assert_null(bundle_lists(b));
    assert_int_equal(got.lists_why.code, E_PARSE);
    assert_non_null(strstr(got.lists_why.msg, "ca-crl.pem: it is empty"));
    bundle_unref(b);
    bundle_unref(with);
    b = with = NULL;
    assert_ok(bundle_with_lists(k->b2, lists, &with, &e)); /* they revoke A2 */
    assert_ok(set_write(k->dir, with, &m, &e));
    assert_err(read_back(k, -1, -1, NULL, &b, &got, &e), E_DENIED, "ca-crl.pem: \"CN=A2,O=Istio\"");
    assert_null(b);
    assert_ok(set_write(k->dir, k->b2, &manifest, &e));
    (void)snprintf(path, sizeof(path), "%s/ca-crl.pem", k->dir);
    assert_int_not_equal(access(path, F_OK), 0);
    bundle_unref(with);
    crls_unref(lists);
}

/* A root that was renewed with its key, so that it may sign lists: both are trusted for a while. */
static void
test_lists_of_a_renewed_root(void **state)
{
    const struct kit *k = *state;
    struct ca before, after;
    struct mint_ca signer;
    struct err e = { 0 };

    ca_bent(&before, NULL, "Twin", -1, 10,
            "basicConstraints=critical,CA:TRUE;keyUsage=critical,keyCertSign");
    after = (struct ca){ .key = before.key };
    after.cert = cert_bent(after.key, "Twin", NULL, -1, 20, CA_EXT);
    mint_ca(&signer, "O=Istio,CN=A1",
            &(struct mint_ca){ .key = after.key, .cert = after.cert, .roots = NULL });
    struct crls *lists = mint_lists(after.cert, after.key, 7, k->a2.cert);
    for (int i = 0; i < 2; i++) { /* in either order */
        struct cert *both[] = { i == 0 ? before.cert : after.cert,
                                i == 0 ? after.cert : before.cert };
        struct bundle *one = bundle_of(&(struct mint_ca){ .cert = after.cert }, &signer);
        struct bundle *two = NULL, *with = NULL, *b = NULL;
        struct set_manifest got = { 0 };
        struct roots *roots = NULL;

        assert_ok(roots_from_certs(both, 2, &roots, &e));
        assert_ok(bundle_with_roots(one, roots, &two, &e));
        assert_ok(bundle_with_lists(two, lists, &with, &e));
        assert_ok(set_write(k->dir, with, &manifest, &e));
        assert_int_equal(read_back(k, -1, -1, NULL, &b, &got, &e), 0);
        assert_true(crls_equal(bundle_lists(b), lists));
        assert_int_equal(got.lists_why.code, E_NONE);
        roots_unref(roots);
        bundle_unref(one);
        bundle_unref(two);
        bundle_unref(with);
        bundle_unref(b);
    }
    crls_unref(lists);
    mint_ca_done(&signer);
    cert_unref(after.cert);
    ca_done(&before);
}

/* A manifest of one set beside the files of another: somebody copied files by hand. */
static void
test_manifest_of_another_signer(void **state)
{
    const struct kit *k = *state;
    struct buf text = BUF_INIT(4096);
    struct bundle *b = NULL;
    struct set_manifest m = { 0 };
    struct err e = { 0 };
    char path[128];

    assert_ok(set_write(k->dir, k->b1, &manifest, &e));
    (void)snprintf(path, sizeof(path), "%s/manifest.json", k->dir);
    assert_ok(file_read(path, &text, &e));
    assert_ok(set_write(k->dir, k->b2, &manifest, &e));
    assert_err(read_back(k, -1, SET_MANIFEST, buf_text(&text), &b, &m, &e), E_DENIED,
               "is of another ca-cert.pem");
    buf_done(&text);
}

static void
test_absent(void **state)
{
    struct buf bufs[SET_FILES] = { 0 };
    bool present[SET_FILES] = { false };
    struct bundle *b = NULL;
    struct set_manifest m = { 0 };
    struct err e = { 0 };

    (void)state;
    assert_int_equal(set_parse(bufs, present, &b, &m, &e), SET_ABSENT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_public),
        cmocka_unit_test(test_without_manifest),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_lists_beside_the_set),
        cmocka_unit_test(test_lists_of_a_renewed_root),
        cmocka_unit_test(test_manifest_of_another_signer),
        cmocka_unit_test(test_absent),
    };
    return cmocka_run_group_tests_name("sync/set_file", tests, setup, teardown);
}
