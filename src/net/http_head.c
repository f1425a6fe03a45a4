/* http_head.c - see http_head.h. What is refused here would let a second request hide in the body
 * of the first, or name a host that is not the one that the URLs of the answer are made from. */
#include "net/http_head.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static bool
is_token(const char *s)
{
    for (const char *p = s; *p != '\0'; p++)
        if (!isalnum((unsigned char)*p) && strchr("!#$%&'*+-.^_`|~", *p) == NULL)
            return false;
    return s[0] != '\0';
}

/* Letters, digits and "-._" of a name or IPv4 address, or IPv6 in brackets; then a port. */
static bool
is_host(const char *s)
{
    size_t n = s[0] == '[' ? strspn(s + 1, "0123456789abcdefABCDEF:.") : 0;

    if (s[0] == '[') {
        if (n < 2 || s[n + 1] != ']')
            return false;
        s += n + 2;
    } else {
        const char *from = s;

        while (isalnum((unsigned char)*s) || *s == '-' || *s == '.' || *s == '_')
            s++;
        if (s == from)
            return false;
    }
    return *s == '\0' || (*s == ':' && strspn(s + 1, "0123456789") == strlen(s + 1));
}

static bool
is_length(const char *s)
{
    return s[0] != '\0' && strspn(s, "0123456789") == strlen(s);
}

static bool
is_chunked(const char *s)
{
    return strcasecmp(s, "chunked") == 0;
}

int
http_head_see(struct http_head *h, const char *name, const char *value, struct err *e)
{
    const struct {
        const char *name;
        unsigned *seen;
        bool (*is_good)(const char *s);
    } once[] = { { "Host", &h->hosts, is_host },
                 { "Content-Length", &h->lengths, is_length },
                 { "Transfer-Encoding", &h->codings, is_chunked } };

    if (!is_token(name))
        return err_set(e, E_PARSE, "a header's name is not a token (RFC 9112 5.1)");
    for (size_t i = 0; i < ARRAY_LEN(once); i++) {
        if (strcasecmp(name, once[i].name) != 0)
            continue;
        if (++*once[i].seen > 1)
            return err_set(e, E_PARSE, "more than one %s header", once[i].name);
        if (!once[i].is_good(value))
            return err_set(e, E_PARSE, "the %s header is wrong", once[i].name);
    }
    if (h->lengths > 0 && h->codings > 0)
        return err_set(e, E_PARSE, "both Content-Length and Transfer-Encoding (RFC 9112 6.1)");
    return 0;
}
