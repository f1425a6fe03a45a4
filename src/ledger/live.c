#include "ledger/live.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "ledger/share.h"

enum { BUCKETS_FIRST = 256, LEAVES_FIRST = 2 };

struct leaf {
    uint64_t seq, generation;
    int64_t not_after, issued;
    uint32_t root, signer; /* indices into live.ids */
    uint8_t serial_n, serial[SERIAL_MAX_BYTES];
};

struct workload {
    struct workload *next; /* in its bucket */
    struct share *share;   /* of its identity; borrowed from live.shares */
    struct leaf *leaves;   /* owned; in order of seq */
    size_t n, cap;
    uint64_t said_generation, said_used_seq;    /* of its newest word, durable or not ... */
    size_t words_n;                             /* ... of so many on their way to the disk */
    int64_t touched;                            /* its last word or row */
    bool has_word, is_of_here;                  /* struct word's, of this process's life only */
    int64_t said;                               /* when */
    uint64_t generation, used_seq;              /* of its last durable word */
    uint64_t leaf_generation, ended_generation; /* and struct word's */
    uint8_t (*roots)[DIGEST_BYTES];             /* owned */
    size_t roots_n;
    char *instance;  /* behind identity in the same block */
    char identity[]; /* and the instance */
};

struct live {
    struct workload **buckets;
    size_t buckets_n, workloads_n, leaves_n;
    struct shares shares;
    uint64_t seed; /* so that nobody can choose instances that fall into one bucket */
    uint8_t (*ids)[DIGEST_BYTES];           /* distinct roots and signers */
    uint8_t (*scratch_roots)[DIGEST_BYTES]; /* as long as ids: live_each cannot fail */
    uint8_t (*scratch_signers)[DIGEST_BYTES];
    uint64_t *scratch_generations; /* as long, beside scratch_roots */
    int64_t longest_s;             /* the longest life of a leaf so far */
    uint32_t *mark;                /* per id: 1 root seen, 2 signer seen in this workload */
    size_t ids_n, ids_cap;
};

int
live_new(struct live **ret, struct err *e)
{
    struct live *v = calloc(1, sizeof(*v));

    if (v == NULL)
        return err_nomem(e);
    v->buckets_n = BUCKETS_FIRST;
    v->buckets = calloc(v->buckets_n, sizeof(struct workload *));
    if (v->buckets == NULL) {
        free(v);
        return err_nomem(e);
    }
    if (random_bytes(&v->seed, sizeof(v->seed), e) < 0 || shares_init(&v->shares, v->seed, e) < 0) {
        live_free(v);
        return err_result(e);
    }
    *ret = v;
    return 0;
}

static void
workload_free(struct workload *w)
{
    free(w->leaves);
    free(w->roots);
    free(w);
}

void
live_free(struct live *v)
{
    if (v == NULL)
        return;
    for (size_t i = 0; i < v->buckets_n; i++)
        while (v->buckets[i] != NULL) {
            struct workload *w = v->buckets[i];

            v->buckets[i] = w->next;
            workload_free(w);
        }
    free(v->buckets);
    shares_done(&v->shares);
    free(v->ids);
    free(v->scratch_roots);
    free(v->scratch_signers);
    free(v->scratch_generations);
    free(v->mark);
    free(v);
}

/* -- the table of workloads: by instance, and by identity for those that have none ---------------
 */

static size_t
bucket_of(const struct live *v, size_t buckets_n, const char *identity, const char *instance)
{
    const char *s = instance[0] != '\0' ? instance : identity;
    uint64_t h = v->seed ^ 0xcbf29ce484222325u;

    for (; *s != '\0'; s++)
        h = (h ^ (uint8_t)*s) * 0x100000001b3u + (h >> 47 ^ v->seed);
    h ^= h >> 29;
    return (size_t)(h % buckets_n);
}

static struct workload *
workload_find(const struct live *v, const char *identity, const char *instance)
{
    struct workload *w = v->buckets[bucket_of(v, v->buckets_n, identity, instance)];

    while (w != NULL && (strcmp(w->instance, instance) != 0 || strcmp(w->identity, identity) != 0))
        w = w->next;
    return w;
}

static bool
instance_is_taken(const struct live *v, const char *instance)
{
    const struct workload *w = v->buckets[bucket_of(v, v->buckets_n, "", instance)];

    while (w != NULL && strcmp(w->instance, instance) != 0)
        w = w->next;
    return w != NULL;
}

/* Best effort: a table that could not grow is slower, not wrong. */
static void
table_grow(struct live *v)
{
    size_t n = v->buckets_n * 2;
    struct workload **b = calloc(n, sizeof(struct workload *));

    if (b == NULL)
        return;
    for (size_t i = 0; i < v->buckets_n; i++)
        while (v->buckets[i] != NULL) {
            struct workload *w = v->buckets[i];
            size_t at = bucket_of(v, n, w->identity, w->instance);

            v->buckets[i] = w->next;
            w->next = b[at];
            b[at] = w;
        }
    free(v->buckets);
    v->buckets = b;
    v->buckets_n = n;
}

static int
workload_get(struct live *v, const char *identity, const char *instance, struct workload **ret,
             struct err *e)
{
    size_t identity_n = strlen(identity) + 1, instance_n = strlen(instance) + 1;

    *ret = workload_find(v, identity, instance);
    if (*ret != NULL)
        return 0;
    if (v->workloads_n >= LEDGER_WORKLOADS_MAX)
        return err_set(e, E_LIMIT, "more than %d workloads", (int)LEDGER_WORKLOADS_MAX);
    if (v->workloads_n >= v->buckets_n)
        table_grow(v);
    struct share *share;
    TRY(shares_get(&v->shares, identity, &share, e));
    struct workload *w = calloc(1, sizeof(*w) + identity_n + instance_n);
    if (w == NULL) {
        if (share->workloads_n == 0)
            shares_drop(&v->shares, share);
        return err_nomem(e);
    }
    w->share = share;
    share->workloads_n++;
    memcpy(w->identity, identity, identity_n);
    w->instance = memcpy(w->identity + identity_n, instance, instance_n);
    size_t at = bucket_of(v, v->buckets_n, identity, instance);
    w->next = v->buckets[at];
    v->buckets[at] = w;
    v->workloads_n++;
    *ret = w;
    return 0;
}

/* -- issuers ------------------------------------------------------------------------------------
 */

static int
ids_grow(struct live *v, struct err *e)
{
    size_t cap = v->ids_cap == 0 ? 16 : v->ids_cap * 2;
    uint8_t(**const arrays[])[DIGEST_BYTES] = { &v->ids, &v->scratch_roots, &v->scratch_signers };

    for (size_t i = 0; i < ARRAY_LEN(arrays); i++) {
        void *p = realloc(*arrays[i], cap * DIGEST_BYTES);

        if (p == NULL)
            return err_nomem(e);
        *arrays[i] = p;
    }
    uint64_t *generations = realloc(v->scratch_generations, cap * sizeof(*generations));
    if (generations == NULL)
        return err_nomem(e);
    v->scratch_generations = generations;
    uint32_t *mark = realloc(v->mark, cap * sizeof(*mark));
    if (mark == NULL)
        return err_nomem(e);
    v->mark = mark;
    v->ids_cap = cap;
    return 0;
}

/* The newest first: nearly every leaf is of the newest issuer. */
static int
id_get(struct live *v, const uint8_t id[DIGEST_BYTES], uint32_t *ret, struct err *e)
{
    for (size_t i = v->ids_n; i > 0; i--)
        if (memcmp(v->ids[i - 1], id, DIGEST_BYTES) == 0) {
            *ret = (uint32_t)(i - 1);
            return 0;
        }
    if (v->ids_n >= LEDGER_ISSUERS_MAX)
        return err_set(e, E_LIMIT, "more than %d issuers", (int)LEDGER_ISSUERS_MAX);
    if (v->ids_n == v->ids_cap)
        TRY(ids_grow(v, e));
    memcpy(v->ids[v->ids_n], id, DIGEST_BYTES);
    *ret = (uint32_t)v->ids_n++;
    return 0;
}

/* -- rows ---------------------------------------------------------------------------------------
 */

static void
leaves_prune(struct live *v, struct workload *w, int64_t now)
{
    size_t n = 0;

    for (size_t i = 0; i < w->n; i++)
        if (w->leaves[i].not_after >= now)
            w->leaves[n++] = w->leaves[i];
    v->leaves_n -= w->n - n;
    w->share->leaves_n -= w->n - n;
    w->n = n;
}

static int
leaves_room(struct live *v, struct workload *w, int64_t now, struct err *e)
{
    if (v->leaves_n >= LEDGER_LEAVES_MAX)
        return err_set(e, E_LIMIT, "more than %d leaves are alive", (int)LEDGER_LEAVES_MAX);
    if (w->n < w->cap)
        return 0;
    leaves_prune(v, w, now);
    if (w->n < w->cap / 2)
        return 0;
    size_t cap = w->cap == 0 ? LEAVES_FIRST : w->cap * 2;
    struct leaf *p = realloc(w->leaves, cap * sizeof(*p));
    if (p == NULL)
        return err_nomem(e);
    w->leaves = p;
    w->cap = cap;
    return 0;
}

int
live_check(const struct live *v, const char *identity, const char *instance, struct err *e)
{
    const struct share *x = shares_find(&v->shares, identity);

    if (x == NULL)
        return 0;
    if (x->leaves_n >= LEDGER_IDENTITY_LEAVES_MAX)
        return err_set(e, E_LIMIT, "more than %d leaves of %s are alive",
                       (int)LEDGER_IDENTITY_LEAVES_MAX, identity);
    if (x->workloads_n >= LEDGER_IDENTITY_WORKLOADS_MAX &&
        workload_find(v, identity, instance) == NULL)
        return err_set(e, E_LIMIT, "more than %d instances of %s",
                       (int)LEDGER_IDENTITY_WORKLOADS_MAX, identity);
    return 0;
}

int
live_add(struct live *v, const struct ledger_row *row, int64_t now, struct err *e)
{
    struct workload *w = NULL;
    struct leaf leaf = { .seq = row->seq,
                         .generation = row->generation,
                         .not_after = row->not_after,
                         .issued = row->issued,
                         .serial_n = (uint8_t)row->serial_n };

    memcpy(leaf.serial, row->serial, row->serial_n);
    TRY(id_get(v, row->root_id, &leaf.root, e));
    TRY(id_get(v, row->signer_id, &leaf.signer, e));
    TRY(workload_get(v, row->identity, row->instance, &w, e));
    TRY(leaves_room(v, w, now, e));
    size_t at = w->n;
    while (at > 0 && w->leaves[at - 1].seq > leaf.seq)
        at--;
    memmove(&w->leaves[at + 1], &w->leaves[at], (w->n - at) * sizeof(leaf));
    w->leaves[at] = leaf;
    w->n++;
    v->leaves_n++;
    w->share->leaves_n++;
    if (w->touched < row->issued)
        w->touched = row->issued;
    if (v->longest_s < row->not_after - row->issued)
        v->longest_s = row->not_after - row->issued;
    return 0;
}

void
live_remove(struct live *v, const char *identity, const char *instance, uint64_t seq)
{
    struct workload *w = workload_find(v, identity, instance);

    for (size_t i = 0; w != NULL && i < w->n; i++)
        if (w->leaves[i].seq == seq) {
            memmove(&w->leaves[i], &w->leaves[i + 1], (w->n - i - 1) * sizeof(w->leaves[0]));
            w->n--;
            v->leaves_n--;
            w->share->leaves_n--;
            return;
        }
}

/* -- words --------------------------------------------------------------------------------------
 */

static const struct leaf *
leaf_by_serial(const struct workload *w, struct span serial)
{
    for (size_t i = w->n; i > 0; i--)
        if (span_eq(span_of(w->leaves[i - 1].serial, w->leaves[i - 1].serial_n), serial))
            return &w->leaves[i - 1];
    return NULL;
}

/* Our own row says it best. Whoever ends without a generation may come again as the same instance,
 * with a leaf of a replica that is behind: its word is about the rows of this ledger alone. */
static void
word_leaf(const struct ledger_ack *a, const struct leaf *used, struct word *word)
{
    word->leaf_generation = a->leaf_generation;
    if (used != NULL && !a->ended)
        word->leaf_generation = used->generation;
    if (a->ended)
        word->ended_generation = a->leaf_generation;
}

int
live_word(struct live *v, const struct ledger_ack *a, uint64_t newest, int64_t now,
          struct word *ret_word, struct err *e)
{
    struct workload *w = workload_find(v, a->identity, a->instance);
    struct word word = { .generation = a->generation, .said = now, .roots_n = a->roots_n };

    if (w == NULL && instance_is_taken(v, a->instance))
        return err_set(e, E_DENIED, "instance %s is not one of %s", a->instance, a->identity);
    if (w == NULL) {
        TRY(live_check(v, a->identity, a->instance, e));
        TRY(workload_get(v, a->identity, a->instance, &w, e));
    }
    if (a->generation < w->said_generation)
        return LEDGER_STALE;
    memcpy(word.identity, a->identity, sizeof(word.identity));
    memcpy(word.instance, a->instance, sizeof(word.instance));
    memcpy(word.roots, a->roots, a->roots_n * DIGEST_BYTES);
    const struct leaf *used = leaf_by_serial(w, span_of(a->serial, a->serial_n));
    word_leaf(a, used, &word);
    word.used_seq = w->said_used_seq;
    word.is_of_here = used != NULL && !a->ended;
    if (a->serial_n > 0 && used != NULL)
        word.used_seq = used->seq;
    if (a->ended)
        word.used_seq = newest + 1;
    w->said_generation = a->generation;
    w->said_used_seq = word.used_seq;
    w->words_n++;
    w->touched = now;
    *ret_word = word;
    return 0;
}

/* One is durable, or is not: without a later one on its way, what is durable was said last. */
static void
word_over(struct workload *w)
{
    if (w->words_n > 0) /* else it was read at the start */
        w->words_n--;
    if (w->words_n > 0)
        return;
    w->said_generation = w->generation;
    w->said_used_seq = w->used_seq;
}

int
live_word_set(struct live *v, const struct word *word, struct err *e)
{
    struct workload *w = NULL;

    TRY(workload_get(v, word->identity, word->instance, &w, e));
    void *roots = malloc(word->roots_n * DIGEST_BYTES + 1);
    if (roots == NULL)
        return err_nomem(e);
    memcpy(roots, word->roots, word->roots_n * DIGEST_BYTES);
    free(w->roots);
    w->roots = roots;
    w->roots_n = word->roots_n;
    w->generation = word->generation;
    w->used_seq = word->used_seq;
    w->leaf_generation = word->leaf_generation;
    w->ended_generation = word->ended_generation;
    word_over(w);
    w->has_word = true;
    w->is_of_here = word->is_of_here;
    w->said = word->said;
    if (w->touched < word->said)
        w->touched = word->said;
    return 0;
}

void
live_word_undo(struct live *v, const struct word *word)
{
    struct workload *w = workload_find(v, word->identity, word->instance);

    if (w != NULL)
        word_over(w);
}

/* -- questions ----------------------------------------------------------------------------------
 */

/* How long the word of a workload without leaves is kept. One that has ended speaks for its leaves
 * in other ledgers as long as they may live; any other says its word again when its stream ends. */
static int64_t
word_kept_s(const struct live *v, const struct workload *w)
{
    return w->ended_generation > 0 && v->longest_s > WORD_KEPT_S ? v->longest_s : WORD_KEPT_S;
}

void
live_prune(struct live *v, int64_t now, live_gone_fn *gone, void *arg)
{
    for (size_t i = 0; i < v->buckets_n; i++)
        for (struct workload **at = &v->buckets[i]; *at != NULL;) {
            struct workload *w = *at;

            leaves_prune(v, w, now);
            if (w->n > 0 || now - w->touched < word_kept_s(v, w)) {
                at = &w->next;
                continue;
            }
            *at = w->next;
            v->workloads_n--;
            if (w->has_word)
                gone(w->identity, w->instance, arg);
            if (--w->share->workloads_n == 0)
                shares_drop(&v->shares, w->share);
            workload_free(w);
        }
}

/* Its place in the list, which has one or two. */
static size_t
seen_add(struct live *v, uint32_t id, uint32_t bit, uint8_t (*list)[DIGEST_BYTES], size_t *n)
{
    size_t at = 0;

    if ((v->mark[id] & bit) == 0) {
        v->mark[id] |= bit;
        memcpy(list[*n], v->ids[id], DIGEST_BYTES);
        return (*n)++;
    }
    while (memcmp(list[at], v->ids[id], DIGEST_BYTES) != 0)
        at++;
    return at;
}

static void
root_add(struct live *v, const struct leaf *f, size_t *n)
{
    size_t before = *n, at = seen_add(v, f->root, 1, v->scratch_roots, n);

    if (at == before || v->scratch_generations[at] < f->generation)
        v->scratch_generations[at] = f->generation;
}

/* Fills `ret` from the leaves in use. */
static void
workload_sum(struct live *v, const struct workload *w, int64_t now, struct ledger_workload *ret)
{
    struct ledger_workload s = { .identity = w->identity,
                                 .instance = w->instance,
                                 .can_acknowledge = w->instance[0] != '\0',
                                 .ack_generation = w->generation,
                                 .ack_roots = (const uint8_t(*)[DIGEST_BYTES])w->roots,
                                 .ack_roots_n = w->roots_n,
                                 .said = w->said,
                                 .used_generation = w->leaf_generation,
                                 .ended_generation = w->ended_generation,
                                 .min_row_generation = UINT64_MAX,
                                 .leaf_root_generations = v->scratch_generations,
                                 .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])v->scratch_roots,
                                 .leaf_signers =
                                     (const uint8_t(*)[DIGEST_BYTES])v->scratch_signers };

    for (size_t i = 0; i < w->n; i++) {
        const struct leaf *f = &w->leaves[i];

        if (f->seq < w->used_seq || f->not_after < now)
            continue;
        if (f->seq == w->used_seq && w->is_of_here)
            s.used_issued = f->issued;
        if (f->issued > s.last_issued)
            s.last_issued = f->issued;
        s.leaves_n++;
        root_add(v, f, &s.leaf_roots_n);
        (void)seen_add(v, f->signer, 2, v->scratch_signers, &s.leaf_signers_n);
        if (f->generation < s.min_row_generation)
            s.min_row_generation = f->generation;
        if (s.leaves_n == 1 || f->not_after > s.last_not_after)
            s.last_not_after = f->not_after;
    }
    for (size_t i = 0; i < w->n; i++)
        v->mark[w->leaves[i].root] = v->mark[w->leaves[i].signer] = 0;
    *ret = s;
}

void
live_issued(const struct live *v, const char *identity, int64_t now, ledger_leaf_fn *fn, void *arg)
{
    for (size_t i = 0; i < v->buckets_n; i++)
        for (const struct workload *w = v->buckets[i]; w != NULL; w = w->next) {
            if (identity != NULL && strcmp(identity, w->identity) != 0)
                continue;
            for (size_t k = 0; k < w->n; k++) {
                const struct leaf *f = &w->leaves[k];
                const struct ledger_leaf leaf = { .identity = w->identity,
                                                  .instance = w->instance,
                                                  .serial = span_of(f->serial, f->serial_n),
                                                  .signer_id = v->ids[f->signer],
                                                  .not_after = f->not_after,
                                                  .seq = f->seq };
                if (f->not_after >= now)
                    fn(&leaf, arg);
            }
        }
}

size_t
live_each(struct live *v, int64_t now, bool words_too, ledger_workload_fn *fn, void *arg)
{
    size_t total = 0;

    if (v->ids_n > 0)
        memset(v->mark, 0, v->ids_n * sizeof(v->mark[0]));
    for (size_t i = 0; i < v->buckets_n; i++)
        for (struct workload *w = v->buckets[i]; w != NULL; w = w->next) {
            struct ledger_workload s;

            workload_sum(v, w, now, &s);
            total += s.leaves_n;
            if (fn != NULL && (s.leaves_n > 0 || (words_too && w->has_word)))
                fn(&s, arg);
        }
    return total;
}
