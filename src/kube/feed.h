/* feed.h - all objects of one kind, listed page by page and then watched. Layer: kube.
 *
 * Nothing is trusted: an answer is bounded in bytes, depth and objects, and whatever breaks the
 * protocol ends the try, not the process. Source: Kubernetes API concepts, "Efficient detection of
 * changes", "Retrieving large results sets in chunks"; watch bookmarks (KEP 956). A watch from a
 * version that has not come yet is silent until it has (kubernetes issue 107457), or is refused
 * with 504 and the cause ResourceVersionTooLarge.
 */
#ifndef KUBE_FEED_H
#define KUBE_FEED_H

#include "kube/kube.h"

enum {
    KUBE_MAX_DEPTH = 64,                    /* of a JSON text of the API server */
    KUBE_VERSION_BYTES = 128,               /* a resourceVersion; opaque */
    KUBE_CONTINUE_MAX_BYTES = 8 * 1024,     /* a continue token; opaque */
    KUBE_MAX_EVENT_BYTES = 3 * 1024 * 1024, /* one line of a watch: an object of etcd has 1.5 MiB */
    KUBE_LIST_LIMIT = 100,                  /* objects on a page; halved when a page is too large */
    KUBE_LIST_MAX_OBJECTS = 1000000,        /* of one list */
    KUBE_LIST_RESTARTS = 3,            /* from the first page, when a continue token is too old */
    KUBE_WATCH_S = 60,                 /* the server is asked to end a watch then */
    KUBE_WATCH_SLACK_MS = 15 * 1000,   /* and we do this much later */
    KUBE_FEED_WAIT_FIRST_MS = 500,     /* before the next try: doubled, half of it random; the */
    KUBE_FEED_WAIT_MAX_MS = 30 * 1000, /* first again after any sound event */
    KUBE_FEED_RELIST_MS = 150 * 1000,  /* without a word: the list again, as a proof of life */
    KUBE_FEED_VERIFY_MS = 600 * 1000,  /* for small lists that must be right: verify_ms */
};

/* -- list -------------------------------------------------------------------------------------- */

struct kube_list_conf {
    const char *path;     /* "/api/v1/pods", or with a selector: "...?fieldSelector=..." */
    size_t max_objects;   /* 0: KUBE_LIST_MAX_OBJECTS; beyond: LIMIT */
    uint64_t deadline_ms; /* for each page; 0: 30 s */
    /* The list begins, again when its continue token is too old (410): forget what it gave. */
    void (*begin)(void *arg);
    int (*item)(const json_t *object, void *arg, struct err *e); /* <0 ends the list with it */
    /* Exactly one call, with the whole list's resourceVersion or `why` (as kube_send; STATE: too
     * old again and again). */
    void (*done)(const char *version, const struct err *why, void *arg);
    void *arg;
};
struct kube_list;
MUST_USE int kube_list_start(struct kube_client *c, const struct kube_list_conf *conf,
                             struct kube_list **ret, struct err *e);
void kube_list_cancel(struct kube_list *l); /* not from its own call-backs; NULL is fine */
const char *kube_list_version(const struct kube_list *l); /* in `item`: of the whole list */

/* One object by its path. Errors: as kube_send. */
MUST_USE int kube_get(struct kube_client *c, const char *path, uint64_t deadline_ms,
                      kube_done_fn *done, void *arg, struct kube_call **ret, struct err *e);

/* -- the protocol, without I/O ----------------------------------------------------------------- */

enum kube_event_type { KUBE_PUT, KUBE_GONE, KUBE_BOOKMARK, KUBE_ERROR };

struct kube_event {
    enum kube_event_type type;        /* PUT: ADDED or MODIFIED */
    json_t *object;                   /* owned: json_decref */
    char version[KUBE_VERSION_BYTES]; /* the object's; "" with KUBE_ERROR */
    struct err error;                 /* KUBE_ERROR: as kube_send's; STATE is 410 */
};
/* A line of a watch. Errors: PARSE, NOMEM. Thread: any. */
MUST_USE int kube_event_read(struct span line, struct kube_event *ret, struct err *e);
/* metadata.resourceVersion of an object or a list. Errors: PARSE (none, or what no URL may hold).
 */
MUST_USE int kube_version_read(const json_t *object, char ret[KUBE_VERSION_BYTES], struct err *e);

/* -- feed -------------------------------------------------------------------------------------- */

struct kube_feed_conf {
    const char *path;        /* "/api/v1/pods" or "/api/v1/namespaces/NS/pods"; copied */
    const char *name;        /* "pods", for messages and metrics; copied */
    struct metrics *metrics; /* borrowed; may be NULL */
    size_t max_objects;      /* as of a list */
    uint64_t watch_s, relist_ms, wait_first_ms; /* 0: as above */
    /* A list after so long although the watch goes on: it heals what a watch cannot tell of, such
     * as an etcd that was restored and has counted past our version since. 0: never */
    uint64_t verify_ms;
    /* A list begins: what is not put until `whole` is not there any more. It may begin again. */
    void (*begin)(void *arg);
    int (*put)(const json_t *object, void *arg, struct err *e);
    int (*gone)(const json_t *object, void *arg, struct err *e);
    void (*whole)(void *arg); /* the list is complete */
    /* What was given so far is what there is: a list, event, bookmark. May be NULL, as the next. */
    void (*alive)(void *arg);
    /* put or gone failed: what they keep may not be believed until the next `whole`. */
    void (*broken)(void *arg);
    /* The list that comes now is of a lower revision than one that was told before: an etcd was
     * restored. Revisions that are known are of a history that is no more; so are writes under
     * way. */
    void (*rewound)(void *arg);
    void *arg;
};
/* Lists, watches, goes on where a watch ended, lists again when that is too long ago; never ends by
 * itself. Belongs to the client's loop; the client outlives it. Errors: NOMEM. */
struct kube_feed;
MUST_USE int kube_feed_new(struct loop *l, struct kube_client *c, const struct kube_feed_conf *conf,
                           struct kube_feed **ret, struct err *e);
void kube_feed_free(struct kube_feed *f); /* not from its call-backs; NULL is fine */
DEFINE_CLEANUP(struct kube_feed, kube_feed_free)
/* Why the last try failed; "" when it did not. Borrowed. */
const char *kube_feed_trouble(const struct kube_feed *f);
/* In put, gone and whole: as of which version that is so, the list's or the event's. An object of a
 * list may have been written long before: it is what there is now. Borrowed. */
const char *kube_feed_version(const struct kube_feed *f);

#endif
