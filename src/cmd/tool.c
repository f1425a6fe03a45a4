#include "cmd/tool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/str.h"
#include "obs/log.h"

int
stdout_check(struct err *e)
{
    if (fflush(stdout) == 0 && ferror(stdout) == 0)
        return 0;
    return err_sys(e, errno, "cannot write to the standard output");
}

int
print_json(json_t *take_j, struct err *e)
{
    int done = take_j == NULL ? -1 : json_dumpf(take_j, stdout, JSON_INDENT(2));

    json_decref(take_j);
    if (done < 0 && ferror(stdout) == 0)
        return err_nomem(e);
    (void)fputc('\n', stdout);
    return stdout_check(e);
}

const char *
shown_text(const json_t *j, const char *member)
{
    const char *s = json_string_value(json_object_get(j, member));

    return s != NULL ? s : "-";
}

json_int_t
shown_number(const json_t *j, const char *member)
{
    return json_integer_value(json_object_get(j, member));
}

bool
use_color(int fd)
{
    const char *no = getenv("NO_COLOR");

    return isatty(fd) == 1 && (no == NULL || no[0] == '\0');
}

void
log_flags_setup(const struct log_flags *f)
{
    enum log_level level = LOG_DEBUG;

    while (level < LOG_ERROR && strcmp(log_level_name(level), f->level) != 0)
        level++;
    log_setup(STDOUT_FILENO, level, strcmp(f->format, "json") == 0);
}

void
open_files_raise(void)
{
    struct rlimit lim;

    if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
        return;
    lim.rlim_cur = lim.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
        log_warn("", "cannot raise the limit of open files");
    else
        log_info("", "up to %llu open files", (unsigned long long)lim.rlim_cur);
}

int
state_dir(const char *given, char **ret, struct err *e)
{
    const char *home = getenv("HOME");

    if (given != NULL)
        return str_dup(span_str(given), ret, e);
    if (home == NULL)
        return err_set(e, E_INVAL, "no --state-dir, and HOME is not set");
    return str_format(ret, e, "%s/.meshroot", home);
}
