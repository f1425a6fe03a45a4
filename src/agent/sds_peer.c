/* sds_peer.c - what a request of an SDS stream means, without I/O. Source: specs/istio-ca.md 7.6
 * (ShouldRespond); xDS protocol, "ACK/NACK", "Incremental xDS". */
#include <stdio.h>
#include <string.h>

#include "agent/sds.h"

const char *
sds_state_name(enum sds_state s)
{
    static const char *const names[SDS_STATE__N] = { "idle", "waiting", "acknowledged", "refused" };

    return names[s];
}

const char *
sds_word_name(enum sds_word w)
{
    static const char *const names[SDS_WORD__N] = { "asked", "acknowledged", "refused", "stale",
                                                    "left" };

    return names[w];
}

static void
nonce_text(uint64_t n, char ret[SDS_NONCE_BYTES])
{
    (void)snprintf(ret, SDS_NONCE_BYTES, "%llu", (unsigned long long)n);
}

static bool
is_of_last(const struct sds_peer *p, const struct sds_request *q)
{
    char last[SDS_NONCE_BYTES];

    nonce_text(p->nonce, last);
    return p->nonce != 0 && strcmp(q->nonce, last) == 0;
}

/* The word about the last answer. */
static enum sds_word
take_word(struct sds_peer *p, const struct sds_request *q)
{
    if (!is_of_last(p, q))
        return SDS_STALE;
    if (q->is_refusal) {
        p->state = SDS_NACKED;
        return SDS_NACKS;
    }
    if (p->state == SDS_SENT)
        p->state = SDS_ACKED;
    return SDS_ACKS;
}

/* One list is all that it wants. */
static enum sds_word
take_whole(struct sds_peer *p, const struct sds_request *q, unsigned *ret_send)
{
    if (!q->is_refusal && q->names_n == 0) {
        p->names = 0;
        p->state = SDS_IDLE;
        return SDS_LEAVES;
    }
    if (!q->is_refusal && (q->nonce[0] == '\0' || p->nonce == 0)) { /* new, or of another server */
        *ret_send = p->names = q->names;
        return SDS_ASKS;
    }
    enum sds_word w = take_word(p, q);
    if (w == SDS_ACKS) {
        *ret_send = q->names & ~p->names;
        p->names = q->names;
    }
    return w;
}

/* Names come and go, whatever it says about the last answer. */
static enum sds_word
take_delta(struct sds_peer *p, const struct sds_request *q, unsigned *ret_send)
{
    bool is_first = !p->has_asked;
    unsigned held = is_first ? q->names & q->current : 0;

    p->has_asked = true;
    p->names = (p->names | q->names) & ~q->dropped;
    *ret_send = q->names & ~q->dropped & ~held;
    if (is_first && held != 0 && *ret_send == 0)
        p->state = SDS_ACKED; /* it names what it holds, and that is ours */
    if (q->nonce[0] != '\0')
        return take_word(p, q);
    if (q->dropped != 0 && p->names == 0) {
        p->state = SDS_IDLE;
        return SDS_LEAVES;
    }
    return SDS_ASKS;
}

enum sds_word
sds_peer_take(struct sds_peer *p, const struct sds_request *q, unsigned *ret_send)
{
    *ret_send = 0;
    return p->is_delta ? take_delta(p, q, ret_send) : take_whole(p, q, ret_send);
}

/* State of the world: always all of its names. Delta: what has changed, or all when it is not known
 * to hold what it was sent before. */
unsigned
sds_peer_push(const struct sds_peer *p, unsigned changed)
{
    if ((p->names & changed) == 0)
        return 0;
    return p->is_delta && p->state == SDS_ACKED ? p->names & changed : p->names;
}

void
sds_peer_sent(struct sds_peer *p, char nonce[SDS_NONCE_BYTES])
{
    p->state = SDS_SENT;
    nonce_text(++p->nonce, nonce);
}
