/* What reader.h promises. */
#include "unit.h"

#include <inttypes.h>

#include "base/clock.h"
#include "base/str.h"
#include "ledger/reader.h"
#include "mint.h"
#include "pki/bundle.h"
#include "tmpdir.h"

enum { HOUR = 3600, DAY = 86400 };

struct fix {
    char dir[64];
    struct store *s, *reader;
    struct ledger *led;
    struct bundle *bundle;
    struct buf seen; /* the seq of each row found, with the state's first letter */
};

static struct bundle *
bundle_mint(void)
{
    struct mint_ca root, ca;
    struct buf root_pem = BUF_INIT(PEM_MAX_BYTES), ca_pem = BUF_INIT(PEM_MAX_BYTES),
               key_pem = BUF_INIT(PEM_MAX_BYTES);
    struct bundle *b = NULL;
    struct err e = { 0 };

    mint_ca(&root, "O=Istio,CN=Root A", NULL);
    mint_ca(&ca, "O=Istio,CN=Intermediate A1", &root);
    assert_ok(cert_to_pem(root.cert, &root_pem, &e));
    assert_ok(cert_to_pem(ca.cert, &ca_pem, &e));
    assert_ok(key_to_pem(ca.key, &key_pem, &e));
    struct span parts[PART__N] = { buf_span(&root_pem), buf_span(&ca_pem), buf_span(&key_pem),
                                   buf_span(&ca_pem) };
    assert_ok(bundle_new(parts, &b, &e));
    buf_done(&root_pem);
    buf_done(&ca_pem);
    buf_wipe(&key_pem);
    mint_ca_done(&root);
    mint_ca_done(&ca);
    return b;
}

/* Waits: rows and words are durable when it returns. */
static void
settle(struct fix *f)
{
    struct err e = { 0 };

    ledger_close(f->led);
    assert_ok(ledger_open(f->s, NULL, &f->led, &e));
}

static void
row_add(struct fix *f, uint8_t serial, const char *identity, const char *instance, bool minted,
        int64_t age, int64_t ttl)
{
    struct ledger_row r = { .serial_n = 2, .generation = 1, .auth = "jwt:x" };
    struct err e = { 0 };

    r.serial[0] = 1;
    r.serial[1] = serial;
    (void)snprintf(r.identity, sizeof(r.identity), "%s", identity);
    (void)snprintf(r.instance, sizeof(r.instance), "%s", instance);
    r.signer_id[0] = 0xab;
    r.root_id[0] = 0xcd;
    r.signer_id[1] = r.signer_id[2] = r.root_id[1] = r.root_id[2] = 0x11;
    if (minted) {
        memcpy(r.signer_id, cert_id(bundle_signer(f->bundle)), DIGEST_BYTES);
        memcpy(r.root_id, cert_id(roots_at(bundle_roots(f->bundle), 0)), DIGEST_BYTES);
    }
    r.issued = r.not_before = unix_s() - age;
    r.not_after = r.issued + ttl;
    assert_ok(ledger_append(f->led, &r, NULL, NULL, NULL, &e));
    settle(f);
}

/* 1 a old, expired; 2 a, replaced by 3; 3 a, in use; 4 b, of the minted issuers; 5 ab, no instance
 */
static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    struct err e = { 0 };
    struct ledger_ack a = { .generation = 1,
                            .identity = "spiffe://t/a",
                            .instance = "i1",
                            .serial = { 1, 3 },
                            .serial_n = 2 };

    f->seen = BUF_INIT(4096);
    tmpdir_make(f->dir);
    f->bundle = bundle_mint();
    assert_ok(store_open_sqlite(f->dir, &f->s, &e));
    assert_ok(ledger_open(f->s, NULL, &f->led, &e));
    assert_ok(ledger_note_issuers(f->led, f->bundle, &e));
    row_add(f, 1, "spiffe://t/a", "i1", false, 3 * DAY, HOUR);
    row_add(f, 2, "spiffe://t/a", "i1", false, HOUR, DAY);
    row_add(f, 3, "spiffe://t/a", "i1", false, 60, DAY);
    row_add(f, 4, "spiffe://t/b", "i2", true, 30, DAY);
    row_add(f, 5, "spiffe://t/ab", "", false, 0, DAY);
    assert_ok(ledger_acknowledge(f->led, &a, NULL, NULL, NULL, &e));
    settle(f);
    assert_ok(store_open_sqlite_readonly(f->dir, &f->reader, &e));
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    store_close(f->reader);
    ledger_close(f->led);
    store_close(f->s);
    bundle_unref(f->bundle);
    buf_done(&f->seen);
    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

static int
note(const struct ledger_found *found, void *arg, struct err *e)
{
    struct fix *f = arg;

    return buf_addf(&f->seen, e, "%" PRIu64 "%c ", found->row->seq,
                    leaf_state_name(found->state)[0]);
}

static void
filters(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    static const uint8_t serial[] = { 1, 4 };
    const int64_t any = INT64_MIN;
    char id[DIGEST_TEXT_BYTES];

    hex_text(span_of(cert_id(bundle_signer(f->bundle)), DIGEST_BYTES), id);
    const struct {
        const char *what;
        struct ledger_query q;
        const char *want;
    } rows[] = {
        { "all, newest first", { .since = any }, "5i 4i 3i 2r 1e " },
        { "oldest first", { .since = any, .oldest_first = true }, "1e 2r 3i 4i 5i " },
        { "limit", { .since = any, .limit = 2 }, "5i 4i " },
        { "live", { .since = any, .live = true }, "5i 4i 3i " },
        { "identity", { .since = any, .identity = "spiffe://t/a" }, "3i 2r 1e " },
        { "identity prefix", { .since = any, .identity = "spiffe://t/a*" }, "5i 3i 2r 1e " },
        { "a star only", { .since = any, .identity = "*", .limit = 1 }, "5i " },
        { "no such identity", { .since = any, .identity = "spiffe://t" }, "" },
        { "since", { .since = unix_s() - 2 * HOUR }, "5i 4i 3i 2r " },
        { "serial", { .since = any, .serial = span_of(serial, 2) }, "4i " },
        { "subject of the signer", { .since = any, .issuer = "Intermediate A1" }, "4i " },
        { "subject of the root", { .since = any, .issuer = "Root A" }, "4i " },
        { "id", { .since = any, .issuer = id }, "4i " },
        { "id prefix", { .since = any, .issuer = "ab1111" }, "5i 3i 2r 1e " },
        { "root's id prefix", { .since = any, .issuer = "cd1111", .live = true }, "5i 3i " },
        { "id of nobody", { .since = any, .issuer = "ab1112" }, "" },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        f->seen.n = 0;
        assert_ok(ledger_find(f->reader, &rows[i].q, note, f, &e));
        if (!span_eq_str(buf_span(&f->seen), rows[i].want))
            fail_msg("%s: %s, want %s", rows[i].what, buf_text(&f->seen), rows[i].want);
    }
}

static int
refuse(const struct ledger_found *found, void *arg, struct err *e)
{
    (void)found;
    (void)arg;
    return err_set(e, E_SYS, "the reader is gone");
}

static void
errors_of_find(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct ledger_query q = { .since = INT64_MIN, .issuer = "Root B" };
    static const char *const nobody[] = { "Root B", "", "ab11", "AB1111" };

    for (size_t i = 0; i < ARRAY_LEN(nobody); i++) {
        q.issuer = nobody[i];
        assert_err(ledger_find(f->reader, &q, note, f, &e), E_NOTFOUND, "no issuer has");
    }
    q.issuer = NULL;
    assert_err(ledger_find(f->reader, &q, refuse, f, &e), E_SYS, "the reader is gone");
}

static void
issuers_are_what_their_id_says(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    const struct cert *root = roots_at(bundle_roots(f->bundle), 0),
                      *signer = bundle_signer(f->bundle);
    static const uint8_t nobody[DIGEST_BYTES] = { 1 };
    struct cert *c = NULL;
    char key[STORE_KEY_BYTES] = "ledger/issuer/";

    assert_ok(ledger_issuer(f->reader, cert_id(root), &c, &e));
    assert_memory_equal(cert_id(c), cert_id(root), DIGEST_BYTES);
    cert_unref(c);
    assert_int_equal(ledger_issuer(f->reader, nobody, &c, &e), STORE_ABSENT);
    hex_text(span_of(cert_id(root), DIGEST_BYTES), key + strlen(key));
    struct store_op op = { .kind = STORE_PUT, .key = key, .value = cert_der(signer) };
    assert_ok(store_commit_wait(f->s, &op, 1, NULL, &e));
    assert_err(ledger_issuer(f->reader, cert_id(root), &c, &e), E_DENIED, "it was changed");
    struct ledger_query q = { .since = INT64_MIN, .issuer = "Root A" };
    assert_err(ledger_find(f->reader, &q, note, f, &e), E_DENIED, "it was changed");
}

static void
a_mark_must_be_in_the_chain(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct ledger_mark now, old, was, removed;

    assert_ok(ledger_check(f->reader, NULL, &old, &removed, &e));
    assert_int_equal(old.seq, 5);
    assert_int_equal(old.rows, 5);
    row_add(f, 6, "spiffe://t/a", "i1", false, 0, DAY);
    assert_ok(ledger_check(f->reader, &old, &now, &removed, &e));
    assert_int_equal(now.seq, 6);
    was = old;
    was.hash[0] ^= 1;
    assert_err(ledger_check(f->reader, &was, &now, &removed, &e), E_DENIED,
               "row 5: its hash is not");
    was = old;
    was.seq = 9;
    assert_err(ledger_check(f->reader, &was, &now, &removed, &e), E_DENIED,
               "row 9: it was there once");
}

static void
a_snapshot_is_checked_whatever_comes_meanwhile(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct ledger_mark m, removed;

    assert_ok(store_hold_snapshot(f->reader, &e));
    row_add(f, 6, "spiffe://t/a", "i1", false, 0, DAY);
    assert_ok(ledger_check(f->reader, NULL, &m, &removed, &e));
    assert_int_equal(m.rows, 5);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(filters),
        T(errors_of_find),
        T(issuers_are_what_their_id_says),
        T(a_mark_must_be_in_the_chain),
        T(a_snapshot_is_checked_whatever_comes_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
