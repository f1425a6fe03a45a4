#include "agent/plan.h"

#include <string.h>

#include "base/str.h"
#include "identity/identity.h"
#include "net/grpc.h"

enum { PUSHBACK_JITTER_PART = 4 };

uint64_t
plan_renew_ms(int64_t from_s, int64_t not_after_s, int64_t now_s, uint32_t random)
{
    int64_t half_ms = (not_after_s - from_s) * 1000 / 2;
    uint64_t late = random % RENEW_LATE_MS;

    if (half_ms <= 0)
        return late;
    int64_t span_ms = half_ms / 100 * RENEW_JITTER_PERCENT;
    int64_t jitter_ms = (int64_t)((uint64_t)(2 * span_ms) * (random >> 8) >> 24) - span_ms;
    int64_t ms = half_ms + jitter_ms - (now_s - from_s) * 1000;
    return ms > 0 ? (uint64_t)ms : late;
}

uint64_t
plan_backoff_ms(unsigned failures, bool is_slow, uint32_t random)
{
    uint64_t max = is_slow ? BACKOFF_SLOW_MS : BACKOFF_MIN_MS;

    for (unsigned i = 1; i < failures && max < BACKOFF_MAX_MS; i++)
        max *= 2;
    if (max > BACKOFF_MAX_MS)
        max = BACKOFF_MAX_MS;
    return 1 + (max * random >> 32);
}

uint64_t
plan_retry_ms(struct span pushback, unsigned failures, bool is_slow, uint32_t random)
{
    uint64_t ms = 0;
    struct err e;

    if (pushback.n == 0)
        return plan_backoff_ms(failures, is_slow, random);
    if (u64_parse(pushback, 0, INT64_MAX, &ms, &e) < 0)
        return plan_backoff_ms(failures, true, random);
    if (ms > BACKOFF_MAX_MS)
        ms = BACKOFF_MAX_MS;
    return ms + 1 + (ms / PUSHBACK_JITTER_PART * random >> 32);
}

bool
plan_is_transient(int grpc_code)
{
    static const int codes[] = { GRPC_CANCELLED,          GRPC_UNKNOWN, GRPC_DEADLINE_EXCEEDED,
                                 GRPC_RESOURCE_EXHAUSTED, GRPC_ABORTED, GRPC_INTERNAL,
                                 GRPC_UNAVAILABLE };

    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (codes[i] == grpc_code)
            return true;
    return false;
}

enum plan_take
plan_generation(uint64_t held, uint64_t got)
{
    return got < held ? PLAN_DROP : PLAN_TAKE;
}

int
plan_addrs_parse(const char *text, struct addr *ret, size_t max, size_t *ret_n, struct err *e)
{
    struct span rest = span_str(text), one;
    size_t n = 0;

    while (span_cut(&rest, ',', &one)) {
        char part[ADDR_TEXT_BYTES];

        if (n == max)
            return err_set(e, E_LIMIT, "more than %zu addresses", max);
        if (one.n >= sizeof(part))
            return err_set(e, E_PARSE, "an address of more than %zu bytes", sizeof(part) - 1);
        memcpy(part, one.p, one.n);
        part[one.n] = '\0';
        TRY(addr_parse(part, &ret[n++], e));
    }
    *ret_n = n;
    return n == 0 ? err_set(e, E_PARSE, "no address") : 0;
}

/* The part of `*text` before '=' as an address; *text moves behind it. */
static int
cut_addr(const char **text, bool is_last, struct addr *ret, struct err *e)
{
    char part[ADDR_TEXT_BYTES];
    const char *end = strchr(*text, '=');
    size_t n = end == NULL ? strlen(*text) : (size_t)(end - *text);

    if ((end == NULL) != is_last || n >= sizeof(part))
        return err_set(e, E_PARSE, "wrong number of \"=\"");
    memcpy(part, *text, n);
    part[n] = '\0';
    *text = end == NULL ? NULL : end + 1;
    return addr_parse(part, ret, e);
}

int
plan_inbound_parse(const char *text, struct addr *ret_listen, struct addr *ret_to, struct err *e)
{
    const char *rest = text;

    if (cut_addr(&rest, false, ret_listen, e) < 0 || cut_addr(&rest, true, ret_to, e) < 0)
        return err_wrap(
            e, "inbound \"%.120s\" is not LISTEN=TO, such as 0.0.0.0:8443=127.0.0.1:8080", text);
    return 0;
}

int
plan_outbound_parse(const char *text, struct addr *ret_listen, struct addr *ret_to,
                    const char **ret_rule, struct err *e)
{
    const char *rest = text;

    if (cut_addr(&rest, false, ret_listen, e) < 0 || cut_addr(&rest, false, ret_to, e) < 0 ||
        allow_rule_check(rest, e) < 0)
        return err_wrap(e,
                        "outbound \"%.160s\" is not LISTEN=PEER=RULE, such as "
                        "127.0.0.1:9001=10.0.0.2:8443=spiffe://td/ns/shop/sa/*",
                        text);
    *ret_rule = rest;
    return 0;
}

int
plan_words(char *text, char **ret, size_t max, struct err *e)
{
    size_t n = 0;
    char *save = NULL;

    for (char *w = strtok_r(text, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save)) {
        if (n == max)
            return err_set(e, E_LIMIT, "a command of more than %zu words", max);
        ret[n++] = w;
    }
    ret[n] = NULL;
    return n == 0 ? err_set(e, E_INVAL, "an empty command") : 0;
}
