/* play_kube.h - the API server, the clock and the timers as a test has them, by the linker's --wrap
 * (meson.build): what is sent waits until the test answers it, a watch tells what the test says,
 * and time stands still between. */
#ifndef TESTS_UNIT_OPERATOR_PLAY_KUBE_H
#define TESTS_UNIT_OPERATOR_PLAY_KUBE_H

#include "unit.h"

#include <stdio.h>
#include <string.h>

#include "base/str.h"
#include "kube/feed.h"
#include "kube/write.h"

/* A request; it stays here after its answer. */
struct sent {
    char method[8], path[512];
    json_t *body; /* owned; NULL: none */
    kube_done_fn *done;
    void *arg;
    bool is_over; /* answered, or nobody waits for it any more */
};

/* Set up and torn down by the tests' fixtures. */
void play_start(void);
void play_end(void);

size_t play_sent_n(void);         /* so many were sent since the last play_forget */
struct sent *play_sent(size_t i); /* the i-th of them */
void play_forget(void);           /* those that are over */
struct sent *play_find(const char *method, const char *path); /* under way; NULL: none */
/* Nothing was sent since the last play_forget. */
#define assert_nothing_sent() assert_int_equal(play_sent_n(), 0)
/* The next `n` requests fail at once. */
void play_refuse_next(unsigned n);

/* Answers with the object (owned by the call; NULL: its own body), as of resourceVersion
 * `version`, uid `uid`; or with an error. */
void play_answer(struct sent *q, json_t *take_object, const char *version);
void play_fail(struct sent *q, enum err_code code, const char *words);

/* The feed whose path begins like that. */
const struct kube_feed_conf *play_feed(const char *path);
void play_trouble(const char *path, const char *words); /* what kube_feed_trouble says from now */
void play_put(const char *path, const json_t *object);
void play_gone(const char *path, const json_t *object);
void play_list(const char *path, const json_t *const *objects, size_t n); /* begin, put, whole */
void play_list_version(const char *path,
                       const char *version); /* of the lists from now; "" before */

void play_rewind(const char *path); /* an etcd was restored: a list comes */

/* Time goes on; timers fire in their order, and what is deferred runs. */
void play_wait(uint64_t ms);
uint64_t play_now(void);

/* An object as a server has it: metadata, and members of `more` (owned by the call; may be NULL).
 * Owner: caller. */
json_t *play_object(const char *ns, const char *name, const char *version, json_t *take_more);
void play_version(json_t *o, const char *version); /* metadata.resourceVersion, and a uid */

#endif
