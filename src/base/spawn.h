/* spawn.h - other people's programs: started in a process group of their own, without a shell.
 * Layer: base. Thread: any.
 */
#ifndef BASE_SPAWN_H
#define BASE_SPAWN_H

#include <sys/types.h>

#include "base/attr.h"

/* Starts argv[0] (found in PATH), with signals as at the start of a process, and in a group of its
 * own, so that it can be killed with all that it starts. What we have open is closed on exec.
 *   out   becomes its standard output, and /dev/null its input; -1: both are ours
 * r: 0, or an errno. Blocks: until the program is there. */
MUST_USE int spawn_group(char *const argv[], char *const envp[], int out, pid_t *ret);

#endif
