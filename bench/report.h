/* report.h - one table of figures for all programs of bench/: each adds its rows to one JSON file.
 *
 * The file is an array of {"name", "unit", "figure", "floor", "ratio", "target", "ok"}; floor,
 * ratio and target are null where there is none. A row of a name that is there takes its place.
 */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include "base/err.h"

enum report_rule {
    REPORT_INFO,  /* no target */
    REPORT_RATIO, /* ratio at most `target` */
    REPORT_MOST,  /* figure at most `target` */
    REPORT_LEAST, /* figure at least `target` */
};

struct report_row {
    const char *name, *unit;
    double figure;
    double floor, ratio; /* 0: none; ratio 0 beside a floor: figure / floor */
    enum report_rule rule;
    double target;
};

/* Adds the row to the file at `path` (made when it is not there). NULL: prints it only. */
MUST_USE int report_add(const char *path, const struct report_row *row, struct err *e);
/* Prints the file as a table; *ret_missed is how many targets are not met. */
MUST_USE int report_print(const char *path, unsigned *ret_missed, struct err *e);

/* The middle one of `n` >= 1 values, which are sorted for it. */
double report_median(double *v, unsigned n);

#endif
