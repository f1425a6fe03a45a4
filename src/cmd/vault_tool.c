#include "cmd/vault_tool.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"

enum { CREDENTIALS_MAX_BYTES = 16 * 1024, URL_MAX_BYTES = 512 };

struct vault_session {
    struct loop *loop;
    struct vault_client *client;
    struct buf value;
    json_t *j; /* a secret, or a list */
    struct err why;
    bool no_memory;
};

/* -- which vault, and who we are ----------------------------------------------------------------
 */

struct place {
    char *state_dir, *url, *ca_file;
    bool is_local; /* the vault of the state folder */
    json_t *credentials;
    const char *tenant, *client_id, *client_secret;
};

static void
place_done(struct place *p)
{
    free(p->state_dir);
    free(p->url);
    free(p->ca_file);
    json_decref(p->credentials);
}

/* The URL that the local vault has written; r: 0; FILE_ABSENT. */
static int
local_url(struct place *p, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;
    struct buf b = BUF_INIT(URL_MAX_BYTES);

    TRY(str_format(&path, e, "%s/vault.url", p->state_dir));
    int r = file_read(path, &b, e);
    if (r == 0)
        r = str_dup(span_trim(buf_span(&b)), &p->url, e);
    buf_done(&b);
    return r;
}

/* One listener may serve several vaults: "https://NAME.localhost:PORT" says which is meant. */
static int
url_by_name(const char *name, struct place *p, struct err *e)
{
    static const char loopback[] = "https://127.0.0.1:";
    CLEANUP(str_freep) char *by_address = NULL;

    if (strncmp(p->url, loopback, sizeof(loopback) - 1) != 0)
        return 0;
    by_address = STEAL(p->url);
    return str_format(&p->url, e, "https://%s.localhost:%s", name,
                      by_address + sizeof(loopback) - 1);
}

static int
place_url(const struct vault_target *t, struct place *p, struct err *e)
{
    int r = local_url(p, e);

    TRY(r);
    p->is_local = r == 0 && (t->vault_url == NULL || strcmp(t->vault_url, p->url) == 0);
    if (p->is_local)
        return t->vault_name == NULL ? 0 : url_by_name(t->vault_name, p, e);
    free(STEAL(p->url));
    if (t->vault_url != NULL)
        return str_dup(span_str(t->vault_url), &p->url, e);
    if (t->vault_name == NULL)
        return err_set(e, E_INVAL, "which vault? --vault-name or --vault-url is needed");
    return str_format(&p->url, e, "https://%s.vault.azure.net", t->vault_name);
}

static int
credentials_file(struct place *p, const char *path, struct err *e)
{
    struct buf b = BUF_INIT(CREDENTIALS_MAX_BYTES);

    int r = file_read(path, &b, e);
    if (r == FILE_ABSENT)
        r = err_set(e, E_NOTFOUND, "%s: no such file", path);
    if (r == 0) {
        p->credentials = json_loadb(buf_text(&b), b.n, JSON_REJECT_DUPLICATES, NULL);
        p->tenant = json_string_value(json_object_get(p->credentials, "tenant"));
        p->client_id = json_string_value(json_object_get(p->credentials, "client_id"));
        p->client_secret = json_string_value(json_object_get(p->credentials, "client_secret"));
        if (p->client_id == NULL || p->client_secret == NULL)
            r = err_set(e, E_PARSE, "%s: want a JSON object with tenant, client_id, client_secret",
                        path);
    }
    buf_wipe(&b);
    return r;
}

static int
place_credentials(const struct vault_target *t, struct place *p, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    if (t->credential_file != NULL)
        return credentials_file(p, t->credential_file, e);
    p->tenant = getenv("AZURE_TENANT_ID");
    p->client_id = getenv("AZURE_CLIENT_ID");
    p->client_secret = getenv("AZURE_CLIENT_SECRET");
    if (p->client_id != NULL && p->client_secret != NULL && p->tenant != NULL)
        return 0;
    if (!p->is_local)
        return err_set(e, E_INVAL,
                       "%s: who are you? --credential-file, or AZURE_TENANT_ID, AZURE_CLIENT_ID "
                       "and AZURE_CLIENT_SECRET, are needed (%s has no vault of its own: meshroot "
                       "up, or vault serve, with that --state-dir makes one)",
                       p->url, p->state_dir);
    TRY(str_format(&path, e, "%s/credentials/admin.json", p->state_dir));
    return credentials_file(p, path, e);
}

static int
place_fill(const struct vault_target *t, struct place *p, struct err *e)
{
    TRY(state_dir(t->state_dir, &p->state_dir, e));
    TRY(place_url(t, p, e));
    TRY(place_credentials(t, p, e));
    if (t->ca_file != NULL)
        return str_dup(span_str(t->ca_file), &p->ca_file, e);
    return p->is_local ? str_format(&p->ca_file, e, "%s/vault-ca.pem", p->state_dir) : 0;
}

int
vault_target_open(const struct vault_target *t, struct loop *l, char ret_url[VAULT_URL_TEXT_BYTES],
                  struct vault_client **ret, struct err *e)
{
    CLEANUP(place_done) struct place p = { 0 };

    TRY(place_fill(t, &p, e));
    struct vault_client_conf conf = { .url = p.url,
                                      .ca_file = p.ca_file,
                                      .tenant = p.tenant,
                                      .client_id = p.client_id,
                                      .client_secret = p.client_secret,
                                      .timeout_ms = t->timeout_ms };
    if (strlen(p.url) >= VAULT_URL_TEXT_BYTES)
        return err_set(e, E_INVAL, "a vault URL of more than %d bytes", VAULT_URL_TEXT_BYTES - 1);
    TRY(vault_client_new(l, &conf, ret, e));
    memcpy(ret_url, p.url, strlen(p.url) + 1);
    return 0;
}

int
vault_session_new(const struct vault_target *t, struct vault_session **ret, struct err *e)
{
    CLEANUP(vault_session_freep) struct vault_session *s = calloc(1, sizeof(*s));
    char url[VAULT_URL_TEXT_BYTES];

    if (s == NULL)
        return err_nomem(e);
    s->value = BUF_INIT(VAULT_CLIENT_ANSWER_BYTES);
    TRY(loop_new(&s->loop, e));
    TRY(vault_target_open(t, s->loop, url, &s->client, e));
    *ret = STEAL(s);
    return 0;
}

void
vault_session_free(struct vault_session *s)
{
    if (s == NULL)
        return;
    vault_client_free(s->client);
    loop_free(s->loop);
    buf_wipe(&s->value);
    json_decref(s->j);
    free(s);
}

struct vault_client *
vault_session_client(struct vault_session *s)
{
    return s->client;
}

/* -- one call -----------------------------------------------------------------------------------
 */

static json_t *
secret_json(const struct vault_secret *s)
{
    json_t *j =
        json_pack("{s:s,s:s,s:b,s:I,s:I}", "name", s->name, "version", s->version, "enabled",
                  s->enabled, "created", (json_int_t)s->created, "updated", (json_int_t)s->updated);
    bool ok = j != NULL;

    if (s->expires != 0)
        ok = ok && json_object_set_new(j, "expires", json_integer(s->expires)) == 0;
    if (s->not_before != 0)
        ok = ok && json_object_set_new(j, "not_before", json_integer(s->not_before)) == 0;
    if (s->content_type[0] != '\0')
        ok = ok && json_object_set_new(j, "content_type", json_string(s->content_type)) == 0;
    if (!ok)
        json_decref(STEAL(j));
    return j;
}

void
vault_session_item(const struct vault_secret *s, const struct err *why, void *arg)
{
    struct vault_session *v = arg;

    (void)why;
    if (v->j == NULL)
        v->j = json_array();
    v->no_memory = json_array_append_new(v->j, secret_json(s)) < 0 || v->no_memory;
}

void
vault_session_done(const struct vault_secret *s, const struct err *why, void *arg)
{
    struct vault_session *v = arg;

    if (why != NULL) {
        v->why = *why;
    } else if (s != NULL) {
        v->j = secret_json(s);
        v->no_memory = v->j == NULL || buf_add(&v->value, s->value, &v->why) < 0;
    } else if (v->j == NULL) {
        v->j = json_array(); /* a list without items */
    }
    loop_stop(v->loop);
}

int
vault_session_wait(struct vault_session *s, struct buf *ret_value, json_t **ret_j, struct err *e)
{
    TRY(loop_run(s->loop, e));
    if (s->why.code != E_NONE) {
        *e = s->why;
        return err_result(e);
    }
    if (s->no_memory || s->j == NULL)
        return err_nomem(e);
    if (ret_value != NULL)
        TRY(buf_add(ret_value, buf_span(&s->value), e));
    *ret_j = STEAL(s->j);
    return 0;
}

/* -- printing -----------------------------------------------------------------------------------
 */

static void
time_text(const json_t *j, const char *name, char ret[RFC3339_BYTES])
{
    const json_t *t = json_object_get(j, name);

    (void)snprintf(ret, RFC3339_BYTES, "-");
    if (t != NULL)
        rfc3339_s(json_integer_value(t), ret);
}

static void
row_print(const json_t *j)
{
    const char *version = json_string_value(json_object_get(j, "version"));
    char created[RFC3339_BYTES], expires[RFC3339_BYTES];

    time_text(j, "created", created);
    time_text(j, "expires", expires);
    printf("%-24s %-32s %-8s %-20s %s\n", json_string_value(json_object_get(j, "name")),
           version == NULL || version[0] == '\0' ? "-" : version,
           json_is_true(json_object_get(j, "enabled")) ? "yes" : "no", created, expires);
}

int
vault_print(json_t *take_j, const char *output, struct err *e)
{
    const json_t *item;
    size_t i;

    if (output[0] == 'j')
        return print_json(take_j, e);
    printf("%-24s %-32s %-8s %-20s %s\n", "NAME", "VERSION", "ENABLED", "CREATED", "EXPIRES");
    if (!json_is_array(take_j))
        row_print(take_j);
    json_array_foreach(take_j, i, item)
        row_print(item);
    json_decref(take_j);
    return stdout_check(e);
}

int
vault_time_parse(const char *text, int64_t *ret, struct err *e)
{
    struct tm tm = { 0 };
    uint64_t ms;

    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (end == NULL || *end != '\0') {
        tm = (struct tm){ 0 };
        end = strptime(text, "%Y-%m-%d", &tm);
    }
    if (end != NULL && *end == '\0') {
        *ret = (int64_t)timegm(&tm);
        return 0;
    }
    if (duration_ms_parse(span_str(text), &ms, e) < 0)
        return err_set(e, E_INVAL,
                       "\"%.60s\" is no time: want 2027-01-31, 2027-01-31T12:00:00Z, or a duration "
                       "from now such as 90d",
                       text);
    *ret = unix_s() + (int64_t)(ms / 1000);
    return 0;
}
