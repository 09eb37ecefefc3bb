/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_log.h>

#include "eal.h"

#define LINES      64u
#define LINE_BYTES 200u

struct line {
    uint32_t level; /* RTE_LOG_...: lower is worse */
    char text[LINE_BYTES];
};

/* Lines since the start; the last LINES of them are kept. */
static struct {
    pthread_mutex_t lock;
    uint64_t count;
    bool echo;
    struct line lines[LINES];
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void (*_Atomic hook)(const char *line);

void kvn_dpdk_log_hook(void (*fn)(const char *line))
{
    atomic_store(&hook, fn);
}

/* Keep one line; "EAL: " and the like say nothing to who reads a sentence of ours. */
static void keep_line(uint32_t level, const char *text, size_t bytes)
{
    const char *colon = memchr(text, ':', bytes < 16 ? bytes : 16);

    if (colon != NULL && (size_t)(colon - text) + 2 < bytes && colon[1] == ' ' &&
        memchr(text, '(', (size_t)(colon - text)) == NULL) {
        bytes -= (size_t)(colon + 2 - text);
        text = colon + 2;
    }
    if (bytes == 0)
        return;
    if (bytes >= LINE_BYTES)
        bytes = LINE_BYTES - 1;

    struct line *l = &ring.lines[ring.count++ % LINES];

    l->level = level;
    memcpy(l->text, text, bytes);
    l->text[bytes] = '\0';
}

static void keep(uint32_t level, const char *text, size_t bytes)
{
    pthread_mutex_lock(&ring.lock);
    while (bytes != 0) {
        const char *end = memchr(text, '\n', bytes);
        const size_t n = end != NULL ? (size_t)(end - text) : bytes;

        keep_line(level, text, n);
        text += end != NULL ? n + 1 : n;
        bytes -= end != NULL ? n + 1 : n;
    }
    pthread_mutex_unlock(&ring.lock);
}

static void pass_on(const char *text, size_t bytes)
{
    while (bytes != 0) {
        const ssize_t n = write(STDERR_FILENO, text, bytes);

        if (n <= 0)
            return; /* nobody reads our stderr; there is no one to tell */
        text += n;
        bytes -= (size_t)n;
    }
}

/* rte_log() flushes after each message, so a write is a message and its level is known. */
static ssize_t log_write(void *cookie, const char *text, size_t bytes)
{
    const int level = rte_log_cur_msg_loglevel();

    void (*const fn)(const char *) = atomic_load(&hook);
    char start[LINE_BYTES];

    (void)cookie;
    if (fn != NULL) {
        snprintf(start, sizeof(start), "%.*s", (int)(bytes < LINE_BYTES ? bytes : LINE_BYTES - 1),
                 text);
        fn(start);
    }
    keep(level > 0 ? (uint32_t)level : RTE_LOG_ERR, text, bytes);
    if (ring.echo)
        pass_on(text, bytes);
    return (ssize_t)bytes;
}

static ssize_t stderr_write(void *cookie, const char *text, size_t bytes)
{
    (void)cookie;
    if (bytes >= 5 && memcmp(text, "EAL: ", 5) == 0)
        keep(RTE_LOG_ERR, text, bytes);
    else
        pass_on(text, bytes);
    return (ssize_t)bytes;
}

static FILE *stream(cookie_write_function_t *write_function)
{
    FILE *f = fopencookie(NULL, "w", (cookie_io_functions_t){.write = write_function});

    if (f != NULL)
        setvbuf(f, NULL, _IOLBF, 0);
    return f;
}

bool kvn_dpdk_log_open(void)
{
    FILE *f = stream(log_write);

    ring.echo = getenv("KVWIRE_DPDK_LOG") != NULL;
    return f != NULL && rte_openlog_stream(f) == 0;
}

void kvn_dpdk_log_note(const char *line)
{
    keep(RTE_LOG_INFO, line, strlen(line));
    if (ring.echo) {
        pass_on("kvwire: dpdk: ", 14);
        pass_on(line, strlen(line));
        pass_on("\n", 1);
    }
}

FILE *kvn_dpdk_log_stderr(void)
{
    return stream(stderr_write);
}

uint64_t kvn_dpdk_log_mark(void)
{
    uint64_t count;

    pthread_mutex_lock(&ring.lock);
    count = ring.count;
    pthread_mutex_unlock(&ring.lock);
    return count;
}

/* The first kept line since mark that is at least this bad, with or without a text; or NULL. */
static const struct line *find(uint64_t mark, uint32_t level, const char *with, const char *without)
{
    const uint64_t oldest = ring.count > LINES ? ring.count - LINES : 0;

    for (uint64_t i = mark > oldest ? mark : oldest; i < ring.count; ++i) {
        const struct line *l = &ring.lines[i % LINES];

        if (l->level <= level && (with == NULL || strstr(l->text, with) != NULL) &&
            (without == NULL || strstr(l->text, without) == NULL))
            return l;
    }
    return NULL;
}

bool kvn_dpdk_log_error(uint64_t mark, const char *skip, char *text, size_t bytes)
{
    pthread_mutex_lock(&ring.lock);

    const struct line *l = find(mark, RTE_LOG_ERR, NULL, skip);

    if (l != NULL)
        snprintf(text, bytes, "%s", l->text);
    pthread_mutex_unlock(&ring.lock);
    return l != NULL;
}

bool kvn_dpdk_log_has(uint64_t mark, const char *needle)
{
    bool has;

    pthread_mutex_lock(&ring.lock);
    has = find(mark, RTE_LOG_DEBUG, needle, NULL) != NULL;
    pthread_mutex_unlock(&ring.lock);
    return has;
}
