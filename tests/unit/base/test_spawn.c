/* Programs of others: their group, their input and output. */
#include "unit.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/spawn.h"

extern char **environ;

static void
out_is_a_pipe_and_in_is_empty(void **state)
{
    char cat[] = "cat", text[] = "said", printf_[] = "printf", got[16] = "";
    char *echoes[] = { printf_, text, NULL }, *reads[] = { cat, NULL };
    int ends[2], status;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(spawn_group(echoes, environ, ends[1], &pid), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(read(ends[0], got, sizeof(got) - 1), 4);
    assert_string_equal(got, "said");
    assert_int_equal(spawn_group(reads, environ, ends[1], &pid), 0); /* ends: nothing to read */
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

static void
it_leads_a_group(void **state)
{
    char sleep_[] = "sleep", long_[] = "60";
    char *words[] = { sleep_, long_, NULL };
    int status;
    pid_t pid;

    (void)state;
    assert_int_equal(spawn_group(words, environ, -1, &pid), 0);
    assert_int_equal(getpgid(pid), pid);
    assert_int_equal(kill(-pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void
what_is_not_there(void **state)
{
    char none[] = "/no/such/program";
    char *words[] = { none, NULL };
    pid_t pid;

    (void)state;
    assert_int_equal(spawn_group(words, environ, -1, &pid), ENOENT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_is_a_pipe_and_in_is_empty),
        cmocka_unit_test(it_leads_a_group),
        cmocka_unit_test(what_is_not_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
