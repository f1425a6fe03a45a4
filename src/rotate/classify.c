#include "rotate/plan.h"

enum roots_relation { ROOTS_SAME, ROOTS_ADDED, ROOTS_REMOVED, ROOTS_MIXED, ROOTS__N };
enum signer_relation { SIGNER_SAME, SIGNER_SAME_ROOT, SIGNER_OTHER_ROOT, SIGNER__N };

/* clang-format off */
static const enum plan_class classes[ROOTS__N][SIGNER__N] = {
    [ROOTS_SAME]    = { CLASS_NONE,          CLASS_INTERMEDIATE,  CLASS_SIGNER_MOVED },
    [ROOTS_ADDED]   = { CLASS_ROOT_ADDED,    CLASS_ROOT_ADDED,    CLASS_BOTH_AT_ONCE },
    [ROOTS_REMOVED] = { CLASS_ROOT_REMOVED,  CLASS_ROOT_REMOVED,  CLASS_SIGNER_MOVED_AND_REMOVED },
    [ROOTS_MIXED]   = { CLASS_ROOT_REPLACED, CLASS_ROOT_REPLACED, CLASS_ROOT_REPLACED },
};

static const struct {
    const char *name, *text;
} words[CLASS__N] = {
    [CLASS_NONE] = { "none", "the same content; nothing to do" },
    [CLASS_INTERMEDIATE] = { "intermediate", "a new intermediate under the same root; it signs at once" },
    [CLASS_ROOT_ADDED] = { "root added", "the trust set widens at once" },
    [CLASS_BOTH_AT_ONCE] = { "both at once", "the trust set widens at once; "
        "the signer moves by itself when every trust set has its root" },
    [CLASS_SIGNER_MOVED] = { "signer moved", "the signer moves when every trust set has its root" },
    [CLASS_ROOT_REMOVED] = { "root removed", "the root goes when no leaf in use chains to it" },
    [CLASS_SIGNER_MOVED_AND_REMOVED] = { "signer moved, root removed",
        "the signer moves when every trust set has its root; then the old root goes when no leaf in use chains to it" },
    [CLASS_ROOT_REPLACED] = { "root replaced", "staged: the trust set widens to old and new, the signer moves, "
        "the old root goes, each at its gate" },
};
/* clang-format on */

static bool
wants(const struct plan_wanted *w, const uint8_t id[DIGEST_BYTES])
{
    for (size_t i = 0; i < w->roots_n; i++)
        if (memcmp(w->roots[i], id, DIGEST_BYTES) == 0)
            return true;
    return false;
}

enum plan_class
plan_classify(const struct plan *p, const struct plan_wanted *w)
{
    bool added = false, removed = false;

    for (size_t i = 0; i < w->roots_n; i++)
        added |= plan_find_root(p, w->roots[i]) == NULL;
    for (size_t i = 0; i < p->roots_n; i++)
        removed |= !wants(w, p->roots[i].id);

    static const enum roots_relation of[2][2] = { { ROOTS_SAME, ROOTS_REMOVED },
                                                  { ROOTS_ADDED, ROOTS_MIXED } };
    enum signer_relation signer = SIGNER_SAME;
    if (memcmp(p->signer.root_id, w->signer.root_id, DIGEST_BYTES) != 0)
        signer = SIGNER_OTHER_ROOT;
    else if (!plan_signer_eq(&p->signer, &w->signer))
        signer = SIGNER_SAME_ROOT;
    return classes[of[added][removed]][signer];
}

const char *
plan_class_name(enum plan_class c)
{
    return words[c].name;
}

const char *
plan_class_text(enum plan_class c)
{
    return words[c].text;
}
