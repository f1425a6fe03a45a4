/* room.h - private to signer/: the CA's side, shared by process.c and lane.c. */
#ifndef SIGNER_ROOM_H
#define SIGNER_ROOM_H

#include <stdatomic.h>
#include <sys/types.h>

#include "signer/ipc.h"

struct signer_process {
    atomic_uint refs; /* its owner's, and one for each signer */
    struct signer_process_conf conf;
    pid_t pid;              /* 0: no child */
    int control;            /* -1: no child */
    struct fd_watch *watch; /* of control: it speaks when asked, so otherwise it has gone */
    struct timer *again;    /* the next start, or the look at a child that has gone */
    uint64_t pause_ms, up_since_ms;
    struct ipc_hello hello;
    struct signer_lane *lanes[SIGNER_LANES_MAX]; /* borrowed; the first lanes_n */
    size_t lanes_n;
    int lane_fds[SIGNER_LANES_MAX]; /* our ends, until their lanes take them; -1 */
    uint32_t last_id;
    unsigned restarts;
    struct buf in, out; /* of control */
    char trouble[ERR_MSG_BYTES];
    bool is_looking; /* `again` is set to look at the child */
    atomic_bool is_closed;
};

/* lane.c: gives a lane its end of a new child's socket pair. `take_fd` is owned from the call on.
 */
MUST_USE int lane_connect(struct signer_lane *l, int take_fd, pid_t pid, struct err *e);
MUST_USE int lane_make(struct signer_process *p, struct loop *loop, struct signer_lane **ret,
                       struct err *e);
/* Any thread: a lane's child does not answer any more. */
void process_stuck(struct signer_process *p, pid_t pid);

uint32_t signer_id(const struct signer *s);

#endif
