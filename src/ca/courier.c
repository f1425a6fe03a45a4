/* courier.c - see courier.h. */
#include "ca/courier.h"

#include <stdlib.h>

#include "base/clock.h"
#include "ca/revoke_page.h"
#include "obs/log.h"

enum {
    LOOK_MS = 250,
    ROWS_MAX = 2 * REVOKED_MAX,
    IDENTITIES_MAX = 2 * REVOKED_IDENTITIES_MAX,
    NAME_BYTES = 64
};

/* Bits of stops: that have it; have shown it in this round; are told it by the call under way. */
struct marks {
    uint32_t has, seen, told;
};

struct row { /* one revoked leaf */
    struct revoked v;
    struct cert *issuer; /* a reference; NULL: no replica has it */
    struct marks m;
};

struct identity_row {
    struct revoked_identity v;
    struct marks m;
};

struct courier {
    struct loop *loop;
    struct timer *timer;
    struct row *rows; /* owned */
    size_t n, cap;
    struct identity_row *identities; /* owned */
    size_t identities_n, identities_cap;
    struct courier_stop *stops[COURIER_STOPS_MAX]; /* by the bit; NULL: free */
};

struct courier_stop {
    struct courier *courier;
    struct courier_port port;
    char name[NAME_BYTES];
    uint32_t bit, from, identities_from;
    size_t lacks; /* after the last round */
    bool is_asked, is_listed, takes_identities;
    bool has_news; /* another replica has shown a row since it was asked last */
    uint64_t due_ms;
    char said[ERR_MSG_BYTES]; /* the last trouble, said once */
};

/* -- rows ---------------------------------------------------------------------------------------
 */

static void
row_done(struct row *r)
{
    free(r->v.identity);
    cert_unref(r->issuer);
}

static struct row *
row_find(const struct courier *c, const struct revoked *v)
{
    for (size_t i = 0; i < c->n; i++) {
        const struct revoked *w = &c->rows[i].v;

        if (w->entry.serial_n == v->entry.serial_n &&
            memcmp(w->entry.serial, v->entry.serial, v->entry.serial_n) == 0 &&
            memcmp(w->signer_id, v->signer_id, DIGEST_BYTES) == 0)
            return &c->rows[i];
    }
    return NULL;
}

static int
row_new(struct courier *c, struct row **ret, struct err *e)
{
    if (c->n == ROWS_MAX)
        return err_set(e, E_LIMIT, "more than %d leaves are revoked and not expired", ROWS_MAX);
    if (c->n == c->cap) {
        size_t cap = c->cap == 0 ? 16 : 2 * c->cap;
        struct row *p = realloc(c->rows, cap * sizeof(*p));

        if (p == NULL)
            return err_nomem(e);
        c->rows = p;
        c->cap = cap;
    }
    c->rows[c->n] = (struct row){ .issuer = NULL };
    *ret = &c->rows[c->n++];
    return 0;
}

static struct identity_row *
identity_find(const struct courier *c, const uint8_t id[IDENTITY_ACT_BYTES])
{
    for (size_t i = 0; i < c->identities_n; i++)
        if (memcmp(c->identities[i].v.id, id, IDENTITY_ACT_BYTES) == 0)
            return &c->identities[i];
    return NULL;
}

static int
identity_new(struct courier *c, struct identity_row **ret, struct err *e)
{
    if (c->identities_n == IDENTITIES_MAX)
        return err_set(e, E_LIMIT, "more than %d times an identity was revoked", IDENTITIES_MAX);
    if (c->identities_n == c->identities_cap) {
        size_t cap = c->identities_cap == 0 ? 16 : 2 * c->identities_cap;
        struct identity_row *p = realloc(c->identities, cap * sizeof(*p));

        if (p == NULL)
            return err_nomem(e);
        c->identities = p;
        c->identities_cap = cap;
    }
    c->identities[c->identities_n] = (struct identity_row){ .v.identity = NULL };
    *ret = &c->identities[c->identities_n++];
    return 0;
}

/* Of those whose leaf has ended nobody has to be told any more. */
static void
rows_prune(struct courier *c)
{
    int64_t now = unix_s();
    size_t n = 0, k = 0;

    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].v.not_after < now)
            row_done(&c->rows[i]);
        else
            c->rows[n++] = c->rows[i];
    c->n = n;
    for (size_t i = 0; i < c->identities_n; i++)
        if (c->identities[i].v.until < now)
            free(c->identities[i].v.identity);
        else
            c->identities[k++] = c->identities[i];
    c->identities_n = k;
}

typedef void marks_fn(struct marks *m, uint32_t bit);

static void
each_mark(struct courier *c, uint32_t bit, marks_fn *fn)
{
    for (size_t i = 0; i < c->n; i++)
        fn(&c->rows[i].m, bit);
    for (size_t i = 0; i < c->identities_n; i++)
        fn(&c->identities[i].m, bit);
}

static void
mark_gone(struct marks *m, uint32_t bit)
{
    m->has &= ~bit;
    m->seen &= ~bit;
    m->told &= ~bit;
}

static void
mark_taken(struct marks *m, uint32_t bit)
{
    m->has |= m->told & bit; /* until the round shows otherwise */
    m->told &= ~bit;
}

static void
mark_not_taken(struct marks *m, uint32_t bit)
{
    m->told &= ~bit;
}

static void
mark_round(struct marks *m, uint32_t bit)
{
    m->has = (m->has & ~bit) | (m->seen & bit);
    m->seen &= ~bit;
}

static void
mark_shown(struct marks *m, uint32_t bit)
{
    m->seen |= bit;
    m->has |= bit;
}

static bool
lacks(const struct row *r, const struct courier_stop *s)
{
    return (r->m.has & s->bit) == 0 && r->issuer != NULL;
}

static size_t
lacks_identities(const struct courier_stop *s)
{
    const struct courier *c = s->courier;
    size_t n = 0;

    for (size_t i = 0; i < c->identities_n; i++)
        n += (c->identities[i].m.has & s->bit) == 0;
    return n;
}

static size_t
lacks_count(const struct courier_stop *s)
{
    size_t n = s->takes_identities ? lacks_identities(s) : 0;

    for (size_t i = 0; i < s->courier->n; i++)
        n += lacks(&s->courier->rows[i], s);
    return n;
}

/* -- one call -----------------------------------------------------------------------------------
 */

static void
trouble(struct courier_stop *s, const char *what)
{
    if (strcmp(s->said, what) == 0)
        return;
    (void)snprintf(s->said, sizeof(s->said), "%s", what);
    if (what[0] != '\0')
        log_warn("revoke", "revocations are not carried to and from %s: %s", s->name, what);
}

/* This one has news: the others are told at once. */
static void
all_due(const struct courier_stop *s)
{
    const struct courier *c = s->courier;

    for (size_t i = 0; i < COURIER_STOPS_MAX; i++)
        if (c->stops[i] != NULL && c->stops[i] != s) {
            c->stops[i]->has_news = true;
            c->stops[i]->due_ms = 0;
        }
}

static int
identity_take(struct courier_stop *s, const Meshroot__V1__RevokedIdentity *m, struct err *e)
{
    struct courier *c = s->courier;
    struct revoked_identity v;

    TRY(revoke_identity_read(m, &v, e));
    struct identity_row *r = identity_find(c, v.id);
    bool is_new = r == NULL && v.until >= unix_s();
    int done = is_new ? identity_new(c, &r, e) : 0;
    if (is_new && done == 0) {
        r->v = v;
        all_due(s);
    } else {
        free(v.identity);
    }
    if (r != NULL)
        mark_shown(&r->m, s->bit);
    return done;
}

static int
row_take(struct courier_stop *s, const Meshroot__V1__RevokedPage *m,
         const Meshroot__V1__RevokedLeaf *leaf, struct err *e)
{
    struct courier *c = s->courier;
    struct revoked v;
    struct row *r;

    TRY(revoke_leaf_read(leaf, &v, e));
    r = row_find(c, &v);
    bool is_new = r == NULL && v.not_after >= unix_s();
    int done = is_new ? row_new(c, &r, e) : 0;
    if (!is_new || done < 0)
        free(v.identity);
    if (r == NULL)
        return done; /* its leaf has ended; or no room */
    if (is_new) {
        r->v = v;
        all_due(s);
    }
    mark_shown(&r->m, s->bit);
    done = r->issuer != NULL ? 0 : revoke_issuer_find(m, r->v.signer_id, &r->issuer, e);
    return done < 0 ? done : 0;
}

static void
round_end(struct courier_stop *s)
{
    struct courier *c = s->courier;

    each_mark(c, s->bit, mark_round);
    rows_prune(c);
    size_t n = lacks_count(s);
    /* At once while there is more to tell, and it is taken. */
    bool is_more = n > 0 && (!s->is_listed || s->has_news || n < s->lacks);
    s->due_ms = is_more ? 0 : mono_ms() + COURIER_EVERY_MS;
    s->lacks = n;
    s->is_listed = true;
    s->from = s->identities_from = 0;
}

/* What keeps it from taking all that it is told. */
static const char *
what_is_wrong(const struct courier_stop *s, const Meshroot__V1__RevokedPage *m)
{
    if (m->trouble[0] != '\0' || m->takes_identities || s->courier->identities_n == 0)
        return m->trouble;
    return "it is of a version that takes no revoked identities: upgrade it, or run meshroot ca "
           "revoke --identity there, too";
}

static int
page_take(struct courier_stop *s, const Meshroot__V1__RevokedPage *m, struct err *e)
{
    if (m == NULL || m->from != s->from || m->n_leaves > PAGE_LEAVES_MAX ||
        m->n_identities > PAGE_IDENTITIES_MAX)
        return err_set(e, E_PEER, "the replica's answer is not the RevokedPage that was asked for");
    for (size_t i = 0; i < m->n_leaves; i++)
        TRY(row_take(s, m, m->leaves[i], e));
    for (size_t i = 0; i < m->n_identities; i++)
        TRY(identity_take(s, m->identities[i], e));
    s->takes_identities = m->takes_identities;
    trouble(s, what_is_wrong(s, m));
    s->from += (uint32_t)m->n_leaves;
    s->identities_from += (uint32_t)m->n_identities;
    if ((m->n_leaves == 0 || s->from >= m->total) &&
        (m->n_identities == 0 || s->identities_from >= m->identities_total))
        round_end(s);
    return 0;
}

static void stop_go(struct courier_stop *s);

static void
failed(struct courier_stop *s, const struct err *why)
{
    bool is_final = why->code == E_DENIED;

    trouble(s, why->msg);
    s->from = s->identities_from = 0;
    s->due_ms = mono_ms() + (is_final ? COURIER_DENIED_MS : COURIER_LATER_MS);
}

static void
on_answer(struct span answer, const struct err *why, void *arg)
{
    struct courier_stop *s = arg;
    struct err e;

    s->is_asked = false;
    each_mark(s->courier, s->bit, why == NULL ? mark_taken : mark_not_taken);
    if (why != NULL) {
        failed(s, why);
        return;
    }
    Meshroot__V1__RevokedPage *m = meshroot__v1__revoked_page__unpack(NULL, answer.n, answer.p);
    int r = page_take(s, m, &e);
    if (m != NULL)
        meshroot__v1__revoked_page__free_unpacked(m, NULL);
    if (r < 0)
        failed(s, &e);
    else if (s->from > 0 || s->identities_from > 0 || s->due_ms == 0)
        stop_go(s);
}

/* One page's worth of what it lacks. */
static void
tell(struct courier_stop *s, struct revoke_page *page)
{
    struct courier *c = s->courier;
    int64_t now = unix_s();

    for (size_t i = 0; i < c->identities_n && s->takes_identities; i++) {
        struct identity_row *r = &c->identities[i];

        if ((r->m.has & s->bit) != 0 || r->v.until < now)
            continue;
        if (!revoke_page_add_identity(page, &r->v))
            break;
        r->m.told |= s->bit;
    }
    for (size_t i = 0; i < c->n; i++) {
        struct row *r = &c->rows[i];

        if (!lacks(r, s) || r->v.not_after < now)
            continue;
        if (!revoke_page_add(page, &r->v, r->issuer))
            break;
        r->m.told |= s->bit;
    }
}

static int
ask(struct courier_stop *s, struct err *e)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(GRPC_MAX_MESSAGE_BYTES);
    struct revoke_page page;

    bool is_first = s->from == 0 && s->identities_from == 0;

    revoke_page_init(&page, s->from, s->identities_from);
    s->has_news = s->has_news && !is_first; /* told now; later pages only listen */
    if (is_first && s->is_listed)
        tell(s, &page);
    TRY(revoke_page_pack(&page, &b, e));
    return s->port.exchange(s->port.self, buf_span(&b), on_answer, s, e);
}

static void
stop_go(struct courier_stop *s)
{
    struct err e;

    s->is_asked = true;
    if (ask(s, &e) == 0)
        return;
    s->is_asked = false;
    failed(s, &e);
}

static void
on_timer(void *arg)
{
    struct courier *c = arg;

    for (size_t i = 0; i < COURIER_STOPS_MAX; i++)
        if (c->stops[i] != NULL && !c->stops[i]->is_asked && mono_ms() >= c->stops[i]->due_ms)
            stop_go(c->stops[i]);
    timer_set(c->timer, LOOK_MS);
}

/* -- the public face ----------------------------------------------------------------------------
 */

int
courier_new(struct loop *l, struct courier **ret, struct err *e)
{
    struct courier *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    c->loop = l;
    if (timer_new(l, on_timer, c, &c->timer, e) < 0) {
        free(c);
        return err_result(e);
    }
    timer_set(c->timer, 0);
    *ret = c;
    return 0;
}

void
courier_free(struct courier *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < COURIER_STOPS_MAX; i++)
        courier_part(c->stops[i]);
    for (size_t i = 0; i < c->n; i++)
        row_done(&c->rows[i]);
    free(c->rows);
    for (size_t i = 0; i < c->identities_n; i++)
        free(c->identities[i].v.identity);
    free(c->identities);
    timer_free(c->timer);
    free(c);
}

int
courier_join(struct courier *c, const struct courier_port *port, const char *name,
             struct courier_stop **ret, struct err *e)
{
    size_t i = 0;

    while (i < COURIER_STOPS_MAX && c->stops[i] != NULL)
        i++;
    if (i == COURIER_STOPS_MAX)
        return err_set(e, E_LIMIT, "more than %d replicas", (int)COURIER_STOPS_MAX);
    struct courier_stop *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    *s = (struct courier_stop){ .courier = c, .port = *port, .bit = UINT32_C(1) << i };
    (void)snprintf(s->name, sizeof(s->name), "%s", name);
    *ret = c->stops[i] = s;
    return 0;
}

void
courier_part(struct courier_stop *s)
{
    if (s == NULL)
        return;
    struct courier *c = s->courier;
    each_mark(c, s->bit, mark_gone);
    for (size_t i = 0; i < COURIER_STOPS_MAX; i++)
        if (c->stops[i] == s)
            c->stops[i] = NULL;
    free(s);
}

size_t
courier_count(const struct courier *c)
{
    return c->n;
}
