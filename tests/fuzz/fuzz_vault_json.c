/* A body that is accepted keeps every documented limit, and its attributes survive the store. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "vault/secret_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

static void
stored(const struct secret_change *c)
{
    struct secret_meta m = { .enabled = true, .created = 1, .updated = 1 }, back = { 0 };
    struct buf b = BUF_INIT(256 * 1024);
    struct err e = { 0 };

    if (secret_meta_apply(&m, c, &e) == 0) {
        assert(m.exp == 0 || m.nbf == 0 || m.exp >= m.nbf);
        assert(secret_meta_save(&m, &b, &e) == 0);
        assert(secret_meta_load(buf_span(&b), &back, &e) == 0);
        assert(back.enabled == m.enabled && back.exp == m.exp && back.nbf == m.nbf);
        assert((m.tags == NULL && back.tags == NULL) || json_equal(m.tags, back.tags));
        secret_meta_done(&back);
    }
    secret_meta_done(&m);
    buf_done(&b);
}

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct secret_meta m;
    struct err e = { 0 };

    for (int is_set = 0; is_set < 2; is_set++) {
        struct secret_change c;

        if (secret_change_parse(span_of(p, n), is_set == 1, &c, &e) < 0)
            continue;
        assert(is_set == 1 ? c.value.p != NULL && c.value.n <= SECRET_VALUE_BYTES
                           : c.value.p == NULL);
        assert(c.tags == NULL || json_object_size(c.tags) <= SECRET_TAGS);
        stored(&c);
        secret_change_done(&c);
    }
    if (secret_meta_load(span_of(p, n), &m, &e) == 0)
        secret_meta_done(&m);
    return 0;
}
