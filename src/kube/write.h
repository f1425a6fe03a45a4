/* write.h - changing what is in the cluster, and building what is written. Layer: kube.
 *
 * Five verbs on one request. Whoever changes an object that others write too says what he read
 * (PUT, DELETE with preconditions) or which fields are his (apply). Objects are jansson's; the
 * builders below know the few members that are used here. Source: Kubernetes API concepts
 * ("Resource versions", "Server-side apply", "Dry-run"), API conventions; RFC 7386.
 */
#ifndef KUBE_WRITE_H
#define KUBE_WRITE_H

#include "kube/kube.h"

/* -- what there is ------------------------------------------------------------------------------
 */

struct kube_kind {
    const char *api;    /* "v1", "apps/v1": apiVersion */
    const char *kind;   /* "Secret" */
    const char *plural; /* "secrets": in paths and RBAC */
    bool is_namespaced;
};
extern const struct kube_kind kube_secret, kube_config_map, kube_namespace, kube_pod, kube_service,
    kube_service_account, kube_deployment, kube_stateful_set, kube_replica_set, kube_lease,
    kube_event_kind, kube_access_review; /* SelfSubjectAccessReview: create only */

enum {
    KUBE_NAME_MAX_BYTES = 253,              /* RFC 1123 subdomain */
    KUBE_LABEL_MAX_BYTES = 63,              /* a label's value, a namespace's name */
    KUBE_DATA_MAX_BYTES = 1024 * 1024,      /* of a Secret or ConfigMap; the server's bound */
    KUBE_WRITE_MAX_BYTES = 2 * 1024 * 1024, /* of a request's body */
};

/* The path of an object, or of the collection when `name` is NULL, with `sub` ("status") or without
 * (NULL). `ns` NULL: all namespaces, or a kind without. Names are checked, so nothing in them can
 * lead elsewhere. Owner: caller, free(). Errors: INVAL, NOMEM. */
MUST_USE int kube_path(const struct kube_kind *kind, const char *ns, const char *name,
                       const char *sub, char **ret, struct err *e);

/* -- verbs --------------------------------------------------------------------------------------
 */

struct kube_write { /* all borrowed until the call returns */
    const struct kube_kind *kind;
    const char *ns, *name;     /* NULL: as the object's metadata says (delete: must be named) */
    const char *sub;           /* "status", or NULL */
    const json_t *object;      /* what to write; a patch: the merge patch */
    const char *manager;       /* whose fields these are; NULL: "meshroot" */
    bool is_forced;            /* apply: takes fields that another manager has */
    bool is_dry_run;           /* the server checks everything and changes nothing */
    const char *uid, *version; /* delete: only this very object, only in this version; or NULL */
    const char *propagation;   /* delete: "Background", "Foreground", "Orphan"; NULL: the kind's */
    uint64_t deadline_ms;      /* as of kube_send */
};
/* `done` is called once, with the object as it is now (a delete: a Status or the object), or `why`,
 * as kube_send has it:
 *   EXISTS    create: the name is taken
 *   CONFLICT  it is not what was read any more, or (apply) another manager has a field: the words
 *             name it
 *   NOTFOUND  the object, its namespace or its kind is not there
 *   DENIED    the words name account, verb, resource and namespace, as the server has them
 *   STATE     the namespace is being terminated
 *   INVAL     the server does not take the object: the words name the field
 * Update, apply, patch and delete are tried again within the deadline, create only after 429: when
 * `why` is PEER or TIMEOUT, it may have been done all the same. A delete that was sent twice may
 * say NOTFOUND, an update CONFLICT, though it was this one that did it: read again.
 * Errors at once: INVAL (a name; an update without metadata.resourceVersion), LIMIT, NOMEM. */
MUST_USE int kube_create(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                         void *arg, struct kube_call **ret, struct err *e);
/* PUT of the whole object, only over the resourceVersion that is in its metadata. */
MUST_USE int kube_update(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                         void *arg, struct kube_call **ret, struct err *e);
/* Server-side apply: the fields in `object` become the manager's, others stay; makes the object
 * when there is none. With metadata.resourceVersion: only over that. */
MUST_USE int kube_apply(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                        void *arg, struct kube_call **ret, struct err *e);
/* Merge patch (RFC 7386): null removes a member, a list is replaced as a whole. */
MUST_USE int kube_patch(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                        void *arg, struct kube_call **ret, struct err *e);
MUST_USE int kube_delete(struct kube_client *c, const struct kube_write *w, kube_done_fn *done,
                         void *arg, struct kube_call **ret, struct err *e);

/* -- objects ------------------------------------------------------------------------------------
 * Thread: any. Texts are copied. All fail with NOMEM, or INVAL when the text is not UTF-8. */

/* {apiVersion, kind, metadata{name, namespace}}; `ns` NULL: none. Owner: caller. */
MUST_USE int kube_object_new(const struct kube_kind *kind, const char *ns, const char *name,
                             json_t **ret, struct err *e);
/* A member of metadata.labels or metadata.annotations; `value` NULL (JSON null): in a merge patch,
 * away with it. */
MUST_USE int kube_object_label(json_t *o, const char *key, const char *value, struct err *e);
MUST_USE int kube_object_annotate(json_t *o, const char *key, const char *value, struct err *e);
/* metadata.ownerReferences gets `owner`, an object as the server gave it (apiVersion, kind, name,
 * uid), as the one controller when `is_controller`. Errors: and INVAL (the owner has no uid). */
MUST_USE int kube_object_own(json_t *o, const json_t *owner, bool is_controller, struct err *e);
/* Sets metadata.resourceVersion to that of the object that was read (kube_object_version): what
 * makes an update safe. Errors: and PARSE (it had none). */
MUST_USE int kube_object_guard(json_t *o, const char *version, struct err *e);
/* A Secret's data, base64: set, and decoded into `out` (capped by the caller, who wipes it). r: 0;
 * KUBE_DATA_ABSENT. Errors: and LIMIT, PARSE. */
enum { KUBE_DATA_ABSENT = 1 };
MUST_USE int kube_secret_set(json_t *o, const char *key, struct span bytes, struct err *e);
MUST_USE int kube_secret_get(const json_t *o, const char *key, struct buf *out, struct err *e);
MUST_USE int kube_config_map_set(json_t *o, const char *key, struct span text, struct err *e);

/* What metadata says; "" when absent or no text. Borrowed. */
const char *kube_object_name(const json_t *o);
const char *kube_object_ns(const json_t *o);
const char *kube_object_uid(const json_t *o);
const char *kube_object_version(const json_t *o);
/* A resourceVersion as a number, to tell earlier from later (Kubernetes API concepts, "Resource
 * versions"); 0: it is none. */
uint64_t kube_revision(const char *version);
/* The answer to our own write and what a watch or list tells come in any order. r: what is of
 * `revision` was over already at `known`, when the object was read last (`exists`), or was gone. */
bool kube_is_late(uint64_t revision, uint64_t known, bool exists);
/* "" when absent. */
const char *kube_object_get_label(const json_t *o, const char *key);
const char *kube_object_get_annotation(const json_t *o, const char *key);
/* It has a deletionTimestamp: it goes when its finalizers are done. */
bool kube_object_is_going(const json_t *o);
/* A text at a path of members ("status.phase"; no member with a dot in its name); "" when absent.
 * Borrowed. */
const char *kube_object_text(const json_t *o, const char *path);

#endif
