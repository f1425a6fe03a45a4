#include "base/clock.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>

static _Atomic int64_t shift_s; /* tests only; see clock_shift_for_test */

void
clock_shift_for_test(int64_t s)
{
    atomic_store(&shift_s, s);
}

uint64_t
mono_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int64_t
unix_us(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_REALTIME, &t);
    return ((int64_t)t.tv_sec + atomic_load(&shift_s)) * 1000000 + t.tv_nsec / 1000;
}

int64_t
unix_s(void)
{
    return unix_us() / 1000000;
}

void
rfc3339_us(int64_t t_unix_us, char ret[RFC3339_BYTES])
{
    time_t s = (time_t)(t_unix_us / 1000000);
    struct tm tm = { 0 };
    char head[RFC3339_BYTES];

    (void)gmtime_r(&s, &tm);
    (void)strftime(head, sizeof(head), "%Y-%m-%dT%H:%M:%S", &tm);
    (void)snprintf(ret, RFC3339_BYTES, "%.20s.%06dZ", head, (int)(t_unix_us % 1000000));
}

void
rfc3339_s(int64_t t_unix_s, char ret[RFC3339_BYTES])
{
    time_t s = (time_t)t_unix_s;
    struct tm tm = { 0 };

    (void)gmtime_r(&s, &tm);
    (void)strftime(ret, RFC3339_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Two or four digits at `at`; -1: not digits. */
static int
digits(struct span s, size_t at, size_t n)
{
    int v = 0;

    for (size_t i = at; i < at + n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return -1;
        v = v * 10 + (s.p[i] - '0');
    }
    return v;
}

int
rfc3339_parse(struct span s, int64_t *ret_unix_s, struct err *e)
{
    static const char form[] = "dddd-dd-ddTdd:dd:dd";
    const size_t n = sizeof(form) - 1;
    bool ok = s.n > n && s.n < RFC3339_BYTES && s.p[s.n - 1] == 'Z';

    for (size_t i = 0; i < n && ok; i++)
        ok = form[i] == 'd' || s.p[i] == (uint8_t)form[i];
    for (size_t i = n; ok && i < s.n - 1; i++)
        ok = i == n ? s.p[i] == '.' && s.n - 1 > n + 1 : s.p[i] >= '0' && s.p[i] <= '9';
    if (!ok)
        return err_set(e, E_PARSE, "\"%.*s\" is not a time such as 2026-11-23T21:12:40Z",
                       s.n < RFC3339_BYTES ? (int)s.n : 0, (const char *)s.p);
    struct tm tm = { .tm_year = digits(s, 0, 4) - 1900,
                     .tm_mon = digits(s, 5, 2) - 1,
                     .tm_mday = digits(s, 8, 2),
                     .tm_hour = digits(s, 11, 2),
                     .tm_min = digits(s, 14, 2),
                     .tm_sec = digits(s, 17, 2) };
    struct tm same = tm;
    time_t t = timegm(&same);
    /* timegm takes the 31st of June for the 1st of July; what it did not move was a time */
    if (same.tm_mon != tm.tm_mon || same.tm_mday != tm.tm_mday || same.tm_hour != tm.tm_hour ||
        same.tm_min != tm.tm_min || same.tm_sec != tm.tm_sec || tm.tm_year < 70)
        return err_set(e, E_PARSE, "\"%.*s\" is no moment in time", (int)s.n, (const char *)s.p);
    *ret_unix_s = t;
    return 0;
}

int
random_bytes(void *p, size_t n, struct err *e)
{
    for (size_t have = 0; have < n;) {
        ssize_t r = getrandom((char *)p + have, n - have, 0);
        if (r < 0 && errno != EINTR)
            return err_sys(e, errno, "getrandom");
        if (r > 0)
            have += (size_t)r;
    }
    return 0;
}

uint64_t
random_below(uint64_t n)
{
    uint64_t v = 0;
    struct err e;

    if (n == 0 || random_bytes(&v, sizeof(v), &e) < 0)
        return 0;
    return (uint64_t)(((__uint128_t)v * n) >> 64);
}
