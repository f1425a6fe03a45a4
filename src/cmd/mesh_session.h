/* mesh_session.h - one PluginCA and the API server that has it, for a command: one question after
 * the other. Layer: cmd. Blocks: until the API server answers. */
#ifndef CMD_MESH_SESSION_H
#define CMD_MESH_SESSION_H

#include "cmd/mesh_kube.h"
#include "kube/session.h"

enum { MESH_LOOK_MS = 300 }; /* between two looks of who waits */

struct mesh_session { /* zeroed, or open; stays where it was opened */
    struct kube_session kube;
    struct kube_conf conf;
    const char *ns, *name; /* of the PluginCA; borrowed */
    json_t *body;          /* owned: the last answer */
};

const char *mesh_namespace(const struct mesh_kube *k); /* the flag's, or the usual one */
/* Refuses names that no API server takes, before one is asked. Errors: INVAL. */
MUST_USE int mesh_names_check(const struct mesh_kube *k, struct err *e);
/* Finds the cluster as kubectl does: the flag, KUBECONFIG, ~/.kube/config, the pod's own. Errors:
 * INVAL (a name), NOTFOUND (no cluster is named), and as kube_session_open. */
MUST_USE int mesh_session_open(const struct mesh_kube *k, struct mesh_session *s, struct err *e);
void mesh_session_done(struct mesh_session *s);
/* An object of the PluginCA's namespace into s->body. Errors: as kube_session_get. */
MUST_USE int mesh_session_get(struct mesh_session *s, const struct kube_kind *what,
                              const char *name, struct err *e);
/* The PluginCA into s->body, for who waits: an API server that does not answer is asked again until
 * `until_ms` (mono_ms). Errors: as mesh_session_get; not PEER, BUSY, TIMEOUT before that. */
MUST_USE int mesh_session_look(struct mesh_session *s, uint64_t until_ms, struct err *e);
/* The object as it is then, into s->body. Errors: as kube_session_write. */
MUST_USE int mesh_session_write(struct mesh_session *s, kube_verb_fn *verb,
                                const struct kube_write *w, struct err *e);

#endif
