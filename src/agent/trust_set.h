/* trust_set.h - private to agent/: what one message of the trust stream makes of what is held. No
 * I/O. Layer: agent. Thread: any. Source: proto/meshroot.proto, TrustSet; design.md "Rotation" 4.
 */
#ifndef AGENT_TRUST_SET_H
#define AGENT_TRUST_SET_H

#include "agent/creds.h"
#include "meshroot.pb-c.h"

enum { RENEW_WINDOW_MAX_MS = 24 * 60 * 60 * 1000 }; /* as a PluginCA's: a longer one is cut */

/* r: 0, *ret (owner: caller) is what is held from now on; TRUST_SET_SAME; TRUST_SET_OLD, of a lower
 * generation: put aside. Lists that cannot be used block no root: ret_lists then says why, and
 * those of before stay; its code is E_NONE otherwise. Errors: PARSE, LIMIT, NOMEM: what is held
 * stays. */
enum { TRUST_SET_SAME = 1, TRUST_SET_OLD };
MUST_USE int trust_set_take(const Meshroot__V1__TrustSet *m, const struct creds *held,
                            struct creds **ret, struct err *ret_lists, struct err *e);

/* When to renew a leaf that another signer than the message's has signed: at a random time from
 * *ret_from_ms to *ret_to_ms. False: the signer is the same, or the CA does not ask for it. */
bool trust_set_renewal(const Meshroot__V1__TrustSet *m, const struct creds *held,
                       uint64_t *ret_from_ms, uint64_t *ret_to_ms);

#endif
