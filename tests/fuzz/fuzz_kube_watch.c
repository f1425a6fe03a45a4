/* fuzz_kube_watch.c - what the operator and a CA read of the cluster's objects: any object is taken
 * or refused with a word; a Secret is a set of ours only as a whole; nothing is spread unasked.
 *
 * The input is lines: a letter for the watch and what it says (capital: put, small: gone; "W": the
 * lists are complete), then the object. The feeds are the target's own, by --wrap. */
#include <stdlib.h>
#include <string.h>

#include "identity/pods_watch.h"
#include "obs/log.h"
#include "operator/plan_map.h"
#include "operator/sets.h"
#include "operator/spread.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FEEDS = 5, LINES_MAX = 64 };

static struct {
    struct kube_feed_conf feed[FEEDS];
    size_t n;
    kube_done_fn *done; /* of the last request */
    void *arg;
    bool answers;
} now;

static const char letters[FEEDS + 1] = "SNMPA"; /* as they are opened */

int __wrap_kube_feed_new(struct loop *l, struct kube_client *c, const struct kube_feed_conf *conf,
                         struct kube_feed **ret, struct err *e);
void __wrap_kube_feed_free(struct kube_feed *f);
const char *__wrap_kube_feed_trouble(const struct kube_feed *f);
int __wrap_kube_send(struct kube_client *c, const struct kube_request *q, kube_done_fn *done,
                     void *arg, struct kube_call **ret, struct err *e);
void __wrap_kube_cancel(struct kube_call *q);

int
__wrap_kube_feed_new(struct loop *l, struct kube_client *c, const struct kube_feed_conf *conf,
                     struct kube_feed **ret, struct err *e)
{
    (void)l;
    (void)c;
    (void)e;
    if (now.n == FEEDS)
        abort();
    now.feed[now.n++] = *conf;
    *ret = NULL;
    return 0;
}

void
__wrap_kube_feed_free(struct kube_feed *f)
{
    (void)f;
}

const char *
__wrap_kube_feed_trouble(const struct kube_feed *f)
{
    (void)f;
    return "";
}

int
__wrap_kube_send(struct kube_client *c, const struct kube_request *q, kube_done_fn *done, void *arg,
                 struct kube_call **ret, struct err *e)
{
    (void)c;
    (void)q;
    if (!now.answers)
        return err_set(e, E_LIMIT, "nobody answers here");
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

static void
on_state(void *arg)
{
    (void)arg;
}

static void
on_moved(const struct err *why, void *arg)
{
    (void)why;
    (void)arg;
}

static void
on_restored(const char *ns, const char *by, void *arg)
{
    (void)by;
    (void)ns;
    (void)arg;
}

static void
on_set_restored(const char *secret, const char *what, void *arg)
{
    (void)secret;
    (void)what;
    (void)arg;
}

static void
on_opened(const struct err *why, void *arg)
{
    bool *is_fine = arg;

    if (why != NULL && why->msg[0] == '\0')
        abort();
    *is_fine = why == NULL;
}

/* The plan's ConfigMap: what is read is what the port gives. */
static void
plan_read(const json_t *o)
{
    struct plan_map *m = NULL;
    struct buf text = BUF_INIT(1 << 20);
    uint64_t floor = 0, revision;
    bool is_fine = false;
    struct err e;

    now.answers = true;
    if (plan_map_new(NULL, NULL, "mesh", "p", on_opened, &is_fine, &m, &e) < 0)
        abort();
    now.answers = false;
    now.done(o, NULL, now.arg);
    struct rotate_plans port = plan_map_port(m);
    const char *plan = json_string_value(json_object_get(json_object_get(o, "data"), "plan.json"));
    if (plan_map_has_plan(m) != (is_fine && plan != NULL) ||
        port.floor(port.self, &floor, &e) < 0 || floor >= INT64_MAX)
        abort();
    if (plan_map_has_plan(m) && port.load(port.self, &text, &revision, &e) == 0 &&
        strcmp(buf_text(&text), plan) != 0)
        abort();
    buf_done(&text);
    plan_map_free(m);
}

static void
lists_end(void)
{
    for (size_t i = 0; i < now.n; i++) {
        now.feed[i].begin(now.feed[i].arg);
        now.feed[i].whole(now.feed[i].arg);
        if (now.feed[i].alive != NULL)
            now.feed[i].alive(now.feed[i].arg);
    }
}

static void
line_take(char letter, struct span text)
{
    json_t *o = json_loadb((const char *)text.p, text.n, JSON_REJECT_DUPLICATES, NULL);
    struct err e = { 0 };

    if (letter == 'W')
        lists_end();
    else if (letter == 'L' && json_is_object(o))
        plan_read(o);
    for (size_t i = 0; i < FEEDS && json_is_object(o); i++) {
        const struct kube_feed_conf *f = &now.feed[i];
        int r = letter == letters[i]          ? f->put(o, f->arg, &e)
                : letter == (letters[i] | 32) ? f->gone(o, f->arg, &e)
                                              : 0;
        if (r < 0 && e.msg[0] == '\0')
            abort();
        if (r < 0 && f->broken != NULL)
            f->broken(f->arg);
    }
    json_decref(o);
}

static void
sets_judge(struct sets *s)
{
    struct rotate_target t = sets_port(s);
    struct bundle *b = NULL;
    struct set_manifest m = { .generation = 0 };
    struct err e = { 0 };
    int r = t.read(t.self, &b, &m, &e);

    if ((r == 0) != (sets_generation(s) != 0) || (r == 0 && m.generation != sets_generation(s)) ||
        (r == 0 && bundle_key(b) == NULL) || (r < 0 && e.msg[0] == '\0') ||
        (r == SET_ABSENT) != !sets_exist(s))
        abort();
    bundle_unref(b);
}

static void
cluster_judge(struct pods_watch *w)
{
    const struct cluster *c = pods_watch_cluster(w);
    struct cluster_pod p;
    struct err e;

    if (c->pod(c->self, "shop", "cart-1", &p, &e) == 0 &&
        (strcmp(p.name, "cart-1") != 0 || p.uid[0] == '\0'))
        abort();
    if (c->pod(c->self, "", "", &p, &e) == 0)
        abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct span rest = span_of(data, size), line;
    struct sets_conf sc = { .places = { { "mesh", "cacerts", false, "app=istiod" } },
                            .places_n = 1,
                            .owner = "mesh/default",
                            .on_known = on_state,
                            .on_moved = on_moved,
                            .on_restored = on_set_restored };
    struct spread_conf pc = { .on_change = on_state, .on_restored = on_restored };
    struct pods_watch_conf wc = { .max_stale_ms = 0 };
    struct pods_watch *pods = NULL;
    struct spread *spread = NULL;
    struct sets *sets = NULL;
    struct loop *l = NULL;
    struct err e;

    log_setup(2, LOG_ERROR, false);
    now.n = 0;
    if (loop_new(&l, &e) < 0 || sets_new(l, &sc, &sets, &e) < 0 ||
        spread_new(l, &pc, &spread, &e) < 0 || pods_watch_new(l, NULL, &wc, &pods, &e) < 0)
        abort();
    for (size_t i = 0; i < LINES_MAX && span_cut(&rest, '\n', &line); i++)
        if (line.n > 0)
            line_take((char)line.p[0], span_of(line.p + 1, line.n - 1));
    sets_judge(sets);
    cluster_judge(pods);
    struct spread_state st = spread_state(spread);
    if (st.done != 0 || st.disputed != 0) /* there is no set yet */
        abort();
    pods_watch_free(pods);
    spread_free(spread);
    sets_free(sets);
    loop_free(l);
    return 0;
}
