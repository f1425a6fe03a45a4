#include "pki/pem.h"

#include <string.h>

#include "base/str.h"
#include "pki/pki.h"

#define DASHES    "-----"
#define PEM_BEGIN "-----BEGIN "
#define PEM_ENDED "-----END "

enum { DASHES_N = 5, LINE_BYTES = 48 };

int
pem_open(struct span text, struct pem *ret, struct err *e)
{
    if (text.n > PEM_MAX_BYTES)
        return err_set(e, E_LIMIT, "PEM of %zu bytes, at most %d are read", text.n,
                       (int)PEM_MAX_BYTES);
    if (span_starts(text, "\xef\xbb\xbf"))
        text = span_skip(text, 3);
    *ret = (struct pem){ .rest = text };
    return 0;
}

static bool
is_blank(uint8_t c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* The next line without its end and without blanks after it. r: false at the end of the text. */
static bool
next_line(struct pem *p, struct span *ret)
{
    struct span line;

    if (p->rest.n == 0)
        return false;
    const uint8_t *lf = memchr(p->rest.p, '\n', p->rest.n);
    line = span_of(p->rest.p, lf == NULL ? p->rest.n : (size_t)(lf - p->rest.p));
    p->rest = span_skip(p->rest, line.n + (lf != NULL));
    p->line_n++;
    while (line.n > 0 && is_blank(line.p[line.n - 1]))
        line.n--;
    *ret = line;
    return true;
}

/* "-----BEGIN X-----" to X. Errors say what stands behind it instead of a line end. */
static int
boundary(const struct pem *p, struct span line, const char *head, struct span *ret, struct err *e)
{
    struct span label = span_skip(line, strlen(head));
    size_t n = 0;

    while (n < label.n && label.p[n] >= ' ' && label.p[n] <= '~' && label.p[n] != '-')
        n++;
    struct span tail = span_skip(label, n);
    label.n = n;
    if (n == 0 || n > PEM_LABEL_MAX || !span_starts(tail, DASHES))
        return err_set(e, E_PARSE, "line %zu: \"%.*s...\" is no PEM boundary", p->line_n,
                       line.n < 24 ? (int)line.n : 24, (const char *)line.p);
    tail = span_skip(tail, DASHES_N);
    if (span_starts(tail, DASHES))
        return err_set(e, E_PARSE,
                       "line %zu: \"%.*s-----\" and the next block are on one line: a line break "
                       "is missing where two files were joined",
                       p->line_n, (int)(strlen(head) + n), (const char *)line.p);
    if (tail.n != 0)
        return err_set(e, E_PARSE,
                       "line %zu: more text follows \"%.*s-----\" on its line: are the line breaks "
                       "lost?",
                       p->line_n, (int)(strlen(head) + n), (const char *)line.p);
    *ret = label;
    return 0;
}

/* Leaves *ret at the BEGIN line. r: 0, or PEM_END. */
static int
find_begin(struct pem *p, struct span *ret, struct err *e)
{
    for (struct span line; next_line(p, &line);) {
        if (p->block_n > 0)
            line = span_trim(line);
        if (span_starts(line, PEM_BEGIN)) {
            *ret = line;
            return 0;
        }
        if (span_starts(line, PEM_ENDED))
            return err_set(e, E_PARSE, "line %zu: an -----END without its -----BEGIN", p->line_n);
        if (p->block_n > 0 && line.n > 0)
            return err_set(e, E_PARSE,
                           "line %zu: text after block %zu; only white space may stand between "
                           "and after PEM blocks",
                           p->line_n, p->block_n);
    }
    return PEM_END;
}

/* The lines up to the -----END of the same label. */
static int
find_end(struct pem *p, struct pem_block *b, struct err *e)
{
    struct span line, label;
    const uint8_t *from = p->rest.p;

    for (const uint8_t *at = from; next_line(p, &line); at = p->rest.p) {
        if (!span_starts(line, DASHES))
            continue;
        if (!span_starts(line, PEM_ENDED))
            return err_set(e, E_PARSE, "line %zu: block %zu has no -----END %.*s----- before it",
                           p->line_n, p->block_n + 1, SPAN_ARG(b->label));
        TRY(boundary(p, line, PEM_ENDED, &label, e));
        if (!span_eq(label, b->label))
            return err_set(e, E_PARSE, "line %zu: block %zu begins as %.*s and ends as %.*s",
                           p->line_n, p->block_n + 1, SPAN_ARG(b->label), SPAN_ARG(label));
        b->body = span_of(from, (size_t)(at - from));
        return 0;
    }
    return err_set(e, E_PARSE, "line %zu: block %zu is cut short, -----END %.*s----- is missing",
                   b->line, p->block_n + 1, SPAN_ARG(b->label));
}

int
pem_next(struct pem *p, struct pem_block *ret, struct err *e)
{
    struct pem_block b = { .line = 0 };
    struct span line;

    if (TRY(find_begin(p, &line, e)) == PEM_END)
        return PEM_END;
    b.line = p->line_n;
    TRY(boundary(p, line, PEM_BEGIN, &b.label, e));
    TRY(find_end(p, &b, e));
    p->block_n++;
    *ret = b;
    return 0;
}

int
pem_decode(const struct pem_block *b, struct buf *out, struct err *e)
{
    struct pem lines = { .rest = b->body, .line_n = b->line };
    struct buf text = BUF_INIT(b->body.n);
    size_t before = out->n;
    int r = 0;

    for (struct span line; r == 0 && next_line(&lines, &line);) {
        if (line.n > 0 && memchr(line.p, ':', line.n) != NULL)
            r = err_set(e, E_PARSE, "line %zu: PEM headers are not accepted", lines.line_n);
        else if (line.n > 0)
            r = buf_add(&text, line, e);
    }
    if (r == 0 && text.n == 0)
        r = err_set(e, E_PARSE, "line %zu: the block is empty", b->line);
    if (r == 0 && base64_decode(out, buf_span(&text), e) < 0) {
        r = err_wrap(e, "block at line %zu", b->line);
        out->n = before;
    }
    buf_wipe(&text);
    return r;
}

const char *
pem_why_none(struct span text)
{
    if (span_trim(text).n == 0)
        return "empty";
    if (text.p[0] == 0x30)
        return "no PEM block; this looks like DER, convert it with openssl";
    if (text.p[0] == 0xff || text.p[0] == 0xfe || (text.n > 1 && text.p[1] == 0))
        return "no PEM block; this looks like UTF-16 text, save it as UTF-8";
    return "no PEM block";
}

int
pem_add(struct buf *out, const char *label, struct span der, struct err *e)
{
    uint8_t *unused;

    /* room for all of it at once, not line by line */
    TRY(buf_reserve(out, der.n / 3 * 4 + der.n / LINE_BYTES + 4, &unused, e));
    TRY(buf_addf(out, e, PEM_BEGIN "%s" DASHES "\n", label));
    while (der.n > 0) {
        TRY(base64_add(out, span_of(der.p, der.n < LINE_BYTES ? der.n : LINE_BYTES), e));
        TRY(buf_add_byte(out, '\n', e));
        der = span_skip(der, LINE_BYTES);
    }
    return buf_addf(out, e, PEM_ENDED "%s" DASHES "\n", label);
}
