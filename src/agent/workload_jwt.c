/* workload_jwt.c - see workload_jwt.h. */
#include "agent/workload_jwt.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "identity/identity.h"
#include "net/grpc.h"
#include "workload.pb-c.h"

enum { NAMES_BYTES = JWT_ASK_AUDIENCES * JWT_AUDIENCE_BYTES };

struct names { /* of audiences, each with its NUL: what a token is found by */
    char p[NAMES_BYTES];
    size_t n;
};

struct waiting { /* a call that waits for a token */
    struct waiting *next, **link;
    struct workload_jwt *j;
    struct grpc_call *call;
};

struct jwt_ask {
    struct jwt_ask *next, **link;
    struct workload_jwt *j;
    struct names names;
    struct waiting *waiting;
};

struct cached {
    struct names names;
    char *token; /* owned; NULL: free */
    uint64_t until_ms;
};

struct workload_jwt {
    struct workload *w;
    const struct workload_jwt_port *port;
    struct buf text;   /* of the key set */
    struct jwks *keys; /* NULL before the first */
    struct jwt_ask *asks;
    size_t asks_n, waiting_n;
    struct cached cache[JWT_CACHE_MAX];
};

/* -- the key set --------------------------------------------------------------------------------
 */

int
workload_jwt_use(struct workload_jwt *j, struct span jwks, struct err *e)
{
    struct jwks *keys;

    if (span_eq(jwks, buf_span(&j->text)))
        return JWT_KEYS_SAME;
    if (jwks.n > JWT_KEYS_MAX_BYTES)
        return err_set(e, E_LIMIT, "a key set of %zu bytes, at most %d", jwks.n,
                       JWT_KEYS_MAX_BYTES);
    TRY(jwks_from_json(jwks, &keys, e));
    j->text.n = 0;
    if (buf_add(&j->text, jwks, e) < 0) {
        jwks_unref(keys);
        return err_result(e);
    }
    jwks_unref(j->keys);
    j->keys = keys;
    return 0;
}

struct span
workload_jwt_keys(const struct workload_jwt *j)
{
    return buf_span(&j->text);
}

/* -- answers ------------------------------------------------------------------------------------
 */

static void
end(struct workload_jwt *j, struct grpc_call *c, int code, const char *why)
{
    workload_end(j->w, c, WORKLOAD_JWT_SVID, code, why);
}

static int
own_id(const struct workload_jwt *j, struct span *ret_id, struct span *ret_domain, struct err *e)
{
    const struct creds *c = workload_creds(j->w);

    if (c == NULL || cert_not_after(c->leaf) <= unix_s())
        return err_set(e, E_BUSY, "no valid certificate is in use yet; try again");
    if (TRY(cert_spiffe_uri(c->leaf, ret_id, e)) == CERT_NO_URI)
        return err_set(e, E_DENIED, "the leaf has no SPIFFE id");
    return spiffe_uri_check(*ret_id, ret_domain, e);
}

static int
svid_send(const struct workload_jwt *j, struct grpc_call *c, char *token, struct err *e)
{
    CLEANUP(buf_done)
    struct buf id = BUF_INIT(SPIFFE_URI_MAX_BYTES + 1), msg = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);
    Spiffe__Workload__JwtSvidResponse m = SPIFFE__WORKLOAD__JWT_SVID_RESPONSE__INIT;
    Spiffe__Workload__JwtSvid svid = SPIFFE__WORKLOAD__JWT_SVID__INIT, *all[] = { &svid };
    struct span uri, domain;
    uint8_t *to;

    TRY(own_id(j, &uri, &domain, e));
    TRY(buf_add(&id, uri, e));
    svid.spiffe_id = (char *)id.p;
    svid.svid = token;
    m.n_svids = 1;
    m.svids = all;
    TRY(buf_reserve(&msg, spiffe__workload__jwt_svid_response__get_packed_size(&m), &to, e));
    msg.n += spiffe__workload__jwt_svid_response__pack(&m, to);
    return grpc_send(c, buf_span(&msg), e);
}

static void
svid_answer(struct workload_jwt *j, struct grpc_call *c, char *token)
{
    struct err e;

    if (svid_send(j, c, token, &e) < 0)
        end(j, c, err_meaning(e.code)->grpc_code, e.msg);
    else
        end(j, c, GRPC_OK, NULL);
}

/* -- the cache ----------------------------------------------------------------------------------
 */

static bool
names_equal(const struct names *a, const struct names *b)
{
    return span_eq(span_of((const uint8_t *)a->p, a->n), span_of((const uint8_t *)b->p, b->n));
}

static struct cached *
cache_find(struct workload_jwt *j, const struct names *names)
{
    for (size_t i = 0; i < JWT_CACHE_MAX; i++)
        if (j->cache[i].token != NULL && names_equal(&j->cache[i].names, names))
            return &j->cache[i];
    return NULL;
}

/* A free place, or that of the one which ends first. */
static struct cached *
cache_place(struct workload_jwt *j)
{
    struct cached *x = &j->cache[0];

    for (size_t i = 0; i < JWT_CACHE_MAX && x->token != NULL; i++)
        if (j->cache[i].token == NULL || j->cache[i].until_ms < x->until_ms)
            x = &j->cache[i];
    return x;
}

static void
cache_put(struct workload_jwt *j, const struct names *names, const char *token,
          const struct jwt_claims *claims)
{
    int64_t life = claims->expires - (claims->issued > 0 ? claims->issued : unix_s());
    struct cached *x = cache_find(j, names);
    char *copy;
    struct err e;

    if (life <= 0 || str_dup(span_str(token), &copy, &e) < 0)
        return; /* not kept: the next caller asks anew */
    x = x == NULL ? cache_place(j) : x;
    free(x->token);
    *x = (struct cached){ *names, copy, mono_ms() + (uint64_t)life * 500 };
}

/* -- questions ----------------------------------------------------------------------------------
 */

static void
waiting_free(struct waiting *x)
{
    *x->link = x->next;
    if (x->next != NULL)
        x->next->link = x->link;
    x->j->waiting_n--;
    free(x);
}

static void
on_gone(void *arg)
{
    waiting_free(arg);
}

static int
wait_add(struct jwt_ask *q, struct grpc_call *c, struct err *e)
{
    struct workload_jwt *j = q->j;
    struct waiting *x = calloc(1, sizeof(*x));

    if (x == NULL)
        return err_nomem(e);
    *x = (struct waiting){ q->waiting, &q->waiting, j, c };
    if (x->next != NULL)
        x->next->link = &x->next;
    q->waiting = x;
    j->waiting_n++;
    grpc_on_gone(c, on_gone, x);
    return 0;
}

static void
ask_free(struct jwt_ask *q)
{
    while (q->waiting != NULL)
        waiting_free(q->waiting);
    *q->link = q->next;
    if (q->next != NULL)
        q->next->link = q->link;
    q->j->asks_n--;
    free(q);
}

static struct jwt_ask *
ask_new(struct workload_jwt *j, const struct names *names)
{
    struct jwt_ask *q = calloc(1, sizeof(*q));

    if (q == NULL)
        return NULL;
    q->next = j->asks;
    q->link = &j->asks;
    q->j = j;
    q->names = *names;
    if (q->next != NULL)
        q->next->link = &q->next;
    j->asks = q;
    j->asks_n++;
    return q;
}

static struct jwt_ask *
ask_find(const struct workload_jwt *j, const struct names *names)
{
    struct jwt_ask *q = j->asks;

    while (q != NULL && !names_equal(&q->names, names))
        q = q->next;
    return q;
}

static int
ask_send(struct jwt_ask *q, struct err *e)
{
    const char *names[JWT_ASK_AUDIENCES];
    size_t n = 0;

    for (size_t at = 0; at < q->names.n; at += strlen(q->names.p + at) + 1)
        names[n++] = q->names.p + at;
    return q->j->port->ask(q, names, n, q->j->port->arg, e);
}

/* The token is what any other workload will check: with the keys that it has been told. */
static int
token_check(const struct jwt_ask *q, struct span token, struct jwt_claims *ret, struct err *e)
{
    const struct jwt_rule rule = { .audiences = { q->names.p } };
    struct span id, domain;
    const char *reason;

    TRY(own_id(q->j, &id, &domain, e));
    if (q->j->keys == NULL)
        return err_set(e, E_BUSY, "the keys of JWT-SVIDs are not known yet; try again");
    TRY(jwt_verify(q->j->keys, token, &rule, ret, &reason, e));
    return span_eq_str(id, ret->subject)
               ? 0
               : err_set(e, E_PEER, "the CA gave a token of another identity");
}

void
workload_jwt_answer(struct jwt_ask *q, struct span token, int code, const char *why)
{
    struct workload_jwt *j = q->j;
    struct jwt_claims claims;
    char *text = NULL;
    struct err e;

    if (code == GRPC_OK &&
        (token_check(q, token, &claims, &e) < 0 || str_dup(token, &text, &e) < 0)) {
        code = GRPC_UNAVAILABLE;
        why = e.msg;
    }
    if (code == GRPC_OK)
        cache_put(j, &q->names, text, &claims);
    while (q->waiting != NULL) {
        struct grpc_call *c = q->waiting->call;

        waiting_free(q->waiting);
        if (code == GRPC_OK)
            svid_answer(j, c, text);
        else
            end(j, c, code, why);
    }
    free(text);
    ask_free(q);
}

/* -- FetchJWTSVID -------------------------------------------------------------------------------
 */

/* As the CA wants audiences; it looks again. */
static bool
audience_ok(const char *s)
{
    size_t n = strlen(s);

    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\')
            return false;
    return n > 0 && n < JWT_AUDIENCE_BYTES;
}

static int
names_read(const Spiffe__Workload__JwtSvidRequest *m, struct names *ret, struct err *e)
{
    if (m == NULL)
        return err_set(e, E_INVAL, "the request is not what this method takes");
    if (m->n_audience < 1 || m->n_audience > JWT_ASK_AUDIENCES)
        return err_set(e, E_INVAL, "a JWT-SVID has 1 to %d audiences, not %zu", JWT_ASK_AUDIENCES,
                       m->n_audience);
    ret->n = 0;
    for (size_t i = 0; i < m->n_audience; i++) {
        size_t n = strlen(m->audience[i]) + 1;

        if (!audience_ok(m->audience[i]))
            return err_set(e, E_INVAL,
                           "audience %zu: want 1 to %d printable ASCII characters without space, "
                           "quote and backslash",
                           i + 1, JWT_AUDIENCE_BYTES - 1);
        memcpy(ret->p + ret->n, m->audience[i], n);
        ret->n += n;
    }
    return 0;
}

static int
request_read(const struct workload_jwt *j, struct span msg, struct names *ret, struct err *e)
{
    Spiffe__Workload__JwtSvidRequest *m =
        spiffe__workload__jwt_svid_request__unpack(NULL, msg.n, msg.p);
    struct span id, domain;
    int r = names_read(m, ret, e);

    if (r == 0)
        r = own_id(j, &id, &domain, e);
    if (r == 0 && m->spiffe_id[0] != '\0' && !span_eq_str(id, m->spiffe_id))
        r = err_set(e, E_DENIED, "no identity issued: this agent has another one than %.200s",
                    m->spiffe_id);
    if (m != NULL)
        spiffe__workload__jwt_svid_request__free_unpacked(m, NULL);
    return r;
}

static int
token_await(struct workload_jwt *j, const struct names *names, struct grpc_call *c, struct err *e)
{
    struct jwt_ask *q = ask_find(j, names);
    bool is_new = q == NULL;

    if (j->waiting_n >= JWT_WAITING_MAX || (is_new && j->asks_n >= JWT_ASKS_MAX))
        return err_set(e, E_LIMIT, "too many calls wait for JWT-SVIDs");
    if (is_new && (q = ask_new(j, names)) == NULL)
        return err_nomem(e);
    int r = is_new ? ask_send(q, e) : 0;
    if (r < 0) {
        ask_free(q);
        return r;
    }
    return wait_add(q, c, e);
}

void
workload_jwt_fetch(struct workload_jwt *j, struct grpc_call *c, struct span msg)
{
    struct names names;
    struct cached *x;
    struct err e;

    if (request_read(j, msg, &names, &e) < 0) {
        end(j, c, err_meaning(e.code)->grpc_code, e.msg);
        return;
    }
    x = cache_find(j, &names);
    if (x != NULL && x->until_ms > mono_ms())
        svid_answer(j, c, x->token);
    else if (token_await(j, &names, c, &e) < 0)
        end(j, c, err_meaning(e.code)->grpc_code, e.msg);
}

/* -- ValidateJWTSVID ----------------------------------------------------------------------------
 */

/* r: 0; else *e says why the token is not good. Source: SPIFFE JWT-SVID 4. */
static int
token_judge(const struct workload_jwt *j, const Spiffe__Workload__ValidateRequest *m,
            struct jwt_claims *ret, struct err *e)
{
    const struct jwt_rule rule = { .audiences = { m->audience } };
    struct span id, domain, its;
    const char *reason;

    TRY(own_id(j, &id, &domain, e));
    if (j->keys == NULL)
        return err_set(e, E_BUSY, "the keys of JWT-SVIDs are not known yet; try again");
    TRY(jwt_verify(j->keys, span_str(m->svid), &rule, ret, &reason, e));
    TRY(spiffe_uri_check(span_str(ret->subject), &its, e));
    if (!span_eq(its, domain))
        return err_set(e, E_AUTH, "the token is of another trust domain");
    return 0;
}

static int
verdict_pack(const Spiffe__Workload__ValidateRequest *m, struct jwt_claims *claims, struct buf *msg,
             struct err *e)
{
    CLEANUP(buf_done)
    struct buf text = BUF_INIT(JWT_MAX_BYTES), fields = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);
    Spiffe__Workload__ValidateResponse a = SPIFFE__WORKLOAD__VALIDATE_RESPONSE__INIT;
    json_error_t why;
    uint8_t *to;

    TRY(jwt_claims_json(span_str(m->svid), &text, e));
    json_t *o = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, &why);
    int r = o == NULL ? err_nomem(e) : struct_encode(o, &fields, e);
    json_decref(o);
    TRY(r);
    a.spiffe_id = claims->subject;
    a.claims = (ProtobufCBinaryData){ fields.n, fields.p };
    TRY(buf_reserve(msg, spiffe__workload__validate_response__get_packed_size(&a), &to, e));
    msg->n += spiffe__workload__validate_response__pack(&a, to);
    return 0;
}

static int
validate(const struct workload_jwt *j, struct grpc_call *c,
         const Spiffe__Workload__ValidateRequest *m, struct err *e)
{
    CLEANUP(buf_done) struct buf msg = BUF_INIT(WORKLOAD_MESSAGE_MAX_BYTES);
    struct jwt_claims claims;

    if (m == NULL || m->audience[0] == '\0' || m->svid[0] == '\0')
        return err_set(e, E_INVAL, "an audience and a token are needed");
    if (token_judge(j, m, &claims, e) < 0) {
        if (e->code == E_AUTH || e->code == E_PARSE)
            e->code = E_INVAL; /* it is the token that is not good, not who asks */
        return err_result(e);
    }
    TRY(verdict_pack(m, &claims, &msg, e));
    return grpc_send(c, buf_span(&msg), e);
}

void
workload_jwt_validate(struct workload_jwt *j, struct grpc_call *c, struct span msg)
{
    Spiffe__Workload__ValidateRequest *m =
        spiffe__workload__validate_request__unpack(NULL, msg.n, msg.p);
    struct err e;
    int r = validate(j, c, m, &e);

    if (m != NULL)
        spiffe__workload__validate_request__free_unpacked(m, NULL);
    workload_end(j->w, c, WORKLOAD_VALIDATE, r < 0 ? err_meaning(e.code)->grpc_code : GRPC_OK,
                 r < 0 ? e.msg : NULL);
}

/* -- making -------------------------------------------------------------------------------------
 */

int
workload_jwt_new(struct workload *w, const struct workload_jwt_port *port,
                 struct workload_jwt **ret, struct err *e)
{
    struct workload_jwt *j = calloc(1, sizeof(*j));

    if (j == NULL)
        return err_nomem(e);
    j->w = w;
    j->port = port;
    j->text = BUF_INIT(JWT_KEYS_MAX_BYTES);
    *ret = j;
    return 0;
}

void
workload_jwt_free(struct workload_jwt *j)
{
    if (j == NULL)
        return;
    while (j->asks != NULL)
        ask_free(j->asks);
    for (size_t i = 0; i < JWT_CACHE_MAX; i++)
        free(j->cache[i].token);
    jwks_unref(j->keys);
    buf_done(&j->text);
    free(j);
}
