/* plan_map.h - the plan in a ConfigMap, a port of rotate/. Layer: operator (private).
 *
 * NAME-plan in the operator's own namespace: "plan.json", and "generation", the last one before a
 * plan was forgotten. Every write is over the resourceVersion that was read, so of two drivers one
 * loses and reads the other's. Thread: its loop. Source: ARCHITECTURE.md "On Kubernetes".
 */
#ifndef OPERATOR_PLAN_MAP_H
#define OPERATOR_PLAN_MAP_H

#include "kube/kube.h"
#include "rotate/ports.h"

struct plan_map;

/* `opened` is called once: the ConfigMap was read, or is not there (`why` NULL); or it could not
 * be read. */
typedef void plan_map_fn(const struct err *why, void *arg);
MUST_USE int plan_map_new(struct loop *l, struct kube_client *kube, const char *ns,
                          const char *name, plan_map_fn *opened, void *arg, struct plan_map **ret,
                          struct err *e);
/* A save under way is still answered by the server, and by nobody here. NULL is fine. */
void plan_map_free(struct plan_map *m);
bool plan_map_has_plan(const struct plan_map *m);
struct rotate_plans plan_map_port(struct plan_map *m);
/* The plugged-in CA is over: the plan goes, `generation` stays. `done` once, and not after a free.
 */
MUST_USE int plan_map_retire(struct plan_map *m, uint64_t generation, plan_map_fn *done, void *arg,
                             struct err *e);

#endif
