#include "net/h2_pool.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    SPARE_KEEP_BYTES = 128 * 1024,
    FRAME_MIN_BYTES = 16 * 1024, /* nghttp2 asks for this and a bit */
    FRAME_BYTES = 20 * 1024,
    FRAMES_KEEP = 32,
};

struct frame { /* at the front of one that nobody has */
    struct frame *next;
};

int
h2_pool_new(struct h2_pool **ret, struct err *e)
{
    struct h2_pool *p = calloc(1, sizeof(*p));

    if (p == NULL)
        return err_nomem(e);
    *ret = p;
    return 0;
}

struct buf
h2_pool_take_buf(struct h2_pool *p, size_t max)
{
    struct buf b = p->spare;

    p->spare = BUF_INIT(0);
    b.n = 0;
    b.max = max;
    return b;
}

void
h2_pool_give_buf(struct h2_pool *p, struct buf *b)
{
    if (p->spare.p == NULL && b->cap <= SPARE_KEEP_BYTES)
        p->spare = *b;
    else
        buf_done(b);
    *b = BUF_INIT(b->max);
}

static void *
frame_take(struct h2_pool *p)
{
    struct frame *f = p->frames;

    if (f == NULL) {
        f = mmap(NULL, FRAME_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return f == MAP_FAILED ? NULL : f;
    }
    p->frames = f->next;
    p->frames_n--;
    return f;
}

static void
frame_give(struct h2_pool *p, void *at)
{
    struct frame *f = at;

    if (p->frames_n >= FRAMES_KEEP) {
        (void)munmap(at, FRAME_BYTES);
        return;
    }
    f->next = p->frames;
    p->frames = f;
    p->frames_n++;
}

void *
h2_memory_malloc(size_t n, void *self)
{
    struct h2_memory *m = self;

    if (n < FRAME_MIN_BYTES || n > FRAME_BYTES || m->frame != NULL)
        return malloc(n);
    m->frame = frame_take(m->pool);
    return m->frame != NULL ? m->frame : malloc(n);
}

void
h2_memory_free(void *at, void *self)
{
    struct h2_memory *m = self;

    if (at == NULL || at != m->frame)
        free(at);
    else
        frame_give(m->pool, STEAL(m->frame));
}

void *
h2_memory_calloc(size_t n, size_t size, void *self)
{
    (void)self;
    return calloc(n, size);
}

void *
h2_memory_realloc(void *at, size_t n, void *self)
{
    struct h2_memory *m = self;

    if (at == NULL)
        return h2_memory_malloc(n, self);
    if (at != m->frame)
        return realloc(at, n);
    if (n <= FRAME_BYTES)
        return at;
    void *to = malloc(n);
    if (to != NULL) {
        memcpy(to, at, FRAME_BYTES);
        h2_memory_free(at, self);
    }
    return to;
}

void
h2_pool_done(struct h2_pool *p)
{
    if (p == NULL)
        return;
    while (p->frames != NULL) {
        struct frame *f = p->frames;

        p->frames = f->next;
        (void)munmap(f, FRAME_BYTES);
    }
    buf_done(&p->spare);
    free(p);
}
