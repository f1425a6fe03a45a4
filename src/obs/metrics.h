/* metrics.h - counters, gauges and histograms, printed as Prometheus text. Layer: obs. Thread: any.
 *
 * A room declares each metric once as a `static const struct metric_desc` and passes its address. A
 * series appears when it is first touched. Labels are given ready-made: `reason="expired"`, or "".
 * The number of series of one metric is capped (METRIC_MAX_SERIES); beyond it the value goes to the
 * series `overflow="true"`, so that no peer can fill memory with label values.
 */
#ifndef OBS_METRICS_H
#define OBS_METRICS_H

#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"
#include "base/err.h"

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
enum { METRIC_MAX_SERIES = 256, METRIC_LABELS_BYTES = 512 };

struct metric_desc {
    const char *name, *help;
    enum metric_kind kind;
};

struct metrics;

/* Owner: caller, metrics_free. Errors: NOMEM. */
MUST_USE int metrics_new(struct metrics **ret, struct err *e);
void metrics_free(struct metrics *m); /* NULL is fine */
DEFINE_CLEANUP(struct metrics, metrics_free)

/* All three do nothing when `m` is NULL (unit tests, offline commands) or memory is short.
 *   labels   borrowed; "" or `key="value",key2="value2"` with values made by metric_label_value
 * metric_observe takes seconds; its buckets go from 100 us to 10 s. */
void metric_add(struct metrics *m, const struct metric_desc *d, const char *labels, double v);
void metric_set(struct metrics *m, const struct metric_desc *d, const char *labels, double v);
void metric_observe(struct metrics *m, const struct metric_desc *d, const char *labels, double s);
/* Forgets all series of a gauge before it is set anew (certificates that are gone). */
void metric_clear(struct metrics *m, const struct metric_desc *d);

/* Writes `key="value"` with the value escaped; prefixed by a comma when `b` is not empty.
 * Source: Prometheus text exposition format 0.0.4. */
MUST_USE int metric_label(struct buf *b, const char *key, const char *value, struct err *e);

/* The current value of one series; 0 when there is none. For tests and status pages. */
double metric_value(struct metrics *m, const char *name, const char *labels);

/* Appends the whole page (content type text/plain; version=0.0.4). Errors: LIMIT, NOMEM. */
MUST_USE int metrics_text(struct metrics *m, struct buf *b, struct err *e);

#endif
