/* turnstile.h - private to ca/: how many calls of one kind and worker may wait for signer and
 * ledger, and when those that may not are to come back.
 *
 * Every call that is turned away is given a place in time of its own, behind all that were given
 * before, at the pace at which calls have ended lately: those that come back come one after the
 * other, and the time grows with their number. A part of the places is kept for them, so that
 * nobody who comes for the first time takes them; and no connection has more than a few when places
 * are few. No I/O; time is passed in. Thread: the worker's.
 */
#ifndef CA_TURNSTILE_H
#define CA_TURNSTILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TURNSTILE_WAIT_MS = 4000,   /* fewer, when so many would wait longer than this */
    TURNSTILE_KEPT_PART = 4,    /* one in so many places is kept for those who come back */
    TURNSTILE_OWN_CALLS = 16,   /* of one connection, once half of the places are taken */
    TURNSTILE_BACK_MIN_MS = 50, /* told to come back after */
    TURNSTILE_BACK_MAX_MS = 30 * 1000,
};

struct turnstile {
    size_t places;          /* calls that wait, at most; 0: no limit */
    size_t waiting;         /* calls that were let in and are not over */
    uint64_t each_us;       /* that one takes, as measured lately; 0: not yet known */
    uint64_t from_ms, over; /* the measurement under way: since when somebody waited all the time */
    uint64_t given_us;      /* the last place in time that was given */
};

struct turnstile_caller {
    bool has_waited; /* it was turned away before */
    size_t own;      /* calls under way on its connection, this one too */
};
/* r: 0 there is a place; else after how many ms to come back. */
uint64_t turnstile_ask(struct turnstile *t, const struct turnstile_caller *c, uint64_t now_ms);
/* One call begins to wait; and is over, however it ended. */
void turnstile_in(struct turnstile *t, uint64_t now_ms);
void turnstile_out(struct turnstile *t, uint64_t now_ms);

#endif
