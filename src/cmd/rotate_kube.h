/* rotate_kube.h - `rotate force` where the mesh is on Kubernetes: the annotation of the PluginCA
 * that names the step; the operator takes it. Layer: cmd. Blocks: until the API server answers. */
#ifndef CMD_ROTATE_KUBE_H
#define CMD_ROTATE_KUBE_H

#include "cmd/mesh_kube.h"

/* Says which step is held and who is cut off by it; with `force` asks the operator to take it.
 * Errors: STATE (no step is held, another one by now, the operator refused), NOTFOUND (no
 * PluginCA), INVAL (flags), TIMEOUT (the operator has not answered), and as mesh_session_open. */
MUST_USE int rotate_kube_force(const struct mesh_kube *k, const struct mesh_kube_change *c,
                               bool force, const char *output, struct err *e);

#endif
