/* rig.c - see rig.h. */
#include "rig.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/str.h"
#include "floor.h"
#include "identity/identity.h"
#include "net/addr.h"
#include "pki/issue.h"
#include "proc.h"

enum {
    PORT_FIRST = 20000, /* below the ports that the system gives to those who connect */
    PORTS_N = 12000,
    PORT_TRIES = 64,
    FILE_BYTES = 128,
};

static int
pki_make(enum key_kind kind, size_t i, struct rig_pki *p, struct err *e)
{
    static const char *const roots[] = { "O=bench,CN=Root A", "O=bench,CN=Root B" };
    static const char *const signers[] = { "O=bench,CN=Intermediate A1",
                                           "O=bench,CN=Intermediate B1" };
    struct ca_request rq = { .subject = roots[i], .days = 3650, .path_len = -1 };
    struct ca_request iq = { .subject = signers[i], .days = 365, .path_len = 0 };

    TRY(key_make(kind, &p->root_key, e));
    TRY(key_make(kind, &p->ca_key, e));
    TRY(root_make(&rq, p->root_key, &p->root, e));
    return intermediate_make(&iq, p->ca_key, p->root, p->root_key, &p->ca, e);
}

/* A port that stays ours over a restart, while thousands of connections come and go. */
static int
port_find(uint16_t *ret, struct err *e)
{
    for (int i = 0; i < PORT_TRIES; i++) {
        struct addr a = { .port = (uint16_t)(PORT_FIRST + random_below(PORTS_N)) };
        int fd;

        (void)snprintf(a.host, sizeof(a.host), "127.0.0.1");
        if (addr_listen(&a, false, &fd, ret, e) == 0) {
            (void)close(fd);
            return 0;
        }
    }
    return err_result(e);
}

static int
issuer_make(struct rig *r, struct err *e)
{
    CLEANUP(buf_done) struct buf jwks = BUF_INIT(8192);
    char path[FILE_BYTES];

    TRY(key_make(KEY_RSA2048, &r->token_key, e)); /* as a cluster signs its tokens */
    TRY(jwks_of_key(r->token_key, "k1", &jwks, e));
    (void)snprintf(path, sizeof(path), "%s/jwks.json", r->dir);
    (void)snprintf(r->issuer_flag, sizeof(r->issuer_flag), "%s=%s", r->issuer, path);
    return file_write(path, buf_span(&jwks), 0600, e);
}

int
rig_make(const char *meshroot, enum key_kind ca_kind, uint64_t renew_window_ms, struct rig *r,
         struct err *e)
{
    struct cert *roots[2];

    *r = (struct rig){ .meshroot = meshroot,
                       .issuer = "https://bench.example",
                       .dir = "/tmp/meshroot-bench-XXXXXX" };
    if (mkdtemp(r->dir) == NULL) {
        r->dir[0] = '\0';
        return err_sys(e, errno, "cannot make a folder in /tmp");
    }
    (void)snprintf(r->state, sizeof(r->state), "%s/state", r->dir);
    (void)snprintf(r->log, sizeof(r->log), "%s/up.log", r->dir);
    (void)snprintf(r->ports, sizeof(r->ports), "%s/ports", r->dir);
    duration_ms_text(renew_window_ms, r->window);
    for (size_t i = 0; i < ARRAY_LEN(r->pki); i++) {
        TRY(pki_make(ca_kind, i, &r->pki[i], e));
        roots[i] = r->pki[i].root;
    }
    TRY(roots_from_certs(roots, ARRAY_LEN(roots), &r->roots, e));
    TRY(issuer_make(r, e));
    TRY(port_find(&r->port, e));
    (void)snprintf(r->listen, sizeof(r->listen), "127.0.0.1:%u", r->port);
    return 0;
}

void
rig_done(struct rig *r)
{
    char command[128];

    proc_end(&r->pid, SIGTERM);
    for (size_t i = 0; i < ARRAY_LEN(r->pki); i++) {
        key_unref(r->pki[i].root_key);
        key_unref(r->pki[i].ca_key);
        cert_unref(r->pki[i].root);
        cert_unref(r->pki[i].ca);
    }
    key_unref(r->token_key);
    roots_unref(r->roots);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", r->dir);
    if (r->dir[0] == '/' && system(command) != 0)
        fprintf(stderr, "cannot remove %s\n", r->dir);
    *r = (struct rig){ .dir = "" };
}

int
rig_start(struct rig *r, struct err *e)
{
    const char *const args[] = { r->meshroot,      "up",          "--state-dir",
                                 r->state,         "--ca-listen", r->listen,
                                 "--vault-listen", "127.0.0.1:0", "--monitoring",
                                 "127.0.0.1:0",    "--issuer",    r->issuer_flag,
                                 "--renew-window", r->window,     "--port-file",
                                 r->ports,         NULL };

    (void)unlink(r->ports);
    TRY(proc_start(args, r->log, &r->pid, e));
    return proc_wait_file(r->ports, e);
}

void
rig_kill(struct rig *r)
{
    proc_end(&r->pid, SIGKILL);
}

int
rig_enable(struct rig *r, struct err *e)
{
    const char *const args[] = {
        r->meshroot,
        "mesh",
        "enable",
        "--state-dir",
        r->state,
        "--key-vault-id",
        "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/meshroot",
        "--rotation-poll-interval",
        "1s",
        NULL
    };

    return proc_run(args, r->log, e);
}

static int
secret_set(struct rig *r, const char *name, struct span value, struct err *e)
{
    char path[FILE_BYTES];
    const char *const args[] = { r->meshroot, "vault",        "secret",   "set",    "--state-dir",
                                 r->state,    "--vault-name", "meshroot", "--name", name,
                                 "--file",    path,           NULL };

    (void)snprintf(path, sizeof(path), "%s/%s.pem", r->dir, name);
    TRY(file_write(path, value, 0600, e));
    return proc_run(args, r->log, e);
}

int
rig_set_roots(struct rig *r, enum rig_trust which, struct err *e)
{
    CLEANUP(buf_done) struct buf pem = BUF_INIT(PEM_MAX_BYTES);

    if (which != RIG_SECOND)
        TRY(cert_to_pem(r->pki[0].root, &pem, e));
    if (which != RIG_FIRST)
        TRY(cert_to_pem(r->pki[1].root, &pem, e));
    return secret_set(r, "root-cert", buf_span(&pem), e);
}

int
rig_set_signer(struct rig *r, size_t which, struct err *e)
{
    CLEANUP(buf_done) struct buf cert = BUF_INIT(PEM_MAX_BYTES);
    CLEANUP(buf_wipe) struct buf key = BUF_INIT(PEM_MAX_BYTES);

    TRY(cert_to_pem(r->pki[which].ca, &cert, e));
    TRY(key_to_pem(r->pki[which].ca_key, &key, e));
    TRY(secret_set(r, "cert-chain", buf_span(&cert), e));
    TRY(secret_set(r, "ca-cert", buf_span(&cert), e));
    return secret_set(r, "ca-key", buf_span(&key), e);
}

int
rig_status(struct rig *r, double *ret_kib, double *ret_ms, struct err *e)
{
    char path[FILE_BYTES];
    const char *const args[] = { r->meshroot, "mesh",     "status", "--state-dir",
                                 r->state,    "--output", "json",   NULL };
    double from = clock_us(CLOCK_MONOTONIC);
    struct stat st;

    (void)snprintf(path, sizeof(path), "%s/status.json", r->dir);
    (void)unlink(path);
    TRY(proc_run(args, path, e));
    *ret_ms = (clock_us(CLOCK_MONOTONIC) - from) / 1e3;
    if (stat(path, &st) < 0)
        return err_sys(e, errno, "%s", path);
    *ret_kib = (double)st.st_size / 1024;
    return 0;
}

double
rig_cpu_us(const struct rig *r)
{
    return proc_cpu_us(r->pid) + proc_cpu_us(proc_child(r->pid));
}
