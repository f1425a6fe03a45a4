/* monitor.h - /metrics, /healthz, /readyz and /status of a daemon, on a port of their own or among
 * other pages. Layer: net. Thread: its loop. Source: Prometheus text format 0.0.4; Kubernetes
 * probes.
 */
#ifndef NET_MONITOR_H
#define NET_MONITOR_H

#include "net/http.h"
#include "obs/metrics.h"

struct monitor;

struct monitor_conf {
    struct metrics *metrics; /* borrowed */
    void (*refresh)(
        void *self); /* before /metrics: gauges that are computed when asked; NULL: none */
    bool (*is_ready)(void *self);
    const char *not_ready; /* what /readyz says then, and what to do; static */
    /* The same when it is not always the same: borrowed until the next call. NULL: not_ready. */
    const char *(*why_not_ready)(void *self);
    /* The JSON of /status as a text the caller frees; NULL: out of memory. NULL for daemons without
     * that page. */
    char *(*status)(void *self);
    /* Answers a page of the daemon's own; r: whether it was one. NULL: it has none. */
    bool (*page)(struct http_exchange *x, void *self);
    void *self;
};

enum { MONITOR_METRICS_BYTES = 8 * 1024 * 1024, MONITOR_PATH_BYTES = 108 };

/* Listens on `listen` ("127.0.0.1:15014"; port 0 picks one; "/...": a Unix socket for the same
 * user; "off" or NULL: not at all, only monitor_serve). Owner: caller. Errors: INVAL, SYS (the
 * address is in use), NOMEM. */
MUST_USE int monitor_new(struct loop *l, const char *listen, const struct monitor_conf *conf,
                         struct monitor **ret, struct err *e);
void monitor_free(struct monitor *m);           /* NULL is fine */
uint16_t monitor_port(const struct monitor *m); /* 0: not listening */

/* Answers one exchange of another server when its path is one of these pages. r: true when it was.
 */
bool monitor_serve(struct monitor *m, struct http_exchange *x);

#endif
