/* login_kit.h - the Secret with the credentials of the vault, for login.c alone: the API server,
 * the vault's client and the plug-in are played, by --wrap (meson.build of who includes it). */
#ifndef TESTS_UNIT_OPERATOR_LOGIN_KIT_H
#define TESTS_UNIT_OPERATOR_LOGIN_KIT_H

#include <stdio.h>
#include <string.h>

#include "operator/room.h"

struct login_play {
    kube_done_fn *done; /* of the one GET */
    void *arg;
    char path[128];                                        /* that it asked for */
    void (*on_open)(const struct vault_client_conf *conf); /* before opened_n; NULL: nothing */
    unsigned opened_n, problems_n, looks_n;
    char problem[2 * ERR_MSG_BYTES]; /* the last one, "reason: words" */
};
static struct login_play play;

int __wrap_kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms,
                    kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e);
void __wrap_kube_cancel(struct kube_call *q);
int __wrap_vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                            struct vault_client **ret, struct err *e);
void __wrap_vault_client_free(struct vault_client *c);
void __wrap_plugin_problem(struct plugin *p, const char *reason, const struct err *why);
void __wrap_plugin_look_soon(struct plugin *p, uint64_t ms);

int
__wrap_kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms, kube_done_fn *done,
                void *arg, struct kube_call **ret, struct err *e)
{
    (void)c;
    (void)deadline_ms;
    (void)e;
    (void)snprintf(play.path, sizeof(play.path), "%s", path);
    play.done = done;
    play.arg = arg;
    *ret = NULL;
    return 0;
}

void
__wrap_kube_cancel(struct kube_call *q)
{
    (void)q;
}

int
__wrap_vault_client_new(struct loop *l, const struct vault_client_conf *conf,
                        struct vault_client **ret, struct err *e)
{
    (void)l;
    (void)ret;
    (void)e;
    if (play.on_open != NULL)
        play.on_open(conf);
    play.opened_n++;
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
    (void)snprintf(play.problem, sizeof(play.problem), "%s: %s", reason, why->msg);
    play.problems_n++;
}

void
__wrap_plugin_look_soon(struct plugin *p, uint64_t ms)
{
    (void)p;
    (void)ms;
    play.looks_n++;
}

/* The operator asks for mesh/login and gets `secret` (borrowed; NULL: no JSON). What came of it is
 * in `play`. */
static void
login_play(const json_t *secret, void (*on_open)(const struct vault_client_conf *conf))
{
    struct mesh_operator op = { .conf = { .vault_hosts = { "v.vault.azure.net" },
                                          .vault_hosts_n = 1 } };
    struct plugin p = { .op = &op,
                        .ca_fd = -1,
                        .spec = { .ns = "mesh",
                                  .secret = "login",
                                  .vault_url = "https://v.vault.azure.net",
                                  .login = LOGIN_SECRET } };

    play = (struct login_play){ .on_open = on_open };
    login_start(&p);
    play.done(secret, NULL, play.arg);
    login_end(&p);
}

#endif
