#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/addr.h"

enum { UNIX_BACKLOG = 128 };

/* Only a socket is removed: a typing error must not cost a file. */
static int
old_socket_remove(const char *path, struct err *e)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "%s", path);
    if (!S_ISSOCK(st.st_mode))
        return err_set(e, E_INVAL, "%s exists and is not a socket", path);
    return unlink(path) < 0 && errno != ENOENT ? err_sys(e, errno, "%s", path) : 0;
}

static int
bind_listen(int fd, const struct sockaddr_un *sa, unsigned mode, struct err *e)
{
    /* the mode is set before anyone can connect: bind makes the file, listen opens it */
    if (bind(fd, (const void *)sa, sizeof(*sa)) < 0)
        return err_sys(e, errno, "cannot bind %s", sa->sun_path);
    if (chmod(sa->sun_path, (mode_t)mode) < 0)
        return err_sys(e, errno, "%s", sa->sun_path);
    if (listen(fd, UNIX_BACKLOG) < 0)
        return err_sys(e, errno, "cannot listen on %s", sa->sun_path);
    return 0;
}

static int
path_fill(const char *path, struct sockaddr_un *sa, struct err *e)
{
    size_t n = strlen(path);

    *sa = (struct sockaddr_un){ .sun_family = AF_UNIX };
    if (n == 0 || n >= sizeof(sa->sun_path))
        return err_set(e, E_INVAL, "the socket path \"%s\" has %zu bytes; 1 to %zu are possible",
                       path, n, sizeof(sa->sun_path) - 1);
    memcpy(sa->sun_path, path, n);
    return 0;
}

int
unix_connect(const char *path, int *ret_fd, struct err *e)
{
    struct sockaddr_un sa;

    TRY(path_fill(path, &sa, e));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "socket");
    if (connect(fd, (const void *)&sa, sizeof(sa)) < 0) {
        int no = errno;

        (void)close(fd);
        return err_sys(e, no, "cannot connect to %s", path);
    }
    *ret_fd = fd;
    return 0;
}

int
unix_listen(const char *path, unsigned mode, int *ret_fd, struct err *e)
{
    struct sockaddr_un sa;

    TRY(path_fill(path, &sa, e));
    TRY(old_socket_remove(path, e));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "socket");
    if (bind_listen(fd, &sa, mode, e) < 0) {
        (void)close(fd);
        return err_result(e);
    }
    *ret_fd = fd;
    return 0;
}

int
unix_peer_of(int fd, struct unix_peer *ret, struct err *e)
{
    struct ucred who;
    socklen_t n = sizeof(who);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0)
        return err_sys(e, errno, "SO_PEERCRED");
    if (who.uid == (uid_t)-1)
        return err_set(e, E_INVAL, "the connection is not one of a Unix socket");
    *ret = (struct unix_peer){ .pid = who.pid, .uid = who.uid, .gid = who.gid };
    return 0;
}
