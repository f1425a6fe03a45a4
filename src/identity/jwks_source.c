/* jwks_source.c - keys of a token issuer, kept fresh from a file or over https. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "identity/identity.h"
#include "net/http.h"
#include "obs/log.h"

enum {
    FILE_EVERY_MS = 5 * 1000,
    URL_EVERY_MS = 5 * 60 * 1000,
    URL_AGAIN_MS = 10 * 1000, /* after a failure before the first set, and for unknown key ids */
    URL_TIMEOUT_MS = 10 * 1000,
};

static const struct metric_desc loads_total = {
    "meshroot_jwks_loads_total",
    "Attempts to load the token issuers' keys, by result: changed, same, failed.",
    METRIC_COUNTER,
};

struct jwks_source {
    struct loop *loop;
    struct jwks_source_conf conf; /* location and ca_file point to the copies below */
    char *location, *ca_file;     /* owned */
    const char *path;             /* of the file, inside location; NULL: a URL */
    struct http_client *client;   /* NULL for a file */
    struct http_request *request; /* under way; ours until its answer */
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
    log_warn("jwks", "keys of token issuer not loaded from %s: %s; %s", s->location, e->msg,
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
    log_info("jwks", "%zu keys of token issuer loaded from %s", jwks_count(s->keys), s->location);
    s->conf.on_change(s->keys, s->conf.arg);
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

static void
url_answered(const struct http_answer *a, const struct err *why, void *arg)
{
    struct jwks_source *s = arg;
    struct err e;

    s->request = NULL;
    if (a == NULL)
        failed(s, why);
    else if (a->status != 200) {
        (void)err_set(&e, E_PEER, "HTTP status %d", a->status);
        failed(s, &e);
    } else
        loaded(s, a->body);
    timer_set(s->timer,
              s->keys == NULL && s->conf.every_ms > URL_AGAIN_MS ? URL_AGAIN_MS : s->conf.every_ms);
}

static void
url_load(struct jwks_source *s)
{
    static const char *const headers[] = { "accept: application/json", NULL };
    struct http_request_conf q = { .method = "GET",
                                   .url = s->location,
                                   .headers = headers,
                                   .ca_file = s->ca_file,
                                   .timeout_ms = URL_TIMEOUT_MS,
                                   .max_body_bytes = JWKS_DOC_MAX_BYTES };
    struct err e;

    if (s->request != NULL)
        return;
    s->asked_ms = mono_ms();
    if (http_send(s->client, &q, url_answered, s, &s->request, &e) < 0) {
        s->request = NULL;
        failed(s, &e);
        timer_set(s->timer, URL_AGAIN_MS);
    }
}

static void
on_timer(void *arg)
{
    struct jwks_source *s = arg;

    if (s->path != NULL)
        file_load(s);
    else
        url_load(s);
}

static int
location_check(struct jwks_source *s, struct err *e)
{
    static const char file[] = "file:", https[] = "https://";
    struct span l = span_str(s->location);

    if (span_starts(l, https) && l.n > sizeof(https) - 1)
        return 0;
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
    TRY(str_dup(span_str(conf->location), &s->location, e));
    if (conf->ca_file != NULL)
        TRY(str_dup(span_str(conf->ca_file), &s->ca_file, e));
    TRY(location_check(s, e));
    if (s->conf.every_ms == 0)
        s->conf.every_ms = s->path == NULL ? URL_EVERY_MS : FILE_EVERY_MS;
    if (s->path == NULL)
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
    http_client_free(s->client);
    timer_free(s->timer);
    jwks_unref(s->keys);
    free(s->location);
    free(s->ca_file);
    free(s);
}

/* Anyone may send a token with an unknown key id, so the issuer is not asked more often for it. */
void
jwks_source_unknown_kid(struct jwks_source *s)
{
    uint64_t since = mono_ms() - s->asked_ms;

    if (s->path != NULL || s->request != NULL || s->keys == NULL)
        return; /* a file is read every few seconds anyway; without keys a request is due soon */
    timer_set(s->timer, since >= URL_AGAIN_MS ? 0 : URL_AGAIN_MS - since);
}
