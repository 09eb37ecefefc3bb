/* SPDX-License-Identifier: Apache-2.0 */
#include "eal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>

#include "log.h"

/*
 * MiB: room for ten links with both their ends here (link.c says what one takes). Only what is
 * used is ever touched, but the driver walks every 4 KiB of it at each connect.
 */
#define MEMORY_DEFAULT  256u
#define MEMORY_MIN      32u
#define MEMORY_MAX      65536u
#define MEMORY_VARIABLE "KVWIRE_DPDK_MEMORY"
/* What EAL's start takes, or a port's, and some more; without them it panics. */
#define DESCRIPTORS 24

static struct {
    pthread_mutex_t lock;
    enum { EAL_DOWN = 0, EAL_UP, EAL_FAILED } state;
    pid_t pid; /* that started it */
    bool pci;
    unsigned memory; /* MiB; 0: with a NIC, as many hugepages as there are */
    char why[KVN_WHY_BYTES];
} eal = {.lock = PTHREAD_MUTEX_INITIALIZER};

void kvn_dpdk_signals_block(sigset_t *before)
{
    sigset_t set;

    sigfillset(&set);
    sigdelset(&set, SIGSEGV);
    sigdelset(&set, SIGBUS);
    sigdelset(&set, SIGFPE);
    sigdelset(&set, SIGILL);
    sigdelset(&set, SIGTRAP);
    sigdelset(&set, SIGABRT);
    sigdelset(&set, SIGSYS);
    pthread_sigmask(SIG_BLOCK, &set, before);
}

void kvn_dpdk_signals_restore(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

/*
 * One lcore on all the CPUs that this thread may use: EAL pins the thread that starts it to its
 * lcore's CPUs, and takes the CPUs of its own threads from there too.
 */
static void format_lcores(char *text, size_t bytes, const cpu_set_t *cpus)
{
    size_t at = (size_t)snprintf(text, bytes, "--lcores=0@(");

    for (int cpu = 0; cpu < RTE_MAX_LCORE && at + 8 < bytes; ++cpu)
        if (CPU_ISSET(cpu, cpus))
            at += (size_t)snprintf(text + at, bytes - at, "%d,", cpu);
    if (text[at - 1] == ',')
        text[at - 1] = ')';
    else
        snprintf(text, bytes, "--lcores=0"); /* none below RTE_MAX_LCORE; EAL says so itself */
}

/* With what EAL makes in the runtime directory gone again: we share nothing with other processes.
 * rmdir takes empty directories only. */
static void remove_runtime_dir(void)
{
    const char *dir = rte_eal_get_runtime_dir();

    if (dir != NULL && dir[0] != '\0')
        (void)rmdir(dir);
}

static int init(const char *pci, const cpu_set_t *cpus)
{
    char lcores[1024], prefix[48], memory[16], allow[80];
    /* In fixed memory addresses are the device's too; with a NIC EAL decides by its IOMMU. */
    char *plain[] = {"kvwire",         "--no-huge", "--no-shconf", "--no-pci",
                     "--no-telemetry", "-m",        memory,        prefix,
                     "--iova-mode=va", lcores,      NULL};
    char *with_nic[] = {"kvwire",         "--in-memory", "--single-file-segments",
                        "--no-telemetry", "-a",          allow,
                        prefix,           lcores,        NULL};
    char **argv = pci != NULL ? with_nic : plain;
    const int argc = pci != NULL ? 8 : 10;
    sigset_t before;
    FILE *const saved = stderr;
    FILE *caught = kvn_dpdk_log_stderr();
    int rc;

    format_lcores(lcores, sizeof(lcores), cpus);
    snprintf(prefix, sizeof(prefix), "--file-prefix=kvwire-%d", (int)getpid());
    snprintf(memory, sizeof(memory), "%u", eal.memory);
    snprintf(allow, sizeof(allow), "%s", pci != NULL ? pci : "");

    /* EAL's threads inherit the mask. A few of its messages bypass its log: glibc lets stderr be
     * assigned, and the stand-in passes on what others write meanwhile. */
    kvn_dpdk_signals_block(&before);
    if (caught != NULL)
        stderr = caught;
    rc = rte_eal_init(argc, argv);
    stderr = saved;
    kvn_dpdk_signals_restore(&before);
    if (caught != NULL)
        fflush(caught); /* never closed: someone may have kept it as their stderr */
    remove_runtime_dir();
    return rc;
}

/* How much memory EAL gets. False: eal.why says what is wrong with the variable. */
static bool choose_memory(const char *pci)
{
    const char *text = getenv(MEMORY_VARIABLE);
    char *end = NULL;
    unsigned long mb = MEMORY_DEFAULT;

    if (text != NULL)
        mb = strtoul(text, &end, 10);
    if (text != NULL &&
        (text[0] < '0' || text[0] > '9' || *end != '\0' || mb < MEMORY_MIN || mb > MEMORY_MAX)) {
        snprintf(eal.why, sizeof(eal.why),
                 "dpdk: " MEMORY_VARIABLE "=%.40s in the environment is not %u to %u (MiB)", text,
                 MEMORY_MIN, MEMORY_MAX);
        return false;
    }
    eal.memory = pci != NULL ? 0 : (unsigned)mb;
    return true;
}

static void start_locked(const char *pci)
{
    cpu_set_t cpus;
    const bool pinned = pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus) == 0;
    const uint64_t mark = kvn_dpdk_log_mark();
    char reason[KVN_WHY_BYTES - 64];

    eal.pid = getpid();
    eal.state = EAL_FAILED;
    eal.pci = pci != NULL;
    if (!choose_memory(pci))
        return;
    if (!pinned)
        CPU_ZERO(&cpus);
    if (!kvn_dpdk_log_open()) {
        snprintf(eal.why, sizeof(eal.why), "dpdk: no memory for a log stream");
        return;
    }
    if (init(pci, &cpus) < 0) {
        if (!kvn_dpdk_log_error(mark, NULL, reason, sizeof(reason)))
            snprintf(reason, sizeof(reason), "%s", rte_strerror(rte_errno));
        snprintf(eal.why, sizeof(eal.why), "dpdk: EAL can't start: %s", reason);
    } else {
        eal.state = EAL_UP;
    }
    if (pinned)
        (void)pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
}

/* Whether that many descriptors can be had. Some of DPDK's code ends the process if they can't. */
static bool descriptors_left(char why[KVN_WHY_BYTES])
{
    struct rlimit limit = {.rlim_cur = 0};
    int fds[DESCRIPTORS], n = 0;

    while (n < DESCRIPTORS && (fds[n] = eventfd(0, EFD_CLOEXEC)) >= 0)
        ++n;
    for (int i = 0; i < n; ++i)
        close(fds[i]);
    if (n == DESCRIPTORS)
        return true;
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(why, KVN_WHY_BYTES,
             "dpdk: a port takes up to %d file descriptors, and %d are left of the %lu that this "
             "process may have (ulimit -n)",
             DESCRIPTORS, n, (unsigned long)limit.rlim_cur);
    return false;
}

void kvn_dpdk_eal_short(uint32_t count, uint32_t bytes, int error, char why[KVN_WHY_BYTES])
{
    const int n =
        snprintf(why, KVN_WHY_BYTES, "dpdk: no memory for %u buffers of %u bytes: ", count, bytes);

    if (error == ENOMEM && eal.memory != 0)
        snprintf(why + n, KVN_WHY_BYTES - (size_t)n,
                 "all DPDK ports of this process share %u MiB; " MEMORY_VARIABLE
                 "=MIB in its environment gives more",
                 eal.memory);
    else
        snprintf(why + n, KVN_WHY_BYTES - (size_t)n, "%s", rte_strerror(error));
}

kvw_err kvn_dpdk_eal_start(const char *pci, char why[KVN_WHY_BYTES])
{
    kvw_err err = KVW_OK;

    if (!descriptors_left(why))
        return KVW_E_DEVICE;
    pthread_mutex_lock(&eal.lock);
    if (eal.state == EAL_DOWN)
        start_locked(pci);
    if (eal.pid != getpid()) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: EAL was started by process %d before it forked",
                 (int)eal.pid);
        err = KVW_E_INVALID;
    } else if (eal.state == EAL_FAILED) {
        memcpy(why, eal.why, KVN_WHY_BYTES);
        err = KVW_E_DEVICE;
    } else if (pci != NULL && !eal.pci) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: %s: DPDK runs without hugepages in this process since another port was "
                 "opened; open PCI ports first",
                 pci);
        err = KVW_E_INVALID;
    }
    pthread_mutex_unlock(&eal.lock);
    return err;
}

bool kvn_dpdk_eal_forked(void)
{
    return eal.pid != 0 && eal.pid != getpid(); /* written once, before any port is */
}

bool kvn_dpdk_thread_enter(void)
{
    return rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0;
}

void kvn_dpdk_thread_leave(void)
{
    rte_thread_unregister();
}
