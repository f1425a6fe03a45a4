#include "cmd/demo_tell.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/tool.h"

enum { BAR_CELLS = 24, LOG_LINES_SHOWN = 6, LOG_LINE_BYTES = 1024, LOG_SHOWN_BYTES = 170 };

void
tell_init(struct demo_tell *t, bool json)
{
    *t = (struct demo_tell){ .quiet = json,
                             .color = use_color(STDOUT_FILENO),
                             .terminal = isatty(STDOUT_FILENO) == 1 };
}

static const char *
tone(const struct demo_tell *t, const char *code)
{
    return t->color ? code : "";
}

void
tell_step(const struct demo_tell *t, size_t number, const char *title, const char *why)
{
    if (t->quiet)
        return;
    printf("\n%s%zu. %s%s\n   %s\n", tone(t, "\033[1m"), number, title, tone(t, "\033[0m"), why);
    (void)fflush(stdout);
}

void
tell_line(const struct demo_tell *t, const char *fmt, ...)
{
    va_list ap;

    if (t->quiet)
        return;
    (void)fputs("   ", stdout);
    va_start(ap, fmt);
    (void)vprintf(fmt, ap);
    va_end(ap);
    (void)fputc('\n', stdout);
    (void)fflush(stdout);
}

void
tell_bar(const struct demo_tell *t, const char *what, size_t have, size_t want)
{
    size_t cells = want == 0 ? 0 : have * BAR_CELLS / want;

    if (t->quiet || !t->terminal)
        return;
    printf("\r\033[K   [");
    for (size_t i = 0; i < BAR_CELLS; i++)
        (void)fputc(i < cells ? '#' : '.', stdout);
    printf("] %zu/%zu %s", have, want, what);
    (void)fflush(stdout);
}

void
tell_bar_end(const struct demo_tell *t)
{
    if (!t->quiet && t->terminal)
        printf("\r\033[K");
}

static bool
is_worth_telling(const char *line)
{
    static const char *const words[] = { "x509 cert - Issuer",
                                         "Updating new ROOT-CA",
                                         "update root cert and generate",
                                         "Istiod has detected",
                                         "Added ",
                                         "\trotate\t" };

    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (strstr(line, words[i]) != NULL)
            return true;
    return false;
}

void
tell_log(struct demo_tell *t)
{
    char line[LOG_LINE_BYTES];
    FILE *f = t->log == NULL ? NULL : fopen(t->log, "re");
    int shown = 0;

    if (f == NULL)
        return;
    if (fseek(f, t->log_at, SEEK_SET) == 0)
        while (fgets(line, sizeof(line), f) != NULL) {
            line[strcspn(line, "\n")] = '\0';
            if (is_worth_telling(line) && shown++ < LOG_LINES_SHOWN && !t->quiet)
                printf("   %s| %.*s%s\n", tone(t, "\033[2m"), (int)LOG_SHOWN_BYTES, line,
                       tone(t, "\033[0m"));
        }
    t->log_at = ftell(f);
    (void)fclose(f);
}

static void
issuers_text(const json_t *issuers, char *ret, size_t cap)
{
    const char *name;
    json_t *n;
    size_t at = 0;

    ret[0] = '\0';
    json_object_foreach((json_t *)(uintptr_t)issuers, name, n) {
        int w = snprintf(ret + at, cap - at, "%s%s: %" JSON_INTEGER_FORMAT, at > 0 ? ", " : "",
                         name, json_integer_value(n));

        if (w < 0 || (size_t)w >= cap - at)
            return;
        at += (size_t)w;
    }
}

void
tell_table(const struct demo_tell *t, const json_t *report)
{
    const json_t *s, *total = json_object_get(report, "handshakes");
    size_t i;

    if (t->quiet)
        return;
    printf("\n%s%-54s %8s %10s %8s  %s%s\n", tone(t, "\033[1m"), "STEP", "SECONDS", "HANDSHAKES",
           "FAILED", "LEAVES IN USE BY ISSUER", tone(t, "\033[0m"));
    json_array_foreach(json_object_get(report, "steps"), i, s) {
        const json_t *h = json_object_get(s, "handshakes");
        char issuers[256];

        issuers_text(json_object_get(s, "issuers"), issuers, sizeof(issuers));
        printf("%-54s %8.1f %10" JSON_INTEGER_FORMAT " %8" JSON_INTEGER_FORMAT "  %s\n",
               json_string_value(json_object_get(s, "name")),
               json_real_value(json_object_get(s, "seconds")),
               json_integer_value(json_object_get(h, "tried")),
               json_integer_value(json_object_get(h, "failed")), issuers);
    }
    printf("%-54s %8.1f %10" JSON_INTEGER_FORMAT " %8" JSON_INTEGER_FORMAT "\n", "all",
           json_real_value(json_object_get(report, "seconds")),
           json_integer_value(json_object_get(total, "tried")),
           json_integer_value(json_object_get(total, "failed")));
    printf("\n%" JSON_INTEGER_FORMAT " handshakes, %" JSON_INTEGER_FORMAT " failed\n",
           json_integer_value(json_object_get(total, "tried")),
           json_integer_value(json_object_get(total, "failed")));
    if (json_object_get(report, "first_failure") != NULL)
        printf("the first that failed: %s\n",
               json_string_value(json_object_get(report, "first_failure")));
}
