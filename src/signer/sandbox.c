/* sandbox.c - rlimits, locked memory, Landlock, seccomp. */
#include "signer/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/secret.h"

enum { KEY_HEAP_BYTES = 256 * 1024, KEY_HEAP_LEAST_BYTES = 32, FILE_MAX_BYTES = PEM_MAX_BYTES };

/* -- Landlock: the numbers of linux/landlock.h, which is older here than kernels that run us -- */

struct landlock_rules {
    uint64_t fs, net, scoped;
};
struct landlock_beneath {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));
enum { LANDLOCK_VERSION = 1, LANDLOCK_PATH_BENEATH = 1, LANDLOCK_READ = 1 << 2 | 1 << 3 };

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

static int
landlock_allow(int rules, const char *reads, struct err *e)
{
    struct landlock_beneath b = { .allowed = LANDLOCK_READ };

    b.parent_fd = open(reads, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (b.parent_fd < 0)
        return err_sys(e, errno, "--signer-reads %s", reads);
    int r = (int)syscall(SYS_landlock_add_rule, rules, LANDLOCK_PATH_BENEATH, &b, 0);
    int why = errno;
    (void)close(b.parent_fd);
    return r < 0 ? err_sys(e, why, "Landlock: --signer-reads %s", reads) : 0;
}

static int
landlock_restrict(int rules, const char *reads, struct err *e)
{
    if (reads != NULL)
        TRY(landlock_allow(rules, reads, e));
    return syscall(SYS_landlock_restrict_self, rules, 0) < 0 ? err_sys(e, errno, "Landlock") : 0;
}

/* 0 where the kernel has none. */
static int
landlock_shut(const char *reads, struct err *e, int *ret_abi)
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
    int r = landlock_restrict(fd, reads, e);
    (void)close(fd);
    return r;
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

/* -- OpenSSL's memory: its decoders free their copy of a key's DER as it is -- */

static void *
ssl_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return malloc(n);
}

static void
ssl_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    free_wiped(p);
}

static void *
ssl_realloc(void *p, size_t n, const char *file, int line)
{
    size_t had = p == NULL ? 0 : malloc_usable_size(p);

    if (n != 0 && n <= had)
        return p;
    void *q = n == 0 ? NULL : malloc(n);
    if (q != NULL && had > 0)
        memcpy(q, p, had);
    if (q != NULL || n == 0)
        ssl_free(p, file, line);
    return q;
}

int
sandbox_wipe_openssl(struct err *e)
{
    if (CRYPTO_set_mem_functions(ssl_malloc, ssl_realloc, ssl_free) == 0)
        return err_set(e, E_STATE, "signer: OpenSSL took memory before it was told to wipe it");
    return 0;
}

int
sandbox_begin(struct err *e)
{
    if (prctl(PR_SET_DUMPABLE, 0) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_sys(e, errno, "signer: prctl");
    TRY(limit(RLIMIT_CORE, 0, "core dumps", e));
    /* private numbers of keys live here: locked, left out of dumps, wiped when freed */
    if (CRYPTO_secure_malloc_init(KEY_HEAP_BYTES, KEY_HEAP_LEAST_BYTES) == 0)
        return err_set(e, E_NOMEM, "signer: no memory for keys");
    return 0;
}

int
sandbox_shut(size_t fds, const char *reads, struct ipc_hello *ret, struct err *e)
{
    int abi;

    TRY(limit(RLIMIT_NOFILE, (rlim_t)fds, "open files", e));
    TRY(limit(RLIMIT_FSIZE, FILE_MAX_BYTES, "file size", e));
    bool locked = memory_lock();
    TRY(landlock_shut(reads, e, &abi));
    ret->landlock_abi = abi;
    ret->memory_locked = locked;
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

/* What a PKCS#11 module does besides: reads its files (which ones is Landlock's to say; none for
 * writing), and speaks on connections that it opened before the doors were shut. */
static const int allowed_to_modules[] = {
    SCMP_SYS(openat),     SCMP_SYS(newfstatat), SCMP_SYS(fstat),   SCMP_SYS(lseek),
    SCMP_SYS(getdents64), SCMP_SYS(fcntl),      SCMP_SYS(poll),    SCMP_SYS(ppoll),
    SCMP_SYS(sendto),     SCMP_SYS(recvfrom),   SCMP_SYS(sendmsg), SCMP_SYS(readv),
    SCMP_SYS(writev),     SCMP_SYS(getuid),     SCMP_SYS(geteuid),
};

/* One more call, with what may not be in its arguments. */
static int
call_allow(scmp_filter_ctx f, int call)
{
    /* memory that can be run is not made any more */
    if (call == SCMP_SYS(mmap) || call == SCMP_SYS(mprotect))
        return seccomp_rule_add(f, SCMP_ACT_ALLOW, call, 1,
                                SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (call == SCMP_SYS(openat))
        return seccomp_rule_add(
            f, SCMP_ACT_ALLOW, call, 1,
            SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND, O_RDONLY));
    return seccomp_rule_add(f, SCMP_ACT_ALLOW, call, 0);
}

/* -- a refused call is EPERM, and noted, where a signal's frame can be told so -- */

#if defined(__x86_64__)
#define CALL_RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define CALL_RESULT(context) ((context)->uc_mcontext.regs[0])
#endif

static atomic_int refused_call = -1;

void
sandbox_refused_call(char ret[SANDBOX_CALL_BYTES])
{
    int call = atomic_load(&refused_call);
    char *name = call < 0 ? NULL : seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, call);

    (void)snprintf(ret, SANDBOX_CALL_BYTES, "%s", name == NULL ? "" : name);
    free(name);
}

#ifdef CALL_RESULT
static void
on_refused(int number, siginfo_t *info, void *context)
{
    ucontext_t *c = context;

    (void)number;
    atomic_store(&refused_call, info->si_syscall);
    CALL_RESULT(c) = (__typeof__(CALL_RESULT(c)))-EPERM;
}
#endif

/* What the filter does with a call that is not on the list. */
static uint32_t
refusal(bool has_token)
{
#ifdef CALL_RESULT
    struct sigaction a = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO | SA_NODEFER };

    if (has_token && sigaction(SIGSYS, &a, NULL) == 0)
        return SCMP_ACT_TRAP;
#endif
    (void)has_token;
    return SCMP_ACT_ERRNO(EPERM);
}

int
sandbox_seal(bool has_token, struct err *e)
{
    scmp_filter_ctx f = seccomp_init(refusal(has_token));

    if (f == NULL)
        return err_nomem(e);
    int r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    for (size_t i = 0; i < ARRAY_LEN(allowed) && r == 0; i++)
        r = call_allow(f, allowed[i]);
    for (size_t i = 0; has_token && i < ARRAY_LEN(allowed_to_modules) && r == 0; i++)
        r = call_allow(f, allowed_to_modules[i]);
    if (r == 0)
        r = seccomp_load(f);
    seccomp_release(f);
    return r < 0 ? err_sys(e, -r, "signer: seccomp") : 0;
}
