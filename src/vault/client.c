/* client.c - calls to the vault: first without a token, then with the one that its challenge asks
 * for. */
#include "vault/client.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "vault/client_room.h"

/* -- the end of a call --------------------------------------------------------------------------
 */

static void
call_free(struct vault_call *q)
{
    if (q->prev != NULL) {
        *q->prev = q->next;
        if (q->next != NULL)
            q->next->prev = q->prev;
        q->client->calls_n--;
    }
    if (q->http != NULL)
        http_cancel(q->http);
    buf_wipe(&q->body);
    free(q);
}

void
call_fail(struct vault_call *q, struct err *e)
{
    vault_secret_fn *done = q->done;
    void *arg = q->arg;

    (void)err_wrap(e, "vault %s: %s", q->client->origin.host, q->what);
    call_free(q);
    done(NULL, e, arg);
}

/* One line of printable text, cut. */
static void
shown(const char *from, char ret[TEXT_SHOWN])
{
    size_t n = 0;

    for (; from != NULL && *from != '\0' && n < TEXT_SHOWN - 1; from++)
        ret[n++] = (unsigned char)*from < ' ' || *from == 0x7f ? ' ' : *from;
    ret[n] = '\0';
}

static enum err_code
status_code(int status)
{
    static const struct {
        int status;
        enum err_code code;
    } rows[] = {
        { 400, E_INVAL },    { 401, E_AUTH },  { 403, E_DENIED },
        { 404, E_NOTFOUND }, { 405, E_INVAL }, { 408, E_BUSY },
        { 409, E_CONFLICT }, { 413, E_LIMIT }, { 429, E_BUSY },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].status == status)
            return rows[i].code;
    return status >= 500 && status <= 599 ? E_BUSY : E_PEER;
}

/* Of the long text of a 403, what helps: the action that is missing, and the role that has it. */
static void
shown_message(const char *message, char ret[TEXT_SHOWN])
{
    const char *action = message == NULL ? NULL : strstr(message, "Action: ");
    const char *role = action == NULL ? NULL : strstr(action, "Role needed: ");

    if (action == NULL) {
        shown(message, ret);
        return;
    }
    (void)snprintf(ret, TEXT_SHOWN, "caller may not do this. %.*s%s%.*s",
                   (int)strcspn(action, "\r\n"), action, role == NULL ? "" : ". ",
                   role == NULL ? 0 : (int)strcspn(role, "\r\n"), role == NULL ? "" : role);
}

/* The service's own words, when it is the service that speaks. */
int
answer_error(const struct http_answer *a, struct err *e)
{
    CLEANUP(json_unrefp) json_t *j = json_loadb((const char *)a->body.p, a->body.n, 0, NULL);
    json_t *error = json_object_get(j, "error");
    const char *code = json_string_value(json_object_get(error, "code"));
    const char *inner =
        json_string_value(json_object_get(json_object_get(error, "innererror"), "code"));
    char text[TEXT_SHOWN];

    if (json_is_string(error)) { /* the token endpoint's shape: RFC 6749 5.2 */
        code = json_string_value(error);
        shown(json_string_value(json_object_get(j, "error_description")), text);
    } else {
        shown_message(json_string_value(json_object_get(error, "message")), text);
    }
    if (code != NULL) {
        (void)err_set(e, status_code(a->status), "%d %.60s%s%.60s: %s", a->status, code,
                      inner == NULL ? "" : "/", inner == NULL ? "" : inner, text);
    } else {
        shown(a->content_type == NULL ? "no content type" : a->content_type, text);
        (void)err_set(e, status_code(a->status),
                      "HTTP status %d with an answer that is not Key Vault's (%.80s)", a->status,
                      text);
    }
    e->retry_after_s = (unsigned)a->retry_after_s;
    return err_result(e);
}

/* -- answers ------------------------------------------------------------------------------------
 */

static int64_t
time_of(const json_t *attributes, const char *name)
{
    return json_integer_value(json_object_get(attributes, name));
}

/* Fills *ret from a bundle or item; `id` holds what name and version point into. */
static int
secret_take(const json_t *j, char *id, size_t id_cap, struct vault_secret *ret, struct err *e)
{
    const char *url = json_string_value(json_object_get(j, "id"));
    const json_t *a = json_object_get(j, "attributes"), *value = json_object_get(j, "value");
    struct span path, part, parts[4] = { 0 };
    const char *type = json_string_value(json_object_get(j, "contentType"));
    struct origin o;
    size_t n = 0;

    if (url == NULL || strlen(url) >= id_cap || origin_parse(span_str(url), &o, &path, e) < 0)
        return err_set(e, E_PEER, "the answer has no secret id");
    path = span_skip(path, 1);
    while (n < ARRAY_LEN(parts) && span_cut(&path, '/', &part))
        parts[n++] = part;
    if (n < 2 || n > 3 || !span_eq_str(parts[0], "secrets") || parts[1].n == 0)
        return err_set(e, E_PEER, "the answer's id is not that of a secret");
    /* both are shorter than the URL that they are from; the two NULs take the place of slashes */
    memcpy(id, parts[1].p, parts[1].n);
    id[parts[1].n] = '\0';
    char *version = id + parts[1].n + 1;
    if (parts[2].n > 0)
        memcpy(version, parts[2].p, parts[2].n);
    version[parts[2].n] = '\0';
    *ret = (struct vault_secret){
        .name = id,
        .version = version,
        .value = span_of(json_string_value(value), json_string_length(value)),
        .enabled = !json_is_false(json_object_get(a, "enabled")),
        .expires = time_of(a, "exp"),
        .not_before = time_of(a, "nbf"),
        .created = time_of(a, "created"),
        .updated = time_of(a, "updated"),
        .content_type = type == NULL ? "" : type,
    };
    return 0;
}

static void
answer_one(struct vault_call *q, const json_t *j)
{
    vault_secret_fn *done = q->done;
    void *arg = q->arg;
    struct vault_secret s;
    char id[1024];
    struct err e = { 0 };

    if (secret_take(j, id, sizeof(id), &s, &e) < 0) {
        call_fail(q, &e);
        return;
    }
    if (s.version[0] == '\0' || (strcmp(q->method, "PATCH") != 0 && s.value.p == NULL)) {
        (void)err_set(&e, E_PEER, "the answer has no %s",
                      s.version[0] == '\0' ? "version" : "value");
        call_fail(q, &e);
        return;
    }
    if (q->kind == CALL_VERSION)
        s.value = (struct span){ 0 };
    call_free(q);
    done(&s, NULL, arg);
}

/* The rest of the list is where the vault says; only on the vault itself, for the token goes there.
 */
static int
next_page(struct vault_call *q, const char *link, struct err *e)
{
    struct span path;
    struct origin o;

    if (origin_parse(span_str(link), &o, &path, e) < 0 || !origin_eq(&o, &q->client->origin))
        return err_set(e, E_PEER, "the list goes on at another server: not followed");
    if (++q->pages >= VAULT_CLIENT_MAX_PAGES)
        return err_set(e, E_LIMIT, "the list has more than %d pages", (int)VAULT_CLIENT_MAX_PAGES);
    if (path.n >= PATH_BYTES)
        return err_set(e, E_LIMIT, "the link to the next page is longer than %d bytes",
                       (int)PATH_BYTES);
    memcpy(q->path, path.p, path.n);
    q->path[path.n] = '\0';
    return 0;
}

static void
answer_list(struct vault_call *q, const json_t *j)
{
    const json_t *items = json_object_get(j, "value"), *item;
    const char *link = json_string_value(json_object_get(j, "nextLink"));
    vault_secret_fn *done = q->done;
    void *arg = q->arg;
    struct err e = { 0 };
    char id[1024];
    size_t i;

    if (!json_is_array(items)) {
        (void)err_set(&e, E_PEER, "the answer is not a list");
        call_fail(q, &e);
        return;
    }
    json_array_foreach(items, i, item) {
        struct vault_secret s;

        if (secret_take(item, id, sizeof(id), &s, &e) < 0) {
            call_fail(q, &e);
            return;
        }
        s.value = (struct span){ 0 };
        q->item(&s, NULL, q->arg);
    }
    if (link != NULL && link[0] != '\0') {
        if (next_page(q, link, &e) < 0)
            call_fail(q, &e);
        else
            call_send(q);
        return;
    }
    call_free(q);
    done(NULL, NULL, arg);
}

/* -- calls --------------------------------------------------------------------------------------
 */

/* A service account's token is us to whoever has it: it goes where the platform says, or to
 * Microsoft, never where a vault points. Source: specs/azure.md 2.5 (AZURE_AUTHORITY_HOST). */
static int
assertion_check(const struct vault_client *c, struct err *e)
{
    if (c->assertion_file == NULL || c->has_authority || challenge_is_of_microsoft(&c->challenge))
        return 0;
    return err_set(e, E_DENIED,
                   "the vault sends us to the authority %s: a service account's token is sent to "
                   "Microsoft's only, or to AZURE_AUTHORITY_HOST",
                   c->challenge.authority.host);
}

/* 401: what it asks for, once; a second refusal with a fresh token is final. */
static void
on_challenge(struct vault_call *q, const struct http_answer *a)
{
    struct vault_client *c = q->client;
    struct err e = { 0 };

    if (q->had_retry || a->www_authenticate == NULL) {
        (void)answer_error(a, &e);
        call_fail(q, &e);
        return;
    }
    q->had_retry = q->has_token;
    if (challenge_parse(a->www_authenticate, &c->challenge, &e) < 0 ||
        challenge_check(&c->challenge, &c->origin, &e) < 0 || assertion_check(c, &e) < 0) {
        call_fail(q, &e);
        return;
    }
    c->knows = true;
    if (q->has_token)
        token_drop(c);
    call_send(q);
}

static void
on_answer(const struct http_answer *a, const struct err *why, void *arg)
{
    struct vault_call *q = arg;
    struct err e = { 0 };

    q->http = NULL;
    if (why != NULL) {
        e = *why;
        call_fail(q, &e);
        return;
    }
    if (a->status == 401) {
        on_challenge(q, a);
        return;
    }
    if (a->status != 200) {
        (void)answer_error(a, &e);
        call_fail(q, &e);
        return;
    }
    CLEANUP(json_unrefp) json_t *j = json_loadb((const char *)a->body.p, a->body.n, 0, NULL);
    if (!json_is_object(j)) {
        char type[TEXT_SHOWN];

        shown(a->content_type, type);
        (void)err_set(&e, E_PEER,
                      "the answer is not Key Vault's JSON but \"%.80s\"; is %s a vault?", type,
                      q->client->base);
        call_fail(q, &e);
    } else if (q->kind == CALL_LIST) {
        answer_list(q, j);
    } else {
        answer_one(q, j);
    }
}

static int
call_request(struct vault_call *q, struct err *e)
{
    struct vault_client *c = q->client;
    bool has_token = token_usable(c);
    const char *headers[] = { "Accept: application/json", "Content-Type: application/json",
                              has_token ? (const char *)secret_span(c->token).p : NULL, NULL };
    char url[ORIGIN_BYTES + PATH_BYTES];
    struct http_request_conf conf = { .method = q->method,
                                      .url = url,
                                      .headers = headers,
                                      .ca_file = c->ca_file,
                                      .timeout_ms = c->timeout_ms,
                                      .max_body_bytes = VAULT_CLIENT_ANSWER_BYTES };

    if (!has_token && c->knows) {
        q->waits = true;
        return token_fetch(c, e);
    }
    if (has_token) /* nothing secret goes to a server before it has said who it is */
        conf.body = buf_span(&q->body);
    q->has_token = has_token;
    (void)snprintf(url, sizeof(url), "%s%s", c->base, q->path);
    return http_send(c->http, &conf, on_answer, q, &q->http, e);
}

void
call_send(struct vault_call *q)
{
    struct err e = { 0 };

    if (call_request(q, &e) < 0)
        call_fail(q, &e);
}

/* `q` is complete; the first request is made now, so that its error can be returned. */
static int
call_start(struct vault_call *take_q, struct err *e)
{
    struct vault_client *c = take_q->client;

    take_q->next = c->calls;
    take_q->prev = &c->calls;
    if (take_q->next != NULL)
        take_q->next->prev = &take_q->next;
    c->calls = take_q;
    c->calls_n++;
    if (call_request(take_q, e) < 0) {
        call_free(take_q);
        return err_result(e);
    }
    return 0;
}

static int
call_new(struct vault_client *c, const char *method, const char *name, const char *version,
         struct vault_call **ret, struct err *e)
{
    struct vault_call *q;

    if (c->calls_n >= VAULT_CLIENT_MAX_CALLS)
        return err_set(e, E_LIMIT, "more than %d vault calls under way",
                       (int)VAULT_CLIENT_MAX_CALLS);
    if (name != NULL && !secret_name_ok(name))
        return err_set(e, E_INVAL,
                       "\"%.40s\" is not a secret's name: 1 to 127 letters, digits and hyphens",
                       name);
    if (version != NULL && version[0] != '\0' && !secret_version_ok(version))
        return err_set(e, E_INVAL, "\"%.40s\" is not a version: 32 hexadecimal digits", version);
    q = calloc(1, sizeof(*q));
    if (q == NULL)
        return err_nomem(e);
    *q = (struct vault_call){ .client = c, .method = method, .body = BUF_INIT(BODY_BYTES) };
    (void)snprintf(q->what, sizeof(q->what), "%s%s", name == NULL ? "list" : "secret ",
                   name == NULL ? "" : name);
    (void)snprintf(q->path, sizeof(q->path), "/secrets%s%s%s%s?api-version=" API_VERSION,
                   name == NULL ? "" : "/", name == NULL ? "" : name, version == NULL ? "" : "/",
                   version == NULL ? "" : version);
    *ret = q;
    return 0;
}

static int
get(struct vault_client *c, enum call_kind kind, const char *name, const char *version,
    vault_secret_fn *done, void *arg, struct err *e)
{
    struct vault_call *q;

    TRY(call_new(c, "GET", name, version, &q, e));
    q->kind = kind;
    q->done = done;
    q->arg = arg;
    return call_start(q, e);
}

int
vault_get(struct vault_client *c, const char *name, const char *version, vault_secret_fn *done,
          void *arg, struct err *e)
{
    return get(c, CALL_ONE, name, version == NULL ? "" : version, done, arg, e);
}

int
vault_get_current_version(struct vault_client *c, const char *name, vault_secret_fn *done,
                          void *arg, struct err *e)
{
    return get(c, CALL_VERSION, name, "", done, arg, e);
}

int
vault_list(struct vault_client *c, const char *name, vault_secret_fn *item, vault_secret_fn *done,
           void *arg, struct err *e)
{
    struct vault_call *q;

    TRY(call_new(c, "GET", name, NULL, &q, e));
    if (name != NULL)
        (void)snprintf(q->path, sizeof(q->path), "/secrets/%s/versions?api-version=" API_VERSION,
                       name);
    q->kind = CALL_LIST;
    q->item = item;
    q->done = done;
    q->arg = arg;
    return call_start(q, e);
}

static int
change_json(const struct vault_change *ch, bool is_set, struct buf *out, struct err *e)
{
    CLEANUP(json_unrefp) json_t *j = json_object();
    json_t *a = json_object();
    bool ok = json_object_set_new(j, "attributes", a) == 0;

    if (is_set) {
        json_t *value = json_stringn((const char *)ch->value.p, ch->value.n);

        if (value == NULL)
            return err_set(e, E_INVAL, "the value is not UTF-8 text; the vault holds text only");
        ok = json_object_set_new(j, "value", value) == 0 && ok;
    }
    if (ch->content_type != NULL)
        ok = json_object_set_new(j, "contentType", json_string(ch->content_type)) == 0 && ok;
    if (ch->enabled != VAULT_KEEP)
        ok = json_object_set_new(a, "enabled", json_boolean(ch->enabled)) == 0 && ok;
    if (ch->expires != VAULT_KEEP)
        ok = json_object_set_new(a, "exp", json_integer(ch->expires)) == 0 && ok;
    if (ch->not_before != VAULT_KEEP)
        ok = json_object_set_new(a, "nbf", json_integer(ch->not_before)) == 0 && ok;
    return ok ? json_add(out, j, e) : err_nomem(e);
}

static int
change(struct vault_client *c, const char *method, const char *name, const char *version,
       const struct vault_change *ch, vault_secret_fn *done, void *arg, struct err *e)
{
    struct vault_call *q;

    TRY(call_new(c, method, name, version, &q, e));
    q->done = done;
    q->arg = arg;
    if (change_json(ch, version == NULL, &q->body, e) < 0) {
        call_free(q);
        return err_result(e);
    }
    return call_start(q, e);
}

int
vault_put(struct vault_client *c, const char *name, const struct vault_change *ch,
          vault_secret_fn *done, void *arg, struct err *e)
{
    if (ch->value.n > SECRET_VALUE_BYTES)
        return err_set(e, E_LIMIT, "secret %s: the value has %zu bytes; at most %d are possible",
                       name, ch->value.n, (int)SECRET_VALUE_BYTES);
    return change(c, "PUT", name, NULL, ch, done, arg, e);
}

int
vault_set(struct vault_client *c, const char *name, struct span value, const char *content_type,
          vault_secret_fn *done, void *arg, struct err *e)
{
    struct vault_change ch = { .value = value,
                               .content_type = content_type,
                               .enabled = VAULT_KEEP,
                               .expires = VAULT_KEEP,
                               .not_before = VAULT_KEEP };

    return vault_put(c, name, &ch, done, arg, e);
}

int
vault_update(struct vault_client *c, const char *name, const char *version,
             const struct vault_change *ch, vault_secret_fn *done, void *arg, struct err *e)
{
    return change(c, "PATCH", name, version == NULL ? "" : version, ch, done, arg, e);
}

/* -- the client ---------------------------------------------------------------------------------
 */

static int
field_copy(char to[FIELD_BYTES], const char *from, const char *what, struct err *e)
{
    if (strlen(from) >= FIELD_BYTES)
        return err_set(e, E_INVAL, "the %s is longer than %d characters", what,
                       (int)FIELD_BYTES - 1);
    memcpy(to, from, strlen(from) + 1);
    return 0;
}

static int
url_take(struct vault_client *c, const char *url, struct err *e)
{
    struct span path;

    if (origin_parse(span_str(url), &c->origin, &path, e) < 0 ||
        !(path.n == 0 || span_eq_str(path, "/")))
        return err_set(e, E_INVAL,
                       "\"%.200s\" is not a vault URL such as https://NAME.vault.azure.net", url);
    if (!c->origin.is_https && !origin_is_loopback(&c->origin))
        return err_set(e, E_INVAL, "%s: a vault is reached by https only", url);
    origin_text(&c->origin, c->base);
    return 0;
}

const char *
vault_assertion_file(void)
{
    const char *path = getenv("AZURE_FEDERATED_TOKEN_FILE");

    return path != NULL ? path : "/var/run/secrets/azure/tokens/azure-identity-token";
}

/* The platform's endpoint is plain http on a link-local address; no other host is asked in the
 * clear. Source: specs/azure.md 2.7. */
static int
imds_take(struct vault_client *c, struct err *e)
{
    static const char usual[] = "http://169.254.169.254";
    const char *given = getenv("AZURE_POD_IDENTITY_AUTHORITY_HOST");
    struct origin o;
    char text[ORIGIN_BYTES];

    TRY(origin_parse(span_str(given == NULL ? usual : given), &o, NULL, e));
    if (!o.is_https && !origin_is_loopback(&o) && strcmp(o.host, usual + strlen("http://")) != 0)
        return err_set(e, E_INVAL,
                       "AZURE_POD_IDENTITY_AUTHORITY_HOST: %.200s is not https, nor on "
                       "this machine",
                       given);
    origin_text(&o, text);
    return str_dup(span_str(text), &c->imds, e);
}

static int
login_take(struct vault_client *c, const struct vault_client_conf *conf, struct err *e)
{
    bool has_id = conf->client_id != NULL && conf->client_id[0] != '\0';
    bool has_secret = conf->client_secret != NULL && conf->client_secret[0] != '\0';

    if (has_id)
        TRY(field_copy(c->client_id, conf->client_id, "client id", e));
    if (conf->managed_identity)
        return imds_take(c, e);
    if (!has_id || (!has_secret && conf->assertion_file == NULL))
        return err_set(e, E_AUTH, "no client id and secret for the vault %s", c->origin.host);
    if (!has_secret)
        return str_dup(span_str(conf->assertion_file), &c->assertion_file, e);
    return secret_new(span_str(conf->client_secret), &c->client_secret, e);
}

static int
client_fill(struct vault_client *c, const struct vault_client_conf *conf, struct err *e)
{
    TRY(url_take(c, conf->url, e));
    TRY(login_take(c, conf, e));
    if (conf->tenant != NULL)
        TRY(field_copy(c->tenant, conf->tenant, "tenant", e));
    if (conf->ca_file != NULL)
        TRY(str_dup(span_str(conf->ca_file), &c->ca_file, e));
    const char *authority = conf->authority;
    if (authority == NULL && c->assertion_file != NULL)
        authority = getenv("AZURE_AUTHORITY_HOST"); /* beside AZURE_FEDERATED_TOKEN_FILE */
    if (authority != NULL) {
        TRY(origin_parse(span_str(authority), &c->authority, NULL, e));
        if (!c->authority.is_https && !origin_is_loopback(&c->authority))
            return err_set(e, E_INVAL, "the authority %s is not https", authority);
        c->has_authority = true;
    }
    c->timeout_ms = conf->timeout_ms;
    return http_client_new(c->loop, &c->http, e);
}

int
vault_client_new(struct loop *l, const struct vault_client_conf *conf, struct vault_client **ret,
                 struct err *e)
{
    struct vault_client *c = calloc(1, sizeof(*c));

    if (c == NULL)
        return err_nomem(e);
    json_wipes_memory();
    c->loop = l;
    if (client_fill(c, conf, e) < 0) {
        vault_client_free(c);
        return err_result(e);
    }
    *ret = c;
    return 0;
}

void
vault_client_free(struct vault_client *c)
{
    if (c == NULL)
        return;
    while (c->calls != NULL)
        call_free(c->calls);
    if (c->fetch != NULL)
        http_cancel(c->fetch);
    http_client_free(c->http);
    token_drop(c);
    secret_free(c->client_secret);
    free(c->assertion_file);
    free(c->imds);
    free(c->ca_file);
    free(c);
}
