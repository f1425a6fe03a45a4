/* loop.h - one event loop, one thread. Layer: net. On libevent; only net/ sees that.
 *
 * Objects belong to the loop they were made on and are touched from its thread only. The one call
 * that other threads may make is loop_post. Callbacks do bounded work, never re-enter the loop and
 * never free their own object: they use loop_defer.
 */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/err.h"

struct loop;
struct timer;
struct fd_watch;

typedef void loop_fn(void *arg);

enum { LOOP_POST_MAX = 1 << 20 /* calls under way to one loop */ };

/* Owner: caller, loop_free (after loop_run has returned). Errors: NOMEM, SYS. */
MUST_USE int loop_new(struct loop **ret, struct err *e);
void loop_free(struct loop *l); /* NULL is fine; runs what was deferred and posted */
DEFINE_CLEANUP(struct loop, loop_free)

/* Runs until loop_stop. Errors: SYS. */
MUST_USE int loop_run(struct loop *l, struct err *e);
void loop_stop(struct loop *l); /* from its own thread; others post a call to it */

/* Calls fn(arg) on the loop's thread, in order of posting. Thread: any. Errors: LIMIT, NOMEM. */
MUST_USE int loop_post(struct loop *l, loop_fn *fn, void *arg, struct err *e);
/* Calls fn(arg) after the callbacks of this turn. Aborts on out-of-memory: it is used to free. */
void loop_defer(struct loop *l, loop_fn *fn, void *arg);

/* A one-shot timer, not yet set. Owner: caller, timer_free (not inside its own callback: defer). */
MUST_USE int timer_new(struct loop *l, loop_fn *fn, void *arg, struct timer **ret, struct err *e);
/* `ms` from now; replaces an earlier setting. Never fails: without memory for it the loop turns
 * until there is some, or the time has come. */
void timer_set(struct timer *t, uint64_t ms);
void timer_stop(struct timer *t);
void timer_free(struct timer *t); /* NULL is fine */
DEFINE_CLEANUP(struct timer, timer_free)

/* Calls fn(arg) when `fd` (borrowed) can be read, until fd_watch_free. */
MUST_USE int fd_watch_new(struct loop *l, int fd, loop_fn *fn, void *arg, struct fd_watch **ret,
                          struct err *e);
void fd_watch_free(struct fd_watch *w); /* NULL is fine */

/* Calls fn(arg) on the loop when the process gets signal `signo`; one loop of the process only. */
MUST_USE int loop_on_signal(struct loop *l, int signo, loop_fn *fn, void *arg, struct err *e);

#endif
