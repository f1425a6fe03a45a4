#include "cloud/form.h"

#include "base/str.h"

static int
decode(struct span s, struct buf *ret, struct err *e)
{
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = s.p[i] == '+' ? ' ' : s.p[i];

        if (c == '%') {
            if (i + 2 >= s.n || hex_parse(span_of(s.p + i + 1, 2), &c, 1, e) < 0)
                return err_set(e, E_PARSE, "a broken %% escape in the form");
            i += 2;
        }
        if (c == '\0')
            return err_set(e, E_PARSE, "a NUL byte in the form");
        TRY(buf_add_byte(ret, c, e));
    }
    return 0;
}

int
form_field(struct span body, const char *name, struct buf *ret, struct err *e)
{
    struct span pair;

    while (span_cut(&body, '&', &pair)) {
        struct span value = pair, key;

        (void)span_cut(&value, '=', &key);
        ret->n = 0;
        TRY(decode(key, ret, e));
        if (!span_eq_str(buf_span(ret), name))
            continue;
        ret->n = 0;
        if (ret->p != NULL)
            ret->p[0] = '\0';
        return value.p == NULL ? 0 : decode(value, ret, e);
    }
    ret->n = 0;
    return FORM_ABSENT;
}
