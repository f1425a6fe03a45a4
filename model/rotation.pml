/* rotation.pml - the protocol as `meshroot up` has it and as stock clients see it: one ledger, told at once; replicas that come and lag.
 *
 * One workload stands for all, as two properties hold of each by itself:
 *   - it trusts whatever any replica may sign with now;
 *   - its leaf, and one that it may still take, is trusted by whoever is handed a trust set by any replica now.
 * From these, of two live workloads each accepts the other: a leaf was signed by a replica whose signer everyone trusted then, and trust
 * sets change only to what a replica hands out, which has that leaf's root as long as it is in use. With PEER a second workload is there,
 * which takes trust sets, and the handshake itself is looked at (a smaller run).
 */
#ifdef NO_REPLICA_TRUST
#define REPLICAS_HAND_OUT(x) true
#elif defined(NO_REPLICA_GENERATION)           /* it has the root, in whatever generation */
#define REPLICAS_HAND_OUT(x) (LIST && (!known_0 || (roots[told_0] & (x))) && (!known_1 || (roots[told_1] & (x))))
#else
#define REPLICAS_HAND_OUT(x) (LIST && (!known_0 || told_0 >= SINCE(x)) && (!known_1 || told_1 >= SINCE(x)))
#endif

#ifdef NO_REPLICA_SIGNER
#define REPLICAS_SIGN() true
#elif defined(NO_SIGNER_GENERATION)            /* it has told the plan's signer, in whatever generation */
#define REPLICAS_SIGN() (LIST && (!known_0 || signer[told_0] == signer[plan]) && (!known_1 || signer[told_1] == signer[plan]))
#else
#define REPLICAS_SIGN() (LIST && (!known_0 || told_0 == plan) && (!known_1 || told_1 == plan))
#endif

#ifdef NO_FRESH_LIST
#define LIST true
#else
#define LIST (listed == plan)                  /* the replicas were counted after the plan's set was in the target */
#endif

/* A client that says words is judged by them, any other by its rows: each leaf's answer has the trust set of its generation. */
#define OLDEST ((rows & 2) -> 1 : ((rows & 4) -> 2 : ((rows & 8) -> 3 : ((rows & 16) -> 4 : ((rows & 32) -> 5 : ((rows & 64) -> 6 : 7))))))
#if defined(NO_WORKLOAD_TRUST)
#define WORD_OK(x) true
#elif defined(NO_ACK_GENERATION)
#define WORD_OK(x) (roots[ack] & (x))
#else
#define WORD_OK(x) (ack >= SINCE(x))
#endif
#ifdef NO_ROW_GENERATION
#define ROWS_OK(x) true
#else
#define ROWS_OK(x) (OLDEST >= SINCE(x))
#endif
#ifdef PEER
#define PEER_OK(x) (!peer || peer_ack >= SINCE(x))
#else
#define PEER_OK(x) true
#endif
#define WORKLOADS_TRUST(x) ((rows == 0 || (speaks -> WORD_OK(x) : ROWS_OK(x))) && PEER_OK(x))

#define UNDER(g, x) (((rows & (1 << (g))) != 0) && signer[g] == (x))
#ifdef NO_LEDGER                               /* what is seen to be used, not what was issued */
#define NO_LEAF(x) (leaf == 0 || signer[leaf] != (x))
#else
#define NO_LEAF(x) (!UNDER(1, x) && !UNDER(2, x) && !UNDER(3, x) && !UNDER(4, x) && !UNDER(5, x) && !UNDER(6, x) && !UNDER(7, x))
#endif

/* Replicas: 1 may be made later. Each has loaded a generation, and told one: a report is never ahead of what it is about. */
byte rep_0 = 1, rep_1 = 0, told_0 = 1, told_1 = 0, listed = 1;
bool known_0 = true, known_1 = false;

/* The workload. It may take the answer to its last request, as long as that leaf lives; the request before is given up. */
bool speaks;
byte trust = 0, leaf = 0, asked = 0, ack = 0;
byte rows = 0;                                 /* generations of its leaves in use, as the ledger has them: a bit for each */
byte since_leaf = 0;                           /* of them, those issued since its leaf was */
#ifdef PEER
byte peer = 0, peer_ack = 0;                   /* the generation of its trust set */
#endif

#include "plan.pml"

#define SIGNS_TRUSTED(r) (r == 0 || (roots[trust] & signer[r]))
#define LEAF_TRUSTED(l, r) (r == 0 || l == 0 || (roots[r] & signer[l]))
inline check() {
    assert(leaf == 0 || (SIGNS_TRUSTED(rep_0) && SIGNS_TRUSTED(rep_1)));
    assert(LEAF_TRUSTED(leaf, rep_0) && LEAF_TRUSTED(leaf, rep_1));
    assert((speaks && asked < trust) || (LEAF_TRUSTED(asked, rep_0) && LEAF_TRUSTED(asked, rep_1)));
#ifdef PEER
    assert(leaf == 0 || peer == 0 || (roots[peer] & signer[leaf]))
#endif
}

proctype replicas() {
    do
    :: atomic { rep_0 < target -> rep_0 = target; check() }
    :: atomic { rep_1 != 0 && rep_1 < target -> rep_1 = target; check() }
    :: atomic { rep_1 == 0 -> rep_1 = target; check() }
    :: atomic { told_0 < rep_0 -> told_0 = rep_0 }
    :: atomic { known_1 && told_1 < rep_1 -> told_1 = rep_1 }
    :: atomic { listed != target || known_1 != (rep_1 != 0) -> listed = target; known_1 = rep_1 != 0 }
    od
}

/* Row first; then the answer is under way. */
inline ask(r) { asked = r; rows = rows | (1 << r); since_leaf = since_leaf | (1 << r) }
#ifdef NO_GENERATION
#define NEW(g) true
#else
#define NEW(g) (!speaks || (g) >= trust)       /* rule 4: who speaks puts aside what is older than what it holds */
#endif
inline use() { if :: NEW(asked) -> trust = asked; leaf = asked; since_leaf = 1 << asked :: else fi; asked = 0; check() }
inline push(r) { if :: NEW(r) -> trust = r :: else fi; check() }

#ifdef PROGRESS                                /* it waits for its answer, and renews when there is something new */
#define ASKS(r) (asked == 0 && leaf < (r))
#else
#define ASKS(r) (asked != (r))
#endif
proctype workload() {
    if :: speaks = true :: speaks = false fi;
    do
    :: atomic { ASKS(rep_0) -> ask(rep_0) }
    :: atomic { rep_1 != 0 && ASKS(rep_1) -> ask(rep_1) }
    :: atomic { asked != 0 -> use() }
    /* trust sets come late, out of order, again and again: any that a replica has handed out so far */
    :: atomic { speaks && leaf != 0 && trust < rep_0 -> push(rep_0) }
    :: atomic { speaks && leaf != 0 && rep_1 != 0 && trust < rep_1 -> push(rep_1) }
#ifndef PROGRESS
    :: atomic { speaks && leaf != 0 && trust > 1 && roots[trust - 1] != roots[trust] -> push(trust - 1) }
#endif
    :: atomic { speaks && leaf != 0 && (ack != trust || rows != since_leaf) -> ack = trust; rows = since_leaf }
#ifndef NO_EXPIRY
    /* leaves end; the one in its hand too */
    :: atomic { rows != 0 && OLDEST != leaf && OLDEST != asked -> since_leaf = since_leaf & ~(1 << OLDEST); rows = rows & ~(1 << OLDEST) }
#endif
#ifndef PROGRESS
    :: atomic { leaf != 0 && asked != leaf -> rows = rows & ~(1 << leaf); since_leaf = since_leaf & ~(1 << leaf); leaf = 0 }
    /* it is gone, and another one comes; what it held counts no more, which no gate knows so early */
    :: atomic { leaf != 0 || asked != 0 -> trust = 0; leaf = 0; asked = 0; ack = 0; rows = 0; since_leaf = 0 }
#endif
    od
}

#ifdef PROGRESS
/* Fair: each step that is possible is taken some time. Here each step raises a generation or ends a leaf, so no run is endless, and where nothing is possible any
   more, the vault's set must be in force. */
active proctype ending() { timeout -> assert(SPENT || (changes == CHANGES && DONE && target == plan && rep_0 == plan)) }
#endif

#ifdef PEER
proctype another() {
    do
    :: atomic { peer < rep_0 -> peer = rep_0; check() }
    :: atomic { peer < rep_1 -> peer = rep_1; check() }
    :: atomic { peer_ack != peer -> peer_ack = peer }
    od
}
#endif

init { atomic { plan_start(); run vault(); run driver(); run replicas(); run workload();
#ifdef PEER
    run another()
#endif
} }
