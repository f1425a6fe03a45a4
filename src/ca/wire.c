/* wire.c - see wire.h. */
#include "ca/wire.h"

enum { WIRE_VARINT, WIRE_I64, WIRE_LEN, WIRE_I32 = 5 };

struct field {
    uint32_t number;
    uint64_t value;    /* WIRE_VARINT */
    struct span bytes; /* WIRE_LEN */
    uint8_t type;
};

static bool
varint_take(struct span *s, uint64_t *ret)
{
    uint64_t v = 0;

    for (unsigned shift = 0; shift < 64 && s->n > 0; shift += 7) {
        uint8_t c = s->p[0];

        *s = span_skip(*s, 1);
        v |= (uint64_t)(c & 0x7f) << shift;
        if (c < 0x80) {
            *ret = v;
            return true;
        }
    }
    return false;
}

/* The next field; false at the end, or with *bad set when the bytes are no message. */
static bool
field_take(struct span *s, struct field *ret, bool *bad)
{
    uint64_t tag, n = 0;

    if (s->n == 0 || *bad)
        return false;
    *bad = !varint_take(s, &tag) || tag >> 3 == 0 || tag >> 3 >= 1U << 29;
    if (*bad)
        return false;
    *ret = (struct field){ .number = (uint32_t)(tag >> 3), .type = tag & 7 };
    if (ret->type == WIRE_VARINT)
        *bad = !varint_take(s, &ret->value);
    else if (ret->type == WIRE_LEN)
        *bad = !varint_take(s, &n);
    else if (ret->type == WIRE_I64 || ret->type == WIRE_I32)
        n = ret->type == WIRE_I64 ? 8 : 4;
    else
        *bad = true; /* groups are not proto3 */
    if (n > s->n)
        *bad = true;
    if (*bad)
        return false;
    ret->bytes = span_of(s->p, (size_t)n);
    *s = span_skip(*s, (size_t)n);
    return true;
}

/* google.protobuf.Value: its string, or empty for every other kind. The last one wins. */
static struct span
value_string(struct span value, bool *bad)
{
    struct span found = { NULL, 0 };

    for (struct field f; field_take(&value, &f, bad);)
        if (f.number >= 1 && f.number <= 6)
            found = f.number == 3 && f.type == WIRE_LEN ? f.bytes : (struct span){ NULL, 0 };
    return found;
}

/* google.protobuf.Struct: the entries of one map. */
static void
metadata_read(struct span s, struct wire_request *q, bool *bad)
{
    for (struct field entry; field_take(&s, &entry, bad);) {
        struct span inside = entry.bytes, key = { NULL, 0 }, value = { NULL, 0 };

        if (entry.number != 1 || entry.type != WIRE_LEN)
            continue;
        for (struct field f; field_take(&inside, &f, bad);) {
            if (f.type == WIRE_LEN && f.number == 1)
                key = f.bytes;
            if (f.type == WIRE_LEN && f.number == 2)
                value = f.bytes;
        }
        if (span_eq_str(key, "ImpersonatedIdentity"))
            q->impersonated = value_string(value, bad);
        if (span_eq_str(key, "CertSigner"))
            q->cert_signer = value_string(value, bad);
    }
}

int
wire_request_read(struct span msg, struct wire_request *ret, struct err *e)
{
    struct wire_request q = { .csr = { NULL, 0 } };
    bool bad = false;

    for (struct field f; field_take(&msg, &f, &bad);) {
        if (f.number == 1 && f.type == WIRE_LEN)
            q.csr = f.bytes;
        if (f.number == 3 && f.type == WIRE_VARINT)
            q.validity_s = (int64_t)f.value;
        if (f.number == 4 && f.type == WIRE_LEN)
            metadata_read(f.bytes, &q, &bad);
    }
    if (bad)
        return err_set(e, E_PARSE, "the request is not an IstioCertificateRequest");
    *ret = q;
    return 0;
}

int
wire_answer_add(struct buf *b, struct span text, struct err *e)
{
    uint8_t head[11] = { 1 << 3 | WIRE_LEN };
    size_t n = 1, v = text.n;

    for (; v >= 0x80; v >>= 7)
        head[n++] = (uint8_t)(v | 0x80);
    head[n++] = (uint8_t)v;
    TRY(buf_add(b, span_of(head, n), e));
    return buf_add(b, text, e);
}
