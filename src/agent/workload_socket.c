/* workload_socket.c - where the Workload API listens, and who could take its place. */
#include <errno.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/workload.h"
#include "base/file.h"
#include "net/addr.h"

#define SCHEME "unix://"

int
workload_path(const char *text, char ret[WORKLOAD_PATH_BYTES], struct err *e)
{
    const char *path = strncmp(text, SCHEME, strlen(SCHEME)) == 0 ? text + strlen(SCHEME) : text;
    size_t n = strlen(path);

    if (path[0] != '/' || path[n - 1] == '/')
        return err_set(e, E_INVAL,
                       "the Workload API's socket \"%.200s\" is not an absolute path, such as "
                       "/run/meshroot/agent.sock or unix:///run/meshroot/agent.sock",
                       text);
    if (n >= WORKLOAD_PATH_BYTES)
        return err_set(e, E_INVAL, "the Workload API's socket path has %zu bytes; %d are possible",
                       n, (int)WORKLOAD_PATH_BYTES - 1);
    memcpy(ret, path, n + 1);
    return 0;
}

/* Whoever may write to the folder may put a socket of their own there, and hand out keys and roots
 * of their own: to workloads the socket is what they trust. */
static int
check_folder(const char *dir, struct err *e)
{
    struct stat st;

    if (stat(dir, &st) < 0)
        return err_sys(e, errno, "%s", dir);
    if (st.st_uid != 0 && st.st_uid != geteuid())
        return err_set(e, E_DENIED,
                       "%s belongs to uid %u, who could replace the Workload API's socket in it; "
                       "use a folder of our own",
                       dir, (unsigned)st.st_uid);
    if ((st.st_mode & (S_IWGRP | S_IWOTH)) != 0 && (st.st_mode & S_ISVTX) == 0)
        return err_set(e, E_DENIED,
                       "others may write to %s (mode %04o) and could replace the Workload API's "
                       "socket in it: chmod 755, or use another folder",
                       dir, (unsigned)st.st_mode & 07777);
    return 0;
}

int
workload_listen(const char *path, bool is_private, int *ret_fd, struct err *e)
{
    char copy[WORKLOAD_PATH_BYTES];
    struct err ignored;
    int fd;

    (void)snprintf(copy, sizeof(copy), "%s", path);
    const char *dir = dirname(copy);
    TRY(dir_make(dir, 0755, e));
    TRY(check_folder(dir, e));
    if (unix_connect(path, &fd, &ignored) == 0) {
        (void)close(fd);
        return err_set(e, E_STATE, "%s: another process serves there", path);
    }
    return unix_listen(path, is_private ? 0600 : 0666, ret_fd, e);
}
