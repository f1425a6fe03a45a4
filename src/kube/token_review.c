/* token_review.c - the API server's own word on a token. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "kube/kube.h"
#include "net/json.h"

struct review {
    char *audiences[KUBE_REVIEW_MAX_AUDIENCES + 1]; /* owned; ended by NULL */
    kube_review_fn *done;
    void *arg;
};

static void
review_free(struct review *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < KUBE_REVIEW_MAX_AUDIENCES; i++)
        free(r->audiences[i]);
    free(r);
}
DEFINE_CLEANUP(struct review, review_free)

/* -- reading -------------------------------------------------------------------------------------
 */

static int
text_take(const json_t *v, const char *what, char *ret, size_t cap, struct err *e)
{
    size_t n = json_string_length(v);

    if (v == NULL || json_is_null(v))
        return 0;
    if (!json_is_string(v) || n >= cap || strlen(json_string_value(v)) != n)
        return err_set(e, E_PEER, "TokenReview: \"%s\" is not a text, or too long", what);
    memcpy(ret, json_string_value(v), n + 1);
    return 0;
}

/* Extra values are lists; the first counts, and it must be the only one: two would be two answers.
 */
static int
extra_take(const json_t *user, const char *name, char *ret, size_t cap, struct err *e)
{
    const json_t *list = json_object_get(json_object_get(user, "extra"), name);

    if (json_array_size(list) > 1)
        return err_set(e, E_PEER, "TokenReview: \"%s\" has several values", name);
    return text_take(json_array_get(list, 0), name, ret, cap, e);
}

static bool
list_has(const json_t *list, const char *text)
{
    const json_t *one;
    size_t i;

    json_array_foreach(list, i, one)
        if (json_is_string(one) && strcmp(json_string_value(one), text) == 0)
            return true;
    return false;
}

static int
user_read(const json_t *user, struct kube_review *ret, struct err *e)
{
#define EXTRA(name) "authentication.kubernetes.io/" name
    TRY(text_take(json_object_get(user, "username"), "username", ret->username,
                  sizeof(ret->username), e));
    TRY(text_take(json_object_get(user, "uid"), "uid", ret->uid, sizeof(ret->uid), e));
    TRY(extra_take(user, EXTRA("pod-name"), ret->pod_name, sizeof(ret->pod_name), e));
    TRY(extra_take(user, EXTRA("pod-uid"), ret->pod_uid, sizeof(ret->pod_uid), e));
    TRY(extra_take(user, EXTRA("node-name"), ret->node_name, sizeof(ret->node_name), e));
    TRY(extra_take(user, EXTRA("credential-id"), ret->credential_id, sizeof(ret->credential_id),
                   e));
    ret->is_service_account = list_has(json_object_get(user, "groups"), "system:serviceaccounts");
    return 0;
}

int
kube_review_read(const json_t *o, const char *const *audiences, struct kube_review *ret,
                 struct err *e)
{
    const json_t *status = json_object_get(o, "status");
    const char *kind = json_string_value(json_object_get(o, "kind"));
    struct kube_review r = { .is_authenticated = false };

    if (kind == NULL || strcmp(kind, "TokenReview") != 0 || !json_is_object(status))
        return err_set(e, E_PEER, "the answer of the Kubernetes API is not a TokenReview");
    TRY(text_take(json_object_get(status, "error"), "error", r.error, sizeof(r.error), e));
    r.is_authenticated = json_is_true(json_object_get(status, "authenticated"));
    TRY(user_read(json_object_get(status, "user"), &r, e));
    for (size_t i = 0; audiences[i] != NULL; i++)
        r.has_audience =
            r.has_audience || list_has(json_object_get(status, "audiences"), audiences[i]);
    *ret = r;
    return 0;
}

/* -- asking --------------------------------------------------------------------------------------
 */

static void
on_answer(const json_t *body, const struct err *why, void *arg)
{
    CLEANUP(review_freep) struct review *r = arg;
    struct kube_review said;
    struct err e;

    if (body == NULL)
        r->done(NULL, why, r->arg);
    else if (kube_review_read(body, (const char *const *)r->audiences, &said, &e) < 0)
        r->done(NULL, &e, r->arg);
    else
        r->done(&said, NULL, r->arg);
}

static int
body_make(struct span token, const char *const *audiences, struct buf *out, struct err *e)
{
    json_t *o =
        json_pack("{s:s, s:s, s:{s:s#, s:[]}}", "apiVersion", "authentication.k8s.io/v1", "kind",
                  "TokenReview", "spec", "token", (const char *)token.p, (int)token.n, "audiences");
    json_t *list = json_object_get(json_object_get(o, "spec"), "audiences");
    int r = o == NULL ? err_set(e, E_AUTH, "the token is not text") : 0;

    for (size_t i = 0; r == 0 && audiences[i] != NULL; i++)
        if (json_array_append_new(list, json_string(audiences[i])) != 0)
            r = err_nomem(e);
    char *text = r == 0 ? json_dumps(o, JSON_COMPACT) : NULL;
    if (r == 0)
        r = text == NULL ? err_nomem(e) : buf_add_str(out, text, e);
    if (text != NULL)
        explicit_bzero(text, strlen(text));
    free(text);
    json_wipe_free(o);
    return r;
}

int
kube_token_review(struct kube_client *c, struct span token, const char *const *audiences,
                  uint64_t deadline_ms, kube_review_fn *done, void *arg, struct err *e)
{
    CLEANUP(buf_wipe) struct buf body = BUF_INIT(KUBE_TOKEN_MAX_BYTES * 2);
    CLEANUP(review_freep) struct review *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    r->done = done;
    r->arg = arg;
    for (size_t i = 0; audiences[i] != NULL; i++) {
        if (i == KUBE_REVIEW_MAX_AUDIENCES)
            return err_set(e, E_LIMIT, "at most %d audiences", KUBE_REVIEW_MAX_AUDIENCES);
        TRY(str_dup(span_str(audiences[i]), &r->audiences[i], e));
    }
    TRY(body_make(token, audiences, &body, e));
    struct kube_request q = { .method = "POST",
                              .path = "/apis/authentication.k8s.io/v1/tokenreviews",
                              .body = buf_span(&body),
                              .deadline_ms = deadline_ms,
                              .is_safe = true };
    TRY(kube_send(c, &q, on_answer, r, NULL, e));
    (void)STEAL(r); /* on_answer has it */
    return 0;
}
