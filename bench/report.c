/* report.c - see report.h. */
#include "report.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/span.h"

static double
ratio_of(const struct report_row *r)
{
    return r->ratio > 0 ? r->ratio : r->floor > 0 ? r->figure / r->floor : 0;
}

static bool
is_ok(const struct report_row *r)
{
    switch (r->rule) {
    case REPORT_RATIO:
        return ratio_of(r) <= r->target;
    case REPORT_MOST:
        return r->figure <= r->target;
    case REPORT_LEAST:
        return r->figure >= r->target;
    case REPORT_INFO:
        break;
    }
    return true;
}

static json_t *
real_or_null(double v)
{
    return v > 0 ? json_real(v) : json_null();
}

static json_t *
row_json(const struct report_row *r)
{
    return json_pack("{s:s, s:s, s:f, s:o, s:o, s:o, s:b}", "name", r->name, "unit", r->unit,
                     "figure", r->figure, "floor", real_or_null(r->floor), "ratio",
                     real_or_null(ratio_of(r)), "target",
                     r->rule == REPORT_INFO ? json_null() : json_real(r->target), "ok", is_ok(r));
}

static void
line_print(json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));
    json_t *cells[] = { json_object_get(row, "figure"), json_object_get(row, "floor"),
                        json_object_get(row, "ratio"), json_object_get(row, "target") };

    printf("%-44s", name == NULL ? "?" : name);
    for (size_t i = 0; i < ARRAY_LEN(cells); i++)
        if (json_is_number(cells[i]))
            printf(" %10.2f", json_number_value(cells[i]));
        else
            printf(" %10s", "-");
    printf("  %-8s %s\n", json_string_value(json_object_get(row, "unit")),
           json_is_null(cells[3])                     ? ""
           : json_is_true(json_object_get(row, "ok")) ? "ok"
                                                      : "MISSED");
    (void)fflush(stdout);
}

static json_t *
file_read(const char *path, struct err *e)
{
    json_error_t why;
    json_t *all = json_load_file(path, 0, &why);

    if (all == NULL && json_error_code(&why) == json_error_cannot_open_file)
        return json_array();
    if (!json_is_array(all)) {
        json_decref(all);
        (void)err_set(e, E_PARSE, "%s is not a JSON array; remove it", path);
        return NULL;
    }
    return all;
}

static int
row_put(json_t *all, json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "name"));

    for (size_t i = 0; i < json_array_size(all); i++) {
        const char *old = json_string_value(json_object_get(json_array_get(all, i), "name"));

        if (old != NULL && strcmp(old, name) == 0)
            return json_array_set(all, i, row);
    }
    return json_array_append(all, row);
}

int
report_add(const char *path, const struct report_row *r, struct err *e)
{
    json_t *row = row_json(r), *all = NULL;
    int done = 0;

    if (row == NULL)
        return err_nomem(e);
    line_print(row);
    if (path != NULL) {
        all = file_read(path, e);
        if (all == NULL)
            done = err_result(e);
        else if (row_put(all, row) != 0)
            done = err_nomem(e);
        else if (json_dump_file(all, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) != 0)
            done = err_set(e, E_SYS, "cannot write %s", path);
    }
    json_decref(all);
    json_decref(row);
    return done;
}

int
report_print(const char *path, unsigned *ret_missed, struct err *e)
{
    json_t *all = file_read(path, e);

    if (all == NULL)
        return err_result(e);
    printf("%-44s %10s %10s %10s %10s\n", "", "figure", "floor", "ratio", "target");
    *ret_missed = 0;
    for (size_t i = 0; i < json_array_size(all); i++) {
        json_t *row = json_array_get(all, i);

        line_print(row);
        *ret_missed += json_is_false(json_object_get(row, "ok"));
    }
    json_decref(all);
    return 0;
}

static int
by_value(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x < y ? -1 : x > y;
}

double
report_median(double *v, unsigned n)
{
    qsort(v, n, sizeof(*v), by_value);
    return n % 2 == 1 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}
