/* bench_leaf.c - CPU per issued leaf through the whole stack, beside the floor of the same seconds.
 *
 * A forked child runs the CA (server.h); the parent keeps calls under way (load.h). What is counted
 * is the CPU time of the whole child process, the ledger's writer included, and of its signer
 * process. The floor (floor.h) runs in slices meanwhile; with a connection for each leaf it has an
 * OpenSSL handshake too. Each row is the median of several short rounds, and its ratio the median
 * of the rounds' ratios: other work on the machine comes and goes.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/span.h"
#include "config/help.h"
#include "config/opts.h"
#include "floor.h"
#include "load.h"
#include "obs/log.h"
#include "report.h"
#include "server.h"
#include "signer/signer.h"

enum { ROUNDS_MAX = 101, WARM_UP_PART = 2 };

struct bench_conf {
    uint64_t rounds, scale;
    const char *report, *only;
};
static const struct opt opts[] = {
    { "rounds", OPT_COUNT, offsetof(struct bench_conf, rounds), "9", "1", "101", 0, "N",
      "rounds for each row; the median counts" },
    { "scale", OPT_COUNT, offsetof(struct bench_conf, scale), "100", "1", "10000", 0, "PERCENT",
      "leaves in each round, of what is usual" },
    { "only", OPT_STRING, offsetof(struct bench_conf, only), NULL, NULL, NULL, 0, "TEXT",
      "rows whose name has TEXT in it" },
    { "report", OPT_STRING, offsetof(struct bench_conf, report), NULL, NULL, NULL, 0, "FILE",
      "add the rows to this JSON file" },
    { .name = NULL },
};

enum measure { CPU, PER_SECOND };

static const struct row {
    const char *name;
    enum key_kind ca, leaf;
    enum server_kind server;
    size_t workers, connections, calls;
    enum load_connect connect;
    size_t leaves; /* in one round */
    enum measure measure;
    enum report_rule rule;
    double target;
} rows[] = {
    { "p256 bare, 8 connections x 4 calls", KEY_P256, KEY_P256, SERVER_BARE, 1, 8, 4, LOAD_KEEP,
      1600, CPU, REPORT_RATIO, 1.15 },
    { "p256 bare, 64 x 1", KEY_P256, KEY_P256, SERVER_BARE, 1, 64, 1, LOAD_KEEP, 1600, CPU,
      REPORT_RATIO, 1.6 },
    { "p256 full, 8 x 4", KEY_P256, KEY_P256, SERVER_FULL, 1, 8, 4, LOAD_KEEP, 1600, CPU,
      REPORT_RATIO, 1.45 },
    { "p256 full, 64 x 1", KEY_P256, KEY_P256, SERVER_FULL, 1, 64, 1, LOAD_KEEP, 1600, CPU,
      REPORT_RATIO, 1.9 },
    { "p256 CA, rsa2048 CSR, full, 8 x 4", KEY_P256, KEY_RSA2048, SERVER_FULL, 1, 8, 4, LOAD_KEEP,
      1600, CPU, REPORT_INFO, 0 },
    { "rsa2048 full, 8 x 4", KEY_RSA2048, KEY_RSA2048, SERVER_FULL, 1, 8, 4, LOAD_KEEP, 400, CPU,
      REPORT_RATIO, 1.1 },
    { "rsa4096 CA, rsa2048 CSR, full, 8 x 4", KEY_RSA4096, KEY_RSA2048, SERVER_FULL, 1, 8, 4,
      LOAD_KEEP, 100, CPU, REPORT_RATIO, 1.03 },
    { "p256 full, a new TLS connection each", KEY_P256, KEY_P256, SERVER_FULL, 1, 8, 1, LOAD_FRESH,
      400, CPU, REPORT_MOST, 700 },
    { "p256 full, a resumed connection each", KEY_P256, KEY_P256, SERVER_FULL, 1, 8, 1, LOAD_RESUME,
      400, CPU, REPORT_MOST, 400 },
    { "p256 full, leaves a second on 2 cores", KEY_P256, KEY_P256, SERVER_FULL, 2, 32, 4, LOAD_KEEP,
      6000, PER_SECOND, REPORT_LEAST, 8000 },
};

struct series {
    double figure[ROUNDS_MAX], floor[ROUNDS_MAX], ratio[ROUNDS_MAX];
    unsigned n;
};

static int
round_run(const struct row *row, const struct server *server, struct load *load,
          struct floor_run *floor, size_t leaves, struct series *s, struct err *e)
{
    if (floor != NULL)
        (void)floor_take(floor);
    double cpu = server_cpu_us(server), wall = clock_us(CLOCK_MONOTONIC);
    TRY(load_run(load, leaves, e));
    cpu = server_cpu_us(server) - cpu;
    wall = clock_us(CLOCK_MONOTONIC) - wall;
    double least = floor == NULL ? 0 : floor_take(floor);

    if (floor != NULL && least <= 0)
        return err_set(e, E_CRYPTO, "the floor's own signatures do not work");
    s->figure[s->n] = row->measure == CPU ? cpu / (double)leaves : (double)leaves * 1e6 / wall;
    s->floor[s->n] = least;
    s->ratio[s->n] = least > 0 ? s->figure[s->n] / least : 0;
    s->n++;
    return 0;
}

static int
row_run(const struct row *row, const struct scene *scene, const struct server *server,
        const struct bench_conf *c, struct series *s, struct err *e)
{
    struct load_conf lc = { scene,      server->port, row->connections,
                            row->calls, row->connect, row->server == SERVER_BARE };
    static const enum floor_connect floors[] = {
        [LOAD_KEEP] = FLOOR_KEEP, [LOAD_FRESH] = FLOOR_NEW, [LOAD_RESUME] = FLOOR_RESUMED
    };
    size_t leaves = row->leaves * c->scale / 100 + 1;
    struct floor_run *floor = NULL;
    struct load *load;

    TRY(load_new(&lc, &load, e));
    int r = load_run(load, leaves / WARM_UP_PART + row->connections, e);
    if (r == 0 && row->measure == CPU)
        r = floor_start(scene->ca_key, scene->leaf_key, floors[row->connect], &floor, e);
    for (uint64_t i = 0; r == 0 && i < c->rounds; i++)
        r = round_run(row, server, load, floor, leaves, s, e);
    floor_stop(floor);
    load_free(load);
    return r;
}

static int
row_report(const struct row *row, struct series *s, const char *path, struct err *e)
{
    bool is_best = row->measure == PER_SECOND; /* what the machine gave at best: wall time */
    double figure = report_median(s->figure, s->n);
    struct report_row out = { .name = row->name,
                              .unit = is_best ? "leaves/s" : "us/leaf",
                              .figure = is_best ? s->figure[s->n - 1] : figure,
                              .floor = report_median(s->floor, s->n),
                              .ratio = report_median(s->ratio, s->n),
                              .rule = row->rule,
                              .target = row->target };

    return report_add(path, &out, e);
}

static int
row_bench(const struct row *row, const struct bench_conf *c, struct err *e)
{
    struct scene scene = { .dir = "" };
    struct server server = { .pid = 0 };
    struct series s = { .n = 0 };

    int r = scene_make(row->ca, row->leaf, &scene, e);
    if (r == 0)
        r = server_start(&scene, row->server, row->workers, &server, e);
    if (r == 0)
        r = row_run(row, &scene, &server, c, &s, e);
    server_stop(&server);
    scene_done(&scene);
    return r == 0 ? row_report(row, &s, c->report, e) : err_wrap(e, "%s", row->name);
}

int
main(int argc, char *argv[])
{
    struct bench_conf c = { 0 };
    struct opt_args args;
    struct err e = { 0 };

    signer_child_run(argc, argv);
    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    int r = opts_parse(opts, &c, argc - 1, argv + 1, &args, &e);
    if (r == OPT_HELP) {
        opts_help(opts, help_columns(STDOUT_FILENO), stdout);
        return 0;
    }
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(rows); i++)
        if (c.only == NULL || strstr(rows[i].name, c.only) != NULL)
            r = row_bench(&rows[i], &c, &e);
    if (r < 0)
        fprintf(stderr, "bench_leaf: %s\n", e.msg);
    return r < 0 ? 1 : 0;
}
