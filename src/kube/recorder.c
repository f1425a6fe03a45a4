/* recorder.c - a table of series; each is made once, then its count is patched. */
#include "kube/recorder.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bucket.h"
#include "base/clock.h"
#include "base/str.h"
#include "obs/log.h"

enum { NAME_PREFIX_BYTES = 220, STAMP_BYTES = RFC3339_BYTES };

static const struct metric_desc events_total = {
    "meshroot_kube_events_total",
    "Kubernetes Events by what came of them: created, counted (a repetition), left_out (too many "
    "series, or no memory), failed.",
    METRIC_COUNTER,
};

struct series {
    struct kube_recorder *recorder;
    json_t *event; /* as it is made; owned; NULL: the place is free */
    uint64_t began_ms, last_ms;
    int64_t count, told; /* what happened, what is written */
    char last[STAMP_BYTES];
    bool is_made;           /* the server has it */
    struct kube_call *call; /* under way */
    int64_t telling;        /* count in it */
};

struct kube_recorder {
    struct kube_client *client;
    struct kube_recorder_conf conf;
    char *instance; /* owned */
    struct timer *next;
    bool is_set; /* next */
    struct bucket bucket;
    uint64_t made_n;
    struct series series[KUBE_SERIES_MAX];
};

static void
count(const struct kube_recorder *r, const char *what)
{
    char labels[64];

    (void)snprintf(labels, sizeof(labels), "result=\"%s\"", what);
    metric_add(r->conf.metrics, &events_total, labels, 1);
}

static void
series_end(struct series *s)
{
    kube_cancel(STEAL(s->call));
    json_decref(STEAL(s->event));
    *s = (struct series){ .recorder = s->recorder };
}

/* -- writing ------------------------------------------------------------------------------------
 */

static void
set_next(struct kube_recorder *r)
{
    if (!r->is_set)
        timer_set(r->next, KUBE_SERIES_EVERY_MS);
    r->is_set = true;
}

static void
on_written(const json_t *body, const struct err *why, void *arg)
{
    struct series *s = arg;
    struct kube_recorder *r = s->recorder;

    s->call = NULL;
    if (body != NULL) {
        count(r, s->is_made ? "counted" : "created");
        s->is_made = true;
        s->told = s->telling;
    } else if (s->is_made && why->code == E_NOTFOUND) {
        series_end(s); /* events end after an hour or so: the next one is a new one */
        return;
    } else {
        count(r, "failed");
        log_debug("kube", "event %s: %s", kube_object_text(s->event, "reason"), why->msg);
        if (!s->is_made)
            series_end(s);
        else
            s->told = s->telling;
        return;
    }
    if (s->told != s->count)
        set_next(r);
}

static int
series_write(struct series *s, struct err *e)
{
    struct kube_recorder *r = s->recorder;
    struct kube_write w = { .kind = &kube_event_kind,
                            .ns = kube_object_ns(s->event),
                            .name = kube_object_name(s->event),
                            .manager = r->conf.component };

    s->telling = s->count;
    if (!s->is_made) {
        json_int_t n = s->count;

        if (json_object_set_new(s->event, "count", json_integer(n)) != 0 ||
            json_object_set_new(s->event, "lastTimestamp", json_string(s->last)) != 0)
            return err_nomem(e);
        w.object = s->event;
        return kube_create(r->client, &w, on_written, s, &s->call, e);
    }
    CLEANUP(json_decrefp)
    json_t *patch =
        json_pack("{s:I, s:s}", "count", (json_int_t)s->count, "lastTimestamp", s->last);
    if (patch == NULL)
        return err_nomem(e);
    w.object = patch;
    return kube_patch(r->client, &w, on_written, s, &s->call, e);
}

/* Now, when it may be; otherwise at the next turn. */
static void
series_push(struct series *s)
{
    struct err e;

    if (s->call != NULL)
        return; /* its end looks again */
    if (!bucket_take(&s->recorder->bucket)) {
        set_next(s->recorder);
        return;
    }
    if (series_write(s, &e) < 0) {
        count(s->recorder, "failed");
        s->told = s->count;
    }
}

static void
on_next(void *arg)
{
    struct kube_recorder *r = arg;

    r->is_set = false;
    for (size_t i = 0; i < KUBE_SERIES_MAX; i++)
        if (r->series[i].event != NULL && r->series[i].told != r->series[i].count)
            series_push(&r->series[i]);
}

/* -- saying -------------------------------------------------------------------------------------
 */

/* What people read: no control bytes. */
static json_t *
text_new(const char *from)
{
    char text[KUBE_EVENT_MESSAGE_BYTES];

    (void)snprintf(text, sizeof(text), "%s", from);
    for (char *p = text; *p != '\0'; p++)
        *p = (unsigned char)*p < ' ' || *p == 0x7f ? ' ' : *p;
    utf8_repair(text);
    return json_string(text);
}

static bool
is_same(const struct series *s, const json_t *event)
{
    static const char *const members[] = { "type", "reason", "message" };
    static const char *const about[] = { "uid", "name", "namespace", "kind" };
    bool is_it = s->event != NULL;

    for (size_t i = 0; is_it && i < ARRAY_LEN(members); i++)
        is_it = json_equal(json_object_get(s->event, members[i]),
                           json_object_get(event, members[i])) != 0;
    for (size_t i = 0; is_it && i < ARRAY_LEN(about); i++) {
        const json_t *a = json_object_get(json_object_get(s->event, "involvedObject"), about[i]);
        const json_t *b = json_object_get(json_object_get(event, "involvedObject"), about[i]);

        is_it = (a == NULL && b == NULL) || json_equal(a, b) != 0;
    }
    return is_it;
}

/* The series of that event, or the place for it: a free one, or the one unused longest of those
 * that are written. NULL: every one has something to write still. */
static struct series *
place_of(struct kube_recorder *r, const json_t *event)
{
    struct series *best = NULL;

    for (size_t i = 0; i < KUBE_SERIES_MAX; i++) {
        struct series *s = &r->series[i];

        if (is_same(s, event) && mono_ms() - s->began_ms < KUBE_SERIES_MS)
            return s;
        if (s->event != NULL && (s->call != NULL || s->told != s->count))
            continue;
        if (best == NULL || s->event == NULL || (best->event != NULL && s->last_ms < best->last_ms))
            best = s;
    }
    return best;
}

int
kube_recorder_event(const struct kube_recorder_conf *from, const char *name, const json_t *about,
                    bool is_warning, const char *reason, const char *message, json_t **ret,
                    struct err *e)
{
    static const char *const tops[] = { "apiVersion", "kind" };
    static const char *const meta[] = { "name", "namespace", "uid", "resourceVersion" };
    json_t *of = json_object(), *o = NULL;
    const char *ns = kube_object_ns(about);
    char stamp[STAMP_BYTES];
    bool is_fine = true;

    for (size_t i = 0; i < ARRAY_LEN(tops); i++)
        if (json_object_get(about, tops[i]) != NULL)
            is_fine &= json_object_set(of, tops[i], json_object_get(about, tops[i])) == 0;
    for (size_t i = 0; i < ARRAY_LEN(meta); i++) {
        json_t *v = json_object_get(json_object_get(about, "metadata"), meta[i]);

        is_fine = is_fine && (v == NULL || json_object_set(of, meta[i], v) == 0);
    }
    rfc3339_s(unix_s(), stamp);
    if (is_fine)
        o = json_pack("{s:s, s:s, s:{s:s, s:s}, s:O, s:s, s:s, s:o, s:{s:s}, s:s, s:s, s:s, s:s, "
                      "s:i}",
                      "apiVersion", "v1", "kind", "Event", "metadata", "name", name, "namespace",
                      ns[0] == '\0' ? "default" : ns, "involvedObject", of, "type",
                      is_warning ? "Warning" : "Normal", "reason", reason, "message",
                      text_new(message), "source", "component", from->component, "firstTimestamp",
                      stamp, "lastTimestamp", stamp, "reportingComponent", from->component,
                      "reportingInstance", from->instance == NULL ? "" : from->instance, "count",
                      1);
    json_decref(of);
    if (o == NULL)
        return err_nomem(e);
    *ret = o;
    return 0;
}

/* No two of them alike. */
static void
name_make(struct kube_recorder *r, const json_t *about, char ret[KUBE_NAME_MAX_BYTES + 1])
{
    (void)snprintf(ret, KUBE_NAME_MAX_BYTES + 1, "%.*s.%llx", NAME_PREFIX_BYTES,
                   kube_object_name(about), (unsigned long long)unix_us() + r->made_n++);
}

void
kube_recorder_say(struct kube_recorder *r, const json_t *about, bool is_warning, const char *reason,
                  const char *fmt, ...)
{
    CLEANUP(json_decrefp) json_t *event = NULL;
    char message[KUBE_EVENT_MESSAGE_BYTES], name[KUBE_NAME_MAX_BYTES + 1];
    struct series *s = NULL;
    va_list args;
    struct err e;

    va_start(args, fmt);
    (void)vsnprintf(message, sizeof(message), fmt, args);
    va_end(args);
    name_make(r, about, name);
    if (kube_recorder_event(&r->conf, name, about, is_warning, reason, message, &event, &e) == 0)
        s = place_of(r, event);
    if (s == NULL) {
        count(r, "left_out");
        return;
    }
    bool is_first = !is_same(s, event) || mono_ms() - s->began_ms >= KUBE_SERIES_MS;
    if (is_first) {
        series_end(s);
        s->event = STEAL(event);
        s->began_ms = mono_ms();
    }
    s->count++;
    s->last_ms = mono_ms();
    rfc3339_s(unix_s(), s->last);
    if (is_first)
        series_push(s);
    else
        set_next(r);
}

/* -- life ---------------------------------------------------------------------------------------
 */

int
kube_recorder_new(struct loop *l, struct kube_client *c, const struct kube_recorder_conf *conf,
                  struct kube_recorder **ret, struct err *e)
{
    CLEANUP(kube_recorder_freep) struct kube_recorder *r = calloc(1, sizeof(*r));

    if (r == NULL)
        return err_nomem(e);
    r->client = c;
    r->conf = *conf;
    r->bucket = bucket_full(KUBE_EVENTS_BURST, KUBE_EVENTS_PER_S, 1000);
    for (size_t i = 0; i < KUBE_SERIES_MAX; i++)
        r->series[i].recorder = r;
    if (conf->instance != NULL)
        TRY(str_dup(span_str(conf->instance), &r->instance, e));
    r->conf.instance = r->instance;
    TRY(timer_new(l, on_next, r, &r->next, e));
    *ret = STEAL(r);
    return 0;
}

void
kube_recorder_free(struct kube_recorder *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < KUBE_SERIES_MAX; i++)
        series_end(&r->series[i]);
    timer_free(r->next);
    free(r->instance);
    free(r);
}
