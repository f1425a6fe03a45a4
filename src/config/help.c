#include "config/help.h"

#include <sys/ioctl.h>

#include "base/str.h"

size_t
help_columns(int fd)
{
    struct winsize w = { 0 };

    if (ioctl(fd, TIOCGWINSZ, &w) < 0 || w.ws_col == 0 || w.ws_col > HELP_COLUMNS)
        return HELP_COLUMNS;
    return w.ws_col < HELP_COLUMNS_MIN ? HELP_COLUMNS_MIN : w.ws_col;
}

/* Words of one line; returns the column that `f` stands at then. */
static size_t
words_write(struct span text, size_t at, size_t indent, size_t columns, FILE *f)
{
    for (struct span word; span_cut(&text, ' ', &word);) {
        if (word.n == 0)
            continue;
        if (at > indent && at + 1 + word.n > columns) {
            fprintf(f, "\n%*s", (int)indent, "");
            at = indent;
        } else if (at > indent) {
            at += (size_t)fprintf(f, " ");
        }
        at += (size_t)fprintf(f, "%.*s", (int)word.n, (const char *)word.p);
    }
    return at;
}

void
help_wrap(struct span text, size_t at, size_t indent, size_t columns, FILE *f)
{
    if (at < indent)
        at += (size_t)fprintf(f, "%*s", (int)(indent - at), "");
    (void)words_write(text, at, indent, columns, f);
    fputc('\n', f);
}

void
help_text(const char *text, size_t columns, FILE *f)
{
    struct span rest = span_str(text);
    size_t at = 0;

    for (struct span line; span_cut(&rest, '\n', &line);) {
        bool is_own = line.n == 0 || *(const char *)line.p == ' ';

        if (is_own && at > 0)
            fputc('\n', f);
        if (!is_own)
            at = words_write(line, at, 0, columns, f);
        else if (line.n > 0 || rest.p != NULL) /* nothing follows the last newline */
            fprintf(f, "%.*s\n", (int)line.n, (const char *)line.p);
        at = is_own ? 0 : at;
    }
    if (at > 0)
        fputc('\n', f);
}
