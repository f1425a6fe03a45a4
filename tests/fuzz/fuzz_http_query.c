/* A target that is accepted starts with '/', and every text in it lies inside its memory. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "net/http_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct http_target t;
    struct err e = { 0 };
    size_t sum;

    if (http_target_parse(span_of(p, n), &t, &e) < 0)
        return 0;
    assert(t.path[0] == '/' && t.query_n <= HTTP_MAX_QUERY);
    sum = strlen(t.path) + 1;
    for (size_t i = 0; i < t.query_n; i++) {
        sum += strlen(t.query[i].name) + 1 + strlen(t.query[i].value) + 1;
        assert(http_target_query(&t, t.query[i].name) != NULL);
    }
    assert(sum <= n + 2 + (size_t)2 * HTTP_MAX_QUERY);
    http_target_done(&t);
    http_target_done(&t);
    return 0;
}
