/* test_csr_rows.c - the rows of bad_csrs.h: each is refused, and says why. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "pki/der.h"
#include "pki/leaf.h"

enum part { VERSION, SUBJECT, SPKI, ATTRIBUTES, INFO_TAIL, ALGORITHM, SIGNATURE, TAIL, PARTS_N };

#define ROW(name, part, notation, words) { name, part, notation, words },
static const struct row {
    const char *name;
    enum part part;
    const char *notation, *words;
} rows[] = {
#include "bad_csrs.h"
};
#undef ROW

/* What the rows take a part out of: P-256, the curve's generator as the key. */
static const char *const good[PARTS_N] = {
    [VERSION] = "02 01 00",
    [SUBJECT] = "30{}",
    [SPKI] = "30{30{06{2a8648ce3d0201} 06{2a8648ce3d030107}} 03{00 04"
             "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
             "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5}}",
    [ATTRIBUTES] = "a0{30{06{2a864886f70d01090e} 31{30{30{06{551d11} 01{ff}"
                   "04{30{86{'spiffe://td/ns/a/sa/b'}}}}}}}}",
    [INFO_TAIL] = "",
    [ALGORITHM] = "30{06{2a8648ce3d040302}}",
    [SIGNATURE] = "03{00 30{02{01} 02{01}}}",
    [TAIL] = "",
};

enum { BYTES_MAX = 80 * 1024 };

struct bytes {
    uint8_t p[BYTES_MAX];
    size_t n;
};

static void
add(struct bytes *b, uint8_t v)
{
    assert_true(b->n < BYTES_MAX);
    b->p[b->n++] = v;
}

/* Puts tag and length before what was added since `at`. */
static void
wrap(struct bytes *b, uint8_t tag, size_t at)
{
    static uint8_t buf[BYTES_MAX + 8];
    struct derw w = derw_of(buf, sizeof(buf));

    derw_put(&w, tag, span_of(b->p + at, b->n - at));
    struct span whole = derw_span(&w);
    assert_true(whole.n > 0 && at + whole.n <= BYTES_MAX);
    memcpy(b->p + at, whole.p, whole.n);
    b->n = at + whole.n;
}

/* Reads the notation of bad_csrs.h up to `end`; what follows it. */
static const char *
bytes_read(struct bytes *b, const char *s, char end)
{
    while (*s != end) {
        if (*s == ' ') {
            s++;
        } else if (*s == '\'') {
            for (s++; *s != '\''; s++)
                add(b, (uint8_t)*s);
            s++;
        } else if (*s == '[') {
            char *body;
            unsigned long n = strtoul(s + 1, &body, 10);

            assert_true(*body == ':' && n > 0);
            for (; n > 0; n--)
                s = bytes_read(b, body + 1, ']');
        } else {
            char *after, pair[3] = { s[0], s[1], '\0' };
            uint8_t v = (uint8_t)strtoul(pair, &after, 16);
            size_t at = b->n;

            assert_true(after == pair + 2);
            s += 2;
            if (*s != '{') {
                add(b, v);
                continue;
            }
            s = bytes_read(b, s + 1, '}');
            wrap(b, v, at);
        }
    }
    return end == '\0' ? s : s + 1;
}

static void
request_of(const char *const parts[PARTS_N], struct bytes *b)
{
    b->n = 0;
    for (int i = VERSION; i <= INFO_TAIL; i++)
        (void)bytes_read(b, parts[i], '\0');
    wrap(b, DER_SEQUENCE, 0);
    (void)bytes_read(b, parts[ALGORITHM], '\0');
    (void)bytes_read(b, parts[SIGNATURE], '\0');
    wrap(b, DER_SEQUENCE, 0);
    (void)bytes_read(b, parts[TAIL], '\0');
}

static void
the_good_one_is_refused_for_its_signature_only(void **state)
{
    static struct bytes b;
    struct csr c;
    struct err e;

    (void)state;
    request_of(good, &b);
    assert_ok(csr_parse(span_of(b.p, b.n), &c, &e));
    assert_int_equal(c.kind, KEY_P256);
    assert_err(csr_verify(span_of(b.p, b.n), &c, &e), E_CRYPTO, "x509: ECDSA verification failure");
    assert_string_equal(e.msg, "x509: ECDSA verification failure");
}

static void
each_row_is_refused_and_says_why(void **state)
{
    static struct bytes b;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *parts[PARTS_N];
        struct csr c;
        struct err e = { 0 };

        memcpy(parts, good, sizeof(parts));
        parts[rows[i].part] = rows[i].notation;
        request_of(parts, &b);
        struct span der = span_of(b.p, b.n);
        int r = csr_parse(der, &c, &e);
        if (r == 0)
            r = csr_verify(der, &c, &e);
        if (r == 0 || strstr(e.msg, rows[i].words) == NULL)
            fail_msg("%s: \"%s\" does not say \"%s\"", rows[i].name, e.msg, rows[i].words);
    }
}

/* specs/peers.md 5c 40: what begins again and again and never ends costs one look. */
static void
cve_40_pem_bombs(void **state)
{
    static const char begin[] = "-----BEGIN CERTIFICATE REQUEST-----\n";
    CLEANUP(buf_done) struct buf out = BUF_INIT(CSR_MAX_BYTES);
    size_t n = 10 * 1024 * 1024;
    char *text = malloc(n);
    struct err e;

    (void)state;
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = begin[i % (sizeof(begin) - 1)];
    assert_err(csr_from_pem(span_of(text, n), &out, &e), E_PARSE, "it is too long");
    for (size_t cut = 0; cut <= 2 * CSR_MAX_BYTES; cut += 331)
        assert_err(csr_from_pem(span_of(text, cut), &out, &e), E_PARSE, "not properly encoded");
    assert_int_equal(out.n, 0);
    free(text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_good_one_is_refused_for_its_signature_only),
        cmocka_unit_test(each_row_is_refused_and_says_why),
        cmocka_unit_test(cve_40_pem_bombs),
    };

    return cmocka_run_group_tests_name("pki/csr_rows", tests, NULL, NULL);
}
