/* sets_kit.h - two Secrets of a played cluster, and sets of roots A and B to write into them. */
#ifndef TESTS_UNIT_OPERATOR_SETS_KIT_H
#define TESTS_UNIT_OPERATOR_SETS_KIT_H

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

static inline int
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

static inline int
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

static inline void
on_known(void *arg)
{
    ((struct scene *)arg)->known++;
}

static inline void
on_moved(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->moved++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static inline void
on_restored(const char *secret, const char *what, void *arg)
{
    struct scene *s = arg;

    s->restored++;
    (void)snprintf(s->secret, sizeof(s->secret), "%s", secret);
    (void)snprintf(s->what, sizeof(s->what), "%s", what);
}

static inline void
on_retired(const struct err *why, void *arg)
{
    struct scene *s = arg;

    s->retired++;
    s->why = why == NULL ? (struct err){ 0 } : *why;
}

static inline void
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

static inline int
setup(void **state)
{
    static struct scene s;

    play_start();
    open_places(&s, 2, false);
    *state = &s;
    return 0;
}

static inline int
teardown(void **state)
{
    struct scene *s = *state;

    sets_free(s->sets);
    play_end();
    return 0;
}

static inline int
write_set(struct scene *s, const struct bundle *b, const struct set_manifest *m)
{
    return s->port.write(s->port.self, b, m, &e);
}

static inline void
nothing_is_there(void)
{
    play_list(CACERTS, NULL, 0);
    play_list(CA, NULL, 0);
}

static inline json_t *
written(const char *method, const char *path)
{
    struct sent *q = play_find(method, path);

    assert_non_null(q);
    return json_deep_copy(q->body);
}

/* All writes under way are done, as of that version; pods are asked for, and there are none. */
static inline void
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
static inline void
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

static inline void
secret_part(const json_t *secret, const char *key, const struct bundle *b, enum bundle_part part)
{
    struct buf got = BUF_INIT(PEM_MAX_BYTES), want = BUF_INIT(PEM_MAX_BYTES);

    assert_int_equal(kube_secret_get(secret, key, &got, &e), 0);
    assert_ok(bundle_part_pem(b, part, &want, &e));
    assert_true(span_eq(buf_span(&got), buf_span(&want)));
    buf_wipe(&got);
    buf_wipe(&want);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
