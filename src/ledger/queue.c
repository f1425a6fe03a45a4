#include "ledger/queue.h"

#include <stdlib.h>
#include <unistd.h>

void
fifo_init(struct fifo *f)
{
    *f = (struct fifo){ .first = NULL };
    f->last = &f->first;
}

void
fifo_add(struct fifo *f, struct pending *p)
{
    p->next = NULL;
    *f->last = p;
    f->last = &p->next;
    f->n++;
}

struct pending *
fifo_take(struct fifo *f)
{
    struct pending *p = f->first;

    if (p == NULL)
        return NULL;
    f->first = p->next;
    if (f->first == NULL)
        f->last = &f->first;
    f->n--;
    return p;
}

void
pending_free(struct pending *p)
{
    buf_done(&p->bytes);
    free(p);
}

/* All of a chain, in its order. */
static void
chain_answer(void *arg)
{
    for (struct pending *p = arg, *next; p != NULL; p = next) {
        next = p->next;
        if (p->done != NULL)
            p->done(&p->err, p->arg);
        pending_free(p);
    }
}

/* Takes those out that are answered on the loop of the first. */
static struct pending *
chain_take(struct fifo *f)
{
    struct fifo same, rest;
    struct pending *p;
    const struct loop *loop = f->first->loop;

    fifo_init(&same);
    fifo_init(&rest);
    while ((p = fifo_take(f)) != NULL)
        fifo_add(p->loop == loop ? &same : &rest, p);
    fifo_init(f);
    while ((p = fifo_take(&rest)) != NULL)
        fifo_add(f, p);
    return same.first;
}

void
fifo_answer(struct fifo *f)
{
    struct err e;

    while (f->first != NULL) {
        struct pending *p = chain_take(f);

        if (p->loop == NULL)
            chain_answer(p);
        else
            while (loop_post(p->loop, chain_answer, p, &e) < 0)
                (void)usleep(LEDGER_ANSWER_RETRY_US);
    }
}
