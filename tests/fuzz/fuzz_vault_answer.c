/* fuzz_vault_answer.c - what a vault and its token endpoint answer: every call ends once, well or
 * with a word; what is well has a name, a version and, when it was read, a value.
 *
 * The input is answers, one after another: status, an optional challenge, a body, each ended by a
 * line feed. The HTTP client is the target's own, by --wrap. */
#include <stdlib.h>
#include <string.h>

#include "net/http.h"
#include "vault/client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { STEPS_MAX = 1000 };

static struct {
    http_done_fn *done; /* of the request under way; NULL: none */
    void *arg;
} http;

int __wrap_http_send(struct http_client *c, const struct http_request_conf *q, http_done_fn *done,
                     void *arg, struct http_request **ret, struct err *e);
void __wrap_http_cancel(struct http_request *q);

int
__wrap_http_send(struct http_client *c, const struct http_request_conf *q, http_done_fn *done,
                 void *arg, struct http_request **ret, struct err *e)
{
    (void)c;
    (void)e;
    if (http.done != NULL || strncmp(q->url, "https://", 8) != 0)
        abort(); /* one call is made here; and no secret goes out in the clear */
    http.done = done;
    http.arg = arg;
    *ret = NULL;
    return 0;
}

void
__wrap_http_cancel(struct http_request *q)
{
    (void)q;
}

struct ending {
    unsigned ends, items;
    bool is_list;
};

static void
on_item(const struct vault_secret *s, const struct err *why, void *arg)
{
    (void)why;
    ((struct ending *)arg)->items++;
    if (s == NULL || s->name[0] == '\0' || s->value.n > 0)
        abort();
}

static void
on_done(const struct vault_secret *s, const struct err *why, void *arg)
{
    struct ending *end = arg;

    end->ends++;
    if (why != NULL ? why->msg[0] == '\0' || why->code == E_NONE
                    : !end->is_list && (s == NULL || s->name[0] == '\0' || s->version[0] == '\0' ||
                                        s->value.p == NULL))
        abort();
}

static void
answer(struct span *rest)
{
    struct span status = { 0 }, challenge = { 0 }, body = { 0 };
    struct http_answer a = { .content_type = "application/json" };
    char words[512];
    http_done_fn *done = http.done;

    (void)!span_cut(rest, '\n', &status);
    (void)!span_cut(rest, '\n', &challenge);
    (void)!span_cut(rest, '\n', &body);
    a.status = status.n == 0 ? 500 : status.p[0] == '2' ? 200 : status.p[0] == '4' ? 401 : 429;
    a.body = body;
    size_t n = challenge.n < sizeof(words) - 1 ? challenge.n : sizeof(words) - 1;
    memcpy(words, challenge.p == NULL ? (const uint8_t *)"" : challenge.p, n);
    words[n] = '\0';
    a.www_authenticate = n == 0 ? NULL : words;
    http.done = NULL;
    done(&a, NULL, http.arg);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct vault_client_conf conf = { .url = "https://v.vault.azure.net",
                                            .client_id = "c",
                                            .client_secret = "s",
                                            .authority = "https://login.microsoftonline.com" };
    struct span rest = span_of(data, size);
    struct ending end = { .is_list = size > 0 && data[size - 1] == 'L' };
    struct vault_client *c = NULL;
    struct loop *l = NULL;
    struct err e;

    http.done = NULL;
    if (loop_new(&l, &e) < 0 || vault_client_new(l, &conf, &c, &e) < 0)
        abort();
    int r = end.is_list ? vault_list(c, NULL, on_item, on_done, &end, &e)
                        : vault_get(c, "ca-key", NULL, on_done, &end, &e);
    for (size_t i = 0; r == 0 && http.done != NULL && i < STEPS_MAX; i++)
        answer(&rest);
    if (r == 0 && (http.done == NULL) != (end.ends == 1))
        abort();
    vault_client_free(c);
    loop_free(l);
    return 0;
}
