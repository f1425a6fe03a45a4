/* sandbox.h - private to signer/: shuts the child's doors, one after another. */
#ifndef SIGNER_SANDBOX_H
#define SIGNER_SANDBOX_H

#include <stddef.h>

#include "base/err.h"
#include "signer/ipc.h"

/* Before the first thread: no core dumps, no new privileges, no more than `fds` descriptors, memory
 * locked, no files and no TCP by Landlock where the kernel has it. Errors: SYS. */
MUST_USE int sandbox_shut(size_t fds, struct ipc_hello *ret, struct err *e);
/* After the last thread has started, for all of them: an allow-list of system calls; what is not on
 * it fails with EPERM. Errors: SYS. */
MUST_USE int sandbox_seal(struct err *e);

#endif
