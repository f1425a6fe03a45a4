#include "validate/session.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"

enum { LINE_BYTES = 768, EVENT_NOTE_MAX = 1000 /* the server's bound is 1024 */ };

struct answer {
    struct loop *loop;
    json_t *body; /* a reference */
    struct err *e;
    int r;
};

static void
on_answer(const json_t *body, const struct err *why, void *arg)
{
    struct answer *a = arg;

    if (why != NULL) {
        *a->e = *why;
        a->r = err_result(why);
    } else
        a->body = json_incref((json_t *)(uintptr_t)body);
    loop_stop(a->loop);
}

static void
on_timer(void *arg)
{
    loop_stop(arg);
}

int
session_open(const struct validate_conf *conf, struct session *ret, struct err *e)
{
    CLEANUP(session_close) struct session s = { .conf = conf };

    TRY(loop_new(&s.loop, e));
    TRY(timer_new(s.loop, on_timer, s.loop, &s.timer, e));
    TRY(kube_client_new(s.loop, conf->kube, NULL, &s.client, e));
    *ret = s;
    s = (struct session){ .conf = conf };
    return 0;
}

void
session_close(struct session *s)
{
    kube_client_free(STEAL(s->client));
    timer_free(STEAL(s->timer));
    loop_free(STEAL(s->loop));
}

void
session_pause(struct session *s, uint64_t ms)
{
    struct err e;

    timer_set(s->timer, ms);
    (void)!loop_run(s->loop, &e); /* then the pause is shorter */
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

bool
session_may_ask_again(const struct err *e)
{
    return e->code == E_PEER || e->code == E_BUSY || e->code == E_TIMEOUT;
}

/* -- reading -------------------------------------------------------------------------------------
 */

/* For one question. */
static uint64_t
ask_ms(const struct session *s)
{
    return s->conf->timeout_ms < SESSION_ASK_MS ? s->conf->timeout_ms : SESSION_ASK_MS;
}

int
session_get(struct session *s, const struct kube_kind *kind, const char *name, json_t **ret,
            struct err *e)
{
    struct answer a = { .loop = s->loop, .e = e };
    CLEANUP(str_freep) char *path = NULL;

    TRY(kube_path(kind, s->conf->ns, name, NULL, &path, e));
    TRY(kube_get(s->client, path, ask_ms(s), on_answer, &a, NULL, e));
    TRY(loop_run(s->loop, e));
    if (a.r < 0)
        return err_wrap(e, "%s %s in namespace %s", kind->kind, name, s->conf->ns);
    *ret = a.body;
    return 0;
}

struct listing {
    struct answer answer;
    int (*item)(const json_t *object, void *arg, struct err *e);
    void *arg;
};

static void
on_begin(void *arg)
{
    (void)arg; /* what was given stays: who lists here takes the same object twice */
}

static int
on_item(const json_t *object, void *arg, struct err *e)
{
    const struct listing *l = arg;

    return l->item(object, l->arg, e);
}

static void
on_listed(const char *version, const struct err *why, void *arg)
{
    struct listing *l = arg;

    (void)version;
    if (why != NULL) {
        *l->answer.e = *why;
        l->answer.r = err_result(why);
    }
    loop_stop(l->answer.loop);
}

int
session_list(struct session *s, const struct kube_kind *kind, const char *ns,
             int (*item)(const json_t *object, void *arg, struct err *e), void *arg, struct err *e)
{
    struct listing l = { .answer = { .loop = s->loop, .e = e }, .item = item, .arg = arg };
    CLEANUP(str_freep) char *path = NULL;
    struct kube_list *list;

    TRY(kube_path(kind, ns, NULL, NULL, &path, e));
    const struct kube_list_conf conf = {
        .path = path,
        .deadline_ms = ask_ms(s),
        .begin = on_begin,
        .item = on_item,
        .done = on_listed,
        .arg = &l,
    };
    TRY(kube_list_start(s->client, &conf, &list, e));
    TRY(loop_run(s->loop, e));
    if (l.answer.r < 0)
        return err_wrap(e, "%s in %s%s", kind->plural, ns == NULL ? "all namespaces" : "namespace ",
                        ns == NULL ? "" : ns);
    return 0;
}

/* -- writing -------------------------------------------------------------------------------------
 */

int
session_patch(struct session *s, const json_t *patch, struct err *e)
{
    struct answer a = { .loop = s->loop, .e = e };
    const struct kube_write w = { .kind = &kube_deployment,
                                  .ns = s->conf->ns,
                                  .name = s->conf->deployment,
                                  .object = patch,
                                  .manager = "meshroot-validate",
                                  .is_dry_run = s->conf->is_dry_run,
                                  .deadline_ms = ask_ms(s) };

    TRY(kube_patch(s->client, &w, on_answer, &a, NULL, e));
    TRY(loop_run(s->loop, e));
    json_decref(a.body);
    return a.r < 0 ? err_wrap(e, "Deployment %s in namespace %s", s->conf->deployment, s->conf->ns)
                   : 0;
}

/* As kube/recorder.h writes them; a command has to see it written before it ends. */
static int
event_make(const struct session *s, const json_t *object, const char *type, const char *reason,
           const char *note, json_t **ret, struct err *e)
{
    static const char component[] = "meshroot-validate";
    char at[RFC3339_BYTES], host[256] = "", name[KUBE_NAME_MAX_BYTES + 1], run[9];
    uint8_t raw[4];

    TRY(random_bytes(raw, sizeof(raw), e));
    hex_text(span_of(raw, sizeof(raw)), run);
    rfc3339_s(unix_s(), at);
    (void)gethostname(host, sizeof(host) - 1);
    (void)snprintf(name, sizeof(name), "%.200s.%s", s->conf->deployment, run);
    json_t *of = json_pack("{s:s, s:s, s:s, s:s, s:s}", "apiVersion", kube_deployment.api, "kind",
                           kube_deployment.kind, "name", s->conf->deployment, "namespace",
                           s->conf->ns, "uid", kube_object_uid(object));
    *ret = json_pack(
        "{s:s, s:s, s:{s:s, s:s}, s:o, s:s, s:s, s:s, s:i, s:{s:s}, s:s, s:s, s:s, s:s}",
        "apiVersion", kube_event_kind.api, "kind", kube_event_kind.kind, "metadata", "name", name,
        "namespace", s->conf->ns, "involvedObject", of, "type", type, "reason", reason, "message",
        note, "count", 1, "source", "component", component, "firstTimestamp", at, "lastTimestamp",
        at, "reportingComponent", component, "reportingInstance", host);
    return *ret == NULL ? err_nomem(e) : 0;
}

void
session_event(struct session *s, const json_t *object, const char *type, const char *reason,
              const char *note)
{
    CLEANUP(json_decrefp) json_t *o = NULL;
    char shown[EVENT_NOTE_MAX];
    struct err e;
    struct answer a = { .loop = s->loop, .e = &e };

    if (s->conf->is_dry_run)
        return;
    (void)snprintf(shown, sizeof(shown), "%s", note);
    int r = event_make(s, object, type, reason, shown, &o, &e);
    const struct kube_write w = { .kind = &kube_event_kind, .object = o, .deadline_ms = ask_ms(s) };
    if (r == 0)
        r = kube_create(s->client, &w, on_answer, &a, NULL, &e);
    if (r == 0)
        r = loop_run(s->loop, &e);
    json_decref(a.body);
    if (r < 0 || a.r < 0)
        session_say(s, "No Event was written: %s", e.msg);
}
