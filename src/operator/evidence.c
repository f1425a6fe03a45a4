/* evidence.c - what the gates are told of clients that say no word: a stock istiod and its
 * sidecars.
 *
 * istiod writes into istio-ca-root-cert what it has loaded. So a set that has lain in every
 * ConfigMap for gates.mountWait, unopposed, is loaded; and what has lain there for gates.stockWait,
 * as long as the longest leaf lives, is what every sidecar that has a leaf trusts, and no leaf is
 * older. Source: specs/istio-ca.md 6.1, 6.6; ARCHITECTURE.md "Evidence without acknowledgements".
 */
#include <string.h>

#include "base/clock.h"
#include "operator/room.h"

static const char ISTIOD[] = "istiod";
static const char SIDECARS[] = "stock sidecars";

static bool
has_lain(const struct plugin *p, uint64_t ms)
{
    return p->dist.generation != 0 && p->dist.generation == p->roots_generation &&
           unix_s() - p->dist.since >= (int64_t)((ms + 999) / 1000);
}

/* The generation in every ConfigMap and every Secret, since when. */
static void
distribution_look(struct plugin *p)
{
    struct spread_state s = spread_state(p->spread);

    if (p->roots_generation == 0 || !s.is_whole || s.done != s.namespaces ||
        sets_generation(p->sets) != p->roots_generation)
        return; /* a namespace that was made just now has nobody in it */
    if (p->dist.generation != p->roots_generation) {
        p->dist.generation = p->roots_generation;
        p->dist.since = unix_s();
    }
    if (p->dist.settled < p->dist.generation && has_lain(p, p->spec.stock_wait_ms))
        p->dist.settled = p->dist.generation;
}

static void
istiod_look(struct plugin *p)
{
    if (has_lain(p, p->spec.mount_wait_ms))
        rotate_replica(p->rotate, ISTIOD, p->dist.generation, p->roots, p->signer_id);
}

void
evidence_tick(struct plugin *p)
{
    if (p->spread == NULL || p->rotate == NULL)
        return;
    distribution_look(p);
    if (p->spec.to_istiod)
        istiod_look(p);
    rotate_poke(p->rotate);
}

/* One for all of them: what holds for each. */
static void
sidecars_tell(struct plugin *p, ledger_workload_fn *fn, void *arg)
{
    uint8_t roots[ROOTS_MAX][DIGEST_BYTES];
    bool settled = has_lain(p, p->spec.stock_wait_ms);
    struct ledger_workload w = { .identity = SIDECARS,
                                 .instance = "",
                                 .min_row_generation =
                                     settled ? p->dist.generation : p->dist.settled,
                                 .leaves_n = 1,
                                 .leaf_roots = (const uint8_t(*)[DIGEST_BYTES])roots,
                                 .last_not_after =
                                     p->dist.since + (int64_t)(p->spec.stock_wait_ms / 1000) };

    if (p->roots == NULL)
        return;
    if (settled) {
        memcpy(roots[0], p->signer_root, DIGEST_BYTES);
        w.leaf_roots_n = 1;
    } else {
        for (size_t i = 0; i < roots_count(p->roots) && i < ROOTS_MAX; i++)
            memcpy(roots[w.leaf_roots_n++], cert_id(roots_at(p->roots, i)), DIGEST_BYTES);
    }
    fn(&w, arg);
}

void
evidence_workloads(void *plugin, ledger_workload_fn *fn, void *arg)
{
    struct plugin *p = plugin;

    if (p->spec.to_istiod)
        sidecars_tell(p, fn, arg);
}

void
evidence_end(struct plugin *p)
{
    (void)p;
}
