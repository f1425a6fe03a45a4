/* bucket.c - see bucket.h. Source: a token bucket, in whole numbers. */
#include "base/bucket.h"

#include "base/clock.h"

static void
add(struct bucket *b, uint64_t parts)
{
    uint64_t room = b->max * b->ms - b->parts;

    b->parts += parts < room ? parts : room;
}

struct bucket
bucket_full(uint64_t max, uint64_t per, uint64_t ms)
{
    return (
        struct bucket){ .max = max, .per = per, .ms = ms, .parts = max * ms, .at_ms = mono_ms() };
}

static void
refill(struct bucket *b)
{
    uint64_t now = mono_ms(), gone = now - b->at_ms, whole = b->max * b->ms / b->per + 1;

    add(b, (gone < whole ? gone : whole) * b->per);
    b->at_ms = now;
}

bool
bucket_take(struct bucket *b)
{
    if (b->parts < b->ms)
        refill(b);
    if (b->parts < b->ms)
        return false;
    b->parts -= b->ms;
    return true;
}

void
bucket_give(struct bucket *b, uint64_t n)
{
    add(b, (n < b->max ? n : b->max) * b->ms);
}

uint64_t
bucket_wait_ms(const struct bucket *b)
{
    return b->parts >= b->ms ? 0 : (b->ms - b->parts + b->per - 1) / b->per;
}
