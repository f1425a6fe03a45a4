/* demo_tell.h - how the demo speaks: lines, a progress bar, log lines of the daemons, the last
 * table. Layer: cmd. */
#ifndef CMD_DEMO_TELL_H
#define CMD_DEMO_TELL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct demo_tell {
    bool quiet; /* --json: nothing but the object at the end */
    bool color, terminal;
    long log_at;     /* how far the daemon's log has been told */
    const char *log; /* its path */
};

void tell_init(struct demo_tell *t, bool json);
void tell_step(const struct demo_tell *t, size_t number, const char *title, const char *why);
void tell_line(const struct demo_tell *t, const char *fmt, ...) PRINTF(2, 3);
/* A bar that counts real things; redrawn in place on a terminal, silent elsewhere. */
void tell_bar(const struct demo_tell *t, const char *what, size_t have, size_t want);
void tell_bar_end(const struct demo_tell *t);
/* The new lines of the daemon's log that tell a rotation: istiod's words, and rotate's. */
void tell_log(struct demo_tell *t);
/* The table at the end, from {"steps":[{"name","seconds","tried","failed","issuers":{..}}]}. */
void tell_table(const struct demo_tell *t, const json_t *report);

#endif
