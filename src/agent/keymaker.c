#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "agent/room.h"

struct keymaker {
    struct loop *loop;
    enum key_kind kind;
    keymaker_fn *fn;
    void *arg;
    pthread_t thread;
    bool has_thread, is_freed;
    struct key *key;
    struct err why;
    atomic_int refs; /* the owner's, and the posted call's */
};

static void
keymaker_unref(struct keymaker *k)
{
    if (atomic_fetch_sub(&k->refs, 1) != 1)
        return;
    key_unref(k->key);
    free(k);
}

static void
deliver(void *arg)
{
    struct keymaker *k = arg;

    if (!k->is_freed)
        k->fn(STEAL(k->key), &k->why, k->arg);
    keymaker_unref(k);
}

static void *
thread_main(void *arg)
{
    struct keymaker *k = arg;
    struct err e;

    (void)!key_make(k->kind, &k->key, &k->why);
    (void)atomic_fetch_add(&k->refs, 1);
    if (loop_post(k->loop, deliver, k, &e) < 0)
        keymaker_unref(k);
    return NULL;
}

int
keymaker_start(struct loop *l, enum key_kind kind, keymaker_fn *fn, void *arg,
               struct keymaker **ret, struct err *e)
{
    struct keymaker *k = calloc(1, sizeof(*k));
    bool is_slow = kind == KEY_RSA2048 || kind == KEY_RSA3072 || kind == KEY_RSA4096;

    if (k == NULL)
        return err_nomem(e);
    *k = (struct keymaker){ .loop = l, .kind = kind, .fn = fn, .arg = arg };
    atomic_init(&k->refs, 1);
    if (is_slow) {
        int no = pthread_create(&k->thread, NULL, thread_main, k);

        if (no != 0) {
            keymaker_unref(k);
            return err_sys(e, no, "cannot start a thread to make a key");
        }
        k->has_thread = true;
    } else {
        (void)!key_make(kind, &k->key, &k->why);
        (void)atomic_fetch_add(&k->refs, 1);
        loop_defer(l, deliver, k);
    }
    *ret = k;
    return 0;
}

void
keymaker_free(struct keymaker *k)
{
    if (k == NULL)
        return;
    k->is_freed = true;
    if (k->has_thread)
        (void)pthread_join(k->thread, NULL);
    keymaker_unref(k);
}
