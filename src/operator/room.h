/* room.h - private to operator/: the operator, and one PluginCA in force. Layer: operator. */
#ifndef OPERATOR_ROOM_H
#define OPERATOR_ROOM_H

#include "kube/feed.h"
#include "kube/recorder.h"
#include "kube/write.h"
#include "operator/operator.h"
#include "operator/plan_map.h"
#include "operator/plugin_ca.h"
#include "operator/sets.h"
#include "operator/spread.h"
#include "rotate/rotate.h"
#include "sync/sync.h"
#include "vault/client.h"

enum {
    TICK_MS = 1000,
    RETRY_FIRST_MS = 500,
    RETRY_MAX_MS = 30 * 1000,
    PROBLEM_BYTES = 600,
    PLUGINS_MAX = 16, /* PluginCAs of one namespace that are looked at: the oldest */
    EVENT_NOTE_BYTES = 1000,
    EVIDENCE_REPLICAS_MAX = 32,
};

/* Why nothing goes on yet: a condition's reason (CamelCase, static) and its message. */
struct problem {
    const char *reason; /* NULL: none */
    char message[PROBLEM_BYTES];
};

enum self_signed { SELF_UNKNOWN, SELF_ASKED, SELF_NOT_IN_USE, SELF_IN_USE };

/* Since when a generation lies in every ConfigMap, for clients that say no word. */
struct distribution {
    uint64_t generation;  /* that is there now; 0: none as a whole */
    uint64_t settled;     /* the last that lay there for gates.stockWait */
    int64_t since;        /* unix seconds */
    uint64_t since_ms;    /* the same, monotonic; 0: another process saw it begin */
    uint64_t overwritten; /* spread's count then */
};

/* What the annotation PLUGIN_FORCE asks for, and what came of it; force.c. */
struct force {
    char word[ROTATE_WORD_BYTES]; /* "": there is none */
    uint64_t since_ms;            /* it was seen first */
    char revision[32];            /* of the object when it was judged */
    bool is_taken;                /* its step is on its way into the plan */
    bool is_answered;             /* what came of it is told; the annotation is to go */
    bool was_none;                /* since we lead there was no annotation once */
    char note[EVENT_NOTE_BYTES];  /* who is at risk by the step that is taken */
    struct kube_call *call;       /* takes the annotation away */
    uint64_t again_at;            /* that failed, and is tried again */
    uint64_t gone;                /* revision of the object without it: what is older is late */
    json_t *last;                 /* owned: status.lastForce; NULL: none */
};

/* The PluginCA in force, while we lead. */
struct plugin {
    struct mesh_operator *op;
    struct plugin_ca spec;
    struct timer *tick; /* also when something is to be looked at at once */

    struct plan_map *plans;
    bool plan_is_read;
    struct sets *sets;
    struct spread *spread;
    enum self_signed self_signed;
    uint64_t self_signed_at; /* when it is asked again */
    struct kube_call *self_call, *login_call, *status_call, *finalizer_call;
    struct kube_call *recall_call;

    struct vault_client *vault;
    int ca_fd; /* spec.vault.caBundle for the TLS library; -1 */
    struct sync *sync;
    struct bundle *offer; /* owned: the vault's newest, until rotation may have it; NULL: it has */
    struct sync_versions offer_versions;
    struct rotate *rotate;
    struct roots *roots; /* of the plan's set, as are the next three; owned */
    uint8_t signer_id[DIGEST_BYTES], signer_root[DIGEST_BYTES];
    uint64_t roots_generation;
    uint64_t floor; /* the generation that the status told of: agents drop what is older */
    int64_t expires;
    struct distribution dist;
    struct evidence *evidence; /* of our CA's replicas; NULL: a stock istiod only */

    struct istiod_tls *istiod_tls; /* NULL: none is made */
    struct force force;

    struct problem problem;
    uint64_t retry_ms, retry_at;
    uint64_t rest_at;        /* memory goes back then; 0: it has */
    uint64_t login_again_at; /* 0: not */
    bool is_retiring, is_retired;
    /* status.c */
    json_t *status;       /* owned: as last written, */
    json_t *status_there; /* owned: as the server has it since, at the revision */
    uint64_t status_at;
    json_t *replicas_told; /* owned: the status's list as it was found; NULL: none */
    bool status_is_read;
    uint64_t told_generation;
    char told_held[PROBLEM_BYTES], told_sync[PROBLEM_BYTES], told_lists[PROBLEM_BYTES];
    uint64_t status_retry_at;
    char restored[PROBLEM_BYTES];
    uint64_t restored_at;
};

struct mesh_operator {
    struct loop *loop;
    struct operator_conf conf; /* texts are the copies below */
    json_t *texts;             /* owned */
    struct kube_recorder *recorder;
    struct kube_feed *feed;
    bool is_whole, leads;
    bool is_listing;       /* `objects` are some of them, until the list is whole */
    bool left_out;         /* there are more than PLUGINS_MAX */
    json_t *objects;       /* owned: name to the object of the API server */
    struct plugin *plugin; /* NULL: none in force, or we do not lead */
    struct timer *choose;
    char refused[PROBLEM_BYTES]; /* why the one in force could not be read */
    char why_not_ready[PROBLEM_BYTES];
};

/* plugin.c. *take_spec is owned from the call on. */
MUST_USE int plugin_new(struct mesh_operator *op, struct plugin_ca *take_spec, struct plugin **ret,
                        struct err *e);
void plugin_free(struct plugin *p); /* NULL is fine */
/* Another spec of the same object: gates at once; false: it must be opened anew. */
bool plugin_update(struct plugin *p, struct plugin_ca *take_spec);
const json_t *plugin_object(const struct plugin *p); /* borrowed; NULL: it is gone */
void plugin_problem(struct plugin *p, const char *reason, const struct err *why);
void plugin_look_soon(struct plugin *p, uint64_t ms);

/* login.c: opens p->vault; an error is a problem of p, and is tried again. */
void login_start(struct plugin *p);
void login_end(struct plugin *p);

/* evidence.c */
void evidence_tick(struct plugin *p);
void evidence_workloads(void *plugin, ledger_workload_fn *fn, void *arg);
/* For the status; owner: caller; NULL: no memory for all of them, and the old list stays. */
json_t *evidence_replicas(const struct plugin *p);
/* Why the CA's pods are not all known; NULL: they are, or none is asked for. Borrowed. */
const char *evidence_lacks(const struct plugin *p);
/* Everybody who can be asked has answered since we lead. */
bool evidence_is_told(const struct plugin *p);
void evidence_end(struct plugin *p);

/* force.c: takes the held step that the annotation names, and answers it. */
void force_tick(struct plugin *p);
void force_end(struct plugin *p);

/* istiod_tls.c: `c` is a replica that has loaded the plan's set; NULL: none. */
struct evidence_client;
void istiod_tls_tick(struct plugin *p, struct evidence_client *c);
/* Why it is not there in the generation of the sets; NULL: it is, or none is made. Borrowed. */
const char *istiod_tls_lacks(const struct plugin *p);
bool istiod_tls_tells(const struct plugin *p, const struct ledger_workload *w,
                      ledger_workload_fn *fn, void *arg); /* r: it was istiod's, and is told */
/* That client is freed, and will not answer. */
void istiod_tls_unask(struct plugin *p, const struct evidence_client *c);
void istiod_tls_end(struct plugin *p);

/* status.c */
/* What the resource says from before is asked for once, of the API server: the watch may not have
 * told yet what the leader before us wrote last. r: it was read. */
bool status_recall(struct plugin *p);
void status_tick(struct plugin *p);
json_t *status_make(struct plugin *p); /* owner: caller; NULL: out of memory */
/* Writes a status for a PluginCA that is not in force. */
void status_refuse(struct mesh_operator *op, const json_t *object, const char *reason,
                   const char *message);
void plugin_event(struct plugin *p, bool is_warning, const char *reason, const char *note);

#endif
