/* fuzz_deployment.c - what the validator reads of istiod's Deployment, of pods and of Secrets: any
 * object has an answer; what a run remembers is read back as it was written. */
#include <stdlib.h>
#include <string.h>

#include "kube/write.h"
#include "validate/deployment.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
memory_there_and_back(const json_t *o)
{
    struct validate_memory m, again;
    json_t *patch = NULL;
    struct err e;

    validate_memory_read(o, &m);
    if (memchr(m.why, '\0', sizeof(m.why)) == NULL || memchr(m.run, '\0', sizeof(m.run)) == NULL)
        abort();
    if (validate_memory_patch(&m, NULL, NULL, &patch, &e) < 0)
        abort(); /* all of it is text, as JSON's is */
    validate_memory_read(patch, &again);
    if (again.tried != m.tried || memcmp(again.roots, m.roots, DIGEST_BYTES) != 0 ||
        strcmp(again.run, m.run) != 0 || strcmp(again.at, m.at) != 0 ||
        strcmp(again.why, m.why) != 0)
        abort();
    json_decref(patch);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *o = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    struct validate_istiod istiod;
    char words[VALIDATE_WHY_BYTES];
    struct err e = { 0 };

    if (json_is_object(o)) {
        if (validate_istiod_read(o, &istiod, &e) < 0
                ? e.msg[0] == '\0'
                : istiod.takes_roots_hot && !istiod.is_multiroot)
            abort();
        words[0] = '\0';
        (void)validate_rollout_read(o, words);
        if (words[0] == '\0')
            abort();
        (void)validate_is_paused(o);
        int r = validate_is_its_pod(o, o, &e);
        if (r < 0 && e.msg[0] == '\0')
            abort();
        (void)validate_is_workload(o, "istio-ca-root-cert");
        if (validate_data_changed(o) < 0)
            abort();
        memory_there_and_back(o);
    }
    json_decref(o);
    return 0;
}
