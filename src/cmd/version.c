/* version.c - meshroot version. */
#include <stdio.h>

#include "cmd/commands.h"

struct version_conf {
    const char *output;
};

static const struct opt opts[] = { OPT_OUTPUT(struct version_conf, output), { .name = NULL } };

static int
run(const void *conf, const struct opt_args *args, struct err *e)
{
    const struct version_conf *c = conf;

    (void)args;
    (void)e;
    if (c->output[0] == 'j')
        printf("{\"version\": \"%s\"}\n", MESHROOT_VERSION);
    else
        printf("meshroot %s\n", MESHROOT_VERSION);
    return 0;
}

const struct command cmd_version = {
    "version",
    "",
    0,
    0,
    opts,
    sizeof(struct version_conf),
    run,
    "print the version",
    "Prints the version of this binary.\n"
    "\n"
    "Examples:\n"
    "  meshroot version\n"
    "  meshroot version --output json\n",
};
