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
