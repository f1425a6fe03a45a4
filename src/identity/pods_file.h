/* pods_file.h - a cluster (cluster.h) as a file shows it: the List that
 *   kubectl get pods,serviceaccounts -A -o json
 * prints. Read again by content at an interval; a damaged file leaves the last good one in force,
 * and so does one that is gone, for PODS_STALE_MS: after that nothing is known. Layer: identity.
 */
#ifndef IDENTITY_PODS_FILE_H
#define IDENTITY_PODS_FILE_H

#include "identity/cluster.h"

enum {
    PODS_FILE_MAX_BYTES = 64 * 1024 * 1024,
    PODS_FILE_MAX_ITEMS = 50000,
    PODS_FILE_EVERY_MS = 1000,
    PODS_STALE_MS = 5 * 60 * 1000,
};

/* Pods and accounts at one moment. Immutable. Owner: caller. */
struct pod_list;
/* A List, PodList or ServiceAccountList; items of other kinds are skipped. A PodList knows no
 * accounts, so no bound token passes with it. Errors: PARSE (which item), LIMIT. */
MUST_USE int pod_list_from_json(struct span json, struct pod_list **ret, struct err *e);
void pod_list_free(struct pod_list *l); /* NULL is fine */
DEFINE_CLEANUP(struct pod_list, pod_list_free)
size_t pod_list_pods(const struct pod_list *l);
/* Borrowed, by namespace and name; NULL: not there. */
const struct cluster_pod *pod_list_pod(const struct pod_list *l, const char *ns, const char *name);
const struct cluster_account *pod_list_account(const struct pod_list *l, const char *ns,
                                               const char *name);
bool pod_list_runs_on(const struct pod_list *l, const char *node, const char *ns, const char *sa);

/* Thread: its loop; the port may be asked on any. `every_ms` and `stale_ms` 0: as above. */
struct pods_file;
struct pods_file_conf {
    const char *path; /* copied */
    uint64_t every_ms, stale_ms;
    struct metrics *metrics; /* borrowed; may be NULL */
};
MUST_USE int pods_file_new(struct loop *l, const struct pods_file_conf *conf,
                           struct pods_file **ret, struct err *e);
/* When nobody asks the port any more. NULL is fine. */
void pods_file_free(struct pods_file *f);
DEFINE_CLEANUP(struct pods_file, pods_file_free)
/* How many are known (0: also when none were read yet), and why not now. Thread: its loop. */
size_t pods_file_count(const struct pods_file *f);
const char *pods_file_trouble(const struct pods_file *f);
const struct cluster *pods_file_cluster(const struct pods_file *f); /* borrowed */

#endif
