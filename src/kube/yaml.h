/* yaml.h - private to kube/: YAML (and so JSON) as jansson's values. Layer: kube. Thread: any.
 *
 * libyaml's events, not libcyaml: a kubeconfig holds members of any plug-in's making, so there is
 * no schema to hold it against, and what is read further is JSON like everything else here.
 */
#ifndef KUBE_YAML_H
#define KUBE_YAML_H

#include <jansson.h>

#include "base/attr.h"
#include "base/err.h"
#include "base/span.h"

enum { YAML_MAX_DEPTH = 32, YAML_MAX_NODES = 100000 };

/* One document. Plain true and false are booleans, plain null, ~ and nothing are null, every other
 * scalar is a text. Refused: aliases and anchors (a few bytes could stand for gigabytes), tags, a
 * name twice, a key that is no text, a second document. Owner: caller, json_decref. Errors: PARSE
 * (line, reason), LIMIT, NOMEM. Source: YAML 1.1. */
MUST_USE int yaml_to_json(struct span text, json_t **ret, struct err *e);

#endif
