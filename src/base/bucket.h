/* bucket.h - how much may pass: so much at once, and so much a second in the long run. Layer: base.
 * A value; thread: its owner's.
 */
#ifndef BASE_BUCKET_H
#define BASE_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

struct bucket {
    uint64_t max, per, ms; /* at most `max` are kept; `per` (1..) come in `ms` (1..) */
    uint64_t parts;        /* what is left, in 1/ms of one */
    uint64_t at_ms;        /* of the last refill */
};

struct bucket bucket_full(uint64_t max, uint64_t per, uint64_t ms);
/* Takes one; false: none is left. The clock is read only then. */
bool bucket_take(struct bucket *b);
void bucket_give(struct bucket *b, uint64_t n); /* puts back, up to `max` */
/* Until there is one, after bucket_take said false; 0: there is. */
uint64_t bucket_wait_ms(const struct bucket *b);

#endif
