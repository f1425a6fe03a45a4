#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "base/str.h"
#include "pki/pem.h"
#include "pki/pki.h"

#define B "-----BEGIN A-----\n"
#define E "-----END A-----\n"

static void
good_texts(void **state)
{
    static const struct {
        const char *text;
        size_t blocks;
        const char *first; /* decoded */
    } rows[] = {
        { "", 0, NULL },
        { "hello\n", 0, NULL },
        { B "aGVsbG8=\n" E, 1, "hello" },
        { B "aGVsbG8=\n-----END A-----", 1, "hello" }, /* no last line end */
        { "-----BEGIN A-----\r\naGVs\r\nbG8=\r\n-----END A-----\r\n", 1, "hello" },
        { "\xef\xbb\xbf" B "aGVsbG8=\n" E, 1, "hello" },
        { "Certificate:\n  Data:\n" B "aGVsbG8=\n" E, 1, "hello" },
        { B "aGVsbG8=  \t\n" E " \n\t\r\n\n", 1, "hello" },
        { B "aGVsbG8=\n" E "\n\n" B "aGVsbG8=\n" E, 2, "hello" },
        { B "aGVsbG8=\n" E "  " B "aGVsbG8=\n" E, 2, "hello" },
        { B "aGVsbG8=\n" E "-----BEGIN X Y 1-----\nAA==\n-----END X Y 1-----", 2, "hello" },
        { B "aG\n\nVsbG8=\n" E, 1, "hello" },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf out = BUF_INIT(64);
        struct pem_block b;
        struct pem p;

        assert_ok(pem_open(span_str(rows[i].text), &p, &e));
        for (size_t k = 0; k < rows[i].blocks; k++) {
            assert_int_equal(pem_next(&p, &b, &e), 0);
            if (k > 0)
                continue;
            assert_ok(pem_decode(&b, &out, &e));
            assert_string_equal(buf_text(&out), rows[i].first);
        }
        assert_int_equal(pem_next(&p, &b, &e), PEM_END);
        assert_int_equal(p.block_n, rows[i].blocks);
        buf_done(&out);
    }
}

/* Every block of `text`, decoded; the first failure. */
static int
walk(const char *text, struct err *e)
{
    struct pem_block b;
    struct pem p;
    int r = pem_open(span_str(text), &p, e);

    while (r == 0 && (r = pem_next(&p, &b, e)) == 0) {
        struct buf out = BUF_INIT(1024);

        r = pem_decode(&b, &out, e);
        buf_done(&out);
    }
    return r;
}

static void
bad_texts(void **state)
{
    static const struct {
        const char *text, *why;
    } rows[] = {
        { "-----END A-----\n", "line 1: an -----END without" },
        { B "aGVsbG8=\n", "line 1: block 1 is cut short" },
        { B "aGVsbG8=\n-----END B-----\n", "begins as A and ends as B" },
        { B "aGVsbG8=\n" B, "line 3: block 1 has no -----END A----- before it" },
        { B "aGVsbG8=\n" E "junk\n" B "aGVsbG8=\n" E, "line 4: text after block 1" },
        { B "aGVsbG8=\n" E "junk", "line 4: text after block 1" },
        { B "aGVsbG8=\n-----END A-----" B "aGVsbG8=\n" E, "a line break is missing" },
        { "-----BEGIN A----- aGVsbG8= -----END A-----", "are the line breaks lost" },
        { "-----BEGIN A-----aGVsbG8=\n" E, "are the line breaks lost" },
        { "-----BEGIN -----\nAA==\n-----END -----\n", "is no PEM boundary" },
        { "-----BEGIN A\n" E, "is no PEM boundary" },
        { B "Proc-Type: 4,ENCRYPTED\n\naGVsbG8=\n" E, "line 2: PEM headers" },
        { B "aGVsbG8\n" E, "block at line 1: base64" },
        { B "aGVs!G8=\n" E, "base64" },
        { B "=aGVsbG8\n" E, "base64" },
        { B E, "the block is empty" },
        { B "  aGVsbG8=\n" E, "base64" },
    };
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_err(walk(rows[i].text, &e), E_PARSE, rows[i].why);
}

static void
says_why_there_is_none(void **state)
{
    (void)state;
    assert_string_equal(pem_why_none(span_str(" \n")), "empty");
    assert_non_null(strstr(pem_why_none(span_of("\x30\x82\x01", 3)), "DER"));
    assert_non_null(strstr(pem_why_none(span_of("\xff\xfe-\0", 4)), "UTF-16"));
    assert_string_equal(pem_why_none(span_str("hi")), "no PEM block");
}

static void
at_most_256_kib(void **state)
{
    char *big = malloc(PEM_MAX_BYTES + 1);
    struct pem_block b;
    struct pem p;
    struct err e;

    (void)state;
    assert_non_null(big);
    memset(big, '\n', PEM_MAX_BYTES + 1);
    assert_err(pem_open(span_of(big, PEM_MAX_BYTES + 1), &p, &e), E_LIMIT, "at most 262144");
    assert_ok(pem_open(span_of(big, PEM_MAX_BYTES), &p, &e));
    assert_int_equal(pem_next(&p, &b, &e), PEM_END);
    free(big);
}

static void
writes_lines_of_64(void **state)
{
    uint8_t zeros[49] = { 0 };
    struct buf out = BUF_INIT(1024);
    struct err e;

    (void)state;
    assert_ok(pem_add(&out, "A", span_of(zeros, sizeof(zeros)), &e));
    assert_string_equal(buf_text(&out),
                        B "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n"
                          "AA==\n" E);
    buf_done(&out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_texts),
        cmocka_unit_test(bad_texts),
        cmocka_unit_test(says_why_there_is_none),
        cmocka_unit_test(at_most_256_kib),
        cmocka_unit_test(writes_lines_of_64),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
