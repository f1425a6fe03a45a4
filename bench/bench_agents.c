/* bench_agents.c - thousands of agents on one `meshroot up`: first leaves, a whole root rotation,
 * memory at rest, a CA that is killed, a mass restart.
 *
 * The agents are fleet.h's: light, in this one process, on this one machine. So wall-clock figures
 * hold the agents' own work (their handshakes, keys, CSRs) too; CPU and memory are the CA's and its
 * signer process's alone.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/span.h"
#include "config/help.h"
#include "config/opts.h"
#include "fleet.h"
#include "floor.h"
#include "net/loop.h"
#include "obs/log.h"
#include "proc.h"
#include "report.h"
#include "rig.h"

enum { LOOK_MS = 20, SAY_MS = 1000, DOWN_MS = 1000, PACE = 64 };

struct bench_conf {
    uint64_t agents, identities, dial, renew_window_ms, settle_ms, patience_ms;
    const char *meshroot, *report, *ca_key, *show;
    bool storm, verbose;
};

#define AT(member) offsetof(struct bench_conf, member)
/* clang-format off */
static const struct opt opts[] = {
    { "agents", OPT_COUNT, AT(agents), "10000", "1", "50000", 0, "N", "how many agents" },
    { "identities", OPT_COUNT, AT(identities), "1000", "1", "50000", 0, "N", "service accounts that they share" },
    { "dial", OPT_COUNT, AT(dial), "500", "1", "50000", 0, "N", "so many connect at one time, one thread being all we have" },
    { "ca-key", OPT_CHOICE, AT(ca_key), "p256", "p256|rsa2048|rsa4096", NULL, 0, "KIND", "of roots and intermediates" },
    { "show", OPT_CHOICE, AT(show), "leaf", "leaf|token", NULL, 0, "WHAT", "in later handshakes: the leaf, as our agents, or nothing; a token goes with every call" },
    { "renew-window", OPT_DURATION, AT(renew_window_ms), "5s", "100ms", "24h", 0, "DURATION", "meshroot up's own flag" },
    { "settle", OPT_DURATION, AT(settle_ms), "3s", "1ms", "1h", 0, "DURATION", "rest before memory is looked at" },
    { "patience", OPT_DURATION, AT(patience_ms), "300s", "1s", "1h", 0, "DURATION", "for each step, then it has failed" },
    { "storm", OPT_FLAG, AT(storm), "true", NULL, NULL, 0, NULL, "kill the CA and restart all agents at the end" },
    { "verbose", OPT_FLAG, AT(verbose), NULL, NULL, NULL, 0, NULL, "say each second what has come so far" },
    { "meshroot", OPT_STRING, AT(meshroot), "build/meshroot", NULL, NULL, 0, "FILE", "the binary to look at" },
    { "report", OPT_STRING, AT(report), NULL, NULL, NULL, 0, "FILE", "add the rows to this JSON file" },
    { .name = NULL },
};
/* clang-format on */

struct bench {
    const struct bench_conf *conf;
    struct rig rig;
    struct loop *loop;
    struct timer *look;
    struct fleet *fleet;
    const struct fleet_question *question;
    uint64_t by_ms, say_ms;
    bool gave_up;
    double since_us, empty_mib; /* empty: RSS before anybody came */
};

/* -- waiting, and telling ------------------------------------------------------------------------
 */

static void
say(struct bench *b)
{
    const struct fleet_stats *st = fleet_stats(b->fleet);

    if (!b->conf->verbose || mono_ms() < b->say_ms)
        return;
    b->say_ms = mono_ms() + SAY_MS;
    fprintf(stderr,
            "%6.1f s: %zu; leaves %llu, words %llu, refused %llu, cut off %llu, late %llu; CPU "
            "seconds: CA %.1f, agents %.1f; %s\n",
            (clock_us(CLOCK_MONOTONIC) - b->since_us) / 1e6, fleet_count(b->fleet, b->question),
            (unsigned long long)st->leaves, (unsigned long long)st->words,
            (unsigned long long)st->refused, (unsigned long long)st->cut_off,
            (unsigned long long)st->late, rig_cpu_us(&b->rig) / 1e6,
            clock_us(CLOCK_PROCESS_CPUTIME_ID) / 1e6, st->last_cut);
}

static void
on_look(void *arg)
{
    struct bench *b = arg;

    say(b);

    b->gave_up = mono_ms() > b->by_ms;
    if (b->gave_up || fleet_count(b->fleet, b->question) == b->conf->agents)
        loop_stop(b->loop);
    else
        timer_set(b->look, LOOK_MS);
}

/* Runs the agents until the answer is "all of them". */
static int
all(struct bench *b, const char *what, const struct fleet_question *q, double *ret_s, struct err *e)
{
    const struct fleet_stats *st = fleet_stats(b->fleet);

    b->question = q;
    b->by_ms = mono_ms() + b->conf->patience_ms;
    timer_set(b->look, 0);
    TRY(loop_run(b->loop, e));
    *ret_s = (clock_us(CLOCK_MONOTONIC) - b->since_us) / 1e6;
    if (b->gave_up)
        return err_set(e, E_TIMEOUT,
                       "%s: %zu of %llu after %.1f s (refused %llu, cut off %llu: %s; late %llu); "
                       "--patience gives more time, --verbose says what comes",
                       what, fleet_count(b->fleet, q), (unsigned long long)b->conf->agents, *ret_s,
                       (unsigned long long)st->refused, (unsigned long long)st->cut_off,
                       st->last_cut, (unsigned long long)st->late);
    if (st->failed > 0)
        return err_set(e, E_PEER, "%s: %llu answers were wrong: %s", what,
                       (unsigned long long)st->failed, st->last_failure);
    return 0;
}

static void
on_rest(void *arg)
{
    loop_stop(arg);
}

static int
rest(struct bench *b, uint64_t ms, struct err *e)
{
    CLEANUP(timer_freep) struct timer *t = NULL;

    TRY(timer_new(b->loop, on_rest, b->loop, &t, e));
    timer_set(t, ms);
    return loop_run(b->loop, e);
}

static void
start(struct bench *b)
{
    b->since_us = clock_us(CLOCK_MONOTONIC);
}

static int
tell(const struct bench *b, const char *what, const char *unit, double figure,
     enum report_rule rule, double target, struct err *e)
{
    char name[128];
    struct report_row r = {
        .name = name, .unit = unit, .figure = figure, .rule = rule, .target = target
    };

    (void)snprintf(name, sizeof(name), "%llu agents: %s", (unsigned long long)b->conf->agents,
                   what);
    return report_add(b->conf->report, &r, e);
}

static int
tell_info(const struct bench *b, const char *what, const char *unit, double figure, struct err *e)
{
    return tell(b, what, unit, figure, REPORT_INFO, 0, e);
}

static double
agents_n(const struct bench *b)
{
    return (double)b->conf->agents;
}

/* -- the steps -----------------------------------------------------------------------------------
 */

/* Everyone gets a first leaf, its trust stream, and says its word. */
static int
first_leaves(struct bench *b, struct err *e)
{
    const struct fleet_question said = { .fact = FLEET_SAID, .generation = 1 };
    double s, before, after, cpu;

    TRY(rest(b, b->conf->settle_ms, e));
    TRY(proc_memory_mib(b->rig.pid, "VmRSS", &before, e));
    b->empty_mib = before;
    cpu = rig_cpu_us(&b->rig);
    start(b);
    fleet_mark(b->fleet);
    fleet_begin(b->fleet, b->conf->agents);
    TRY(all(b, "first leaves", &said, &s, e));
    cpu = rig_cpu_us(&b->rig) - cpu;
    TRY(rest(b, b->conf->settle_ms, e));
    TRY(proc_memory_mib(b->rig.pid, "VmRSS", &after, e));
    TRY(tell_info(b, "all have a leaf, a stream, said so", "s", s, e));
    TRY(tell_info(b, "CPU each, with TLS, stream and word", "us", cpu / agents_n(b), e));
    TRY(tell_info(b, "up's RSS before", "MiB", before, e));
    TRY(tell_info(b, "up's RSS with all connected", "MiB", after, e));
    return tell(b, "memory of each idle connection", "KiB", (after - before) * 1024 / agents_n(b),
                REPORT_MOST, 40, e);
}

static int
rotation(struct bench *b, struct err *e)
{
    const struct fleet_question wider = { .fact = FLEET_SAID,
                                          .generation = fleet_generation(b->fleet) + 1 };
    const struct fleet_question moved = { .fact = FLEET_USES, .signer = cert_id(b->rig.pki[1].ca) };
    const struct fleet_question narrow = { .fact = FLEET_LETS_GO_OF,
                                           .root = cert_id(b->rig.pki[0].root) };
    double s, cpu = rig_cpu_us(&b->rig), kib, ms;

    TRY(rig_set_roots(&b->rig, RIG_BOTH, e));
    start(b);
    TRY(all(b, "the root added", &wider, &s, e));
    TRY(tell_info(b, "root added, acknowledged by all", "s", s, e));
    TRY(rig_set_signer(&b->rig, 1, e));
    start(b);
    TRY(all(b, "the signer moved", &moved, &s, e));
    TRY(tell_info(b, "signer moved, all renewed and said so", "s", s, e));
    TRY(tell_info(b, "of which the renew window", "s", (double)b->conf->renew_window_ms / 1e3, e));
    TRY(rig_set_roots(&b->rig, RIG_SECOND, e));
    start(b);
    TRY(all(b, "the old root dropped", &narrow, &s, e));
    TRY(tell_info(b, "old root dropped, acknowledged by all", "s", s, e));
    TRY(tell_info(b, "CPU each of the whole rotation", "us",
                  (rig_cpu_us(&b->rig) - cpu) / agents_n(b), e));
    TRY(rig_status(&b->rig, &kib, &ms, e));
    TRY(tell_info(b, "mesh status, its size", "KiB", kib, e));
    return tell_info(b, "mesh status, its time", "ms", ms, e);
}

/* kill -9 with all connected; back is who has a stream and an answer to its word again. */
static int
killed(struct bench *b, struct err *e)
{
    const struct fleet_question back = { .fact = FLEET_IS_BACK };
    struct fleet_stats before = *fleet_stats(b->fleet);
    struct fleet_times t;
    double s, mib;

    rig_kill(&b->rig);
    TRY(rest(b, DOWN_MS, e));
    TRY(rig_start(&b->rig, e));
    start(b);
    fleet_mark(b->fleet);
    TRY(all(b, "back after the CA was killed", &back, &s, e));
    t = fleet_times(b->fleet, FLEET_IS_BACK);
    const struct fleet_stats *now = fleet_stats(b->fleet);
    TRY(proc_memory_mib(b->rig.pid, "VmHWM", &mib, e));
    TRY(tell_info(b, "CA killed, all back from its start", "s", s, e));
    TRY(tell_info(b, "CA killed, half of them back", "s", t.p50_ms / 1e3, e));
    TRY(tell_info(b, "CA killed, the slowest of 99 in 100", "s", t.p99_ms / 1e3, e));
    TRY(tell_info(b, "CA killed, calls told to come back", "calls",
                  (double)(now->refused - before.refused), e));
    TRY(tell_info(b, "CA killed, calls without connection", "calls",
                  (double)(now->cut_off - before.cut_off), e));
    TRY(tell_info(b, "CA killed, calls too late", "calls", (double)(now->late - before.late), e));
    TRY(tell_info(b, "CA killed, most RSS since", "MiB", mib, e));
    TRY(rest(b, b->conf->settle_ms, e));
    TRY(proc_memory_mib(b->rig.pid, "VmRSS", &mib, e));
    return tell(b, "memory of each, idle, that showed a leaf", "KiB",
                (mib - b->empty_mib) * 1024 / agents_n(b), REPORT_MOST, 40, e);
}

/* Leaves a second when every agent starts anew, `at_once` of them at a time. */
static int
restart(struct bench *b, size_t at_once, double *ret_rate, struct err *e)
{
    const struct fleet_question leaf = { .fact = FLEET_HAS_LEAF };
    const struct fleet_question said = { .fact = FLEET_SAID,
                                         .generation = fleet_generation(b->fleet) };
    double s;

    start(b);
    fleet_begin(b->fleet, at_once);
    TRY(all(b, "mass restart", &leaf, &s, e));
    *ret_rate = agents_n(b) / s;
    TRY(all(b, "mass restart, the words", &said, &s, e));
    return rest(b, b->conf->settle_ms, e);
}

static int
restarts(struct bench *b, struct err *e)
{
    double paced, burst, mib;
    struct fleet_stats before;

    TRY(restart(b, PACE, &paced, e));
    before = *fleet_stats(b->fleet);
    TRY(restart(b, b->conf->agents, &burst, e));
    const struct fleet_stats *now = fleet_stats(b->fleet);
    struct fleet_times t = fleet_times(b->fleet, FLEET_HAS_LEAF);
    TRY(proc_memory_mib(b->rig.pid, "VmHWM", &mib, e));
    TRY(tell_info(b, "mass restart, 64 at a time", "leaves/s", paced, e));
    TRY(tell_info(b, "mass restart, all at once", "leaves/s", burst, e));
    TRY(tell(b, "all at once, part of 64 at a time", "", burst / paced, REPORT_LEAST, 0.8, e));
    TRY(tell_info(b, "all at once, half have a leaf", "s", t.p50_ms / 1e3, e));
    TRY(tell_info(b, "all at once, the slowest", "s", t.max_ms / 1e3, e));
    TRY(tell_info(b, "all at once, calls told to come back", "calls",
                  (double)(now->refused - before.refused), e));
    return tell_info(b, "all at once, most RSS so far", "MiB", mib, e);
}

/* -- start and end -------------------------------------------------------------------------------
 */

static int
files_raise(uint64_t agents, struct err *e)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return err_set(e, E_SYS, "no limit of open files");
    if (lim.rlim_max < agents + 256 && lim.rlim_max != RLIM_INFINITY)
        return err_set(e, E_LIMIT,
                       "%llu agents need as many open files here and in meshroot up, and the hard "
                       "limit is %llu: raise it (ulimit -Hn), or ask for fewer --agents",
                       (unsigned long long)agents, (unsigned long long)lim.rlim_max);
    lim.rlim_cur = lim.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &lim) == 0 ? 0 : err_set(e, E_SYS, "setrlimit");
}

static int
bench_open(struct bench *b, struct err *e)
{
    const struct bench_conf *c = b->conf;
    enum key_kind kind;

    TRY(files_raise(c->agents, e));
    TRY(key_kind_parse(c->ca_key, &kind, e));
    TRY(rig_make(c->meshroot, kind, c->renew_window_ms, &b->rig, e));
    TRY(rig_start(&b->rig, e));
    TRY(rig_set_roots(&b->rig, RIG_FIRST, e));
    TRY(rig_set_signer(&b->rig, 0, e));
    TRY(rig_enable(&b->rig, e));
    TRY(loop_new(&b->loop, e));
    TRY(timer_new(b->loop, on_look, b, &b->look, e));
    const struct fleet_conf f = { .loop = b->loop,
                                  .agents = c->agents,
                                  .identities = c->identities,
                                  .dial = c->dial,
                                  .port = b->rig.port,
                                  .roots = b->rig.roots,
                                  .token_key = b->rig.token_key,
                                  .issuer = b->rig.issuer,
                                  .shows_leaf = strcmp(c->show, "leaf") == 0 };
    return fleet_new(&f, &b->fleet, e);
}

static int
bench_run(struct bench *b, struct err *e)
{
    TRY(bench_open(b, e));
    TRY(first_leaves(b, e));
    TRY(rotation(b, e));
    if (!b->conf->storm)
        return 0;
    TRY(killed(b, e));
    return restarts(b, e);
}

int
main(int argc, char *argv[])
{
    struct bench_conf c = { 0 };
    static struct bench b;
    struct opt_args args;
    struct err e = { 0 };

    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    int r = opts_parse(opts, &c, argc - 1, argv + 1, &args, &e);
    if (r == OPT_HELP) {
        printf("usage: bench_agents [FLAGS]\n\nPlays many agents against a meshroot up of its "
               "own.\n\n");
        opts_help(opts, help_columns(STDOUT_FILENO), stdout);
        return 0;
    }
    b.conf = &c;
    if (r == 0)
        r = bench_run(&b, &e);
    fleet_free(b.fleet);
    timer_free(b.look);
    loop_free(b.loop);
    rig_done(&b.rig);
    if (r < 0)
        fprintf(stderr, "bench_agents: %s\n", e.msg);
    return r < 0 ? 1 : 0;
}
