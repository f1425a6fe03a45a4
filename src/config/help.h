/* help.h - help text in the width of the terminal. Layer: config. Thread: any. */
#ifndef CONFIG_HELP_H
#define CONFIG_HELP_H

#include <stddef.h>
#include <stdio.h>

#include "base/span.h"

/* Where there is no terminal, and at most; a narrower terminal has its own width. */
enum { HELP_COLUMNS = 100, HELP_COLUMNS_MIN = 40 };

/* Columns for what goes to `fd`. */
size_t help_columns(int fd);

/* Writes the words of `text` up to column `columns`, further lines indented, and a newline. A word
 * that is longer than a line stays whole.
 *   at       the column that `f` stands at
 *   indent   of the second line and those after it */
void help_wrap(struct span text, size_t at, size_t indent, size_t columns, FILE *f);

/* Paragraphs anew in `columns`; lines that begin with a blank (examples) as they are. */
void help_text(const char *text, size_t columns, FILE *f);

#endif
