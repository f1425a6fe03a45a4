/* test_spread.c - the trust set in every selected namespace: who gets it, how it is written, when
 * it is tried again, and when somebody else is let be. */
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

static char *
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

static int
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

static int
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

static void
on_change(void *arg)
{
    ((struct scene *)arg)->changed++;
}

static void
on_restored(const char *ns, void *arg)
{
    struct scene *s = arg;

    s->restored++;
    (void)snprintf(s->restored_ns, sizeof(s->restored_ns), "%s", ns);
}

static void
open_with(struct scene *s, const json_t *selector)
{
    const struct spread_conf conf = {
        .selector = selector, .on_change = on_change, .on_restored = on_restored, .arg = s
    };

    *s = (struct scene){ .version = 100 };
    assert_ok(spread_new(NULL, &conf, &s->spread, &e));
}

static int
setup(void **state)
{
    static struct scene s;

    play_start();
    open_with(&s, NULL);
    *state = &s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    spread_free(s->spread);
    play_end();
    return 0;
}

static json_t *
namespace_of(const char *name)
{
    return play_object(NULL, name, "5", json_pack("{s:{s:s}}", "status", "phase", "Active"));
}

static json_t *
map_of(struct scene *s, const char *ns, const char *text)
{
    char version[16];

    (void)snprintf(version, sizeof(version), "%u", ++s->version);
    return play_object(ns, SPREAD_CONFIG_MAP, version,
                       json_pack("{s:{s:s}}", "data", SPREAD_KEY, text));
}

static void
namespace_put(const char *name)
{
    CLEANUP(json_decrefp) json_t *o = namespace_of(name);

    play_put(NAMESPACES, o);
}

static void
map_put(struct scene *s, const char *ns, const char *text)
{
    CLEANUP(json_decrefp) json_t *o = map_of(s, ns, text);

    play_put(MAPS, o);
}

static void
map_gone(struct scene *s, const char *ns)
{
    CLEANUP(json_decrefp) json_t *o = map_of(s, ns, "");

    play_gone(MAPS, o);
}

/* Both lists are read, and `names` (separated by blanks) are the namespaces; none has the map. */
static void
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

static struct sent *
creation(const char *ns)
{
    char path[160];

    (void)snprintf(path, sizeof(path), NAMESPACES "/%s/configmaps?", ns);
    return play_find("POST", path);
}

static struct sent *
patch_of(const char *ns)
{
    char path[160];

    (void)snprintf(path, sizeof(path), NAMESPACES "/%s/configmaps/" SPREAD_CONFIG_MAP "?", ns);
    return play_find("PATCH", path);
}

static void
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

/* -- who gets it ---------------------------------------------------------------------------------
 */

static void
nothing_is_written_before_it_is_known_what_is_there(void **state)
{
    struct scene *s = *state;

    play_list(NAMESPACES, NULL, 0);
    namespace_put("shop");
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(1000);
    assert_nothing_sent(); /* it may lie there already */
    assert_false(spread_state(s->spread).is_whole);
    play_list(MAPS, NULL, 0);
    play_wait(0);
    assert_non_null(creation("shop"));
    assert_true(spread_state(s->spread).is_whole);
}

static void
no_set_no_write(void **state)
{
    struct scene *s = *state;

    play_list(NAMESPACES, NULL, 0);
    play_list(MAPS, NULL, 0);
    namespace_put("shop");
    map_put(s, "shop", pki.text_a);
    namespace_put("bank");
    map_put(s, "bank", "no PEM");
    play_wait(100000);
    assert_nothing_sent();
    assert_state(s, 2, 0);
    assert_string_equal(spread_state(s->spread).trouble, "");
    assert_true(spread_holds(s->spread, "shop", pki.only_a)); /* whoever wrote it */
}

static void
some_namespaces_are_left_out(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *going = namespace_of("going"), *ending = namespace_of("ending");

    begin(s, "kube-public kube-node-lease local-path-storage kube-system shop", pki.only_a);
    json_object_set_new(json_object_get(going, "metadata"), "deletionTimestamp",
                        json_string("2026-01-01T00:00:00Z"));
    json_object_set_new(json_object_get(ending, "status"), "phase", json_string("Terminating"));
    play_put(NAMESPACES, going);
    play_put(NAMESPACES, ending);
    play_wait(0);
    assert_int_equal(play_sent_n(), 2);
    assert_non_null(creation("kube-system"));
    assert_non_null(creation("shop"));
    assert_state(s, 2, 0);
}

static void
the_selector_decides_and_may_change_its_mind(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp)
    json_t *selector = json_pack("{s:{s:s}}", "matchLabels", "mesh", "on");
    CLEANUP(json_decrefp) json_t *ns = namespace_of("shop");

    spread_free(s->spread);
    open_with(s, selector);
    begin(s, "bank", pki.only_a);
    play_put(NAMESPACES, ns);
    play_wait(0);
    assert_nothing_sent();
    assert_state(s, 0, 0);
    assert_ok(kube_object_label(ns, "mesh", "on", &e));
    play_put(NAMESPACES, ns);
    play_wait(0);
    assert_int_equal(play_sent_n(), 1);
    answer(s, creation("shop"));
    assert_state(s, 1, 1);
    assert_ok(kube_object_label(ns, "mesh", "off", &e));
    play_put(NAMESPACES, ns);
    map_gone(s, "shop"); /* not ours to keep any more */
    play_wait(100000);
    assert_int_equal(play_sent_n(), 1);
    assert_int_equal(s->restored, 0);
    assert_state(s, 0, 0);
}

static void
names_that_no_namespace_has(void **state)
{
    static const char *const names[] = {
        "", "a-namespace-of-sixty-four-bytes-is-one-byte-longer-than-names-are"
    };
    struct scene *s = *state;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(json_decrefp) json_t *ns = namespace_of(names[i]), *map = map_of(s, names[i], "");
        const struct kube_feed_conf *f = play_feed(NAMESPACES), *m = play_feed(MAPS);

        assert_err(f->put(ns, f->arg, &e), E_PEER, "a namespace has the name");
        assert_err(m->put(map, m->arg, &e), E_PEER, "a namespace has the name");
    }
}

/* -- how it is written ---------------------------------------------------------------------------
 */

static void
where_none_is_it_is_made(void **state)
{
    struct scene *s = *state;

    begin(s, "shop", pki.only_a);
    struct sent *q = creation("shop");
    assert_non_null(q);
    assert_string_equal(kube_object_name(q->body), SPREAD_CONFIG_MAP);
    assert_string_equal(kube_object_get_label(q->body, "istio.io/config"), "true");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(q->body, "data"), SPREAD_KEY)),
        pki.text_a);
    assert_state(s, 1, 0); /* not before it is there */
    unsigned changed = s->changed;
    answer(s, q);
    assert_state(s, 1, 1);
    assert_true(s->changed > changed);
    assert_int_equal(play_sent_n(), 1);
}

static void
where_one_is_only_the_key_is_ours(void **state)
{
    struct scene *s = *state;

    begin(s, "bank", pki.both);
    map_put(s, "bank", pki.text_a); /* istiod was there before us: nobody changed what was right */
    assert_int_equal(s->restored, 0);
    map_put(s, "shop", pki.text_a);
    namespace_put("shop");
    play_wait(0);
    assert_int_equal(play_sent_n(), 2);
    struct sent *q = patch_of("shop");
    assert_non_null(q);
    CLEANUP(json_decrefp)
    json_t *want = json_pack("{s:{s:s}}", "data", SPREAD_KEY, pki.text_both);
    assert_true(json_equal(q->body, want));
    answer(s, q);
    assert_state(s, 2, 1);
}

static void
sets_are_compared_as_certificates(void **state)
{
    struct scene *s = *state;

    begin(s, "", pki.both);
    map_put(s, "turned", pki.text_turned);
    map_put(s, "less", pki.text_a);
    map_put(s, "none", "no PEM");
    namespace_put("turned");
    namespace_put("less");
    namespace_put("none");
    play_wait(0);
    assert_state(s, 3, 1);
    assert_null(patch_of("turned"));
    assert_non_null(patch_of("less"));
    assert_non_null(patch_of("none"));
    assert_true(spread_holds(s->spread, "turned", pki.both));
    assert_false(spread_holds(s->spread, "turned", pki.only_a));
    assert_true(spread_holds(s->spread, "less", pki.only_a));
    assert_false(spread_holds(s->spread, "none", pki.only_a));
    assert_false(spread_holds(s->spread, "nowhere", pki.only_a));
}

static void
so_many_at_once_and_no_more(void **state)
{
    enum { PLACES = 2 * SPREAD_CALLS_MAX + 5 };
    struct scene *s = *state;
    char name[16];

    play_list(NAMESPACES, NULL, 0);
    play_list(MAPS, NULL, 0);
    for (int i = 0; i < PLACES; i++) {
        (void)snprintf(name, sizeof(name), "n%d", i);
        namespace_put(name);
    }
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(0);
    assert_int_equal(play_sent_n(), SPREAD_CALLS_MAX);
    answer(s, play_sent(3));
    assert_int_equal(play_sent_n(), SPREAD_CALLS_MAX + 1);
    for (size_t i = 0; i < play_sent_n(); i++)
        if (!play_sent(i)->is_over)
            answer(s, play_sent(i));
    assert_int_equal(play_sent_n(), PLACES);
    assert_state(s, PLACES, PLACES);
}

static void
another_set_goes_to_all_and_the_same_to_none(void **state)
{
    struct scene *s = *state;

    begin(s, "a b", pki.only_a);
    answer(s, creation("a"));
    answer(s, creation("b"));
    play_forget();
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    play_wait(0);
    assert_nothing_sent();
    assert_ok(spread_set(s->spread, pki.both, &e));
    map_put(s, "a", pki.text_a); /* somebody labels what is there: it was right until now */
    play_wait(0);
    assert_state(s, 2, 0);
    assert_int_equal(play_sent_n(), 2);
    answer(s, patch_of("a"));
    answer(s, patch_of("b"));
    assert_state(s, 2, 2);
    assert_int_equal(s->restored, 0); /* it was us */
}

/* A set that changes while a write of the one before is under way. */
static void
overtaken_it_is_written_again(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    struct sent *q = creation("a");
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_int_equal(play_sent_n(), 1);
    answer(s, q);
    assert_state(s, 1, 0);
    answer(s, patch_of("a"));
    assert_state(s, 1, 1);
    assert_int_equal(s->restored, 0);
}

/* -- when it fails -------------------------------------------------------------------------------
 */

static void
tried_again_later_and_later(void **state)
{
    struct scene *s = *state;
    uint64_t wait = SPREAD_RETRY_FIRST_MS;

    begin(s, "a", pki.only_a);
    for (int i = 0; i < 12; i++) {
        struct sent *q = creation("a");

        assert_non_null(q);
        play_fail(q, E_DENIED, "cannot create configmaps");
        play_wait(0);
        assert_non_null(strstr(spread_state(s->spread).trouble, "cannot create configmaps"));
        play_wait(wait / 2 - 1);
        assert_null(creation("a"));
        play_wait(wait / 2 + 2);
        wait = 2 * wait > SPREAD_RETRY_MAX_MS ? SPREAD_RETRY_MAX_MS : 2 * wait;
    }
    answer(s, creation("a"));
    assert_state(s, 1, 1);
    assert_string_equal(spread_state(s->spread).trouble, "");
    /* what failed before counts no more */
    map_gone(s, "a");
    play_wait(0);
    play_fail(creation("a"), E_PEER, "away");
    play_wait(SPREAD_RETRY_FIRST_MS + 1);
    assert_non_null(creation("a"));
}

static void
the_watch_is_behind_the_other_verb_at_once(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    play_fail(creation("a"), E_EXISTS, "already exists");
    play_wait(0);
    assert_non_null(patch_of("a"));
    play_fail(patch_of("a"), E_NOTFOUND, "not found");
    play_wait(0);
    answer(s, creation("a"));
    assert_state(s, 1, 1);
    /* but not for ever */
    map_gone(s, "a");
    play_wait(0);
    size_t before = play_sent_n();
    for (int i = 0; i < 20; i++) {
        struct sent *q = creation("a") != NULL ? creation("a") : patch_of("a");
        if (q != NULL)
            play_fail(q, strcmp(q->method, "POST") == 0 ? E_EXISTS : E_NOTFOUND, "words");
        play_wait(0);
    }
    assert_in_range(play_sent_n() - before, 2, 4);
}

static void
a_namespace_that_ends_is_left(void **state)
{
    struct scene *s = *state;

    begin(s, "a", pki.only_a);
    play_fail(creation("a"), E_STATE, "is being terminated");
    play_wait(SPREAD_RETRY_MAX_MS);
    assert_int_equal(play_sent_n(), 1);
    assert_state(s, 0, 0);
    assert_string_equal(spread_state(s->spread).trouble, "");
    /* and one of that name may come again */
    CLEANUP(json_decrefp) json_t *ns = namespace_of("a");
    play_gone(NAMESPACES, ns);
    for (int i = 0; i < 2; i++) { /* what lay in it went with it, whether that is told or not */
        namespace_put("a");
        play_wait(0);
        answer(s, creation("a"));
        assert_state(s, 1, 1);
        play_gone(NAMESPACES, ns);
    }
    assert_int_equal(s->restored, 0);
}

static void
what_cannot_be_sent_is_tried_again(void **state)
{
    struct scene *s = *state;

    play_refuse_next(1);
    begin(s, "a", pki.only_a);
    assert_nothing_sent();
    assert_non_null(strstr(spread_state(s->spread).trouble, "too many requests"));
    play_wait(SPREAD_RETRY_FIRST_MS + 1);
    assert_non_null(creation("a"));
}

static void
the_trouble_of_a_watch_is_told(void **state)
{
    struct scene *s = *state;

    begin(s, "", pki.only_a);
    play_trouble(MAPS, "cannot watch configmaps");
    assert_string_equal(spread_state(s->spread).trouble, "cannot watch configmaps");
    play_trouble(NAMESPACES, "cannot list namespaces");
    assert_string_equal(spread_state(s->spread).trouble, "cannot list namespaces");
}

/* -- others --------------------------------------------------------------------------------------
 */

static void
a_change_by_hand_is_put_back_at_once(void **state)
{
    struct scene *s = *state;

    begin(s, "a b", pki.both);
    answer(s, creation("a"));
    answer(s, creation("b"));
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->restored_ns, "a");
    assert_state(s, 2, 1);
    answer(s, patch_of("a"));
    map_gone(s, "b");
    play_wait(0);
    assert_int_equal(s->restored, 2);
    assert_string_equal(s->restored_ns, "b");
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    assert_int_equal(spread_state(s->spread).disputed, 0);
    /* another spacing of the same certificates are nobody's business */
    map_put(s, "a", pki.text_turned);
    play_wait(0);
    assert_int_equal(s->restored, 2);
    assert_null(patch_of("a"));
}

static void
a_value_that_comes_back_is_not_fought(void **state)
{
    struct scene *s = *state;
    uint64_t wait = SPREAD_DISPUTE_FIRST_MS;

    begin(s, "a", pki.both);
    answer(s, creation("a"));
    map_put(s, "a", pki.text_a); /* the first time */
    play_wait(0);
    answer(s, patch_of("a"));
    for (unsigned i = 2; i < 14; i++) {
        map_put(s, "a", pki.text_a);
        play_wait(0);
        struct spread_state st = spread_state(s->spread);
        assert_int_equal(st.disputed, i >= SPREAD_DISPUTES_N);
        if (st.disputed > 0)
            assert_string_equal(st.disputed_ns, "a");
        assert_null(patch_of("a"));
        play_wait(wait / 2 - 1);
        assert_null(patch_of("a"));
        play_wait(wait / 2 + 2);
        answer(s, patch_of("a"));
        wait = 2 * wait > SPREAD_DISPUTE_MAX_MS ? SPREAD_DISPUTE_MAX_MS : 2 * wait;
        assert_int_equal(s->restored, i);
    }
    /* peace for long enough, and it is as if nothing had been */
    play_wait(SPREAD_PEACE_MS + 1);
    assert_int_equal(spread_state(s->spread).disputed, 0);
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_non_null(patch_of("a"));
    answer(s, patch_of("a"));
    /* the same set again changes nothing of it, another one is another matter */
    map_put(s, "a", pki.text_a);
    play_wait(0);
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_null(patch_of("a"));
    assert_ok(spread_set(s->spread, pki.only_a, &e));
    assert_ok(spread_set(s->spread, pki.both, &e));
    play_wait(0);
    assert_non_null(patch_of("a"));
}

static void
what_was_before_our_write_is_no_dispute(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *before = map_of(s, "a", pki.text_a);

    begin(s, "a", pki.both);
    answer(s, creation("a"));
    play_put(MAPS, before);
    play_wait(0);
    assert_int_equal(s->restored, 0);
    assert_state(s, 1, 1);
    assert_int_equal(play_sent_n(), 1);
    /* one that is no number cannot be told from news */
    CLEANUP(json_decrefp) json_t *odd = map_of(s, "a", pki.text_a);
    play_version(odd, "x1");
    play_put(MAPS, odd);
    play_wait(0);
    assert_int_equal(s->restored, 1);
}

static void
other_config_maps_are_nobodys(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *other = map_of(s, "a", pki.text_a);

    begin(s, "a", pki.only_a);
    json_object_set_new(json_object_get(other, "metadata"), "name", json_string("other"));
    play_put(MAPS, other); /* a server that does not know the selector */
    assert_state(s, 1, 0);
    answer(s, creation("a"));
    play_gone(MAPS, other);
    assert_state(s, 1, 1);
}

/* -- lists ---------------------------------------------------------------------------------------
 */

static void
what_a_list_leaves_out_is_gone(void **state)
{
    struct scene *s = *state;
    CLEANUP(json_decrefp) json_t *a = namespace_of("a"), *b = namespace_of("b");
    CLEANUP(json_decrefp) json_t *map_a = NULL;

    begin(s, "a b", pki.only_a);
    answer(s, creation("a"));
    answer(s, creation("b"));
    map_a = map_of(s, "a", pki.text_a);
    play_list(MAPS, (const json_t *const[]){ map_a }, 1);
    play_wait(0);
    assert_int_equal(s->restored, 1);
    assert_string_equal(s->restored_ns, "b");
    answer(s, creation("b"));
    assert_state(s, 2, 2);
    play_list(NAMESPACES, (const json_t *const[]){ b }, 1);
    play_wait(0);
    assert_state(s, 1, 1);
    play_list(NAMESPACES, (const json_t *const[]){ a, b }, 2);
    play_wait(0);
    assert_state(s, 2, 2);
}

static void
broken_watches_are_not_whole(void **state)
{
    static const char *const paths[] = { NAMESPACES, MAPS };
    struct scene *s = *state;

    begin(s, "", pki.only_a);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        const struct kube_feed_conf *f = play_feed(paths[i]);

        assert_true(spread_state(s->spread).is_whole);
        f->broken(f->arg);
        assert_false(spread_state(s->spread).is_whole);
        play_list(paths[i], NULL, 0);
    }
    assert_true(spread_state(s->spread).is_whole);
    assert_int_equal(play_feed(MAPS)->max_objects, SPREAD_NAMESPACES_MAX);
    assert_int_equal(play_feed(NAMESPACES)->max_objects, SPREAD_NAMESPACES_MAX);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_written_before_it_is_known_what_is_there),
        TEST(no_set_no_write),
        TEST(some_namespaces_are_left_out),
        TEST(the_selector_decides_and_may_change_its_mind),
        TEST(names_that_no_namespace_has),
        TEST(where_none_is_it_is_made),
        TEST(where_one_is_only_the_key_is_ours),
        TEST(sets_are_compared_as_certificates),
        TEST(so_many_at_once_and_no_more),
        TEST(another_set_goes_to_all_and_the_same_to_none),
        TEST(overtaken_it_is_written_again),
        TEST(tried_again_later_and_later),
        TEST(the_watch_is_behind_the_other_verb_at_once),
        TEST(a_namespace_that_ends_is_left),
        TEST(what_cannot_be_sent_is_tried_again),
        TEST(the_trouble_of_a_watch_is_told),
        TEST(a_change_by_hand_is_put_back_at_once),
        TEST(a_value_that_comes_back_is_not_fought),
        TEST(what_was_before_our_write_is_no_dispute),
        TEST(other_config_maps_are_nobodys),
        TEST(what_a_list_leaves_out_is_gone),
        TEST(broken_watches_are_not_whole),
    };

    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
