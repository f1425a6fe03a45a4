/* session.c - starts a call, and runs the loop until its call-back stops it. */
#include "kube/session.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/str.h"
#include "net/json.h"

enum { NAME_HASH_BYTES = 8, LINE_BYTES = 1024 };

struct answer {
    struct kube_session *session;
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
    loop_stop(a->session->loop);
}

/* -- what is waited for --------------------------------------------------------------------------
 */

static void
waits_say(struct kube_session *s, const char *why)
{
    uint64_t now = mono_ms(), left_s = s->until_ms > now ? (s->until_ms - now + 999) / 1000 : 0;
    char line[LINE_BYTES], until[RFC3339_BYTES];

    if (s->is_said || s->waits == NULL)
        return;
    s->is_said = true;
    rfc3339_s(unix_s() + (int64_t)left_s, until);
    (void)snprintf(line, sizeof(line),
                   "Waiting for the Kubernetes API at %.200s until %s (%llu s): %.600s",
                   kube_client_server(s->client), until, (unsigned long long)left_s, why);
    s->waits(line, s->arg);
}

static void
on_retry(const struct err *why, uint64_t until_ms, void *arg)
{
    struct kube_session *s = arg;

    s->until_ms = until_ms;
    waits_say(s, why->msg);
}

static void
on_slow(void *arg)
{
    waits_say(arg, "no answer yet");
}

/* After a call was started. */
static int
answer_wait(struct answer *a, json_t **ret)
{
    struct kube_session *s = a->session;

    s->until_ms = mono_ms() + s->ask_ms;
    timer_set(s->slow, KUBE_SESSION_SLOW_MS);
    int done = loop_run(s->loop, a->e);
    timer_stop(s->slow);
    if (done < 0)
        return done;
    s->is_said = s->is_said && a->r != 0;
    if (a->r == 0 && ret != NULL)
        *ret = STEAL(a->body);
    json_decref(a->body);
    return a->r;
}

/* -- life ----------------------------------------------------------------------------------------
 */

static void
on_timer(void *arg)
{
    loop_stop(arg);
}

int
kube_session_open(const struct kube_conf *conf, uint64_t ask_ms, kube_waits_fn *waits, void *arg,
                  struct kube_session *ret, struct err *e)
{
    CLEANUP(kube_session_close)
    struct kube_session s = { .ask_ms = ask_ms == 0 ? KUBE_DEADLINE_MS : ask_ms,
                              .waits = waits,
                              .arg = arg };

    TRY(loop_new(&s.loop, e));
    TRY(timer_new(s.loop, on_timer, s.loop, &s.timer, e));
    TRY(timer_new(s.loop, on_slow, ret, &s.slow, e));
    TRY(kube_client_new(s.loop, conf, NULL, &s.client, e));
    kube_client_on_retry(s.client, on_retry, ret);
    *ret = s;
    s = (struct kube_session){ .loop = NULL };
    return 0;
}

void
kube_session_close(struct kube_session *s)
{
    kube_client_free(STEAL(s->client));
    timer_free(STEAL(s->slow));
    timer_free(STEAL(s->timer));
    loop_free(STEAL(s->loop));
}

void
kube_session_pause(struct kube_session *s, uint64_t ms)
{
    struct err e;

    timer_set(s->timer, ms);
    (void)!loop_run(s->loop, &e);
}

bool
kube_session_may_ask_again(const struct err *e)
{
    return e->code == E_PEER || e->code == E_BUSY || e->code == E_TIMEOUT;
}

/* -- reading -------------------------------------------------------------------------------------
 */

int
kube_session_get(struct kube_session *s, const struct kube_kind *kind, const char *ns,
                 const char *name, json_t **ret, struct err *e)
{
    struct answer a = { .session = s, .e = e };
    CLEANUP(str_freep) char *path = NULL;

    TRY(kube_path(kind, ns, name, NULL, &path, e));
    TRY(kube_get(s->client, path, s->ask_ms, on_answer, &a, NULL, e));
    return answer_wait(&a, ret);
}

struct listing {
    struct answer answer;
    int (*item)(const json_t *object, void *arg, struct err *e);
    void *arg;
};

static void
on_begin(void *arg)
{
    (void)arg;
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
    on_answer(NULL, why, &l->answer);
}

int
kube_session_list(struct kube_session *s, const struct kube_kind *kind, const char *ns,
                  int (*item)(const json_t *object, void *arg, struct err *e), void *arg,
                  struct err *e)
{
    struct listing l = { .answer = { .session = s, .e = e }, .item = item, .arg = arg };
    CLEANUP(str_freep) char *path = NULL;
    struct kube_list *list;

    TRY(kube_path(kind, ns, NULL, NULL, &path, e));
    const struct kube_list_conf conf = {
        .path = path,
        .deadline_ms = s->ask_ms,
        .begin = on_begin,
        .item = on_item,
        .done = on_listed,
        .arg = &l,
    };
    TRY(kube_list_start(s->client, &conf, &list, e));
    return answer_wait(&l.answer, NULL);
}

/* -- writing -------------------------------------------------------------------------------------
 */

int
kube_session_write(struct kube_session *s, kube_verb_fn *verb, const struct kube_write *w,
                   json_t **ret, struct err *e)
{
    struct answer a = { .session = s, .e = e };
    struct kube_write timed = *w;

    timed.deadline_ms = s->ask_ms;
    TRY(verb(s->client, &timed, on_answer, &a, NULL, e));
    return answer_wait(&a, ret);
}

/* Of the same words about the same object, the same name. */
static int
event_name(const json_t *about, bool is_warning, const char *reason, const char *message,
           char ret[KUBE_NAME_MAX_BYTES + 1], struct err *e)
{
    CLEANUP(str_freep) char *all = NULL;
    uint8_t id[DIGEST_BYTES];
    char hex[2 * NAME_HASH_BYTES + 1];

    TRY(str_format(&all, e, "%s\n%s\n%d\n%s\n%s", kube_object_name(about), kube_object_uid(about),
                   is_warning, reason, message));
    digest(span_str(all), id);
    hex_text(span_of(id, NAME_HASH_BYTES), hex);
    (void)snprintf(ret, KUBE_NAME_MAX_BYTES + 1, "%.200s.%s", kube_object_name(about), hex);
    return 0;
}

static int
event_count(struct kube_session *s, const json_t *was, const struct kube_recorder_conf *from,
            struct err *e)
{
    json_int_t n = json_integer_value(json_object_get(was, "count"));
    char at[RFC3339_BYTES];

    rfc3339_s(unix_s(), at);
    CLEANUP(json_decrefp)
    json_t *patch = json_pack("{s:I, s:s}", "count", n < 1 ? 2 : n + 1, "lastTimestamp", at);
    const struct kube_write w = { .kind = &kube_event_kind,
                                  .ns = kube_object_ns(was),
                                  .name = kube_object_name(was),
                                  .object = patch,
                                  .manager = from->component };
    return kube_session_write(s, kube_patch, &w, NULL, e);
}

int
kube_session_event(struct kube_session *s, const struct kube_recorder_conf *from,
                   const json_t *about, bool is_warning, const char *reason, const char *message,
                   struct err *e)
{
    CLEANUP(json_decrefp) json_t *event = NULL, *was = NULL;
    char name[KUBE_NAME_MAX_BYTES + 1];

    TRY(event_name(about, is_warning, reason, message, name, e));
    TRY(kube_recorder_event(from, name, about, is_warning, reason, message, &event, e));
    int r = kube_session_get(s, &kube_event_kind, kube_object_ns(event), name, &was, e);
    if (r == 0)
        r = event_count(s, was, from, e);
    if (r != -(int)E_NOTFOUND)
        return r; /* the server forgets it in this moment: it is made */
    const struct kube_write w = { .kind = &kube_event_kind,
                                  .object = event,
                                  .manager = from->component };
    r = kube_session_write(s, kube_create, &w, NULL, e);
    return r == -(int)E_EXISTS ? 0 : r; /* another process said it in this moment */
}
