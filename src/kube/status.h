/* status.h - private to kube/: an answer that is no 2xx, as an error. Layer: kube. */
#ifndef KUBE_STATUS_H
#define KUBE_STATUS_H

#include <jansson.h>

#include "base/err.h"

enum {
    KUBE_WORDS_BYTES = 400
}; /* of the server's words, in a message: who may not do what where */

/* `o`: the Status object, whose words say which verb on which resource; NULL: none. */
void kube_status_error(int status, const char *method, const json_t *o, struct err *e);

#endif
