/* ca_metrics.c - names of istiod where it has them (specs/istio-ca.md 8.1), ours beside. */
#include <stdio.h>

#include "base/clock.h"
#include "ca/room.h"

const struct metric_desc
    ca_m_csr = { "citadel_server_csr_count", "The number of CSRs received.", METRIC_COUNTER },
    ca_m_auth_failure = { "citadel_server_authentication_failure_count",
                          "The number of authentication failures.", METRIC_COUNTER },
    ca_m_sign_error = { "citadel_server_csr_sign_err_count", "The number of CSR signing errors.",
                        METRIC_COUNTER },
    ca_m_issued = { "citadel_server_success_cert_issuance_count",
                    "The number of certificates issued.", METRIC_COUNTER },
    ca_m_auth_reason = { "meshroot_ca_auth_failures_total", "Callers turned away, by reason.",
                         METRIC_COUNTER },
    ca_m_handled = { "grpc_server_handled_total", "Calls answered, by method and code.",
                     METRIC_COUNTER },
    ca_m_seconds = { "grpc_server_handling_seconds",
                     "Seconds from a call to its answer, by method.", METRIC_HISTOGRAM },
    ca_m_generation = { "meshroot_ca_generation", "Generation of the bundle in force.",
                        METRIC_GAUGE },
    ca_m_refused = { "meshroot_ca_refused_total", "Sets that were not loaded, by reason.",
                     METRIC_COUNTER },
    ca_m_is_present = { "meshroot_ca_loaded_is_present",
                        "1 when what is loaded is what the folder holds.", METRIC_GAUGE },
    ca_m_watchers = { "meshroot_ca_trust_streams", "Agents that follow the trust set.",
                      METRIC_GAUGE },
    ca_m_told_later = { "meshroot_ca_told_to_come_back_total",
                        "Calls turned away because too many waited.", METRIC_COUNTER },
    ca_m_reloads = { "meshroot_ca_loads_total", "Sets that were loaded.", METRIC_COUNTER },
    ca_m_signer_up = { "meshroot_signer_up",
                       "1 when the signer process runs and holds the key in "
                       "force.",
                       METRIC_GAUGE },
    ca_m_signer_starts = { "meshroot_signer_restarts_total",
                           "Signer processes that took a lost one's place.", METRIC_COUNTER };

const struct metric_desc ca_m_jwt_issued = { "meshroot_ca_jwt_svids_total", "JWT-SVIDs issued.",
                                             METRIC_COUNTER },
                         ca_m_clock_steps = { "meshroot_clock_steps_total",
                                              "Times that the wall clock has jumped.",
                                              METRIC_COUNTER };

static const struct metric_desc ledger_up = { "meshroot_ledger_up",
                                              "1 while the ledger's last write is on the disk; 0: "
                                              "no leaf is issued.",
                                              METRIC_GAUGE };
static const struct metric_desc expiry = { "meshroot_cert_expiry_timestamp_seconds",
                                           "End of each certificate in force, unix seconds.",
                                           METRIC_GAUGE };
static const struct metric_desc root_at = { "citadel_server_root_cert_expiry_timestamp",
                                            "The unix timestamp, in seconds, when the first root "
                                            "cert will expire.",
                                            METRIC_GAUGE };
static const struct metric_desc root_in = { "citadel_server_root_cert_expiry_seconds",
                                            "The time remaining, in seconds, before the first root "
                                            "cert will expire.",
                                            METRIC_GAUGE };
static const struct metric_desc chain_at = { "citadel_server_cert_chain_expiry_timestamp",
                                             "The unix timestamp, in seconds, when the CA cert "
                                             "will expire.",
                                             METRIC_GAUGE };
static const struct metric_desc chain_in = { "citadel_server_cert_chain_expiry_seconds",
                                             "The time remaining, in seconds, before the CA cert "
                                             "will expire.",
                                             METRIC_GAUGE };

static void
expiry_set(struct metrics *m, const char *kind, const struct cert *c)
{
    CLEANUP(buf_done) struct buf labels = BUF_INIT(METRIC_LABELS_BYTES);
    char subject[NAME_TEXT_BYTES], serial[SERIAL_TEXT_BYTES];
    struct err e;

    cert_subject_text(c, subject);
    cert_serial_text(c, serial);
    if (metric_label(&labels, "kind", kind, &e) < 0 ||
        metric_label(&labels, "subject", subject, &e) < 0 ||
        metric_label(&labels, "serial", serial, &e) < 0)
        return; /* out of memory: a gauge is missing until the next tick */
    metric_set(m, &expiry, buf_text(&labels), (double)cert_not_after(c));
}

static void
istiod_expiry_set(struct metrics *m, const struct metric_desc *at, const struct metric_desc *in,
                  const struct cert *c)
{
    metric_set(m, at, "", (double)cert_not_after(c));
    metric_set(m, in, "", (double)(cert_not_after(c) - unix_s()));
}

/* Where the key in use is. */
void
ca_metrics_signer(struct ca *c)
{
    static const struct metric_desc info = { "meshroot_signer_info",
                                             "1, labelled with where the keys are: in files or in "
                                             "a PKCS#11 token.",
                                             METRIC_GAUGE };
    CLEANUP(buf_done) struct buf labels = BUF_INIT(METRIC_LABELS_BYTES);
    const char *token = signer_process_status(c->signer).token;
    struct err e;

    if (metric_label(&labels, "kind", token[0] == '\0' ? "file" : "pkcs11", &e) < 0 ||
        metric_label(&labels, "token", token, &e) < 0)
        return; /* out of memory: the metric is missing */
    metric_set(c->conf.metrics, &info, buf_text(&labels), 1);
}

/* A counter that appears with its first event has no rise: rate() would not see that event. */
void
ca_metrics_start(struct ca *c)
{
    static const struct metric_desc *const counters[] = { &ca_m_csr,         &ca_m_auth_failure,
                                                          &ca_m_issued,      &ca_m_told_later,
                                                          &ca_m_clock_steps, &ca_m_signer_starts,
                                                          &ca_m_watchers };

    for (size_t i = 0; i < ARRAY_LEN(counters); i++)
        metric_add(c->conf.metrics, counters[i], "", 0);
    metric_set(c->conf.metrics, &ca_m_generation, "", 0);
    metric_set(c->conf.metrics, &ca_m_signer_up, "", 0);
}

void
ca_metrics_refresh(struct ca *c)
{
    struct err e;

    metric_set(c->conf.metrics, &ledger_up, "", ledger_health(c->conf.ledger, &e) == 0);
}

void
ca_metrics_expiry(struct ca *c)
{
    struct metrics *m = c->conf.metrics;
    struct bundle *b = c->loaded.bundle;

    if (b == NULL)
        return;
    metric_clear(m, &expiry);
    for (size_t i = 0; i < roots_count(bundle_roots(b)); i++)
        expiry_set(m, "root", roots_at(bundle_roots(b), i));
    for (size_t i = 0; i < bundle_chain_count(b); i++)
        expiry_set(m, "chain", bundle_chain_at(b, i));
    if (c->server.leaf != NULL)
        expiry_set(m, "server", c->server.leaf);
    istiod_expiry_set(m, &root_at, &root_in, bundle_signer_root(b));
    istiod_expiry_set(m, &chain_at, &chain_in, bundle_signer(b));
}

void
ca_metrics_handled(struct ca *c, const char *method, int code, uint64_t start_us)
{
    char labels[METRIC_LABELS_BYTES];
    uint64_t now = (uint64_t)unix_us();
    const char *service =
        method[0] == 'C' ? "istio.v1.auth.IstioCertificateService" : "meshroot.v1.Trust";

    (void)snprintf(labels, sizeof(labels),
                   "grpc_service=\"%s\",grpc_method=\"%s\",grpc_type=\"%s\",grpc_code=\"%s\"",
                   service, method, method[0] == 'W' ? "server_stream" : "unary",
                   grpc_code_name(code));
    metric_add(c->conf.metrics, &ca_m_handled, labels, 1);
    if (method[0] == 'W')
        return; /* a stream lasts as long as its agent */
    (void)snprintf(labels, sizeof(labels), "grpc_service=\"%s\",grpc_method=\"%s\"", service,
                   method);
    metric_observe(c->conf.metrics, &ca_m_seconds, labels,
                   now > start_us ? (double)(now - start_us) / 1e6 : 0);
}
