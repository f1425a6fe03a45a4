#include "base/secret.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

enum { SECRET_MAX_BYTES = 1024 * 1024 };

struct secret {
    uint8_t *p; /* own mapping of `mapped` bytes */
    size_t n, mapped;
};

static int
secret_map(size_t n, struct secret **ret, struct err *e)
{
    if (n == 0 || n > SECRET_MAX_BYTES)
        return err_set(e, E_LIMIT, "a secret of %zu bytes, want 1..%d", n, (int)SECRET_MAX_BYTES);
    struct secret *s = calloc(1, sizeof(*s));
    if (s == NULL)
        return err_nomem(e);
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        free(s);
        return err_nomem(e);
    }
    (void)mlock(p, n); /* may fail under a low RLIMIT_MEMLOCK: then it can be swapped, not dumped */
    (void)madvise(p, n, MADV_DONTDUMP);
    (void)madvise(p, n, MADV_WIPEONFORK);
    *s = (struct secret){ .p = p, .n = n, .mapped = n };
    *ret = s;
    return 0;
}

int
secret_new(struct span s, struct secret **ret, struct err *e)
{
    struct secret *x = NULL;

    TRY(secret_map(s.n, &x, e));
    memcpy(x->p, s.p, s.n);
    *ret = x;
    return 0;
}

int
secret_random(size_t n, struct secret **ret, struct err *e)
{
    CLEANUP(secret_freep) struct secret *x = NULL;

    TRY(secret_map(n, &x, e));
    for (size_t have = 0; have < n;) {
        ssize_t r = getrandom(x->p + have, n - have, 0);
        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "getrandom");
        if (r > 0)
            have += (size_t)r;
    }
    *ret = STEAL(x);
    return 0;
}

void
secret_free(struct secret *s)
{
    if (s == NULL)
        return;
    explicit_bzero(s->p, s->mapped);
    (void)munmap(s->p, s->mapped);
    free(s);
}

struct span
secret_span(const struct secret *s)
{
    return s == NULL ? (struct span){ 0 } : (struct span){ s->p, s->n };
}

void
free_wiped(void *p)
{
    if (p != NULL)
        explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

bool
secret_eq(struct span a, struct span b)
{
    volatile uint8_t diff = 0;

    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++)
        diff = (uint8_t)(diff | (a.p[i] ^ b.p[i]));
    return diff == 0;
}
