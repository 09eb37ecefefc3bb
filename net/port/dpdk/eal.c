/* SPDX-License-Identifier: Apache-2.0 */
#include "dpdk_eal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_lcore.h>

#include "dpdk_log.h"

/*
 * Room for two ports of either kind (dpdk_link.c says what one takes). Only what is used is ever
 * touched, but the driver walks every 4 KiB of it at each connect.
 */
#define EAL_MEMORY_MB 64

static struct {
    pthread_mutex_t lock;
    enum { EAL_DOWN = 0, EAL_UP, EAL_FAILED } state;
    pid_t pid; /* that started it */
    bool pci;
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
    snprintf(memory, sizeof(memory), "%d", EAL_MEMORY_MB);
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

static void start_locked(const char *pci)
{
    cpu_set_t cpus;
    const bool pinned = pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus) == 0;
    const uint64_t mark = kvn_dpdk_log_mark();
    char reason[KVN_WHY_BYTES - 64];

    eal.pid = getpid();
    eal.state = EAL_FAILED;
    eal.pci = pci != NULL;
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

kvw_err kvn_dpdk_eal_start(const char *pci, char why[KVN_WHY_BYTES])
{
    kvw_err err = KVW_OK;

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

bool kvn_dpdk_thread_enter(void)
{
    return rte_lcore_id() == LCORE_ID_ANY && rte_thread_register() == 0;
}

void kvn_dpdk_thread_leave(void)
{
    rte_thread_unregister();
}
