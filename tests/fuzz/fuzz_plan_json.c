/* A plan that is read is one that plan_next can start from, and writes back to the same plan. */
#include <assert.h>
#include <stdlib.h>

#include "rotate/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

int
LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    struct err e;
    struct plan a, b;
    struct roots *ra = NULL, *rb = NULL;
    char *text = NULL;

    if (plan_from_json(span_of(p, n), &a, &ra, &e) != 0)
        return 0;
    assert(a.generation >= 1 && a.roots_n >= 1 && a.roots_n <= ROOTS_MAX);
    assert(plan_find_root(&a, a.signer.root_id) != NULL);
    for (size_t i = 0; i < a.roots_n; i++)
        assert(a.roots[i].since >= 1 && a.roots[i].since <= a.generation &&
               plan_roots_find(ra, a.roots[i].id) != NULL);
    /* Writing can only fail on size or memory: the text may have been shorter than ours. */
    if (plan_to_json(&a, ra, &text, &e) == 0) {
        assert(plan_from_json(span_str(text), &b, &rb, &e) == 0);
        assert(a.generation == b.generation && a.roots_n == b.roots_n);
        assert(memcmp(a.roots, b.roots, a.roots_n * sizeof(a.roots[0])) == 0);
        assert(memcmp(&a.signer, &b.signer, sizeof(a.signer)) == 0);
        assert(strcmp(a.forced, b.forced) == 0);
    }
    free(text);
    roots_unref(ra);
    roots_unref(rb);
    return 0;
}
