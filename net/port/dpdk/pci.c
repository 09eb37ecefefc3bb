/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A NIC by its PCI address. What usually isn't right yet is looked at before EAL starts, since EAL
 * starts once and its own words for it are few: the device, its driver, hugepages, and who may
 * know physical addresses.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../packet/wire.h"
#include "eal.h"
#include "kind.h"
#include "nic.h"

/* 512 frames of 9,000 bytes are the protocol's window. */
#define RING        512u
#define MTU_DEFAULT 1500u
#define SYS         "/sys/bus/pci/devices"

/* "0000:00:04.0"; "00:04.0" gets the domain. False: it is none. */
static bool full_address(char full[16], const char *text)
{
    unsigned domain = 0, bus, slot, function;
    int at = -1;

    if (sscanf(text, "%4x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &at) != 4) {
        domain = 0;
        if (sscanf(text, "%2x:%2x.%1x%n", &bus, &slot, &function, &at) != 3)
            return false;
    }
    if (at < 0 || text[at] != '\0' || slot > 31 || function > 7)
        return false;
    snprintf(full, 16, "%04x:%02x:%02x.%x", domain & 0xffffu, bus & 0xffu, slot, function);
    return true;
}

/* The name of the kernel driver that the device is bound to; "" if none. */
static void driver_of(char name[32], const char *address)
{
    char path[96], target[256];
    ssize_t n;

    name[0] = '\0';
    snprintf(path, sizeof(path), SYS "/%s/driver", address);
    if ((n = readlink(path, target, sizeof(target) - 1)) <= 0)
        return;
    target[n] = '\0';
    snprintf(name, 32, "%.31s", strrchr(target, '/') != NULL ? strrchr(target, '/') + 1 : target);
}

/* The sum of the free hugepages of all sizes, in MiB. */
static unsigned free_huge_mib(void)
{
    static const unsigned kib[] = {2048, 1048576};
    unsigned mib = 0;

    for (size_t i = 0; i < sizeof(kib) / sizeof(kib[0]); ++i) {
        char path[96];
        unsigned pages = 0;
        FILE *f;

        snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%ukB/free_hugepages",
                 kib[i]);
        if ((f = fopen(path, "re")) == NULL)
            continue;
        if (fscanf(f, "%u", &pages) == 1)
            mib += pages * (kib[i] / 1024);
        fclose(f);
    }
    return mib;
}

/* Physical addresses in our own page table: without CAP_SYS_ADMIN they read as 0. */
static bool knows_physical_addresses(void)
{
    static volatile char here = 1;
    FILE *f = fopen("/proc/self/pagemap", "re");
    const long at = (long)((uintptr_t)&here / (uintptr_t)sysconf(_SC_PAGESIZE) * 8u);
    uint64_t entry = 0;
    bool known = false;

    if (f == NULL)
        return false;
    if (here && fseek(f, at, SEEK_SET) == 0 && fread(&entry, sizeof(entry), 1, f) == 1)
        known = (entry & ((1ull << 55) - 1)) != 0;
    fclose(f);
    return known;
}

static bool is_uio(const char *driver)
{
    return strcmp(driver, "uio_pci_generic") == 0 || strcmp(driver, "igb_uio") == 0;
}

/* A driver whose NICs DPDK uses beside the kernel, through its verbs. */
static bool is_shared(const char *driver)
{
    return strcmp(driver, "mlx5_core") == 0 || strcmp(driver, "mlx4_core") == 0;
}

static kvw_err check_driver(const char *address, const char *driver, char why[KVN_WHY_BYTES])
{
    if (strcmp(driver, "vfio-pci") == 0 || is_shared(driver))
        return KVW_OK;
    if (!is_uio(driver)) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: pci %s is bound to %s, not to vfio-pci (or uio_pci_generic without an "
                 "IOMMU): modprobe vfio-pci; dpdk-devbind.py --bind=vfio-pci %s",
                 address, driver[0] != '\0' ? driver : "no driver", address);
        return KVW_E_DEVICE;
    }
    if (!knows_physical_addresses()) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: pci %s is bound to %s, which needs physical addresses (IOVA mode PA); this "
                 "user can't see them: run as root, or bind it to vfio-pci behind an IOMMU",
                 address, driver);
        return KVW_E_DEVICE;
    }
    return KVW_OK;
}

static kvw_err check(const char *address, unsigned need_mib, char why[KVN_WHY_BYTES])
{
    char path[96], driver[32];
    unsigned mib;
    kvw_err err;

    snprintf(path, sizeof(path), SYS "/%s", address);
    if (access(path, F_OK) != 0) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: there is no PCI device %s (lspci -D lists them)",
                 address);
        return KVW_E_ADDRESS;
    }
    driver_of(driver, address);
    if ((err = check_driver(address, driver, why)) != KVW_OK)
        return err;
    mib = free_huge_mib();
    if (mib < need_mib) {
        snprintf(why, KVN_WHY_BYTES,
                 "dpdk: pci %s needs %u MiB of hugepages, and %u MiB are free: sysctl "
                 "vm.nr_hugepages=%u",
                 address, need_mib, mib, (need_mib - mib + 1) / 2 + mib / 2);
        return KVW_E_DEVICE;
    }
    return KVW_OK;
}

kvw_err kvn_dpdk_open_pci(struct kvn_port **port, const struct kvn_dpdk_open *o,
                          struct kvn_packet_config *packet, char why[KVN_WHY_BYTES])
{
    static const uint8_t none[6];
    const struct kvn_dpdk_spec *s = o->spec;
    char address[16], allow[16 + 1 + KVN_DPDK_ARGS_BYTES];
    struct kvn_dpdk_nic_config nic = {
        .kind = "pci",
        .device = address,
        .net = s->net,
        .peer = o->peer,
        .body = KVN_DPDK_BODY_DMA,
        .mtu = s->mtu != 0 ? s->mtu : MTU_DEFAULT,
        .set_mtu = true,
        .promiscuous = memcmp(s->net.mac, none, 6) != 0,
        .offloads = true,
        .queues = 1,
        .checksum = s->checksum,
        .ring = s->ring != 0 ? s->ring : RING,
        .wake_fd = -1,
        .open_by_ns = o->open_by_ns,
    };
    kvw_err err;

    if (!full_address(address, s->what)) {
        snprintf(why, KVN_WHY_BYTES, "dpdk: '%.60s' is no PCI address like 0000:00:04.0", s->what);
        return KVW_E_ADDRESS;
    }
    snprintf(allow, sizeof(allow), "%s%s%s", address, s->args[0] != '\0' ? "," : "", s->args);
    /* Both rings' frames, and EAL's own tables. */
    if ((err = check(address, (2 * nic.ring + 512) * (nic.mtu + 1024) / (1u << 20) + 4, why)) !=
            KVW_OK ||
        (err = kvn_dpdk_eal_start(allow, why)) != KVW_OK ||
        (err = kvn_dpdk_nic_attach("pci", "pci", address, s->args, why)) != KVW_OK ||
        (err = kvn_dpdk_nic_open(port, &nic, why)) != KVW_OK)
        return err;
    kvn_dpdk_fit_packet(packet, *port, nic.ring);
    return KVW_OK;
}
