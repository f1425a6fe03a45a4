/* http_client.c - libcurl's multi interface on the loop; the only file that sees curl/. */
#include <curl/curl.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>

#include "base/str.h"
#include "net/http.h"
#include "net/loop_event.h"
#include "net/reach.h"

enum {
    CLIENT_MAX_CONNECTIONS = 64, /* to all hosts; more where one may have more */
    CLIENT_CA_CACHE_S = 10,      /* curl's default is a day: a replaced CA file would not be seen */
    CLIENT_DEFAULT_TIMEOUT_MS = 10 * 1000,
    CLIENT_DEFAULT_MAX_BODY = 1024 * 1024,
    CLIENT_MAX_HEADER_BYTES = 4 * 1024, /* of one header that is kept */
    RETRY_AFTER_MAX_S = 24 * 3600,
    WHERE_BYTES = 300,
};

struct http_client {
    struct loop *loop;
    CURLM *multi;
    struct event *timer;
    struct http_request *requests; /* under way */
    size_t requests_n;
};

struct http_request {
    struct http_client *client;
    struct http_request *next, **prev; /* in client->requests */
    CURL *easy;
    struct curl_slist *headers;
    struct buf sent, body; /* wiped: they may hold tokens and secrets */
    struct buf key;        /* PEM, wiped; curl reads it here */
    char *www_authenticate, *content_type;
    uint64_t retry_after_ms, timeout_ms;
    size_t headers_n; /* bytes of the answer's headers */
    bool too_big, no_memory, is_shut_out;
    enum http_reach reach;
    char where[WHERE_BYTES]; /* "https://host:port", for messages: never a query, never a user */
    char curl_text[CURL_ERROR_SIZE];
    int (*on_data)(struct span piece, void *arg, struct err *e);
    struct err refused; /* by on_data; E_NONE: not */
    http_done_fn *done;
    void *arg;
};

/* -- what curl calls ----------------------------------------------------------------------------
 */

/* The address is known here, whatever the name was. */
static curl_socket_t
on_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct http_request *q = arg;

    (void)purpose;
    if (!reach_allows(q->reach, &to->addr)) {
        q->is_shut_out = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

static size_t
on_body(char *p, size_t size, size_t n, void *arg)
{
    struct http_request *q = arg;
    struct err e = { 0 };
    long status = 0;

    (void)curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    if (q->on_data != NULL && status >= 200 && status < 300)
        return q->on_data(span_of(p, size * n), q->arg, &q->refused) < 0 ? 0 : size * n;
    if (buf_add(&q->body, span_of(p, size * n), &e) == 0)
        return size * n;
    q->too_big = e.code == E_LIMIT;
    q->no_memory = e.code == E_NOMEM;
    return 0;
}

static bool
keep_header(struct span value, char **ret)
{
    struct err e = { 0 };

    free(STEAL(*ret));
    return value.n <= CLIENT_MAX_HEADER_BYTES && str_dup(value, ret, &e) == 0;
}

static bool
header_is(struct span name, const char *want)
{
    return name.n == strlen(want) && strncasecmp((const char *)name.p, want, name.n) == 0;
}

/* One header line of the answer; a status line starts over (100 Continue comes before the real
 * one). */
static bool
header_take(struct http_request *q, struct span line)
{
    struct err e = { 0 };
    struct span name;
    uint64_t ms;

    if (span_starts(line, "HTTP/")) {
        free(STEAL(q->www_authenticate));
        free(STEAL(q->content_type));
        q->retry_after_ms = 0;
        return true;
    }
    (void)span_cut(&line, ':', &name);
    line = span_trim(line);
    if (header_is(name, "www-authenticate"))
        /* of several schemes, Bearer is the one that we can answer */
        return (q->www_authenticate != NULL && !span_starts(line, "Bearer")) ||
               keep_header(line, &q->www_authenticate);
    if (header_is(name, "content-type"))
        return keep_header(line, &q->content_type);
    if ((header_is(name, "retry-after-ms") || header_is(name, "x-ms-retry-after-ms")) &&
        u64_parse(line, 0, UINT64_MAX / 2, &ms, &e) == 0)
        q->retry_after_ms = ms;
    return true;
}

static size_t
on_header(char *p, size_t size, size_t n, void *arg)
{
    struct http_request *q = arg;

    q->headers_n += size * n;
    if (q->headers_n > HTTP_MAX_HEADER_BYTES || !header_take(q, span_of(p, size * n))) {
        q->too_big = true;
        return 0;
    }
    return size * n;
}

static void on_curl_fd(evutil_socket_t fd, short what, void *arg);

static int
on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *fd_arg)
{
    struct http_client *c = arg;
    struct event *ev = fd_arg;

    (void)easy;
    if (ev != NULL)
        event_free(ev);
    (void)curl_multi_assign(c->multi, fd, NULL);
    if (what == CURL_POLL_REMOVE)
        return 0;
    short wants = (short)(((what & CURL_POLL_IN) != 0 ? EV_READ : 0) |
                          ((what & CURL_POLL_OUT) != 0 ? EV_WRITE : 0));
    ev = event_new(loop_base(c->loop), fd, (short)(wants | EV_PERSIST), on_curl_fd, c);
    if (ev == NULL || event_priority_set(ev, 0) < 0 || event_add(ev, NULL) < 0) {
        if (ev != NULL)
            event_free(ev);
        return -1;
    }
    (void)curl_multi_assign(c->multi, fd, ev);
    return 0;
}

static int
on_curl_timer(CURLM *multi, long ms, void *arg)
{
    struct http_client *c = arg;
    struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

    (void)multi;
    return ms < 0 ? event_del(c->timer) : event_add(c->timer, &tv);
}

/* -- the end of a request -----------------------------------------------------------------------
 */

static void
request_free(struct http_request *q)
{
    if (q->prev != NULL) {
        *q->prev = q->next;
        if (q->next != NULL)
            q->next->prev = q->prev;
        q->client->requests_n--;
    }
    if (q->easy != NULL) {
        (void)curl_multi_remove_handle(q->client->multi, q->easy);
        curl_easy_cleanup(q->easy);
    }
    for (struct curl_slist *h = q->headers; h != NULL; h = h->next)
        explicit_bzero(h->data, strlen(h->data)); /* Authorization */
    curl_slist_free_all(q->headers);
    buf_wipe(&q->sent);
    buf_wipe(&q->body);
    buf_wipe(&q->key);
    free(q->www_authenticate);
    free(q->content_type);
    free(q);
}

static const struct {
    CURLcode curl;
    enum err_code code;
    const char *text; /* NULL: curl's own words */
} failures[] = {
    { CURLE_COULDNT_RESOLVE_HOST, E_PEER, "could not resolve the host name" },
    { CURLE_COULDNT_RESOLVE_PROXY, E_PEER, "could not resolve the proxy's name" },
    { CURLE_PEER_FAILED_VERIFICATION, E_PEER, NULL },
    { CURLE_SSL_CACERT_BADFILE, E_PEER, "the file of CA certificates cannot be read" },
    { CURLE_SSL_CERTPROBLEM, E_PEER, "the client certificate or its key cannot be used" },
    { CURLE_OUT_OF_MEMORY, E_NOMEM, "out of memory" },
    { CURLE_GOT_NOTHING, E_PEER, "the connection was closed without an answer" },
    { CURLE_URL_MALFORMAT, E_INVAL, "this is not a URL" },
    { CURLE_UNSUPPORTED_PROTOCOL, E_INVAL, "only http and https are possible" },
};

static void
request_error(const struct http_request *q, CURLcode r, struct err *e)
{
    const char *text = q->curl_text[0] != '\0' ? q->curl_text : curl_easy_strerror(r);
    enum err_code code = E_PEER;

    for (size_t i = 0; i < ARRAY_LEN(failures); i++)
        if (failures[i].curl == r) {
            code = failures[i].code;
            text = failures[i].text != NULL ? failures[i].text : text;
        }
    if (q->is_shut_out)
        (void)err_set(e, E_DENIED,
                      "leads to an address that it may not lead to (this host, link-local, or a "
                      "cloud's metadata service)");
    else if (q->refused.code != E_NONE)
        *e = q->refused;
    else if (q->no_memory)
        (void)err_nomem(e);
    else if (q->too_big)
        (void)err_set(e, E_LIMIT, "the answer is larger than %zu bytes", q->body.max);
    else if (r == CURLE_OPERATION_TIMEDOUT)
        (void)err_set(e, E_TIMEOUT, "no answer within %llu ms", (unsigned long long)q->timeout_ms);
    else if (r == CURLE_PEER_FAILED_VERIFICATION)
        (void)err_set(e, code, "certificate not accepted: %s", text);
    else
        (void)err_set(e, code, "%s", text);
    (void)err_wrap(e, "%s", q->where);
}

static uint64_t
request_retry_after_s(const struct http_request *q)
{
    curl_off_t s = 0;

    if (q->retry_after_ms > 0)
        s = (curl_off_t)(q->retry_after_ms / 1000 + (q->retry_after_ms % 1000 != 0));
    else if (curl_easy_getinfo(q->easy, CURLINFO_RETRY_AFTER, &s) != CURLE_OK || s < 0)
        return 0;
    return s > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : (uint64_t)s;
}

static void
request_finish(struct http_request *q, CURLcode r)
{
    struct err e = { 0 };
    long status = 0;

    (void)curl_easy_getinfo(q->easy, CURLINFO_RESPONSE_CODE, &status);
    if (r == CURLE_OK) {
        struct http_answer a = { (int)status, buf_span(&q->body), request_retry_after_s(q),
                                 q->www_authenticate, q->content_type };

        q->done(&a, NULL, q->arg);
    } else {
        request_error(q, r, &e);
        q->done(NULL, &e, q->arg);
    }
    request_free(q);
}

static void
finish_all(struct http_client *c)
{
    CURLMsg *m;
    int left;

    while ((m = curl_multi_info_read(c->multi, &left)) != NULL) {
        struct http_request *q = NULL;
        CURL *easy = m->easy_handle;
        CURLcode r = m->data.result;

        if (m->msg != CURLMSG_DONE)
            continue;
        (void)curl_easy_getinfo(easy, CURLINFO_PRIVATE, &q);
        (void)curl_multi_remove_handle(c->multi, easy);
        *q->prev = q->next; /* so that done may not cancel it */
        if (q->next != NULL)
            q->next->prev = q->prev;
        q->prev = NULL;
        c->requests_n--;
        request_finish(q, r);
    }
}

static void
on_curl_fd(evutil_socket_t fd, short what, void *arg)
{
    struct http_client *c = arg;
    int running, ready = ((what & EV_READ) != 0 ? CURL_CSELECT_IN : 0) |
                         ((what & EV_WRITE) != 0 ? CURL_CSELECT_OUT : 0);

    (void)curl_multi_socket_action(c->multi, fd, ready, &running);
    finish_all(c);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct http_client *c = arg;
    int running;

    (void)fd;
    (void)what;
    (void)curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish_all(c);
}

/* -- the client ---------------------------------------------------------------------------------
 */

static void
curl_init(void)
{
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
}

static int
client_open(struct http_client *c, struct err *e)
{
    c->multi = curl_multi_init();
    c->timer = event_new(loop_base(c->loop), -1, 0, on_timer, c);
    if (c->multi == NULL || c->timer == NULL)
        return err_nomem(e);
    (void)event_priority_set(c->timer, 0);
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    (void)curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_curl_timer);
    (void)curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    http_client_limit(c, HTTP_HOST_CONNECTIONS);
    return 0;
}

void
http_client_limit(struct http_client *c, size_t connections)
{
    long all = connections > CLIENT_MAX_CONNECTIONS ? (long)connections : CLIENT_MAX_CONNECTIONS;

    (void)curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)connections);
    (void)curl_multi_setopt(c->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, all);
}

int
http_client_new(struct loop *l, struct http_client **ret, struct err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct http_client *c = calloc(1, sizeof(*c));

    (void)pthread_once(&once, curl_init);
    if (c == NULL)
        return err_nomem(e);
    c->loop = l;
    if (client_open(c, e) < 0) {
        http_client_free(c);
        return err_result(e);
    }
    *ret = c;
    return 0;
}

void
http_client_free(struct http_client *c)
{
    if (c == NULL)
        return;
    while (c->requests != NULL) {
        struct http_request *q = c->requests;
        struct err e = { 0 };

        (void)err_set(&e, E_PEER, "%s: given up: the client ends", q->where);
        q->done(NULL, &e, q->arg);
        if (c->requests == q) /* done may have cancelled it */
            request_free(q);
    }
    if (c->multi != NULL)
        (void)curl_multi_cleanup(c->multi);
    if (c->timer != NULL)
        event_free(c->timer);
    free(c);
}

static bool
is_loopback(const char *host)
{
    size_t n = strlen(host);

    return strncmp(host, "127.", 4) == 0 || strcmp(host, "[::1]") == 0 ||
           strcasecmp(host, "localhost") == 0 ||
           (n > 10 && strcasecmp(host + n - 10, ".localhost") == 0); /* RFC 6761 6.3 */
}

/* Fills q->where. r: 1 when the URL's host is loopback. */
static int
request_where(struct http_request *q, const char *url, struct err *e)
{
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *port = NULL;
    int r = 0;

    if (u == NULL)
        return err_nomem(e);
    if (curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK ||
        curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) != CURLUE_OK ||
        (strcasecmp(scheme, "http") != 0 && strcasecmp(scheme, "https") != 0)) {
        r = err_set(e, E_INVAL, "\"%.200s\" is not an http or https URL", url);
    } else {
        (void)snprintf(q->where, sizeof(q->where), "%s://%.250s:%s", scheme, host, port);
        r = is_loopback(host) ? 1 : 0;
    }
    curl_free(scheme);
    curl_free(host);
    curl_free(port);
    curl_url_cleanup(u);
    return r;
}

int
http_url_is_loopback(const char *url, struct err *e)
{
    struct http_request q = { .client = NULL };

    return request_where(&q, url, e);
}

static int
add_header(struct http_request *q, const char *line, struct err *e)
{
    if (strpbrk(line, "\r\n") != NULL)
        return err_set(e, E_INVAL, "a line break inside a request header");
    struct curl_slist *h = curl_slist_append(q->headers, line);
    if (h == NULL)
        return err_nomem(e);
    q->headers = h;
    return 0;
}

static int
request_headers(struct http_request *q, const struct http_request_conf *conf, struct err *e)
{
    bool has_type = false;

    for (size_t i = 0; conf->headers != NULL && conf->headers[i] != NULL; i++) {
        has_type = has_type || strncasecmp(conf->headers[i], "content-type:", 13) == 0;
        TRY(add_header(q, conf->headers[i], e));
    }
    TRY(add_header(q, "Expect:", e)); /* one round trip more for nothing */
    return has_type ? 0 : add_header(q, "Content-Type:", e);
}

/* Method and body. A PUT, POST or PATCH without a body says Content-Length: 0. */
static void
request_method(struct http_request *q, const char *method)
{
    bool is_bare = strcmp(method, "GET") == 0 || strcmp(method, "DELETE") == 0;

    if (strcmp(method, "HEAD") == 0) {
        (void)curl_easy_setopt(q->easy, CURLOPT_NOBODY, 1L);
        return;
    }
    if (!is_bare || q->sent.n > 0) {
        (void)curl_easy_setopt(q->easy, CURLOPT_POSTFIELDS, buf_text(&q->sent));
        (void)curl_easy_setopt(q->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->sent.n);
    }
    (void)curl_easy_setopt(q->easy, CURLOPT_CUSTOMREQUEST, method);
}

/* A file, or the text before it. r: false when memory is short. */
static bool
pem_option(CURL *c, CURLoption file_option, const char *file, CURLoption text_option,
           struct span text, unsigned how)
{
    const void *bytes = text.p;
    struct curl_blob blob = { .len = text.n, .flags = how };

    memcpy(&blob.data, &bytes, sizeof(bytes)); /* curl's member is not const */
    if (text.n > 0)
        return curl_easy_setopt(c, text_option, &blob) == CURLE_OK;
    return file == NULL || curl_easy_setopt(c, file_option, file) == CURLE_OK;
}

/* Who the server must be, who we are. Only certificates are copied by curl, which wipes nothing. */
static int
request_certs(struct http_request *q, const struct http_request_conf *conf, struct err *e)
{
    CURL *c = q->easy;
    bool has_ca = conf->ca_file != NULL || conf->ca_pem.n > 0;

    q->key = BUF_INIT(conf->key_pem.n);
    TRY(buf_add(&q->key, conf->key_pem, e));
    if (!pem_option(c, CURLOPT_CAINFO, conf->ca_file, CURLOPT_CAINFO_BLOB, conf->ca_pem,
                    CURL_BLOB_COPY) ||
        (conf->ca_pem.n > 0 && curl_easy_setopt(c, CURLOPT_CAINFO, NULL) != CURLE_OK) ||
        (has_ca && curl_easy_setopt(c, CURLOPT_CAPATH, NULL) != CURLE_OK) ||
        !pem_option(c, CURLOPT_SSLCERT, conf->cert_file, CURLOPT_SSLCERT_BLOB, conf->cert_pem,
                    CURL_BLOB_COPY) ||
        !pem_option(c, CURLOPT_SSLKEY, conf->key_file, CURLOPT_SSLKEY_BLOB, buf_span(&q->key),
                    CURL_BLOB_NOCOPY))
        return err_nomem(e);
    return 0;
}

static int
request_options(struct http_request *q, const struct http_request_conf *conf, bool direct,
                struct err *e)
{
    CURL *c = q->easy;
    long ms = (long)q->timeout_ms;

    /* the options that copy a text are the ones that can fail */
    if (curl_easy_setopt(c, CURLOPT_URL, conf->url) != CURLE_OK ||
        curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") != CURLE_OK ||
        (conf->unix_socket != NULL &&
         curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, conf->unix_socket) != CURLE_OK) ||
        (direct && curl_easy_setopt(c, CURLOPT_PROXY, "") != CURLE_OK))
        return err_nomem(e);
    TRY(request_certs(q, conf, e));
    request_method(q, conf->method);
    if (q->reach != HTTP_REACH_ANY) {
        (void)curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
        (void)curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, q);
    }
    (void)curl_easy_setopt(c, CURLOPT_HTTPHEADER, q->headers);
    (void)curl_easy_setopt(c, CURLOPT_PRIVATE, q);
    (void)curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    (void)curl_easy_setopt(c, CURLOPT_WRITEDATA, q);
    (void)curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(c, CURLOPT_HEADERDATA, q);
    (void)curl_easy_setopt(c, CURLOPT_ERRORBUFFER, q->curl_text);
    (void)curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, ms);
    (void)curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, ms);
    (void)curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    (void)curl_easy_setopt(c, CURLOPT_CA_CACHE_TIMEOUT, (long)CLIENT_CA_CACHE_S);
    (void)curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(c, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    (void)curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    return 0;
}

static int
request_start(struct http_request *q, const struct http_request_conf *conf, struct err *e)
{
    struct http_client *c = q->client;
    bool direct = TRY(request_where(q, conf->url, e)) == 1 || conf->unix_socket != NULL ||
                  conf->reach != HTTP_REACH_ANY;

    TRY(buf_add(&q->sent, conf->body, e));
    TRY(request_headers(q, conf, e));
    q->easy = curl_easy_init();
    if (q->easy == NULL)
        return err_nomem(e);
    TRY(request_options(q, conf, direct, e));
    if (curl_multi_add_handle(c->multi, q->easy) != CURLM_OK)
        return err_nomem(e);
    q->next = c->requests;
    q->prev = &c->requests;
    if (q->next != NULL)
        q->next->prev = &q->next;
    c->requests = q;
    c->requests_n++;
    return 0;
}

int
http_send(struct http_client *c, const struct http_request_conf *conf, http_done_fn *done,
          void *arg, struct http_request **ret, struct err *e)
{
    size_t max = conf->max_body_bytes == 0 ? CLIENT_DEFAULT_MAX_BODY : conf->max_body_bytes;
    struct http_request *q;

    if (c->requests_n >= HTTP_MAX_REQUESTS)
        return err_set(e, E_LIMIT, "more than %d HTTP requests under way", (int)HTTP_MAX_REQUESTS);
    q = calloc(1, sizeof(*q));
    if (q == NULL)
        return err_nomem(e);
    *q = (struct http_request){ .client = c,
                                .sent = BUF_INIT(conf->body.n),
                                .body = BUF_INIT(max),
                                .reach = conf->reach,
                                .on_data = conf->on_data,
                                .timeout_ms = conf->timeout_ms == 0 ? CLIENT_DEFAULT_TIMEOUT_MS
                                                                    : conf->timeout_ms,
                                .done = done,
                                .arg = arg };
    if (request_start(q, conf, e) < 0) {
        request_free(q);
        return err_result(e);
    }
    if (ret != NULL)
        *ret = q;
    return 0;
}

void
http_cancel(struct http_request *q)
{
    request_free(q);
}
