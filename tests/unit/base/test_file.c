/* What file.h promises: whole or absent, and sets that change as one, also when killed. */
#include "unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/file.h"
#include "tmpdir.h"

static const char *const names[] = { "a.pem", "b.pem", "c.pem" };

struct fix {
    char dir[64], path[128];
};

static int
setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));

    tmpdir_make(f->dir);
    (void)snprintf(f->path, sizeof(f->path), "%s/f", f->dir);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fix *f = *state;

    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

static size_t
entries(const char *dir, const char *prefix)
{
    DIR *d = opendir(dir);
    size_t n = 0;

    assert_non_null(d);
    for (struct dirent *de; (de = readdir(d)) != NULL;)
        n += strcmp(de->d_name, ".") != 0 && strcmp(de->d_name, "..") != 0 &&
                     strncmp(de->d_name, prefix, strlen(prefix)) == 0
                 ? 1
                 : 0;
    (void)closedir(d);
    return n;
}

static void
assert_content(const char *path, const char *want, mode_t mode)
{
    struct buf b = BUF_INIT(4096);
    struct err e = { 0 };
    struct stat st;

    assert_ok(file_read(path, &b, &e));
    assert_string_equal(buf_text(&b), want);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, mode);
    buf_done(&b);
}

static void
files_are_written_whole(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct buf b = BUF_INIT(4);
    mode_t old = umask(077);

    assert_int_equal(file_read(f->path, &b, &e), FILE_ABSENT);
    assert_ok(file_write(f->path, span_str("one"), 0644, &e));
    assert_content(f->path, "one", 0644); /* whatever the umask */
    assert_ok(file_write(f->path, span_str("two"), 0600, &e));
    assert_content(f->path, "two", 0600);
    assert_err(file_write_new(f->path, span_str("no"), 0600, &e), E_EXISTS, f->path);
    assert_content(f->path, "two", 0600);
    assert_ok(file_write(f->path, span_str("12345"), 0600, &e));
    assert_err(file_read(f->path, &b, &e), E_LIMIT, "larger than 4 bytes");
    assert_err(file_write("/nonexistent/x", span_str(""), 0600, &e), E_SYS, "/nonexistent/x");
    assert_int_equal(entries(f->dir, ""), 1); /* no temporary file stays */
    (void)umask(old);
    buf_done(&b);
}

static void
a_file_of_exactly_the_cap_is_read(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct buf b = BUF_INIT(4);

    assert_ok(file_write(f->path, span_str("1234"), 0600, &e));
    assert_ok(file_read(f->path, &b, &e));
    assert_string_equal(buf_text(&b), "1234");
    buf_done(&b);
}

static void
folders_are_made_with_their_parents(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    char deep[128], below[160];
    struct stat st;

    (void)snprintf(deep, sizeof(deep), "%s/x/y/z", f->dir);
    assert_ok(dir_make(deep, 0700, &e));
    assert_ok(dir_make(deep, 0700, &e));
    assert_int_equal(stat(deep, &st), 0);
    assert_ok(file_write(f->path, span_str(""), 0600, &e));
    (void)snprintf(below, sizeof(below), "%s/g", f->path);
    assert_err(dir_make(below, 0700, &e), E_SYS, "make folder");
    *strrchr(below, '/') = '\0';
    assert_err(dir_make(below, 0700, &e), E_EXISTS, "is no folder");
}

static void
a_folder_has_one_owner(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    int fd = -1, second = -1;
    char pid[32];

    assert_ok(dir_lock(f->dir, &fd, &e));
    assert_int_equal(dir_lock(f->dir, &second, &e), -E_STATE);
    (void)snprintf(pid, sizeof(pid), "(pid %d)", (int)getpid());
    assert_non_null(strstr(e.msg, pid));
    assert_non_null(strstr(e.msg, f->dir));
    assert_int_equal(second, -1);
    dir_unlock(fd);
    assert_ok(dir_lock(f->dir, &second, &e));
    dir_unlock(second);
    assert_int_equal(dir_lock("/nonexistent", &second, &e), -E_SYS);
}

/* -- sets */

/* All three files carry `n`. */
static int
set_put(const char *dir, unsigned n, struct err *e)
{
    char text[32];
    struct fileset_file files[ARRAY_LEN(names)];

    (void)snprintf(text, sizeof(text), "%08u", n);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        files[i] = (struct fileset_file){ names[i], i == 1 ? 0600 : 0644, span_str(text) };
    return fileset_write(dir, files, ARRAY_LEN(files), e);
}

/* The one text that all of them carry; -1 for a mix, -2 when something is absent. */
static long
set_get(const char *dir)
{
    struct buf b[ARRAY_LEN(names)];
    bool present[ARRAY_LEN(names)];
    struct err e = { 0 };
    long n = -2;

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        b[i] = BUF_INIT(64);
    int r = fileset_read(dir, names, ARRAY_LEN(names), b, present, &e);
    if (r == 0 && present[0] && present[1] && present[2]) {
        n = strtol(buf_text(&b[0]), NULL, 10);
        if (!span_eq(buf_span(&b[0]), buf_span(&b[1])) ||
            !span_eq(buf_span(&b[0]), buf_span(&b[2])))
            n = -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        buf_done(&b[i]);
    return n;
}

static void
sets_have_kubelet_s_layout(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    char path[128], to[128] = "";

    assert_ok(set_put(f->dir, 1, &e));
    (void)snprintf(path, sizeof(path), "%s/..data", f->dir);
    assert_true(readlink(path, to, sizeof(to) - 1) > 0);
    assert_int_equal(strncmp(to, "..20", 4), 0);
    (void)snprintf(path, sizeof(path), "%s/a.pem", f->dir);
    memset(to, 0, sizeof(to));
    assert_true(readlink(path, to, sizeof(to) - 1) > 0);
    assert_string_equal(to, "..data/a.pem");
    assert_content(path, "00000001", 0644);
    (void)snprintf(path, sizeof(path), "%s/b.pem", f->dir);
    assert_content(path, "00000001", 0600);
    for (unsigned n = 2; n < 6; n++)
        assert_ok(set_put(f->dir, n, &e));
    assert_int_equal(set_get(f->dir), 5);
    assert_int_equal(entries(f->dir, "..2"), 2); /* this generation and the last */
    struct fileset_file one = { "a.pem", 0644, span_str("alone") };
    assert_ok(fileset_write(f->dir, &one, 1, &e));
    assert_int_equal(entries(f->dir, "b.pem"), 0); /* names that are gone are gone */
}

static void
bad_sets_are_refused(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct fileset_file many[FILESET_MAX + 1];
    static const char *const bad[] = { "", "a/b", "..data", "..", "." };

    for (size_t i = 0; i < ARRAY_LEN(many); i++)
        many[i] = (struct fileset_file){ "x", 0600, span_str("") };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct fileset_file x = { bad[i], 0600, span_str("") };
        assert_err(fileset_write(f->dir, &x, 1, &e), E_INVAL, "not a file name");
    }
    assert_int_equal(fileset_write(f->dir, many, 0, &e), -E_INVAL);
    assert_int_equal(fileset_write(f->dir, many, ARRAY_LEN(many), &e), -E_INVAL);
    assert_int_equal(entries(f->dir, ""), 0);
}

static void
reading_says_what_is_absent_or_too_large(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct buf b[2] = { BUF_INIT(16), BUF_INIT(16) };
    bool present[2];
    char none[96];

    (void)snprintf(none, sizeof(none), "%s/none", f->dir);
    assert_int_equal(fileset_read(none, names, 2, b, present, &e), FILE_ABSENT);
    (void)snprintf(f->path, sizeof(f->path), "%s/b.pem", f->dir);
    assert_ok(file_write(f->path, span_str("hand"), 0600, &e)); /* a folder made by hand */
    assert_ok(fileset_read(f->dir, names, 2, b, present, &e));
    assert_true(!present[0] && present[1]);
    assert_string_equal(buf_text(&b[1]), "hand");
    assert_ok(file_write(f->path, span_str("more than sixteen bytes"), 0600, &e));
    assert_err(fileset_read(f->dir, names, 2, b, present, &e), E_LIMIT, "b.pem: larger");
    assert_int_equal(b[1].n, 0);
}

/* The sealed file's identity stands for its content: another file, or a change, is another one. */
static void
a_sealed_file_is_opened_and_not_read(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct buf b[3] = { BUF_INIT(FILE_IDENTITY_BYTES), BUF_INIT(FILE_IDENTITY_BYTES),
                        BUF_INIT(FILE_IDENTITY_BYTES) };
    uint8_t ids[4][FILE_IDENTITY_BYTES] = { 0 };
    bool present[3];
    char text[16] = "", path[128];
    int fd = -1;

    for (unsigned n = 0; n < 4; n++) {
        if (n != 1) /* twice the same */
            assert_ok(set_put(f->dir, n < 3 ? n : 2, &e));
        assert_ok(fileset_read_sealed(f->dir, names, 3, 1, b, present, &fd, &e));
        assert_true(present[0] && present[1] && present[2] && fd >= 0);
        assert_true(b[1].n > 0 && b[1].n <= FILE_IDENTITY_BYTES);
        memcpy(ids[n], b[1].p, b[1].n);
        (void)snprintf(path, sizeof(path), "%08u", n == 1 ? 0 : n < 3 ? n : 2);
        assert_string_equal(buf_text(&b[0]), path);
        assert_int_equal(pread(fd, text, sizeof(text), 0), 8);
        assert_memory_equal(text, path, 8); /* of the same generation */
        (void)close(fd);
    }
    assert_memory_equal(ids[0], ids[1], sizeof(ids[0]));
    assert_memory_not_equal(ids[1], ids[2], sizeof(ids[0]));
    assert_memory_not_equal(ids[2], ids[3], sizeof(ids[0]));
    struct fileset_file one = { "a.pem", 0644, span_str("alone") };
    assert_ok(fileset_write(f->dir, &one, 1, &e));
    fd = 77;
    assert_ok(fileset_read_sealed(f->dir, names, 3, 1, b, present, &fd, &e));
    assert_int_equal(fd, -1);
    assert_false(present[1]);
    (void)snprintf(path, sizeof(path), "%s/hand", f->dir);
    assert_ok(dir_make(path, 0755, &e));
    (void)snprintf(f->path, sizeof(f->path), "%s/hand/b.pem", f->dir);
    assert_int_equal(mkfifo(f->path, 0600), 0); /* must not hold us up */
    assert_err(fileset_read_sealed(path, names, 3, 1, b, present, &fd, &e), E_DENIED,
               "b.pem: is not a file");
    for (size_t i = 0; i < 3; i++)
        buf_done(&b[i]);
}

static void
a_moved_file_is_part_of_the_set(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    const struct fileset_file files[] = { { "a.pem", 0644, span_str("A") },
                                          { "b.pem", 0600, { NULL, 0 } } };
    char from[128], path[128];

    (void)snprintf(from, sizeof(from), "%s/elsewhere", f->dir);
    (void)snprintf(path, sizeof(path), "%s/b.pem", f->dir);
    assert_err(fileset_write_moved(f->dir, files, 2, 1, from, &e), E_SYS, "move to b.pem");
    assert_int_equal(entries(f->dir, "..2"), 0);
    assert_ok(file_write(from, span_str("moved"), 0644, &e));
    assert_ok(fileset_write_moved(f->dir, files, 2, 1, from, &e));
    assert_content(path, "moved", 0600);
    assert_int_equal(entries(f->dir, "elsewhere"), 0);
}

static void
a_full_disk_leaves_the_set(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    struct rlimit old, tight = { 1, 0 };

    assert_ok(set_put(f->dir, 1, &e));
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    int r = set_put(f->dir, 2, &e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(r, -E_SYS);
    assert_non_null(strstr(e.msg, "a.pem: write"));
    assert_int_equal(set_get(f->dir), 1);
    assert_int_equal(entries(f->dir, "..2"), 1);
    assert_ok(set_put(f->dir, 3, &e));
    assert_int_equal(set_get(f->dir), 3);
}

static void
child_writes(const char *dir, unsigned first)
{
    struct err e;

    for (unsigned n = first;; n++)
        if (set_put(dir, n, &e) < 0)
            _exit(1);
}

enum { READS_MIN = 5 }; /* a round, however little of the processor we get */

static void
readers_never_see_a_mix_whenever_the_writer_is_killed(void **state)
{
    struct fix *f = *state;
    struct err e = { 0 };
    long last = 1, reads = 0;

    assert_ok(set_put(f->dir, 1, &e));
    for (int round = 0; round < 20; round++) {
        pid_t pid = fork();
        long start = last;

        if (pid == 0)
            child_writes(f->dir, (unsigned)last + 1);
        uint64_t until = mono_ms() + 3 + random_below(15);
        while (mono_ms() < until || last == start || reads < (round + 1) * READS_MIN) {
            long n = set_get(f->dir);

            assert_true(n >= last); /* whole, and never an older one */
            last = n;
            reads++;
        }
        assert_int_equal(kill(pid, SIGKILL), 0);
        int status = 0;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
        assert_true(set_get(f->dir) >= last);
        last = set_get(f->dir);
    }
    assert_ok(set_put(f->dir, 99999999, &e)); /* the next write sweeps what the crashes left */
    assert_int_equal(entries(f->dir, "..2"), 2);
    assert_int_equal(entries(f->dir, "..tmp"), 0);
}

static void
a_folder_that_others_can_write_is_not_ours(void **state)
{
    static const struct {
        mode_t mode;
        bool ok;
    } rows[] = { { 0700, true },  { 0755, true },  { 0500, true },  { 0770, false },
                 { 0702, false }, { 0777, false }, { 01777, false } };
    struct fix *f = *state;
    struct err e = { 0 };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char path[160];
        (void)snprintf(path, sizeof(path), "%s/own%zu", f->dir, i);
        assert_ok(dir_make_own(path, &e));
        assert_int_equal(chmod(path, rows[i].mode), 0);
        if (rows[i].ok)
            assert_ok(dir_make_own(path, &e));
        else
            assert_err(dir_make_own(path, &e), E_DENIED, "chmod go-w");
    }
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        T(files_are_written_whole),
        T(a_file_of_exactly_the_cap_is_read),
        T(folders_are_made_with_their_parents),
        T(a_folder_has_one_owner),
        T(sets_have_kubelet_s_layout),
        T(bad_sets_are_refused),
        T(reading_says_what_is_absent_or_too_large),
        T(a_sealed_file_is_opened_and_not_read),
        T(a_moved_file_is_part_of_the_set),
        T(a_full_disk_leaves_the_set),
        T(readers_never_see_a_mix_whenever_the_writer_is_killed),
        T(a_folder_that_others_can_write_is_not_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
