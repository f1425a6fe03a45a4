/* Every promise of decide.h in a row. Roots are letters; times are seconds before now. */
#include "unit.h"

#include <string.h>

#include "validate/decide.h"

enum { NOW = 1000000, LIFE = 86400, HOT = 600, SKEW = 120, LONG = LIFE + 1000 };

struct row {
    const char *what;
    const char *wanted; /* roots of the Secret */
    char signer;        /* the Secret's intermediate is under it */
    const char *loaded; /* roots of the ConfigMap; '=': the same text */
    const char *pods;   /* the root each signs under; '?': not seen; lower case: lacks a root; +
                           after: has another */
    int64_t map_age;    /* -1: not known */
    int64_t pod_age;    /* how long it has signed so */
    int64_t second_age; /* of the second pod; 0: the same */
    int64_t secret_age; /* -1: not known */
    int64_t youngest;   /* every workload pod is at most so old; -1: not known */
    bool hot, by_text, text_within, going, paused, rolling, forced;
    enum validate_tried tried;
    enum validate_kind kind;
    bool is_unsafe;
    const char *words;
};

static void
letters(const char *s, struct validate_set *ret)
{
    ret->n = 0;
    for (; *s != '\0'; s++) {
        memset(ret->ids[ret->n], 0, DIGEST_BYTES);
        ret->ids[ret->n++][0] = (uint8_t)*s;
    }
}

static int64_t
ago(int64_t age)
{
    return age == -1 ? 0 : NOW - age; /* others below 0: in the future */
}

static void
pods_fill(const struct row *r, struct validate_pod *pods, struct validate_facts *f)
{
    for (const char *p = r->pods; *p != '\0'; p++) {
        if (*p == '+') {
            pods[f->pods_n - 1].has_other = true;
            continue;
        }
        struct validate_pod *pod = &pods[f->pods_n];

        memset(pod, 0, sizeof(*pod));
        (void)snprintf(pod->name, sizeof(pod->name), "istiod-%zu", f->pods_n++);
        pod->is_seen = *p != '?';
        pod->lacks_root = *p >= 'a';
        pod->root_id[0] = (uint8_t)(*p & ~0x20);
        pod->since = ago(f->pods_n > 1 && r->second_age != 0 ? r->second_age : r->pod_age);
        (void)snprintf(pod->why, sizeof(pod->why), "%s", pod->is_seen ? "" : "nobody answers");
    }
    f->pods = pods;
}

static void
check(const struct row *r)
{
    struct validate_pod pods[4];
    struct validate_verdict v;
    struct validate_facts f = { .is_same_text = r->loaded[0] == '=',
                                .secret_changed = ago(r->secret_age),
                                .map_changed = ago(r->map_age),
                                .takes_roots_hot = r->hot,
                                .hot_compares_text = r->by_text,
                                .is_text_within = r->text_within,
                                .is_going = r->going,
                                .is_paused = r->paused,
                                .is_rolling = r->rolling,
                                .tried = r->tried,
                                .workloads_since = ago(r->youngest),
                                .now = NOW,
                                .leaf_life_s = LIFE,
                                .hot_wait_s = HOT,
                                .skew_s = SKEW,
                                .is_forced = r->forced };

    letters(r->wanted, &f.wanted);
    letters(r->loaded + (f.is_same_text ? 1 : 0), &f.loaded);
    f.signer_root[0] = (uint8_t)r->signer;
    pods_fill(r, pods, &f);
    memset(&v, 0xff, sizeof(v));
    validate_decide(&f, &v);
    if (v.kind != r->kind || v.is_unsafe != r->is_unsafe ||
        strstr(v.why, r->words == NULL ? "" : r->words) == NULL)
        fail_msg("%s: %s%s: %s", r->what, validate_kind_name(v.kind), v.is_unsafe ? " unsafe" : "",
                 v.why);
}

#define W       .wanted
#define S       .signer
#define L       .loaded
#define P       .pods
#define UNKNOWN .map_age = -1, .secret_age = -1, .youngest = -1

static void
nothing_to_do(void **state)
{
    static const struct row rows[] = {
        { "the same", W = "A", S = 'A', L = "=A", P = "AA", UNKNOWN, .kind = VALIDATE_NOTHING },
        { "nobody answers, the same", W = "A", S = 'A', L = "=A", P = "?", UNKNOWN,
          .kind = VALIDATE_NOTHING },
        { "no pod", W = "A", S = 'A', L = "=A", P = "", UNKNOWN, .kind = VALIDATE_NOTHING },
        { "an older try is over", W = "A", S = 'A', L = "=A", P = "A", UNKNOWN, .tried = TRIED_DONE,
          .kind = VALIDATE_NOTHING },
        { "an older try failed, and it came right", W = "A", S = 'A', L = "=A", P = "A", UNKNOWN,
          .tried = TRIED_FAILED, .kind = VALIDATE_NOTHING },
        { "forced is not a reason", W = "A", S = 'A', L = "=A", P = "A", UNKNOWN, .forced = true,
          .kind = VALIDATE_NOTHING },
        { "a hot istiod names the roots it started with", W = "AB", S = 'A', L = "=AB", P = "a",
          UNKNOWN, .hot = true, .kind = VALIDATE_NOTHING },
        { "paused with nothing to do", W = "A", S = 'A', L = "=A", P = "A", UNKNOWN, .paused = true,
          .kind = VALIDATE_NOTHING },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

static void
a_wider_set(void **state)
{
    static const struct row rows[] = {
        { "the old intermediate signs on", W = "AB", S = 'A', L = "A", P = "AA", UNKNOWN,
          .kind = VALIDATE_RESTART, .words = "by a restart only" },
        { "reordered or re-wrapped: istiod compares bytes", W = "AB", S = 'A', L = "BA", P = "A",
          UNKNOWN, .kind = VALIDATE_RESTART },
        { "one pod has not loaded it", W = "AB", S = 'A', L = "=AB", P = "Aa", UNKNOWN,
          .kind = VALIDATE_RESTART, .words = "istiod-1 started with" },
        { "the new intermediate at once", W = "AB", S = 'B', L = "A", P = "A", .map_age = LONG,
          .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD, .words = "no workload trusts" },
        { "the same, forced", W = "AB", S = 'B', L = "A", P = "A", UNKNOWN, .forced = true,
          .kind = VALIDATE_RESTART, .is_unsafe = true, .words = "no workload trusts" },
        { "a signer whose root came in lately", W = "ABC", S = 'B', L = "AB", P = "A",
          .map_age = 60, .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD,
          .words = "wait until 1970-01-13T13:47:40Z, or restart them" },
        { "... long ago", W = "ABC", S = 'B', L = "AB", P = "A", .map_age = LONG, .secret_age = 5,
          .youngest = -1, .kind = VALIDATE_RESTART },
        { "... a second too early", W = "ABC", S = 'B', L = "AB", P = "A",
          .map_age = LIFE + SKEW - 1, .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD },
        { "... in time", W = "ABC", S = 'B', L = "AB", P = "A", .map_age = LIFE + SKEW,
          .secret_age = 5, .youngest = -1, .kind = VALIDATE_RESTART },
        { "... and every workload is younger", W = "ABC", S = 'B', L = "AB", P = "A",
          .map_age = 1000, .secret_age = 5, .youngest = 800, .kind = VALIDATE_RESTART },
        { "... one workload is not", W = "ABC", S = 'B', L = "AB", P = "A", .map_age = 1000,
          .secret_age = 5, .youngest = 990, .kind = VALIDATE_HELD },
        { "... nobody knows when", W = "ABC", S = 'B', L = "AB", P = "A", UNKNOWN,
          .kind = VALIDATE_HELD, .words = "nothing says how long" },
        { "... but it signs already", W = "ABC", S = 'B', L = "AB", P = "BB", UNKNOWN,
          .kind = VALIDATE_RESTART },
        { "... on one pod only", W = "ABC", S = 'B', L = "AB", P = "BA", UNKNOWN,
          .kind = VALIDATE_HELD },
        { "... on those that answer", W = "ABC", S = 'B', L = "AB", P = "B?", UNKNOWN,
          .kind = VALIDATE_HELD },
        { "no pod: nobody signs so", W = "ABC", S = 'B', L = "AB", P = "", .map_age = 60,
          .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD },
        { "no pod at all: nobody signs", W = "AB", S = 'A', L = "A", P = "", .map_age = LONG,
          .secret_age = 5, .youngest = -1, .kind = VALIDATE_RESTART },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

static void
a_root_goes(void **state)
{
    static const struct row rows[] = {
        { "published without it, and a pod has it still", W = "B", S = 'B', L = "=B", P = "BB+",
          UNKNOWN, .kind = VALIDATE_RESTART, .words = "istiod-1 started with" },
        { "... and signs under it", W = "B", S = 'B', L = "=B", P = "BA+", UNKNOWN,
          .kind = VALIDATE_HELD },
        { "a root that outlives a restart is not the Secret's", W = "B", S = 'B', L = "=B",
          P = "B+B+", UNKNOWN, .tried = TRIED_DONE, .kind = VALIDATE_NOTHING },
        { "one that is lacking does not", W = "B", S = 'B', L = "=B", P = "Bb+", UNKNOWN,
          .tried = TRIED_DONE, .kind = VALIDATE_RESTART },
        { "a hot istiod names what it started with", W = "B", S = 'B', L = "=B", P = "B+", UNKNOWN,
          .hot = true, .kind = VALIDATE_NOTHING },
        { "it still signs", W = "B", S = 'B', L = "AB", P = "A", .map_age = LONG, .pod_age = LONG,
          .secret_age = 5, .youngest = 1, .kind = VALIDATE_HELD, .words = "still signs under" },
        { "one pod still signs under it", W = "B", S = 'B', L = "AB", P = "BA", .map_age = LONG,
          .pod_age = LONG, .secret_age = 5, .youngest = 1, .kind = VALIDATE_HELD,
          .words = "istiod-1 still signs" },
        { "its leaves may be in use", W = "B", S = 'B', L = "AB", P = "B", .map_age = LONG,
          .pod_age = 60, .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD,
          .words = "may be in use until 1970-01-13T13:47:40Z" },
        { "the last pod to change decides", W = "B", S = 'B', L = "AB", P = "BB", .map_age = LONG,
          .pod_age = 60, .second_age = LONG, .secret_age = 5, .youngest = -1,
          .kind = VALIDATE_HELD },
        { "whichever that is", W = "B", S = 'B', L = "AB", P = "BB", .map_age = LONG,
          .pod_age = LONG, .second_age = 60, .secret_age = 5, .youngest = -1,
          .kind = VALIDATE_HELD },
        { "its leaves have ended", W = "B", S = 'B', L = "AB", P = "BB", .map_age = LONG,
          .pod_age = LONG, .secret_age = 5, .youngest = -1, .kind = VALIDATE_RESTART },
        { "... a second too early", W = "B", S = 'B', L = "AB", P = "BB", .map_age = LONG,
          .pod_age = LIFE + SKEW - 1, .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD },
        { "every workload was restarted since", W = "B", S = 'B', L = "AB", P = "B", .map_age = 900,
          .pod_age = 600, .secret_age = 5, .youngest = 300, .kind = VALIDATE_RESTART },
        { "all but one", W = "B", S = 'B', L = "AB", P = "B", .map_age = 900, .pod_age = 600,
          .secret_age = 5, .youngest = 601, .kind = VALIDATE_HELD },
        { "a pod that does not answer may sign under it", W = "B", S = 'B', L = "AB", P = "B?",
          .map_age = LONG, .pod_age = LONG, .secret_age = 5, .youngest = 1, .kind = VALIDATE_HELD,
          .words = "istiod-1: nobody answers" },
        { "no pod: nobody knows", W = "B", S = 'B', L = "AB", P = "", .map_age = LONG,
          .secret_age = 5, .youngest = -1, .kind = VALIDATE_HELD, .words = "it has no pod" },
        { "forced", W = "B", S = 'B', L = "AB", P = "B", .map_age = LONG, .pod_age = 60,
          .secret_age = 5, .youngest = -1, .forced = true, .kind = VALIDATE_RESTART,
          .is_unsafe = true, .words = "may be in use" },
        { "forced where it is safe", W = "B", S = 'B', L = "AB", P = "B", .map_age = LONG,
          .pod_age = LONG, .secret_age = 5, .youngest = -1, .forced = true,
          .kind = VALIDATE_RESTART },
        { "replaced in one step", W = "B", S = 'B', L = "A", P = "A", .map_age = LONG,
          .pod_age = LONG, .secret_age = 5, .youngest = 1, .kind = VALIDATE_HELD,
          .words = "first write old and new root" },
        { "another root for one that never signed", W = "AC", S = 'A', L = "AB", P = "A",
          .map_age = LONG, .pod_age = LONG, .secret_age = 5, .youngest = -1,
          .kind = VALIDATE_RESTART },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

static void
without_a_restart(void **state)
{
    static const struct row rows[] = {
        { "wider", W = "AB", S = 'A', L = "A", P = "A", .map_age = LONG, .secret_age = 5,
          .hot = true, .kind = VALIDATE_WAIT, .words = "without a restart" },
        { "narrower", W = "B", S = 'B', L = "AB", P = "B", .map_age = LONG, .secret_age = 5,
          .hot = true, .kind = VALIDATE_WAIT, .words = "none is done" },
        { "the last second", W = "AB", S = 'A', L = "A", P = "A", .secret_age = HOT - 1,
          .hot = true, .kind = VALIDATE_WAIT },
        { "it did not", W = "AB", S = 'A', L = "A", P = "A", .secret_age = HOT, .hot = true,
          .kind = VALIDATE_RESTART, .words = "has not taken" },
        { "nobody knows since when", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .hot = true,
          .kind = VALIDATE_RESTART },
        { "an old one, the text is within", W = "AB", S = 'A', L = "A", P = "A", .secret_age = 5,
          .hot = true, .by_text = true, .text_within = true, .kind = VALIDATE_WAIT },
        { "an old one, it is not", W = "AB", S = 'A', L = "A", P = "A", .secret_age = 5,
          .hot = true, .by_text = true, .kind = VALIDATE_RESTART },
        { "replaced: that it cannot", W = "B", S = 'B', L = "A", P = "A", .secret_age = 5,
          .hot = true, .kind = VALIDATE_HELD },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

static void
not_now(void **state)
{
    static const struct row rows[] = {
        { "somebody's rollout", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .rolling = true,
          .kind = VALIDATE_WAIT, .words = "under way" },
        { "ours", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .rolling = true,
          .tried = TRIED_OPEN, .kind = VALIDATE_RESUME },
        { "ours, over, and nobody wrote so", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN,
          .tried = TRIED_OPEN, .kind = VALIDATE_RESUME },
        { "ours, and published", W = "AB", S = 'A', L = "=AB", P = "A", UNKNOWN,
          .tried = TRIED_OPEN, .kind = VALIDATE_RESUME },
        { "ours, and paused", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .tried = TRIED_OPEN,
          .paused = true, .kind = VALIDATE_BLOCKED, .words = "rollout resume" },
        { "paused", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .paused = true,
          .kind = VALIDATE_BLOCKED },
        { "paused cannot be forced", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .paused = true,
          .forced = true, .kind = VALIDATE_BLOCKED },
        { "being deleted", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .going = true,
          .forced = true, .rolling = true, .tried = TRIED_OPEN, .kind = VALIDATE_BLOCKED,
          .words = "deleted" },
        { "failed before", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .tried = TRIED_FAILED,
          .kind = VALIDATE_BLOCKED, .words = "is not repeated" },
        { "failed, and hangs there still", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN,
          .tried = TRIED_FAILED, .rolling = true, .kind = VALIDATE_BLOCKED },
        { "failed, forced", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN, .tried = TRIED_FAILED,
          .rolling = true, .forced = true, .kind = VALIDATE_RESTART },
        { "done before, and it is needed again", W = "AB", S = 'A', L = "A", P = "A", UNKNOWN,
          .tried = TRIED_DONE, .kind = VALIDATE_RESTART },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

/* Clocks that differ by as much as they may never make a restart earlier than the true times allow.
 */
static void
clocks_that_differ(void **state)
{
    static const struct row rows[] = {
        { "istiod's clock is ahead: its certificate is from the future", W = "B", S = 'B', L = "AB",
          P = "B", .map_age = LONG, .pod_age = -SKEW, .secret_age = 5, .youngest = -1,
          .kind = VALIDATE_HELD },
        { "ours is ahead: leaves seem to have ended", W = "B", S = 'B', L = "AB", P = "B",
          .map_age = LONG, .pod_age = LIFE + SKEW - 1, .secret_age = 5, .youngest = -1,
          .kind = VALIDATE_HELD },
        { "the API server's is ahead: pods seem younger than the change", W = "B", S = 'B',
          L = "AB", P = "B", .map_age = LONG, .pod_age = 600, .secret_age = 5,
          .youngest = 600 - SKEW, .kind = VALIDATE_HELD },
        { "... but not so much younger", W = "B", S = 'B', L = "AB", P = "B", .map_age = LONG,
          .pod_age = 600, .secret_age = 5, .youngest = 600 - SKEW - 1, .kind = VALIDATE_RESTART },
        { "the Secret is from the future: left to istiod", W = "AB", S = 'A', L = "A", P = "A",
          .secret_age = -SKEW, .hot = true, .kind = VALIDATE_WAIT },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        check(&rows[i]);
}

/* Over every small combination: an unforced restart is never one that strands a workload. */
static void
no_restart_strands_anybody(void **state)
{
    static const char *const sets[] = { "A", "B", "AB", "BC", "ABC" };
    static const char *const served[] = { "A", "B", "AB", "?", "" };
    static const int64_t ages[] = { -1, 60, LONG };
    size_t restarts = 0;

    (void)state;
    for (size_t i = 0; i < 5 * 5 * 5 * 3 * 3 * 3 * 2; i++) {
        size_t n = i;
        struct row r = { .wanted = sets[n % 5], .secret_age = 5, .signer = 'B' };
        struct validate_pod pods[4];
        struct validate_facts f = {
            .now = NOW, .leaf_life_s = LIFE, .hot_wait_s = HOT, .skew_s = SKEW
        };
        struct validate_verdict v;

        r.loaded = sets[(n /= 5) % 5];
        r.pods = served[(n /= 5) % 5];
        f.map_changed = ago(ages[(n /= 5) % 3]);
        r.pod_age = ages[(n /= 3) % 3] < 0 ? 60 : ages[n % 3];
        f.workloads_since = ago(ages[(n /= 3) % 3]);
        f.signer_root[0] = (n /= 3) % 2 == 0 ? 'A' : 'B';
        letters(r.wanted, &f.wanted);
        letters(r.loaded, &f.loaded);
        if (!validate_set_has(&f.wanted, f.signer_root))
            continue; /* no bundle is such */
        pods_fill(&r, pods, &f);
        validate_decide(&f, &v);
        if (v.kind != VALIDATE_RESTART)
            continue;
        restarts++;
        assert_true(validate_set_has(&f.loaded, f.signer_root)); /* rule 2 */
        for (size_t k = 0; k < f.pods_n; k++)                    /* rule 3 */
            assert_true(!pods[k].is_seen || validate_set_has(&f.wanted, pods[k].root_id));
        if (!validate_set_contains(&f.wanted, &f.loaded))
            assert_true(r.pod_age == LONG ||
                        (f.workloads_since > 0 && f.workloads_since > f.pods[0].since));
    }
    assert_true(restarts > 20);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(a_wider_set),
        cmocka_unit_test(a_root_goes),
        cmocka_unit_test(without_a_restart),
        cmocka_unit_test(not_now),
        cmocka_unit_test(clocks_that_differ),
        cmocka_unit_test(no_restart_strands_anybody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
