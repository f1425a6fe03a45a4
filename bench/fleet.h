/* fleet.h - many agents in one process, for one CA: each has its own TLS connection, makes a real
 * key and CSR for every leaf, stays on the trust stream, acknowledges what it holds, renews when
 * the signer moves, and backs off as `meshroot agent run` does (the very functions of
 * agent/plan.h).
 *
 * They are not agents' rooms: no files, no proxies, no reload. Every answer's identity is looked
 * at; key and chain are verified of one in FLEET_LOOK_AT (the rest would measure our own CPU). All
 * of it is one thread, so what it costs is in every wall-clock figure.
 */
#ifndef BENCH_FLEET_H
#define BENCH_FLEET_H

#include "net/loop.h"
#include "pki/pki.h"

enum { FLEET_MAX = 50000, FLEET_LOOK_AT = 16 };

struct fleet;

struct fleet_conf {
    struct loop *loop;
    size_t agents, identities; /* agent i is of identity i % identities */
    uint16_t port;             /* of the CA, on 127.0.0.1 */
    struct roots *roots;       /* that the CA may prove itself under; borrowed */
    struct key *token_key;     /* the issuer's, "k1"; borrowed */
    const char *issuer;
    size_t dial;     /* so many connect at one time; the others wait for their turn, as those do
                        whom the kernel's full queue has turned away */
    bool shows_leaf; /* in later handshakes, beside the token of each call, as our agent does */
};

MUST_USE int fleet_new(const struct fleet_conf *conf, struct fleet **ret, struct err *e);
void fleet_free(struct fleet *f); /* NULL is fine */

/* Every agent begins anew, without connection and leaf: `at_once` of them now, the others as those
 * have their leaf. */
void fleet_begin(struct fleet *f, size_t at_once);
/* Every agent asks for a new leaf now, on the connection it has. */
void fleet_renew(struct fleet *f);
/* From here on an agent counts as back when it has a stream and an answer to its word again. */
void fleet_mark(struct fleet *f);

/* What an agent may be asked about; `generation` and `signer` (cert_id) where they matter. */
struct fleet_question {
    enum fleet_fact {
        FLEET_HAS_LEAF,  /* a leaf since fleet_begin or fleet_renew */
        FLEET_IS_BACK,   /* since fleet_mark: stream and word */
        FLEET_SAID,      /* its word of a generation from `generation` on was answered */
        FLEET_USES,      /* its leaf is of `signer`, and its word about that was answered */
        FLEET_LETS_GO_OF /* its trust set lacks `root`, and its word about that was answered */
    } fact;
    uint64_t generation;
    const uint8_t *signer, *root;
};
size_t fleet_count(const struct fleet *f, const struct fleet_question *q);
uint64_t fleet_generation(const struct fleet *f); /* the newest that any agent holds */

struct fleet_stats {
    uint64_t leaves, words;                             /* answered */
    uint64_t refused, told_when, cut_off, late, failed; /* RESOURCE_EXHAUSTED; with a time to come
                                                           back; UNAVAILABLE; DEADLINE; others */
    char last_failure[256], last_cut[256];
};
const struct fleet_stats *fleet_stats(const struct fleet *f);
/* The agents' times since fleet_begin or fleet_mark until what is counted was so; ms: the middle
 * one, of 99 in 100, the slowest. */
struct fleet_times {
    double p50_ms, p99_ms, max_ms;
};
struct fleet_times fleet_times(const struct fleet *f, enum fleet_fact fact);

#endif
