/* sandbox.c - rlimits, locked memory, Landlock, seccomp. */
#include "signer/sandbox.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { KEY_HEAP_BYTES = 256 * 1024, KEY_HEAP_LEAST_BYTES = 32, FILE_MAX_BYTES = PEM_MAX_BYTES };

/* -- Landlock: the numbers of linux/landlock.h, which is older here than kernels that run us -- */

struct landlock_rules {
    uint64_t fs, net, scoped;
};
enum { LANDLOCK_VERSION = 1 };

/* Everything that a version of the interface can forbid. */
static const struct {
    struct landlock_rules forbid;
    size_t bytes; /* of the structure in that version */
} landlock_versions[] = {
    { { 0x1fff, 0, 0 }, 8 },  /* 1: files */
    { { 0x3fff, 0, 0 }, 8 },  /* 2: and moving them between folders */
    { { 0x7fff, 0, 0 }, 8 },  /* 3: and truncation */
    { { 0x7fff, 3, 0 }, 16 }, /* 4: and TCP */
    { { 0xffff, 3, 0 }, 16 }, /* 5: and ioctl on devices */
    { { 0xffff, 3, 3 }, 24 }, /* 6: and signals and abstract sockets outside */
};

/* 0 where the kernel has none. */
static int
landlock_shut(struct err *e, int *ret_abi)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);

    *ret_abi = abi < 1 ? 0 : (int)abi;
    if (abi < 1)
        return 0;
    size_t i = (size_t)abi > ARRAY_LEN(landlock_versions) ? ARRAY_LEN(landlock_versions) - 1
                                                          : (size_t)abi - 1;
    int fd = (int)syscall(SYS_landlock_create_ruleset, &landlock_versions[i].forbid,
                          landlock_versions[i].bytes, 0);
    if (fd < 0)
        return err_sys(e, errno, "Landlock: make rules");
    int r = (int)syscall(SYS_landlock_restrict_self, fd, 0);
    int why = errno;
    (void)close(fd);
    return r < 0 ? err_sys(e, why, "Landlock") : 0;
}

/* -- */

static int
limit(int what, rlim_t n, const char *name, struct err *e)
{
    const struct rlimit l = { n, n };

    return setrlimit((__rlimit_resource_t)what, &l) < 0 ? err_sys(e, errno, "limit of %s", name)
                                                        : 0;
}

/* All of it where the limit lets us: a lock that later makes allocations fail would be worse. */
static bool
memory_lock(void)
{
    struct rlimit l;

    if (geteuid() != 0 && (getrlimit(RLIMIT_MEMLOCK, &l) < 0 || l.rlim_cur != RLIM_INFINITY))
        return false;
    return mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

int
sandbox_shut(size_t fds, struct ipc_hello *ret, struct err *e)
{
    int abi;

    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_sys(e, errno, "signer: prctl");
    TRY(limit(RLIMIT_CORE, 0, "core dumps", e));
    TRY(limit(RLIMIT_NOFILE, (rlim_t)fds, "open files", e));
    TRY(limit(RLIMIT_FSIZE, FILE_MAX_BYTES, "file size", e));
    /* private numbers of keys live here: locked, left out of dumps, wiped when freed */
    if (CRYPTO_secure_malloc_init(KEY_HEAP_BYTES, KEY_HEAP_LEAST_BYTES) == 0)
        return err_set(e, E_NOMEM, "signer: no memory for keys");
    bool locked = memory_lock();
    TRY(landlock_shut(e, &abi));
    *ret = (struct ipc_hello){ abi, locked };
    return 0;
}

static const int allowed[] = {
    /* its socket pairs, and the open files that come with a message */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(recvmsg),
    SCMP_SYS(pread64),
    SCMP_SYS(fsync),
    SCMP_SYS(close),
    /* memory and threads of the C library */
    SCMP_SYS(brk),
    SCMP_SYS(mmap),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(mprotect),
    SCMP_SYS(madvise),
    SCMP_SYS(futex),
    SCMP_SYS(sched_yield),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    /* randomness and time */
    SCMP_SYS(getrandom),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    /* the end; sigaltstack is asked for by the sanitizers before they leave */
    SCMP_SYS(sigaltstack),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(tgkill),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

int
sandbox_seal(struct err *e)
{
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));

    if (f == NULL)
        return err_nomem(e);
    int r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; i < ARRAY_LEN(allowed) && r == 0; i++) {
        /* memory that can be run is not made any more */
        bool maps = allowed[i] == SCMP_SYS(mmap) || allowed[i] == SCMP_SYS(mprotect);

        r = maps ? seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 1,
                                    SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0))
                 : seccomp_rule_add(f, SCMP_ACT_ALLOW, allowed[i], 0);
    }
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r < 0 ? err_sys(e, -r, "signer: seccomp") : 0;
}
