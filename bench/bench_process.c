/* bench_process.c - the real binary at rest: memory of `meshroot ca serve` and `meshroot agent
 * run`, and how long an agent takes from its start to its first leaf on disk. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/span.h"
#include "config/help.h"
#include "config/opts.h"
#include "floor.h"
#include "load.h"
#include "obs/log.h"
#include "proc.h"
#include "report.h"

enum { STARTS = 9, SETTLE_MS = 1500, LOAD_LEAVES = 4000 };

struct bench_conf {
    const char *meshroot, *report;
};
static const struct opt opts[] = {
    { "meshroot", OPT_STRING, offsetof(struct bench_conf, meshroot), "build/meshroot", NULL, NULL,
      0, "FILE", "the binary to look at" },
    { "report", OPT_STRING, offsetof(struct bench_conf, report), NULL, NULL, NULL, 0, "FILE",
      "add the rows to this JSON file" },
    { .name = NULL },
};

struct scenery {
    const struct bench_conf *conf;
    struct scene scene;
    char state[96], ports[96], root[128], token[96], issuer[192], addr[32];
    char agent_dir[96], agent_chain[128];
    pid_t ca;
    uint16_t port;
};

static int
add(const struct scenery *s, const char *name, const char *unit, double figure,
    enum report_rule rule, double target, struct err *e)
{
    struct report_row r = {
        .name = name, .unit = unit, .figure = figure, .rule = rule, .target = target
    };

    return report_add(s->conf->report, &r, e);
}

/* -- the CA -- */

static int
port_read(struct scenery *s, struct err *e)
{
    unsigned port = 0;
    FILE *f = fopen(s->ports, "re");

    if (f == NULL || fscanf(f, "{\"ca\": %u", &port) != 1)
        port = 0;
    if (f != NULL)
        (void)fclose(f);
    s->port = (uint16_t)port;
    (void)snprintf(s->addr, sizeof(s->addr), "127.0.0.1:%u", port);
    return port > 0 ? 0 : err_set(e, E_PARSE, "%s names no port", s->ports);
}

static int
ca_start(struct scenery *s, struct err *e)
{
    const char *const args[] = { s->conf->meshroot, "ca",           "serve",       "--ca-dir",
                                 s->scene.ca_dir,   "--state-dir",  s->state,      "--listen",
                                 "127.0.0.1:0",     "--monitoring", "127.0.0.1:0", "--issuer",
                                 s->issuer,         "--port-file",  s->ports,      NULL };

    TRY(proc_start(args, NULL, &s->ca, e));
    TRY(proc_wait_file(s->ports, e));
    TRY(proc_wait_file(s->root, e));
    return port_read(s, e);
}

static int
ca_bench(struct scenery *s, struct err *e)
{
    struct load_conf lc = { &s->scene, s->port, 64, 1, LOAD_KEEP, false };
    struct load *load;
    double mib;

    proc_sleep_ms(SETTLE_MS);
    TRY(proc_memory_mib(s->ca, "VmRSS", &mib, e));
    TRY(add(s, "ca serve at rest, RSS", "MiB", mib, REPORT_MOST, 16, e));
    TRY(proc_memory_mib(proc_child(s->ca), "VmRSS", &mib, e));
    TRY(add(s, "its signer process at rest, RSS", "MiB", mib, REPORT_INFO, 0, e));
    TRY(load_new(&lc, &load, e));
    int r = load_run(load, LOAD_LEAVES, e);
    load_free(load);
    if (r < 0)
        return r;
    proc_sleep_ms(SETTLE_MS);
    TRY(proc_memory_mib(s->ca, "VmRSS", &mib, e));
    return add(s, "ca serve at rest again, after 4,000 leaves, RSS", "MiB", mib, REPORT_INFO, 0, e);
}

/* -- the agent -- */

static int
agent_start(struct scenery *s, pid_t *ret, double *ret_ms, struct err *e)
{
    const char *const args[] = { s->conf->meshroot,
                                 "agent",
                                 "run",
                                 "--dir",
                                 s->agent_dir,
                                 "--identity",
                                 s->scene.callers[0].identity,
                                 "--ca-addr",
                                 s->addr,
                                 "--ca-name",
                                 "localhost",
                                 "--ca-root-cert",
                                 s->root,
                                 "--token-file",
                                 s->token,
                                 "--monitoring",
                                 "127.0.0.1:0",
                                 NULL };
    double from = clock_us(CLOCK_MONOTONIC);

    TRY(proc_start(args, NULL, ret, e));
    TRY(proc_wait_file(s->agent_chain, e));
    *ret_ms = (clock_us(CLOCK_MONOTONIC) - from) / 1e3;
    return 0;
}

static int
agent_bench(struct scenery *s, struct err *e)
{
    double ms[STARTS], mib[STARTS];

    for (unsigned i = 0; i < STARTS; i++) {
        pid_t pid = 0;

        (void)snprintf(s->agent_dir, sizeof(s->agent_dir), "%s/agent%u", s->scene.dir, i);
        (void)snprintf(s->agent_chain, sizeof(s->agent_chain), "%s/cert-chain.pem", s->agent_dir);
        int r = agent_start(s, &pid, &ms[i], e);
        if (r == 0) {
            proc_sleep_ms(SETTLE_MS); /* an agent gives memory back a second after a change */
            r = proc_memory_mib(pid, "VmRSS", &mib[i], e);
        }
        proc_end(&pid, SIGTERM);
        if (r < 0)
            return r;
    }
    TRY(add(s, "agent at rest, RSS", "MiB", report_median(mib, STARTS), REPORT_MOST, 8, e));
    return add(s, "agent, start to first leaf on disk", "ms", report_median(ms, STARTS),
               REPORT_MOST, 150, e);
}

static int
scenery_make(struct scenery *s, struct err *e)
{
    TRY(scene_make(KEY_P256, KEY_P256, &s->scene, e));
    (void)snprintf(s->state, sizeof(s->state), "%s/state", s->scene.dir);
    (void)snprintf(s->ports, sizeof(s->ports), "%s/ports", s->scene.dir);
    (void)snprintf(s->root, sizeof(s->root), "%s/trust/root-cert.pem", s->state);
    (void)snprintf(s->token, sizeof(s->token), "%s/token", s->scene.dir);
    (void)snprintf(s->issuer, sizeof(s->issuer), "%s=%s", scene_issuer, s->scene.jwks);
    return file_write(
        s->token, span_skip(buf_span(&s->scene.callers[0].token), sizeof("Bearer ") - 1), 0600, e);
}

int
main(int argc, char *argv[])
{
    struct bench_conf c = { 0 };
    static struct scenery s;
    struct opt_args args;
    struct err e = { 0 };

    (void)signal(SIGPIPE, SIG_IGN);
    log_setup(STDERR_FILENO, LOG_ERROR, false);
    int r = opts_parse(opts, &c, argc - 1, argv + 1, &args, &e);
    if (r == OPT_HELP) {
        opts_help(opts, help_columns(STDOUT_FILENO), stdout);
        return 0;
    }
    s.conf = &c;
    if (r == 0)
        r = scenery_make(&s, &e);
    if (r == 0)
        r = ca_start(&s, &e);
    if (r == 0)
        r = ca_bench(&s, &e);
    if (r == 0)
        r = agent_bench(&s, &e);
    proc_end(&s.ca, SIGTERM);
    scene_done(&s.scene);
    if (r < 0)
        fprintf(stderr, "bench_process: %s\n", e.msg);
    return r < 0 ? 1 : 0;
}
