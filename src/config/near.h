/* near.h - the known word that a mistyped one is nearest to. Layer: config. Thread: any.
 *
 *   struct near n = near_start(span_str("enbale"));
 *   near_try(&n, "enable"); ...
 *   const char *meant = near_word(&n);
 */
#ifndef CONFIG_NEAR_H
#define CONFIG_NEAR_H

#include <stddef.h>

#include "base/span.h"

enum { NEAR_WORD_BYTES = 64 }; /* longer words are near to nothing */

struct near {
    struct span word; /* borrowed */
    const char *best; /* borrowed from near_try */
    size_t distance;  /* letters to insert, drop or change, or neighbours to swap */
};

struct near near_start(struct span word);
/* Offers a word, which outlives `n`; of words equally near the first stays. */
void near_try(struct near *n, const char *candidate);
/* The nearest word offered; NULL when none is nearer than a third of its letters. */
const char *near_word(const struct near *n);

#endif
