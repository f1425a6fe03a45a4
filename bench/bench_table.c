/* bench_table.c - prints build/bench.json as the one table of targets. */
#include <stdio.h>

#include "report.h"

int
main(int argc, char *argv[])
{
    unsigned missed = 0;
    struct err e;

    if (argc != 2) {
        fprintf(stderr, "usage: bench_table FILE\n");
        return 2;
    }
    if (report_print(argv[1], &missed, &e) < 0) {
        fprintf(stderr, "bench_table: %s\n", e.msg);
        return 1;
    }
    printf(missed == 0 ? "all targets met\n" : "%u targets missed\n", missed);
    return 0;
}
