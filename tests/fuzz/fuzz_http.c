/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes from a client: each reply is HTTP with a status, the connection ends when the client's
 * side has, and no request stays behind in the queue. The workers are there and never answer. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../engine/serve/http.h"
#include "../engine/serve/serve_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

enum {
    TURNS_MAX = 5000, /* of a millisecond: far more than any input needs */
};

static struct event_base *base;
static struct kve_http *http;
static struct kve_dispatch dispatch;
static struct kve_front front;
static struct kve_metrics metrics;
static struct kve_prompts prompts;
static struct kve_http_config config;
static struct sockaddr_in address = {.sin_family = AF_INET};

static void wake(void *arg)
{
    (void)arg;
}

static void open_server(void)
{
    char path[32], why[KVE_WHY_BYTES] = "";
    const char *url;

    signal(SIGPIPE, SIG_IGN);
    serve_model_write(path);
    if (kve_prompts_open(&prompts, path, why) != KVW_OK)
        abort();
    unlink(path);
    kve_metrics_open(&metrics);
    dispatch.spawn.count = 1; /* no prefill: ready */
    dispatch.spawn.at[0].role = KVE_WORKER_LOCAL;
    dispatch.spawn.at[0].loaded = true;
    dispatch.spawn.at[0].kv_blocks = 100;
    dispatch.spawn.at[0].block_tokens = 16;
    dispatch.spawn.at[0].channel.fd = -1;
    kve_front_open(&front, &(struct kve_front_config){.d = &dispatch, .slots = 1, .queue_max = 8});
    config = (struct kve_http_config){
        .listen = "127.0.0.1:0",
        .body_bytes = 65536,
        .connections = 1000,
        .idle_s = 60,
        .terms = {.model = "m",
                  .vocab = TB_VOCAB,
                  .chat_tokens = 16,
                  .base = {.timeout_ns = 60000000000, .reuse = true}},
        .prompts = &prompts,
        .front = &front,
        .metrics = &metrics,
        .wake = wake,
    };
    base = event_base_new();
    if (base == NULL || kve_http_open(&http, base, &config, why) != KVW_OK)
        abort();
    url = kve_http_url(http);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)atoi(strrchr(url, ':') + 1));
}

/* The fuzzer's alarm may end a connect() that waits: this one doesn't wait in connect(). */
static int dial(void)
{
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    if (fd < 0)
        abort();
    if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 &&
        errno != EINPROGRESS)
        abort();
    for (uint32_t turns = 0; poll(&p, 1, 1) != 1; ++turns)
        if (turns > TURNS_MAX)
            abort();
    return fd;
}

static void turn(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    event_base_loop(base, EVLOOP_NONBLOCK);
    poll(&p, 1, 1);
}

/* All of it, and then this side's end. */
static void say(int fd, const uint8_t *bytes, size_t n)
{
    for (size_t at = 0, turns = 0; at < n;) {
        const ssize_t some = send(fd, bytes + at, n - at, MSG_NOSIGNAL);

        if (some < 0 && errno != EAGAIN)
            return; /* the server has heard enough */
        at += some > 0 ? (size_t)some : 0;
        if (some < 0)
            turn(fd, POLLOUT);
        if (++turns > TURNS_MAX)
            abort();
    }
    shutdown(fd, SHUT_WR);
}

/* What comes until the server ends the connection. */
static void hear(int fd)
{
    char head[16] = "";
    size_t have = 0;

    for (uint32_t turns = 0;; ++turns) {
        char some[4096];
        ssize_t got;

        event_base_loop(base, EVLOOP_NONBLOCK);
        got = recv(fd, some, sizeof(some), 0);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            break;
        for (ssize_t i = 0; i < got && have < sizeof(head) - 1; ++i)
            head[have++] = some[i];
        if (got < 0)
            turn(fd, POLLIN);
        if (turns > TURNS_MAX)
            abort(); /* the client has gone, and the server waits for it */
    }
    if (have == 0)
        return; /* nothing was asked */
    /* What libevent refuses itself, it refuses in the version that was asked for. */
    const char *status = strchr(head, ' ');

    if (status == NULL || strncmp(head, "HTTP/", 5) != 0 || status[1] < '1' || status[1] > '5' ||
        (status[1] < '4' && (strncmp(head, "HTTP/1.", 7) != 0 || status != head + 8)))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    if (http == NULL)
        open_server();
    const int fd = dial();

    say(fd, bytes, n);
    hear(fd);
    close(fd);
    for (uint32_t turns = 0; kve_http_busy(http) || front.queued > 0; ++turns) {
        turn(-1, 0);
        if (turns > TURNS_MAX)
            abort();
    }
    return 0;
}
