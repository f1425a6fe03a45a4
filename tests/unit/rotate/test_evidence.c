/* The gates over a real ledger: rows and words, as the CA writes them, move a rotation on. */
#include "scene.h"

#include "ledger/ledger.h"

static struct ledger *ledger;
static size_t answers;

static void
answered(const struct err *e, void *arg)
{
    (void)arg;
    assert_int_equal(e->code, E_NONE);
    answers++;
}

static bool
is_answered(struct scene *s)
{
    (void)s;
    return answers > 0;
}

static void
leaf_row(struct scene *s, const char *instance, uint8_t serial, char root, uint64_t generation)
{
    struct ledger_row row = { .serial = { serial },
                              .serial_n = 1,
                              .identity = "spiffe://td/ns/shop/sa/cart",
                              .not_before = unix_s(),
                              .not_after = unix_s() + 3600,
                              .issued = unix_s(),
                              .generation = generation,
                              .auth = "jwt:test" };
    struct err e;

    (void)snprintf(row.instance, sizeof(row.instance), "%s", instance);
    memcpy(row.root_id, letter_id(root), DIGEST_BYTES);
    answers = 0;
    assert_ok(ledger_append(ledger, &row, s->loop, answered, NULL, &e));
    run_until(s, is_answered);
}

static void
word(struct scene *s, const char *instance, const char *roots, uint64_t generation, uint8_t serial)
{
    struct ledger_ack a = { .identity = "spiffe://td/ns/shop/sa/cart",
                            .generation = generation,
                            .roots_n = strlen(roots),
                            .serial = { serial },
                            .serial_n = 1 };
    struct err e;

    (void)snprintf(a.instance, sizeof(a.instance), "%s", instance);
    for (size_t i = 0; i < a.roots_n; i++)
        memcpy(a.roots[i], letter_id(roots[i]), DIGEST_BYTES);
    answers = 0;
    assert_ok(ledger_acknowledge(ledger, &a, s->loop, answered, NULL, &e));
    run_until(s, is_answered);
    rotate_poke(s->r);
}

static const char one[] = "00112233445566778899aabbccddeeff";

static void
rows_and_words_open_the_gates(void **state)
{
    struct scene *s = *state;
    struct err e;

    driver_crash(s);
    driver_open(s);
    assert_ok(ledger_open(s->store, s->metrics, &ledger, &e));
    s->r->conf.workloads = NULL;
    s->r->conf.ledger = ledger;

    settle(s, pki.a_a1, "a1");
    leaf_row(s, one, 1, 'A', 1);
    word(s, one, "A", 1, 1);

    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    replica_loads(s);
    rotate_look(s->r);
    assert_held(s, "trust", "move signer");

    word(s, one, "AB", 2, 1);
    run_until(s, is_caught_up);
    rotate_look(s->r);
    run_until(s, is_held);
    replica_loads(s);
    rotate_look(s->r);
    assert_held(s, "leaves", "narrow");

    leaf_row(s, one, 2, 'B', 3); /* under way: both are in use */
    rotate_look(s->r);
    assert_held(s, "leaves", "narrow");
    word(s, one, "AB", 3, 2);
    run_until(s, is_settled);
    assert_folder(s, 4, "B", &pki.b1, "b1");

    rotate_free(s->r);
    s->r = NULL;
    ledger_close(ledger);
}

static void
a_client_that_cannot_speak_is_waited_for_until_its_leaf_ends(void **state)
{
    struct scene *s = *state;
    struct err e;

    assert_ok(ledger_open(s->store, s->metrics, &ledger, &e));
    s->r->conf.workloads = NULL;
    s->r->conf.ledger = ledger;
    settle(s, pki.a_a1, "a1");
    leaf_row(s, "", 1, 'A', 1);
    want(s, pki.b_b1, "b1");
    run_until(s, is_held);
    replica_loads(s);
    rotate_look(s->r);
    assert_held(s, "trust", "move signer");
    leaf_row(s, "", 2, 'A', 2); /* renewed: the old one may be in use still */
    rotate_look(s->r);
    assert_held(s, "trust", "move signer");
    clock_shift_for_test(3700);
    leaf_row(s, "", 3, 'A', 2);
    rotate_look(s->r);
    run_until(s, is_caught_up);
    assert_folder(s, 3, "AB", &pki.b1, "b1");
    rotate_free(s->r);
    s->r = NULL;
    ledger_close(ledger);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        scene_test(rows_and_words_open_the_gates),
        scene_test(a_client_that_cannot_speak_is_waited_for_until_its_leaf_ends),
    };
    return cmocka_run_group_tests(tests, make_pki, free_pki);
}
