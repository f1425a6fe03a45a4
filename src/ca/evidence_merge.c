/* evidence_merge.c - several replicas' evidence put together.
 *
 * Each replica has a ledger of its own, and an agent moves between them: one has issued its leaf,
 * another hears its word. Both are parts of one workload, which its identity and instance name.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ca/evidence.h"

struct told { /* of one instance, by all replicas */
    struct told *next;
    uint64_t ack_generation; /* of the newest one */
    size_t roots_n;
    int64_t said, said_before; /* its last word; the last that any other replica has heard */
    size_t by;                 /* who has heard the last */
    int64_t used_issued;       /* and the leaf in it */
    uint64_t used_generation;  /* of the leaf in the last word that says it ... */
    int64_t used_said;         /* ... and when it was said */
    uint64_t ended_generation; /* of its end ... */
    int64_t ended_said;        /* ... and when it was said */
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    char instance[INSTANCE_TEXT_BYTES];
    char identity[];
};

struct merge {
    struct told **buckets;
    size_t buckets_n, n;
    uint64_t seed;
    bool no_memory;
    size_t by; /* the replica that tells */
    ledger_workload_fn *fn;
    void *arg;
};

enum { BUCKETS_FIRST = 1024 };

/* -- the table of instances ---------------------------------------------------------------------
 */

static size_t
bucket_of(const struct merge *m, size_t buckets_n, const char *instance)
{
    uint64_t h = m->seed ^ 0xcbf29ce484222325u;

    for (const char *s = instance; *s != '\0'; s++)
        h = (h ^ (uint8_t)*s) * 0x100000001b3u;
    h ^= h >> 29;
    return (size_t)(h % buckets_n);
}

static struct told *
told_find(const struct merge *m, const struct ledger_workload *w)
{
    struct told *t =
        m->buckets == NULL ? NULL : m->buckets[bucket_of(m, m->buckets_n, w->instance)];

    while (t != NULL &&
           (strcmp(t->instance, w->instance) != 0 || strcmp(t->identity, w->identity) != 0))
        t = t->next;
    return t;
}

static bool
table_grow(struct merge *m)
{
    size_t n = m->buckets_n == 0 ? BUCKETS_FIRST : m->buckets_n * 2;
    struct told **p = calloc(n, sizeof(*p));

    if (p == NULL)
        return false;
    for (size_t i = 0; i < m->buckets_n; i++)
        for (struct told *t = m->buckets[i], *next; t != NULL; t = next) {
            struct told **at = &p[bucket_of(m, n, t->instance)];

            next = t->next;
            t->next = *at;
            *at = t;
        }
    free(m->buckets);
    m->buckets = p;
    m->buckets_n = n;
    return true;
}

static struct told *
told_new(struct merge *m, const struct ledger_workload *w)
{
    size_t n = strlen(w->identity) + 1;

    if (m->n >= m->buckets_n && !table_grow(m))
        return NULL;
    struct told *t = calloc(1, sizeof(*t) + n);
    if (t == NULL)
        return NULL;
    memcpy(t->identity, w->identity, n);
    memcpy(t->instance, w->instance, strlen(w->instance) + 1);
    struct told **at = &m->buckets[bucket_of(m, m->buckets_n, w->instance)];
    t->next = *at;
    *at = t;
    m->n++;
    return t;
}

static void
table_free(struct merge *m)
{
    for (size_t i = 0; i < m->buckets_n; i++)
        for (struct told *t = m->buckets[i], *next; t != NULL; t = next) {
            next = t->next;
            free(t);
        }
    free(m->buckets);
}

/* -- first all that was said, then the leaves ----------------------------------------------------
 */

/* An instance's leaves only grow in generation. So of two words the higher one is the newer, unless
 * the clocks say otherwise for certain: then somebody has put an agent's folder back. */
static void
used_note(struct told *t, const struct ledger_workload *w)
{
    bool is_later = w->said - EVIDENCE_SKEW_S > t->used_said,
         is_earlier = w->said < t->used_said - EVIDENCE_SKEW_S;

    if (w->ended_generation > t->ended_generation) {
        t->ended_generation = w->ended_generation;
        t->ended_said = w->said;
    }
    if (w->used_generation == 0 || is_earlier ||
        (!is_later && w->used_generation < t->used_generation))
        return;
    t->used_generation = w->used_generation;
    t->used_said = w->said;
}

static void
word_note(struct told *t, const struct ledger_workload *w, size_t by)
{
    if (w->ack_generation >= t->ack_generation && w->ack_roots_n <= ROOTS_MAX) {
        t->ack_generation = w->ack_generation;
        t->roots_n = w->ack_roots_n;
        if (w->ack_roots_n > 0)
            memcpy(t->roots, w->ack_roots, w->ack_roots_n * DIGEST_BYTES);
    }
    used_note(t, w);
    if (w->said > t->said) {
        t->said_before = t->said;
        t->said = w->said;
        t->by = by;
        t->used_issued = w->used_issued;
    } else if (w->said > t->said_before)
        t->said_before = w->said;
}

static void
on_word(const struct ledger_workload *w, void *arg)
{
    struct merge *m = arg;

    if (w->instance[0] == '\0' || w->said == 0 || m->no_memory)
        return;
    struct told *t = told_find(m, w);
    if (t == NULL)
        t = told_new(m, w);
    if (t == NULL)
        m->no_memory = true;
    else
        word_note(t, w, m->by);
}

/* The holder uses a leaf of another replica that came later, by the clocks, than all of these. */
static bool
is_replaced(const struct told *t, const struct ledger_workload *w, size_t by)
{
    return t->by != by && t->used_issued > 0 && t->said - EVIDENCE_SKEW_S > t->said_before &&
           t->used_issued - EVIDENCE_SKEW_S > w->last_issued;
}

/* Whether a leaf of this generation, of whichever replica, is put aside. See evidence.h. */
static bool
is_put_aside(const struct told *t, uint64_t generation)
{
    return generation > 0 && (generation < t->used_generation ||
                              (generation <= t->ended_generation && t->ended_said >= t->said));
}

/* The roots that leaves in use need, and how many: those under which each leaf is put aside are
 * left out. */
static size_t
roots_left(const struct told *t, const struct ledger_workload *w, uint8_t (*ret)[DIGEST_BYTES],
           uint64_t *ret_generations)
{
    size_t n = 0;

    for (size_t i = 0; i < w->leaf_roots_n; i++) {
        if (is_put_aside(t, w->leaf_root_generations[i]))
            continue;
        memcpy(ret[n], w->leaf_roots[i], DIGEST_BYTES);
        ret_generations[n++] = w->leaf_root_generations[i];
    }
    return n;
}

static void
on_leaves(const struct ledger_workload *w, void *arg)
{
    struct merge *m = arg;
    struct ledger_workload all = *w;
    uint8_t roots[EVIDENCE_IDS_MAX][DIGEST_BYTES];
    uint64_t generations[EVIDENCE_IDS_MAX];

    if (w->leaves_n == 0)
        return;
    const struct told *t = w->instance[0] == '\0' || m->no_memory ? NULL : told_find(m, w);
    if (t != NULL && is_replaced(t, w, m->by))
        return;
    if (t != NULL && w->leaf_root_generations != NULL && w->leaf_roots_n <= EVIDENCE_IDS_MAX) {
        all.leaf_roots = (const uint8_t(*)[DIGEST_BYTES])roots;
        all.leaf_root_generations = generations;
        all.leaf_roots_n = roots_left(t, w, roots, generations);
        if (all.leaf_roots_n == 0 && w->leaf_roots_n > 0)
            return;
    }
    if (t != NULL && t->ack_generation > w->ack_generation) {
        all.ack_generation = t->ack_generation;
        all.ack_roots = (const uint8_t(*)[DIGEST_BYTES])t->roots;
        all.ack_roots_n = t->roots_n;
    }
    m->fn(&all, m->arg);
}

void
evidence_merge(const struct evidence_teller *tellers, size_t n, ledger_workload_fn *fn, void *arg)
{
    struct merge m = { .fn = fn, .arg = arg };
    struct err e;

    m.no_memory = random_bytes(&m.seed, sizeof(m.seed), &e) < 0; /* or as good as that */
    for (m.by = 0; m.by < n && n > 1; m.by++)
        tellers[m.by].tell(tellers[m.by].self, on_word, &m);
    for (m.by = 0; m.by < n; m.by++)
        tellers[m.by].tell(tellers[m.by].self, on_leaves, &m);
    table_free(&m);
}

/* -- clients as tellers -------------------------------------------------------------------------
 */

static void
client_tells(void *self, ledger_workload_fn *fn, void *arg)
{
    evidence_client_told(self, fn, arg);
}

struct evidence_teller
evidence_client_teller(struct evidence_client *c)
{
    return (struct evidence_teller){ client_tells, c };
}

struct in_use {
    ledger_workload_fn *fn;
    void *arg;
};

static void
on_told(const struct ledger_workload *w, void *arg)
{
    const struct in_use *u = arg;

    if (w->leaves_n > 0)
        u->fn(w, u->arg);
}

void
evidence_client_workloads(struct evidence_client *c, ledger_workload_fn *fn, void *arg)
{
    struct in_use u = { fn, arg };

    evidence_client_told(c, on_told, &u);
}
