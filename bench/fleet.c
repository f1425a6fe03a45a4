/* fleet.c - see fleet.h. All of them at once: what starts them, and what is counted. */
#include "fleet.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "identity/identity.h"
#include "player.h"

enum { TOKEN_BYTES = 4096 };

void
fleet_fail(struct fleet *f, const char *what, const struct err *why)
{
    f->stats.failed++;
    (void)snprintf(f->stats.last_failure, sizeof(f->stats.last_failure), "%s: %.200s", what,
                   why->msg);
}

void
fleet_begin_next(struct fleet *f)
{
    if (f->begun < f->conf.agents)
        player_ask(&f->players[f->begun++]);
}

void
fleet_begin(struct fleet *f, size_t at_once)
{
    struct err e;

    f->queue = NULL;
    f->queue_end = &f->queue;
    f->dialling = 0;
    for (size_t i = 0; i < f->conf.agents; i++) {
        player_stop(&f->players[i]);
        f->held[i] = NULL;
        if (player_connect(&f->players[i], &e) < 0)
            fleet_fail(f, "client", &e);
    }
    f->since_ms = mono_ms();
    for (f->begun = 0; f->begun < at_once && f->begun < f->conf.agents;)
        fleet_begin_next(f);
}

void
fleet_renew(struct fleet *f)
{
    f->since_ms = mono_ms();
    for (size_t i = 0; i < f->conf.agents; i++) {
        f->players[i].leaf_at_ms = 0;
        timer_set(f->players[i].renew, 0);
    }
}

void
fleet_mark(struct fleet *f)
{
    f->since_ms = mono_ms();
    for (size_t i = 0; i < f->conf.agents; i++)
        f->players[i].back_at_ms = 0;
}

static bool
has_root(const struct trust *t, const uint8_t id[DIGEST_BYTES])
{
    for (size_t i = 0; i < t->set->n_roots; i++)
        if (memcmp(t->id_bytes[i], id, DIGEST_BYTES) == 0)
            return true;
    return false;
}

static bool
is_so(const struct player *p, const struct fleet_question *q)
{
    switch (q->fact) {
    case FLEET_HAS_LEAF:
        return p->leaf_at_ms != 0;
    case FLEET_IS_BACK:
        return p->back_at_ms != 0;
    case FLEET_SAID:
        return p->said_generation >= q->generation;
    case FLEET_USES:
        return memcmp(p->said_signer, q->signer, DIGEST_BYTES) == 0;
    case FLEET_LETS_GO_OF:
        return p->said_trust != NULL && !has_root(p->said_trust, q->root);
    }
    return false;
}

size_t
fleet_count(const struct fleet *f, const struct fleet_question *q)
{
    size_t n = 0;

    for (size_t i = 0; i < f->conf.agents; i++)
        n += is_so(&f->players[i], q);
    return n;
}

uint64_t
fleet_generation(const struct fleet *f)
{
    return f->generation;
}

const struct fleet_stats *
fleet_stats(const struct fleet *f)
{
    return &f->stats;
}

static int
by_size(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

struct fleet_times
fleet_times(const struct fleet *f, enum fleet_fact fact)
{
    size_t n = f->conf.agents;
    uint64_t *ms = calloc(n, sizeof(*ms));

    if (ms == NULL)
        return (struct fleet_times){ 0 };
    for (size_t i = 0; i < n; i++) {
        const struct player *p = &f->players[i];
        uint64_t at = fact == FLEET_IS_BACK ? p->back_at_ms : p->leaf_at_ms;

        ms[i] = at > f->since_ms ? at - f->since_ms : 0;
    }
    qsort(ms, n, sizeof(*ms), by_size);
    struct fleet_times t = { (double)ms[n / 2], (double)ms[n * 99 / 100], (double)ms[n - 1] };
    free(ms);
    return t;
}

static int
token_make(const struct fleet *f, size_t i, struct buf *token, struct err *e)
{
    CLEANUP(buf_done) struct buf claims = BUF_INIT(TOKEN_BYTES);

    *token = BUF_INIT(TOKEN_BYTES);
    TRY(buf_addf(&claims, e,
                 "{\"aud\":[\"istio-ca\"],\"exp\":%" PRId64 ",\"iat\":%" PRId64
                 ",\"iss\":\"%s\",\"jti\":\"fleet-%zu\",\"sub\":"
                 "\"system:serviceaccount:bench:fleet%zu\"}",
                 unix_s() + 86400, unix_s(), f->conf.issuer, i, i));
    TRY(buf_add_str(token, "Bearer ", e));
    return jwt_sign(f->conf.token_key, "k1", false, buf_span(&claims), token, e);
}

static int
fleet_fill(struct fleet *f, struct err *e)
{
    const struct tls_conf_args tls = { .roots = f->conf.roots,
                                       .rule = TLS_PEER_NAME,
                                       .alpn = "h2" };

    if (f->players == NULL || f->tokens == NULL || f->held == NULL)
        return err_nomem(e);
    TRY(tls_conf_new(&tls, &f->tls, e));
    for (size_t i = 0; i < f->conf.identities; i++)
        TRY(token_make(f, i, &f->tokens[i], e));
    for (size_t i = 0; i < f->conf.agents; i++)
        TRY(player_make(f, i, e));
    return 0;
}

int
fleet_new(const struct fleet_conf *conf, struct fleet **ret, struct err *e)
{
    struct fleet *f = calloc(1, sizeof(*f));

    if (f == NULL)
        return err_nomem(e);
    f->conf = *conf;
    f->seen_pem = BUF_INIT(PEM_MAX_BYTES);
    f->queue_end = &f->queue;
    f->players = calloc(conf->agents, sizeof(*f->players));
    f->tokens = calloc(conf->identities, sizeof(*f->tokens));
    f->held = calloc(conf->agents, sizeof(const struct trust *));
    int r = fleet_fill(f, e);
    if (r < 0)
        fleet_free(f);
    else
        *ret = f;
    return r;
}

void
fleet_free(struct fleet *f)
{
    if (f == NULL)
        return;
    for (size_t i = 0; f->players != NULL && i < f->conf.agents; i++)
        player_done(&f->players[i]);
    for (struct trust *t = f->trusts, *next; t != NULL; t = next) {
        next = t->next;
        meshroot__v1__trust_set__free_unpacked(t->set, NULL);
        buf_done(&t->bytes);
        free(t);
    }
    for (size_t i = 0; f->tokens != NULL && i < f->conf.identities; i++)
        buf_done(&f->tokens[i]);
    cert_unref(f->seen_signer);
    buf_done(&f->seen_pem);
    tls_conf_unref(f->tls);
    free(f->held);
    free(f->tokens);
    free(f->players);
    free(f);
}
