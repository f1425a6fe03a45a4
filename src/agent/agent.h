/* agent.h - the workload's side: key, CSR, leaf, trust, files, and an mTLS proxy. Layer: agent.
 * Thread: its loop. Source: specs/istio-ca.md 7, 13.2; proto/meshroot.proto.
 */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <jansson.h>

#include "identity/identity.h"
#include "net/loop.h"
#include "obs/metrics.h"

struct agent;

enum { AGENT_ALLOW_MAX = 32, AGENT_OUTBOUND_MAX = 32, AGENT_UIDS_MAX = 32 };

struct agent_conf {
    /* Texts are borrowed until agent_free. */
    const char *dir; /* state: instance id, and the set key.pem, cert-chain.pem, root-cert.pem */
    const char *ca_addr; /* "127.0.0.1:15012"; or several replicas: "a:15012,b:15012" */
    const char *ca_name; /* name in the CA's certificate; NULL: the host that is dialled */
    const char *ca_root; /* file with the roots that vouch for the CA; read again at each connect */
    const char *token_file;  /* read again at each call, trimmed; NULL: client certificate only */
    const char *identity;    /* the SPIFFE id to ask for */
    const char *cluster_id;  /* header of each call, for an istiod of several clusters; NULL */
    const char *cert_signer; /* CertSigner of each request: who is to sign; NULL: the CA's choice */
    enum key_kind key_kind;
    uint64_t ttl_ms;            /* asked lifetime; 0: the CA's default */
    const char *reload_command; /* run (no shell) after each change of the set; NULL */
    uint64_t reload_timeout_ms; /* then it is killed, with its process group; 0: 10 s */
    int64_t reload_pid;         /* SIGHUP to it after each change; 0 */
    const char
        *inbound; /* "127.0.0.1:8443=127.0.0.1:8080": mTLS in, clear text to a local port; NULL */
    const char *allow[AGENT_ALLOW_MAX]; /* allow rules for inbound peers */
    size_t allow_n;
    const char
        *outbound[AGENT_OUTBOUND_MAX]; /* "127.0.0.1:9001=127.0.0.1:8443=spiffe://...": clear text
                                          in, mTLS out to a peer that must match the rule */
    size_t outbound_n;
    const char *workload_socket;            /* SPIFFE Workload API: path or unix:///path; NULL */
    uint32_t workload_uids[AGENT_UIDS_MAX]; /* who may call it */
    size_t workload_uids_n;                 /* 0: root and our own */
    bool sds;                               /* serve Envoy's SDS there too */
    uint64_t sds_ack_ms;   /* an Envoy that has not acknowledged a push by then is cut off */
    uint64_t sds_grace_ms; /* an Envoy that went away is waited for as long, before our word */
    struct metrics *metrics;
    void (*on_ready)(void *arg); /* first leaf in place, listeners open */
    void *arg;
};

MUST_USE int agent_new(struct loop *l, const struct agent_conf *conf, struct agent **ret,
                       struct err *e);
/* When `ended`, wipes the key and says goodbye to the CA (best effort, bounded), unless the
 * Workload API may have handed a key out: what others hold is not ours to end. Then done(arg). */
void agent_stop(struct agent *a, bool ended, loop_fn *done, void *arg);
void agent_free(struct agent *a); /* NULL is fine */
/* The port in use of the i-th listener: inbound first (when there is one), then each outbound; 0
 * beyond them. */
uint16_t agent_port(const struct agent *a, size_t i);
/* True while a leaf that has not expired is in use. */
bool agent_is_ready(const struct agent *a);
/* Sets the gauges that change with time; before /metrics is read. */
void agent_metrics_refresh(struct agent *a);
/* {"identity","instance","generation","leaf":{...},"roots":[...],"next_renewal","last_error",...}
 */
json_t *agent_status(const struct agent *a);

#endif
