/* creds.c - the texts of an exec plug-in: what a kubeconfig says of it, and what it answers. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "kube/exec.h"
#include "net/json.h"

static const char *const apis[] = { "client.authentication.k8s.io/v1",
                                    "client.authentication.k8s.io/v1beta1" };

static bool
is_text(const json_t *v)
{
    return json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v);
}

static int
words_check(const json_t *list, const char *what, struct err *e)
{
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return err_set(e, E_PARSE, "exec: \"%s\" is not a list", what);
    if (json_array_size(list) > KUBE_EXEC_MAX_WORDS)
        return err_set(e, E_PARSE, "exec: more than %d %s", KUBE_EXEC_MAX_WORDS, what);
    return 0;
}

static int
env_check(const json_t *one, struct err *e)
{
    const json_t *name = json_object_get(one, "name");

    if (!is_text(name) || json_string_length(name) == 0 ||
        strchr(json_string_value(name), '=') != NULL || !is_text(json_object_get(one, "value")))
        return err_set(e, E_PARSE, "exec: \"env\" wants entries of a \"name\" and a \"value\"");
    return 0;
}

int
kube_exec_check(const json_t *exec, struct err *e)
{
    const json_t *command = json_object_get(exec, "command"), *one;
    const char *api = json_string_value(json_object_get(exec, "apiVersion"));
    const char *mode = json_string_value(json_object_get(exec, "interactiveMode"));
    bool is_known = false;
    size_t i;

    if (!is_text(command) || json_string_length(command) == 0)
        return err_set(e, E_PARSE, "exec: no \"command\"");
    for (i = 0; i < ARRAY_LEN(apis); i++)
        is_known = is_known || (api != NULL && strcmp(api, apis[i]) == 0);
    if (!is_known)
        return err_set(e, E_PARSE, "exec: \"apiVersion\" \"%.100s\": want %s",
                       api == NULL ? "" : api, apis[0]);
    if (mode != NULL && strcmp(mode, "Always") == 0)
        return err_set(e, E_PARSE,
                       "exec: nobody can answer a plug-in whose \"interactiveMode\" is "
                       "Always");
    TRY(words_check(json_object_get(exec, "args"), "args", e));
    TRY(words_check(json_object_get(exec, "env"), "env", e));
    json_array_foreach(json_object_get(exec, "args"), i, one)
        if (!is_text(one))
            return err_set(e, E_PARSE, "exec: \"args\" are texts");
    json_array_foreach(json_object_get(exec, "env"), i, one)
        TRY(env_check(one, e));
    return 0;
}

/* -- the answer ---------------------------------------------------------------------------------
 */

static void
wipe(char **s)
{
    if (*s != NULL)
        explicit_bzero(*s, strlen(*s));
    free(STEAL(*s));
}

void
kube_creds_done(struct kube_creds *c)
{
    wipe(&c->token);
    wipe(&c->cert_pem);
    wipe(&c->key_pem);
}

/* Empty is absent: Go writes both. */
static int
text_take(const json_t *status, const char *name, char **ret, struct err *e)
{
    struct span s = { NULL, 0 };

    if (json_is_null(json_object_get(status, name)))
        return 0;
    TRY(json_text(status, name, &s, e));
    return s.n == 0 ? 0 : str_dup(s, ret, e);
}

static int
token_check(const char *token, struct err *e)
{
    if (strlen(token) > KUBE_TOKEN_MAX_BYTES)
        return err_set(e, E_PARSE, "\"token\" has more than %d bytes", KUBE_TOKEN_MAX_BYTES);
    for (const char *p = token; *p != '\0'; p++)
        if (*p <= ' ' || *p > '~') /* it goes into a header */
            return err_set(e, E_PARSE, "\"token\" is no token");
    return 0;
}

static int
status_take(const json_t *status, struct kube_creds *c, struct err *e)
{
    struct span end = { NULL, 0 };

    TRY(text_take(status, "token", &c->token, e));
    TRY(text_take(status, "clientCertificateData", &c->cert_pem, e));
    TRY(text_take(status, "clientKeyData", &c->key_pem, e));
    if (c->token != NULL)
        TRY(token_check(c->token, e));
    if ((c->cert_pem == NULL) != (c->key_pem == NULL))
        return err_set(e, E_PARSE,
                       "\"clientCertificateData\" and \"clientKeyData\" belong together");
    if (c->token == NULL && c->cert_pem == NULL)
        return err_set(e, E_PARSE, "neither \"token\" nor \"clientCertificateData\"");
    if (!json_is_null(json_object_get(status, "expirationTimestamp")))
        TRY(json_text(status, "expirationTimestamp", &end, e));
    c->has_end = end.n > 0;
    if (c->has_end && rfc3339_parse(end, &c->end_unix_s, e) < 0)
        return err_wrap(e, "\"expirationTimestamp\"");
    return 0;
}

int
kube_creds_read(struct span text, const char *api, struct kube_creds *ret, struct err *e)
{
    CLEANUP(kube_creds_done) struct kube_creds c = { .token = NULL };
    CLEANUP(json_wipe_freep) json_t *o = NULL;
    struct span kind = { NULL, 0 }, version = { NULL, 0 };

    if (json_object_parse(text, JSON_MAX_DEPTH, &o, e) < 0) /* its words may show what was read */
        return err_set(e, e->code, "what it writes is no JSON object");
    TRY(json_text(o, "kind", &kind, e));
    TRY(json_text(o, "apiVersion", &version, e));
    if (!span_eq_str(kind, "ExecCredential") || !span_eq_str(version, api))
        return err_set(e, E_PARSE, "what it writes is no ExecCredential of %s", api);
    TRY(status_take(json_object_get(o, "status"), &c, e));
    *ret = c;
    c = (struct kube_creds){ .token = NULL };
    return 0;
}
