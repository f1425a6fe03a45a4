/* alloc.h - the n-th allocation of this program fails: our own (by the linker's --wrap), jansson's,
 * protobuf-c's and OpenSSL's. Once is one; the next is given again. */
#ifndef TESTS_UNIT_CMD_ALLOC_H
#define TESTS_UNIT_CMD_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

enum alloc_whose { ALLOC_OURS, ALLOC_LIBRARIES };

void alloc_setup(void); /* before anything else of the program */
/* The n-th (1 is the first) allocation of those fails from now on; 0: none does. */
void alloc_fail(enum alloc_whose whose, size_t n);
void alloc_rest(void);       /* none fails any more */
bool alloc_has_failed(void); /* since alloc_fail */

#endif
