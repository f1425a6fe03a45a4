/* decide.h - whether istiod must be restarted for the roots in its Secret, and whether it may be.
 * Facts in, verdict out: no I/O, no clock, no allocation. Layer: validate (private).
 *
 * A stock istiod tells nobody which workload trusts what. What is certain instead: every agent
 * reads the ConfigMap anew whenever it renews, and does so within one leaf's life; a pod that
 * started later has read it since; and no leaf outlives its life. Thread: any. Source: design.md
 * "Rotation", rules 1 to 3 for clients that cannot acknowledge; specs/istio-ca.md 2.3, 5.6, 5.7,
 * 6.6.
 */
#ifndef VALIDATE_DECIDE_H
#define VALIDATE_DECIDE_H

#include "pki/pki.h"

enum {
    VALIDATE_PODS_MAX = 32, /* of istiod; more is refused */
    VALIDATE_NAME_BYTES = 254,
    VALIDATE_WHY_BYTES = 384,
    VALIDATE_BACKDATE_S = 120, /* istiod dates its leaves back by so much */
};

struct validate_set { /* certificate ids */
    uint8_t ids[ROOTS_MAX][DIGEST_BYTES];
    size_t n;
};
bool validate_set_has(const struct validate_set *s, const uint8_t id[DIGEST_BYTES]);
bool validate_set_contains(const struct validate_set *big, const struct validate_set *small);

/* One istiod pod, as it answered on its secure port. */
struct validate_pod {
    char name[VALIDATE_NAME_BYTES];
    bool is_seen;                  /* it was dialled, and what it serves ends in a known root */
    char why[VALIDATE_WHY_BYTES];  /* else: why not */
    uint8_t root_id[DIGEST_BYTES]; /* the root that it signs under */
    int64_t since; /* unix s: its own leaf was made then, and nothing was signed otherwise since */
    /* It names the roots that it started with to its clients: one that is wanted is not among them;
     * there is another one. (That may be a federated trust domain's: it outlives a restart.) */
    bool lacks_root, has_other;
};

/* What the last try left on the Deployment. */
enum validate_tried {
    TRIED_NONE, /* never, or for other roots */
    TRIED_OPEN, /* begun, and not ended: its validator died, or is at it */
    TRIED_DONE,
    TRIED_FAILED,
};

struct validate_facts {
    struct validate_set wanted;          /* root-cert.pem of the Secret */
    uint8_t signer_root[DIGEST_BYTES];   /* the root that the Secret's intermediate chains to */
    struct validate_set loaded;          /* the ConfigMap: what istiod publishes */
    bool is_same_text;                   /* byte for byte, as istiod compares */
    int64_t secret_changed, map_changed; /* unix s; 0: not known */
    const struct validate_pod *pods;     /* borrowed */
    size_t pods_n;
    bool takes_roots_hot;                 /* ISTIO_MULTIROOT_MESH, since 1.20 */
    bool hot_compares_text;               /* before 1.30: only when one text holds the other */
    bool is_text_within;                  /* it does */
    bool is_going, is_paused, is_rolling; /* the Deployment is being deleted, ... */
    enum validate_tried tried;
    /* The oldest workload pod was made then; 0: not known. Without any: now. */
    int64_t workloads_since;
    int64_t now;
    int64_t leaf_life_s; /* the longest that workloads get */
    int64_t hot_wait_s;  /* so long may a hot istiod take */
    int64_t skew_s;      /* by so much may clocks differ */
    bool is_forced;      /* safety is waived, and so is a failed try */
};

enum validate_kind {
    VALIDATE_NOTHING, /* istiod publishes what the Secret says */
    VALIDATE_WAIT,    /* istiod takes it by itself, or a rollout is under way: look again later */
    VALIDATE_RESTART,
    VALIDATE_RESUME,  /* our restart is under way or was cut off: see it to its end */
    VALIDATE_HELD,    /* a restart would cut workloads off */
    VALIDATE_BLOCKED, /* a restart cannot be, or has failed for this very Secret */
    VALIDATE__N
};
const char *validate_kind_name(enum validate_kind k); /* "held" */

struct validate_verdict {
    enum validate_kind kind;
    bool is_unsafe;               /* RESTART: only because it was forced */
    char why[VALIDATE_WHY_BYTES]; /* one sentence, with the remedy when there is one */
};
/* *ret is written whole. */
void validate_decide(const struct validate_facts *f, struct validate_verdict *ret);

#endif
