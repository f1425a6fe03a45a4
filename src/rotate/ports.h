/* ports.h - where the driver keeps its plan, and what it brings to it. Layer: rotate.
 *
 * `meshroot up` has a store and a folder (the two at the end of this page), the operator has a
 * ConfigMap and Secrets. Thread: the driver's loop. Source: design.md "Rotation", rule 4.
 */
#ifndef ROTATE_PORTS_H
#define ROTATE_PORTS_H

#include "net/loop.h"
#include "store/store.h"
#include "sync/sync.h"

/* A generation that is found outside the plan (in a target, a kept floor, a status) counts up to
 * this: numbers only grow, and none that was handed out comes near it. */
#define GENERATION_TOLD_MAX (UINT64_C(1) << 53)

/* Of `load` and `write`. */
enum { ROTATE_ABSENT = 1, ROTATE_LATER = 1 };

/* How a save ended: code E_NONE and the new revision; CONFLICT: somebody else has put one there,
 * which `load` gives from now on. */
typedef void rotate_saved_fn(const struct err *e, uint64_t revision, void *arg);

struct rotate_plans {
    /* The plan's text as it is kept now, and its revision. r: 0; ROTATE_ABSENT. Errors: SYS. */
    int (*load)(void *self, struct buf *text, uint64_t *ret_revision, struct err *e);
    /* The last generation of a plan that `forget` took away; 0: none. */
    int (*floor)(void *self, uint64_t *ret, struct err *e);
    /* Puts a plan over the one of that revision (0: over none). `done` is called once, on `l` and
     * later, also when the driver has gone. Errors: LIMIT, NOMEM. */
    int (*save)(void *self, struct span text, uint64_t revision, struct loop *l,
                rotate_saved_fn *done, void *arg, struct err *e);
    /* Forgets the plan and keeps its generation. Blocks until that is durable. Errors: SYS. */
    int (*forget)(void *self, uint64_t generation, struct err *e);
    void *self; /* borrowed */
};

struct rotate_target {
    const char *name; /* for messages: "/var/lib/meshroot/bundle"; borrowed */
    /* The set that is there now. r: 0; SET_ABSENT. Errors: what is there is no set. */
    int (*read)(void *self, struct bundle **ret, struct set_manifest *ret_m, struct err *e);
    /* Writes a whole set or nothing. r: 0 it is there; ROTATE_LATER: rotate_target_moved will tell.
     */
    int (*write)(void *self, const struct bundle *b, const struct set_manifest *m, struct err *e);
    void *self; /* borrowed */
};

/* The plan in an embedded store, under "rotate/...". */
struct rotate_plans rotate_plans_store(struct store *s);
/* The set in a folder (set_write). `dir` is borrowed. */
struct rotate_target rotate_target_folder(const char *dir);

#endif
