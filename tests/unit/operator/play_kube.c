#include "play_kube.h"

#include <stdlib.h>

#include "net/json.h"

enum { SENT_MAX = 1024, FEEDS_MAX = 4, TIMERS_MAX = 8, DEFERRED_MAX = 8 };

struct timer {
    loop_fn *fn;
    void *arg;
    uint64_t at; /* 0: not set */
    bool is_open;
};

static struct {
    uint64_t now;
    struct sent sent[SENT_MAX];
    size_t sent_n;
    unsigned refuse;
    struct {
        char path[256], trouble[128], version[24], list_version[24];
        struct kube_feed_conf conf;
        bool is_open;
    } feed[FEEDS_MAX];
    struct timer timer[TIMERS_MAX];
    struct {
        loop_fn *fn;
        void *arg;
    } deferred[DEFERRED_MAX];
    size_t deferred_n;
} play;

/* -- in the place of the rooms' own -- */

uint64_t
__wrap_mono_ms(void)
{
    return play.now;
}

int
__wrap_timer_new(struct loop *l, loop_fn *fn, void *arg, struct timer **ret, struct err *e)
{
    (void)l;
    (void)e;
    for (size_t i = 0; i < TIMERS_MAX; i++)
        if (!play.timer[i].is_open) {
            play.timer[i] = (struct timer){ .fn = fn, .arg = arg, .is_open = true };
            *ret = &play.timer[i];
            return 0;
        }
    fail_msg("more timers than the test has");
    return 0;
}

void
__wrap_timer_set(struct timer *t, uint64_t ms)
{
    t->at = play.now + ms;
}

void
__wrap_timer_stop(struct timer *t)
{
    t->at = 0;
}

void
__wrap_timer_free(struct timer *t)
{
    if (t != NULL)
        t->is_open = false;
}

void
__wrap_loop_defer(struct loop *l, loop_fn *fn, void *arg)
{
    (void)l;
    assert_true(play.deferred_n < DEFERRED_MAX);
    play.deferred[play.deferred_n].fn = fn;
    play.deferred[play.deferred_n++].arg = arg;
}

int
__wrap_kube_send(struct kube_client *c, const struct kube_request *q, kube_done_fn *done, void *arg,
                 struct kube_call **ret, struct err *e)
{
    struct sent *s = &play.sent[play.sent_n];

    (void)c;
    if (play.refuse > 0) {
        play.refuse--;
        return err_set(e, E_LIMIT, "too many requests under way");
    }
    assert_true(play.sent_n < SENT_MAX);
    *s = (struct sent){ .done = done, .arg = arg };
    (void)snprintf(s->method, sizeof(s->method), "%s", q->method);
    (void)snprintf(s->path, sizeof(s->path), "%s", q->path);
    if (q->body.n > 0)
        assert_int_equal(json_object_parse(q->body, KUBE_MAX_DEPTH, &s->body, e), 0);
    play.sent_n++;
    if (ret != NULL)
        *ret = (struct kube_call *)s;
    return 0;
}

void
__wrap_kube_cancel(struct kube_call *q)
{
    if (q != NULL)
        ((struct sent *)q)->is_over = true;
}

int
__wrap_kube_feed_new(struct loop *l, struct kube_client *c, const struct kube_feed_conf *conf,
                     struct kube_feed **ret, struct err *e)
{
    (void)l;
    (void)c;
    (void)e;
    for (size_t i = 0; i < FEEDS_MAX; i++)
        if (!play.feed[i].is_open) {
            play.feed[i].conf = *conf;
            play.feed[i].is_open = true;
            play.feed[i].trouble[0] = play.feed[i].list_version[0] = '\0';
            (void)snprintf(play.feed[i].path, sizeof(play.feed[i].path), "%s", conf->path);
            *ret = (struct kube_feed *)&play.feed[i];
            return 0;
        }
    fail_msg("more feeds than the test has");
    return 0;
}

void
__wrap_kube_feed_free(struct kube_feed *f)
{
    for (size_t i = 0; i < FEEDS_MAX; i++)
        if (f == (struct kube_feed *)&play.feed[i])
            play.feed[i].is_open = false;
}

const char *
__wrap_kube_feed_trouble(const struct kube_feed *f)
{
    for (size_t i = 0; i < FEEDS_MAX; i++)
        if (f == (const struct kube_feed *)&play.feed[i])
            return play.feed[i].trouble;
    return "";
}

const char *
__wrap_kube_feed_version(const struct kube_feed *f)
{
    for (size_t i = 0; i < FEEDS_MAX; i++)
        if (f == (const struct kube_feed *)&play.feed[i])
            return play.feed[i].version;
    return "";
}

/* -- what the test says -- */

void
play_start(void)
{
    play.now = 1000 * 1000;
    play.sent_n = play.deferred_n = 0;
    play.refuse = 0;
}

void
play_end(void)
{
    for (size_t i = 0; i < play.sent_n; i++)
        json_decref(play.sent[i].body);
    for (size_t i = 0; i < FEEDS_MAX; i++)
        assert_false(play.feed[i].is_open); /* what was opened was let go */
    for (size_t i = 0; i < TIMERS_MAX; i++)
        assert_false(play.timer[i].is_open);
    play.sent_n = 0;
}

size_t
play_sent_n(void)
{
    return play.sent_n;
}

struct sent *
play_sent(size_t i)
{
    assert_true(i < play.sent_n);
    return &play.sent[i];
}

void
play_forget(void)
{
    for (size_t i = 0; i < play.sent_n; i++) {
        assert_true(play.sent[i].is_over); /* pointers to it are the room's, until then */
        json_decref(play.sent[i].body);
    }
    play.sent_n = 0;
}

struct sent *
play_find(const char *method, const char *path)
{
    for (size_t i = 0; i < play.sent_n; i++)
        if (!play.sent[i].is_over && strcmp(play.sent[i].method, method) == 0 &&
            strncmp(play.sent[i].path, path, strlen(path)) == 0)
            return &play.sent[i];
    return NULL;
}

void
play_refuse_next(unsigned n)
{
    play.refuse = n;
}

void
play_answer(struct sent *q, json_t *take_object, const char *version)
{
    assert_non_null(q);
    assert_false(q->is_over);
    json_t *o = take_object != NULL ? take_object : json_deep_copy(q->body);
    if (version != NULL)
        play_version(o, version);
    q->is_over = true;
    q->done(o, NULL, q->arg);
    json_decref(o);
}

void
play_fail(struct sent *q, enum err_code code, const char *words)
{
    struct err e = { 0 };

    assert_non_null(q);
    assert_false(q->is_over);
    (void)err_set(&e, code, "%s", words);
    q->is_over = true;
    q->done(NULL, &e, q->arg);
}

static size_t
feed_find(const char *path)
{
    for (size_t i = 0; i < FEEDS_MAX; i++)
        if (play.feed[i].is_open && strncmp(play.feed[i].path, path, strlen(path)) == 0)
            return i;
    fail_msg("no feed of %s", path);
    return 0;
}

const struct kube_feed_conf *
play_feed(const char *path)
{
    return &play.feed[feed_find(path)].conf;
}

void
play_trouble(const char *path, const char *words)
{
    size_t i = feed_find(path);

    (void)snprintf(play.feed[i].trouble, sizeof(play.feed[i].trouble), "%s", words);
}

void
play_list_version(const char *path, const char *version)
{
    size_t i = feed_find(path);

    (void)snprintf(play.feed[i].list_version, sizeof(play.feed[i].list_version), "%s", version);
}

/* A copy goes in: readers wipe what they have taken. */
static void
tell(int (*fn)(const json_t *o, void *arg, struct err *e), void *arg, const json_t *object)
{
    json_t *copy = json_deep_copy(object);
    struct err e = { 0 };

    assert_ok(fn(copy, arg, &e));
    json_decref(copy);
}

static void
as_of(const char *path, const char *version)
{
    size_t i = feed_find(path);

    (void)snprintf(play.feed[i].version, sizeof(play.feed[i].version), "%s", version);
}

void
play_put(const char *path, const json_t *object)
{
    as_of(path, kube_object_version(object));
    const struct kube_feed_conf *f = play_feed(path);

    tell(f->put, f->arg, object);
}

void
play_gone(const char *path, const json_t *object)
{
    as_of(path, kube_object_version(object));
    const struct kube_feed_conf *f = play_feed(path);

    tell(f->gone, f->arg, object);
}

void
play_rewind(const char *path)
{
    const struct kube_feed_conf *f = play_feed(path);

    f->rewound(f->arg);
}

void
play_list(const char *path, const json_t *const *objects, size_t n)
{
    const struct kube_feed_conf *f = play_feed(path);

    f->begin(f->arg);
    size_t i = feed_find(path);
    memcpy(play.feed[i].version, play.feed[i].list_version, sizeof(play.feed[i].version));
    for (size_t k = 0; k < n; k++)
        tell(f->put, f->arg, objects[k]);
    f->whole(f->arg);
}

static struct timer *
timer_due(uint64_t until)
{
    struct timer *next = NULL;

    for (size_t i = 0; i < TIMERS_MAX; i++) {
        struct timer *t = &play.timer[i];
        if (t->is_open && t->at != 0 && t->at <= until && (next == NULL || t->at < next->at))
            next = t;
    }
    return next;
}

static void
deferred_run(void)
{
    while (play.deferred_n > 0) {
        loop_fn *fn = play.deferred[0].fn;
        void *arg = play.deferred[0].arg;

        play.deferred_n--;
        memmove(play.deferred, play.deferred + 1, play.deferred_n * sizeof(play.deferred[0]));
        fn(arg);
    }
}

void
play_wait(uint64_t ms)
{
    uint64_t until = play.now + ms;
    struct timer *t;

    deferred_run();
    for (unsigned turns = 0; (t = timer_due(until)) != NULL; turns++) {
        assert_true(turns < 10000); /* timers that set each other for ever */
        play.now = t->at > play.now ? t->at : play.now;
        t->at = 0;
        t->fn(t->arg);
        deferred_run();
    }
    play.now = until;
}

uint64_t
play_now(void)
{
    return play.now;
}

json_t *
play_object(const char *ns, const char *name, const char *version, json_t *take_more)
{
    json_t *o = json_pack("{s:{s:s*, s:s}}", "metadata", "namespace", ns, "name", name);

    assert_non_null(o);
    play_version(o, version);
    if (take_more != NULL)
        assert_int_equal(json_object_update_recursive(o, take_more), 0);
    json_decref(take_more);
    return o;
}

void
play_version(json_t *o, const char *version)
{
    json_t *meta = json_object_get(o, "metadata");

    assert_non_null(meta);
    if (kube_object_uid(o)[0] == '\0')
        assert_int_equal(json_object_set_new(meta, "uid", json_string("uid-1")), 0);
    assert_int_equal(json_object_set_new(meta, "resourceVersion", json_string(version)), 0);
}
