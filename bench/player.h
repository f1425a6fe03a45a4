/* player.h - one agent of a fleet (fleet.h): its leaf, its trust stream, its word, and what it
 * shares with the others. For fleet.c and player.c. */
#ifndef BENCH_PLAYER_H
#define BENCH_PLAYER_H

#include "fleet.h"
#include "meshroot.pb-c.h"
#include "net/grpc.h"

enum { INSTANCE_BYTES = 33 };

enum call { CALL_CREATE, CALL_WATCH, CALL_WORD, CALL__N };

struct player {
    struct fleet *fleet;
    size_t index;
    char instance[INSTANCE_BYTES];
    struct grpc_client *client;
    struct grpc_request *asking, *watching, *saying;
    struct timer *renew, *watch, *word;
    unsigned ask_failures, watch_failures, word_failures;

    struct key *asking_key, *key;
    struct cert *leaf, *signer;
    uint64_t generation;                 /* held */
    uint8_t pushed_signer[DIGEST_BYTES]; /* for which a renewal was drawn already */
    enum door { DOOR_SHUT, DOOR_QUEUED, DOOR_DIALS, DOOR_OPEN } door; /* its connection */
    struct player *behind;                                            /* in the queue */
    bool wants[CALL__N];                                              /* when its turn comes */
    struct buf request;                                               /* for asking_key */
    bool is_streaming, is_new_leaf, word_is_due,
        shows_old; /* shows_old: TLS settings lack `leaf` */

    const struct trust *said_trust, *saying_trust; /* of the last word answered; under way */
    uint64_t said_generation;
    uint8_t said_signer[DIGEST_BYTES], saying_signer[DIGEST_BYTES];
    uint64_t leaf_at_ms, back_at_ms; /* 0: not yet */
};

/* One trust set as the CA sends it: the same bytes for everyone. */
struct trust {
    struct trust *next;
    struct buf bytes;
    Meshroot__V1__TrustSet *set;
    ProtobufCBinaryData ids[ROOTS_MAX];
    uint8_t id_bytes[ROOTS_MAX][DIGEST_BYTES];
};

struct fleet {
    struct fleet_conf conf;
    struct tls_conf *tls; /* without a certificate of the agent's own */
    struct buf *tokens;   /* one for each identity */
    struct player *players;
    struct trust *trusts;      /* all that were seen; few */
    const struct trust **held; /* by agent */
    size_t begun;
    size_t dialling;
    struct player *queue, **queue_end; /* who waits for its turn to connect */
    bool is_calling;                   /* door_next is at work */
    uint64_t since_ms;
    uint64_t generation;
    struct fleet_stats stats;
    struct cert *seen_signer; /* the last intermediate that was read */
    struct buf seen_pem;
};

/* Asks for a leaf, opens the trust stream, says the word: now, or when it may connect. For timers.
 */
void player_ask(void *player);
void player_watch(void *player);
void player_word(void *player);

/* Player `i` of `f`, zeroed before. Errors: NOMEM, SYS. */
MUST_USE int player_make(struct fleet *f, size_t i, struct err *e);
/* A client, which connects when the first call is made. Errors: NOMEM. */
MUST_USE int player_connect(struct player *p, struct err *e);
/* As a process that ends: the calls under way are told CANCELLED. */
void player_stop(struct player *p);
void player_done(struct player *p);

/* fleet.c: the next one of those that wait for their turn; a failure of our own. */
void fleet_begin_next(struct fleet *f);
void fleet_fail(struct fleet *f, const char *what, const struct err *why);

#endif
