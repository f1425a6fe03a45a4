/* client.c - requests to the API server: token, tries, answers. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "kube/auth.h"
#include "kube/feed.h"
#include "kube/kube.h"
#include "kube/status.h"
#include "net/http.h"
#include "net/json.h"
#include "obs/log.h"

enum { HEADERS_MAX = 5 };

static const struct metric_desc requests_total = {
    "meshroot_kube_requests_total",
    "Requests to the Kubernetes API, by method and status (\"none\": no answer).",
    METRIC_COUNTER,
};

struct kube_client {
    struct loop *loop;
    struct http_client *http;    /* of calls that end soon */
    struct http_client *streams; /* of those that stay: they never keep another call waiting */
    struct kube_conf conf;
    struct metrics *metrics;
    struct kube_auth *auth;
    struct kube_call *calls;
    size_t calls_n;
    kube_retry_fn *on_retry; /* NULL: nobody asks */
    void *retry_arg;
};

struct kube_call {
    struct kube_client *client;
    struct kube_call *next, **link;
    struct http_request *request; /* under way */
    struct timer *again;
    char *url, *method, *type;
    struct buf body;
    uint64_t until_ms, wait_ms;
    size_t max_body_bytes;
    int (*on_data)(struct span piece, void *arg, struct err *e);
    bool may_repeat;
    bool has_new_token; /* the token was read anew for it after a 401 */
    bool is_waiting;    /* for a plug-in, at most until until_ms */
    struct err refused; /* what the last try that had an end came to; E_NONE: none */
    kube_done_fn *done;
    void *arg;
};

static void try_once(struct kube_call *q);

/* -- the end -------------------------------------------------------------------------------------
 */

static void
call_unlink(struct kube_call *q)
{
    if (q->link == NULL)
        return;
    *q->link = q->next;
    if (q->next != NULL)
        q->next->link = q->link;
    q->link = NULL;
    q->client->calls_n--;
}

static void
call_free(void *arg)
{
    struct kube_call *q = arg;

    timer_free(q->again);
    free(q->url);
    free(q->method);
    free(q->type);
    buf_wipe(&q->body);
    free(q);
}

/* That the time was up says less than what the tries before came to. */
static void
call_end(struct kube_call *q, const json_t *body, const struct err *why)
{
    if (why != NULL && why->code == E_TIMEOUT && q->refused.code != E_NONE)
        why = &q->refused;
    call_unlink(q); /* so that done may not cancel it */
    loop_defer(q->client->loop, call_free, q);
    q->done(body, why, q->arg);
}

void
kube_cancel(struct kube_call *q)
{
    if (q == NULL)
        return;
    call_unlink(q);
    if (q->request != NULL)
        http_cancel(STEAL(q->request));
    timer_stop(q->again);
    loop_defer(q->client->loop, call_free, q);
}

/* -- the answer ----------------------------------------------------------------------------------
 */

static const struct {
    int status;
    const char *reason; /* of the Status, or of one of its causes; NULL: any */
    enum err_code code;
} statuses[] = {
    /* the first that fits */
    { 403, "NamespaceTerminating", E_STATE },
    { 409, "AlreadyExists", E_EXISTS },
    { 400, NULL, E_INVAL },
    { 401, NULL, E_AUTH },
    { 403, NULL, E_DENIED },
    { 404, NULL, E_NOTFOUND },
    { 409, NULL, E_CONFLICT },
    { 410, NULL, E_STATE },
    { 413, NULL, E_LIMIT },
    { 415, NULL, E_INVAL },
    { 422, NULL, E_INVAL },
    { 429, NULL, E_BUSY },
    { 504, "ResourceVersionTooLarge", E_STATE },
    { 503, NULL, E_BUSY },
};

static bool
has_reason(const json_t *o, const char *reason)
{
    const char *text = json_string_value(json_object_get(o, "reason"));

    return text != NULL && strcmp(text, reason) == 0;
}

static bool
status_is(const json_t *o, const char *reason)
{
    const json_t *causes = json_object_get(json_object_get(o, "details"), "causes"), *one;
    bool is_it = reason == NULL || has_reason(o, reason);
    size_t i;

    json_array_foreach(causes, i, one)
        is_it = is_it || has_reason(one, reason);
    return is_it;
}

void
kube_status_error(int status, const char *method, const json_t *o, struct err *e)
{
    const char *words = json_string_value(json_object_get(o, "message"));
    enum err_code code = E_NONE;
    char shown[KUBE_WORDS_BYTES];
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(statuses) && code == E_NONE; i++)
        if (statuses[i].status == status && status_is(o, statuses[i].reason))
            code = statuses[i].code;
    for (; words != NULL && words[n] != '\0' && n < sizeof(shown) - 1; n++)
        shown[n] = words[n] >= ' ' && words[n] <= '~' ? words[n] : ' ';
    shown[n] = '\0';
    (void)err_set(e, code == E_NONE ? E_PEER : code, "the Kubernetes API answers %d to %s: %s",
                  status, method, n == 0 ? "no reason given" : shown);
}

static void
answer_error(const struct kube_call *q, const struct http_answer *a, struct err *e)
{
    json_t *o = NULL;
    struct err broken;

    (void)!json_object_parse(a->body, KUBE_MAX_DEPTH, &o, &broken); /* then there are no words */
    kube_status_error(a->status, q->method, o, e);
    e->retry_after_s = (unsigned)a->retry_after_s;
    json_decref(o);
}

static bool
may_try_again(const struct kube_call *q, const struct http_answer *a, const struct err *why)
{
    if (q->on_data != NULL)
        return false; /* who reads a stream knows where to go on */
    if (a != NULL && a->status == 429)
        return true; /* was not looked at */
    if (!q->may_repeat)
        return false;
    return a == NULL ? why->code == E_PEER || why->code == E_TIMEOUT : a->status >= 500;
}

/* Sets the next try; false: the time that is left does not last. */
static bool
try_later(struct kube_call *q, uint64_t retry_after_s)
{
    uint64_t wait = q->wait_ms / 2 + random_below(q->wait_ms / 2 + 1), now = mono_ms();

    q->wait_ms = q->wait_ms * 2 > KUBE_RETRY_MAX_MS ? KUBE_RETRY_MAX_MS : q->wait_ms * 2;
    if (retry_after_s * 1000 > wait)
        wait = retry_after_s * 1000 + random_below(KUBE_RETRY_FIRST_MS);
    if (now + wait >= q->until_ms)
        return false;
    timer_set(q->again, wait);
    return true;
}

static void
count(const struct kube_call *q, const struct http_answer *a)
{
    char labels[64], status[16] = "none";

    if (a != NULL)
        (void)snprintf(status, sizeof(status), "%d", a->status);
    (void)snprintf(labels, sizeof(labels), "method=\"%s\",status=\"%s\"", q->method, status);
    metric_add(q->client->metrics, &requests_total, labels, 1);
}

static void
answer_take(struct kube_call *q, const struct http_answer *a)
{
    struct err e, broken;
    json_t *body = NULL;

    if (json_object_parse(a->body, KUBE_MAX_DEPTH, &body, &broken) < 0) {
        (void)err_set(&e, E_PEER, "the answer of the Kubernetes API to %s: %.200s", q->method,
                      broken.msg);
        call_end(q, NULL, &e);
    } else
        call_end(q, body, NULL);
    json_wipe_free(body); /* it may be a Secret */
}

static void
on_answer(const struct http_answer *a, const struct err *why, void *arg)
{
    struct kube_call *q = arg;
    struct err e;

    q->request = NULL;
    count(q, a);
    if (a != NULL && a->status >= 200 && a->status < 300) {
        if (q->on_data != NULL)
            call_end(q, NULL, NULL);
        else
            answer_take(q, a);
        return;
    }
    if (a != NULL && a->status == 401 && !q->has_new_token && kube_auth_refused(q->client->auth)) {
        q->has_new_token = true;
        timer_set(q->again, 0);
        return;
    }
    if (a == NULL)
        e = *why;
    else
        answer_error(q, a, &e);
    if (!may_try_again(q, a, why) || !try_later(q, a == NULL ? 0 : a->retry_after_s)) {
        call_end(q, NULL, &e);
        return;
    }
    if (e.code != E_TIMEOUT)
        q->refused = e;
    if (q->client->on_retry != NULL)
        q->client->on_retry(&e, q->until_ms, q->client->retry_arg);
}

/* -- a try ---------------------------------------------------------------------------------------
 */

static int
on_piece(struct span piece, void *arg, struct err *e)
{
    struct kube_call *q = arg;

    return q->on_data(piece, q->arg, e);
}

static int
request_send(struct kube_call *q, struct err *e)
{
    struct kube_client *c = q->client;
    const char *headers[HEADERS_MAX] = {
        "accept: application/json, application/jwk-set+json", /* the token keys' */
        "user-agent: meshroot/" MESHROOT_VERSION
    };
    CLEANUP(str_freep) char *type = NULL;
    struct kube_auth_now who = { .header = NULL };
    uint64_t now = mono_ms();
    size_t n = 2;

    if (now >= q->until_ms)
        return err_set(e, E_TIMEOUT, "no answer of the Kubernetes API in time");
    q->is_waiting = TRY(kube_auth_get(c->auth, &who, e)) == KUBE_AUTH_WAIT;
    if (q->is_waiting) {
        timer_set(q->again, q->until_ms - now);
        return 0;
    }
    if (who.header != NULL)
        headers[n++] = who.header;
    if (q->body.n > 0) {
        TRY(str_format(&type, e, "content-type: %s", q->type));
        headers[n++] = type;
    }
    struct http_request_conf h = { .method = q->method,
                                   .url = q->url,
                                   .headers = headers,
                                   .body = buf_span(&q->body),
                                   .ca_file = c->conf.ca_file,
                                   .cert_file = c->conf.cert_file,
                                   .key_file = c->conf.key_file,
                                   .ca_pem = span_str(c->conf.ca_pem),
                                   .cert_pem = who.cert_pem,
                                   .key_pem = who.key_pem,
                                   .timeout_ms = q->until_ms - now,
                                   .max_body_bytes = q->max_body_bytes,
                                   .on_data = q->on_data == NULL ? NULL : on_piece };
    return http_send(q->on_data == NULL ? c->http : c->streams, &h, on_answer, q, &q->request, e);
}

static void
try_once(struct kube_call *q)
{
    struct err e;

    if (request_send(q, &e) < 0)
        call_end(q, NULL, &e);
}

static void
on_again(void *arg)
{
    try_once(arg);
}

static void
on_auth_changed(void *arg)
{
    struct kube_client *c = arg;

    for (struct kube_call *q = c->calls; q != NULL; q = q->next)
        if (q->is_waiting)
            timer_set(q->again, 0);
}

static int
call_fill(struct kube_call *x, const struct kube_request *q, struct err *e)
{
    struct kube_client *c = x->client;

    if (q->path[0] != '/')
        return err_set(e, E_INVAL, "\"%.100s\" is no path of the Kubernetes API", q->path);
    TRY(str_format(&x->url, e, "%s%s", c->conf.server, q->path));
    TRY(str_dup(span_str(q->method), &x->method, e));
    TRY(str_dup(span_str(q->type == NULL ? "application/json" : q->type), &x->type, e));
    x->body = BUF_INIT(q->body.n);
    TRY(buf_add(&x->body, q->body, e));
    return timer_new(c->loop, on_again, x, &x->again, e);
}

int
kube_send(struct kube_client *c, const struct kube_request *q, kube_done_fn *done, void *arg,
          struct kube_call **ret, struct err *e)
{
    if (c->calls_n >= KUBE_MAX_REQUESTS)
        return err_set(e, E_LIMIT, "%d requests to the Kubernetes API are under way",
                       KUBE_MAX_REQUESTS);
    struct kube_call *x = calloc(1, sizeof(*x));
    if (x == NULL)
        return err_nomem(e);
    x->client = c;
    if (call_fill(x, q, e) < 0) {
        call_free(x);
        return err_result(e);
    }
    x->until_ms = mono_ms() + (q->deadline_ms == 0 ? KUBE_DEADLINE_MS : q->deadline_ms);
    x->wait_ms = KUBE_RETRY_FIRST_MS;
    x->max_body_bytes = q->max_body_bytes == 0 ? KUBE_MAX_BODY_BYTES : q->max_body_bytes;
    x->on_data = q->on_data;
    x->may_repeat = q->is_safe || strcmp(q->method, "GET") == 0;
    x->done = done;
    x->arg = arg;
    x->next = c->calls;
    x->link = &c->calls;
    if (x->next != NULL)
        x->next->link = &x->next;
    c->calls = x;
    c->calls_n++;
    timer_set(x->again, 0); /* the first try too: nobody is called back before this returns */
    if (ret != NULL)
        *ret = x;
    return 0;
}

/* -- the client ----------------------------------------------------------------------------------
 */

static int
conf_copy(const struct kube_conf *from, struct kube_conf *to, struct err *e)
{
    static const size_t members[] = {
        offsetof(struct kube_conf, server),     offsetof(struct kube_conf, ca_file),
        offsetof(struct kube_conf, token_file), offsetof(struct kube_conf, cert_file),
        offsetof(struct kube_conf, key_file),   offsetof(struct kube_conf, ca_pem),
        offsetof(struct kube_conf, cert_pem),   offsetof(struct kube_conf, key_pem),
        offsetof(struct kube_conf, token),      offsetof(struct kube_conf, exec_dir)
    };

    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        char *text, *copy = NULL;

        memcpy(&text, (const char *)from + members[i], sizeof(text));
        if (text != NULL)
            TRY(str_dup(span_str(text), &copy, e));
        memcpy((char *)to + members[i], &copy, sizeof(copy));
    }
    to->exec = json_incref(from->exec);
    return 0;
}

static int
conf_check(struct kube_conf *c, struct err *e)
{
    const char *const files[] = { c->ca_file, c->token_file, c->cert_file, c->key_file };

    if (c->server == NULL || strncmp(c->server, "https://", 8) != 0 ||
        strchr(c->server + 8, '?') != NULL || strchr(c->server + 8, '@') != NULL)
        return err_set(e, E_INVAL, "Kubernetes API \"%.200s\": want https://HOST:PORT",
                       c->server == NULL ? "" : c->server);
    size_t n = strlen(c->server);
    if (c->server[n - 1] == '/')
        c->server[n - 1] = '\0';
    if ((c->cert_file == NULL && c->cert_pem == NULL) !=
        (c->key_file == NULL && c->key_pem == NULL))
        return err_set(e, E_INVAL, "a client certificate and its key belong together");
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (files[i] != NULL && access(files[i], R_OK) != 0)
            return err_sys(e, errno, "%s", files[i]);
    return 0;
}

int
kube_client_new(struct loop *l, const struct kube_conf *conf, struct metrics *metrics,
                struct kube_client **ret, struct err *e)
{
    CLEANUP(kube_client_freep) struct kube_client *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    c->loop = l;
    c->metrics = metrics;
    TRY(conf_copy(conf, &c->conf, e));
    TRY(conf_check(&c->conf, e));
    TRY(http_client_new(l, &c->http, e));
    http_client_limit(c->http, KUBE_CONNECTIONS);
    TRY(http_client_new(l, &c->streams, e));
    http_client_limit(c->streams, KUBE_MAX_REQUESTS);
    TRY(kube_auth_new(l, &c->conf, on_auth_changed, c, &c->auth, e));
    *ret = STEAL(c);
    return 0;
}

void
kube_client_free(struct kube_client *c)
{
    struct err e;

    if (c == NULL)
        return;
    (void)err_set(&e, E_PEER, "given up: the client of the Kubernetes API ends");
    while (c->calls != NULL) {
        struct kube_call *q = c->calls;

        call_unlink(q);
        if (q->request != NULL)
            http_cancel(STEAL(q->request));
        q->done(NULL, &e, q->arg);
        call_free(q);
    }
    http_client_free(c->http);
    http_client_free(c->streams);
    kube_auth_free(c->auth);
    kube_conf_done(&c->conf);
    free(c);
}

void
kube_client_on_retry(struct kube_client *c, kube_retry_fn *fn, void *arg)
{
    c->on_retry = fn;
    c->retry_arg = arg;
}

const char *
kube_client_server(const struct kube_client *c)
{
    return c->conf.server;
}
