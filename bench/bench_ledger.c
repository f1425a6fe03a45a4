/* bench_ledger.c - what one row costs: CPU of the caller's thread and of the store's writer, rows
 * for each durable transaction, at 10^3 to 10^6 rows.
 *
 * FLIGHT rows are under way all the time, each answered before its place is taken by the next, as
 * calls are; before each append the loop's thread works for `work` microseconds, as a CA that
 * verifies and signs does. That work is not counted.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "config/help.h"
#include "config/opts.h"
#include "floor.h"
#include "ledger/reader.h"
#include "obs/log.h"
#include "report.h"

enum { DECADES = 8 };

struct bench_conf {
    uint64_t rows, flight, work_us;
    const char *report;
};
static const struct opt opts[] = {
    { "rows", OPT_COUNT, offsetof(struct bench_conf, rows), "20000", "1000", "10000000", 0, "N",
      "rows to append; a line for each power of ten" },
    { "flight", OPT_COUNT, offsetof(struct bench_conf, flight), "32", "1", "1000", 0, "N",
      "rows under way at any time" },
    { "work", OPT_COUNT, offsetof(struct bench_conf, work_us), "90", "0", "100000", 0, "US",
      "microseconds of other work for each row" },
    { "report", OPT_STRING, offsetof(struct bench_conf, report), NULL, NULL, NULL, 0, "FILE",
      "add flatness and the time of a verification to this JSON file" },
    { .name = NULL },
};

struct bench {
    const struct bench_conf *conf;
    struct loop *loop;
    struct store *store;
    struct ledger *ledger;
    uint64_t appended, answered, next_line;
    double cpu, thread, wall, worked_us; /* at the last line */
    double now_worked_us;
    uint64_t rows, transactions; /* at the last line */
    double row_us[DECADES];      /* of each line */
    size_t lines;
    struct err failure;
};

static void
work(struct bench *b)
{
    double from = clock_us(CLOCK_THREAD_CPUTIME_ID), now = from;

    while (now - from < (double)b->conf->work_us)
        now = clock_us(CLOCK_THREAD_CPUTIME_ID);
    b->now_worked_us += now - from;
}

static void
line(struct bench *b)
{
    double cpu = clock_us(CLOCK_PROCESS_CPUTIME_ID), thread = clock_us(CLOCK_THREAD_CPUTIME_ID),
           wall = clock_us(CLOCK_MONOTONIC), n = (double)(b->answered - b->rows),
           worked = b->now_worked_us - b->worked_us;
    struct store_stats s;

    store_get_stats(b->store, &s);
    if (b->answered > b->rows && b->lines < DECADES)
        b->row_us[b->lines++] = (cpu - b->cpu - worked) / n;
    if (b->answered > b->rows)
        printf("%10" PRIu64 " %10.1f %10.1f %10.1f %10.1f %10.0f\n", b->answered,
               (cpu - b->cpu - worked) / n, (thread - b->thread - worked) / n,
               (cpu - b->cpu - (thread - b->thread)) / n,
               n / (double)(s.transactions - b->transactions), n * 1e6 / (wall - b->wall));
    b->cpu = cpu;
    b->thread = thread;
    b->wall = wall;
    b->worked_us = b->now_worked_us;
    b->rows = b->answered;
    b->transactions = s.transactions;
    (void)fflush(stdout);
}

static void row_append(struct bench *b);

static void
on_row(const struct err *e, void *arg)
{
    struct bench *b = arg;

    if (e->code != E_NONE)
        b->failure = *e;
    if (++b->answered == b->next_line) {
        line(b);
        b->next_line *= 10;
    }
    if (b->failure.code == E_NONE && b->appended < b->conf->rows)
        row_append(b);
    else if (b->answered == b->appended)
        loop_stop(b->loop);
}

static void
row_append(struct bench *b)
{
    struct ledger_row r = { .serial_n = 16, .generation = 1, .auth = "jwt:0123456789abcdef" };
    uint64_t n = ++b->appended;

    work(b);
    for (size_t i = 0; i < 16; i++)
        r.serial[i] = (uint8_t)(n >> (8 * (i % 8)) ^ i);
    (void)snprintf(r.identity, sizeof(r.identity), "spiffe://cluster.local/ns/bench/sa/s%" PRIu64,
                   n % 5000);
    (void)snprintf(r.instance, sizeof(r.instance), "%032" PRIx64, n % 5000 + 1);
    r.root_id[0] = 'R';
    r.signer_id[0] = 'S';
    r.issued = r.not_before = unix_s();
    r.not_after = r.issued + 60; /* so that memory does not grow with the rows */
    if (ledger_append(b->ledger, &r, b->loop, on_row, b, &b->failure) < 0)
        loop_stop(b->loop);
}

static int
verify_line(struct bench *b, struct err *e)
{
    struct ledger_mark m, removed;
    double from = clock_us(CLOCK_MONOTONIC);

    TRY(ledger_check(b->store, NULL, &m, &removed, e));
    double s = (clock_us(CLOCK_MONOTONIC) - from) / 1e6;
    printf("verify: %" PRIu64 " rows in %.2f s\n", m.rows, s);
    if (b->conf->report == NULL || b->lines == 0)
        return 0;
    char name[64];
    (void)snprintf(name, sizeof(name), "ledger verify of %" PRIu64 " rows", m.rows);
    struct report_row verify = {
        .name = name, .unit = "s", .figure = s, .rule = REPORT_MOST, .target = 10
    };
    /* the first thousand rows pay for what is new: the second line is the small ledger */
    struct report_row flat = { .name = "ledger row, large ledger against a small one",
                               .unit = "us/row",
                               .figure = b->row_us[b->lines - 1],
                               .floor = b->row_us[b->lines > 1 ? 1 : 0],
                               .rule = REPORT_RATIO,
                               .target = 1.25 };
    TRY(report_add(b->conf->report, &flat, e));
    return report_add(b->conf->report, &verify, e);
}

static int
run(const char *dir, struct bench *b, struct err *e)
{
    TRY(loop_new(&b->loop, e));
    TRY(store_open_sqlite(dir, &b->store, e));
    TRY(ledger_open(b->store, NULL, &b->ledger, e));
    printf("%10s %10s %10s %10s %10s %10s\n", "rows", "us/row", "caller", "writer", "rows/txn",
           "rows/s");
    b->next_line = 1000;
    line(b);
    for (uint64_t i = 0; i < b->conf->flight && b->failure.code == E_NONE; i++)
        row_append(b);
    if (b->failure.code == E_NONE)
        TRY(loop_run(b->loop, e));
    if (b->answered != b->rows)
        line(b);
    int r = b->failure.code == E_NONE ? verify_line(b, e) : 0;
    ledger_close(b->ledger);
    store_close(b->store);
    loop_free(b->loop);
    if (b->failure.code != E_NONE)
        *e = b->failure;
    return b->failure.code == E_NONE ? r : -(int)b->failure.code;
}

int
main(int argc, char *argv[])
{
    struct bench_conf c = { 0 };
    struct bench b = { .conf = &c };
    struct opt_args args;
    char dir[64] = "/tmp/meshroot-bench-XXXXXX", command[128];
    struct err e = { 0 };

    log_setup(STDERR_FILENO, LOG_ERROR, false);
    int r = opts_parse(opts, &c, argc - 1, argv + 1, &args, &e);
    if (r == OPT_HELP) {
        opts_help(opts, help_columns(STDOUT_FILENO), stdout);
        return 0;
    }
    if (r == 0 && mkdtemp(dir) == NULL)
        r = err_sys(&e, errno, "cannot make a folder in /tmp");
    if (r == 0) {
        r = run(dir, &b, &e);
        (void)snprintf(command, sizeof(command), "rm -rf '%s'", dir);
        if (system(command) != 0)
            fprintf(stderr, "cannot remove %s\n", dir);
    }
    if (r < 0)
        fprintf(stderr, "bench_ledger: %s\n", e.msg);
    return r < 0 ? 1 : 0;
}
