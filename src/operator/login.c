/* login.c - who asks the vault: a client secret from a Secret, or an identity of the platform. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/str.h"
#include "operator/room.h"

#define KEY_ROOTS "vault-ca.pem"

enum { CREDENTIAL_MAX_BYTES = 4096 };

/* The TLS library wants a file, and ours may be read-only. */
static int
ca_file_make(struct plugin *p, const char *at, char ret[64], struct err *e)
{
    size_t left = strlen(at);

    if (p->ca_fd < 0)
        p->ca_fd = memfd_create("vault-ca", MFD_CLOEXEC);
    if (p->ca_fd < 0 || ftruncate(p->ca_fd, 0) < 0 || lseek(p->ca_fd, 0, SEEK_SET) < 0)
        return err_sys(e, errno, "spec.vault.caBundle: no memory file");
    while (left > 0) {
        ssize_t n = write(p->ca_fd, at, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "spec.vault.caBundle: no memory file");
        at += n;
        left -= (size_t)n;
    }
    (void)snprintf(ret, 64, "/proc/self/fd/%d", p->ca_fd);
    return 0;
}

/* `roots` NULL: the spec's, or the system's. */
static int
client_open(struct plugin *p, const struct vault_client_conf *who, const char *roots, struct err *e)
{
    struct vault_client_conf c = *who;
    char ca_file[64];

    c.url = p->spec.vault_url;
    roots = roots == NULL ? p->spec.ca_bundle : roots;
    if (roots != NULL) {
        TRY(ca_file_make(p, roots, ca_file, e));
        c.ca_file = ca_file;
    }
    return vault_client_new(p->op->loop, &c, &p->vault, e);
}

/* Credentials go to whom the roots beside them vouch for (`meshroot vault credentials` puts them
 * there): a spec that names another vault, and roots for that, may be of somebody who may not read
 * the Secret. r: 0; KUBE_DATA_ABSENT. */
static int
roots_of_secret(struct plugin *p, const json_t *secret, struct buf *ret, struct err *e)
{
    CLEANUP(roots_unrefp) struct roots *roots = NULL;
    int done = TRY(kube_secret_get(secret, KEY_ROOTS, ret, e));

    if (done == 0 && roots_from_pem(buf_span(ret), &roots, e) < 0)
        return err_wrap(e, "Secret %s/%s: " KEY_ROOTS, p->spec.ns, p->spec.secret);
    return done;
}

static int
from_secret(struct plugin *p, const json_t *secret, struct err *e)
{
    CLEANUP(buf_done) struct buf roots = BUF_INIT(PLUGIN_CA_BUNDLE_BYTES);
    static const char *const keys[] = { "tenant", "client_id", "client_secret" };
    struct buf v[ARRAY_LEN(keys)];
    int done = 0;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        v[i] = BUF_INIT(CREDENTIAL_MAX_BYTES);
    for (size_t i = 0; i < ARRAY_LEN(keys) && done == 0; i++) {
        done = kube_secret_get(secret, keys[i], &v[i], e);
        if (done == KUBE_DATA_ABSENT || (done == 0 && v[i].n == 0))
            done = err_set(e, E_INVAL,
                           "Secret %s/%s: has no key %s; it needs tenant, client_id and "
                           "client_secret",
                           p->spec.ns, p->spec.secret, keys[i]);
        else if (done == 0 && memchr(v[i].p, '\0', v[i].n) != NULL)
            done = err_set(e, E_PARSE, "Secret %s/%s: %s has a NUL in it: it is not a text",
                           p->spec.ns, p->spec.secret, keys[i]);
    }
    struct vault_client_conf c = { .tenant = buf_text(&v[0]),
                                   .client_id = buf_text(&v[1]),
                                   .client_secret = buf_text(&v[2]) };
    if (done == 0)
        done = roots_of_secret(p, secret, &roots, e);
    if (done >= 0)
        done = client_open(p, &c, done == 0 ? buf_text(&roots) : NULL, e);
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        buf_wipe(&v[i]);
    return done;
}

static void
on_secret(const json_t *body, const struct err *why, void *arg)
{
    struct plugin *p = arg;
    struct err e;

    p->login_call = NULL;
    if (why != NULL) {
        e = *why;
        if (why->code == E_NOTFOUND)
            (void)err_set(&e, E_NOTFOUND,
                          "Secret %s/%s, which spec.vault.auth.clientSecret names, is not there",
                          p->spec.ns, p->spec.secret);
        plugin_problem(p, why->code == E_DENIED ? "Forbidden" : "VaultLogin", &e);
        return;
    }
    if (from_secret(p, body, &e) < 0)
        plugin_problem(p, "VaultLogin", &e);
    else
        plugin_look_soon(p, 0);
}

/* Before anything is asked for, and whatever the Secret has beside its keys. */
static bool
host_passed(struct plugin *p)
{
    const struct operator_conf *c = &p->op->conf;
    struct err e;

    if (vault_host_check(p->spec.vault_url, c->vault_hosts, c->vault_hosts_n, &e) == 0)
        return true;
    struct err why = e;
    (void)err_set(&e, why.code,
                  "spec.vault: %.200s: set another vault, or let this host be one by operator run "
                  "--vault-host (the chart's operator.vaultHosts)",
                  why.msg);
    plugin_problem(p, "VaultHost", &e);
    return false;
}

void
login_start(struct plugin *p)
{
    CLEANUP(str_freep) char *path = NULL;
    struct err e;
    int done = 0;

    if (p->login_call != NULL || !host_passed(p))
        return;
    if (p->spec.login == LOGIN_SECRET) {
        done = kube_path(&kube_secret, p->spec.ns, p->spec.secret, NULL, &path, &e);
        if (done == 0)
            done = kube_get(p->op->conf.kube, path, 0, on_secret, p, &p->login_call, &e);
    } else {
        struct vault_client_conf c = { .tenant = p->spec.tenant[0] == '\0' ? NULL : p->spec.tenant,
                                       .client_id = p->spec.client_id };
        if (p->spec.login == LOGIN_WORKLOAD)
            c.assertion_file = vault_assertion_file();
        else
            c.managed_identity = true;
        done = client_open(p, &c, NULL, &e);
        if (done == 0)
            plugin_look_soon(p, 0);
    }
    if (done < 0)
        plugin_problem(p, "VaultLogin", &e);
}

void
login_end(struct plugin *p)
{
    kube_cancel(STEAL(p->login_call));
    vault_client_free(STEAL(p->vault));
    if (p->ca_fd >= 0)
        (void)close(p->ca_fd);
    p->ca_fd = -1;
}
