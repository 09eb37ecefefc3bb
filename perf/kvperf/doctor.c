/* SPDX-License-Identifier: Apache-2.0 */
/* doctor.c - one function a subject; each reads what Linux tells and adds its findings. */
#include "doctor.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

struct look {
    struct kvp_findings *f;
    const char *root, *features;
    const struct kvp_limits *limits;
    uint32_t rdma, dpdk_bound; /* devices */
    bool huge, pins;
};

static struct kvp_finding *add(struct look *l, enum kvp_health health, const char *what)
{
    static struct kvp_finding beyond; /* there is no machine with so many; the rest is dropped */
    struct kvp_finding *f = l->f->count < KVP_FINDINGS_MAX ? &l->f->each[l->f->count++] : &beyond;

    memset(f, 0, sizeof(*f));
    f->health = health;
    snprintf(f->what, sizeof(f->what), "%s", what);
    return f;
}

__attribute__((format(printf, 2, 3))) static void found(struct kvp_finding *f, const char *form,
                                                        ...)
{
    va_list args;

    va_start(args, form);
    vsnprintf(f->found, sizeof(f->found), form, args);
    va_end(args);
}

static void advise(struct kvp_finding *f, const char *costs, const char *fix)
{
    f->costs = costs;
    f->fix = fix;
}

__attribute__((format(printf, 3, 4))) static void read_at(const struct look *l, char to[128],
                                                          const char *form, ...)
{
    char path[512];
    va_list args;
    const int at = snprintf(path, sizeof(path), "%.200s", l->root);

    va_start(args, form);
    vsnprintf(path + at, sizeof(path) - (size_t)at, form, args);
    va_end(args);
    kvp_host_line(path, to, 128);
}

/* The names in a folder, in order; the caller frees each and the list. */
static int names_in(const struct look *l, const char *folder, struct dirent ***names)
{
    char path[512];

    snprintf(path, sizeof(path), "%.200s%s", l->root, folder);
    return scandir(path, names, NULL, alphasort);
}

/* Call with each name in a folder but the hidden ones; how many there were. */
static uint32_t each_name(struct look *l, const char *folder,
                          void (*call)(struct look *l, const char *name))
{
    struct dirent **names;
    const int n = names_in(l, folder, &names);
    uint32_t seen = 0;

    for (int i = 0; i < n; ++i) {
        if (names[i]->d_name[0] != '.') {
            ++seen;
            if (call != NULL)
                call(l, names[i]->d_name);
        }
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return seen;
}

/* --- network ---------------------------------------------------------------------------------- */

static void look_at_nic(struct look *l, const char *name)
{
    char text[128], speed[128], state[128];
    struct kvp_finding *f;

    read_at(l, text, "/sys/class/net/%s/mtu", name);
    read_at(l, speed, "/sys/class/net/%s/speed", name);
    read_at(l, state, "/sys/class/net/%s/operstate", name);
    if (strcmp(name, "lo") == 0 || strcmp(state, "down") == 0)
        return;
    const int mtu = atoi(text);
    const bool small = mtu < 4000;

    f = add(l, small ? KVP_COSTS : KVP_OK, "NIC");
    found(f, "%.40s: MTU %d%s%.10s%s", name, mtu, atoi(speed) > 0 ? ", " : "",
          atoi(speed) > 0 ? speed : "", atoi(speed) > 0 ? " Mb/s" : "");
    if (small)
        advise(f,
               "5 % of the link to headers, and more packets to handle where no offload cuts them",
               "ip link set IFACE mtu 9000, on both hosts and all switches between them");
}

static void look_at_buffers(struct look *l)
{
    static const char *const names[] = {"rmem_max", "wmem_max"};

    for (int i = 0; i < 2; ++i) {
        char text[128];
        struct kvp_finding *f;

        read_at(l, text, "/proc/sys/net/core/%s", names[i]);
        if (text[0] == '\0')
            continue;
        const long long bytes = atoll(text);
        const bool small = bytes < (4 << 20) && !l->limits->root;

        f = add(l, small ? KVP_COSTS : KVP_OK, "socket buffers");
        found(f, "net.core.%s is %lld%s", names[i], bytes,
              l->limits->root && bytes < (4 << 20) ? " (root may have more)" : "");
        if (small)
            advise(f, "udp: packets lost in the kernel when the receiver pauses, sent again",
                   "sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608");
    }
}

/* --- RDMA, DPDK, memory ----------------------------------------------------------------------- */

static void look_at_rdma(struct look *l, const char *name)
{
    char state[128], rate[128];

    read_at(l, state, "/sys/class/infiniband/%s/ports/1/state", name);
    read_at(l, rate, "/sys/class/infiniband/%s/ports/1/rate", name);
    const bool active = strstr(state, "ACTIVE") != NULL;
    struct kvp_finding *f = add(l, active ? KVP_OK : KVP_LACKS, "RDMA");

    found(f, "%.40s: %.40s, %.30s", name, state[0] != '\0' ? state : "no port", rate);
    if (active)
        ++l->rdma;
    else
        advise(f, "this device carries nothing", "ip link set its interface up; check the cable");
}

static void look_at_rdmas(struct look *l)
{
    if (each_name(l, "/sys/class/infiniband", look_at_rdma) == 0) {
        struct kvp_finding *f = add(l, KVP_LACKS, "RDMA");

        found(f, "no device");
        advise(f, "verbs can't be used: every byte goes through a CPU on both sides",
               "a NIC with RoCE or InfiniBand; or for a try rdma link add rxe0 type rxe netdev "
               "IFACE");
    }
}

/* Slots of verbs are pinned; what a process may pin is limited, unless it has the capability. */
static void look_at_memlock(struct look *l)
{
    const bool enough = l->limits->may_lock || l->limits->memlock_bytes >= (1ull << 30);
    struct kvp_finding *f = add(l,
                                enough         ? KVP_OK
                                : l->rdma == 0 ? KVP_COSTS
                                               : KVP_LACKS,
                                "memlock");

    if (l->limits->memlock_bytes == UINT64_MAX)
        found(f, "ulimit -l is unlimited");
    else
        found(f, "ulimit -l is %llu KiB%s", (unsigned long long)l->limits->memlock_bytes / 1024,
              l->limits->may_lock ? " (this process may lock more)" : "");
    l->pins = enough;
    if (!enough)
        advise(f, l->rdma > 0 ? "verbs can't pin its slots" : "verbs couldn't pin its slots",
               "ulimit -l unlimited, in limits.conf or the unit");
}

static void look_at_huge(struct look *l)
{
    char two[128], one[128], thp[128];
    struct kvp_finding *f;

    read_at(l, two, "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    read_at(l, one, "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages");
    read_at(l, thp, "/sys/kernel/mm/transparent_hugepage/enabled");
    l->huge = atoi(two) > 0 || atoi(one) > 0;
    f = add(l, l->huge ? KVP_OK : KVP_COSTS, "hugepages");
    found(f, "%d of 2 MiB, %d of 1 GiB; transparent: %.60s", atoi(two), atoi(one),
          thp[0] != '\0' ? thp : "unknown");
    if (!l->huge)
        advise(f, "DPDK can't drive a NIC of its own; its links between processes still run",
               "sysctl -w vm.nr_hugepages=1024");
}

static void count_bound(struct look *l, const char *name)
{
    l->dpdk_bound += strchr(name, ':') != NULL;
}

static void look_at_dpdk(struct look *l)
{
    const bool built = strstr(l->features, "dpdk") != NULL;
    const uint32_t iommus = each_name(l, "/sys/class/iommu", NULL);
    struct kvp_finding *f;

    (void)each_name(l, "/sys/bus/pci/drivers/vfio-pci", count_bound);
    (void)each_name(l, "/sys/bus/pci/drivers/uio_pci_generic", count_bound);
    f = add(l, !built ? KVP_LACKS : l->dpdk_bound > 0 ? KVP_OK : KVP_LACKS, "DPDK");
    found(f, "%s, %u NICs bound to vfio-pci or uio", built ? "built in" : "not built in",
          l->dpdk_bound);
    if (!built)
        advise(f, "no kernel bypass", "build with libdpdk-dev, or install libkvwire-dpdk.so");
    else if (l->dpdk_bound == 0)
        advise(f, "packets go through the kernel (udp, af_packet, af_xdp)",
               "dpdk-devbind.py -b vfio-pci ADDRESS for a NIC that the host can do without");
    f = add(l, iommus > 0 || l->dpdk_bound == 0 ? KVP_OK : KVP_COSTS, "IOMMU");
    found(f, "%u", iommus);
    if (iommus == 0 && l->dpdk_bound > 0)
        advise(f, "a NIC of DPDK's may write any memory; vfio needs its no-IOMMU mode",
               "intel_iommu=on or amd_iommu=on iommu=pt on the kernel's command line");
}

/* --- processors ------------------------------------------------------------------------------- */

static void look_at_cpu(struct look *l)
{
    char text[128];
    struct kvp_finding *f;

    read_at(l, text, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
    const bool slow = text[0] != '\0' && strcmp(text, "performance") != 0;

    f = add(l, slow ? KVP_COSTS : KVP_OK, "governor");
    found(f, "%.60s", text[0] != '\0' ? text : "none that this kernel sets (a virtual machine)");
    if (slow)
        advise(f, "clocks rise late: short hand-overs are over before",
               "cpupower frequency-set -g performance");
    read_at(l, text, "/sys/devices/system/cpu/online");
    const char *dash = strrchr(text, '-');
    const int cpus = dash != NULL ? atoi(dash + 1) + 1 : 1;

    f = add(l, cpus < 4 ? KVP_COSTS : KVP_OK, "CPUs");
    found(f, "%d", cpus);
    if (cpus < 4)
        advise(f, "prefill or decode, the node's thread and the kernel share them",
               "more cores; --encoders 0");
}

static uint32_t with_prefix(struct look *l, const char *folder, const char *prefix)
{
    struct dirent **names;
    const int n = names_in(l, folder, &names);
    uint32_t seen = 0;

    for (int i = 0; i < n; ++i) {
        const char *name = names[i]->d_name;

        seen += strncmp(name, prefix, strlen(prefix)) == 0 && name[strlen(prefix)] >= '0' &&
                name[strlen(prefix)] <= '9';
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return seen;
}

static void look_at_gpus(struct look *l)
{
    const uint32_t gpus = with_prefix(l, "/dev", "nvidia");
    struct kvp_finding *f = add(l, KVP_OK, "GPUs");

    found(f, gpus > 0 ? "%u" : "none: KV lies in host memory", gpus);
    if (gpus == 0 || l->rdma == 0)
        return;
    const bool peer = with_prefix(l, "/sys/module", "nvidia_peermem") > 0 ||
                      each_name(l, "/sys/module/nvidia_peermem", NULL) > 0;

    f = add(l, peer ? KVP_OK : KVP_COSTS, "GPUDirect");
    found(f, peer ? "nvidia_peermem is loaded" : "nvidia_peermem isn't loaded");
    if (!peer)
        advise(f, "KV bounces through host memory, unless the driver exports dma-buf",
               "modprobe nvidia_peermem");
}

static void decide(struct look *l)
{
    l->f->may_verbs = l->rdma > 0 && l->pins && strstr(l->features, "verbs") != NULL;
    l->f->may_dpdk = l->dpdk_bound > 0 && l->huge && strstr(l->features, "dpdk") != NULL;
    if (l->f->may_verbs) {
        l->f->takes = "verbs";
        l->f->why = "an RDMA device is active: the NIC moves the bytes, no CPU does";
    } else if (l->f->may_dpdk) {
        l->f->takes = "dpdk (pci:ADDRESS)";
        l->f->why = "a NIC is bound to it and there are hugepages: no kernel on the way";
    } else {
        l->f->takes = "udp";
        l->f->why = "no active RDMA device that memory can be pinned for, and no NIC that DPDK "
                    "could have with hugepages; on one "
                    "host, dpdk's link between two processes";
    }
}

void kvp_doctor_limits(struct kvp_limits *l, const char *root)
{
    char path[256], line[128], soft[32];
    unsigned long long caps = 0;
    FILE *f;

    *l = (struct kvp_limits){.memlock_bytes = UINT64_MAX, .root = geteuid() == 0};
    snprintf(path, sizeof(path), "%.200s/proc/self/limits", root);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (sscanf(line, "Max locked memory %31s", soft) == 1 && strcmp(soft, "unlimited") != 0)
            l->memlock_bytes = strtoull(soft, NULL, 10);
    if (f != NULL)
        fclose(f);
    snprintf(path, sizeof(path), "%.200s/proc/self/status", root);
    f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        (void)sscanf(line, "CapEff: %llx", &caps);
    if (f != NULL)
        fclose(f);
    l->may_lock = (caps >> 14 & 1) != 0; /* CAP_IPC_LOCK */
}

void kvp_doctor_look(struct kvp_findings *f, const char *root, const struct kvp_limits *limits,
                     const char *features)
{
    struct look l = {.f = f, .root = root, .features = features, .limits = limits};

    memset(f, 0, sizeof(*f));
    (void)each_name(&l, "/sys/class/net", look_at_nic);
    look_at_buffers(&l);
    look_at_rdmas(&l);
    look_at_memlock(&l);
    look_at_huge(&l);
    look_at_dpdk(&l);
    look_at_cpu(&l);
    look_at_gpus(&l);
    decide(&l);
}
