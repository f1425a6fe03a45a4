/* Where the Workload API may listen, and how that place is named. */
#include "unit.h"
#include "tmpdir.h"

#include "agent/workload.h"
#include "base/file.h"

static void
bad_places_are_refused(void **state)
{
    char base[64], dir[96], file[112];
    struct err e;
    int fd;

    (void)state;
    tmpdir_make(base);
    (void)snprintf(dir, sizeof(dir), "%s/open", base);
    (void)snprintf(file, sizeof(file), "%s/agent.sock", dir);
    assert_int_equal(mkdir(dir, 0755), 0);
    assert_int_equal(chmod(dir, 0777), 0);
    assert_err(workload_listen(file, true, &fd, &e), E_DENIED, "others may write");
    assert_int_equal(chmod(dir, 0775), 0);
    assert_err(workload_listen(file, true, &fd, &e), E_DENIED, "others may write");
    assert_int_equal(chmod(dir, 01777), 0);
    assert_ok(workload_listen(file, true, &fd, &e));
    (void)close(fd);
    if (geteuid() == 0) {
        assert_int_equal(chmod(dir, 0755), 0);
        assert_int_equal(chown(dir, 4242, 0), 0);
        assert_err(workload_listen(file, true, &fd, &e), E_DENIED, "belongs to uid 4242");
        assert_int_equal(chown(dir, 0, 0), 0);
    }
    assert_int_equal(unlink(file), 0);
    assert_ok(file_write(file, span_str("x"), 0600, &e));
    assert_err(workload_listen(file, true, &fd, &e), E_INVAL, "not a socket");
    tmpdir_remove(base);
}

static void
the_socket_is_named_as_clients_name_it(void **state)
{
    static const struct {
        const char *text, *path; /* NULL: refused */
    } rows[] = {
        { "/run/a.sock", "/run/a.sock" },
        { "unix:///run/a.sock", "/run/a.sock" },
        { "unix://run/a.sock", NULL },
        { "unix:/run/a.sock", NULL },
        { "tcp://127.0.0.1:1", NULL },
        { "a.sock", NULL },
        { "", NULL },
        { "unix://", NULL },
        { "/run/", NULL },
        { "/run/0123456789012345678901234567890123456789012345678901234567890123456789012345678901"
          "2345678901234567890123.sock",
          NULL },
    };
    char path[WORKLOAD_PATH_BYTES];
    struct err e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int r = workload_path(rows[i].text, path, &e);

        if ((r == 0) != (rows[i].path != NULL) || (r < 0 && e.code != E_INVAL))
            fail_msg("row %zu: %d %s", i, r, r < 0 ? e.msg : path);
        if (r == 0)
            assert_string_equal(path, rows[i].path);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_places_are_refused),
        cmocka_unit_test(the_socket_is_named_as_clients_name_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
