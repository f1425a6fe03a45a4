/* test_courier.c - what one replica has revoked, all get; against replicas that the test plays. */
#include "mint.h"
#include "until.h"

#include <stdlib.h>

#include "ca/courier.h"
#include "ca/revoke_page.h"

enum { REPLICAS = 6, TABLE_MAX = 256, ACTS_MAX = 64 };

/* What a replica does when it is asked. */
enum way { GOOD, DENIES, REFUSES, ANOTHER_PAGE, JUNK, OLD /* knows no identities */ };

struct scene;
struct question;
struct replica {
    struct scene *s;
    enum way way;
    struct revoked rows[TABLE_MAX];
    size_t n, asked_n, told_n;
    bool holds; /* its answers wait, as ... */
    struct question *held;
    struct revoked_identity acts[ACTS_MAX];
    size_t acts_n, acts_told_n;
    struct courier_stop *stop; /* NULL: given up */
};

struct scene {
    struct loop *l;
    bool (*until)(struct scene *s);
    struct courier *courier;
    struct mint_ca ca;
    struct replica r[REPLICAS];
};

/* -- a replica -- */

struct question {
    struct replica *r;
    struct buf answer;
    struct err why;
    courier_answer_fn *done;
    void *arg;
};

static void
on_answer(void *arg)
{
    struct question *q = arg;

    if (q->r->stop != NULL) /* as evidence_client_free: no call-back comes any more */
        q->done(buf_span(&q->answer), q->why.code == E_NONE ? NULL : &q->why, q->arg);
    buf_done(&q->answer);
    free(q);
}

static void
row_add(struct replica *r, struct revoked v)
{
    for (size_t i = 0; i < r->n; i++)
        if (memcmp(&r->rows[i].entry.serial, v.entry.serial, sizeof(v.entry.serial)) == 0) {
            free(v.identity);
            return;
        }
    assert_true(r->n < TABLE_MAX);
    r->rows[r->n++] = v;
}

static void
act_add(struct replica *r, struct revoked_identity v)
{
    for (size_t i = 0; i < r->acts_n; i++)
        if (memcmp(r->acts[i].id, v.id, sizeof(v.id)) == 0) {
            free(v.identity);
            return;
        }
    assert_true(r->acts_n < ACTS_MAX);
    r->acts[r->acts_n++] = v;
}

static void
take_acts(struct replica *r, const Meshroot__V1__RevokedPage *m)
{
    struct revoked_identity v;
    struct err e;

    assert_true(m->takes_identities);
    for (size_t i = 0; i < m->n_identities; i++) {
        r->acts_told_n++;
        assert_ok(revoke_identity_read(m->identities[i], &v, &e));
        act_add(r, v);
    }
}

static void
take(struct replica *r, const Meshroot__V1__RevokedPage *m)
{
    struct cert *issuer;
    struct revoked v;
    struct err e;

    for (size_t i = 0; i < m->n_leaves; i++) {
        r->told_n++;
        assert_ok(revoke_leaf_read(m->leaves[i], &v, &e));
        assert_int_equal(revoke_issuer_find(m, v.signer_id, &issuer, &e), 0);
        cert_unref(issuer);
        if (r->way == REFUSES)
            free(v.identity);
        else
            row_add(r, v);
    }
}

static void
answer_make(struct replica *r, uint32_t from, uint32_t acts_from, size_t acts_n, struct buf *out)
{
    struct revoke_page p;
    struct err e;

    revoke_page_init(&p, r->way == ANOTHER_PAGE ? from + 1 : from, acts_from);
    p.m.takes_identities = r->way != OLD;
    p.m.identities_total = (uint32_t)acts_n;
    for (size_t i = acts_from; i < acts_n && revoke_page_add_identity(&p, &r->acts[i]); i++)
        ;
    p.m.total = (uint32_t)r->n;
    p.m.trouble = (char *)(uintptr_t)(r->way == REFUSES ? "its table is full" : "");
    for (size_t i = from; i < r->n && revoke_page_add(&p, &r->rows[i], r->s->ca.cert); i++)
        ;
    assert_ok(revoke_page_pack(&p, out, &e));
}

static int
exchange(void *self, struct span request, courier_answer_fn *done, void *arg, struct err *e)
{
    struct replica *r = self;
    struct question *q = calloc(1, sizeof(*q));
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, request.n, request.p);

    assert_non_null(q);
    assert_non_null(m);
    *q = (struct question){
        .r = r, .answer = BUF_INIT(GRPC_MAX_MESSAGE_BYTES), .done = done, .arg = arg
    };
    r->asked_n++;
    size_t acts_n = r->acts_n; /* what it is told now is done later */
    take(r, m);
    take_acts(r, m);
    if (r->way == DENIES)
        (void)err_set(&q->why, E_DENIED, "you are no courier");
    else if (r->way == JUNK)
        assert_int_equal(buf_add_str(&q->answer, "junk", e), 0);
    else
        answer_make(r, m->from, m->identities_from, acts_n, &q->answer);
    meshroot__v1__revoked_page__free_unpacked(m, NULL);
    if (!r->holds)
        return loop_post(r->s->l, on_answer, q, e);
    assert_null(r->held);
    r->held = q;
    return 0;
}

/* Leaf number n of the CA, under a long identity; ends in life_s. */
static void
revoke(struct replica *r, uint32_t n, int64_t life_s)
{
    struct revoked v = { .not_after = unix_s() + life_s,
                         .entry = { .serial = { 1, (uint8_t)(n >> 8), (uint8_t)n },
                                    .serial_n = 3,
                                    .revoked = unix_s(),
                                    .reason = CRL_KEY_COMPROMISE } };

    memcpy(v.signer_id, cert_id(r->s->ca.cert), DIGEST_BYTES);
    v.identity = malloc(512);
    assert_non_null(v.identity);
    (void)snprintf(v.identity, 512, "spiffe://cluster.local/ns/shop/sa/%0240u", n);
    row_add(r, v);
}

/* Act number n; what the table of a replica shows. */
static void
revoke_identity(struct replica *r, unsigned n, int64_t life_s)
{
    struct revoked_identity v = { .id = { 7, (uint8_t)(n >> 8), (uint8_t)n },
                                  .at = unix_s(),
                                  .until = unix_s() + life_s,
                                  .reason = CRL_KEY_COMPROMISE };

    if (life_s < 0)
        v.at = v.until;
    v.identity = malloc(512);
    assert_non_null(v.identity);
    (void)snprintf(v.identity, 512, "spiffe://cluster.local/ns/shop/sa/%0240u", n);
    act_add(r, v);
}

/* -- the world -- */

static bool
is_so(void *arg)
{
    struct scene *s = arg;

    return s->until(s);
}

static void
run_until(struct scene *s, bool (*until)(struct scene *s))
{
    s->until = until;
    assert_true(loop_until(s->l, is_so, s));
}

static void
join(struct scene *s, size_t i)
{
    const struct courier_port port = { exchange, &s->r[i] };
    struct err e;

    assert_ok(courier_join(s->courier, &port, "ca", &s->r[i].stop, &e));
}

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    struct err e;

    assert_non_null(s);
    assert_ok(loop_new(&s->l, &e));
    mint_ca(&s->ca, "CN=Root", NULL);
    assert_ok(courier_new(s->l, &s->courier, &e));
    for (size_t i = 0; i < REPLICAS; i++)
        s->r[i].s = s;
    *state = s;
    return 0;
}

static bool
at_once(struct scene *s)
{
    (void)s;
    return true;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    courier_free(s->courier);
    for (size_t i = 0; i < REPLICAS; i++)
        s->r[i].stop = NULL;
    run_until(s, at_once); /* calls under way end */
    for (size_t i = 0; i < REPLICAS; i++)
        while (s->r[i].n > 0)
            free(s->r[i].rows[--s->r[i].n].identity);
    for (size_t i = 0; i < REPLICAS; i++)
        while (s->r[i].acts_n > 0)
            free(s->r[i].acts[--s->r[i].acts_n].identity);
    loop_free(s->l);
    mint_ca_done(&s->ca);
    free(s);
    return 0;
}

/* -- tests -- */

static bool
all_have_201(struct scene *s)
{
    return s->r[0].n == 201 && s->r[1].n == 201 && s->r[2].n == 201;
}

/* More than a page. */
static void
what_one_has_all_get(void **state)
{
    struct scene *s = *state;

    for (uint32_t n = 1; n <= 200; n++)
        revoke(&s->r[0], n, 3600);
    revoke(&s->r[1], 1000, 3600);
    for (size_t i = 0; i < 3; i++)
        join(s, i);
    run_until(s, all_have_201);
    assert_int_equal(courier_count(s->courier), 201);
    for (size_t i = 0; i < s->r[2].n; i++)
        assert_int_equal(s->r[2].rows[i].entry.reason, CRL_KEY_COMPROMISE);
    assert_int_equal(s->r[0].told_n, 1);
    assert_int_equal(s->r[1].told_n, 200);
}

static bool
all_have_40_acts(struct scene *s)
{
    return s->r[0].acts_n == 40 && s->r[1].acts_n == 40 && s->r[2].acts_n == 40 &&
           s->r[2].n == 100 && s->r[2].asked_n > 8;
}

/* Identities go beside leaves, more than a page of each; what a replica has begun is told once more
 * at most, until it shows it; one that knows none of them is left in peace. */
static void
identities_are_carried_too(void **state)
{
    struct scene *s = *state;

    for (unsigned n = 1; n <= 39; n++)
        revoke_identity(&s->r[0], n, 3600);
    revoke_identity(&s->r[1], 1000, 3600);
    for (uint32_t n = 1; n <= 100; n++)
        revoke(&s->r[1], n, 3600);
    s->r[3].way = OLD;
    for (size_t i = 0; i < 4; i++)
        join(s, i);
    run_until(s, all_have_40_acts);
    assert_int_equal(s->r[3].acts_told_n, 0);
    assert_int_equal(s->r[3].n, 100);
    assert_true(s->r[3].asked_n < 64);
    assert_true(s->r[0].acts_told_n <= 2 && s->r[2].acts_told_n <= 2 * 40);
}

static bool
third_has_an_act(struct scene *s)
{
    return s->r[2].acts_n == 1;
}

static bool
first_was_asked(struct scene *s)
{
    return s->r[0].asked_n >= 2;
}

static void
an_identity_of_a_gone_one_is_carried_on(void **state)
{
    struct scene *s = *state;

    revoke_identity(&s->r[0], 1, 3600);
    revoke_identity(&s->r[0], 2, -1);
    join(s, 0);
    run_until(s, first_was_asked);
    courier_part(STEAL(s->r[0].stop));
    join(s, 2);
    run_until(s, third_has_an_act);
    assert_int_equal(s->r[2].acts[0].id[2], 1);
}

static bool
one_is_known(struct scene *s)
{
    return courier_count(s->courier) == 1;
}

static bool
third_has_one(struct scene *s)
{
    return s->r[2].n == 1;
}

static void
what_a_gone_one_had_is_carried_on(void **state)
{
    struct scene *s = *state;

    revoke(&s->r[0], 1, 3600);
    join(s, 0);
    run_until(s, one_is_known);
    courier_part(STEAL(s->r[0].stop));
    join(s, 2);
    run_until(s, third_has_one);
}

static bool
second_was_asked(struct scene *s)
{
    return s->r[1].asked_n >= 1;
}

static bool
both_were_asked_twice(struct scene *s)
{
    return s->r[0].asked_n >= 2 && s->r[1].asked_n >= 2;
}

static void
what_has_ended_is_not_carried(void **state)
{
    struct scene *s = *state;

    revoke(&s->r[0], 1, -1);
    join(s, 0);
    join(s, 1);
    run_until(s, both_were_asked_twice);
    assert_int_equal(s->r[1].told_n, 0);
    assert_int_equal(courier_count(s->courier), 0);
}

static bool
third_has_one_and_time_went_by(struct scene *s)
{
    return s->r[2].n == 1 && s->r[0].asked_n >= 4;
}

/* One that is out of order keeps nothing from the others, and is not asked without end. */
static void
bad_replicas_are_their_own_trouble(void **state)
{
    static const enum way ways[REPLICAS] = { GOOD, DENIES, GOOD, REFUSES, ANOTHER_PAGE, JUNK };
    struct scene *s = *state;

    revoke(&s->r[0], 1, 3600);
    for (size_t i = 0; i < REPLICAS; i++) {
        s->r[i].way = ways[i];
        join(s, i);
    }
    run_until(s, third_has_one_and_time_went_by);
    for (size_t i = 0; i < REPLICAS; i++)
        if (s->r[i].n != (ways[i] == GOOD) || s->r[i].asked_n > s->r[0].asked_n + 3)
            fail_msg("replica %zu: has %zu, was asked %zu times", i, s->r[i].n, s->r[i].asked_n);
}

static bool
second_is_asked(struct scene *s)
{
    return s->r[1].held != NULL;
}

/* What was asked before it was known tells nothing of it: the next question comes at once. */
static void
who_is_being_asked_when_news_come_is_asked_again_at_once(void **state)
{
    struct scene *s = *state;

    join(s, 1);
    run_until(s, second_was_asked);
    s->r[1].holds = true;
    run_until(s, second_is_asked);
    revoke(&s->r[0], 1, 3600);
    join(s, 0);
    run_until(s, one_is_known);
    assert_int_equal(s->r[1].told_n, 0);
    s->r[1].holds = false;
    on_answer(STEAL(s->r[1].held));
    assert_int_equal(s->r[1].told_n, 1);
}

static void
replicas_are_bounded(void **state)
{
    struct scene *s = *state;
    struct courier_stop *stop = NULL;
    const struct courier_port port = { exchange, &s->r[0] };
    struct err e;

    for (size_t i = 0; i < COURIER_STOPS_MAX; i++)
        assert_ok(courier_join(s->courier, &port, "ca", &stop, &e));
    assert_err(courier_join(s->courier, &port, "ca", &s->r[0].stop, &e), E_LIMIT, "32");
    courier_part(stop);
    assert_ok(courier_join(s->courier, &port, "ca", &stop, &e));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_one_has_all_get),
        T(what_a_gone_one_had_is_carried_on),
        T(what_has_ended_is_not_carried),
        T(bad_replicas_are_their_own_trouble),
        T(replicas_are_bounded),
        T(who_is_being_asked_when_news_come_is_asked_again_at_once),
        T(identities_are_carried_too),
        T(an_identity_of_a_gone_one_is_carried_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
