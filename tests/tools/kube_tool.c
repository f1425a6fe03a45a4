/* kube_tool.c - the client of the Kubernetes API from a command line, for tests/e2e/test_kube_*.py.
 *
 *   kube_tool KUBECONFIG get|create|update|apply|patch|delete JSON
 *   kube_tool KUBECONFIG lease JSON    until SIGTERM: {"gained": MS}, {"lost": MS, "message": ...}
 *   kube_tool KUBECONFIG events JSON   until SIGTERM: {"metrics": PAGE}, again and again
 *
 * JSON of a lease: ns, name, who, duration_ms, renew_ms, retry_ms; of the others: api, kind,
 * plural, ns, name, sub, object, manager, force, dry_run, uid, version, propagation, deadline_ms;
 * with "watches", so many watches of "path" are open before the verb runs; with "times", the verb
 * runs so often, each time "pause_ms" after a line on stdin ("waits") or after the answer.
 * Says {"object": ...} or {"error": "conflict", "message": ...}. */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/str.h"
#include "kube/feed.h"
#include "kube/lease.h"
#include "kube/recorder.h"
#include "kube/write.h"
#include "net/json.h"
#include "obs/log.h"

struct tool {
    struct loop *loop;
    struct kube_client *client;
    json_t *said;
    struct kube_lease *lease;
    struct metrics *metrics;
    struct timer *again;
    size_t watches, listed;
};

static void
say(const json_t *o)
{
    (void)!json_dumpf(o, stdout, JSON_COMPACT);
    (void)!puts("");
    (void)!fflush(stdout);
}

static int
complain(const struct err *e)
{
    json_t *o = json_pack("{s:s, s:s}", "error", err_meaning(e->code)->name, "message", e->msg);

    say(o);
    json_decref(o);
    return 1;
}

static void
on_done(const json_t *body, const struct err *why, void *arg)
{
    struct tool *t = arg;

    t->said = body == NULL ? json_pack("{s:s, s:s}", "error", err_meaning(why->code)->name,
                                       "message", why->msg)
                           : json_pack("{s:o}", "object", json_deep_copy(body));
    loop_stop(t->loop);
}

static const char *
text(const json_t *o, const char *name)
{
    return json_string_value(json_object_get(o, name));
}

static uint64_t
number(const json_t *o, const char *name)
{
    return (uint64_t)json_integer_value(json_object_get(o, name));
}

static void
on_enough(void *arg)
{
    struct tool *t = arg;

    loop_stop(t->loop);
}

static int
pause_run(struct tool *t, uint64_t ms, struct err *e)
{
    CLEANUP(timer_freep) struct timer *enough = NULL;

    TRY(timer_new(t->loop, on_enough, t, &enough, e));
    timer_set(enough, ms);
    return loop_run(t->loop, e);
}

static int
get(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
    struct kube_call **ret, struct err *e)
{
    CLEANUP(str_freep) char *path = NULL;

    TRY(kube_path(w->kind, w->ns, w->name, w->sub, &path, e));
    return kube_get(c, path, w->deadline_ms, done, arg, ret, e);
}

static const struct {
    const char *word;
    int (*verb)(struct kube_client *c, const struct kube_write *w, kube_done_fn *done, void *arg,
                struct kube_call **ret, struct err *e);
} verbs[] = {
    { "get", get },          { "create", kube_create }, { "update", kube_update },
    { "apply", kube_apply }, { "patch", kube_patch },   { "delete", kube_delete },
};

static int
write_run(struct tool *t, const char *word, const json_t *q, struct err *e)
{
    struct kube_kind kind = { text(q, "api"), text(q, "kind"), text(q, "plural"),
                              text(q, "ns") != NULL };
    struct kube_write w = { .kind = &kind,
                            .ns = text(q, "ns"),
                            .name = text(q, "name"),
                            .sub = text(q, "sub"),
                            .object = json_object_get(q, "object"),
                            .manager = text(q, "manager"),
                            .is_forced = json_is_true(json_object_get(q, "force")),
                            .is_dry_run = json_is_true(json_object_get(q, "dry_run")),
                            .uid = text(q, "uid"),
                            .version = text(q, "version"),
                            .propagation = text(q, "propagation"),
                            .deadline_ms = number(q, "deadline_ms") };

    size_t i = 0;
    while (i < ARRAY_LEN(verbs) && strcmp(word, verbs[i].word) != 0)
        i++;
    if (i == ARRAY_LEN(verbs))
        return err_set(e, E_INVAL, "no such verb \"%s\"", word);
    for (uint64_t n = number(q, "times"), done = 0; done == 0 || done < n; done++) {
        while (done > 0 && json_is_true(json_object_get(q, "waits")) && getchar() > '\n')
            continue;
        if (done > 0)
            TRY(pause_run(t, number(q, "pause_ms"), e));
        json_wipe_free(STEAL(t->said));
        TRY(verbs[i].verb(t->client, &w, on_done, t, NULL, e));
        TRY(loop_run(t->loop, e));
        say(t->said);
    }
    return json_object_get(t->said, "error") == NULL ? 0 : 1;
}

/* -- a verb beside watches -- */

enum { WATCHES_MAX = 100 };

static void
on_nothing(void *arg)
{
    (void)arg;
}

static int
on_any(const json_t *object, void *arg, struct err *e)
{
    (void)object;
    (void)arg;
    (void)e;
    return 0;
}

/* One has its list, and watches from now on. */
static void
on_one_more(void *arg)
{
    struct tool *t = arg;

    if (++t->listed == t->watches)
        loop_stop(t->loop);
}

static int
beside_watches(struct tool *t, const char *word, const json_t *q, struct err *e)
{
    struct kube_feed_conf conf = { .path = text(q, "path"),
                                   .name = "watched",
                                   .begin = on_nothing,
                                   .put = on_any,
                                   .gone = on_any,
                                   .whole = on_one_more,
                                   .arg = t };
    struct kube_feed *feeds[WATCHES_MAX] = { NULL };
    int done = 0;

    t->watches = number(q, "watches");
    if (t->watches > WATCHES_MAX)
        return err_set(e, E_LIMIT, "more than %d watches", (int)WATCHES_MAX);
    for (size_t i = 0; i < t->watches && done == 0; i++)
        done = kube_feed_new(t->loop, t->client, &conf, &feeds[i], e);
    done = done == 0 && t->watches > 0 ? loop_run(t->loop, e) : done;
    if (done == 0)
        done = write_run(t, word, q, e);
    for (size_t i = 0; i < t->watches; i++)
        kube_feed_free(feeds[i]);
    return done;
}

/* -- lease --------------------------------------------------------------------------------------
 */

static void
say_when(const char *what, const char *message)
{
    json_t *o = json_pack("{s:I, s:s}", what, (json_int_t)mono_ms(), "message", message);

    say(o);
    json_decref(o);
}

static void
on_gained(void *arg)
{
    (void)arg;
    say_when("gained", "");
}

static void
on_lost(const struct err *why, void *arg)
{
    (void)arg;
    say_when("lost", why->msg);
}

static void
on_released(void *arg)
{
    struct tool *t = arg;

    say_when("released", "");
    loop_stop(t->loop);
}

static void
on_term(void *arg)
{
    struct tool *t = arg;

    kube_lease_release(t->lease, on_released, t);
}

static int
lease_run(struct tool *t, const json_t *q, struct err *e)
{
    struct kube_lease_conf conf = { .ns = text(q, "ns"),
                                    .name = text(q, "name"),
                                    .who = text(q, "who"),
                                    .duration_ms = number(q, "duration_ms"),
                                    .renew_ms = number(q, "renew_ms"),
                                    .retry_ms = number(q, "retry_ms"),
                                    .gained = on_gained,
                                    .lost = on_lost,
                                    .arg = t };

    TRY(loop_on_signal(t->loop, SIGTERM, on_term, t, e));
    TRY(kube_lease_new(t->loop, t->client, &conf, &t->lease, e));
    return loop_run(t->loop, e);
}

/* -- watch --------------------------------------------------------------------------------------
 */

static void
say_object(const char *what, const json_t *object)
{
    CLEANUP(json_decrefp)
    json_t *o = json_pack("{s:o, s:s}", what,
                          json_sprintf("%s/%s", kube_object_ns(object), kube_object_name(object)),
                          "version", kube_object_version(object));

    say(o);
}

static void
nothing(void *arg)
{
    (void)arg;
}

static void
on_begin(void *arg)
{
    (void)arg;
    say_when("begin", "");
}

static int
on_put(const json_t *object, void *arg, struct err *e)
{
    (void)arg;
    (void)e;
    say_object("put", object);
    return 0;
}

static int
on_gone(const json_t *object, void *arg, struct err *e)
{
    (void)arg;
    (void)e;
    say_object("gone", object);
    return 0;
}

static void
on_whole(void *arg)
{
    (void)arg;
    say_when("whole", "");
}

static int
watch_run(struct tool *t, const json_t *q, struct err *e)
{
    struct kube_feed_conf conf = { .path = text(q, "path"),
                                   .name = "watched",
                                   .metrics = t->metrics,
                                   .relist_ms = number(q, "relist_ms"),
                                   .wait_first_ms = number(q, "wait_first_ms"),
                                   .begin = on_begin,
                                   .put = on_put,
                                   .gone = on_gone,
                                   .whole = on_whole,
                                   .alive = nothing,
                                   .broken = nothing,
                                   .arg = t };
    CLEANUP(kube_feed_freep) struct kube_feed *f = NULL;

    TRY(loop_on_signal(t->loop, SIGTERM, on_enough, t, e));
    TRY(kube_feed_new(t->loop, t->client, &conf, &f, e));
    return loop_run(t->loop, e);
}

/* -- events -------------------------------------------------------------------------------------
 */

enum { METRICS_EVERY_MS = 50 };

static void
on_metrics(void *arg)
{
    CLEANUP(buf_done) struct buf page = BUF_INIT(1 << 20);
    struct tool *t = arg;
    struct err e;

    if (metrics_text(t->metrics, &page, &e) == 0) {
        json_t *o = json_pack("{s:s}", "metrics", buf_text(&page));
        say(o);
        json_decref(o);
    }
    timer_set(t->again, METRICS_EVERY_MS);
}

static int
events_run(struct tool *t, const json_t *q, struct err *e)
{
    const json_t *all = json_object_get(q, "say"), *one, *about = json_object_get(q, "about");
    struct kube_recorder_conf conf = { .component = "meshroot-operator",
                                       .instance = "operator-0",
                                       .metrics = t->metrics };
    CLEANUP(kube_recorder_freep) struct kube_recorder *r = NULL;
    size_t i;

    TRY(loop_on_signal(t->loop, SIGTERM, on_enough, t, e));
    TRY(kube_recorder_new(t->loop, t->client, &conf, &r, e));
    TRY(timer_new(t->loop, on_metrics, t, &t->again, e));
    timer_set(t->again, METRICS_EVERY_MS);
    json_array_foreach(all, i, one)
        for (json_int_t n = 0; n < json_integer_value(json_array_get(one, 3)); n++)
            kube_recorder_say(r, about, json_is_true(json_array_get(one, 0)),
                              json_string_value(json_array_get(one, 1)), "%s",
                              json_string_value(json_array_get(one, 2)));
    return loop_run(t->loop, e);
}

/* -- command line -------------------------------------------------------------------------------
 */

static const struct {
    const char *word;
    int (*run)(struct tool *t, const json_t *q, struct err *e);
} jobs[] = {
    { "lease", lease_run },
    { "events", events_run },
    { "watch", watch_run },
};

static int
run(struct tool *t, char **argv, struct err *e)
{
    CLEANUP(kube_conf_done) struct kube_conf conf = { .server = NULL };
    CLEANUP(json_wipe_freep) json_t *q = NULL;

    TRY(json_object_parse(span_str(argv[3]), KUBE_MAX_DEPTH, &q, e));
    TRY(kube_conf_from_file(argv[1], NULL, &conf, e));
    TRY(loop_new(&t->loop, e));
    TRY(metrics_new(&t->metrics, e));
    TRY(kube_client_new(t->loop, &conf, t->metrics, &t->client, e));
    for (size_t i = 0; i < ARRAY_LEN(jobs); i++)
        if (strcmp(argv[2], jobs[i].word) == 0)
            return jobs[i].run(t, q, e);
    return beside_watches(t, argv[2], q, e);
}

int
main(int argc, char **argv)
{
    struct tool t = { .loop = NULL };
    struct err e;

    if (argc != 4)
        return 2;
    log_setup(STDERR_FILENO, LOG_INFO, false);
    (void)signal(SIGPIPE, SIG_IGN);
    int r = run(&t, argv, &e);
    kube_lease_free(t.lease);
    kube_client_free(t.client);
    timer_free(t.again);
    loop_free(t.loop);
    metrics_free(t.metrics);
    json_wipe_free(t.said);
    return r < 0 ? complain(&e) : r;
}
