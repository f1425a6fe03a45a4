#include "operator/versions.h"

#include <jansson.h>
#include <string.h>

int
versions_read(const char *text, struct sync_versions *ret)
{
    json_t *j = text == NULL ? NULL : json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    int done = 0;

    memset(ret, 0, sizeof(*ret));
    for (size_t i = 0; i < PART__ALL && done == 0; i++) {
        const char *v = json_string_value(json_object_get(j, bundle_secret_names[i]));
        if (v == NULL && i == PART_CA_CRL)
            v = "";
        if (v == NULL || strlen(v) >= VERSION_TEXT_BYTES)
            done = -1;
        else
            memcpy(ret->v[i], v, strlen(v) + 1);
    }
    json_decref(j);
    return done;
}

int
versions_text(const struct sync_versions *v, char **ret, struct err *e)
{
    json_t *j = json_object();
    bool is_whole = j != NULL;

    for (size_t i = 0; i < PART__ALL; i++)
        if (v->v[i][0] != '\0' || i != PART_CA_CRL)
            is_whole = json_object_set_new(j, bundle_secret_names[i], json_string(v->v[i])) == 0 &&
                       is_whole;
    char *text = is_whole ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (text == NULL)
        return err_nomem(e);
    *ret = text;
    return 0;
}
