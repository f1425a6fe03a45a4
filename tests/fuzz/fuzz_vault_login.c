/* fuzz_vault_login.c - the Secret with the operator's credentials of the vault: they go to the
 * vault's client only when all are there, as they were written, with roots beside them that can be
 * read or none; every other Secret is a problem with a word. And versions that a set remembers.
 *
 * The input is the Secret, JSON. The API server and the vault's client are the target's own, by
 * --wrap. */
#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "operator/room.h"
#include "operator/versions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int __wrap_kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms,
                    kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e);
void __wrap_kube_cancel(struct kube_call *q);
int __wrap_vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                            struct vault_client **ret, struct err *e);
void __wrap_vault_client_free(struct vault_client *c);
void __wrap_plugin_problem(struct plugin *p, const char *reason, const struct err *why);
void __wrap_plugin_look_soon(struct plugin *p, uint64_t ms);

static struct {
    kube_done_fn *done;
    void *arg;
    const json_t *secret;
    unsigned opened, problems, looks;
} now;

int
__wrap_kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms, kube_done_fn *done,
                void *arg, struct kube_call **ret, struct err *e)
{
    (void)c;
    (void)deadline_ms;
    (void)e;
    if (strstr(path, "/namespaces/mesh/secrets/vault-login") == NULL)
        abort();
    now.done = done;
    now.arg = arg;
    *ret = NULL;
    return 0;
}

void
__wrap_kube_cancel(struct kube_call *q)
{
    (void)q;
}

/* `text` is the whole of what the Secret has under `key`. */
static void
is_whole(const char *key, const char *text)
{
    struct buf b = BUF_INIT(1 << 20);
    struct err e;

    if (text == NULL || kube_secret_get(now.secret, key, &b, &e) != 0 ||
        !span_eq_str(buf_span(&b), text))
        abort();
    buf_done(&b);
}

int
__wrap_vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                        struct vault_client **ret, struct err *e)
{
    (void)l;
    (void)ret;
    (void)e;
    now.opened++;
    is_whole("tenant", conf->tenant);
    is_whole("client_id", conf->client_id);
    is_whole("client_secret", conf->client_secret);
    if (conf->tenant[0] == '\0' || conf->client_id[0] == '\0' || conf->client_secret[0] == '\0')
        abort(); /* an empty one would be looked up in the environment, or sent */
    return 0;
}

void
__wrap_vault_client_free(struct vault_client *c)
{
    (void)c;
}

void
__wrap_plugin_problem(struct plugin *p, const char *reason, const struct err *why)
{
    (void)p;
    now.problems++;
    if (reason[0] == '\0' || why->msg[0] == '\0')
        abort();
}

void
__wrap_plugin_look_soon(struct plugin *p, uint64_t ms)
{
    (void)p;
    (void)ms;
    now.looks++;
}

/* What is read is written and read the same. */
static void
versions_check(const char *text)
{
    struct sync_versions v, w;
    CLEANUP(str_freep) char *again = NULL;
    struct err e;

    if (versions_read(text, &v) < 0)
        return;
    for (size_t i = 0; i < PART__ALL; i++)
        if (memchr(v.v[i], '\0', VERSION_TEXT_BYTES) == NULL)
            abort();
    if (versions_text(&v, &again, &e) < 0 || versions_read(again, &w) < 0 ||
        memcmp(&v, &w, sizeof(v)) != 0)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mesh_operator op = { .conf = { .vault_hosts = { "v.vault.azure.net" },
                                          .vault_hosts_n = 1 } };
    struct plugin p = { .op = &op, .ca_fd = -1 };
    CLEANUP(str_freep) char *text = NULL;
    char vault[] = "https://v.vault.azure.net", secret[] = "vault-login", ns[] = "mesh";
    struct err e;

    if (str_dup(span_of(data, size), &text, &e) == 0)
        versions_check(text);
    json_t *o =
        size == 0 ? NULL : json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    memset(&now, 0, sizeof(now));
    now.secret = o;
    (void)snprintf(p.spec.ns, sizeof(p.spec.ns), "%s", ns);
    (void)snprintf(p.spec.secret, sizeof(p.spec.secret), "%s", secret);
    (void)snprintf(p.spec.vault_url, sizeof(p.spec.vault_url), "%s", vault);
    p.spec.login = LOGIN_SECRET;
    login_start(&p);
    if (now.done == NULL)
        abort();
    now.done(o, NULL, now.arg);
    if (now.opened + now.problems != 1 || now.looks != now.opened)
        abort();
    login_end(&p);
    json_decref(o);
    return 0;
}
