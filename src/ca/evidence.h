/* evidence.h - what one replica of the CA has loaded, and which leaves are in use, seen from
 * elsewhere. Layer: ca.
 *
 * The client of meshroot.v1.Evidence. It stays on the stream, comes again when that ends, and knows
 * nothing while it is lost: who asks for evidence then must take no step. Snapshots are whole or
 * not there. Thread: its loop. Source: design.md "Rotation" rules 2 and 3; proto/meshroot.proto.
 */
#ifndef CA_EVIDENCE_H
#define CA_EVIDENCE_H

#include "ledger/ledger.h"
#include "net/loop.h"

enum {
    EVIDENCE_EVERY_MS = 1000,     /* snapshots of one stream are so far apart, at least ... */
    EVIDENCE_QUIET_MS = 4000,     /* ... and at most: leaves expire without anybody's word */
    EVIDENCE_LOST_MS = 15 * 1000, /* a stream that says nothing for so long is given up */
    EVIDENCE_MOVE_MS = 3000,      /* the next one, when a replica has ended it for its age, too */
    EVIDENCE_PIECE_BYTES = 64 * 1024,      /* of a message, about */
    EVIDENCE_MAX_BYTES = 64 * 1024 * 1024, /* of a snapshot: more than 200,000 workloads */
    EVIDENCE_IDS_MAX = 64,    /* distinct roots, or signers, of one workload's leaves */
    EVIDENCE_STREAMS_MAX = 8, /* of one worker */
    EVIDENCE_NAME_BYTES = 64, /* of a replica, with its NUL */
    EVIDENCE_SKEW_S = 330,    /* two replicas' clocks differ by less */
};

struct evidence_client;

/* What a replica has loaded: nothing of it appends a row, or hands out a trust set, of an older
 * generation any more. Fits rotate_replica and struct plan_replica. */
struct evidence_loaded {
    char replica[EVIDENCE_NAME_BYTES];
    uint64_t generation; /* 0: nothing yet */
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    size_t roots_n;
    uint8_t signer_id[DIGEST_BYTES];
    uint8_t ledger_id[LEDGER_ID_BYTES]; /* zeros: it does not say (a replica of before) */
};

struct evidence_conf {
    const char *host; /* one replica: an address, or a name that has one; copied */
    uint16_t port;
    const char *verify_name; /* a name in the CA's certificate; NULL: host; copied */
    struct roots *roots;     /* that vouch for the CA; a reference is taken */
    const char *token_file;  /* our service-account token; read for each call; copied */
    /* A whole snapshot has come that says something new. */
    void (*on_change)(struct evidence_client *c, void *arg);
    /* The replica is not known any more, and why; said once until it is known again. */
    void (*on_lost)(struct evidence_client *c, const struct err *why, void *arg);
    void *arg;
};

/* Begins at once. Neither call-back comes before it returns; neither may free the client (loop.h).
 * Errors: NOMEM, SYS, INVAL. */
MUST_USE int evidence_client_new(struct loop *l, const struct evidence_conf *conf,
                                 struct evidence_client **ret, struct err *e);
void
evidence_client_free(struct evidence_client *c); /* NULL is fine; no call-back comes any more */
/* New connections believe these; a reference is taken. Errors: NOMEM. */
MUST_USE int evidence_client_set_roots(struct evidence_client *c, struct roots *roots,
                                       struct err *e);

/* Of the newest whole snapshot; NULL while the replica is lost. Borrowed until the next turn. */
const struct evidence_loaded *evidence_client_loaded(const struct evidence_client *c);
/* Calls fn for each workload of that snapshot that has leaves in use; for none while the replica is
 * lost, which the caller has looked at (evidence_client_loaded). Out of memory the replica is lost
 * on the way: who acts on what was called looks at evidence_client_loaded again behind it. */
void evidence_client_workloads(struct evidence_client *c, ledger_workload_fn *fn, void *arg);
/* The same, and those that have said a word there: as ledger_workloads_said. */
void evidence_client_told(struct evidence_client *c, ledger_workload_fn *fn, void *arg);

/* -- several replicas: what a workload said to one holds for its leaves of the others -- */

struct evidence_teller { /* one replica: evidence_client_told and its client, or a test */
    void (*tell)(void *self, ledger_workload_fn *fn, void *arg);
    void *self;
};
/* Calls fn for each workload with leaves in use, once for each replica that issued some. Trust sets
 * only grow in generation, so the word of the newest generation counts, whoever heard it. All
 * replicas must be known when it is called. Out of memory nothing is put together, which holds
 * steps and takes none.
 *
 * Of a workload's leaves in a ledger, those under a root count as put aside when all of them are of
 * a lower generation than the leaf that its word names, whoever issued and whoever heard:
 *
 * - A row, its answer's "meshroot-generation" and the trust set in that answer are of one view of
 *   the CA, so what the agent says of its leaf is what the row says, here or elsewhere.
 * - An agent refuses an answer of a lower generation than the trust set it holds, which is at least
 *   as new as its leaf (design.md "Rotation", rule 4). So a row of a lower generation, though its
 *   answer is under way still, or its replica lags behind, is of a leaf that is never used again.
 *   What it holds outlives a restart with the leaf, in one file set; without that set it is
 *   another instance.
 * - A row of the same generation counts. It is under the signer of that generation, so under the
 *   root that the holder's own leaf needs: it holds no step that its leaf does not.
 * - Who lies does it about its own identity and instance, up to the generation of the trust set
 *   that it claims, which is one that the replica has loaded; the leaf that it hides is its own.
 *
 * The word of an agent that has ended, when nobody has heard a later one, puts its own leaf's
 * generation aside too: it never comes again as that instance. Without a generation (0: another
 * client, an agent of before) a leaf counts as replaced when the workload's last word, by
 * EVIDENCE_SKEW_S later than what any other replica heard, names a leaf that was issued later than
 * it, by as much. */
void evidence_merge(const struct evidence_teller *tellers, size_t n, ledger_workload_fn *fn,
                    void *arg);
struct evidence_teller evidence_client_teller(struct evidence_client *c);

/* -- a server's certificate, from the same replica (meshroot.v1.Serving) -- */

struct serving_request {      /* all borrowed for the call */
    struct span csr;          /* PEM; only its key is taken */
    const char *const *names; /* 1..CA_SERVING_NAMES_MAX; each one that --serving-name allows */
    size_t names_n;
    int64_t validity_s;   /* 0: the CA's default; 30 days at most */
    const char *instance; /* 32 lower-case hex digits, ever the same for this certificate and its
                             successors; Trust.Acknowledge with it says which one is in use */
};
/* `why` NULL: `chain` is PEM, leaf and intermediates, `roots` PEM, the trust set of that moment.
 * Borrowed for the call. */
typedef void serving_done_fn(struct span chain, struct span roots, const struct err *why,
                             void *arg);
/* `done` is called once, later, on the loop, unless the client is freed before. Errors: as
 * evidence_client_new's; NOTFOUND, PARSE (our token). Codes of `why`: DENIED (who may, which name:
 * the CA's words), INVAL, PEER (anything that time mends). */
MUST_USE int evidence_client_sign(struct evidence_client *c, const struct serving_request *q,
                                  serving_done_fn *done, void *arg, struct err *e);

#endif
