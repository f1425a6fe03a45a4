/* name.c - distinguished names as Go prints them, which istiod's log lines and ours use.
 * Source: specs/istio-ca.md 4.6; the behaviour of Go's pkix.Name.String. */
#include <openssl/err.h>
#include <openssl/objects.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

#include "pki/internal.h"

enum { NAME_ENTRIES_MAX = 64, NAME_WORK_BYTES = 4096, OID_BYTES = 128, CUT_BYTES = 3 };

/* In the order of printing, whatever the order in the certificate. */
static const struct {
    const char *oid, *name;
} known[] = {
    { "2.5.4.5", "SERIALNUMBER" },
    { "2.5.4.3", "CN" },
    { "2.5.4.11", "OU" },
    { "2.5.4.10", "O" },
    { "2.5.4.17", "POSTALCODE" },
    { "2.5.4.9", "STREET" },
    { "2.5.4.7", "L" },
    { "2.5.4.8", "ST" },
    { "2.5.4.6", "C" },
};

static void
oid_of(const X509_NAME_ENTRY *a, char ret[OID_BYTES])
{
    if (OBJ_obj2txt(ret, OID_BYTES, X509_NAME_ENTRY_get_object(a), 1) <= 0)
        ret[0] = '\0';
}

static bool
is_known(const char *oid)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strcmp(known[i].oid, oid) == 0)
            return true;
    return false;
}

/* RFC 2253 escapes; a control character, which Go would print raw, as \0A: this goes to logs. */
static int
add_escaped(struct buf *b, struct span s, struct err *e)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        bool edge = (c == ' ' && (i == 0 || i + 1 == s.n)) || (c == '#' && i == 0);

        if (c < 0x20 || c == 0x7f) {
            TRY(buf_addf(b, e, "\\%02X", c));
            continue;
        }
        if (edge || strchr(",+\"\\<>;", c) != NULL)
            TRY(buf_add_byte(b, '\\', e));
        TRY(buf_add_byte(b, c, e));
    }
    return 0;
}

static bool
is_printable_string(struct span s)
{
    static const char others[] = " '()+,-./:=?";

    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i];
        bool alnum = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');

        if (!alnum && (c == 0 || strchr(others, c) == NULL))
            return false;
    }
    return true;
}

/* Go reads the value as a string and encodes it again: PrintableString where it fits, else
 * UTF8String. */
static int
add_hex(struct buf *b, struct span s, struct err *e)
{
    TRY(buf_addf(b, e, "#%02x",
                 is_printable_string(s) ? V_ASN1_PRINTABLESTRING : V_ASN1_UTF8STRING));
    if (s.n < 0x80)
        TRY(buf_addf(b, e, "%02zx", s.n));
    else if (s.n < 0x100)
        TRY(buf_addf(b, e, "81%02zx", s.n));
    else
        TRY(buf_addf(b, e, "82%04zx", s.n & 0xffff));
    for (size_t i = 0; i < s.n; i++)
        TRY(buf_addf(b, e, "%02x", s.p[i]));
    return 0;
}

static int
add_value(struct buf *b, const X509_NAME_ENTRY *a, bool as_hex, struct err *e)
{
    unsigned char *text = NULL;
    int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(a)), r;

    if (n < 0) { /* no character string: its bytes */
        const ASN1_STRING *raw = X509_NAME_ENTRY_get_data(a);

        ERR_clear_error();
        return add_hex(b, span_of(ASN1_STRING_get0_data(raw), (size_t)ASN1_STRING_length(raw)), e);
    }
    r = as_hex ? add_hex(b, span_of(text, (size_t)n), e)
               : add_escaped(b, span_of(text, (size_t)n), e);
    OPENSSL_free(text);
    return r;
}

/* All values of one known type, joined by '+'; a name has one CN and one serial number: the last.
 */
static int
add_known(struct buf *b, const X509_NAME *n, size_t kind, struct err *e)
{
    int from = 0, count = X509_NAME_entry_count(n);
    bool first = true;
    char oid[OID_BYTES];

    if (count > NAME_ENTRIES_MAX)
        count = NAME_ENTRIES_MAX;
    if (kind < 2) /* SERIALNUMBER, CN */
        for (int i = 0; i < count; i++) {
            oid_of(X509_NAME_get_entry(n, i), oid);
            from = strcmp(oid, known[kind].oid) == 0 ? i : from;
        }
    for (int i = from; i < count; i++) {
        const X509_NAME_ENTRY *a = X509_NAME_get_entry(n, i);

        oid_of(a, oid);
        if (strcmp(oid, known[kind].oid) != 0)
            continue;
        TRY(buf_addf(b, e, "%s%s=", !first ? "+" : b->n > 0 ? "," : "", known[kind].name));
        TRY(add_value(b, a, false, e));
        first = false;
    }
    return 0;
}

static int
name_add(struct buf *b, const X509_NAME *n, struct err *e)
{
    int count = X509_NAME_entry_count(n);
    char oid[OID_BYTES];

    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        TRY(add_known(b, n, i, e));
    for (int i = (count > NAME_ENTRIES_MAX ? NAME_ENTRIES_MAX : count) - 1; i >= 0; i--) {
        const X509_NAME_ENTRY *a = X509_NAME_get_entry(n, i);

        oid_of(a, oid);
        if (is_known(oid))
            continue;
        TRY(buf_addf(b, e, "%s%s=", b->n > 0 ? "," : "", oid));
        TRY(add_value(b, a, true, e));
    }
    return 0;
}

/* Cuts at a character, never inside one. */
static void
cut(char *ret, struct span s)
{
    size_t n = s.n;

    if (n >= NAME_TEXT_BYTES) {
        n = NAME_TEXT_BYTES - 1 - CUT_BYTES;
        while (n > 0 && (s.p[n] & 0xc0) == 0x80)
            n--;
    }
    if (n > 0)
        memcpy(ret, s.p, n);
    memcpy(ret + n, n < s.n ? "..." : "", n < s.n ? CUT_BYTES + 1 : 1);
}

void
name_text(const X509_NAME *n, char ret[NAME_TEXT_BYTES])
{
    struct buf b = BUF_INIT(NAME_WORK_BYTES);
    struct err e;

    (void)name_add(&b, n, &e); /* a name too long for the work buffer is cut anyway */
    cut(ret, buf_span(&b));
    buf_done(&b);
}
