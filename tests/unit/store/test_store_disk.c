/* test_store_disk.c - a store that is killed, whose disk is full or bad, whose files are not its
 * own. */
#include "store_kit.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void
child_commits(const char *dir, int out)
{
    struct store *s = NULL;
    struct err e = { 0 };

    if (store_open_sqlite(dir, &s, &e) < 0)
        _exit(1);
    for (uint32_t i = 1;; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "n/%08u", i);
        struct store_op op = put(key, "v");

        if (store_commit_wait(s, &op, 1, NULL, &e) < 0 || write(out, &i, sizeof(i)) != sizeof(i))
            _exit(1);
    }
}

static void
what_was_acknowledged_survives_kill_9(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    uint32_t acknowledged = 0;

    store_close(f->s);
    f->s = NULL;
    for (int round = 0; round < 3; round++) {
        int fds[2];
        uint32_t i = 0, base = acknowledged;

        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0)
            child_commits(f->dir, fds[1]);
        (void)close(fds[1]);
        while (i < 20u + (unsigned)round * 7 && read(fds[0], &i, sizeof(i)) == sizeof(i))
            acknowledged = i > base ? i : base;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        while (read(fds[0], &i, sizeof(i)) == sizeof(i))
            acknowledged = i > acknowledged ? i : acknowledged;
        (void)close(fds[0]);
        assert_ok(store_open_sqlite(f->dir, &f->s, &e));
        for (i = 1; i <= acknowledged; i++) {
            char key[32];
            (void)snprintf(key, sizeof(key), "n/%08u", i);
            assert_value(f, key, "v");
        }
        store_close(f->s);
        f->s = NULL;
    }
    assert_true(acknowledged >= 34);
}

static void
a_full_disk_is_an_error_and_passes(void **state)
{
    struct fix *f = *state;
    static char big[STORE_VALUE_BYTES];
    struct err e = { 0 };
    struct rlimit old, tight = { 64 * 1024, 0 };
    struct store_op large = { .kind = STORE_PUT, .key = "big", .value = span_of(big, sizeof(big)) };
    struct store_stats st;

    put_now(f, "k", "before");
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    int r = store_commit_wait(f->s, &large, 1, NULL, &e);
    struct err second = { 0 };
    int r2 = store_commit_wait(f->s, &large, 1, NULL, &second);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);

    assert_int_equal(r, -E_SYS);
    assert_non_null(strstr(e.msg, "meshroot.db: write: "));
    assert_int_equal(r2, -E_SYS);
    assert_value(f, "k", "before");
    assert_value(f, "big", NULL);
    store_get_stats(f->s, &st);
    assert_int_equal(st.errors, 2);
    assert_ok(store_commit_wait(f->s, &large, 1, NULL, &e)); /* there is room again */
    put_now(f, "k", "after");
    assert_value(f, "k", "after");
}

static void
health_follows_the_disk_without_a_caller(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct rlimit old, tight = { 1, 0 };
    struct store_op op = { .kind = STORE_PUT, .key = "k", .value = span_str("v") };

    put_now(f, "k", "before");
    assert_ok(store_health(f->s, &e));
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    int r = store_commit_wait(f->s, &op, 1, NULL, &e);
    struct err why = { 0 };
    int health = store_health(f->s, &why);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);

    assert_int_equal(r, -E_SYS);
    assert_int_equal(health, -E_SYS);
    assert_string_equal(why.msg, e.msg);
    for (int i = 0; i < 1000 && store_health(f->s, &e) < 0; i++)
        (void)usleep(20 * 1000); /* nobody writes: the store looks by itself */
    assert_ok(store_health(f->s, &e));
    put_now(f, "k", "after");
    assert_value(f, "k", "after");
}

/* In a child without root's rights, since root may write anywhere. 0: refused as it should be. */
static int
refused_in_read_only_folder(const char *dir)
{
    struct store *s = NULL;
    struct err e = { 0 };
    pid_t pid = fork();
    int status = 0;

    if (pid == 0) {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
            _exit(2);
        int r = store_open_sqlite(dir, &s, &e);
        _exit(r == -E_SYS && strstr(e.msg, dir) != NULL &&
                      strstr(e.msg, "Permission denied") != NULL
                  ? 0
                  : 1);
    }
    (void)waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void
a_read_only_or_missing_folder_is_named(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct store *s = NULL;
    char dir[64], missing[80];

    tmpdir_make(dir);
    assert_int_equal(chmod(dir, 0555), 0);
    assert_int_equal(refused_in_read_only_folder(dir), 0);
    tmpdir_remove(dir);
    (void)snprintf(missing, sizeof(missing), "%s/none", f->dir);
    assert_err(store_open_sqlite(missing, &s, &e), E_SYS, "none/meshroot.db: open: No such file");
}

static void
write_at(const char *dir, off_t at, const char *text)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/meshroot.db", dir);
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, text, strlen(text), at), (ssize_t)strlen(text));
    (void)close(fd);
}

static void
what_is_not_ours_or_damaged_is_refused(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    char dir[64];
    struct store *s = NULL;

    for (int i = 0; i < 2000; i++) {
        char key[32];
        (void)snprintf(key, sizeof(key), "d/%08d", i);
        struct store_op op = put(key, "some value that fills pages");
        assert_ok(store_commit(f->s, &op, 1, NULL, NULL, NULL, &e));
    }
    store_close(f->s);
    f->s = NULL;

    tmpdir_make(dir);
    write_at(dir, 0, "this is a text file and not a database, whatever its name says it is");
    assert_err(store_open_sqlite(dir, &s, &e), E_PARSE, "not a meshroot database");
    tmpdir_remove(dir);

    write_at(f->dir, 60, "\x7f"); /* user_version, first byte of four */
    assert_err(store_open_sqlite(f->dir, &f->s, &e), E_PARSE, "another release");
    write_at(f->dir, 68, "XY"); /* application_id */
    assert_err(store_open_sqlite(f->dir, &f->s, &e), E_PARSE, "not a meshroot database");
    write_at(f->dir, 68, "mr");
    int fd = -1;
    char path[128];
    (void)snprintf(path, sizeof(path), "%s/meshroot.db", f->dir);
    fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\0", 1, 60), 1);
    (void)close(fd);
    write_at(f->dir, 5 * 4096 + 3, "garbage garbage garbage garbage garbage");
    assert_err(store_open_sqlite(f->dir, &f->s, &e), E_PARSE, "damaged");
}

static void
files_are_private(void **state)
{
    struct fix *f = *state;
    static const char *const names[] = { "meshroot.db", "meshroot.db-wal", "meshroot.db-shm" };

    put_now(f, "k", "v");
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[128];
        struct stat st;

        (void)snprintf(path, sizeof(path), "%s/%s", f->dir, names[i]);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_was_acknowledged_survives_kill_9),    T(a_full_disk_is_an_error_and_passes),
        T(health_follows_the_disk_without_a_caller), T(a_read_only_or_missing_folder_is_named),
        T(what_is_not_ours_or_damaged_is_refused),   T(files_are_private),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
