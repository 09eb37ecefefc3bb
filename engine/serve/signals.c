/* SPDX-License-Identifier: Apache-2.0 */
/* signals.c - what ends the program, and the descriptors that it was started without. */
#include "signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include "run.h"
#include "spawn.h"
#include "up.h"
#include "worker.h"

static bool draining; /* a signal is HTTP's first: what runs comes to its end */

static void on_signal(int sig)
{
    if (draining) {
        kve_up_interrupt(sig);
        return;
    }
    kve_run_interrupt(sig);
    kve_worker_stop_all();
}

/* The default action follows as soon as this returns. */
static void on_crash(int sig)
{
    kve_spawn_clean_up();
    raise(sig);
}

/* Every signal that ends a process ends this one in order, or removes at least what it has put into
 * the file system. What was ignored at start (nohup) or is handled by somebody else stays so. */
void kve_signals_handle(bool http)
{
    static const int crashes[] = {SIGSEGV, SIGBUS,  SIGFPE, SIGILL,
                                  SIGABRT, SIGTRAP, SIGSYS, SIGXCPU};
    static const int harmless[] = {SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN,
                                   SIGTTOU, SIGURG,  SIGKILL, SIGWINCH};
    const size_t n = sizeof(crashes) / sizeof(crashes[0]);
    const size_t m = sizeof(harmless) / sizeof(harmless[0]);

    draining = http;
    for (int sig = 1; sig <= SIGRTMAX; ++sig) {
        struct sigaction sa = {.sa_handler = on_signal}, old;
        bool leave = false;

        for (size_t i = 0; i < m; ++i)
            leave |= sig == harmless[i];
        for (size_t i = 0; i < n; ++i)
            if (sig == crashes[i])
                sa = (struct sigaction){.sa_handler = on_crash, .sa_flags = (int)SA_RESETHAND};
        if (!leave && sigaction(sig, NULL, &old) == 0 && old.sa_handler == SIG_DFL)
            sigaction(sig, &sa, NULL);
    }
    signal(SIGPIPE, SIG_IGN); /* writing says EPIPE */
    signal(SIGXFSZ, SIG_IGN); /* writing says EFBIG */
}

/* A standard descriptor that isn't there would be the next one opened: a control channel, and the
 * answer would go into it. In its place comes one that can't be used the way it is meant to, so
 * that what is read or written fails; messages on standard error vanish. */
bool kve_signals_keep_standard(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDWR};

    for (int fd = 0; fd <= STDERR_FILENO; ++fd)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd)
            return false;
    return true;
}
