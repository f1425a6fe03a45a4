/* jwks_source.c - keys of a token issuer, kept fresh from a file, over https, or by discovery. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "net/json.h"
#include "identity/jwks_source.h"
#include "kube/kube.h"
#include "net/http.h"
#include "obs/log.h"

enum {
    FILE_EVERY_MS = 5 * 1000,
    URL_EVERY_MS = 5 * 60 * 1000,
    URL_AGAIN_MS = JWKS_UNKNOWN_KID_MS, /* also after a failure before the first set */
    URL_TIMEOUT_MS = 10 * 1000,
};

static const struct metric_desc loads_total = {
    "meshroot_jwks_loads_total",
    "Attempts to load the token issuers' keys, by result: changed, same, failed.",
    METRIC_COUNTER,
};

enum kind { FROM_FILE, FROM_URL, FROM_KUBE, FROM_DISCOVERY };

struct jwks_source {
    struct loop *loop;
    enum kind kind;
    struct jwks_source_conf conf; /* location and ca_file point to the copies below */
    char *location, *ca_file;     /* owned; of discovery: the document's URL */
    char *issuer;                 /* owned; NULL when not given */
    const char *path;             /* of the file, inside location */
    enum http_reach keys_reach;   /* of the jwks_uri that a document names */
    struct http_client *client;   /* NULL for a file and for the API server */
    struct http_request *request; /* under way; ours until its answer */
    struct kube_call *kube_call;  /* the same, of the API server */
    struct timer *timer;
    struct jwks *keys;         /* the last good set */
    uint8_t sum[DIGEST_BYTES]; /* of the text that it came from */
    uint64_t asked_ms;         /* when the last request began; 0: never */
    char why[ERR_MSG_BYTES];   /* the failure that was logged last; "" after a success */
};

static void
count(struct jwks_source *s, const char *labels)
{
    metric_add(s->conf.metrics, &loads_total, labels, 1);
}

static void
failed(struct jwks_source *s, const struct err *e)
{
    count(s, "result=\"failed\"");
    if (strcmp(s->why, e->msg) == 0)
        return;
    (void)snprintf(s->why, sizeof(s->why), "%s", e->msg);
    log_warn("jwks", "keys of token issuer%s%s not loaded from %s: %s; %s",
             s->issuer == NULL ? "" : " ", s->issuer == NULL ? "" : s->issuer, s->location, e->msg,
             s->keys == NULL ? "there are none yet, tokens are refused"
                             : "the last good set stays in force");
}

static void
loaded(struct jwks_source *s, struct span text)
{
    CLEANUP(jwks_unrefp) struct jwks *keys = NULL;
    uint8_t sum[DIGEST_BYTES];
    struct err e;

    digest(text, sum);
    if (s->keys != NULL && memcmp(sum, s->sum, sizeof(sum)) == 0) {
        count(s, "result=\"same\"");
        s->why[0] = '\0';
        return;
    }
    if (jwks_from_json(text, &keys, &e) < 0) {
        failed(s, &e);
        return;
    }
    count(s, "result=\"changed\"");
    s->why[0] = '\0';
    memcpy(s->sum, sum, sizeof(sum));
    jwks_unref(s->keys);
    s->keys = STEAL(keys);
    s->conf.on_change(s->keys, s->conf.arg); /* before it is said */
    log_info("jwks", "%zu keys of token issuer loaded from %s", jwks_count(s->keys), s->location);
}

static void
file_load(struct jwks_source *s)
{
    struct buf b = BUF_INIT(JWKS_DOC_MAX_BYTES);
    struct err e;
    int r = file_read(s->path, &b, &e);

    if (r == FILE_ABSENT)
        r = err_set(&e, E_NOTFOUND, "no such file");
    if (r < 0)
        failed(s, &e);
    else
        loaded(s, buf_span(&b));
    buf_done(&b);
    timer_set(s->timer, s->conf.every_ms);
}

/* -- over the network ----------------------------------------------------------------------------
 */

static void
url_again(struct jwks_source *s)
{
    timer_set(s->timer,
              s->keys == NULL && s->conf.every_ms > URL_AGAIN_MS ? URL_AGAIN_MS : s->conf.every_ms);
}

static void
url_failed(struct jwks_source *s, const struct err *e)
{
    failed(s, e);
    url_again(s);
}

/* True when there is a body to look at; otherwise the failure is taken care of. */
static bool
answer_ok(struct jwks_source *s, const struct http_answer *a, const struct err *why)
{
    struct err e;

    s->request = NULL;
    if (a != NULL && a->status == 200)
        return true;
    if (a != NULL)
        (void)err_set(&e, E_PEER, "HTTP status %d%s", a->status,
                      a->status / 100 == 3 ? " (redirects are not followed)" : "");
    url_failed(s, a == NULL ? why : &e);
    return false;
}

static void
url_answered(const struct http_answer *a, const struct err *why, void *arg)
{
    struct jwks_source *s = arg;

    if (!answer_ok(s, a, why))
        return;
    loaded(s, a->body);
    url_again(s);
}

static void
url_get(struct jwks_source *s, const char *url, enum http_reach reach, size_t max,
        http_done_fn *done)
{
    static const char *const headers[] = { "accept: application/json", NULL };
    struct http_request_conf q = { .method = "GET",
                                   .url = url,
                                   .headers = headers,
                                   .ca_file = s->ca_file,
                                   .reach = reach,
                                   .timeout_ms = URL_TIMEOUT_MS,
                                   .max_body_bytes = max };
    struct err e;

    if (http_send(s->client, &q, done, s, &s->request, &e) < 0) {
        s->request = NULL;
        failed(s, &e);
        timer_set(s->timer, URL_AGAIN_MS);
    }
}

static void
url_load(struct jwks_source *s)
{
    url_get(s, s->location, HTTP_REACH_ANY, JWKS_DOC_MAX_BYTES, url_answered);
}

/* The document each time: an issuer that moves its keys is followed. */
static void
document_answered(const struct http_answer *a, const struct err *why, void *arg)
{
    struct jwks_source *s = arg;
    char uri[JWKS_URI_BYTES];
    struct err e;

    if (!answer_ok(s, a, why))
        return;
    if (discovery_read(a->body, s->issuer, uri, &e) < 0)
        url_failed(s, &e);
    else
        url_get(s, uri, s->keys_reach, JWKS_DOC_MAX_BYTES, url_answered);
}

static void
discovery_load(struct jwks_source *s)
{
    url_get(s, s->location, HTTP_REACH_NO_LINK_LOCAL, DISCOVERY_MAX_BYTES, document_answered);
}

static void
kube_answered(const json_t *body, const struct err *why, void *arg)
{
    struct jwks_source *s = arg;
    char *text = body == NULL ? NULL : json_dumps(body, JSON_COMPACT);
    struct err e;

    s->kube_call = NULL;
    if (body == NULL)
        url_failed(s, why);
    else if (text == NULL) {
        (void)err_nomem(&e);
        url_failed(s, &e);
    } else {
        loaded(s, span_str(text));
        url_again(s);
    }
    free(text);
}

static void
kube_load(struct jwks_source *s)
{
    struct kube_request q = { .method = "GET",
                              .path = "/openid/v1/jwks",
                              .deadline_ms = URL_TIMEOUT_MS };
    struct err e;

    if (kube_send(s->conf.kube, &q, kube_answered, s, &s->kube_call, &e) < 0) {
        s->kube_call = NULL;
        url_failed(s, &e);
    }
}

static void
on_timer(void *arg)
{
    static void (*const load[])(struct jwks_source *) = { [FROM_FILE] = file_load,
                                                          [FROM_URL] = url_load,
                                                          [FROM_KUBE] = kube_load,
                                                          [FROM_DISCOVERY] = discovery_load };
    struct jwks_source *s = arg;

    if (s->request != NULL || s->kube_call != NULL)
        return;
    s->asked_ms = mono_ms();
    load[s->kind](s);
}

static int
discovery_open(struct jwks_source *s, struct err *e)
{
    if (s->issuer == NULL)
        return err_set(e, E_INVAL, "an issuer's keys are found by its name, and it has none");
    TRY(discovery_issuer_check(s->issuer, e));
    TRY(discovery_url(s->issuer, &s->location, e));
    s->keys_reach = TRY(http_url_is_loopback(s->issuer, e)) == 1 ? HTTP_REACH_NO_LINK_LOCAL
                                                                 : HTTP_REACH_NO_LOOPBACK;
    s->kind = FROM_DISCOVERY;
    return 0;
}

static int
location_check(struct jwks_source *s, struct err *e)
{
    static const char file[] = "file:", https[] = "https://";
    struct span l = span_str(s->location);

    if (span_eq_str(l, "kubernetes")) {
        s->kind = FROM_KUBE;
        return s->conf.kube != NULL
                   ? 0
                   : err_set(e, E_INVAL,
                             "key set \"kubernetes\": where its API server is has not been said");
    }
    if (span_starts(l, https) && l.n > sizeof(https) - 1) {
        s->kind = FROM_URL;
        return 0;
    }
    if (span_starts(l, file)) {
        s->path = s->location + sizeof(file) - 1;
        if (strncmp(s->path, "//", 2) == 0)
            s->path += 2; /* file:///PATH, an empty host */
        return s->path[0] == '/'
                   ? 0
                   : err_set(e, E_INVAL, "key set \"%s\": want file:/PATH", s->location);
    }
    if (l.n == 0 || strstr(s->location, "://") != NULL)
        return err_set(e, E_INVAL,
                       "key set \"%s\": want a path or an https:// URL (keys that come over http "
                       "prove nothing)",
                       s->location);
    s->path = s->location;
    return 0;
}

int
jwks_source_new(struct loop *l, const struct jwks_source_conf *conf, struct jwks_source **ret,
                struct err *e)
{
    CLEANUP(jwks_source_freep) struct jwks_source *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    s->loop = l;
    s->conf = *conf;
    if (conf->issuer != NULL)
        TRY(str_dup(span_str(conf->issuer), &s->issuer, e));
    if (conf->ca_file != NULL)
        TRY(str_dup(span_str(conf->ca_file), &s->ca_file, e));
    if (conf->location != NULL) {
        TRY(str_dup(span_str(conf->location), &s->location, e));
        TRY(location_check(s, e));
    } else
        TRY(discovery_open(s, e));
    if (s->conf.every_ms == 0)
        s->conf.every_ms = s->kind == FROM_FILE ? FILE_EVERY_MS : URL_EVERY_MS;
    if (s->kind == FROM_URL || s->kind == FROM_DISCOVERY)
        TRY(http_client_new(l, &s->client, e));
    TRY(timer_new(l, on_timer, s, &s->timer, e));
    timer_set(s->timer, 0);
    *ret = STEAL(s);
    return 0;
}

void
jwks_source_free(struct jwks_source *s)
{
    if (s == NULL)
        return;
    if (s->request != NULL)
        http_cancel(s->request);
    kube_cancel(s->kube_call);
    http_client_free(s->client);
    timer_free(s->timer);
    jwks_unref(s->keys);
    free(s->location);
    free(s->ca_file);
    free(s->issuer);
    free(s);
}

/* Anyone may send a token with an unknown key id, so the issuer is not asked more often for it. */
void
jwks_source_unknown_kid(struct jwks_source *s)
{
    uint64_t since = mono_ms() - s->asked_ms;

    if (s->kind == FROM_FILE || s->request != NULL || s->kube_call != NULL || s->keys == NULL)
        return; /* a file is read every few seconds anyway; without keys a request is due soon */
    timer_set(s->timer, since >= URL_AGAIN_MS ? 0 : URL_AGAIN_MS - since);
}

const char *
jwks_source_from(const struct jwks_source *s)
{
    return s->location;
}

const char *
jwks_source_trouble(const struct jwks_source *s)
{
    return s->why;
}
