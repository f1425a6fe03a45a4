/* agent_metrics.c - Istio's names where Istio has them. Source: specs/istio-ca.md 8.2. */
#include "agent/room.h"
#include "base/clock.h"
#include "base/str.h"

#define CSR_LABEL "request_type=\"csr\""

static const struct metric_desc m_expiry = {
    "istio_agent_cert_expiry_seconds",
    "Seconds until the workload certificate expires; negative when it has.", METRIC_GAUGE
};
static const struct metric_desc m_requests = { "istio_agent_num_outgoing_requests",
                                               "Requests sent to the CA.", METRIC_COUNTER };
static const struct metric_desc m_failed = { "istio_agent_num_failed_outgoing_requests",
                                             "Requests to the CA that failed.", METRIC_COUNTER };
static const struct metric_desc m_retries = { "istio_agent_num_outgoing_retries",
                                              "Requests to the CA that repeat a failed one.",
                                              METRIC_COUNTER };
static const struct metric_desc m_latency = { "istio_agent_outgoing_latency",
                                              "Milliseconds spent in requests to the CA, in all.",
                                              METRIC_COUNTER };
static const struct metric_desc m_files = { "istio_agent_num_file_secret_failures_total",
                                            "Times that the file set could not be written.",
                                            METRIC_COUNTER };
static const struct metric_desc m_ca = { "istio_agent_istiod_connection_failures",
                                         "Calls that ended because the CA was not reachable.",
                                         METRIC_COUNTER };
static const struct metric_desc m_startup = { "istio_agent_startup_duration_seconds",
                                              "From start to the first certificate in use.",
                                              METRIC_GAUGE };
static const struct metric_desc m_generation = { "meshroot_agent_generation",
                                                 "Generation of the trust set in use.",
                                                 METRIC_GAUGE };
static const struct metric_desc m_acked = { "meshroot_agent_acknowledged_generation",
                                            "Generation that the CA has our word for.",
                                            METRIC_GAUGE };
static const struct metric_desc m_handshakes = {
    "meshroot_agent_handshakes_total", "Proxied connections by direction, result and reason.",
    METRIC_COUNTER
};
static const struct metric_desc m_cut = {
    "meshroot_agent_connections_cut_total",
    "Proxied connections that were ended because their peer was revoked.", METRIC_COUNTER
};
static const struct metric_desc m_root_expiry = {
    "meshroot_agent_root_expiry_seconds", "Seconds until each root of the trust set expires.",
    METRIC_GAUGE
};
static const struct metric_desc m_open = { "meshroot_agent_proxy_connections",
                                           "Proxied connections that are open.", METRIC_GAUGE };

void
count_csr(struct agent *a, bool is_retry)
{
    metric_add(a->conf.metrics, &m_requests, CSR_LABEL, 1);
    if (is_retry)
        metric_add(a->conf.metrics, &m_retries, CSR_LABEL, 1);
}

void
count_csr_end(struct agent *a, bool ok, double latency_ms)
{
    if (!ok)
        metric_add(a->conf.metrics, &m_failed, CSR_LABEL, 1);
    metric_add(a->conf.metrics, &m_latency, CSR_LABEL, latency_ms);
}

void
count_write_failure(struct agent *a)
{
    metric_add(a->conf.metrics, &m_files, "", 1);
}

void
count_ca_failure(struct agent *a)
{
    metric_add(a->conf.metrics, &m_ca, "", 1);
}

void
count_started(struct agent *a)
{
    metric_set(a->conf.metrics, &m_startup, "", (double)(mono_ms() - a->started_ms) / 1000);
}

void
count_cut(struct agent *a, bool is_inbound, size_t n)
{
    if (n > 0)
        metric_add(a->conf.metrics, &m_cut,
                   is_inbound ? "direction=\"inbound\"" : "direction=\"outbound\"", (double)n);
}

void
count_handshake(struct agent *a, bool is_inbound, const struct err *why)
{
    char labels[METRIC_LABELS_BYTES];
    const char *result = why == NULL ? "ok" : why->code == E_DENIED ? "refused" : "failed";

    (void)snprintf(labels, sizeof(labels), "direction=\"%s\",result=\"%s\",reason=\"%s\"",
                   is_inbound ? "inbound" : "outbound", result,
                   why == NULL ? "" : err_meaning(why->code)->name);
    metric_add(a->conf.metrics, &m_handshakes, labels, 1);
}

static void
set_roots(struct agent *a)
{
    char labels[METRIC_LABELS_BYTES], id[DIGEST_TEXT_BYTES];

    metric_clear(a->conf.metrics, &m_root_expiry);
    for (size_t i = 0; i < roots_count(a->now->roots); i++) {
        const struct cert *c = roots_at(a->now->roots, i);

        hex_text(span_of(cert_id(c), DIGEST_BYTES), id);
        (void)snprintf(labels, sizeof(labels), "id=\"%s\"", id);
        metric_set(a->conf.metrics, &m_root_expiry, labels, (double)(cert_not_after(c) - unix_s()));
    }
}

void
agent_metrics_refresh(struct agent *a)
{
    for (size_t i = 0, n = 0; i <= a->proxies_n; i++) {
        if (i < a->proxies_n)
            n += proxy_connections(a->proxies[i].proxy);
        else
            metric_set(a->conf.metrics, &m_open, "", (double)n);
    }
    metric_set(a->conf.metrics, &m_acked, "", (double)a->acked_generation);
    workload_metrics_refresh(a->workload);
    if (a->now == NULL)
        return;
    metric_set(a->conf.metrics, &m_generation, "", (double)a->now->generation);
    metric_set(a->conf.metrics, &m_expiry, "resource_name=\"default\"",
               (double)(cert_not_after(a->now->leaf) - unix_s()));
    set_roots(a);
}
