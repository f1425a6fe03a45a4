/* mesh.h - the mesh on one machine: vault, sync, rotation and CA on one store, and its switch.
 * Layer: mesh.
 *
 * What `meshroot up` runs. Owns the state folder:
 *   STATE/lock, meshroot.db     one process at a time; the store
 *   STATE/bundle/               the set in force: what rotation writes and the CA reads
 *   STATE/self-signed/          the self-signed root, when that is the mode
 *   STATE/trust/root-cert.pem   the trust set in force, for workloads that start
 *   STATE/admin.sock            the admin API (admin.h), for the commands of the same user
 * Thread: its loop. Source: design.md "One binary, two ways to run"; specs/istio-ca.md 10.1.
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <jansson.h>

#include "ca/ca.h"
#include "mesh/settings.h"
#include "net/loop.h"

struct mesh;

struct mesh_conf {
    const char *state_dir;
    const char *ca_listen, *vault_listen,
        *monitoring_listen; /* "127.0.0.1:15012"; port 0 picks one */
    const char *vault_name;
    const char *trust_domain;
    struct ca_callers who; /* what it points to outlives the mesh */
    size_t workers;
    uint64_t default_ttl_ms, max_ttl_ms, renew_window_ms, reread_ms, jwt_publish_ms;
    uint64_t ledger_keep_ms; /* ledger_keep_for; 0: every row is kept */
};

/* Opens (and locks) the state folder, starts the vault, and goes on where the last run stopped.
 * Errors: STATE (in use by another process), SYS, INVAL. Blocks: disk. */
MUST_USE int mesh_new(struct loop *l, const struct mesh_conf *conf, struct mesh **ret,
                      struct err *e);
void mesh_free(struct mesh *m); /* NULL is fine */

/* done(e, arg) once: e->code == E_NONE when the mesh runs in the new mode. Plugged-in: only after
 * the vault's four secrets were read and found to be a bundle; otherwise nothing has changed.
 * Errors: STATE (it is enabled already in another mode: says how to switch), INVAL. */
typedef void mesh_done_fn(const struct err *e, void *arg);
MUST_USE int mesh_enable(struct mesh *m, const struct mesh_settings *s, mesh_done_fn *done,
                         void *arg, struct err *e);
/* Ends the CA and forgets plan and bundle. The ledger and the vault stay. Errors: STATE (not
 * enabled), SYS. */
MUST_USE int mesh_disable(struct mesh *m, struct err *e);
/* rotate_force, for the admin API. Owner of *ret_risk: caller. */
MUST_USE int mesh_force(struct mesh *m, json_t **ret_risk, struct err *e);

/* Everything `mesh status` shows (the members are in status.c, ca.h, rotate.h and sync.h). Owner:
 * caller; NULL: out of memory. */
json_t *mesh_status(struct mesh *m);
bool mesh_is_ready(struct mesh *m);
struct metrics *mesh_metrics(struct mesh *m); /* borrowed */
/* {"ca","vault","monitoring"}: the ports in use. Owner: caller. */
json_t *mesh_ports(struct mesh *m);

#endif
