#include "net/h2_fields.h"

#include <string.h>

int
fields_add(struct fields *f, struct span name, struct span value, struct err *e)
{
    if (f->n == f->max)
        return err_set(e, E_LIMIT, "more than %zu header fields", f->max);
    struct field v = { (uint16_t)f->bytes.n, (uint16_t)name.n, (uint16_t)(f->bytes.n + name.n),
                       (uint16_t)value.n };
    size_t n = f->bytes.n;

    TRY(buf_add(&f->bytes, name, e));
    if (buf_add(&f->bytes, value, e) < 0) {
        f->bytes.n = n;
        return err_result(e);
    }
    f->v[f->n++] = v;
    return 0;
}

struct span
fields_find(const struct fields *f, const char *name, size_t i)
{
    size_t n = strlen(name);

    for (size_t k = 0; k < f->n; k++)
        if (f->v[k].name_n == n && memcmp(f->bytes.p + f->v[k].name_at, name, n) == 0 && i-- == 0)
            return span_of(f->bytes.p + f->v[k].value_at, f->v[k].value_n);
    return span_of(NULL, 0);
}

void
fields_wipe(struct fields *f)
{
    buf_wipe(&f->bytes);
    f->n = 0;
}
