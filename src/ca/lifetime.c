/* lifetime.c - how long a leaf lives. Source: specs/istio-ca.md 4.4. */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "ca/room.h"

enum { GO_DURATION_BYTES = 40 };

/* As Go's time.Duration prints whole seconds: "2184h0m0s". */
static void
go_duration(uint64_t s, char ret[GO_DURATION_BYTES])
{
    uint64_t h = s / 3600, m = s / 60 % 60;

    if (h > 0)
        (void)snprintf(ret, GO_DURATION_BYTES, "%" PRIu64 "h%" PRIu64 "m%" PRIu64 "s", h, m,
                       s % 60);
    else if (m > 0)
        (void)snprintf(ret, GO_DURATION_BYTES, "%" PRIu64 "m%" PRIu64 "s", m, s % 60);
    else
        (void)snprintf(ret, GO_DURATION_BYTES, "%" PRIu64 "s", s);
}

static int
expired(int64_t not_after, struct err *e)
{
    time_t t = (time_t)not_after;
    struct tm tm;
    char text[32] = "";

    if (gmtime_r(&t, &tm) != NULL)
        (void)strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    return err_set(e, E_STATE, "signing certificate has expired at %s +0000 UTC", text);
}

int
ca_not_after(const struct ca_conf *conf, const struct ca_view *v, int64_t now, int64_t validity_s,
             int64_t *ret, struct err *e)
{
    int64_t max_s = (int64_t)(conf->max_ttl_ms / 1000);
    int64_t ttl_s = validity_s > 0 ? validity_s : (int64_t)(conf->default_ttl_ms / 1000);

    if (validity_s > max_s) {
        char asked[GO_DURATION_BYTES], max[GO_DURATION_BYTES];

        go_duration((uint64_t)validity_s, asked);
        go_duration((uint64_t)max_s, max);
        return err_set(e, E_INVAL, "requested TTL %s is greater than the max allowed TTL %s", asked,
                       max);
    }
    if (v->not_after <= now)
        return expired(v->not_after, e);
    *ret = ttl_s > v->not_after - now ? v->not_after : now + ttl_s;
    return 0;
}
