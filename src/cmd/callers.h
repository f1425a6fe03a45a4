/* callers.h - the flags that say whom a CA believes and what it is called, shared by up and ca
 * serve. Layer: cmd. */
#ifndef CMD_CALLERS_H
#define CMD_CALLERS_H

#include "ca/ca.h"
#include "config/opts.h"

struct caller_flags {
    struct opt_list issuers, audiences, dns_names;
};

/* clang-format off */
#define OPT_CALLERS(type, member)                                                                                          \
    { "issuer", OPT_LIST, offsetof(type, member.issuers), NULL, NULL, NULL, 0, "ISS=JWKS",                                 \
      "trusted issuer of workload tokens, and its keys (file or https URL); repeatable" },                                 \
    { "audience", OPT_LIST, offsetof(type, member.audiences), NULL, NULL, NULL, 0, "NAME",                                 \
      "audience that tokens must have; repeatable [istio-ca]" },                                                           \
    { "dns-name", OPT_LIST, offsetof(type, member.dns_names), NULL, NULL, NULL, 0, "NAME",                                 \
      "name or address in the CA's certificate; repeatable [istiod.istio-system.svc, localhost, 127.0.0.1]" }
/* clang-format on */

/* The same as a CA's settings want it; texts are borrowed from the flags but for `kept`. */
struct callers {
    struct ca_issuer issuers[CA_JWKS_MAX];
    size_t issuers_n;
    const char *audiences[JWT_AUDIENCES];
    const char *dns_names[CA_DNS_MAX];
    size_t dns_names_n;
    char *kept[CA_JWKS_MAX];
};

/* Errors: INVAL (the flag, and what it must look like), NOMEM. */
MUST_USE int callers_fill(const struct caller_flags *f, struct callers *ret, struct err *e);
void callers_done(struct callers *c);

#endif
