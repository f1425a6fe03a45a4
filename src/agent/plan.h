/* plan.h - private to agent/: the decisions, without time, network or files. Layer: agent. Thread:
 * any. Source: specs/istio-ca.md 7.5, 13.2 (4, 7); model/rotation.pml.
 */
#ifndef AGENT_PLAN_H
#define AGENT_PLAN_H

#include "base/err.h"
#include "base/span.h"
#include "net/addr.h"

enum {
    BACKOFF_MIN_MS = 100,
    BACKOFF_SLOW_MS = 1000, /* first step when the same call cannot succeed by itself */
    BACKOFF_MAX_MS = 60 * 1000,
    RENEW_JITTER_PERCENT = 10, /* of the half-life, either way */
    RENEW_LATE_MS = 1000,      /* a renewal that is overdue starts within this */
    LISTS_AHEAD_MS = 1000,     /* from a new signer's list to the renewal under it, at least */
};

/* From now to the renewal: half of the leaf's life since `from_s`, +-10 %. `random` is uniform over
 * all of uint32_t. */
uint64_t plan_renew_ms(int64_t from_s, int64_t not_after_s, int64_t now_s, uint32_t random);

/* Full jitter: uniform in (0, min(max, base * 2^failures)]. failures  1 for the first */
uint64_t plan_backoff_ms(unsigned failures, bool is_slow, uint32_t random);
/* When to try again after a refusal: what the CA asked for (the trailer grpc-retry-pushback-ms,
 * empty when there was none) up to BACKOFF_MAX_MS, and up to a quarter more; else plan_backoff_ms.
 * One that is no number, or negative ("do not retry"), counts as none, and as slow: an agent never
 * gives up. Source: gRPC proposal A6. */
#define PUSHBACK_TRAILER "grpc-retry-pushback-ms"
#define NO_PUSHBACK      ((struct span){ NULL, 0 })
uint64_t plan_retry_ms(struct span pushback, unsigned failures, bool is_slow, uint32_t random);
/* The call may succeed later without anyone changing anything. */
bool plan_is_transient(int grpc_code);

/* What to do with something of generation `got` while one of `held` is in use. */
enum plan_take { PLAN_DROP, PLAN_TAKE };
enum plan_take plan_generation(uint64_t held, uint64_t got);

/* "HOST:PORT[,HOST:PORT...]", at most `max`. Errors: PARSE (which), LIMIT. */
MUST_USE int plan_addrs_parse(const char *text, struct addr *ret, size_t max, size_t *ret_n,
                              struct err *e);
/* "127.0.0.1:8443=127.0.0.1:8080". Errors: PARSE (says what is expected). */
MUST_USE int plan_inbound_parse(const char *text, struct addr *ret_listen, struct addr *ret_to,
                                struct err *e);
/* "127.0.0.1:9001=127.0.0.1:8443=spiffe://...": *ret_rule is borrowed from `text`. */
MUST_USE int plan_outbound_parse(const char *text, struct addr *ret_listen, struct addr *ret_to,
                                 const char **ret_rule, struct err *e);

/* Splits on spaces in place; at most `max` words and a NULL. Errors: LIMIT, INVAL (none). */
MUST_USE int plan_words(char *text, char **ret, size_t max, struct err *e);

#endif
