/* settings.h - what `mesh enable` was told: which mode, which vault, which names. Layer: mesh.
 * Thread: any. */
#ifndef MESH_SETTINGS_H
#define MESH_SETTINGS_H

#include <jansson.h>

#include "base/err.h"
#include "pki/bundle.h"

enum mesh_mode { MESH_DISABLED, MESH_SELF_SIGNED, MESH_PLUGGED_IN };
const char *mesh_mode_name(enum mesh_mode m); /* "disabled", "self-signed", "plugged-in" */

enum { SECRET_NAME_BYTES = 128, VAULT_URL_BYTES = 512, VAULT_ID_BYTES = 512 };

struct mesh_settings {
    enum mesh_mode mode;
    char vault_id[VAULT_ID_BYTES]; /* as given: an ARM resource id or an https URL */
    char object_names[PART__ALL][SECRET_NAME_BYTES]; /* no lists: that of ca-crl is "" */
    uint64_t poll_ms;                                /* 1 s .. 24 h */
    bool hold_replacement; /* root replaced straight: hold instead of staging it */
};

/* The vault's name in an ARM id ".../providers/Microsoft.KeyVault/vaults/NAME", or the first label
 * of an https URL's host, into `ret`. Errors: INVAL (says what an id looks like). Source:
 * specs/azure.md 3.4. */
enum { VAULT_NAME_BYTES = 128 };
MUST_USE int vault_id_name(const char *vault_id, char ret[VAULT_NAME_BYTES], struct err *e);
/* The URL that the public cloud has for this id; an https URL is returned as it is. */
MUST_USE int vault_id_url(const char *vault_id, char ret[VAULT_URL_BYTES], struct err *e);

/* Strict both ways: unknown members, wrong types and bad names are errors that name the member. */
MUST_USE int settings_from_json(const json_t *j, struct mesh_settings *ret, struct err *e);
/* Owner: caller. NULL when memory is short. */
json_t *settings_to_json(const struct mesh_settings *s);

#endif
