#include "ledger/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

/* RFC 5280 4.2.1.1's key id came with version 2; rows of version 1 stay as they are. */
enum { RECORD_VERSION = 1, ROW_VERSION = 2, WORD_VERSION = 2 };

void
row_key(uint64_t seq, char ret[ROW_KEY_BYTES])
{
    (void)snprintf(ret, ROW_KEY_BYTES, ROW_PREFIX "%016" PRIx64, seq);
}

/* An identity too long for a key is named by its hash; the value has it in full. */
void
fleet_key(const char *identity, const char *instance, char ret[STORE_KEY_BYTES + 1])
{
    uint8_t id[DIGEST_BYTES];
    char hex[DIGEST_TEXT_BYTES];
    int n = snprintf(ret, STORE_KEY_BYTES + 1, FLEET_PREFIX "%s/%s", identity, instance);

    if (n <= STORE_KEY_BYTES)
        return;
    digest(span_str(identity), id);
    hex_text(span_of(id, sizeof(id)), hex);
    (void)snprintf(ret, STORE_KEY_BYTES + 1, FLEET_PREFIX "sha256:%s/%s", hex, instance);
}

/* -- writing ------------------------------------------------------------------------------------
 */

static int
put_u64(struct buf *b, uint64_t v, struct err *e)
{
    uint8_t p[8];

    for (size_t i = 0; i < sizeof(p); i++)
        p[i] = (uint8_t)(v >> (56 - 8 * i));
    return buf_add(b, span_of(p, sizeof(p)), e);
}

static int
put_bytes(struct buf *b, struct span s, struct err *e)
{
    TRY(buf_add_byte(b, (uint8_t)(s.n >> 8), e));
    TRY(buf_add_byte(b, (uint8_t)s.n, e));
    return buf_add(b, s, e);
}

int
record_encode(struct record *r, struct buf *out, struct err *e)
{
    const struct ledger_row *row = &r->row;
    size_t start = out->n;

    uint8_t version = row->version == 0 ? ROW_VERSION : row->version;

    TRY(buf_add_byte(out, version, e));
    TRY(put_u64(out, row->seq, e));
    TRY(buf_add(out, span_of(r->prev, DIGEST_BYTES), e));
    TRY(put_bytes(out, span_of(row->serial, row->serial_n), e));
    TRY(put_bytes(out, span_str(row->identity), e));
    TRY(put_bytes(out, span_str(row->instance), e));
    TRY(buf_add(out, span_of(row->signer_id, DIGEST_BYTES), e));
    TRY(buf_add(out, span_of(row->root_id, DIGEST_BYTES), e));
    TRY(put_u64(out, (uint64_t)row->not_before, e));
    TRY(put_u64(out, (uint64_t)row->not_after, e));
    TRY(put_u64(out, (uint64_t)row->issued, e));
    TRY(put_u64(out, row->generation, e));
    TRY(put_bytes(out, span_str(row->auth), e));
    if (version >= 2)
        TRY(put_bytes(out, span_of(row->key_id, row->key_id_n), e));
    digest(span_of(out->p + start, out->n - start), r->hash);
    return buf_add(out, span_of(r->hash, DIGEST_BYTES), e);
}

int
head_encode(const struct head *h, struct buf *out, struct err *e)
{
    TRY(buf_add_byte(out, RECORD_VERSION, e));
    TRY(put_u64(out, h->seq, e));
    TRY(put_u64(out, h->rows, e));
    TRY(put_u64(out, (uint64_t)h->max_ttl_s, e));
    return buf_add(out, span_of(h->hash, DIGEST_BYTES), e);
}

int
word_encode(const struct word *w, struct buf *out, struct err *e)
{
    bool is_short = w->leaf_generation == 0 && w->ended_generation == 0;

    TRY(buf_add_byte(out, is_short ? RECORD_VERSION : WORD_VERSION, e));
    TRY(put_bytes(out, span_str(w->identity), e));
    TRY(put_bytes(out, span_str(w->instance), e));
    TRY(put_u64(out, w->generation, e));
    TRY(put_u64(out, w->used_seq, e));
    TRY(put_u64(out, (uint64_t)w->said, e));
    TRY(put_bytes(out, span_of(w->roots, w->roots_n * DIGEST_BYTES), e));
    if (is_short)
        return 0;
    TRY(put_u64(out, w->leaf_generation, e));
    return put_u64(out, w->ended_generation, e);
}

/* -- reading: a cursor that stays bad once it ran short, looked at once at the end ---------------
 */

struct cursor {
    struct span s;
    bool bad;
};

static struct span
cut(struct cursor *c, size_t n)
{
    if (c->bad || c->s.n < n) {
        c->bad = true;
        return (struct span){ 0 };
    }
    struct span head = span_of(c->s.p, n);
    c->s = span_skip(c->s, n);
    return head;
}

static uint8_t
get_u8(struct cursor *c)
{
    struct span s = cut(c, 1);

    return s.n == 1 ? s.p[0] : 0;
}

static uint64_t
get_u64(struct cursor *c)
{
    struct span s = cut(c, 8);
    uint64_t v = 0;

    for (size_t i = 0; i < s.n; i++)
        v = v << 8 | s.p[i];
    return v;
}

/* At most `max` bytes into `ret`; how many there were. */
static size_t
get_bytes(struct cursor *c, void *ret, size_t max)
{
    size_t hi = get_u8(c), n = hi << 8 | get_u8(c);

    if (n > max)
        c->bad = true;
    struct span s = cut(c, n);
    if (s.n > 0)
        memcpy(ret, s.p, s.n);
    return s.n;
}

static void
get_text(struct cursor *c, char *ret, size_t cap)
{
    size_t n = get_bytes(c, ret, cap - 1);

    ret[n] = '\0';
    c->bad = c->bad || memchr(ret, '\0', n) != NULL; /* it would be read back as a shorter one */
}

static void
get_fixed(struct cursor *c, uint8_t *ret, size_t n)
{
    struct span s = cut(c, n);

    if (s.n > 0)
        memcpy(ret, s.p, s.n);
}

static int
finish(const struct cursor *c, const char *what, struct err *e)
{
    if (c->bad || c->s.n != 0)
        return err_set(e, E_PARSE, "not a %s record", what);
    return 0;
}

int
record_decode(struct span s, struct record *ret, struct err *e)
{
    struct cursor c = { .s = s };
    struct record r = { .row = { .seq = 0 } };
    uint8_t hash[DIGEST_BYTES];

    r.row.version = get_u8(&c);
    c.bad = r.row.version < 1 || r.row.version > ROW_VERSION;
    r.row.seq = get_u64(&c);
    get_fixed(&c, r.prev, DIGEST_BYTES);
    r.row.serial_n = get_bytes(&c, r.row.serial, SERIAL_MAX_BYTES);
    get_text(&c, r.row.identity, sizeof(r.row.identity));
    get_text(&c, r.row.instance, sizeof(r.row.instance));
    get_fixed(&c, r.row.signer_id, DIGEST_BYTES);
    get_fixed(&c, r.row.root_id, DIGEST_BYTES);
    r.row.not_before = (int64_t)get_u64(&c);
    r.row.not_after = (int64_t)get_u64(&c);
    r.row.issued = (int64_t)get_u64(&c);
    r.row.generation = get_u64(&c);
    get_text(&c, r.row.auth, sizeof(r.row.auth));
    if (r.row.version >= 2)
        r.row.key_id_n = get_bytes(&c, r.row.key_id, sizeof(r.row.key_id));
    get_fixed(&c, r.hash, DIGEST_BYTES);
    TRY(finish(&c, "row", e));
    digest(span_of(s.p, s.n - DIGEST_BYTES), hash);
    if (memcmp(hash, r.hash, DIGEST_BYTES) != 0)
        return err_set(e, E_DENIED, "its content is not what its hash says: it was edited");
    *ret = r;
    return 0;
}

int
head_decode(struct span s, struct head *ret, struct err *e)
{
    struct cursor c = { .s = s };
    struct head h = { .seq = 0 };

    c.bad = get_u8(&c) != RECORD_VERSION;
    h.seq = get_u64(&c);
    h.rows = get_u64(&c);
    h.max_ttl_s = (int64_t)get_u64(&c);
    get_fixed(&c, h.hash, DIGEST_BYTES);
    TRY(finish(&c, "head", e));
    *ret = h;
    return 0;
}

int
word_decode(struct span s, struct word *ret, struct err *e)
{
    struct cursor c = { .s = s };
    struct word w = { .generation = 0 };

    uint8_t version = get_u8(&c);
    c.bad = version < RECORD_VERSION || version > WORD_VERSION;
    get_text(&c, w.identity, sizeof(w.identity));
    get_text(&c, w.instance, sizeof(w.instance));
    w.generation = get_u64(&c);
    w.used_seq = get_u64(&c);
    w.said = (int64_t)get_u64(&c);
    size_t n = get_bytes(&c, w.roots, sizeof(w.roots));
    c.bad = c.bad || n % DIGEST_BYTES != 0;
    if (version == WORD_VERSION) {
        w.leaf_generation = get_u64(&c);
        w.ended_generation = get_u64(&c);
        c.bad = c.bad || (w.leaf_generation == 0 && w.ended_generation == 0);
    }
    TRY(finish(&c, "word", e));
    w.roots_n = n / DIGEST_BYTES;
    *ret = w;
    return 0;
}
