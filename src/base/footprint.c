#include "base/footprint.h"

#include <link.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* Segments that nobody writes to: code and constants. What is read-only after relocation lies in a
 * writable one, and stays. */
static int
drop(struct dl_phdr_info *o, size_t n, void *arg)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);

    (void)n;
    (void)arg;
    for (size_t i = 0; i < o->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &o->dlpi_phdr[i];

        if (h->p_type != PT_LOAD || (h->p_flags & PF_W) != 0)
            continue;
        uintptr_t from = (o->dlpi_addr + h->p_vaddr) & ~(page - 1);
        uintptr_t to = (o->dlpi_addr + h->p_vaddr + h->p_filesz + page - 1) & ~(page - 1);
        (void)madvise((void *)from, to - from, MADV_DONTNEED); /* the vdso: refused */
    }
    return 0;
}

void
footprint_trim(void)
{
    (void)malloc_trim(0);
    (void)dl_iterate_phdr(drop, NULL);
}
