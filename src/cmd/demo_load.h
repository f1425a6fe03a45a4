/* demo_load.h - the demo's traffic: new mTLS handshakes between every two workloads, all the time.
 * Layer: cmd.
 *
 * Each handshake is a new connection to a workload's outbound proxy; 16 random bytes must come back
 * from the peer's service, through mTLS on the way. Own threads; the counters may be read at any
 * time.
 */
#ifndef CMD_DEMO_LOAD_H
#define CMD_DEMO_LOAD_H

#include <stdint.h>

#include "base/err.h"

enum { DEMO_PAIRS_MAX = 12, DEMO_ECHO_MAX = 4 };

struct demo_load;

/* Opens `n` echo services on free ports, *ret_ports; these are the workloads' own services. Owner:
 * caller. */
MUST_USE int demo_load_new(size_t n, uint16_t ret_ports[DEMO_ECHO_MAX], struct demo_load **ret,
                           struct err *e);
/* A free port of 127.0.0.1, kept until demo_load_free for who listens there with SO_REUSEADDR, as
 * addr_listen does: the kernel gives it to nobody else meanwhile. At most DEMO_ECHO_MAX. Errors:
 * LIMIT, SYS. */
MUST_USE int demo_load_keep_port(struct demo_load *l, uint16_t *ret_port, struct err *e);
/* Starts one thread for each of the `n` local outbound ports, each making a handshake every
 * `pause_ms`. */
MUST_USE int demo_load_start(struct demo_load *l, const uint16_t *ports, size_t n,
                             uint64_t pause_ms, struct err *e);
/* So far, and why the first that failed did (code E_NONE: none has; may be NULL). `l` NULL: nothing
 * was tried. */
void demo_load_count(struct demo_load *l, uint64_t *ret_tried, uint64_t *ret_failed,
                     struct err *ret_first);
/* Ends the handshakes (the echo services go on until free). NULL is fine. */
void demo_load_stop(struct demo_load *l);
void demo_load_free(struct demo_load *l); /* NULL is fine */

#endif
