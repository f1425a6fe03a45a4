#include "base/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <unistd.h>

static void
attr_fill(posix_spawnattr_t *attr)
{
    sigset_t defaults, none;

    (void)sigfillset(&defaults);
    (void)sigemptyset(&none);
    (void)posix_spawnattr_setsigdefault(attr, &defaults);
    (void)posix_spawnattr_setsigmask(attr, &none);
    (void)posix_spawnattr_setpgroup(attr, 0);
    (void)posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
                                             POSIX_SPAWN_SETPGROUP);
}

int
spawn_group(char *const argv[], char *const envp[], int out, pid_t *ret)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attr;

    int no = posix_spawnattr_init(&attr);
    if (no != 0)
        return no;
    no = posix_spawn_file_actions_init(&files);
    if (no != 0) {
        (void)posix_spawnattr_destroy(&attr);
        return no;
    }
    attr_fill(&attr);
    if (out >= 0)
        no = posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (out >= 0 && no == 0)
        no = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    if (no == 0)
        no = posix_spawnp(ret, argv[0], &files, &attr, argv, envp);
    (void)posix_spawn_file_actions_destroy(&files);
    (void)posix_spawnattr_destroy(&attr);
    return no;
}
