/* review.c - tokens that the API server judges (TokenReview), on the control loop.
 *
 * Workers hand their calls over through a short list under a lock, not by a post alone: when the CA
 * ends, its control loop no longer turns, and every call that waits must still get its answer. One
 * question per token is under way at a time; a yes is kept for CA_REVIEW_KEEP_MS, by the SHA-256 of
 * the token, a no for less. A failure is neither.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/str.h"
#include "ca/room.h"
#include "kube/kube.h"

enum { KEPT_SLOTS = 512 };

struct flight { /* one token under review */
    struct ca_reviews *reviews;
    struct flight *next, **link;
    uint8_t key[DIGEST_BYTES];
    struct ca_ask *asks;
};

struct kept {
    uint8_t key[DIGEST_BYTES];
    uint64_t until_ms; /* 0: empty */
    struct ca_verdict verdict;
};

struct ca_reviews {
    struct loop *loop;
    struct kube_client *kube; /* borrowed */
    const char *const *audiences;
    struct kept *kept[KEPT_SLOTS]; /* by the key's first bytes; owned */
    struct flight *flights;
    size_t flights_n;
    pthread_mutex_t lock; /* guards what follows */
    struct ca_ask *handed, **handed_end;
    size_t waiting_n;
    bool is_closed, is_posted; /* is_posted: the control loop will look */
};

/* -- answers -------------------------------------------------------------------------------------
 */

static void
post_back(void *arg)
{
    struct ca_ask *q = arg;
    struct err e;

    if (loop_post(q->loop, q->back, q, &e) < 0)
        loop_defer(q->reviews->loop, post_back, q); /* no memory: the next turn */
}

static void
answer(struct ca_reviews *r, struct ca_ask *q, const struct ca_verdict *v)
{
    q->verdict = *v;
    (void)pthread_mutex_lock(&r->lock);
    r->waiting_n--;
    (void)pthread_mutex_unlock(&r->lock);
    post_back(q);
}

static void
answer_all(struct ca_reviews *r, struct ca_ask *list, const struct ca_verdict *v)
{
    for (struct ca_ask *q = list, *next; q != NULL; q = next) {
        next = q->next;
        answer(r, q, v);
    }
}

static struct ca_verdict
verdict_no(enum err_code code, const char *reason, const char *words)
{
    struct ca_verdict v = { .reason = reason };

    (void)err_set(&v.why, code, "%s", words);
    return v;
}

/* The account and the pod of a review, as the claims of a token that was verified here. */
static bool
claims_fill(const struct kube_review *said, struct jwt_claims *c)
{
    static const char prefix[] = "system:serviceaccount:";
    struct span rest = span_str(said->username), ns, sa;
    bool ok = span_starts(rest, prefix);

    *c = (struct jwt_claims){ .is_kubernetes = true };
    rest = span_skip(rest, sizeof(prefix) - 1);
    ok = ok && span_cut(&rest, ':', &ns) && span_cut(&rest, ':', &sa) && rest.p == NULL &&
         k8s_label_ok(ns) && k8s_subdomain_ok(sa);
    ok = ok && (said->pod_name[0] == '\0' || k8s_subdomain_ok(span_str(said->pod_name)));
    if (!ok)
        return false;
    (void)snprintf(c->subject, sizeof(c->subject), "%s", said->username);
    (void)snprintf(c->id, sizeof(c->id), "%s", said->credential_id);
    (void)snprintf(c->k8s_namespace, sizeof(c->k8s_namespace), "%.*s", SPAN_ARG(ns));
    (void)snprintf(c->k8s_service_account, sizeof(c->k8s_service_account), "%.*s", SPAN_ARG(sa));
    (void)snprintf(c->k8s_sa_uid, sizeof(c->k8s_sa_uid), "%s", said->uid);
    (void)snprintf(c->k8s_pod, sizeof(c->k8s_pod), "%.253s", said->pod_name);
    (void)snprintf(c->k8s_pod_uid, sizeof(c->k8s_pod_uid), "%s", said->pod_uid);
    (void)snprintf(c->k8s_node, sizeof(c->k8s_node), "%.253s", said->node_name);
    return true;
}

/* Source: specs/istio-ca.md 3.2, kube JWT. */
static struct ca_verdict
verdict_of(const struct kube_review *said, const struct err *why)
{
    struct ca_verdict v = { .reason = "review_failed" };

    if (said == NULL) {
        v.why = *why;
        v.why.code = why->code == E_LIMIT || why->code == E_NOMEM ? why->code : E_BUSY;
        return v;
    }
    if (said->error[0] != '\0' || !said->is_authenticated)
        return verdict_no(E_AUTH, "review_refused", "the API server does not accept the token");
    if (!said->has_audience)
        return verdict_no(E_AUTH, "audience", "the token is for another audience");
    if (!said->is_service_account || !claims_fill(said, &v.claims))
        return verdict_no(E_AUTH, "workload", "the token is not a service account's");
    v.reason = NULL;
    return v;
}

/* -- what is kept --------------------------------------------------------------------------------
 */

static struct kept **
slot_of(struct ca_reviews *r, const uint8_t key[DIGEST_BYTES])
{
    return &r->kept[((size_t)key[0] << 8 | key[1]) % KEPT_SLOTS];
}

static void
keep(struct ca_reviews *r, const uint8_t key[DIGEST_BYTES], const struct ca_verdict *v)
{
    struct kept **slot = slot_of(r, key);
    bool is_no = v->reason != NULL;

    if (is_no && v->why.code != E_AUTH)
        return;
    if (*slot == NULL)
        *slot = calloc(1, sizeof(**slot));
    if (*slot == NULL)
        return; /* no memory: it is asked again */
    memcpy((*slot)->key, key, DIGEST_BYTES);
    (*slot)->until_ms = mono_ms() + (is_no ? CA_REVIEW_KEEP_NO_MS : CA_REVIEW_KEEP_MS);
    (*slot)->verdict = *v;
}

static const struct ca_verdict *
recall(struct ca_reviews *r, const uint8_t key[DIGEST_BYTES])
{
    const struct kept *k = *slot_of(r, key);

    return k != NULL && memcmp(k->key, key, DIGEST_BYTES) == 0 && mono_ms() < k->until_ms
               ? &k->verdict
               : NULL;
}

/* -- questions -----------------------------------------------------------------------------------
 */

static void
flight_end(struct flight *f, const struct ca_verdict *v)
{
    struct ca_reviews *r = f->reviews;

    *f->link = f->next;
    if (f->next != NULL)
        f->next->link = f->link;
    r->flights_n--;
    answer_all(r, f->asks, v);
    free(f);
}

static void
on_reviewed(const struct kube_review *said, const struct err *why, void *arg)
{
    struct flight *f = arg;
    struct ca_verdict v = verdict_of(said, why);

    keep(f->reviews, f->key, &v);
    flight_end(f, &v);
}

static struct flight *
flight_of(struct ca_reviews *r, const uint8_t key[DIGEST_BYTES])
{
    struct flight *f = r->flights;

    while (f != NULL && memcmp(f->key, key, DIGEST_BYTES) != 0)
        f = f->next;
    return f;
}

static void
ask(struct ca_reviews *r, struct ca_ask *q)
{
    const struct ca_verdict *known = recall(r, q->key);
    struct flight *f = flight_of(r, q->key);
    struct ca_verdict v;

    q->next = NULL;
    if (known != NULL) {
        answer(r, q, known);
        return;
    }
    if (f != NULL) {
        q->next = f->asks;
        f->asks = q;
        return;
    }
    f = r->flights_n >= CA_REVIEW_FLIGHTS_MAX ? NULL : calloc(1, sizeof(*f));
    if (f == NULL) {
        v = verdict_no(E_LIMIT, "review_limit", "too many tokens are under review");
        answer(r, q, &v);
        return;
    }
    *f = (struct flight){ .reviews = r, .next = r->flights, .link = &r->flights, .asks = q };
    memcpy(f->key, q->key, DIGEST_BYTES);
    if (f->next != NULL)
        f->next->link = &f->next;
    r->flights = f;
    r->flights_n++;
    v = (struct ca_verdict){ .reason = "review_failed" };
    if (kube_token_review(r->kube, buf_span(&q->token), r->audiences, CA_REVIEW_DEADLINE_MS,
                          on_reviewed, f, &v.why) < 0)
        flight_end(f, &v);
}

static struct ca_ask *
handed_take(struct ca_reviews *r, bool close)
{
    (void)pthread_mutex_lock(&r->lock);
    struct ca_ask *list = r->handed;
    r->handed = NULL;
    r->handed_end = &r->handed;
    r->is_posted = false;
    r->is_closed = r->is_closed || close;
    (void)pthread_mutex_unlock(&r->lock);
    return list;
}

static void
on_handed(void *arg)
{
    struct ca *c = arg;

    if (c->reviews == NULL)
        return; /* the CA ends */
    for (struct ca_ask *q = handed_take(c->reviews, false), *next; q != NULL; q = next) {
        next = q->next;
        ask(c->reviews, q);
    }
}

int
ca_review(struct ca *c, struct ca_ask *q, struct err *e)
{
    struct ca_reviews *r = c->reviews;
    bool is_full, is_first = false;

    q->next = NULL;
    q->reviews = r;
    (void)pthread_mutex_lock(&r->lock);
    is_full = r->is_closed || r->waiting_n >= CA_REVIEW_WAITING_MAX;
    if (!is_full) {
        is_first = !r->is_posted;
        r->is_posted = true;
        *r->handed_end = q;
        r->handed_end = &q->next;
        r->waiting_n++;
    }
    (void)pthread_mutex_unlock(&r->lock);
    if (is_full)
        return err_set(e, E_LIMIT, "too many tokens wait for their review");
    struct err why;
    if (is_first && loop_post(c->loop, on_handed, c, &why) < 0) {
        (void)pthread_mutex_lock(&r->lock);
        r->is_posted = false; /* the next one posts */
        (void)pthread_mutex_unlock(&r->lock);
        log_error("security", "tokens wait for their review: %s", why.msg);
    }
    return 0;
}

int
ca_reviews_new(struct ca *c, struct err *e)
{
    struct ca_reviews *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    *r =
        (struct ca_reviews){ .loop = c->loop, .kube = c->kube, .audiences = c->conf.who.audiences };
    r->handed_end = &r->handed;
    (void)pthread_mutex_init(&r->lock, NULL);
    c->reviews = r;
    return 0;
}

void
ca_reviews_close(struct ca *c)
{
    struct ca_verdict v = verdict_no(E_BUSY, "review_failed", "the CA is stopping");

    if (c->reviews != NULL)
        answer_all(c->reviews, handed_take(c->reviews, true), &v);
    kube_client_free(STEAL(c->kube)); /* those in flight are answered too */
}

void
ca_reviews_free(struct ca *c)
{
    struct ca_reviews *r = STEAL(c->reviews);

    if (r == NULL)
        return;
    for (size_t i = 0; i < KEPT_SLOTS; i++)
        free(r->kept[i]);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}
