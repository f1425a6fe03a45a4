/* rollout.h - one restart of istiod, from its patch to the proof. Layer: validate (private). */
#ifndef VALIDATE_ROLLOUT_H
#define VALIDATE_ROLLOUT_H

#include "validate/sight.h"

/* Restarts the Deployment as kubectl rollout restart does, over the version that was judged, and
 * writes on it, in the same patch, that it was tried. Errors: CONFLICT (it has changed since: look
 * again), and as session_patch. */
MUST_USE int rollout_begin(struct session *s, struct sight *t, struct err *e);
/* Waits until the rollout is done and every new pod, and the ConfigMap, show the Secret's roots;
 * then writes on the Deployment how it ended. r: 0; ROLLOUT_BAD: *ret_why says why it failed
 * (STATE, TIMEOUT). Errors: CONFLICT (the Secret has other roots by now, or another restart has
 * begun: look again), and what could not be looked at; the try stays open then. */
enum { ROLLOUT_BAD = 1 };
MUST_USE int rollout_end(struct session *s, struct sight *t, struct err *ret_why, struct err *e);
/* The try that was left open is for roots that the Secret does not have any more: nobody sees it to
 * its end. Were it left, it would count when the Secret has them again. Errors: as rollout_end. */
MUST_USE int rollout_forget(struct session *s, struct sight *t, struct err *e);

#endif
