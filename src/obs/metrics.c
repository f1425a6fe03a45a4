#include "obs/metrics.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/str.h"

static const double bounds[] = { 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                 0.05,   0.1,     0.25,   0.5,   1,      2.5,   5,    10 };
enum { N_BOUNDS = ARRAY_LEN(bounds), RECENT = 64 };

struct series {
    struct series *next;
    char *labels;                     /* owned */
    double value;                     /* a histogram's sum */
    uint64_t count, bucket[N_BOUNDS]; /* histograms only; not cumulative */
};

struct family {
    struct family *next;
    const struct metric_desc *desc; /* static */
    struct series *series, *last;   /* last: the one touched last */
    size_t n;
};

struct metrics {
    pthread_mutex_t lock;
    struct family *families;
    struct family *recent[RECENT]; /* by the address of their description */
};

int
metrics_new(struct metrics **ret, struct err *e)
{
    struct metrics *m = calloc(1, sizeof(*m));

    if (m == NULL)
        return err_nomem(e);
    (void)pthread_mutex_init(&m->lock, NULL);
    *ret = m;
    return 0;
}

static void
series_free_all(struct family *f)
{
    while (f->series != NULL) {
        struct series *s = f->series;

        f->series = s->next;
        free(s->labels);
        free(s);
    }
    f->n = 0;
    f->last = NULL;
}

void
metrics_free(struct metrics *m)
{
    if (m == NULL)
        return;
    while (m->families != NULL) {
        struct family *f = m->families;

        m->families = f->next;
        series_free_all(f);
        free(f);
    }
    (void)pthread_mutex_destroy(&m->lock);
    free(m);
}

/* Kept in order of names, so that the page is stable. */
static struct family *
family_find(struct metrics *m, const struct metric_desc *d)
{
    struct family **at = &m->families;

    while (*at != NULL && strcmp((*at)->desc->name, d->name) < 0)
        at = &(*at)->next;
    if (*at != NULL && strcmp((*at)->desc->name, d->name) == 0)
        return *at;
    struct family *f = calloc(1, sizeof(*f));
    if (f == NULL)
        return NULL;
    f->desc = d;
    f->next = *at;
    *at = f;
    return f;
}

static struct family *
family_get(struct metrics *m, const struct metric_desc *d)
{
    struct family **recent = &m->recent[(uintptr_t)d / sizeof(*d) % RECENT];

    if (*recent == NULL || (*recent)->desc != d) {
        struct family *f = family_find(m, d);

        if (f == NULL || f->desc != d)
            return f; /* two descriptions of one name share a family */
        *recent = f;
    }
    return *recent;
}

static struct series *
series_get(struct family *f, const char *labels)
{
    struct series **at = &f->series;

    while (*at != NULL && strcmp((*at)->labels, labels) < 0)
        at = &(*at)->next;
    if (*at != NULL && strcmp((*at)->labels, labels) == 0)
        return *at;
    if (f->n >= METRIC_MAX_SERIES && strcmp(labels, "overflow=\"true\"") != 0)
        return series_get(f, "overflow=\"true\"");
    struct series *s = calloc(1, sizeof(*s));
    char *copy = strdup(labels);
    if (s == NULL || copy == NULL) {
        free(s);
        free(copy);
        return NULL;
    }
    s->labels = copy;
    s->next = *at;
    *at = s;
    f->n++;
    return s;
}

static void
histogram_add(struct series *s, double v)
{
    s->count++;
    for (size_t i = 0; i < N_BOUNDS; i++)
        if (v <= bounds[i]) {
            s->bucket[i]++;
            return;
        }
}

static void
touch(struct metrics *m, const struct metric_desc *d, const char *labels, double v, bool set)
{
    if (m == NULL)
        return;
    (void)pthread_mutex_lock(&m->lock);
    struct family *f = family_get(m, d);
    struct series *s = f == NULL ? NULL : f->last;
    if (f != NULL && (s == NULL || strcmp(s->labels, labels) != 0))
        s = f->last = series_get(f, labels);
    if (s != NULL) {
        s->value = set ? v : s->value + v;
        if (d->kind == METRIC_HISTOGRAM)
            histogram_add(s, v);
    }
    (void)pthread_mutex_unlock(&m->lock);
}

void
metric_add(struct metrics *m, const struct metric_desc *d, const char *labels, double v)
{
    touch(m, d, labels, v, false);
}

void
metric_set(struct metrics *m, const struct metric_desc *d, const char *labels, double v)
{
    touch(m, d, labels, v, true);
}

void
metric_observe(struct metrics *m, const struct metric_desc *d, const char *labels, double s)
{
    touch(m, d, labels, s, false);
}

void
metric_clear(struct metrics *m, const struct metric_desc *d)
{
    if (m == NULL)
        return;
    (void)pthread_mutex_lock(&m->lock);
    struct family *f = family_get(m, d);
    if (f != NULL)
        series_free_all(f);
    (void)pthread_mutex_unlock(&m->lock);
}

int
metric_label(struct buf *b, const char *key, const char *value, struct err *e)
{
    TRY(buf_addf(b, e, "%s%s=\"", b->n == 0 ? "" : ",", key));
    for (; *value != '\0'; value++) {
        unsigned char c = (unsigned char)*value;

        if (c == '"' || c == '\\')
            TRY(buf_addf(b, e, "\\%c", c));
        else
            TRY(buf_add_byte(b, c < 0x20 || c == 0x7f ? '?' : c, e));
    }
    return buf_add_byte(b, '"', e);
}

double
metric_value(struct metrics *m, const char *name, const char *labels)
{
    double v = 0;

    (void)pthread_mutex_lock(&m->lock);
    for (struct family *f = m->families; f != NULL; f = f->next)
        for (struct series *s = f->series; s != NULL; s = s->next)
            if (strcmp(f->desc->name, name) == 0 && strcmp(s->labels, labels) == 0)
                v = f->desc->kind == METRIC_HISTOGRAM ? (double)s->count : s->value;
    (void)pthread_mutex_unlock(&m->lock);
    return v;
}

static int
histogram_text(const struct family *f, const struct series *s, struct buf *b, struct err *e)
{
    const char *comma = s->labels[0] == '\0' ? "" : ",";
    uint64_t sum = 0;

    for (size_t i = 0; i < N_BOUNDS; i++) {
        sum += s->bucket[i];
        TRY(buf_addf(b, e, "%s_bucket{%s%sle=\"%g\"} %llu\n", f->desc->name, s->labels, comma,
                     bounds[i], (unsigned long long)sum));
    }
    TRY(buf_addf(b, e, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", f->desc->name, s->labels, comma,
                 (unsigned long long)s->count));
    const char *open = s->labels[0] == '\0' ? "" : "{", *close = s->labels[0] == '\0' ? "" : "}";
    TRY(buf_addf(b, e, "%s_sum%s%s%s %.9g\n", f->desc->name, open, s->labels, close, s->value));
    return buf_addf(b, e, "%s_count%s%s%s %llu\n", f->desc->name, open, s->labels, close,
                    (unsigned long long)s->count);
}

static int
family_text(const struct family *f, struct buf *b, struct err *e)
{
    static const char *const kinds[] = { "counter", "gauge", "histogram" };

    if (f->series == NULL)
        return 0;
    TRY(buf_addf(b, e, "# HELP %s %s\n# TYPE %s %s\n", f->desc->name, f->desc->help, f->desc->name,
                 kinds[f->desc->kind]));
    for (const struct series *s = f->series; s != NULL; s = s->next) {
        if (f->desc->kind == METRIC_HISTOGRAM)
            TRY(histogram_text(f, s, b, e));
        else if (s->labels[0] == '\0')
            TRY(buf_addf(b, e, "%s %.15g\n", f->desc->name, s->value));
        else
            TRY(buf_addf(b, e, "%s{%s} %.15g\n", f->desc->name, s->labels, s->value));
    }
    return 0;
}

int
metrics_text(struct metrics *m, struct buf *b, struct err *e)
{
    int r = 0;

    (void)pthread_mutex_lock(&m->lock);
    for (struct family *f = m->families; f != NULL && r == 0; f = f->next)
        r = family_text(f, b, e);
    (void)pthread_mutex_unlock(&m->lock);
    return r;
}
