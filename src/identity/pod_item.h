/* pod_item.h - one pod, one service account, out of Kubernetes' JSON. Layer: identity, private. */
#ifndef IDENTITY_POD_ITEM_H
#define IDENTITY_POD_ITEM_H

#include <jansson.h>

#include "identity/cluster.h"

/* Errors: PARSE (which member). Thread: any. */
MUST_USE int pod_item_read(const json_t *item, struct cluster_pod *ret, struct err *e);
MUST_USE int account_item_read(const json_t *item, char ret_ns[K8S_NAME_BYTES],
                               char ret_name[K8S_NAME_BYTES], struct cluster_account *ret,
                               struct err *e);

#endif
