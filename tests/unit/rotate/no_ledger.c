/* Evidence comes through the port in the tests that link this; test_evidence.c has the ledger. */
#include "unit.h"

#include "ledger/ledger.h"

void
ledger_workloads(struct ledger *l, ledger_workload_fn *fn, void *arg)
{
    (void)l;
    (void)fn;
    (void)arg;
    fail();
}
