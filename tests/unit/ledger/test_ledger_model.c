/* test_ledger_model.c - what is in use, against a naive model. */
#include "ledger_kit.h"

enum { N_IDENTITIES = 3, N_INSTANCES = 3, N_ROWS = 600, STEPS = 500, TICK = 70, KEPT = 3600 };

struct naive_row {
    uint8_t who, inst, serial;
    uint64_t generation;
    int64_t issued, ends; /* shift in seconds after which it is expired */
};

struct naive_word {
    uint64_t generation;
    size_t used; /* rows of this index and up are in use */
    int64_t said, touched;
};

struct naive {
    struct naive_row rows[N_ROWS];
    size_t n;
    struct naive_word words[N_IDENTITIES][N_INSTANCES];
    int64_t shift;
    uint64_t generation;
};

static void
naive_names(uint8_t who, uint8_t inst, char identity[16], char instance[16])
{
    (void)snprintf(identity, 16, "id%u", who);
    instance[0] = '\0';
    if (inst > 0)
        (void)snprintf(instance, 16, "i%u-%u", who, inst);
}

static void
naive_forget(struct naive *m)
{
    for (uint8_t who = 0; who < N_IDENTITIES; who++)
        for (uint8_t inst = 0; inst < N_INSTANCES; inst++) {
            struct naive_word *w = &m->words[who][inst];
            bool alive = m->shift - w->touched < KEPT;

            for (size_t i = 0; i < m->n && !alive; i++)
                alive =
                    m->rows[i].who == who && m->rows[i].inst == inst && m->rows[i].ends > m->shift;
            if (!alive)
                *w = (struct naive_word){ .touched = w->touched };
        }
}

/* After a start only what is in words and live rows is known. */
static void
naive_restart(struct naive *m)
{
    for (size_t k = 0; k < N_IDENTITIES * N_INSTANCES; k++) {
        struct naive_word *w = &m->words[k / N_INSTANCES][k % N_INSTANCES];

        w->touched = w->said;
        for (size_t i = 0; i < m->n; i++)
            if (m->rows[i].who == k / N_INSTANCES && m->rows[i].inst == k % N_INSTANCES &&
                m->rows[i].ends > m->shift && m->rows[i].issued > w->touched)
                w->touched = m->rows[i].issued;
    }
}

struct compare {
    const struct naive *m;
    size_t total;
    char bad[128]; /* an assertion may not leave the callback: the ledger's lock is held */
};

static void
compare_one(const struct ledger_workload *w, void *arg)
{
    struct compare *c = arg;
    const struct naive *m = c->m;
    char identity[16], instance[16];
    size_t n = 0;
    uint64_t min = UINT64_MAX, want = 0;

    for (uint8_t who = 0; who < N_IDENTITIES; who++)
        for (uint8_t inst = 0; inst < N_INSTANCES; inst++) {
            naive_names(who, inst, identity, instance);
            if (strcmp(identity, w->identity) != 0 || strcmp(instance, w->instance) != 0)
                continue;
            for (size_t i = 0; i < m->n; i++)
                if (m->rows[i].who == who && m->rows[i].inst == inst &&
                    m->rows[i].ends > m->shift && i >= m->words[who][inst].used) {
                    n++;
                    min = m->rows[i].generation < min ? m->rows[i].generation : min;
                }
            want = m->words[who][inst].generation;
        }
    if (w->leaves_n != n || w->min_row_generation != min || w->ack_generation != want)
        (void)snprintf(c->bad, sizeof(c->bad),
                       "%s/%s: %zu leaves, model %zu; generation %" PRIu64 ", model %" PRIu64,
                       w->identity, w->instance, w->leaves_n, n, w->ack_generation, want);
    c->total += n;
}

static void
compare_all(struct fix *f, struct naive *m)
{
    struct compare c = { .m = m };
    size_t total = 0;

    naive_forget(m);
    ledger_workloads(f->led, compare_one, &c);
    for (size_t i = 0; i < m->n; i++)
        total += m->rows[i].ends > m->shift && i >= m->words[m->rows[i].who][m->rows[i].inst].used
                     ? 1
                     : 0;
    assert_string_equal(c.bad, "");
    assert_int_equal(c.total, total);
}

static void
step_append(struct fix *f, struct naive *m, uint8_t who, uint8_t inst)
{
    char identity[16], instance[16];
    int64_t ttl = TICK / 2 + TICK * (int64_t)random_below(60);

    naive_names(who, inst, identity, instance);
    struct ledger_row r = row_of(identity, instance, (uint8_t)m->n, ttl);
    r.serial[0] = (uint8_t)(1 + m->n / 256);
    r.generation = m->generation;
    assert_int_equal(append(f, &r), E_NONE);
    m->rows[m->n] =
        (struct naive_row){ who, inst, (uint8_t)m->n, m->generation, m->shift, m->shift + ttl };
    m->n++;
    m->words[who][inst].touched = m->shift;
}

static void
step_word(struct fix *f, struct naive *m, uint8_t who, uint8_t inst)
{
    char identity[16], instance[16];
    struct naive_word *w = &m->words[who][inst];
    uint64_t generation = m->generation - random_below(m->generation < 3 ? m->generation : 3);
    size_t pick = m->n == 0 ? 0 : (size_t)random_below(m->n);

    naive_names(who, inst, identity, instance);
    struct ledger_ack a = ack_of(identity, instance, generation, (int)(uint8_t)pick);
    a.serial[0] = (uint8_t)(1 + pick / 256);
    a.ended = random_below(8) == 0;
    int r = say(f, &a);
    if (generation < w->generation) {
        assert_int_equal(r, LEDGER_STALE);
        return;
    }
    assert_int_equal(r, 0);
    w->generation = generation;
    w->said = w->touched = m->shift;
    if (pick < m->n && m->rows[pick].who == who && m->rows[pick].inst == inst &&
        m->rows[pick].ends > m->shift)
        w->used = pick;
    if (a.ended)
        w->used = m->n;
}

static void
agrees_with_a_naive_model(void **state)
{
    struct fix *f = *state;
    struct naive *m = calloc(1, sizeof(*m));
    struct err e = { 0 };
    uint64_t n = 0;

    m->generation = 1;
    for (int step = 0; step < STEPS; step++) {
        uint8_t who = (uint8_t)random_below(N_IDENTITIES),
                inst = (uint8_t)random_below(N_INSTANCES);
        uint64_t dice = random_below(100);

        if (dice < 45)
            step_append(f, m, who, inst);
        else if (dice < 75)
            step_word(f, m, who, inst == 0 ? 1 : inst);
        else if (dice < 90)
            clock_shift_for_test(m->shift +=
                                 TICK * (int64_t)(1 + random_below(random_below(4) == 0 ? 60 : 4)));
        else if (dice < 97)
            m->generation++;
        else {
            ledger_end(f);
            ledger_start(f);
            naive_restart(m);
        }
        compare_all(f, m);
    }
    assert_ok(ledger_verify(f->led, &n, &e));
    assert_int_equal(n, m->n);
    free(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(agrees_with_a_naive_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
