/* spread_kit.h - namespaces of a played cluster, and trust sets of roots A and B for them. */
#ifndef TESTS_UNIT_OPERATOR_SPREAD_KIT_H
#define TESTS_UNIT_OPERATOR_SPREAD_KIT_H

#include "play_kube.h"

#include <stdlib.h>
#include <unistd.h>

#include "obs/log.h"
#include "operator/spread.h"
#include "rotate/mesh_of_roots.h"

#define NAMESPACES "/api/v1/namespaces"
#define MAPS       "/api/v1/configmaps"

static struct err e;

static struct {
    struct authority a, b;
    struct roots *only_a, *both;
    char *text_a, *text_both, *text_turned; /* turned: both in another order, spaced */
} pki;

struct scene {
    struct spread *spread;
    unsigned changed, restored;
    char restored_ns[64];
    unsigned version; /* the server's last */
};

static inline char *
pem_text(struct cert *const *certs, size_t n, const char *between)
{
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    char *ret = NULL;

    for (size_t i = 0; i < n; i++) {
        assert_ok(buf_add_str(&b, between, &e));
        assert_ok(cert_to_pem(certs[i], &b, &e));
    }
    assert_ok(str_dup(buf_span(&b), &ret, &e));
    buf_done(&b);
    return ret;
}

static inline int
make_pki(void **state)
{
    (void)state;
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    make_root("A", &pki.a);
    make_root("B", &pki.b);
    struct cert *ab[] = { pki.a.cert, pki.b.cert };
    assert_ok(roots_from_certs(ab, 1, &pki.only_a, &e));
    assert_ok(roots_from_certs(ab, 2, &pki.both, &e));
    pki.text_a = pem_text(ab, 1, "");
    struct buf b = BUF_INIT(PEM_MAX_BYTES);
    assert_ok(roots_to_pem(pki.both, &b, &e));
    assert_ok(str_dup(buf_span(&b), &pki.text_both, &e));
    buf_done(&b);
    struct cert *turned[] = { roots_at(pki.both, 1), roots_at(pki.both, 0) };
    pki.text_turned = pem_text(turned, 2, "\n");
    return 0;
}

static inline int
free_pki(void **state)
{
    (void)state;
    roots_unref(pki.only_a);
    roots_unref(pki.both);
    authority_done(&pki.a);
    authority_done(&pki.b);
    free(pki.text_a);
    free(pki.text_both);
    free(pki.text_turned);
    return 0;
}

static inline void
on_change(void *arg)
{
    ((struct scene *)arg)->changed++;
}

static inline void
on_restored(const char *ns, const char *by, void *arg)
{
    struct scene *s = arg;

    s->restored++;
    (void)by;
    (void)snprintf(s->restored_ns, sizeof(s->restored_ns), "%s", ns);
}

static inline void
open_with(struct scene *s, const json_t *selector)
{
    const struct spread_conf conf = {
        .selector = selector, .on_change = on_change, .on_restored = on_restored, .arg = s
    };

    *s = (struct scene){ .version = 100 };
    assert_ok(spread_new(NULL, &conf, &s->spread, &e));
}

static inline int
setup(void **state)
{
    static struct scene s;

    play_start();
    open_with(&s, NULL);
    *state = &s;
    return 0;
}

static inline int
teardown(void **state)
{
    struct scene *s = *state;

    spread_free(s->spread);
    play_end();
    return 0;
}

static inline json_t *
namespace_of(const char *name)
{
    return play_object(NULL, name, "5", json_pack("{s:{s:s}}", "status", "phase", "Active"));
}

static inline json_t *
map_of(struct scene *s, const char *ns, const char *text)
{
    char version[16];

    (void)snprintf(version, sizeof(version), "%u", ++s->version);
    return play_object(ns, SPREAD_CONFIG_MAP, version,
                       json_pack("{s:{s:s}}", "data", SPREAD_KEY, text));
}

static inline void
namespace_put(const char *name)
{
    CLEANUP(json_decrefp) json_t *o = namespace_of(name);

    play_put(NAMESPACES, o);
}

static inline void
map_put(struct scene *s, const char *ns, const char *text)
{
    CLEANUP(json_decrefp) json_t *o = map_of(s, ns, text);

    play_put(MAPS, o);
}

static inline void
map_gone(struct scene *s, const char *ns)
{
    CLEANUP(json_decrefp) json_t *o = map_of(s, ns, "");

    play_gone(MAPS, o);
}

static inline void
namespace_gone(struct scene *s, const char *name)
{
    CLEANUP(json_decrefp) json_t *o = namespace_of(name);
    char version[16];

    (void)snprintf(version, sizeof(version), "%u", ++s->version);
    play_version(o, version);
    play_gone(NAMESPACES, o);
}

/* Both lists are read, and `names` (separated by blanks) are the namespaces; none has the map. */
static inline void
begin(struct scene *s, const char *names, struct roots *roots)
{
    char name[64];
    int n;

    play_list(NAMESPACES, NULL, 0);
    play_list(MAPS, NULL, 0);
    while (sscanf(names, "%63s%n", name, &n) == 1) {
        namespace_put(name);
        names += n;
    }
    assert_ok(spread_set(s->spread, roots, &e));
    play_wait(0);
}

static inline struct sent *
creation(const char *ns)
{
    char path[160];

    (void)snprintf(path, sizeof(path), NAMESPACES "/%s/configmaps?", ns);
    return play_find("POST", path);
}

static inline struct sent *
patch_of(const char *ns)
{
    char path[160];

    (void)snprintf(path, sizeof(path), NAMESPACES "/%s/configmaps/" SPREAD_CONFIG_MAP "?", ns);
    return play_find("PATCH", path);
}

static inline void
answer(struct scene *s, struct sent *q)
{
    char ns[64];

    assert_non_null(q);
    assert_int_equal(sscanf(q->path, NAMESPACES "/%63[^/]", ns), 1);
    play_answer(
        q,
        map_of(s, ns,
               json_string_value(json_object_get(json_object_get(q->body, "data"), SPREAD_KEY))),
        NULL);
    play_wait(0);
}

#define assert_state(s, want_namespaces, want_done)                                                \
    do {                                                                                           \
        struct spread_state st_ = spread_state((s)->spread);                                       \
        assert_int_equal(st_.namespaces, (want_namespaces));                                       \
        assert_int_equal(st_.done, (want_done));                                                   \
    } while (0)

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
