/* kubeconfig.c - the context of a kubeconfig as a server and who we are there. Of several files the
 * first that has a name has it whole; what it points to lies beside that file.
 * Source: Kubernetes client-go, tools/clientcmd (the order), its api/v1 (members and meaning). */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/str.h"
#include "kube/exec.h"
#include "kube/yaml.h"
#include "net/json.h"

enum { KUBECONFIG_MAX_BYTES = 1024 * 1024, KUBECONFIG_FILES_MAX = 32 };

struct source {
    json_t *doc; /* owned; it may have a key in it */
    const char *path;
};

struct sources {
    struct source v[KUBECONFIG_FILES_MAX];
    size_t n;
};

static void
sources_done(struct sources *s)
{
    while (s->n > 0)
        json_wipe_free(s->v[--s->n].doc);
}

/* A member that is a text; NULL: absent or null. */
static int
text_of(const json_t *o, const char *name, const char **ret, struct err *e)
{
    const json_t *v = json_object_get(o, name);

    if (v != NULL && !json_is_string(v) && !json_is_null(v))
        return err_set(e, E_PARSE, "\"%s\" is not a text", name);
    *ret = json_string_value(v);
    return 0;
}

static const json_t *
entry_in(const json_t *doc, const char *list, const char *inner, const char *name)
{
    const json_t *all = json_object_get(doc, list), *one;
    size_t i;

    json_array_foreach(all, i, one) {
        const char *n = json_string_value(json_object_get(one, "name"));

        if (n != NULL && strcmp(n, name) == 0 && json_is_object(json_object_get(one, inner)))
            return json_object_get(one, inner);
    }
    return NULL;
}

/* The `inner` object of the entry of that name in the list `list`, and the file that has it. */
static int
entry_of(const struct sources *s, const char *list, const char *inner, const char *name,
         const json_t **ret, const char **ret_path, struct err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const json_t *o = entry_in(s->v[i].doc, list, inner, name);

        if (o != NULL) {
            *ret = o;
            *ret_path = s->v[i].path;
            return 0;
        }
    }
    return err_set(e, E_NOTFOUND, "no \"%.100s\" in \"%s\"", name, list);
}

/* A path as it stands, or beside the kubeconfig. */
static int
path_take(const json_t *o, const char *name, const char *kubeconfig, char **ret, struct err *e)
{
    const char *path, *slash = strrchr(kubeconfig, '/');

    TRY(text_of(o, name, &path, e));
    if (path == NULL || path[0] == '\0')
        return 0;
    if (path[0] == '/' || slash == NULL)
        return str_dup(span_str(path), ret, e);
    return str_format(ret, e, "%.*s/%s", (int)(slash - kubeconfig), kubeconfig, path);
}

/* Members that change what a connection means, and that are not taken here: never passed over. */
static int
refuse_members(const json_t *o, const char *const *names, const char *remedy, struct err *e)
{
    for (; *names != NULL; names++) {
        const json_t *v = json_object_get(o, *names);

        if (v != NULL && !json_is_null(v) && !json_is_false(v) &&
            !(json_is_string(v) && json_string_length(v) == 0))
            return err_set(e, E_PARSE, "\"%s\" is not taken here; %s", *names, remedy);
    }
    return 0;
}

/* A "...-data" member: base64 of PEM. */
static int
data_take(const json_t *o, const char *name, char **ret, struct err *e)
{
    CLEANUP(buf_wipe) struct buf pem = BUF_INIT(KUBECONFIG_MAX_BYTES);
    const char *text;

    TRY(text_of(o, name, &text, e));
    if (text == NULL || text[0] == '\0')
        return 0;
    if (base64_decode(&pem, span_str(text), e) < 0)
        return err_wrap(e, "\"%s\"", name);
    if (strstr(buf_text(&pem), "-----BEGIN ") == NULL)
        return err_set(e, E_PARSE, "\"%s\" is not the base64 of PEM", name);
    if (str_dup(buf_span(&pem), ret, e) < 0)
        return err_wrap(e, "\"%s\"", name);
    return 0;
}

static int
token_take(const json_t *o, char **ret, struct err *e)
{
    const char *token;

    TRY(text_of(o, "token", &token, e));
    if (token == NULL || token[0] == '\0')
        return 0;
    for (const char *p = token; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~') /* it goes into a header */
            return err_set(e, E_PARSE, "\"token\" is no token");
    if (strlen(token) > KUBE_TOKEN_MAX_BYTES)
        return err_set(e, E_PARSE, "\"token\" has more than %d bytes", KUBE_TOKEN_MAX_BYTES);
    return str_dup(span_str(token), ret, e);
}

static int
exec_take(const json_t *o, const char *path, struct kube_conf *c, struct err *e)
{
    json_t *exec = json_object_get(o, "exec");
    const char *slash = strrchr(path, '/');

    if (exec == NULL || json_is_null(exec))
        return 0;
    TRY(kube_exec_check(exec, e));
    if (c->token != NULL || c->token_file != NULL || c->cert_file != NULL || c->cert_pem != NULL)
        return err_set(e, E_PARSE,
                       "\"exec\" beside a token or a client certificate: want one of "
                       "them");
    c->exec = json_incref(exec);
    return str_dup(span_of(path, slash == NULL ? 0 : (size_t)(slash - path)), &c->exec_dir, e);
}

static int
cluster_take(const struct sources *s, const char *name, struct kube_conf *c, struct err *e)
{
    static const char *const not_ours[] = { "proxy-url", "tls-server-name", NULL };
    static const char *const never[] = { "insecure-skip-tls-verify", NULL };
    const char *server, *path = NULL;
    const json_t *o = NULL;

    TRY(entry_of(s, "clusters", "cluster", name, &o, &path, e));
    TRY(refuse_members(o, never, "the server is always verified; name certificate-authority", e));
    TRY(refuse_members(o, not_ours, "the server is reached and verified by the name in \"server\"",
                       e));
    TRY(text_of(o, "server", &server, e));
    if (server == NULL)
        return err_set(e, E_PARSE, "cluster \"%.100s\" has no \"server\"", name);
    TRY(str_dup(span_str(server), &c->server, e));
    TRY(data_take(o, "certificate-authority-data", &c->ca_pem, e));
    return c->ca_pem != NULL ? 0 : path_take(o, "certificate-authority", path, &c->ca_file, e);
}

static int
user_take(const struct sources *s, const char *name, struct kube_conf *c, struct err *e)
{
    static const char *const not_ours[] = { "username", "password",  "auth-provider", "as",
                                            "as-uid",   "as-groups", "as-user-extra", NULL };
    const char *path = NULL;
    const json_t *o = NULL;

    TRY(entry_of(s, "users", "user", name, &o, &path, e));
    TRY(refuse_members(o, not_ours,
                       "name a token, a client certificate or an exec plug-in: tokenFile, token, "
                       "client-certificate and client-key, or exec",
                       e));
    TRY(path_take(o, "tokenFile", path, &c->token_file, e));
    if (c->token_file == NULL)
        TRY(token_take(o, &c->token, e));
    TRY(data_take(o, "client-certificate-data", &c->cert_pem, e));
    TRY(data_take(o, "client-key-data", &c->key_pem, e));
    if (c->cert_pem == NULL)
        TRY(path_take(o, "client-certificate", path, &c->cert_file, e));
    if (c->key_pem == NULL)
        TRY(path_take(o, "client-key", path, &c->key_file, e));
    return exec_take(o, path, c, e);
}

static int
context_take(const struct sources *s, const char *context, struct kube_conf *c, struct err *e)
{
    const char *cluster, *user, *path;
    const json_t *o = NULL;

    for (size_t i = 0; i < s->n && (context == NULL || context[0] == '\0'); i++)
        TRY(text_of(s->v[i].doc, "current-context", &context, e));
    if (context == NULL || context[0] == '\0')
        return err_set(e, E_NOTFOUND, "no \"current-context\", and none is named");
    TRY(entry_of(s, "contexts", "context", context, &o, &path, e));
    TRY(text_of(o, "cluster", &cluster, e));
    TRY(text_of(o, "user", &user, e));
    if (cluster == NULL || user == NULL)
        return err_set(e, E_PARSE, "context \"%.100s\" names no cluster, or no user", context);
    TRY(cluster_take(s, cluster, c, e));
    return user_take(s, user, c, e);
}

static int
source_add(struct sources *s, struct span text, const char *path, struct err *e)
{
    json_t *doc = NULL;

    if (s->n == KUBECONFIG_FILES_MAX)
        return err_set(e, E_LIMIT, "more than %d files", (int)KUBECONFIG_FILES_MAX);
    TRY(yaml_to_json(text, &doc, e));
    s->v[s->n++] = (struct source){ doc, path };
    if (!json_is_object(doc))
        return err_set(e, E_PARSE, "not a kubeconfig: want an object");
    return 0;
}

static int
sources_take(const struct sources *s, const char *context, struct kube_conf *ret, struct err *e)
{
    CLEANUP(kube_conf_done) struct kube_conf c = { .server = NULL };

    TRY(context_take(s, context, &c, e));
    *ret = c;
    c = (struct kube_conf){ .server = NULL };
    return 0;
}

int
kube_conf_read(struct span text, const char *path, const char *context, struct kube_conf *ret,
               struct err *e)
{
    CLEANUP(sources_done) struct sources s = { .n = 0 };

    TRY(source_add(&s, text, path, e));
    return sources_take(&s, context, ret, e);
}

static int
file_add(struct sources *s, const char *path, struct err *e)
{
    CLEANUP(buf_wipe) struct buf text = BUF_INIT(KUBECONFIG_MAX_BYTES);
    int r = TRY(file_read(path, &text, e));

    if (r == FILE_ABSENT)
        return FILE_ABSENT;
    return source_add(s, buf_span(&text), path, e) < 0 ? err_wrap(e, "kubeconfig %s", path) : 0;
}

int
kube_conf_from_file(const char *path, const char *context, struct kube_conf *ret, struct err *e)
{
    CLEANUP(sources_done) struct sources s = { .n = 0 };

    if (TRY(file_add(&s, path, e)) == FILE_ABSENT)
        return err_set(e, E_NOTFOUND, "kubeconfig %s: no such file", path);
    if (sources_take(&s, context, ret, e) < 0)
        return err_wrap(e, "kubeconfig %s", path);
    return 0;
}

int
kube_conf_from_files(const char *list, const char *context, struct kube_conf *ret, struct err *e)
{
    CLEANUP(sources_done) struct sources s = { .n = 0 };
    CLEANUP(str_freep) char *paths = NULL;
    char *rest = NULL;

    TRY(str_dup(span_str(list), &paths, e));
    for (char *at = strtok_r(paths, ":", &rest); at != NULL; at = strtok_r(NULL, ":", &rest))
        TRY(file_add(&s, at, e));
    if (s.n == 0)
        return err_set(e, E_NOTFOUND, "kubeconfig %s: no such file", list);
    if (sources_take(&s, context, ret, e) < 0)
        return err_wrap(e, "kubeconfig %s", list);
    return 0;
}
