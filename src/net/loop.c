#include "net/loop.h"

#include <assert.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/loop_event.h"

enum { CALLBACKS_PER_TURN = 256 };

struct call {
    struct call *next;
    loop_fn *fn;
    void *arg;
};

struct queue {
    struct call *head, **tail;
    size_t n;
};

struct on_signal {
    struct on_signal *next;
    struct event *ev;
    loop_fn *fn;
    void *arg;
};

struct loop {
    struct event_base *base;
    struct event *wake_ev;  /* reads wake_fd */
    struct event *defer_ev; /* active when `deferred` is not empty */
    int wake_fd;
    pthread_mutex_t lock; /* guards posted */
    struct queue posted, deferred;
    struct on_signal *signals; /* owned */
};

struct timer {
    struct event *ev;
    loop_fn *fn;
    void *arg;
    uint64_t due_ms; /* mono_ms(), while libevent has no memory for it; else 0 */
};

struct fd_watch {
    struct event *ev;
    loop_fn *fn;
    void *arg;
};

static void
queue_init(struct queue *q)
{
    q->head = NULL;
    q->tail = &q->head;
    q->n = 0;
}

static bool
queue_add(struct queue *q, loop_fn *fn, void *arg)
{
    struct call *c = malloc(sizeof(*c));

    if (c == NULL)
        return false;
    *c = (struct call){ NULL, fn, arg };
    *q->tail = c;
    q->tail = &c->next;
    q->n++;
    return true;
}

static void
queue_run(struct queue *q)
{
    struct call *c = q->head;

    queue_init(q);
    while (c != NULL) {
        struct call *next = c->next;

        c->fn(c->arg);
        free(c);
        c = next;
    }
}

/* Takes what was posted up to now; what these calls post waits for the next turn. */
static void
posted_run(struct loop *l)
{
    struct queue q;

    (void)pthread_mutex_lock(&l->lock);
    q = l->posted;
    if (q.head == NULL)
        queue_init(&q);
    queue_init(&l->posted);
    (void)pthread_mutex_unlock(&l->lock);
    queue_run(&q);
}

static void
on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct loop *l = arg;
    uint64_t n;

    (void)what;
    (void)!read(fd, &n, sizeof(n));
    posted_run(l);
}

static void
on_defer(evutil_socket_t fd, short what, void *arg)
{
    struct loop *l = arg;

    (void)fd;
    (void)what;
    queue_run(&l->deferred);
}

static int
loop_open(struct loop *l, struct err *e)
{
    struct event_config *conf = event_config_new();

    if (conf == NULL)
        return err_nomem(e);
    /* no changelist: libcurl closes its sockets before the loop hears of it, and a changelist loses
     * the next descriptor of that number */
    (void)event_config_set_flag(conf, EVENT_BASE_FLAG_NOLOCK);
    /* One priority: what is deferred stands in line behind the callbacks of its turn. A lower one
     * would wait for a turn without any ready descriptor, which a busy server never has. And the
     * kernel is asked for news at least every so many callbacks, however much is in line. */
    (void)event_config_set_max_dispatch_interval(conf, NULL, CALLBACKS_PER_TURN, 0);
    l->base = event_base_new_with_config(conf);
    event_config_free(conf);
    if (l->base == NULL)
        return err_nomem(e);
    l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->wake_fd < 0)
        return err_sys(e, errno, "eventfd");
    l->wake_ev = event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_wake, l);
    l->defer_ev = event_new(l->base, -1, 0, on_defer, l);
    if (l->wake_ev == NULL || l->defer_ev == NULL)
        return err_nomem(e);
    if (event_add(l->wake_ev, NULL) < 0)
        return err_set(e, E_SYS, "cannot watch an eventfd");
    return 0;
}

int
loop_new(struct loop **ret, struct err *e)
{
    struct loop *l = calloc(1, sizeof(*l));

    if (l == NULL)
        return err_nomem(e);
    l->wake_fd = -1;
    (void)pthread_mutex_init(&l->lock, NULL);
    queue_init(&l->posted);
    queue_init(&l->deferred);
    if (loop_open(l, e) < 0) {
        loop_free(l);
        return err_wrap(e, "event loop");
    }
    *ret = l;
    return 0;
}

void
loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    for (int turns = 0; turns < 64 && (l->posted.head != NULL || l->deferred.head != NULL);
         turns++) {
        posted_run(l);
        queue_run(&l->deferred);
    }
    while (l->signals != NULL) {
        struct on_signal *s = l->signals;

        l->signals = s->next;
        event_free(s->ev);
        free(s);
    }
    if (l->wake_ev != NULL)
        event_free(l->wake_ev);
    if (l->defer_ev != NULL)
        event_free(l->defer_ev);
    if (l->wake_fd >= 0)
        (void)close(l->wake_fd);
    if (l->base != NULL) {
        /* nobody's events are left, but libevent's own: a bufferevent ends in a turn of the loop,
         * and event_base_free forgets some of those ends */
        (void)event_base_loop(l->base, EVLOOP_NONBLOCK);
        event_base_free(l->base);
    }
    (void)pthread_mutex_destroy(&l->lock);
    free(l);
}

struct event_base *
loop_base(struct loop *l)
{
    return l->base;
}

int
loop_run(struct loop *l, struct err *e)
{
    if (event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0)
        return err_set(e, E_SYS, "the event loop failed");
    return 0;
}

void
loop_stop(struct loop *l)
{
    (void)event_base_loopbreak(l->base);
}

int
loop_post(struct loop *l, loop_fn *fn, void *arg, struct err *e)
{
    uint64_t one = 1;

    (void)pthread_mutex_lock(&l->lock);
    bool full = l->posted.n >= LOOP_POST_MAX, first = l->posted.head == NULL;
    bool ok = !full && queue_add(&l->posted, fn, arg);
    (void)pthread_mutex_unlock(&l->lock);
    if (full)
        return err_set(e, E_LIMIT, "more than %d calls wait for one event loop",
                       (int)LOOP_POST_MAX);
    if (!ok)
        return err_nomem(e);
    if (first)
        (void)!write(l->wake_fd, &one, sizeof(one));
    return 0;
}

void
loop_defer(struct loop *l, loop_fn *fn, void *arg)
{
    bool ok = queue_add(&l->deferred, fn, arg);

    assert(ok);
    event_active(l->defer_ev, EV_TIMEOUT, 0);
}

static void
on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct timer *t = arg;
    uint64_t now = mono_ms(), due = t->due_ms;

    (void)fd;
    (void)what;
    if (due > now)
        timer_set(t, due - now);
    else
        t->fn(t->arg);
}

int
timer_new(struct loop *l, loop_fn *fn, void *arg, struct timer **ret, struct err *e)
{
    struct timer *t = calloc(1, sizeof(*t));

    if (t == NULL)
        return err_nomem(e);
    *t = (struct timer){ .fn = fn, .arg = arg };
    t->ev = event_new(l->base, -1, 0, on_timer, t);
    if (t->ev == NULL) {
        free(t);
        return err_nomem(e);
    }
    *ret = t;
    return 0;
}

void
timer_set(struct timer *t, uint64_t ms)
{
    struct timeval tv = { .tv_sec = (time_t)(ms / 1000),
                          .tv_usec = (suseconds_t)(ms % 1000) * 1000 };

    /* It fails when the base's heap of times must grow and cannot. A timer that is lost may be the
     * one that renews a leaf: it is tried again in each turn, which takes no memory, until it is
     * in the heap or due. */
    (void)event_del(t->ev);
    bool is_in = event_add(t->ev, &tv) == 0;
    t->due_ms = is_in ? 0 : mono_ms() + ms;
    if (!is_in)
        event_active(t->ev, EV_TIMEOUT, 0);
}

void
timer_stop(struct timer *t)
{
    (void)event_del(t->ev);
}

void
timer_free(struct timer *t)
{
    if (t == NULL)
        return;
    event_free(t->ev);
    free(t);
}

static void
on_fd(evutil_socket_t fd, short what, void *arg)
{
    struct fd_watch *w = arg;

    (void)fd;
    (void)what;
    w->fn(w->arg);
}

int
fd_watch_new(struct loop *l, int fd, loop_fn *fn, void *arg, struct fd_watch **ret, struct err *e)
{
    struct fd_watch *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return err_nomem(e);
    *w = (struct fd_watch){ .fn = fn, .arg = arg };
    w->ev = event_new(l->base, fd, EV_READ | EV_PERSIST, on_fd, w);
    if (w->ev == NULL || event_add(w->ev, NULL) < 0) {
        fd_watch_free(w);
        return err_set(e, E_SYS, "cannot watch file descriptor %d", fd);
    }
    *ret = w;
    return 0;
}

void
fd_watch_free(struct fd_watch *w)
{
    if (w == NULL)
        return;
    if (w->ev != NULL)
        event_free(w->ev);
    free(w);
}

static void
on_signal(evutil_socket_t signo, short what, void *arg)
{
    struct on_signal *s = arg;

    (void)signo;
    (void)what;
    s->fn(s->arg);
}

int
loop_on_signal(struct loop *l, int signo, loop_fn *fn, void *arg, struct err *e)
{
    struct on_signal *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return err_nomem(e);
    *s = (struct on_signal){ .fn = fn, .arg = arg };
    s->ev = evsignal_new(l->base, signo, on_signal, s);
    if (s->ev == NULL || evsignal_add(s->ev, NULL) < 0) {
        if (s->ev != NULL)
            event_free(s->ev);
        free(s);
        return err_set(e, E_SYS, "cannot watch signal %d", signo);
    }
    s->next = l->signals;
    l->signals = s;
    return 0;
}
