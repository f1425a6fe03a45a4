/* mesh_private.h - shared by the files of mesh/ only. */
#ifndef MESH_MESH_PRIVATE_H
#define MESH_MESH_PRIVATE_H

#include "ledger/ledger.h"
#include "mesh/mesh.h"
#include "mesh/vault_service.h"
#include "net/admin.h"
#include "net/monitor.h"
#include "obs/metrics.h"
#include "rotate/rotate.h"
#include "store/store.h"
#include "sync/sync.h"
#include "vault/client.h"

enum { PATH_BYTES = 1024 };

/* A plugged-in mesh's own parts; all NULL when the mode is another. */
struct plugged {
    struct vault_client *vault;
    struct sync *sync;
    struct rotate *rotate; /* NULL while `mesh enable` still looks at the vault */
};

/* A `mesh enable` under way: answered when the CA has loaded its first set, or refused. */
struct pending {
    struct mesh_settings want;
    mesh_done_fn *done; /* NULL: none is under way */
    void *arg;
    struct bundle *bundle; /* a reference: what the vault held, until the settings are stored */
    struct sync_versions versions;
    struct err why; /* for the deferred refusal */
};

struct mesh {
    struct loop *loop; /* borrowed */
    int lock_fd;       /* -1: not ours */
    char state_dir[PATH_BYTES], bundle_dir[PATH_BYTES], self_signed_dir[PATH_BYTES],
        trust_dir[PATH_BYTES];
    struct mesh_conf conf; /* its texts are copied into `texts` */
    json_t *texts;         /* owned: a list that keeps the copies */
    struct mesh_settings settings;
    uint64_t floor; /* the last generation before the last `mesh disable` */
    struct metrics *metrics;
    struct store *store;
    struct ledger *ledger;
    struct vault_service *vault;
    struct ca *ca; /* NULL while disabled */
    struct plugged plugged;
    struct pending pending;
    struct timer *patience; /* ends a pending enable that the CA does not answer */
    struct admin *admin;
    struct monitor *monitor;
};

/* plugged.c: opens vault client and sync for `s`, on the way to (or already with) a rotation. */
MUST_USE int plugged_open(struct mesh *m, const struct mesh_settings *s, struct err *e);
MUST_USE int plugged_start_rotation(struct mesh *m, struct err *e);
void plugged_close(struct mesh *m);

/* mesh.c, called by sync's and the CA's call-backs */
void mesh_on_bundle(struct bundle *b, const struct sync_versions *v, void *arg);
void mesh_on_refused(const struct err *why, void *arg);

/* admin.c: the Unix socket and the monitoring port. */
MUST_USE int admin_open(struct mesh *m, struct err *e);

#endif
