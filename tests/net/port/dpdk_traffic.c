/* SPDX-License-Identifier: Apache-2.0 */
#include "dpdk_traffic.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../../kvwire/digest.h"
#include "../../../net/port/dpdk/kind.h"

extern char **environ;

uint64_t t_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void t_sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000},
              NULL);
}

static uint64_t digest_of(const void *bytes, size_t n, uint64_t number)
{
    struct kvw_digest d;

    if (kvw_digest_begin(&d, KVW_DIGEST_XXH3_64) != KVW_OK)
        abort();
    kvw_digest_update(&d, &number, sizeof(number));
    kvw_digest_update(&d, bytes, n);
    return kvw_digest_value(&d);
}

void t_payload_make(uint8_t *bytes, uint32_t len, uint64_t number)
{
    const uint64_t length = len;
    uint64_t digest, x = number * 0x9e3779b97f4a7c15ull + 1;

    for (uint32_t i = T_PAYLOAD_MIN; i < len; ++i) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(x >> 56);
    }
    digest = digest_of(bytes + T_PAYLOAD_MIN, len - T_PAYLOAD_MIN, number);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, &number, 8);
    memcpy(bytes + 16, &digest, 8);
}

bool t_payload_check(const uint8_t *bytes, uint32_t len, uint64_t *number)
{
    uint64_t length, digest;

    if (len < T_PAYLOAD_MIN)
        return false;
    memcpy(&length, bytes, 8);
    memcpy(number, bytes + 8, 8);
    memcpy(&digest, bytes + 16, 8);
    return length == len &&
           digest == digest_of(bytes + T_PAYLOAD_MIN, len - T_PAYLOAD_MIN, *number);
}

uint32_t t_payload_len(uint64_t n, uint32_t payload_max)
{
    const uint32_t fixed[] = {T_PAYLOAD_MIN,   64,         256, 280, 281, 1408, 4160, 8256,
                              payload_max - 1, payload_max};

    if (n % 2 == 0)
        return fixed[n / 2 % (sizeof(fixed) / sizeof(fixed[0]))];
    return T_PAYLOAD_MIN +
           (uint32_t)(n * 0x9e3779b97f4a7c15ull >> 33) % (payload_max - T_PAYLOAD_MIN + 1);
}

struct kvn_port *t_open(const char *path, bool listener, unsigned ms)
{
    const struct kvn_dpdk_config cfg = {.path = path,
                                        .listener = listener,
                                        .wait_peer = true,
                                        .open_by_ns = t_now_ns() + ms * 1000000ull};
    const struct kvn_config kind = {
        .local = path, .listener = listener, .open_by_ns = cfg.open_by_ns};
    struct kvn_packet_config packet = {0};
    struct kvn_port *port;
    char why[KVN_WHY_BYTES];

    if ((kvn_dpdk_kind_find(path) != NULL ? kvn_dpdk_kind_open(&port, &kind, &packet, why)
                                          : kvn_dpdk_port_open(&port, &cfg, why)) != KVW_OK) {
        fprintf(stderr, "%s\n", why);
        return NULL;
    }
    return port;
}

bool t_greet(struct kvn_port *port, uint64_t number, unsigned ms)
{
    const uint64_t end_ns = t_now_ns() + ms * 1000000ull;
    uint8_t bytes[T_PAYLOAD_MIN];
    struct kvn_rx_packet in[KVN_BURST];
    bool back = false;

    t_payload_make(bytes, sizeof(bytes), number);

    const struct kvn_tx_packet packet = {
        .to = port->default_peer, .head = bytes, .head_bytes = sizeof(bytes)};

    for (uint32_t n = 0; !back || n != 0;) {
        uint64_t got;

        if (t_now_ns() >= end_ns)
            return false;
        if (!back)
            (void)port->ops->tx(port, t_now_ns(), &packet, 1);
        port->ops->wait(port, t_now_ns() + 10000000u, -1);
        n = port->ops->rx(port, t_now_ns(), in, KVN_BURST);
        for (uint32_t i = 0; i < n; ++i)
            back |= t_payload_check(in[i].bytes, in[i].len, &got) && got == number;
    }
    return true;
}

/* Beside the program that asks, as the build puts it. */
static int peer_fd = -1; /* t_peer_hold() */

static void peer_program(char *text, size_t bytes)
{
    const ssize_t n = readlink("/proc/self/exe", text, bytes - 16);

    if (n < 0)
        abort();
    text[n] = '\0';
    strcpy(strrchr(text, '/') + 1, "dpdk_peer");
}

void t_peer_hold(void)
{
    char program[512];

    peer_program(program, sizeof(program));
    if ((peer_fd = open(program, O_RDONLY)) < 0)
        abort();
}

pid_t t_peer_start(const char *path, const char *role, const char *mode)
{
    char program[512], parent[16];
    char *const argv[] = {
        program, (char *)(uintptr_t)path, (char *)(uintptr_t)role, (char *)(uintptr_t)mode, parent,
        NULL};
    pid_t pid;

    /* One that ends with its port open leaks the device by design; the leak checker needn't
     * say so. */
    if (strcmp(mode, "leave") == 0)
        setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    if (peer_fd >= 0)
        snprintf(program, sizeof(program), "/proc/self/fd/%d", peer_fd);
    else
        peer_program(program, sizeof(program));
    snprintf(parent, sizeof(parent), "%d", (int)getpid());
    if (posix_spawn(&pid, program, NULL, NULL, argv, environ) != 0)
        abort();
    return pid;
}

bool t_peer_runs(pid_t pid)
{
    siginfo_t ended = {.si_pid = 0};

    return waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0;
}

int t_peer_end(pid_t pid, int signal)
{
    int status = -1;

    /* One that is stopped goes on first. The other way round, SIGCONT may come when the leak
     * checker of an ending peer has just stopped it to look at it: that stop is lost, and the two
     * wait for each other for ever. */
    if (signal != SIGKILL)
        kill(pid, SIGCONT);
    kill(pid, signal);
    waitpid(pid, &status, 0);
    return status;
}

void t_link_path(char *path)
{
    strcpy(path, P_tmpdir "/kvwire-test-XXXXXX");
    if (mkdtemp(path) == NULL)
        abort();
    strcat(path, "/link");
}

void t_link_remove(const char *path)
{
    char text[KVN_DPDK_PATH_BYTES + 8] = "";
    size_t bytes = strlen(path);

    (void)unlink(path);
    memcpy(text, path, bytes);
    memcpy(text + bytes, ".lock", sizeof(".lock"));
    (void)unlink(text);
    while (bytes > 0 && text[bytes] != '/')
        --bytes;
    text[bytes] = '\0';
    (void)rmdir(text);
}
