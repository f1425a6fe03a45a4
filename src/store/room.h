/* room.h - private to store/: what the callers' side and the writer's share. */
#ifndef STORE_ROOM_H
#define STORE_ROOM_H

#include <pthread.h>

#include "store/db.h"
#include "store/store.h"

/* One caller's transaction; keys and values lie behind the ops in the same block. */
struct txn {
    struct txn *next;
    struct loop *loop;
    store_done_fn *done;
    void *arg;
    uint64_t revision;
    struct err err;
    size_t n, bytes; /* ops; of the whole block */
    struct store_op ops[];
};

struct store_source {
    struct store_source *next;
    struct store *store;
    store_fill_fn *fill;
    store_done_fn *done;
    void *arg;
    size_t more_n;  /* asked for since the last fill; under the store's lock */
    bool is_filled; /* the rest: the writer's thread only */
    uint64_t revision;
    struct err err;
    size_t ops_n;
    struct store_op ops[STORE_SOURCE_OPS];
};

struct store {
    struct db *writer; /* the writer's thread only */
    struct db *reader; /* under read_lock */
    pthread_mutex_t read_lock;
    pthread_t thread;
    bool running;
    uint64_t revision; /* the writer's thread only, as are these */
    size_t group_n;    /* things in the last group */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t more, calm;
    struct txn *head, **tail;
    size_t ops_n, bytes_n; /* waiting */
    size_t wake_at;        /* the writer sleeps until so many things wait; SIZE_MAX: it does not */
    size_t waiting_n;      /* transactions, and what sources have asked for */
    struct store_source *sources;
    size_t changing_n; /* who wait for the writer's rest to change `sources` */
    bool is_busy;      /* the writer is at work on a group */
    bool stopping;
    struct store_watch *watches;
    struct store_stats stats;
    struct err trouble; /* of the last write; E_NONE: it is on the disk */
};

void txn_free(struct txn *t);
/* Under the lock: one more thing waits for the writer. */
void writer_more(struct store *s);
void *writer_main(void *store);
/* Sends hints for what these have changed. */
void watches_tell(struct store *s, const struct store_op *ops, size_t n);

#endif
