#include "ledger/share.h"

#include <stdlib.h>
#include <string.h>

enum { BUCKETS_FIRST = 64 };

static struct share **
bucket_of(struct share **buckets, size_t n, uint64_t seed, const char *identity)
{
    uint64_t h = seed ^ 0xcbf29ce484222325u;

    for (; *identity != '\0'; identity++)
        h = (h ^ (uint8_t)*identity) * 0x100000001b3u + (h >> 47 ^ seed);
    h ^= h >> 29;
    return &buckets[h % n];
}

int
shares_init(struct shares *s, uint64_t seed, struct err *e)
{
    *s = (struct shares){ .seed = seed, .buckets_n = BUCKETS_FIRST };
    s->buckets = calloc(s->buckets_n, sizeof(struct share *));
    return s->buckets == NULL ? err_nomem(e) : 0;
}

void
shares_done(struct shares *s)
{
    for (size_t i = 0; s->buckets != NULL && i < s->buckets_n; i++)
        while (s->buckets[i] != NULL) {
            struct share *x = s->buckets[i];

            s->buckets[i] = x->next;
            free(x);
        }
    free(s->buckets);
    *s = (struct shares){ .buckets = NULL };
}

/* Best effort: a table that could not grow is slower, not wrong. */
static void
grow(struct shares *s)
{
    size_t n = s->buckets_n * 2;
    struct share **b = calloc(n, sizeof(struct share *));

    if (b == NULL)
        return;
    for (size_t i = 0; i < s->buckets_n; i++)
        while (s->buckets[i] != NULL) {
            struct share *x = s->buckets[i], **to = bucket_of(b, n, s->seed, x->identity);

            s->buckets[i] = x->next;
            x->next = *to;
            *to = x;
        }
    free(s->buckets);
    s->buckets = b;
    s->buckets_n = n;
}

static struct share *
find(const struct shares *s, const char *identity)
{
    struct share *x = *bucket_of(s->buckets, s->buckets_n, s->seed, identity);

    while (x != NULL && strcmp(x->identity, identity) != 0)
        x = x->next;
    return x;
}

const struct share *
shares_find(const struct shares *s, const char *identity)
{
    return find(s, identity);
}

int
shares_get(struct shares *s, const char *identity, struct share **ret, struct err *e)
{
    size_t n = strlen(identity) + 1;
    struct share *x = find(s, identity);

    if (x == NULL) {
        if (s->n >= s->buckets_n)
            grow(s);
        x = calloc(1, sizeof(*x) + n);
        if (x == NULL)
            return err_nomem(e);
        memcpy(x->identity, identity, n);
        struct share **at = bucket_of(s->buckets, s->buckets_n, s->seed, identity);
        x->next = *at;
        *at = x;
        s->n++;
    }
    *ret = x;
    return 0;
}

void
shares_drop(struct shares *s, struct share *x)
{
    struct share **at = bucket_of(s->buckets, s->buckets_n, s->seed, x->identity);

    while (*at != x)
        at = &(*at)->next;
    *at = x->next;
    s->n--;
    free(x);
}
