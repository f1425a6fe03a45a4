/* test_table.c - what the signer's process does when it is asked, and what it refuses to. */
#include "kit.h"

#include <stdlib.h>

#include "pki/crl.h"
#include "base/clock.h"
#include "base/str.h"
#include "pki/openssl.h"
#include "signer/ipc.h"

static const char workload[] = "spiffe://cluster.local/ns/shop/sa/cart";
enum { DAY_S = 86400, MAX_LIFE_S = 90 * DAY_S };

struct scene {
    struct ipc_table table;
    struct kit a, b;
};

/* Asks, and takes the one answer. */
static struct ipc_frame
ask(struct scene *s, struct ipc_frame q, bool is_control, int fd, struct buf *out)
{
    struct ipc_frame f;
    struct err e = { 0 };

    out->n = 0;
    assert_ok(ipc_serve(&s->table, &q, is_control, fd, out, &e));
    struct span all = buf_span(out);
    assert_int_equal(ipc_take(&all, &f, &e), 0);
    assert_int_equal(all.n, 0);
    assert_int_equal(f.tag, q.tag);
    assert_int_equal(f.id, q.id);
    return f;
}

static void
assert_answer(struct ipc_frame f, const char *what, enum err_code code, const char *says)
{
    char text[ERR_MSG_BYTES];

    (void)snprintf(text, sizeof(text), "%.*s", f.code == E_NONE ? 0 : (int)f.body.n,
                   f.code == E_NONE ? "" : (const char *)f.body.p);
    if (f.code != (uint32_t)code || strstr(text, says) == NULL)
        fail_msg("%s: code %u \"%s\", not %d \"%s\"", what, f.code, text, (int)code, says);
}

static int
setup(void **state)
{
    struct scene *s = calloc(1, sizeof(*s));
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);

    assert_non_null(s);
    ipc_table_init(&s->table, MAX_LIFE_S, "cluster.local");
    kit_make(&s->a, KEY_P256, "CN=A", 365);
    kit_make(&s->b, KEY_P256, "CN=B", 10);
    assert_int_equal(
        ask(s, (struct ipc_frame){ IPC_LOAD, 1, 5, cert_der(s->a.cert) }, true, s->a.key_fd, &out)
            .code,
        E_NONE);
    assert_int_equal(
        ask(s, (struct ipc_frame){ IPC_LOAD, 2, 6, cert_der(s->b.cert) }, true, s->b.key_fd, &out)
            .code,
        E_NONE);
    *state = s;
    return 0;
}

static int
teardown(void **state)
{
    struct scene *s = *state;

    ipc_table_done(&s->table);
    kit_done(&s->a);
    kit_done(&s->b);
    free(s);
    return 0;
}

static void
signs_what_fits_the_profile(void **state)
{
    static const struct {
        const char *name;
        int64_t from_s, life_s;
    } rows[] = {
        { workload, -120, DAY_S + 120 },      { workload, 0, 1 },
        { workload, -120, MAX_LIFE_S + 120 }, { "localhost", -120, SIGNER_SERVER_LIFE_S + 120 },
        { "10.0.0.1", -120, DAY_S },          { "::1", -120, DAY_S },
    };
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kit_tbs tbs;

        kit_tbs(&s->a, rows[i].name, rows[i].from_s, rows[i].life_s, &tbs);
        struct ipc_frame f =
            ask(s, (struct ipc_frame){ IPC_SIGN, 1, i, span_of(tbs.p, tbs.n) }, false, -1, &out);
        assert_answer(f, rows[i].name, E_NONE, "");
        EVP_MD_CTX *x = EVP_MD_CTX_new();
        assert_int_equal(
            EVP_DigestVerifyInit_ex(x, NULL, "SHA256", NULL, NULL, key_evp(s->a.key), NULL), 1);
        assert_int_equal(EVP_DigestVerify(x, f.body.p, f.body.n, tbs.p, tbs.n), 1);
        EVP_MD_CTX_free(x);
    }
}

/* The parent is not believed: each row is what one in other hands would ask for. */
static void
times_and_issuers_that_are_refused(void **state)
{
    static const struct {
        const char *what, *name;
        bool of_b;
        uint32_t id;
        int64_t from_s, life_s;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "too long a life", workload, false, 1, -120, MAX_LIFE_S + SIGNER_BACKDATE_S + 1, E_DENIED,
          "live longer" },
        { "ends too late", workload, false, 1, 10 * DAY_S, MAX_LIFE_S, E_DENIED, "live longer" },
        { "past the signer's end", workload, true, 2, 0, 11 * DAY_S, E_DENIED,
          "outlive its signer" },
        { "a server's, too long", "localhost", false, 1, 0,
          SIGNER_SERVER_LIFE_S + SIGNER_BACKDATE_S + 1, E_DENIED, "live longer" },
        { "another issuer's", workload, true, 1, 0, DAY_S, E_DENIED, "issuer is the signer's" },
        { "nobody's number", workload, false, 9, 0, DAY_S, E_NOTFOUND, "no signer" },
    };
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct kit_tbs tbs;

        kit_tbs(rows[i].of_b ? &s->b : &s->a, rows[i].name, rows[i].from_s, rows[i].life_s, &tbs);
        assert_answer(ask(s, (struct ipc_frame){ IPC_SIGN, rows[i].id, 1, span_of(tbs.p, tbs.n) },
                          false, -1, &out),
                      rows[i].what, rows[i].code, rows[i].says);
    }
}

/* The TBSCertificate of a real CA certificate, under our own name and key. */
static struct span
ca_tbs(const struct cert *c, uint8_t **ret_der)
{
    int n = i2d_re_X509_tbs(cert_x509(c), ret_der);

    assert_true(n > 0);
    return span_of(*ret_der, (size_t)n);
}

static void
a_ca_s_certificate_is_refused(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    uint8_t *der = NULL;
    struct span tbs = ca_tbs(s->a.cert, &der);

    assert_answer(ask(s, (struct ipc_frame){ IPC_SIGN, 1, 1, tbs }, false, -1, &out), "a CA",
                  E_DENIED, "leaf lint");
    OPENSSL_free(der);
}

/* No single byte of a TBSCertificate can be turned so that another profile is signed: whatever is
 * still signed is a leaf of ours by the parser of another library. */
static void
no_changed_byte_makes_a_ca(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct kit_tbs good;
    size_t refused = 0;

    kit_tbs(&s->a, workload, -120, DAY_S, &good);
    for (size_t i = 0; i < good.n; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            struct kit_tbs t = good;
            uint8_t whole[LEAF_MAX_BYTES];
            size_t n;
            struct cert *c = NULL;
            struct err e = { 0 };

            t.p[i] ^= (uint8_t)(1U << bit);
            struct ipc_frame f =
                ask(s, (struct ipc_frame){ IPC_SIGN, 1, 1, span_of(t.p, t.n) }, false, -1, &out);
            if (f.code != E_NONE) {
                refused++;
                continue;
            }
            assert_ok(leaf_finish(s->a.leaf, span_of(t.p, t.n), f.body, whole, &n, &e));
            assert_ok(cert_from_der(span_of(whole, n), &c, &e));
            assert_false(cert_is_ca(c));
            assert_int_equal(cert_san_count(c), 1);
            assert_true(cert_not_after(c) <= unix_s() + MAX_LIFE_S + SIGNER_CLOCK_S);
            cert_unref(c);
        }
    assert_true(refused > good.n * 4);
}

static void
requests_that_are_refused(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    CLEANUP(cert_unrefp) struct cert *leaf = NULL;
    static uint8_t big[IPC_BODY_MAX_BYTES];
    int garbage = kit_file(span_str("no key")), empty = kit_file(span_str(""));
    struct span a = cert_der(s->a.cert);
    const struct {
        const char *what;
        struct ipc_frame q;
        bool is_control;
        int fd;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "nothing", { IPC_NONE, 1, 1, a }, true, -1, E_DENIED, "no such request" },
        { "a number too high", { IPC__N, 1, 1, a }, true, -1, E_DENIED, "no such request" },
        { "far too high", { UINT32_MAX, 1, 1, a }, true, -1, E_DENIED, "no such request" },
        { "load on a lane", { IPC_LOAD, 3, 1, a }, false, s->a.key_fd, E_DENIED, "no such" },
        { "drop on a lane", { IPC_DROP, 1, 1, { NULL, 0 } }, false, -1, E_DENIED, "no such" },
        { "by a token on a lane", { IPC_LOAD_TOKEN, 9, 1, a }, false, -1, E_DENIED, "no such" },
        { "by a token that is not", { IPC_LOAD_TOKEN, 9, 1, a }, true, -1, E_DENIED, "no token" },
        { "make on a lane", { IPC_MAKE, 0, 1, a }, false, s->a.key_fd, E_DENIED, "no such" },
        { "a list on a lane", { IPC_CRL, 1, 1, { NULL, 0 } }, false, garbage, E_DENIED, "no such" },
        { "a list, no file", { IPC_CRL, 1, 1, { NULL, 0 } }, true, -1, E_DENIED, "a file" },
        { "a list that is none",
          { IPC_CRL, 1, 1, { NULL, 0 } },
          true,
          garbage,
          E_DENIED,
          "crl lint" },
        { "nobody's list", { IPC_CRL, 9, 1, { NULL, 0 } }, true, garbage, E_NOTFOUND, "no signer" },
        { "a token with a file", { IPC_JWT, 1, 1, a }, false, s->a.key_fd, E_DENIED, "a file" },
        { "a token of nothing", { IPC_JWT, 1, 1, { NULL, 0 } }, false, -1, E_LIMIT, "0 bytes" },
        { "nobody's token", { IPC_JWT, 9, 1, a }, false, -1, E_NOTFOUND, "no signer" },
        { "a token of DER", { IPC_JWT, 1, 1, a }, false, -1, E_PARSE, "bad form" },
        { "load without a file", { IPC_LOAD, 3, 1, a }, true, -1, E_DENIED, "a file" },
        { "sign with a file", { IPC_SIGN, 1, 1, a }, true, s->a.key_fd, E_DENIED, "a file" },
        { "sign nothing", { IPC_SIGN, 1, 1, { NULL, 0 } }, false, -1, E_LIMIT, "0 bytes" },
        { "sign too much",
          { IPC_SIGN, 1, 1, { big, TBS_MAX_BYTES + 1 } },
          false,
          -1,
          E_LIMIT,
          "4097 bytes" },
        { "sign zeros", { IPC_SIGN, 1, 1, { big, 400 } }, false, -1, E_DENIED, "leaf lint" },
        { "drop with a body", { IPC_DROP, 1, 1, a }, true, -1, E_LIMIT, "bytes" },
        { "drop nobody", { IPC_DROP, 9, 1, { NULL, 0 } }, true, -1, E_NOTFOUND, "no signer" },
        { "load a number in use", { IPC_LOAD, 1, 1, a }, true, s->a.key_fd, E_EXISTS, "in use" },
        { "load the key of another",
          { IPC_LOAD, 3, 1, a },
          true,
          s->b.key_fd,
          E_DENIED,
          "ca-key.pem: the key (p256) does not match the certificate in ca-cert.pem, \"CN=A\"" },
        { "load what is no key", { IPC_LOAD, 3, 1, a }, true, garbage, E_PARSE, "ca-key.pem: " },
        { "load an empty file", { IPC_LOAD, 3, 1, a }, true, empty, E_PARSE, "ca-key.pem: " },
        { "load no certificate", { IPC_LOAD, 3, 1, { big, 100 } }, true, s->a.key_fd, E_PARSE, "" },
        { "make with a bad name",
          { IPC_MAKE, 0, 10, span_str("no name") },
          true,
          s->a.key_fd,
          E_INVAL,
          "" },
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_answer(ask(s, rows[i].q, rows[i].is_control, rows[i].fd, &out), rows[i].what,
                      rows[i].code, rows[i].says);
    (void)close(garbage);
    (void)close(empty);
}

struct list_case {
    const char *what;
    bool of_b;
    uint64_t number;
    int64_t from_s, life_s;
    enum err_code code;
    const char *says;
};

static struct ipc_frame
ask_list(struct scene *s, const struct list_case *c, struct buf *tbs, struct buf *out)
{
    const struct crl_entry x = { .serial = { 9 }, .serial_n = 1, .revoked = unix_s() };
    int64_t from = unix_s() + c->from_s;
    struct crl_request q = { c->number, from, from + c->life_s, &x, 1 };
    struct err e = { 0 };

    tbs->n = 0;
    assert_ok(crl_tbs(c->of_b ? s->b.leaf : s->a.leaf, &q, tbs, &e));
    int fd = kit_file(buf_span(tbs));
    struct ipc_frame f = ask(s, (struct ipc_frame){ .code = IPC_CRL, .id = 1 }, true, fd, out);
    (void)close(fd);
    return f;
}

/* RFC 5280 5.1.2.4, 5.2.3: of this signer, of now, and each number greater than the last. */
static void
lists_are_judged_too(void **state)
{
    static const struct list_case rows[] = {
        { "good", false, 5, 0, DAY_S, E_NONE, "" },
        { "the same number", false, 5, 0, DAY_S, E_DENIED, "number" },
        { "a former number", false, 4, 0, DAY_S, E_DENIED, "number" },
        { "another's", true, 6, 0, DAY_S, E_DENIED, "crl lint" },
        { "of the past", false, 6, -SIGNER_BACKDATE_S - 60, DAY_S, E_DENIED, "not of now" },
        { "of the future", false, 6, SIGNER_CLOCK_S + 60, DAY_S, E_DENIED, "not of now" },
        { "longer than a leaf", false, 6, 0, MAX_LIFE_S + SIGNER_CRL_LIFE_S, E_NONE, "" },
        { "for ever", false, 7, 0, MAX_LIFE_S + SIGNER_CRL_LIFE_S + SIGNER_CLOCK_S + 60, E_DENIED,
          "longer" },
        { "the next", false, 7, 0, DAY_S, E_NONE, "" },
    };
    struct scene *s = *state;
    CLEANUP(buf_done)
    struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES), tbs = BUF_INIT(CRL_MAX_BYTES),
               der = BUF_INIT(CRL_MAX_BYTES);
    struct crl *c = NULL;
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        assert_answer(ask_list(s, &rows[i], &tbs, &out), rows[i].what, rows[i].code, rows[i].says);
    struct list_case last = rows[ARRAY_LEN(rows) - 1];
    last.number++;
    struct ipc_frame f = ask_list(s, &last, &tbs, &out);
    assert_int_equal(f.code, E_NONE);
    assert_ok(crl_finish(s->a.leaf, buf_span(&tbs), f.body, &der, &e));
    assert_ok(crl_from_der(buf_span(&der), &c, &e));
    assert_ok(crl_verify(c, s->a.cert, &e));
    crl_unref(c);
}

/* specs/peers.md 5a 2: every number that a request may have, on a lane and on control, over a sound
 * TBSCertificate: only the ones that sign answer it with a signature. */
static void
cve_02_every_request_code(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct kit_tbs tbs;

    kit_tbs(&s->a, workload, -120, DAY_S, &tbs);
    for (uint32_t code = 0; code <= 1024; code++)
        for (int control = 0; control <= 1; control++) {
            struct ipc_frame q = { code, 1, 1, span_of(tbs.p, tbs.n) };
            struct ipc_frame f = ask(s, q, control == 1, -1, &out);

            if ((f.code == E_NONE) != (code == IPC_SIGN))
                fail_msg("request %u, control %d: code %u", code, control, f.code);
        }
}

static void
keys_are_bounded_and_forgotten(void **state)
{
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);
    struct kit_tbs tbs;

    for (uint32_t id = 3; id <= SIGNER_KEYS_MAX; id++)
        assert_answer(ask(s, (struct ipc_frame){ IPC_LOAD, id, 1, cert_der(s->a.cert) }, true,
                          s->a.key_fd, &out),
                      "load", E_NONE, "");
    struct ipc_frame one_more = { IPC_LOAD, 99, 1, cert_der(s->a.cert) };
    assert_answer(ask(s, one_more, true, s->a.key_fd, &out), "one too many", E_LIMIT, "32 keys");
    assert_answer(ask(s, (struct ipc_frame){ IPC_DROP, 1, 1, { NULL, 0 } }, true, -1, &out), "drop",
                  E_NONE, "");
    kit_tbs(&s->a, workload, 0, DAY_S, &tbs);
    assert_answer(
        ask(s, (struct ipc_frame){ IPC_SIGN, 1, 1, span_of(tbs.p, tbs.n) }, false, -1, &out),
        "sign after drop", E_NOTFOUND, "no signer");
    assert_answer(ask(s, one_more, true, s->a.key_fd, &out), "room again", E_NONE, "");
}

static void
frames_are_whole_or_not_there(void **state)
{
    CLEANUP(buf_done) struct buf b = BUF_INIT(IPC_FRAME_MAX_BYTES);
    const struct ipc_frame f = { IPC_SIGN, 7, UINT64_MAX - 1, span_str("body") };
    struct ipc_frame got;
    struct err e = { 0 };

    (void)state;
    assert_ok(ipc_put(&b, &f, &e));
    for (size_t n = 0; n < b.n; n++) {
        struct span cut = span_of(b.p, n);

        assert_int_equal(ipc_take(&cut, &got, &e), IPC_MORE);
        assert_int_equal(cut.n, n);
    }
    struct span all = buf_span(&b);
    assert_int_equal(ipc_take(&all, &got, &e), 0);
    assert_int_equal(got.code, f.code);
    assert_int_equal(got.id, f.id);
    assert_int_equal(got.tag, f.tag);
    assert_true(span_eq(got.body, f.body));
    uint32_t too_long = IPC_BODY_MAX_BYTES + 1;
    memcpy(b.p, &too_long, sizeof(too_long));
    all = buf_span(&b);
    assert_err(ipc_take(&all, &got, &e), E_PARSE, "bad form");
    static uint8_t big[IPC_BODY_MAX_BYTES + 1];
    b.n = 0;
    assert_err(ipc_put(&b, &(struct ipc_frame){ .body = span_of(big, sizeof(big)) }, &e), E_LIMIT,
               "more than");
}

#define KID "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

/* The parent is not believed with tokens either: whose, for whom, and nothing between the lines. */
static void
tokens_that_are_refused(void **state)
{
    static const struct {
        const char *what, *body; /* '|' stands for NUL */
        enum err_code code;
        const char *says;
    } rows[] = {
        { "no end", KID "|spiffe://cluster.local/ns/a/sa/b|x", E_PARSE, "bad form" },
        { "no audience", KID "|spiffe://cluster.local/ns/a/sa/b|", E_DENIED, "at least one" },
        { "an empty audience", KID "|spiffe://cluster.local/a||", E_DENIED, "an audience is" },
        { "a quote", KID "|spiffe://cluster.local/a|x\",\"sub\":\"y|", E_DENIED, "an audience is" },
        { "a backslash", KID "|spiffe://cluster.local/a|x\\|", E_DENIED, "an audience is" },
        { "a control character", KID "|spiffe://cluster.local/a|x\n|", E_DENIED, "an audience is" },
        { "nine", KID "|spiffe://cluster.local/a|1|2|3|4|5|6|7|8|9|", E_LIMIT, "more than 8" },
        { "a short kid", "AAAA|spiffe://cluster.local/a|x|", E_DENIED, "thumbprint" },
        { "a kid with a quote",
          "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"|spiffe://cluster.local/a|x|", E_DENIED,
          "thumbprint" },
        { "another trust domain", KID "|spiffe://evil.test/a|x|", E_DENIED,
          "no SPIFFE id of this" },
        { "a longer trust domain", KID "|spiffe://cluster.local.evil/a|x|", E_DENIED, "no SPIFFE" },
        { "no path", KID "|spiffe://cluster.local|x|", E_DENIED, "no SPIFFE" },
        { "an empty path", KID "|spiffe://cluster.local/|x|", E_DENIED, "no SPIFFE" },
        { "dots", KID "|spiffe://cluster.local/a/../b|x|", E_DENIED, "no SPIFFE" },
        { "an empty segment", KID "|spiffe://cluster.local/a//b|x|", E_DENIED, "no SPIFFE" },
        { "a quote in the subject", KID "|spiffe://cluster.local/a\"b|x|", E_DENIED, "no SPIFFE" },
        { "no subject", KID "||x|", E_DENIED, "no SPIFFE" },
    };
    struct scene *s = *state;
    CLEANUP(buf_done) struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES);

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[512];
        size_t n = strlen(rows[i].body);

        memcpy(body, rows[i].body, n);
        for (size_t k = 0; k < n; k++)
            body[k] = body[k] == '|' ? '\0' : body[k];
        struct ipc_frame q = { IPC_JWT, 1, i, span_of((const uint8_t *)body, n) };
        assert_answer(ask(s, q, false, -1, &out), rows[i].what, rows[i].code, rows[i].says);
    }
}

static void
a_token_is_what_was_asked_for(void **state)
{
    static const char body[] = KID "\0spiffe://cluster.local/ns/a/sa/b\0x\0https://y/?z";
    struct scene *s = *state;
    CLEANUP(buf_done)
    struct buf out = BUF_INIT(IPC_FRAME_MAX_BYTES), head = BUF_INIT(256), claims = BUF_INIT(1024);
    struct ipc_frame q = { IPC_JWT, 1, 1, span_of((const uint8_t *)body, sizeof(body)) };
    int64_t from = unix_s();
    struct ipc_frame f = ask(s, q, false, -1, &out);
    struct span rest = f.body, part;
    char want[256];
    struct err e;

    assert_answer(f, "a token", E_NONE, "");
    assert_true(span_starts(f.body, "eyJ")); /* a TBSCertificate begins with 0x30 */
    assert_true(span_cut(&rest, '.', &part));
    assert_ok(base64url_decode(&head, part, &e));
    assert_string_equal(buf_text(&head), "{\"alg\":\"ES256\",\"kid\":\"" KID "\",\"typ\":\"JWT\"}");
    assert_true(span_cut(&rest, '.', &part));
    assert_ok(base64url_decode(&claims, part, &e));
    int64_t now = unix_s();
    bool found = false;
    for (int64_t at = from; at <= now && !found; at++) {
        (void)snprintf(want, sizeof(want),
                       "{\"aud\":[\"x\",\"https://y/?z\"],\"exp\":%lld,\"iat\":%lld,"
                       "\"sub\":\"spiffe://cluster.local/ns/a/sa/b\"}",
                       (long long)at + SIGNER_JWT_LIFE_S, (long long)at);
        found = strcmp(want, buf_text(&claims)) == 0;
    }
    assert_true(found);
    assert_int_equal(rest.n, 86); /* 64 bytes: r and s */
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(signs_what_fits_the_profile),    T(times_and_issuers_that_are_refused),
        T(a_ca_s_certificate_is_refused),  T(no_changed_byte_makes_a_ca),
        T(lists_are_judged_too),           T(requests_that_are_refused),
        T(keys_are_bounded_and_forgotten), T(frames_are_whole_or_not_there),
        T(cve_02_every_request_code),      T(tokens_that_are_refused),
        T(a_token_is_what_was_asked_for),
    };

    return cmocka_run_group_tests_name("signer/table", tests, NULL, NULL);
}
