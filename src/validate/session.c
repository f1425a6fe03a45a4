#include "validate/session.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

enum { LINE_BYTES = 768 };

static void
on_waits(const char *line, void *arg)
{
    const struct validate_conf *conf = arg;

    conf->line(line, conf->arg);
}

int
session_open(const struct validate_conf *conf, struct session *ret, struct err *e)
{
    uint64_t ask_ms = conf->timeout_ms < SESSION_ASK_MS ? conf->timeout_ms : SESSION_ASK_MS;

    TRY(kube_session_open(conf->kube, ask_ms, on_waits, (void *)(uintptr_t)conf, &ret->kube, e));
    ret->conf = conf;
    return 0;
}

void
session_close(struct session *s)
{
    kube_session_close(&s->kube);
}

void
session_say(struct session *s, const char *fmt, ...)
{
    char line[LINE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    s->conf->line(line, s->conf->arg);
}

int
session_get(struct session *s, const struct kube_kind *kind, const char *name, json_t **ret,
            struct err *e)
{
    if (kube_session_get(&s->kube, kind, s->conf->ns, name, ret, e) < 0)
        return err_wrap(e, "%s %s in namespace %s", kind->kind, name, s->conf->ns);
    return 0;
}

int
session_list(struct session *s, const struct kube_kind *kind, const char *ns,
             int (*item)(const json_t *object, void *arg, struct err *e), void *arg, struct err *e)
{
    if (kube_session_list(&s->kube, kind, ns, item, arg, e) < 0)
        return err_wrap(e, "%s in %s%s", kind->plural, ns == NULL ? "all namespaces" : "namespace ",
                        ns == NULL ? "" : ns);
    return 0;
}

int
session_patch(struct session *s, const json_t *patch, struct err *e)
{
    const struct kube_write w = { .kind = &kube_deployment,
                                  .ns = s->conf->ns,
                                  .name = s->conf->deployment,
                                  .object = patch,
                                  .manager = "meshroot-validate",
                                  .is_dry_run = s->conf->is_dry_run };

    if (kube_session_write(&s->kube, kube_patch, &w, NULL, e) < 0)
        return err_wrap(e, "Deployment %s in namespace %s", s->conf->deployment, s->conf->ns);
    return 0;
}

void
session_event(struct session *s, const json_t *object, bool is_warning, const char *reason,
              const char *note)
{
    char host[256] = "";
    const struct kube_recorder_conf from = { .component = "meshroot-validate", .instance = host };
    struct err e;

    if (s->conf->is_dry_run)
        return;
    (void)gethostname(host, sizeof(host) - 1);
    if (kube_session_event(&s->kube, &from, object, is_warning, reason, note, &e) < 0)
        session_say(s, "No Event was written: %s", e.msg);
}
