/* sandbox.h - private to signer/: shuts the child's doors, one after another. */
#ifndef SIGNER_SANDBOX_H
#define SIGNER_SANDBOX_H

#include <stddef.h>

#include "base/err.h"
#include "signer/ipc.h"

/* Before any call of OpenSSL's: whatever it frees is wiped. Errors: STATE (it is too late). */
MUST_USE int sandbox_wipe_openssl(struct err *e);
/* First of all: no core dumps, no reading of this memory by others of the same user, no new
 * privileges, locked memory for private numbers. Errors: SYS, NOMEM. */
MUST_USE int sandbox_begin(struct err *e);
/* Before the first thread of ours: no more than `fds` descriptors, memory locked, no files and no
 * TCP by Landlock where the kernel has it.
 *   reads   the one folder in which files may still be read (a PKCS#11 module's); NULL: none
 * Errors: SYS. */
MUST_USE int sandbox_shut(size_t fds, const char *reads, struct ipc_hello *ret, struct err *e);
/* After the last thread has started, for all of them: an allow-list of system calls; what is not on
 * it fails with EPERM.
 *   has_token   a PKCS#11 module works here: what modules need is on the list too, and a call that
 *               is not is noted for sandbox_refused_call
 * Errors: SYS. */
MUST_USE int sandbox_seal(bool has_token, struct err *e);
/* The last system call that the list refused, by name; "" none, or not noted. */
enum { SANDBOX_CALL_BYTES = 40 };
void sandbox_refused_call(char ret[SANDBOX_CALL_BYTES]);

#endif
