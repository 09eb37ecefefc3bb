/* SPDX-License-Identifier: Apache-2.0 */
/* host.c - facts about this machine, read from where Linux tells them. */
#include "host.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

void kvp_host_line(const char *path, char *to, size_t bytes)
{
    FILE *f = fopen(path, "r");

    if (f == NULL || fgets(to, (int)bytes, f) == NULL)
        to[0] = '\0';
    to[strcspn(to, "\n")] = '\0';
    if (f != NULL)
        fclose(f);
}

void kvp_host_boot_id(char id[40])
{
    kvp_host_line("/proc/sys/kernel/random/boot_id", id, 40);
}

static void cpu_name(char *to, size_t bytes)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[256];

    snprintf(to, bytes, "unknown");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL)
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(to, bytes, "%s", strchr(line, ':') + 2);
            break;
        }
    if (f != NULL)
        fclose(f);
}

int kvp_host_mtu(const char *address, char *name, size_t name_bytes)
{
    struct ifaddrs *all = NULL;
    struct ifreq ask;
    int mtu = 0;

    name[0] = '\0';
    if (getifaddrs(&all) != 0)
        return 0;
    for (const struct ifaddrs *i = all; i != NULL && mtu == 0; i = i->ifa_next) {
        const int family = i->ifa_addr != NULL ? i->ifa_addr->sa_family : AF_UNSPEC;
        char text[NI_MAXHOST];

        if ((family != AF_INET && family != AF_INET6) ||
            getnameinfo(i->ifa_addr,
                        family == AF_INET ? sizeof(struct sockaddr_in)
                                          : sizeof(struct sockaddr_in6),
                        text, sizeof(text), NULL, 0, NI_NUMERICHOST) != 0 ||
            strcmp(text, address) != 0)
            continue;
        const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        memset(&ask, 0, sizeof(ask));
        snprintf(ask.ifr_name, sizeof(ask.ifr_name), "%.15s", i->ifa_name);
        if (fd >= 0 && ioctl(fd, SIOCGIFMTU, &ask) == 0)
            mtu = ask.ifr_mtu;
        snprintf(name, name_bytes, "%s", ask.ifr_name);
        if (fd >= 0)
            close(fd);
    }
    freeifaddrs(all);
    return mtu;
}

cJSON *kvp_host_json(const char *address)
{
    cJSON *o = cJSON_CreateObject();
    struct utsname u = {0};
    double load[1] = {0};
    char text[128], name[32];
    int mtu;

    (void)uname(&u);
    cJSON_AddStringToObject(o, "name", u.nodename);
    snprintf(text, sizeof(text), "%.30s %.64s", u.sysname, u.release);
    cJSON_AddStringToObject(o, "kernel", text);
    cpu_name(text, sizeof(text));
    cJSON_AddStringToObject(o, "cpu", text);
    cJSON_AddNumberToObject(o, "cpus", (double)sysconf(_SC_NPROCESSORS_ONLN));
    kvp_host_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, sizeof(text));
    cJSON_AddStringToObject(o, "governor", text[0] != '\0' ? text : "unknown");
    if (getloadavg(load, 1) == 1)
        cJSON_AddNumberToObject(o, "load", load[0]);
    kvp_host_boot_id(text);
    cJSON_AddStringToObject(o, "boot_id", text);
    if (address != NULL && (mtu = kvp_host_mtu(address, name, sizeof(name))) > 0) {
        cJSON_AddStringToObject(o, "address", address);
        cJSON_AddStringToObject(o, "interface", name);
        cJSON_AddNumberToObject(o, "mtu", mtu);
    }
    return o;
}
