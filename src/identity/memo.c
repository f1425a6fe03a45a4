#include "identity/memo.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = MEMO_TOKENS / MEMO_WAYS };

struct place {
    uint8_t id[DIGEST_BYTES];
    uint64_t used;      /* 0: empty */
    struct buf content; /* owned */
};

struct memo {
    pthread_mutex_t lock; /* of all that follows */
    uint64_t uses;
    struct place places[SETS][MEMO_WAYS];
};

int
memo_new(struct memo **ret, struct err *e)
{
    struct memo *m = calloc(1, sizeof(*m)); /* pages that no token touches cost nothing */

    if (m == NULL)
        return err_nomem(e);
    (void)pthread_mutex_init(&m->lock, NULL);
    *ret = m;
    return 0;
}

void
memo_free(struct memo *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < SETS; i++)
        for (size_t k = 0; k < MEMO_WAYS; k++)
            buf_done(&m->places[i][k].content);
    (void)pthread_mutex_destroy(&m->lock);
    free(m);
}

/* A digest of a token that was vouched for: nobody chooses where it falls. */
static struct place *
set_of(struct memo *m, const uint8_t id[DIGEST_BYTES])
{
    return m->places[(id[0] | (size_t)id[1] << 8) % SETS];
}

static struct place *
place_find(struct place *set, const uint8_t id[DIGEST_BYTES])
{
    for (size_t k = 0; k < MEMO_WAYS; k++)
        if (set[k].used != 0 && memcmp(set[k].id, id, DIGEST_BYTES) == 0)
            return &set[k];
    return NULL;
}

bool
memo_find(struct memo *m, const uint8_t id[DIGEST_BYTES], struct buf *out)
{
    struct err e;
    bool found = false;

    (void)pthread_mutex_lock(&m->lock);
    struct place *p = place_find(set_of(m, id), id);
    if (p != NULL && buf_add(out, buf_span(&p->content), &e) == 0) {
        p->used = ++m->uses;
        found = true;
    }
    (void)pthread_mutex_unlock(&m->lock);
    return found;
}

void
memo_add(struct memo *m, const uint8_t id[DIGEST_BYTES], struct span content)
{
    struct buf copy = BUF_INIT(MEMO_CONTENT_BYTES);
    struct err e;

    if (buf_add(&copy, content, &e) < 0)
        return;
    (void)pthread_mutex_lock(&m->lock);
    struct place *set = set_of(m, id), *p = place_find(set, id);
    if (p == NULL) {
        p = set;
        for (size_t k = 1; k < MEMO_WAYS; k++)
            if (set[k].used < p->used)
                p = &set[k];
    }
    buf_done(&p->content);
    p->content = copy;
    memcpy(p->id, id, DIGEST_BYTES);
    p->used = ++m->uses;
    (void)pthread_mutex_unlock(&m->lock);
}
