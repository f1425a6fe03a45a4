/* plan.pml - the plan and its gates (src/rotate/plan.c, rotate.c), without what the gates are shown.
 *
 * Two roots, A and B, as bits. What is distributed, a trust set and who signs, is of a generation and named by it alone: a
 * replica, a message, a leaf, a word are numbers. rotation.pml says what the gates are shown (struct plan_evidence):
 *
 *   REPLICAS_HAND_OUT(x)  every replica that is known has told a generation since x last came in      RULE_REPLICA_TRUST, _GENERATION
 *   WORKLOADS_TRUST(x)    every workload with a leaf in use has acknowledged x since then             RULE_WORKLOAD_TRUST, ACK_, ROW_GENERATION
 *   REPLICAS_SIGN()       every replica has told the plan's generation, so it signs with its signer   RULE_REPLICA_SIGNER, SIGNER_GENERATION
 *   NO_LEAF(x)            no leaf in use chains to x                                                  RULE_LEDGER
 *
 * Each step is taken in one go: the plan is written first, and whoever drives is killed between any two of these steps.
 */
#define A 1
#define B 2
#define BOTH 3
#ifndef CHANGES
#define CHANGES 2                              /* times that the vault's set changes */
#endif
#ifndef GENS
#define GENS 8                                 /* generations 1 .. GENS-1; a run that needs more ends there, see SPENT */
#endif
#ifndef LOSSES
#define LOSSES 0                               /* times that the plan is lost, or put back to an older state */
#endif

byte roots[GENS], signer[GENS];                /* of each generation */
byte plan = 1, since_a = 1, since_b = 0;       /* the plan in force: its generation, and since when it has each root */
byte target = 1;                               /* the set that the CA is given (a Secret, a folder) */
byte want_roots = A, want_signer = A;          /* the vault: whole and consistent (sync pairs it) */
byte changes = 0, losses = 0;
bool is_lost = false;

#define SINCE(x) (((x) == A) -> since_a : since_b)
#define SPENT (plan == GENS - 1)
#define DONE (roots[plan] == want_roots && signer[plan] == want_signer)

inline plan_start() { roots[1] = A; signer[1] = A }

inline put(r, s) {
    if :: ((r) & A) && !(roots[plan] & A) -> since_a = plan + 1 :: else fi;
    if :: ((r) & B) && !(roots[plan] & B) -> since_b = plan + 1 :: else fi;
    roots[plan + 1] = r; signer[plan + 1] = s;
    plan++
}

/* What lies in the target is in force, and nothing that was acknowledged counts (take_recover). A generation that was planned and
   never reached the target was never handed out, so its number may come again. */
inline recover() {
#ifdef NO_RECOVERY                             /* the vault's set over what is there, as for a mesh that never had a plan */
    roots[target + 1] = want_roots; signer[target + 1] = want_signer;
#else
    roots[target + 1] = roots[target]; signer[target + 1] = signer[target];
#endif
    plan = target + 1;
#ifdef NO_RECOVERY_SINCE                       /* ... and what was acknowledged counts */
    since_a = 1; since_b = 1;
#else
    since_a = plan; since_b = plan;
#endif
    is_lost = false
}

/* Any consistent set, at any time, also back again. */
proctype vault() {
    do
    :: atomic { changes < CHANGES ->
        if
        :: want_roots = A; want_signer = A
        :: want_roots = BOTH; want_signer = A
        :: want_roots = BOTH; want_signer = B
        :: want_roots = B; want_signer = B
        fi;
        changes++ }
    od
}

proctype driver() {
    do
    :: atomic { losses < LOSSES && !is_lost -> losses++; is_lost = true }
    :: atomic { is_lost && target < GENS - 1 -> recover() }
    :: atomic { !is_lost && target != plan -> target = plan }
#define MAY (!is_lost && target == plan && !SPENT)
    /* RULE_WIDEN_FIRST: always safe */
#ifdef NO_WIDEN_FIRST
    :: atomic { MAY && !DONE -> put(want_roots, want_signer) }
#endif
    :: atomic { MAY && (want_roots | roots[plan]) != roots[plan] -> put(want_roots | roots[plan], signer[plan]) }
    :: atomic { MAY && (want_roots | roots[plan]) == roots[plan] && signer[plan] != want_signer &&
        REPLICAS_HAND_OUT(want_signer) && WORKLOADS_TRUST(want_signer) -> put(roots[plan], want_signer) }
    :: atomic { MAY && (want_roots | roots[plan]) == roots[plan] && signer[plan] == want_signer && roots[plan] != want_roots &&
        REPLICAS_SIGN() && NO_LEAF(roots[plan] & ~want_roots) -> put(want_roots, signer[plan]) }
    od
}
