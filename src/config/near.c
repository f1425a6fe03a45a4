#include "config/near.h"

#include <stdint.h>
#include <string.h>

struct near
near_start(struct span word)
{
    return (struct near){ .word = word, .distance = SIZE_MAX };
}

static size_t
least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The optimal string alignment distance, three rows of its table at a time. */
static size_t
distance(struct span a, struct span b)
{
    size_t rows[3][NEAR_WORD_BYTES + 1];
    const uint8_t *x = a.p, *y = b.p;

    for (size_t j = 0; j <= b.n; j++)
        rows[0][j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t *now = rows[i % 3], *up = rows[(i + 2) % 3], *above = rows[(i + 1) % 3];

        now[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            now[j] = least(least(up[j], now[j - 1]) + 1, up[j - 1] + (x[i - 1] != y[j - 1]));
            if (i > 1 && j > 1 && x[i - 1] == y[j - 2] && x[i - 2] == y[j - 1])
                now[j] = least(now[j], above[j - 2] + 1);
        }
    }
    return rows[a.n % 3][b.n];
}

void
near_try(struct near *n, const char *candidate)
{
    struct span c = span_str(candidate);

    if (c.n == 0 || c.n > NEAR_WORD_BYTES || n->word.n == 0 || n->word.n > NEAR_WORD_BYTES)
        return;
    size_t d = distance(n->word, c);
    if (d < n->distance) {
        n->best = candidate;
        n->distance = d;
    }
}

const char *
near_word(const struct near *n)
{
    return n->best != NULL && n->distance <= (strlen(n->best) + 2) / 3 ? n->best : NULL;
}
