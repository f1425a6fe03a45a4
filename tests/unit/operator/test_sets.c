/* test_sets.c - the set in Secrets: what is written and over what, what is left alone, what counts
 * as a set of ours. */
#include "play_kube.h"

#include <stdlib.h>
#include <unistd.h>

#include "net/json.h"
#include "obs/log.h"
#include "operator/sets.h"
#include "rotate/mesh_of_roots.h"

#define CACERTS "/api/v1/namespaces/istio-system/secrets"
#define CA      "/api/v1/namespaces/meshroot-system/secrets"
#define OWNER   "istio-system/default"

static struct err e;

static struct {
    struct authority a, b, a1, a2;
    struct bundle *a_a1, *a_a2, *ab_a1;
} pki;

struct scene {
    struct sets *sets;
    struct rotate_target port;
    unsigned known, moved, restored, retired;
    struct err why;              /* of the last on_moved or retire */
    char secret[330], what[600]; /* of the last on_restored */
};

static const struct set_manifest first = { .generation = 7,
                                           .versions = { { "v1", "v2", "v3", "v4" } } };
static const struct set_manifest second = { .generation = 8,
                                            .versions = { { "v1", "w2", "w3", "w4" } } };

static int
make_pki(void **state)
{
    (void)state;
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    make_root("A", &pki.a);
    make_root("B", &pki.b);
    make_intermediate("A1", 100, &pki.a, &pki.a1);
    make_intermediate("A2", 100, &pki.a, &pki.a2);
    pki.a_a1 = make_bundle(&pki.a, &pki.a1, NULL);
    pki.a_a2 = make_bundle(&pki.a, &pki.a2, NULL);
    pki.ab_a1 = make_bundle(&pki.a, &pki.a1, &pki.b);
    return 0;
}

static int
free_pki(void **state)
{
    (void)state;
    bundle_unref(pki.a_a1);
    bundle_unref(pki.a_a2);
    bundle_unref(pki.ab_a1);
    authority_done(&pki.a);
    authority_done(&pki.b);
    authority_done(&pki.a1);
    authority_done(&pki.a2);
    return 0;
}

static void
on_known(void *arg)
{
    ((struct scene *)arg)->known++;
}

static void
on_moved(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->moved++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static void
on_restored(const char *secret, const char *what, void *arg)
{
    struct scene *s = arg;

    s->restored++;
    (void)snprintf(s->secret, sizeof(s->secret), "%s", secret);
    (void)snprintf(s->what, sizeof(s->what), "%s", what);
}

static void
on_retired(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->retired++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static void
open_places(struct scene *s, size_t n, bool adopt)
{
    struct sets_conf conf = {
        .places = { { .ns = "istio-system", .name = "cacerts", .pods = "app=istiod" },
                    { .ns = "meshroot-system",
                      .name = "meshroot-ca",
                      .has_manifest = true,
                      .pods = "app=meshroot-ca" } },
        .places_n = n,
        .owner = OWNER,
        .adopt = adopt,
        .on_known = on_known,
        .on_moved = on_moved,
        .on_restored = on_restored,
        .arg = s,
    };

    *s = (struct scene){ .sets = NULL };
    assert_ok(sets_new(NULL, &conf, &s->sets, &e));
    s->port = sets_port(s->sets);
}

static int
setup(void **state)
{
    static struct scene s;

    play_start();
    open_places(&s, 2, false);
    *state = &s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    sets_free(s->sets);
    play_end();
    return 0;
}

static int
write_set(struct scene *s, const struct bundle *b, const struct set_manifest *m)
{
    return s->port.write(s->port.self, b, m, &e);
}

static void
nothing_is_there(void)
{
    play_list(CACERTS, NULL, 0);
    play_list(CA, NULL, 0);
}

static json_t *
written(const char *method, const char *path)
{
    struct sent *q = play_find(method, path);

    assert_non_null(q);
    return json_deep_copy(q->body);
}

/* All writes under way are done, as of that version; pods are asked for, and there are none. */
static void
answer_all(const char *version)
{
    struct sent *q;

    for (size_t i = 0; i < play_sent_n(); i++) {
        q = play_sent(i);
        if (!q->is_over && (strcmp(q->method, "POST") == 0 || strcmp(q->method, "PUT") == 0))
            play_answer(q, NULL, version);
    }
    while ((q = play_find("GET", "/")) != NULL)
        play_answer(q, json_pack("{s:[]}", "items"), NULL);
    play_forget();
}

/* The first set lies in both. *ret_cacerts, *ret_ca: as the server has them; owner: caller. */
static void
both_written(struct scene *s, json_t **ret_cacerts, json_t **ret_ca)
{
    nothing_is_there();
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    *ret_cacerts = written("POST", CACERTS);
    *ret_ca = written("POST", CA);
    play_version(*ret_cacerts, "10");
    play_version(*ret_ca, "10");
    answer_all("10");
    assert_int_equal(sets_generation(s->sets), 7);
}

static void
secret_part(const json_t *secret, const char *key, const struct bundle *b, enum bundle_part part)
{
    struct buf got = BUF_INIT(PEM_MAX_BYTES), want = BUF_INIT(PEM_MAX_BYTES);

    assert_int_equal(kube_secret_get(secret, key, &got, &e), 0);
    assert_ok(bundle_part_pem(b, part, &want, &e));
    assert_true(span_eq(buf_span(&got), buf_span(&want)));
    buf_wipe(&got);
    buf_wipe(&want);
}

/* -- writes --------------------------------------------------------------------------------------
 */

static void
nothing_is_written_before_all_is_known(void **state)
{
    struct scene *s = *state;

    assert_err(write_set(s, pki.a_a1, &first), E_BUSY, "Secret istio-system/cacerts");
    play_list(CACERTS, NULL, 0);
    assert_int_equal(s->known, 0);
    assert_false(sets_are_known(s->sets));
    assert_err(write_set(s, pki.a_a1, &first), E_BUSY, "Secret meshroot-system/meshroot-ca");
    assert_nothing_sent();
    play_list(CA, NULL, 0);
    assert_int_equal(s->known, 1);
    assert_true(sets_are_known(s->sets));
    play_list(CA, NULL, 0); /* the next list is no news */
    assert_int_equal(s->known, 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
}

static void
a_whole_set_is_one_create(void **state)
{
    static const char *const keys[] = { "root-cert.pem", "ca-cert.pem", "ca-key.pem",
                                        "cert-chain.pem" };
    struct scene *s = *state;
    struct bundle *b = NULL;
    struct set_manifest m;

    nothing_is_there();
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), SET_ABSENT);
    assert_false(sets_exist(s->sets));
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 2);
    CLEANUP(json_decrefp)
    json_t *cacerts = written("POST", CACERTS "?"), *ca = written("POST", CA "?");
    assert_string_equal(kube_object_text(cacerts, "type"), "Opaque");
    assert_int_equal(json_object_size(json_object_get(cacerts, "data")), 4);
    assert_int_equal(json_object_size(json_object_get(ca, "data")), 5);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        secret_part(cacerts, keys[i], pki.a_a1, (enum bundle_part)i);
        secret_part(ca, keys[i], pki.a_a1, (enum bundle_part)i);
    }
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_OWNER), OWNER);
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_GENERATION), "7");
    assert_string_equal(kube_object_get_annotation(cacerts, SETS_VERSIONS),
                        "{\"root-cert\":\"v1\",\"ca-cert\":\"v2\",\"ca-key\":\"v3\","
                        "\"cert-chain\":\"v4\"}");
    assert_string_equal(kube_object_get_label(cacerts, "app.kubernetes.io/managed-by"), "meshroot");
    /* until both are there, the set is not */
    play_answer(play_find("POST", CACERTS), NULL, "10");
    assert_int_equal(s->moved, 0);
    assert_int_equal(sets_generation(s->sets), 0);
    play_answer(play_find("POST", CA), NULL, "11");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_NONE);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), 0);
    assert_memory_equal(cert_id(bundle_signer(b)), cert_id(pki.a1.cert), DIGEST_BYTES);
    assert_int_equal(m.generation, 7);
    assert_memory_equal(&m.versions, &first.versions, sizeof(m.versions));
    bundle_unref(b);
    /* what is there is not written again */
    answer_all("12");
    assert_int_equal(write_set(s, pki.a_a1, &first), 0);
    assert_nothing_sent();
}

static void
an_update_says_what_it_was_made_from(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    /* somebody labels it: what is his stays, the set is as good as before */
    assert_ok(kube_object_label(cacerts, "team", "sre", &e));
    assert_ok(kube_object_annotate(cacerts, "note", "hands off", &e));
    json_t *owners = json_pack("[{s:s}]", "uid", "o-1");
    assert_int_equal(
        json_object_set_new(json_object_get(cacerts, "metadata"), "ownerReferences", owners), 0);
    play_version(cacerts, "20");
    play_put(CACERTS, cacerts);
    assert_int_equal(s->restored, 0);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    CLEANUP(json_decrefp) json_t *now = written("PUT", CACERTS "/cacerts?");
    assert_string_equal(kube_object_version(now), "20");
    assert_string_equal(kube_object_get_label(now, "team"), "sre");
    assert_string_equal(kube_object_get_annotation(now, "note"), "hands off");
    assert_string_equal(kube_object_get_annotation(now, SETS_GENERATION), "8");
    assert_true(
        json_equal(json_object_get(json_object_get(now, "metadata"), "ownerReferences"), owners));
    secret_part(now, "ca-cert.pem", pki.a_a2, PART_CA_CERT);
    assert_string_equal(kube_object_version(play_find("PUT", CA "/meshroot-ca?")->body), "10");
    answer_all("21");
    assert_int_equal(sets_generation(s->sets), 8);
}

/* Another signer, other roots, another generation: each is another set. */
static void
any_difference_is_written(void **state)
{
    static const struct set_manifest later = { .generation = 8,
                                               .versions = { { "v1", "v2", "v3", "v4" } } };
    const struct {
        const struct bundle *b;
        const struct set_manifest *m;
        size_t writes;
    } rows[] = { { pki.a_a1, &first, 0 }, { pki.a_a2, &first, 2 },  { pki.a_a2, &first, 0 },
                 { pki.a_a1, &first, 2 }, { pki.ab_a1, &first, 2 }, { pki.ab_a1, &later, 2 } };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    char version[8];

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_int_equal(write_set(s, rows[i].b, rows[i].m),
                         rows[i].writes == 0 ? 0 : ROTATE_LATER);
        assert_int_equal(play_sent_n(), rows[i].writes);
        (void)snprintf(version, sizeof(version), "%zu", 11 + i);
        answer_all(version);
    }
}

static void
a_write_that_fails_is_told_with_its_secret(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    unsigned moved = s->moved;
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_err(write_set(s, pki.a_a2, &second), E_BUSY, "a write is under way");
    play_fail(play_find("PUT", CACERTS), E_CONFLICT, "has been modified");
    assert_int_equal(s->moved, moved);
    play_answer(play_find("PUT", CA), NULL, "11");
    assert_int_equal(s->moved, moved + 1);
    assert_int_equal(s->why.code, E_CONFLICT);
    assert_non_null(strstr(s->why.msg, "Secret istio-system/cacerts: has been modified"));
    assert_int_equal(sets_generation(s->sets), 7); /* the least of the two */
    struct bundle *b = NULL;
    struct set_manifest m;
    assert_int_equal(s->port.read(s->port.self, &b, &m, &e), 0);
    assert_int_equal(m.generation, 7);
    bundle_unref(b);
    answer_all("11");
    /* the next try writes what is missing, and no more */
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    assert_string_equal(kube_object_version(play_find("PUT", CACERTS)->body), "10");
    /* it is gone: the one after that makes it */
    play_fail(play_find("PUT", CACERTS), E_NOTFOUND, "not found");
    play_forget();
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    assert_string_equal(kube_object_version(play_find("POST", CACERTS)->body), "");
    answer_all("12");
    assert_int_equal(s->why.code, E_NONE);
    assert_int_equal(sets_generation(s->sets), 8);
}

static void
a_write_that_does_not_begin(void **state)
{
    struct scene *s = *state;

    nothing_is_there();
    play_refuse_next(2);
    assert_err(write_set(s, pki.a_a1, &first), E_LIMIT, "too many requests");
    assert_int_equal(s->moved, 0);
    play_refuse_next(1); /* one of the two: told with the other's end */
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(s->moved, 0);
    answer_all("10");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_LIMIT);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    answer_all("11");
    assert_int_equal(sets_generation(s->sets), 7);
}

/* -- whose it is ---------------------------------------------------------------------------------
 */

static void
somebody_elses_is_not_touched(void **state)
{
    static const char *const owners[] = { NULL, "istio-system/other", "istio-system/default2" };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    struct bundle *b = NULL;
    struct set_manifest m;

    both_written(s, &cacerts, &ca);
    json_t *notes = json_object_get(json_object_get(cacerts, "metadata"), "annotations");
    for (size_t i = 0; i < ARRAY_LEN(owners); i++) {
        if (owners[i] == NULL)
            assert_int_equal(json_object_del(notes, SETS_OWNER), 0);
        else
            assert_ok(kube_object_annotate(cacerts, SETS_OWNER, owners[i], &e));
        char version[8];
        (void)snprintf(version, sizeof(version), "%zu", 20 + i);
        play_version(cacerts, version);
        play_put(CACERTS, cacerts);
        assert_true(sets_exist(s->sets));
        assert_int_equal(sets_generation(s->sets), 0);
        assert_err(s->port.read(s->port.self, &b, &m, &e), E_DENIED, "not marked as ours");
        /* nor is the other Secret written: a set is in both, or in none */
        assert_err(write_set(s, pki.a_a2, &second), E_DENIED, "spec.adopt: true");
        assert_nothing_sent();
    }
}

static void
adopted_it_is_taken_over(void **state)
{
    struct scene *s = *state;
    json_t *foreign = play_object("istio-system", "cacerts", "33",
                                  json_pack("{s:s, s:{s:s}, s:{s:{s:s}}}", "type", "Opaque", "data",
                                            "own.pem", "eA==", "metadata", "labels", "by", "hand"));

    sets_free(s->sets);
    open_places(s, 1, true);
    play_list(CACERTS, (const json_t *const *)&foreign, 1);
    assert_int_equal(s->known, 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    CLEANUP(json_decrefp) json_t *now = written("PUT", CACERTS "/cacerts?");
    assert_string_equal(kube_object_version(now), "33");
    assert_string_equal(kube_object_get_label(now, "by"), "hand");
    assert_string_equal(kube_object_get_annotation(now, SETS_OWNER), OWNER);
    assert_int_equal(json_object_size(json_object_get(now, "data")), 4); /* ours as a whole */
    answer_all("34");
    assert_int_equal(sets_generation(s->sets), 7);
    json_decref(foreign);
}

/* -- what is a set of ours -----------------------------------------------------------------------
 */

enum bend { NOTE, DATA, PUT_DATA };

static void
what_is_not_as_we_write_it_is_no_set(void **state)
{
    static const struct {
        bool in_ca; /* the one with a manifest */
        enum bend bend;
        const char *key, *value; /* NULL: away with it */
        const char *words;
    } rows[] = {
        { false, DATA, "ca-key.pem", NULL, "exactly its 4 keys" },
        { false, PUT_DATA, "more.pem", "x", "exactly its 4 keys" },
        { true, DATA, "manifest.json", NULL, "exactly its 5 keys" },
        { false, PUT_DATA, "root-cert.pem", "no PEM", "root-cert.pem" },
        { true, PUT_DATA, "manifest.json", "{", "manifest.json" },
        { false, DATA, "ca-cert.pem", "!", "ca-cert.pem" },
        { false, NOTE, SETS_GENERATION, NULL, "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "0", "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "-7", "Secret istio-system/cacerts" },
        { false, NOTE, SETS_GENERATION, "9223372036854775808", "Secret istio-system/cacerts" },
        { true, NOTE, SETS_GENERATION, "8", "not that of its manifest.json" },
        { false, NOTE, SETS_VERSIONS, NULL, SETS_VERSIONS },
        { false, NOTE, SETS_VERSIONS, "{\"root-cert\":\"v1\"}", SETS_VERSIONS },
        { false, NOTE, SETS_VERSIONS, "[]", SETS_VERSIONS },
    };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    unsigned version = 100, restored = 0;

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *path = rows[i].in_ca ? CA : CACERTS;
        CLEANUP(json_decrefp) json_t *bent = json_deep_copy(rows[i].in_ca ? ca : cacerts);
        json_t *meta = json_object_get(bent, "metadata"), *data = json_object_get(bent, "data");
        json_t *at = rows[i].bend == NOTE ? json_object_get(meta, "annotations") : data;
        struct bundle *b = NULL;
        struct set_manifest m;
        char text[16];

        if (rows[i].value == NULL)
            assert_int_equal(json_object_del(at, rows[i].key), 0);
        else if (rows[i].bend == PUT_DATA)
            assert_ok(kube_secret_set(bent, rows[i].key, span_str(rows[i].value), &e));
        else
            assert_int_equal(json_object_set_new(at, rows[i].key, json_string(rows[i].value)), 0);
        (void)snprintf(text, sizeof(text), "%u", version++);
        play_version(bent, text);
        play_put(path, bent);
        assert_int_equal(sets_generation(s->sets), 0);
        int r = s->port.read(s->port.self, &b, &m, &e);
        assert_true(r < 0);
        if (strstr(e.msg, rows[i].words) == NULL)
            fail_msg("row %zu: \"%s\" does not say \"%s\"", i, e.msg, rows[i].words);
        assert_int_equal(s->restored, ++restored);
        /* and it is put back over what was read */
        assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
        assert_int_equal(play_sent_n(), 1);
        assert_string_equal(kube_object_version(play_sent(0)->body), text);
        (void)snprintf(text, sizeof(text), "%u", version++);
        answer_all(text);
        assert_int_equal(sets_generation(s->sets), 7);
    }
}

/* The same certificates in other bytes: istiod would read them, we would not have written them. */
static void
other_bytes_are_not_ours(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;
    struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    both_written(s, &cacerts, &ca);
    assert_int_equal(kube_secret_get(cacerts, "root-cert.pem", &pem, &e), 0);
    assert_ok(buf_add_str(&pem, "\n", &e));
    assert_ok(kube_secret_set(cacerts, "root-cert.pem", buf_span(&pem), &e));
    buf_done(&pem);
    play_version(cacerts, "20");
    play_put(CACERTS, cacerts);
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->secret, "Secret istio-system/cacerts");
    assert_non_null(strstr(s->what, "root-cert.pem is not as it was written"));
}

/* -- watches -------------------------------------------------------------------------------------
 */

static void
what_is_deleted_is_told(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL, *other = NULL;

    both_written(s, &cacerts, &ca);
    unsigned moved = s->moved;
    other = json_deep_copy(cacerts);
    json_object_set_new(json_object_get(other, "metadata"), "uid", json_string("uid-0"));
    play_gone(CACERTS, other); /* the end of the one before it */
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 0);
    play_gone(CACERTS, cacerts);
    assert_int_equal(sets_generation(s->sets), 0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->what, "was deleted");
    assert_int_equal(s->moved, moved + 1);
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    assert_int_equal(play_sent_n(), 1);
    assert_non_null(play_find("POST", CACERTS));
    answer_all("30");
    /* a list without it says the same */
    play_list(CA, NULL, 0);
    assert_int_equal(s->restored, 2);
    assert_string_equal(s->secret, "Secret meshroot-system/meshroot-ca");
}

static void
news_from_before_our_write_is_old(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL, *old = NULL;

    both_written(s, &cacerts, &ca);
    old = json_deep_copy(cacerts);
    assert_int_equal(json_object_del(json_object_get(old, "data"), "ca-key.pem"), 0);
    play_version(old, "9");
    play_put(CACERTS, old);
    assert_int_equal(sets_generation(s->sets), 7);
    assert_int_equal(s->restored, 0);
    unsigned moved = s->moved;
    play_put(CACERTS, cacerts); /* our own write, as the watch tells it */
    assert_int_equal(s->moved, moved);
    /* a later change overtakes the answer of our write */
    assert_int_equal(write_set(s, pki.a_a2, &second), ROTATE_LATER);
    play_version(old, "40");
    play_put(CACERTS, old);
    answer_all("39");
    assert_int_equal(sets_generation(s->sets), 0);
}

/* -- pods ----------------------------------------------------------------------------------------
 */

static void
pods_are_told_to_look(void **state)
{
    enum { PODS = 70, TOLD = 64 };
    struct scene *s = *state;
    json_t *items = json_array();
    char name[16];

    nothing_is_there();
    assert_int_equal(write_set(s, pki.a_a1, &first), ROTATE_LATER);
    play_answer(play_find("POST", CACERTS), NULL, "10");
    struct sent *q =
        play_find("GET", "/api/v1/namespaces/istio-system/pods?labelSelector=app=istiod");
    assert_non_null(q);
    for (int i = 0; i < PODS; i++) {
        (void)snprintf(name, sizeof(name), "p%d", i);
        json_array_append_new(items, play_object("istio-system", name, "1", NULL));
    }
    size_t before = play_sent_n();
    play_answer(q, json_pack("{s:o}", "items", items), NULL);
    assert_int_equal(play_sent_n() - before, TOLD);
    for (size_t i = before; i < play_sent_n(); i++) {
        q = play_sent(i);
        assert_string_equal(q->method, "PATCH");
        assert_non_null(strstr(q->path, "/api/v1/namespaces/istio-system/pods/p"));
        assert_string_equal(kube_object_get_annotation(q->body, SETS_GENERATION), "7");
        assert_int_equal(json_object_size(q->body), 1); /* nothing else of the pod */
        if (i % 2 == 0)
            play_answer(q, NULL, NULL);
        else
            play_fail(q, E_DENIED, "cannot patch pods"); /* a help, not a promise */
    }
    answer_all("11");
    assert_int_equal(s->moved, 1);
    assert_int_equal(s->why.code, E_NONE);
}

/* -- retire --------------------------------------------------------------------------------------
 */

static void
retired_only_ours_goes(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    assert_ok(kube_object_annotate(ca, SETS_OWNER, "istio-system/other", &e));
    play_version(ca, "20");
    play_put(CA, ca);
    unsigned restored = s->restored;
    assert_ok(sets_retire(s->sets, on_retired, s, &e));
    assert_err(write_set(s, pki.a_a1, &first), E_DENIED, "meshroot-ca");
    assert_int_equal(play_sent_n(), 1);
    struct sent *q = play_find("DELETE", CACERTS "/cacerts");
    assert_non_null(q);
    const json_t *only = json_object_get(q->body, "preconditions");
    assert_string_equal(kube_object_text(only, "uid"), "uid-1");
    assert_string_equal(kube_object_text(only, "resourceVersion"), "10");
    play_wait(0);
    assert_int_equal(s->retired, 0);
    play_answer(q, NULL, NULL);
    assert_int_equal(s->retired, 1);
    assert_int_equal(s->why.code, E_NONE);
    unsigned moved = s->moved;
    play_gone(CACERTS, cacerts); /* nobody puts it back */
    assert_int_equal(s->restored, restored);
    assert_int_equal(s->moved, moved);
}

static void
retired_what_is_gone_is_gone_and_what_fails_is_told(void **state)
{
    static const struct {
        enum err_code first, second, says;
    } rows[] = { { E_NOTFOUND, E_NOTFOUND, E_NONE },
                 { E_CONFLICT, E_NONE, E_CONFLICT },
                 { E_NOTFOUND, E_DENIED, E_DENIED } };
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *cacerts = NULL, *ca = NULL;

    both_written(s, &cacerts, &ca);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        assert_ok(sets_retire(s->sets, on_retired, s, &e));
        assert_err(sets_retire(s->sets, on_retired, s, &e), E_BUSY, "under way");
        play_fail(play_find("DELETE", CACERTS), rows[i].first, "words");
        if (rows[i].second == E_NONE)
            play_answer(play_find("DELETE", CA), NULL, NULL);
        else
            play_fail(play_find("DELETE", CA), rows[i].second, "words");
        assert_int_equal(s->retired, i); /* nor before this turn is over */
        play_wait(0);
        assert_int_equal(s->retired, i + 1);
        assert_int_equal(s->why.code, rows[i].says);
        if (rows[i].says != E_NONE)
            assert_non_null(strstr(s->why.msg, "Secret "));
        play_forget();
    }
}

static void
retired_with_nothing_there(void **state)
{
    struct scene *s = *state;

    nothing_is_there();
    assert_ok(sets_retire(s->sets, on_retired, s, &e));
    assert_int_equal(s->retired, 0);
    play_wait(0);
    assert_int_equal(s->retired, 1);
    assert_int_equal(s->why.code, E_NONE);
    assert_nothing_sent();
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_written_before_all_is_known),
        TEST(a_whole_set_is_one_create),
        TEST(an_update_says_what_it_was_made_from),
        TEST(any_difference_is_written),
        TEST(a_write_that_fails_is_told_with_its_secret),
        TEST(a_write_that_does_not_begin),
        TEST(somebody_elses_is_not_touched),
        TEST(adopted_it_is_taken_over),
        TEST(what_is_not_as_we_write_it_is_no_set),
        TEST(other_bytes_are_not_ours),
        TEST(what_is_deleted_is_told),
        TEST(news_from_before_our_write_is_old),
        TEST(pods_are_told_to_look),
        TEST(retired_only_ours_goes),
        TEST(retired_what_is_gone_is_gone_and_what_fails_is_told),
        TEST(retired_with_nothing_there),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
