#include "config/opts.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/span.h"
#include "base/str.h"
#include "config/help.h"
#include "config/near.h"

enum { ENV_NAME_BYTES = 96, NAME_MAX_BYTES = 64, TEXT_MAX_BYTES = 4096 };
enum { LEFT_COLUMNS = 39, LEFT_COLUMNS_NARROW = 6 }; /* before a flag's text */

static const struct opt *
opt_find(const struct opt *opts, struct span name)
{
    for (const struct opt *o = opts; o->name != NULL; o++)
        if (span_eq_str(name, o->name))
            return o;
    return NULL;
}

static int
number_set(const struct opt *o, uint64_t *at, const char *text, struct err *e)
{
    uint64_t lo = 0, hi = UINT64_MAX, v = 0;
    bool is_time = o->kind == OPT_DURATION;

    if (is_time) {
        TRY(duration_ms_parse(span_str(text), &v, e));
        if (o->min != NULL)
            TRY(duration_ms_parse(span_str(o->min), &lo, e));
        if (o->max != NULL)
            TRY(duration_ms_parse(span_str(o->max), &hi, e));
    } else {
        TRY(u64_parse(span_str(text), 0, UINT64_MAX, &v, e));
        if (o->min != NULL)
            TRY(u64_parse(span_str(o->min), 0, UINT64_MAX, &lo, e));
        if (o->max != NULL)
            TRY(u64_parse(span_str(o->max), 0, UINT64_MAX, &hi, e));
    }
    if (v < lo || v > hi)
        return err_set(e, E_INVAL, "%s is outside %s..%s", text, o->min != NULL ? o->min : "0",
                       o->max != NULL ? o->max : "any");
    *at = v;
    return 0;
}

static int
choice_check(const struct opt *o, const char *text, struct err *e)
{
    struct span words = span_str(o->min), word;

    while (span_cut(&words, '|', &word))
        if (span_eq_str(word, text))
            return 0;
    return err_set(e, E_INVAL, "\"%s\" is not one of %s", text, o->min);
}

static int
value_set(const struct opt *o, void *conf, const char *text, struct err *e)
{
    void *at = (char *)conf + o->at;
    struct opt_list *list = at;

    switch (o->kind) {
    case OPT_CHOICE:
        TRY(choice_check(o, text, e));
        *(const char **)at = text;
        return 0;
    case OPT_STRING:
        *(const char **)at = text;
        return 0;
    case OPT_LIST:
        if (list->n == OPT_LIST_MAX)
            return err_set(e, E_INVAL, "given more than %d times", (int)OPT_LIST_MAX);
        list->v[list->n++] = text;
        return 0;
    case OPT_FLAG:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return err_set(e, E_INVAL, "\"%s\" is not true or false", text);
        *(bool *)at = strcmp(text, "true") == 0;
        return 0;
    case OPT_COUNT:
    case OPT_DURATION:
        return number_set(o, at, text, e);
    }
    return err_set(e, E_INVAL, "unknown kind of flag");
}

static int
opt_set(const struct opt *o, void *conf, const char *text, struct err *e)
{
    int r = value_set(o, conf, text, e);

    if (r < 0) {
        e->code = E_INVAL;
        return err_wrap(e, "--%s", o->name);
    }
    return 0;
}

static const char *
env_value(const char *name)
{
    char env[ENV_NAME_BYTES] = "MESHROOT_";
    size_t n = strlen(env);

    for (; *name != '\0' && n + 1 < sizeof(env); name++)
        env[n++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    env[n] = '\0';
    return getenv(env);
}

static int
defaults_set(const struct opt *opts, void *conf, struct err *e)
{
    for (const struct opt *o = opts; o->name != NULL; o++) {
        const char *env = env_value(o->name);

        if (o->def != NULL)
            TRY(opt_set(o, conf, o->def, e));
        if (env != NULL && opt_set(o, conf, env, e) < 0)
            return err_wrap(e, "from the environment");
    }
    return 0;
}

/* Names the flag that was meant, if one is near; `name` is without its "--". */
static int
flag_unknown(const struct opt *opts, struct span name, struct err *e)
{
    struct near near = near_start(name);

    for (const struct opt *o = opts; o->name != NULL; o++)
        if ((o->flags & OPT_HIDDEN) == 0)
            near_try(&near, o->name);
    const char *meant = near_word(&near);
    return err_set(e, E_INVAL, "unknown flag --%.*s; %s%s%ssee --help", (int)name.n,
                   (const char *)name.p, meant == NULL ? "" : "did you mean --",
                   meant == NULL ? "" : meant, meant == NULL ? "" : "? Else ");
}

/* "-n": no command has short flags, but hands know those of kubectl. */
static int
short_unknown(const struct opt *opts, const char *word, struct err *e)
{
    static const struct {
        const char *word, *name;
    } known[] = { { "-f", "file" }, { "-n", "namespace" }, { "-o", "output" } };

    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        if (strncmp(word, known[i].word, 2) == 0 && opt_find(opts, span_str(known[i].name)) != NULL)
            return err_set(e, E_INVAL, "unknown flag %s; did you mean --%s? Else see --help", word,
                           known[i].name);
    return err_set(e, E_INVAL, "unknown flag %s; flags start with --, see --help", word);
}

/* One flag word, and the word after it when it takes a value. Returns the words used up. */
static int
flag_parse(const struct opt *opts, void *conf, const char *word, const char *next, struct err *e)
{
    struct span rest = span_str(word + 2), name;
    bool negated = false;

    (void)span_cut(&rest, '=', &name);
    const struct opt *o = opt_find(opts, name);
    if (o == NULL && span_starts(name, "no-")) {
        o = opt_find(opts, span_skip(name, 3));
        negated = o != NULL && o->kind == OPT_FLAG;
        o = negated ? o : NULL;
    }
    if (o == NULL)
        return flag_unknown(opts, name, e);
    if (o->kind == OPT_FLAG && rest.p == NULL) {
        TRY(opt_set(o, conf, negated ? "false" : "true", e));
        return 1;
    }
    if (rest.p != NULL) {
        TRY(opt_set(o, conf, (const char *)rest.p, e));
        return 1;
    }
    if (next == NULL)
        return err_set(e, E_INVAL, "--%s needs a value (%s)", o->name, o->arg);
    TRY(opt_set(o, conf, next, e));
    return 2;
}

static bool
is_given(const struct opt *o, const void *conf)
{
    const void *at = (const char *)conf + o->at;

    if (o->kind == OPT_LIST)
        return ((const struct opt_list *)at)->n > 0;
    return *(const char *const *)at != NULL;
}

int
opts_parse(const struct opt *opts, void *conf, int argc, char **argv, struct opt_args *ret_args,
           struct err *e)
{
    int rest = 0;
    bool flags_over = false;

    TRY(defaults_set(opts, conf, e));
    for (int i = 0; i < argc;) {
        char *word = argv[i];

        if (!flags_over && strcmp(word, "--") == 0) {
            flags_over = true;
            i++;
        } else if (!flags_over && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            return OPT_HELP;
        } else if (!flags_over && strncmp(word, "--", 2) == 0) {
            i += TRY(flag_parse(opts, conf, word, i + 1 < argc ? argv[i + 1] : NULL, e));
        } else if (!flags_over && word[0] == '-' && word[1] != '\0') {
            return short_unknown(opts, word, e);
        } else {
            argv[rest++] = word; /* rest <= i: what is overwritten has been read */
            i++;
        }
    }
    for (const struct opt *o = opts; o->name != NULL; o++)
        if ((o->flags & OPT_REQUIRED) != 0 && !is_given(o, conf))
            return err_set(e, E_INVAL, "--%s is needed (%s)", o->name, o->help);
    *ret_args = (struct opt_args){ rest, argv };
    return 0;
}

/* What stands beside a flag: its help, what it may be, its default. */
static int
opt_text(const struct opt *o, struct buf *b, struct err *e)
{
    TRY(buf_add_str(b, o->help, e));
    if (o->kind == OPT_CHOICE)
        TRY(buf_addf(b, e, " (%s)", o->min));
    else if (o->min != NULL && o->max != NULL)
        TRY(buf_addf(b, e, " (%s..%s)", o->min, o->max));
    if (o->def != NULL && o->kind != OPT_FLAG)
        TRY(buf_addf(b, e, " [%s]", o->def));
    return 0;
}

static void
opt_help(const char *left, struct span text, size_t columns, FILE *f)
{
    if (columns < 2 * LEFT_COLUMNS) {
        fprintf(f, "  %s\n", left);
        help_wrap(text, 0, LEFT_COLUMNS_NARROW, columns, f);
        return;
    }
    size_t at = (size_t)fprintf(f, "  %-*s ", LEFT_COLUMNS - 3, left);
    help_wrap(text, at, LEFT_COLUMNS, columns, f);
}

void
opts_help(const struct opt *opts, size_t columns, FILE *f)
{
    for (const struct opt *o = opts; o->name != NULL; o++) {
        struct buf text = BUF_INIT(TEXT_MAX_BYTES);
        char left[NAME_MAX_BYTES];
        struct err e;

        if ((o->flags & OPT_HIDDEN) != 0)
            continue;
        (void)snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg != NULL ? " " : "",
                       o->arg != NULL ? o->arg : "");
        (void)opt_text(o, &text, &e); /* what there was memory for */
        opt_help(left, buf_span(&text), columns, f);
        buf_done(&text);
    }
    opt_help("--help", span_str("print this help"), columns, f);
}
