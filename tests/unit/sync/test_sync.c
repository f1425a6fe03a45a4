/* test_sync.c - a fake vault behind sync's port: what is given is always one whole set. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "mint.h"
#include "mint_list.h"
#include "pki/bundle.h"
#include "sync/sync.h"

enum { SETS = 2, ANSWERS_MAX = 8, DEADLINE_MS = 60 * 1000 };

struct answer {
    vault_secret_fn *done;
    void *arg;
    struct vault_secret secret;
    struct err why;
};

struct fake {
    struct loop *loop;
    struct sync *sync;
    struct buf text[SETS][PART__N]; /* PEM of two sets under one root */
    struct buf list[SETS + 1];      /* of the root: nothing, A1, expired */
    struct span value[PART__ALL];   /* the latest */
    unsigned version[PART__ALL];
    char version_text[ANSWERS_MAX][16];
    struct err refuse[PART__ALL]; /* code E_NONE: answers */
    struct answer waiting[ANSWERS_MAX];
    size_t waiting_n, looks;
    /* what sync said */
    size_t given, refused;
    struct err why;
    uint8_t signer[DIGEST_BYTES];
    struct sync_versions versions;
    size_t lists, entries;
};

/* -- the fake ------------------------------------------------------------------------------------
 */

static void
answers_send(void *arg)
{
    struct fake *f = arg;
    size_t n = f->waiting_n;
    struct answer all[ANSWERS_MAX];

    memcpy(all, f->waiting, sizeof(all));
    f->waiting_n = 0;
    f->looks++;
    for (size_t i = 0; i < n; i++)
        all[i].done(all[i].why.code == E_NONE ? &all[i].secret : NULL,
                    all[i].why.code == E_NONE ? NULL : &all[i].why, all[i].arg);
    loop_stop(f->loop);
}

static int
fake_get(void *self, const char *name, const char *version, vault_secret_fn *done, void *arg,
         struct err *e)
{
    struct fake *f = self;
    size_t part = 0;

    while (strcmp(name, bundle_secret_names[part]) != 0)
        part++;
    if (f->waiting_n == 0 && loop_post(f->loop, answers_send, f, e) < 0)
        return -(int)e->code;
    struct answer *a = &f->waiting[f->waiting_n];
    char *text = f->version_text[f->waiting_n++];
    if (version == NULL)
        (void)snprintf(text, 16, "%u", f->version[part]);
    else
        (void)snprintf(text, 16, "%s", version);
    *a = (struct answer){
        .done = done,
        .arg = arg,
        .secret = { .name = name, .version = text, .value = f->value[part], .enabled = true },
        .why = f->refuse[part]
    };
    return 0;
}

static void
on_bundle(struct bundle *b, const struct sync_versions *v, void *arg)
{
    struct fake *f = arg;

    f->given++;
    memcpy(f->signer, cert_id(bundle_signer(b)), DIGEST_BYTES);
    f->versions = *v;
    f->lists = crls_count(bundle_lists(b));
    f->entries = crls_entries(bundle_lists(b));
    /* the whole point: never a mixed bundle */
    assert_true(cert_key_matches(bundle_signer(b), bundle_key(b)));
    assert_memory_equal(cert_id(bundle_chain_at(b, 0)), cert_id(bundle_signer(b)), DIGEST_BYTES);
}

static void
on_refused(const struct err *why, void *arg)
{
    struct fake *f = arg;

    f->refused++;
    f->why = *why;
}

static void
secret_put(struct fake *f, size_t part, struct span value)
{
    f->value[part] = value;
    f->version[part]++;
}

static void
set_put(struct fake *f, size_t k)
{
    for (size_t i = 0; i < PART__N; i++)
        secret_put(f, i, buf_span(&f->text[k][i]));
}

void __real_timer_set(struct timer *t, uint64_t ms);
void __wrap_timer_set(struct timer *t, uint64_t ms);

/* The next poll is due as soon as the loop runs. */
void
__wrap_timer_set(struct timer *t, uint64_t ms)
{
    (void)ms;
    __real_timer_set(t, 0);
}

/* One look at the vault, to its end. */
static void
look(struct fake *f)
{
    struct err e = { 0 };
    size_t before = f->looks;

    while (f->looks == before)
        assert_ok(loop_run(f->loop, &e));
}

static void
looks(struct fake *f, size_t n)
{
    while (n-- > 0)
        look(f);
}

static void
fake_open_with(struct fake *f, bool with_lists)
{
    struct mint_ca root, ca[SETS];
    struct err e = { 0 };

    *f = (struct fake){ .loop = NULL };
    mint_ca(&root, "O=Istio,CN=Root A", NULL);
    for (size_t k = 0; k < SETS; k++) {
        mint_ca(&ca[k], k == 0 ? "O=Istio,CN=A1" : "O=Istio,CN=A2", &root);
        for (size_t i = 0; i < PART__N; i++)
            f->text[k][i] = BUF_INIT(PEM_MAX_BYTES);
        assert_ok(cert_to_pem(root.cert, &f->text[k][PART_ROOT_CERT], &e));
        assert_ok(cert_to_pem(ca[k].cert, &f->text[k][PART_CA_CERT], &e));
        assert_ok(key_to_pem(ca[k].key, &f->text[k][PART_CA_KEY], &e));
        assert_ok(cert_to_pem(ca[k].cert, &f->text[k][PART_CERT_CHAIN], &e));
    }
    for (size_t i = 0; i < ARRAY_LEN(f->list); i++)
        f->list[i] = BUF_INIT(PEM_MAX_BYTES);
    mint_list(root.cert, root.key, 1, -60, 3600, NULL, &f->list[0]);
    mint_list(root.cert, root.key, 2, -60, 3600, ca[0].cert, &f->list[1]);
    mint_list(root.cert, root.key, 3, -60, -30, NULL, &f->list[2]);
    mint_ca_done(&ca[0]);
    mint_ca_done(&ca[1]);
    mint_ca_done(&root);
    (void)err_set(&f->refuse[PART_CA_CRL], E_NOTFOUND, "no such secret");
    set_put(f, 0);
    assert_ok(loop_new(&f->loop, &e));
    struct sync_conf conf = { .get = fake_get,
                              .self = f,
                              .vault_url = "https://fake",
                              .poll_ms = 24 * 60 * 60 * 1000,
                              .on_bundle = on_bundle,
                              .on_refused = on_refused,
                              .arg = f };
    for (size_t i = 0; i < (with_lists ? PART__ALL : PART__N); i++)
        conf.object_names[i] = bundle_secret_names[i];
    assert_ok(sync_new(f->loop, &conf, &f->sync, &e));
}

static void
fake_open(struct fake *f)
{
    fake_open_with(f, false);
}

static void
fake_close(struct fake *f)
{
    sync_free(f->sync);
    loop_free(f->loop);
    for (size_t k = 0; k < SETS; k++)
        for (size_t i = 0; i < PART__N; i++)
            buf_wipe(&f->text[k][i]);
    for (size_t i = 0; i < ARRAY_LEN(f->list); i++)
        buf_done(&f->list[i]);
}

/* -- tests ---------------------------------------------------------------------------------------
 */

static void
test_given_once_after_two_looks_agree(void **state)
{
    struct fake f;

    (void)state;
    fake_open(&f);
    look(&f);
    assert_int_equal(f.given, 0);
    look(&f);
    assert_int_equal(f.given, 1);
    looks(&f, 3);
    assert_int_equal(f.given, 1);
    assert_int_equal(f.refused, 0);
    assert_string_equal(f.versions.v[PART_CA_KEY], "1");
    fake_close(&f);
}

/* Every order of writing the four, with looks between any two writes: one whole set after another,
 * and the new one in the end. */
static void
write_in_order(const size_t order[PART__N])
{
    struct fake f;
    uint8_t first[DIGEST_BYTES];

    fake_open(&f);
    looks(&f, 2);
    memcpy(first, f.signer, sizeof(first));
    for (size_t i = 0; i < PART__N; i++) {
        secret_put(&f, order[i], buf_span(&f.text[1][order[i]]));
        looks(&f, 2);
        if (i + 1 < PART__N &&
            f.given > 1) /* only the root may be taken early: it is the same root */
            assert_true(memcmp(f.signer, first, sizeof(first)) == 0 ||
                        (i == 2 && order[3] == PART_ROOT_CERT));
    }
    assert_true(memcmp(f.signer, first, sizeof(first)) != 0);
    for (size_t i = 0; i < PART__N; i++)
        assert_string_equal(f.versions.v[i], "2");
    fake_close(&f);
}

static void
test_all_orders_of_writing(void **state)
{
    (void)state;
    for (size_t a = 0; a < PART__N; a++)
        for (size_t b = 0; b < PART__N; b++)
            for (size_t c = 0; c < PART__N; c++) {
                size_t d = 6 - a - b - c; /* 0+1+2+3 */

                if (a == b || a == c || b == c)
                    continue;
                write_in_order((const size_t[]){ a, b, c, d });
            }
}

/* A write between two looks: nothing is judged until it is quiet, so a set seen half-way is not
 * even refused. */
static void
test_no_verdict_while_it_changes(void **state)
{
    struct fake f;

    (void)state;
    fake_open(&f);
    looks(&f, 2);
    for (size_t i = 0; i < PART__N; i++) {
        secret_put(&f, i, buf_span(&f.text[1][i]));
        look(&f);
    }
    assert_int_equal(f.given, 1);
    assert_int_equal(f.refused, 0);
    look(&f);
    assert_int_equal(f.given, 2);
    fake_close(&f);
}

static void
test_refusal_names_secret_and_version_once(void **state)
{
    struct fake f;

    (void)state;
    fake_open(&f);
    looks(&f, 2);
    secret_put(&f, PART_CA_KEY, buf_span(&f.text[1][PART_CA_KEY]));
    looks(&f, 5);
    assert_int_equal(f.refused, 1);
    assert_non_null(strstr(f.why.msg, "secret ca-key version 2"));
    assert_non_null(strstr(f.why.msg, "ca-key.pem"));
    /* put back: well again, though the version is a new one */
    secret_put(&f, PART_CA_KEY, buf_span(&f.text[0][PART_CA_KEY]));
    looks(&f, 2);
    json_t *j = sync_status(f.sync);
    assert_true(json_is_null(json_object_get(j, "last_error")));
    assert_string_equal(json_string_value(json_object_get(j, "pairing")), "whole");
    json_decref(j);
    fake_close(&f);
}

static void
test_vault_errors_are_told_once_and_recovered_from(void **state)
{
    static const struct {
        enum err_code code;
        const char *text;
    } rows[] = {
        { E_NOTFOUND, "no such secret" }, { E_DENIED, "disabled" },           { E_BUSY, "429" },
        { E_PEER, "answered with HTML" }, { E_TIMEOUT, "no answer in time" }, { E_AUTH, "401" },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct fake f;

        fake_open(&f);
        looks(&f, 2);
        (void)err_set(&f.refuse[PART_CERT_CHAIN], rows[i].code, "%s", rows[i].text);
        looks(&f, 4);
        assert_int_equal(f.refused, 1);
        assert_int_equal(f.why.code, rows[i].code);
        assert_non_null(strstr(f.why.msg, "cert-chain: "));
        f.refuse[PART_CERT_CHAIN] = (struct err){ 0 };
        look(&f);
        json_t *j = sync_status(f.sync);
        assert_true(json_is_null(json_object_get(j, "last_error")));
        json_decref(j);
        assert_int_equal(f.given, 1); /* the same set: not given again */
        fake_close(&f);
    }
}

struct fetched {
    struct fake *f;
    struct bundle *b;
    struct err why;
};

static void
on_fetched(struct bundle *b, const struct err *why, void *arg)
{
    struct fetched *r = arg;

    r->b = b == NULL ? NULL : bundle_ref(b);
    r->why = why == NULL ? (struct err){ 0 } : *why;
}

static void
test_fetch_of_pinned_versions(void **state)
{
    struct sync_versions pinned = { { "7", "7", "7", "7" } };
    struct fetched got = { 0 };
    struct fake f;
    struct err e = { 0 };

    (void)state;
    fake_open(&f);
    looks(&f, 2);
    assert_ok(sync_fetch(f.sync, &pinned, on_fetched, &got, &e));
    look(&f);
    while (got.b == NULL && got.why.code == E_NONE)
        assert_ok(loop_run(f.loop, &e));
    assert_non_null(got.b);
    bundle_unref(got.b);
    got = (struct fetched){ 0 };
    (void)err_set(&f.refuse[PART_ROOT_CERT], E_NOTFOUND, "gone");
    assert_ok(sync_fetch(f.sync, &pinned, on_fetched, &got, &e));
    while (got.b == NULL && got.why.code == E_NONE)
        assert_ok(loop_run(f.loop, &e));
    assert_null(got.b);
    assert_int_equal(got.why.code, E_NOTFOUND);
    fake_close(&f);
}

/* -- the lists -- */

static void
list_put(struct fake *f, const struct buf *list)
{
    f->refuse[PART_CA_CRL] = (struct err){ .code = E_NONE };
    secret_put(f, PART_CA_CRL, buf_span(list));
}

static void
lists_are(const struct fake *f, const char *state, const char *says)
{
    json_t *j = sync_status(f->sync), *l = json_object_get(j, "lists");
    const char *error = json_string_value(json_object_get(l, "error"));

    assert_string_equal(json_string_value(json_object_get(l, "state")), state);
    if (says == NULL)
        assert_null(error);
    else
        assert_non_null(strstr(error, says));
    json_decref(j);
}

static void
test_lists_are_not_asked_for_without_a_name(void **state)
{
    struct fake f;

    (void)state;
    fake_open(&f);
    list_put(&f, &f.list[0]);
    looks(&f, 3);
    assert_true(f.given == 1 && f.lists == 0 && f.versions.v[PART_CA_CRL][0] == '\0');
    lists_are(&f, "off", NULL);
    fake_close(&f);
}

static void
test_lists_come_and_go(void **state)
{
    struct fake f;

    (void)state;
    fake_open_with(&f, true);
    looks(&f, 2);
    assert_true(f.given == 1 && f.lists == 0 && f.versions.v[PART_CA_CRL][0] == '\0');
    lists_are(&f, "none", NULL);
    list_put(&f, &f.list[0]);
    looks(&f, 2);
    assert_true(f.given == 2 && f.lists == 1 && strcmp(f.versions.v[PART_CA_CRL], "1") == 0);
    lists_are(&f, "used", NULL);
    (void)err_set(&f.refuse[PART_CA_CRL], E_NOTFOUND, "no such secret");
    looks(&f, 2);
    assert_true(f.given == 3 && f.lists == 0 && f.versions.v[PART_CA_CRL][0] == '\0');
    list_put(&f, &f.list[0]);
    looks(&f, 2);
    secret_put(&f, PART_CA_CRL, span_str("\n")); /* an explicit none */
    looks(&f, 2);
    assert_true(f.given == 5 && f.lists == 0 && f.versions.v[PART_CA_CRL][0] == '\0');
    assert_int_equal(f.refused, 0);
    fake_close(&f);
}

/* What is wrong with the lists: the four are given all the same, with the lists' version and no
 * lists, which means that those in force stay. */
static void
test_bad_lists_block_nothing(void **state)
{
    struct fake f;

    (void)state;
    fake_open_with(&f, true);
    list_put(&f, &f.list[2]);
    looks(&f, 3);
    assert_true(f.given == 1 && f.lists == 0 && strcmp(f.versions.v[PART_CA_CRL], "1") == 0);
    lists_are(&f, "refused", "secret ca-crl version 1: list 1: the revocation list of \"CN=Root A");
    set_put(&f, 1); /* the key goes on beside it */
    looks(&f, 3);
    assert_true(f.given == 2 && f.lists == 0 && f.refused == 0);
    secret_put(&f, PART_CA_CRL, span_str("garbage"));
    looks(&f, 3);
    lists_are(&f, "refused", "no revocation list");
    list_put(&f, &f.list[1]); /* of A1, which does not sign any more */
    looks(&f, 2);
    assert_true(f.lists == 1 && f.entries == 1);
    lists_are(&f, "used", NULL);
    fake_close(&f);
}

/* The vault does not tell, for a while: as it was, and no change of the four waits for it. */
static void
test_lists_that_cannot_be_read_stay_as_they_were(void **state)
{
    struct fake f;

    (void)state;
    fake_open_with(&f, true);
    list_put(&f, &f.list[0]);
    looks(&f, 2);
    (void)err_set(&f.refuse[PART_CA_CRL], E_DENIED, "forbidden Trace ID: 1");
    looks(&f, 3);
    lists_are(&f, "refused", "ca-crl: forbidden");
    assert_int_equal(f.given, 1);
    set_put(&f, 1);
    looks(&f, 3);
    assert_true(f.given == 2 && f.lists == 0 && strcmp(f.versions.v[PART_CA_CRL], "1") == 0);
    f.refuse[PART_CA_CRL] = (struct err){ .code = E_NONE };
    looks(&f, 3);
    assert_true(f.given == 3 && f.lists == 1);
    lists_are(&f, "used", NULL);
    fake_close(&f);
}

static void
test_a_set_that_its_list_revokes_is_refused(void **state)
{
    struct fake f;

    (void)state;
    fake_open_with(&f, true);
    looks(&f, 2);
    list_put(&f, &f.list[1]);
    looks(&f, 2);
    assert_true(f.given == 1 && f.refused == 1 && f.why.code == E_DENIED);
    assert_non_null(strstr(f.why.msg, "secret ca-crl version 1: \"CN=A1,O=Istio\""));
    assert_non_null(strstr(f.why.msg, "set another intermediate"));
    set_put(&f, 1);
    looks(&f, 2);
    assert_true(f.given == 2 && f.entries == 1);
    fake_close(&f);
}

/* Whoever waits for a set is told: else it waits for ever, and asks no other one. */
static void
test_a_fetch_under_way_ends_with_it(void **state)
{
    struct sync_versions pinned = { { "7", "7", "7", "7" } };
    struct fetched got = { 0 };
    struct fake f;
    struct err e = { 0 };

    (void)state;
    fake_open(&f);
    assert_ok(sync_fetch(f.sync, &pinned, on_fetched, &got, &e));
    fake_close(&f);
    assert_null(got.b);
    assert_int_equal(got.why.code, E_BUSY);
}

static void
test_limits(void **state)
{
    struct sync_conf conf = { .get = fake_get, .vault_url = "x", .poll_ms = 999 };
    struct sync *s = NULL;
    struct err e = { 0 };

    (void)state;
    assert_err(sync_new(NULL, &conf, &s, &e), E_INVAL, "1s..24h");
    conf.poll_ms = 24 * 60 * 60 * 1000 + 1;
    assert_err(sync_new(NULL, &conf, &s, &e), E_INVAL, "1s..24h");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_given_once_after_two_looks_agree),
        cmocka_unit_test(test_all_orders_of_writing),
        cmocka_unit_test(test_no_verdict_while_it_changes),
        cmocka_unit_test(test_refusal_names_secret_and_version_once),
        cmocka_unit_test(test_vault_errors_are_told_once_and_recovered_from),
        cmocka_unit_test(test_fetch_of_pinned_versions),
        cmocka_unit_test(test_lists_are_not_asked_for_without_a_name),
        cmocka_unit_test(test_lists_come_and_go),
        cmocka_unit_test(test_bad_lists_block_nothing),
        cmocka_unit_test(test_lists_that_cannot_be_read_stay_as_they_were),
        cmocka_unit_test(test_a_set_that_its_list_revokes_is_refused),
        cmocka_unit_test(test_a_fetch_under_way_ends_with_it),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests_name("sync/sync", tests, NULL, NULL);
}
