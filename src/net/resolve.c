#include "net/resolve.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct resolve {
    struct loop *loop; /* valid until cancelled */
    resolve_fn *fn;
    void *arg;
    struct addr asked;
    pthread_mutex_t lock; /* guards the two below against the thread's post */
    bool is_cancelled;
    bool is_lost;    /* the thread could not post: nobody will call deliver */
    atomic_int refs; /* the caller's or the posted call's, and the thread's */
    struct addr found[RESOLVE_MAX];
    size_t n;
    struct err why;
};

static atomic_int threads_n;

static void
resolve_unref(struct resolve *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

/* On the loop: holds the caller's reference. */
static void
deliver(void *arg)
{
    struct resolve *r = arg;

    if (!r->is_cancelled)
        r->fn(r->found, r->n, &r->why, r->arg);
    resolve_unref(r);
}

static void
look_up(struct resolve *r)
{
    const struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
    struct addrinfo *all = NULL;
    int code = getaddrinfo(r->asked.host, NULL, &hints, &all);

    for (const struct addrinfo *a = all; a != NULL && r->n < RESOLVE_MAX; a = a->ai_next) {
        struct addr *to = &r->found[r->n];

        if (getnameinfo(a->ai_addr, a->ai_addrlen, to->host, sizeof(to->host), NULL, 0,
                        NI_NUMERICHOST) == 0 &&
            addr_is_ip(to->host)) {
            to->port = r->asked.port;
            r->n++;
        }
    }
    if (all != NULL)
        freeaddrinfo(all);
    if (r->n == 0)
        (void)err_set(&r->why, E_PEER, "cannot resolve \"%s\": %s", r->asked.host,
                      code == 0 ? "no address" : gai_strerror(code));
}

static void *
thread_main(void *arg)
{
    struct resolve *r = arg;
    struct err e;

    look_up(r);
    (void)pthread_mutex_lock(&r->lock);
    bool is_cancelled = r->is_cancelled;
    if (!is_cancelled && loop_post(r->loop, deliver, r, &e) < 0)
        r->is_lost = true; /* the caller's own time limit ends the wait */
    (void)pthread_mutex_unlock(&r->lock);
    (void)atomic_fetch_sub(&threads_n, 1);
    if (is_cancelled)
        resolve_unref(r); /* the caller's */
    resolve_unref(r);
    return NULL;
}

static int
thread_start(struct resolve *r, struct err *e)
{
    pthread_attr_t attr;
    pthread_t id;

    if (atomic_fetch_add(&threads_n, 1) >= RESOLVE_THREADS_MAX) {
        (void)atomic_fetch_sub(&threads_n, 1);
        return err_set(e, E_LIMIT, "%d name look-ups hang already", (int)RESOLVE_THREADS_MAX);
    }
    (void)atomic_fetch_add(&r->refs, 1);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int no = pthread_create(&id, &attr, thread_main, r);
    (void)pthread_attr_destroy(&attr);
    if (no == 0)
        return 0;
    (void)atomic_fetch_sub(&threads_n, 1);
    (void)atomic_fetch_sub(&r->refs, 1);
    return err_sys(e, no, "cannot start a thread to resolve a name");
}

static bool
is_localhost(const char *host)
{
    return strcmp(host, "localhost") == 0 || strcmp(host, "localhost.") == 0;
}

int
resolve_start(struct loop *l, const char *host, uint16_t port, resolve_fn *fn, void *arg,
              struct resolve **ret, struct err *e)
{
    size_t n = strlen(host);

    if (n >= HOST_BYTES)
        return err_set(e, E_INVAL, "host name too long");
    struct resolve *r = calloc(1, sizeof(*r));
    if (r == NULL)
        return err_nomem(e);
    *r = (struct resolve){ .loop = l, .fn = fn, .arg = arg, .asked = { .port = port } };
    memcpy(r->asked.host, host, n);
    atomic_init(&r->refs, 1);
    (void)pthread_mutex_init(&r->lock, NULL);
    int done = 0;
    if (addr_is_ip(host) || is_localhost(host)) {
        r->found[r->n++] = r->asked;
        if (is_localhost(host))
            memcpy(r->found[0].host, "127.0.0.1", sizeof("127.0.0.1"));
        loop_defer(l, deliver, r);
    } else
        done = thread_start(r, e);
    if (done < 0) {
        resolve_unref(r);
        return done;
    }
    *ret = r;
    return 0;
}

/* The caller's reference is dropped by deliver when that is posted, by the thread when it still
 * runs, and here when neither will. */
void
resolve_cancel(struct resolve *r)
{
    if (r == NULL)
        return;
    (void)pthread_mutex_lock(&r->lock);
    r->is_cancelled = true;
    bool is_lost = r->is_lost;
    (void)pthread_mutex_unlock(&r->lock);
    if (is_lost)
        resolve_unref(r);
}
